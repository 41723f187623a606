"""Splits of any dataset into classes to train on and classes to test on, for few-shot learning.

Omniglot is prepared as published: drawings are inverted, so that strokes are bright on black, and
drawings rotated by 90, 180 and 270 degrees are new classes.

Reference: Vinyals et al., Matching Networks for One Shot Learning, NeurIPS 2016 (arXiv 1606.04080),
section 4.1.1.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mhe.harness.datasets.dataset import Dataset, Split
from mhe.harness.errors import BadInput
from mhe.text import lookalike

_TEST_FRACTION = 4  # one class in four is tested on
_LEAST_TESTED = 5
_OMNIGLOT_FRACTION = 5  # at least one of five of Omniglot's characters


@dataclass(frozen=True)
class ClassSplit:
    """Images of the classes to train on and of the classes to test on.

    Attributes:
        train: Images, uint8 `(N, H, W, C)`, and the names of their classes, `(N,)`.
        test: The same for the classes to test on.
        alphabets: The alphabets to test on; empty unless the dataset is Omniglot.
    """

    train: Split
    test: Split
    alphabets: tuple[str, ...] = ()


def split_classes(
    data: Dataset,
    seed: int,
    test_classes: Sequence[str] | None = None,
    test_alphabets: Sequence[str] | None = None,
) -> ClassSplit:
    """Splits the classes of a dataset into those to train on and those to test on.

    The classes to test on are the first of these that apply: the given ones; those of the test set,
    if none of them is in the training set, as in TensorFlow Datasets' `omniglot`; for Omniglot's
    folders, the last alphabets by name, as few as together hold a fifth of the characters; and
    otherwise a random quarter of the classes, but at least 5. All images of a class are used,
    whether they come from the training or the test set. Omniglot's drawings are inverted.

    Args:
        data: The dataset.
        seed: Seed of the random choice.
        test_classes: Names of the classes to test on, or `None`.
        test_alphabets: Names of Omniglot's alphabets to test on, or `None`.

    Returns:
        The images with the names of their classes.

    Raises:
        BadInput: If a name is unknown, both lists are given, or one side has no class.

    Example:

    >>> from mhe.harness.datasets import load
    >>> split = split_classes(load("digits"), seed=0, test_classes=["3", "7"])
    >>> sorted(set(split.test[1].tolist())), len(set(split.train[1].tolist()))
    (['3', '7'], 8)
    """
    names = np.array(data.class_names)
    alphabets = _alphabets(data)
    if test_classes is not None and test_alphabets is not None:
        raise BadInput("--test_classes and --test_alphabets cannot both be given")
    if test_alphabets is not None:
        if alphabets is None:
            raise BadInput(
                "--test_alphabets needs Omniglot, whose classes have alphabets. "
                f"Received: --dataset {data.name}"
            )
        tested = _named("--test_alphabets", test_alphabets, alphabets)
    elif test_classes is not None:
        tested = _named("--test_classes", test_classes, names)
    elif not set(data.train[1].tolist()) & set(data.test[1].tolist()):
        tested = np.isin(np.arange(names.size), data.test[1])
    elif alphabets is not None:
        tested = _last_alphabets(alphabets)
    else:
        count = max(_LEAST_TESTED, round(names.size / _TEST_FRACTION))
        tested = np.zeros(names.size, bool)
        tested[np.random.default_rng(seed).permutation(names.size)[:count]] = True
    for side, chosen in (("train", ~tested), ("test", tested)):
        if not chosen.any():
            raise BadInput(
                f"{data.name} must have classes to train on and others to test on. Received: none "
                f"to {side} on, of {names.size} classes"
            )
    images = np.concatenate([data.train[0], data.test[0]])
    labels = np.concatenate([data.train[1], data.test[1]])
    if alphabets is not None:
        images = bright_strokes(images)
    of_test = tested[labels]
    return ClassSplit(
        (images[~of_test], names[labels[~of_test]]),
        (images[of_test], names[labels[of_test]]),
        () if alphabets is None else tuple(dict.fromkeys(alphabets[tested].tolist())),
    )


def bright_strokes(images: np.ndarray) -> np.ndarray:
    """Inverts drawings that are black on white, and keeps one channel.

    Args:
        images: uint8 `(N, H, W, C)` with equal channels.

    Returns:
        uint8 `(N, H, W, 1)`.

    Example:

    >>> bright_strokes(np.full((1, 2, 2, 3), 255, "uint8")).max()
    np.uint8(0)
    """
    return 255 - images[..., :1]


def with_quarter_turns(images: np.ndarray, classes: np.ndarray) -> Split:
    """Adds every image rotated by 90, 180 and 270 degrees; rotations of a class are new classes.

    Args:
        images: `(N, H, H, C)`.
        classes: The names of their classes, `(N,)`.

    Returns:
        Images `(4N, H, H, C)` and names `(4N,)`, which end in `/rot090`, `/rot180` and `/rot270`
        for rotated images.

    Example:

    >>> images, classes = with_quarter_turns(np.zeros((2, 8, 8, 1), "uint8"), np.array(["a", "b"]))
    >>> images.shape, classes[3:5].tolist()
    ((8, 8, 8, 1), ['b/rot090', 'a/rot180'])
    """
    turned = [images, *(np.rot90(images, turns, axes=(1, 2)) for turns in (1, 2, 3))]
    named = [classes, *(np.char.add(classes, f"/rot{90 * turns:03}") for turns in (1, 2, 3))]
    return np.concatenate(turned), np.concatenate(named)


def with_mirror_images(images: np.ndarray, classes: np.ndarray) -> Split:
    """Adds every image flipped left to right; the flipped images of a class are a new class.

    Args:
        images: `(N, H, W, C)`.
        classes: The names of their classes, `(N,)`.

    Returns:
        Images `(2N, H, W, C)` and names `(2N,)`, which end in `/mirror` for flipped images.

    Example:

    >>> images, classes = with_mirror_images(np.zeros((2, 8, 8, 1), "uint8"), np.array(["a", "b"]))
    >>> images.shape, classes[2:].tolist()
    ((4, 8, 8, 1), ['a/mirror', 'b/mirror'])
    """
    names = [classes, np.char.add(classes, "/mirror")]
    return np.concatenate([images, images[:, :, ::-1]]), np.concatenate(names)


def _alphabets(data: Dataset) -> np.ndarray | None:
    """The alphabet of every class, or `None` if the classes have none."""
    # Latin/character01 of the archives is Latin_0 in TensorFlow Datasets.
    pattern = r"(.+)_\d+" if data.name.split(":")[0] == "omniglot" else r"(.+)/character\d+"
    matches = [match for name in data.class_names if (match := re.fullmatch(pattern, name))]
    if len(matches) < len(data.class_names):
        return None
    return np.array([match[1] for match in matches])


def _named(flag: str, names: Sequence[str], known: np.ndarray) -> np.ndarray:
    for name in names:
        if name not in known:
            some = ", ".join(dict.fromkeys(known.tolist()))
            hint = lookalike(name, known.tolist())
            raise BadInput(f"{flag} must be among: {some[:500]}. Received: {name!r}{hint}")
    return np.isin(known, names)


def _last_alphabets(alphabets: np.ndarray) -> np.ndarray:
    tested = np.zeros(alphabets.size, bool)
    for alphabet in sorted(set(alphabets.tolist()), reverse=True):
        if _OMNIGLOT_FRACTION * tested.sum() >= alphabets.size:
            break
        tested |= alphabets == alphabet
    return tested
