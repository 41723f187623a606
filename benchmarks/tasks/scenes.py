"""A small detection set: drawings of characters scattered on a canvas, and regions cut from it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tasks.boxes import grid, overlaps

SIZE = 84
SIDES = (22, 28, 36)
STEP = 6
REGION = 28

_OBJECTS = 3
# Drawings never overlap; one that finds no free place in this many tries is left out.
_TRIES = 20
# A region shows an object if it overlaps one by at least the first, background if by less than the
# second.
_OBJECT, _BACKGROUND = 0.5, 0.3


@dataclass(frozen=True)
class Scene:
    """A canvas and the objects on it.

    Attributes:
        canvas: uint8 `(SIZE, SIZE, 1)`, strokes bright on black.
        boxes: The boxes of the objects `(M, 4)`.
        classes: Their classes `(M,)`.
    """

    canvas: np.ndarray
    boxes: np.ndarray
    classes: np.ndarray


def draw_scene(
    images: np.ndarray,
    classes: np.ndarray,
    chosen: Sequence[int] | np.ndarray,
    rng: np.random.Generator,
) -> Scene:
    """Scatters drawings of random sizes on a canvas without overlaps.

    Args:
        images: uint8 `(N, H, H, 1)`, strokes bright on black.
        classes: Their classes `(N,)`.
        chosen: Indices of the drawings, in the order in which they are placed.
        rng: The source of sizes and places.

    Example:

    >>> images = np.full((2, 8, 8, 1), 255, "uint8")
    >>> scene = draw_scene(images, np.array([4, 7]), [1, 0], np.random.default_rng(0))
    >>> scene.canvas.shape, scene.classes.tolist()
    ((84, 84, 1), [7, 4])
    """
    canvas = np.zeros((SIZE, SIZE, 1), np.uint8)
    boxes: list[list[int]] = []
    shown = []
    for number in chosen:
        side = int(rng.integers(SIDES[0], SIDES[-1] + 1))
        for _ in range(_TRIES):
            top, left = (int(place) for place in rng.integers(SIZE - side + 1, size=2))
            box = [top, left, top + side, left + side]
            if not boxes or overlaps(np.array([box]), np.array(boxes)).max() == 0:
                whole = np.array([[0, 0, *images.shape[1:3]]])
                (drawing,) = cut(images[number], whole, side)
                canvas[top : top + side, left : left + side] = drawing
                boxes.append(box)
                shown.append(classes[number])
                break
    return Scene(canvas, np.array(boxes).reshape(-1, 4), np.array(shown))


def draw_scenes(
    images: np.ndarray, classes: np.ndarray, count: int, rng: np.random.Generator
) -> list[Scene]:
    """Draws scenes of up to three drawings each.

    Args:
        images: uint8 `(N, H, H, 1)`, strokes bright on black.
        classes: Their classes `(N,)`.
        count: The number of scenes.
        rng: The source of everything random.
    """
    return [
        draw_scene(images, classes, rng.integers(len(images), size=_OBJECTS), rng)
        for _ in range(count)
    ]


def cut(canvas: np.ndarray, boxes: np.ndarray, side: int = REGION) -> np.ndarray:
    """Cuts boxes out of a canvas and scales them to one size by nearest pixels.

    Args:
        canvas: `(H, W, C)`.
        boxes: `(N, 4)`.
        side: Side of a region in pixels.

    Returns:
        An array `(N, side, side, C)`.

    Example:

    >>> cut(np.arange(16).reshape(4, 4, 1), np.array([[1, 1, 3, 3]]), side=2)[0, ..., 0].tolist()
    [[5, 6], [9, 10]]
    """
    middles = (np.arange(side) + 0.5) / side
    rows, columns = (
        (boxes[:, [axis]] + middles * (boxes[:, [axis + 2]] - boxes[:, [axis]])).astype(int)
        for axis in (0, 1)
    )
    return canvas[rows[:, :, None], columns[:, None, :]]


def proposals() -> np.ndarray:
    """Returns the boxes in which objects are searched for, the same on every canvas."""
    return grid(SIZE, SIDES, STEP)


def regions(
    scenes: Sequence[Scene], background: int, rng: np.random.Generator, per_object: int = 2
) -> tuple[np.ndarray, np.ndarray]:
    """Cuts regions to train on: some that show each object, and as many of background.

    Args:
        scenes: The scenes to cut them from.
        background: The class of regions without an object.
        rng: The source of the choice among proposals.
        per_object: Regions per object.

    Returns:
        uint8 `(N, REGION, REGION, 1)` and their classes int64 `(N,)`.
    """
    boxes = proposals()
    images, labels = [], []
    for scene in scenes:
        shared = overlaps(boxes, scene.boxes)
        for place, label in enumerate(scene.classes):
            shown = np.flatnonzero(shared[:, place] >= _OBJECT)
            empty = np.flatnonzero(shared.max(axis=1) < _BACKGROUND)
            for candidates, region_class in ((shown, label), (empty, background)):
                if candidates.size:
                    chosen = rng.choice(candidates, per_object)
                    images.append(cut(scene.canvas, boxes[chosen]))
                    labels += [region_class] * per_object
    return np.concatenate(images), np.array(labels, np.int64)
