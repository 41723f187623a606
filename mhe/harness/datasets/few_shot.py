"""Classes to train on and others to test on, out of any dataset; Omniglot as few-shot work has it.

Omniglot is prepared as published: drawings are inverted, so that strokes are bright on black, and
a drawing turned by a quarter, a half or three quarters is of another class than the drawing itself.

Reference: Vinyals et al., Matching Networks for One Shot Learning, NeurIPS 2016 (arXiv 1606.04080),
section 4.1.1.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mhe.harness.datasets.dataset import Dataset, Split
from mhe.harness.errors import BadInput

_TEST_SHARE = 4  # one of so many classes is tested on
_LEAST_TESTED = 5
_DRAWN_SHARE = 5  # of Omniglot's characters, at least one of so many


@dataclass(frozen=True)
class ClassSplit:
    """Images of classes to train on, and images of others to test on.

    Attributes:
        train: Images uint8 `(N, H, W, C)` and the names of their classes `(N,)`.
        test: The same for the classes that are tested on.
        alphabets: The alphabets that are tested on; empty unless the dataset is Omniglot.
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
    """Part the classes of a dataset into those to train on and those to test on.

    What is tested on is, in this order: what is asked for by name; the classes of the test set, if
    none of them is in the training set, as with TensorFlow Datasets' `omniglot`; of Omniglot's
    folders, the fewest of the last alphabets by name that hold a fifth of the characters; of other
    datasets, a quarter of the classes, but at least 5, drawn by the seed. All images of a class
    count, be they of the training or of the test set. Omniglot's drawings are inverted.

    Args:
        data: The dataset.
        seed: What decides which classes are drawn.
        test_classes: Names of classes, or `None`.
        test_alphabets: Names of Omniglot's alphabets, or `None`.

    Returns:
        The images with the names of their classes.

    Raises:
        BadInput: If a name is unknown, both lists are given, or no class is left on one side.

    Example:

    >>> from mhe.harness.datasets import load
    >>> split = split_classes(load("digits"), seed=0, test_classes=["3", "7"])
    >>> sorted(set(split.test[1].tolist())), len(set(split.train[1].tolist()))
    (['3', '7'], 8)
    """
    names = np.array(data.class_names)
    written = _alphabets(data)
    if test_classes is not None and test_alphabets is not None:
        raise BadInput("--test_classes and --test_alphabets cannot both be given")
    if test_alphabets is not None:
        if written is None:
            raise BadInput(
                "--test_alphabets needs Omniglot, whose classes have alphabets. "
                f"Received: --dataset {data.name}"
            )
        tested = _named("--test_alphabets", test_alphabets, written)
    elif test_classes is not None:
        tested = _named("--test_classes", test_classes, names)
    elif not set(data.train[1].tolist()) & set(data.test[1].tolist()):
        tested = np.isin(np.arange(names.size), data.test[1])
    elif written is not None:
        tested = _last_alphabets(written)
    else:
        count = max(_LEAST_TESTED, round(names.size / _TEST_SHARE))
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
    if written is not None:
        images = bright_strokes(images)
    of_test = tested[labels]
    return ClassSplit(
        (images[~of_test], names[labels[~of_test]]),
        (images[of_test], names[labels[of_test]]),
        () if written is None else tuple(dict.fromkeys(written[tested].tolist())),
    )


def bright_strokes(images: np.ndarray) -> np.ndarray:
    """Invert drawings that are black on white, and keep one channel.

    Args:
        images: uint8 `(N, H, W, C)`, the channels being equal.

    Returns:
        uint8 `(N, H, W, 1)`.

    Example:

    >>> bright_strokes(np.full((1, 2, 2, 3), 255, "uint8")).max()
    np.uint8(0)
    """
    return 255 - images[..., :1]


def with_quarter_turns(images: np.ndarray, classes: np.ndarray) -> Split:
    """Add every image turned by 90, 180 and 270 degrees, each turn of a class being a new class.

    Args:
        images: `(N, H, H, C)`.
        classes: The names of their classes `(N,)`.

    Returns:
        Images `(4N, H, H, C)` and names `(4N,)`: those of turned classes end in `/rot090`,
        `/rot180` and `/rot270`.

    Example:

    >>> images, classes = with_quarter_turns(np.zeros((2, 8, 8, 1), "uint8"), np.array(["a", "b"]))
    >>> images.shape, classes[3:5].tolist()
    ((8, 8, 8, 1), ['b/rot090', 'a/rot180'])
    """
    turned = [images, *(np.rot90(images, turns, axes=(1, 2)) for turns in (1, 2, 3))]
    named = [classes, *(np.char.add(classes, f"/rot{90 * turns:03}") for turns in (1, 2, 3))]
    return np.concatenate(turned), np.concatenate(named)


def with_mirror_images(images: np.ndarray, classes: np.ndarray) -> Split:
    """Add every image mirrored left to right, the mirror image of a class being a new class.

    Args:
        images: `(N, H, W, C)`.
        classes: The names of their classes `(N,)`.

    Returns:
        Images `(2N, H, W, C)` and names `(2N,)`: those of mirrored classes end in `/mirror`.

    Example:

    >>> images, classes = with_mirror_images(np.zeros((2, 8, 8, 1), "uint8"), np.array(["a", "b"]))
    >>> images.shape, classes[2:].tolist()
    ((4, 8, 8, 1), ['a/mirror', 'b/mirror'])
    """
    return np.concatenate([images, images[:, :, ::-1]]), np.concatenate(
        [classes, np.char.add(classes, "/mirror")]
    )


def _alphabets(data: Dataset) -> np.ndarray | None:
    """The alphabet of every class; `None` where the classes have none."""
    # TensorFlow Datasets writes Latin_0 for what is Latin/character01 in the archives.
    pattern = r"(.+)_\d+" if data.name.split(":")[0] == "omniglot" else r"(.+)/character\d+"
    found = [re.fullmatch(pattern, name) for name in data.class_names]
    return np.array([each[1] for each in found]) if all(found) else None


def _named(flag: str, asked: Sequence[str], known: np.ndarray) -> np.ndarray:
    for name in asked:
        if name not in known:
            some = ", ".join(dict.fromkeys(known.tolist()))
            raise BadInput(f"{flag} must be of: {some[:500]}. Received: {name!r}")
    return np.isin(known, asked)


def _last_alphabets(alphabets: np.ndarray) -> np.ndarray:
    tested = np.zeros(alphabets.size, bool)
    for alphabet in sorted(set(alphabets.tolist()), reverse=True):
        if _DRAWN_SHARE * tested.sum() >= alphabets.size:
            break
        tested |= alphabets == alphabet
    return tested
