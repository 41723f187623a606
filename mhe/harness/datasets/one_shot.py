"""Omniglot's published one-shot runs: a folder of tasks with one support image per class.

    run01/training/class01.png ...      the support, one image per class
    run01/test/item01.png ...           the images to classify
    run01/class_labels.txt              a line per item with the support image of its class:
                                        run01/test/item01.png run01/training/class05.png

up to run20, in a folder or a zip, optionally within another folder (`all_runs/`).

Reference: Lake et al., Human-level concept learning through probabilistic program induction,
Science 350, 2015.
"""

import os
import re
from dataclasses import dataclass

import numpy as np

from mhe.harness.datasets.few_shot import bright_strokes
from mhe.harness.datasets.images import decode, is_image
from mhe.harness.datasets.tree import Tree
from mhe.harness.errors import BadInput
from mhe.text import lookalike


@dataclass(frozen=True)
class OneShotRun:
    """One task: which support image is of the same class as an item?

    Attributes:
        name: The name of its folder.
        support: uint8 `(ways, H, W, 1)`, with bright strokes on black.
        items: The images to classify, uint8 `(N, H, W, 1)`.
        answers: The index of each item's class in `support`, `(N,)`.
    """

    name: str
    support: np.ndarray
    items: np.ndarray
    answers: np.ndarray


def load_one_shot_runs(path: str | os.PathLike, size: int | None = None) -> list[OneShotRun]:
    """Loads the one-shot runs of a folder or a zip.

    Args:
        path: The folder or zip with `run01/`, `run02/` and so on.
        size: Height and width to bring the images to; `None` leaves them as they are.

    Returns:
        The runs in the order of their names.

    Raises:
        BadInput: If there are no runs, a line of `class_labels.txt` does not name an existing item
            and support image, or an image cannot be read.
    """
    with Tree(path) as tree:
        lists = [
            name for name in tree.names if re.fullmatch(r"(.*/)?run\d+/class_labels\.txt", name)
        ]
        if not lists:
            raise BadInput(
                f"--one_shot_runs {path} must hold run01/training/, run01/test/ and "
                "run01/class_labels.txt, and so on. Received: no run01/class_labels.txt"
            )
        return [_run(tree, name, size) for name in lists]


def _run(tree: Tree, listed: str, size: int | None) -> OneShotRun:
    folder = listed.removesuffix("class_labels.txt")
    # Paths in the lines are relative to the folder that contains the run's folder.
    above = folder.removesuffix("/").rpartition("/")[0]
    above = f"{above}/" if above else ""
    training = re.compile(rf"{re.escape(folder)}training/[^/]+")
    support = [name for name in tree.names if training.fullmatch(name) and is_image(name)]
    known = set(tree.names)
    items, answers = [], []
    for number, line in enumerate(tree.text(listed).splitlines(), 1):
        if not line.strip():
            continue
        where = f"{tree.name}: {listed}, line {number}"
        pair = [above + name for name in line.split()]
        if len(pair) != 2:
            raise BadInput(
                f"{where} must name an item and its support image, such as "
                f"run01/test/item01.png run01/training/class05.png. Received: {line}"
            )
        for name in pair:
            if name not in known:
                raise BadInput(
                    f"{where} names an image that is missing. Received: {name}"
                    + lookalike(name, known)
                )
        if pair[0] in items:
            raise BadInput(f"{where} names an item for the second time. Received: {pair[0]}")
        if pair[1] not in support:
            raise BadInput(f"{where} must name an image in {folder}training/. Received: {pair[1]}")
        items.append(pair[0])
        answers.append(support.index(pair[1]))
    if not items:
        raise BadInput(f"{tree.name}: {listed} lists no items")
    images = bright_strokes(decode(tree.name, support + items, tree.read, size))
    return OneShotRun(
        folder.rstrip("/").rpartition("/")[2],
        images[: len(support)],
        images[len(support) :],
        np.array(answers),
    )
