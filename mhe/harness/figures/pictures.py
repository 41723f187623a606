"""Figures of prototypes that are images, and of predictions that they explain."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mhe.harness.figures import canvas

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MOST_CLASSES = 20
_GRAY = "0.35"
_SIDE = 0.75  # length of a picture's side, in inches
_PIXELS = 64  # minimum length of a picture's side
# In pictures: margins above and beside a picture, gaps between groups, and room for a text.
_ABOVE, _BESIDE = 0.25, 0.06
_GAP, _WORDS = 0.3, 0.9


@dataclass(frozen=True)
class Explanation:
    """Why an image was assigned to a class: the prototypes of it and of the runner-up.

    Attributes:
        image: uint8 `(H, W, C)`.
        label: The name of its true class.
        classes: The names of the predicted class and of the runner-up.
        probabilities: The probabilities of the two classes.
        prototypes: The prototypes of the two classes, most similar first, uint8
            `(2, per_class, H, W, C)`.
        similarities: The similarity of the image to each of them, `(2, per_class)`.
    """

    image: np.ndarray
    label: str
    classes: tuple[str, str]
    probabilities: tuple[float, float]
    prototypes: np.ndarray
    similarities: np.ndarray


def draw_input_prototypes(
    pictures: dict[str, np.ndarray],
    class_names: Sequence[str],
    path: str | Path,
    title: str = "",
) -> None:
    """Draws prototypes beside images to compare them with, one row per class.

    Args:
        pictures: Images by what they are, such as prototypes and their nearest training images,
            from left to right: uint8 `(classes, per_class, H, W, C)` with 1 or 3 channels. If there
            are more than 20 classes, 20 of them are drawn, evenly spaced.
        class_names: The names of the classes.
        path: The PNG to write.
        title: Title of the figure.

    Raises:
        ValueError: If the pictures are not such arrays of one shape.

    Example:

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp(), "prototypes.png")
    >>> pictures = np.zeros((2, 3, 8, 8, 1), "uint8")
    >>> draw_input_prototypes({"start": pictures, "learnt": pictures}, ["cat", "dog"], path)
    >>> path.exists()
    True
    """
    shapes = {each.shape for each in pictures.values()}
    (shape,) = shapes if len(shapes) == 1 else [()]
    if len(shape) != 5 or shape[0] != len(class_names) or shape[-1] not in (1, 3):
        raise ValueError(
            f"`pictures` must be arrays ({len(class_names)}, per_class, H, W, 1 or 3) of one "
            f"shape. Received: {', '.join(map(str, sorted(shapes)))}"
        )
    classes, per_class = shape[:2]
    shown = list(range(classes))
    if classes > _MOST_CLASSES:
        shown = np.linspace(0, classes - 1, _MOST_CLASSES).round().astype(int).tolist()
        title = f"{title} ({_MOST_CLASSES} of {classes} classes)".lstrip()
    kinds = len(pictures)
    sheet = _Sheet(len(shown), per_class * (kinds + _GAP) - _GAP, shape[2:])
    for row, label in enumerate(shown):
        sheet.write(row, -_GAP, class_names[label], ha="right")
        for place in range(per_class):
            for kind, (name, arrays) in enumerate(pictures.items()):
                column = place * (kinds + _GAP) + kind
                sheet.paste(row, column, arrays[label, place])
                if row == 0:
                    sheet.caption(row, column, name)
    figure = canvas.blank(*sheet.inches, title)
    sheet.draw(figure.subplots())
    canvas.save(figure, path)


def draw_explanations(
    explanations: Sequence[Explanation], path: str | Path, title: str = ""
) -> None:
    """Draws the prototypes that explain predictions, one row per image.

    The image is followed by the prototypes of the predicted class and those of the runner-up, most
    similar first, with their similarities above them. The prototype that decided is framed, in
    green if the prediction is right and in red if it is wrong.

    Args:
        explanations: One or more explanations with the same number of prototypes.
        path: The PNG to write.
        title: Title of the figure.

    Raises:
        ValueError: If there are no explanations.

    Example:

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp(), "explanations.png")
    >>> image, prototypes = np.zeros((8, 8, 3), "uint8"), np.zeros((2, 1, 8, 8, 3), "uint8")
    >>> similar = np.array([[0.9], [0.2]])
    >>> one = Explanation(image, "cat", ("cat", "dog"), (0.8, 0.1), prototypes, similar)
    >>> draw_explanations([one], path)
    >>> path.exists()
    True
    """
    if not explanations:
        raise ValueError("There must be at least one explanation. Received: none")
    per_class = explanations[0].prototypes.shape[1]
    # The image, and for each of two classes its text and prototypes.
    sheet = _Sheet(len(explanations), 1 + 2 * (_WORDS + per_class), explanations[0].image.shape)
    for row, one in enumerate(explanations):
        sheet.paste(row, 0, one.image)
        sheet.caption(row, 0, one.label)
        decided = "tab:green" if one.classes[0] == one.label else "tab:red"
        for side, (verb, color) in enumerate((("taken for", decided), ("runner-up", _GRAY))):
            first = 1 + side * (_WORDS + per_class) + _WORDS
            text = f"{verb}\n{one.classes[side]}\n{100 * one.probabilities[side]:.0f} %"
            sheet.write(row, first - _WORDS / 2, text, ha="center", color=color)
            for place in range(per_class):
                sheet.paste(row, first + place, one.prototypes[side, place])
                number = _number(one.similarities[side, place])
                sheet.caption(row, first + place, number, color=color)
        sheet.frame(row, 1 + _WORDS, decided)
    figure = canvas.blank(*sheet.inches, title)
    sheet.draw(figure.subplots())
    canvas.save(figure, path)


class _Sheet:
    """Pictures in rows and columns as one image; a panel for each would take a minute to lay out.

    Rows and columns count pictures with their margins; columns may be fractions.
    """

    def __init__(self, rows: int, columns: float, shape: tuple[int, ...]):
        height, width, _ = shape
        # Small pictures are enlarged, because margins are whole pixels.
        self._zoom = -(-_PIXELS // max(height, width))
        self._height, self._width = height * self._zoom, width * self._zoom
        self._step = (round(self._height * (1 + _ABOVE)), round(self._width * (1 + _BESIDE)))
        size = (rows * self._step[0], round(columns * self._step[1]), 3)
        self._image = np.full(size, 255, np.uint8)
        self._texts: list[tuple[float, float, str, dict]] = []
        self._frames: list[tuple[float, float, str]] = []
        self.inches = (_SIDE * columns * (1 + _BESIDE) + 1, _SIDE * rows * (1 + _ABOVE) + 0.5)

    def _corner(self, row: int, column: float) -> tuple[int, int]:
        top = row * self._step[0] + self._step[0] - self._height
        return top, round(column * self._step[1])

    def paste(self, row: int, column: float, picture: np.ndarray) -> None:
        top, left = self._corner(row, column)
        large = picture.repeat(self._zoom, axis=0).repeat(self._zoom, axis=1)
        self._image[top : top + self._height, left : left + self._width] = large

    def caption(self, row: int, column: float, text: str, **style: str) -> None:
        top, left = self._corner(row, column)
        style = {"ha": "center", "va": "bottom", **style}
        self._texts.append((left + self._width / 2, top - 0.03 * self._height, text, style))

    def write(self, row: int, column: float, text: str, **style: str) -> None:
        top, left = self._corner(row, column)
        self._texts.append((left, top + self._height / 2, text, {"va": "center", **style}))

    def frame(self, row: int, column: float, color: str) -> None:
        top, left = self._corner(row, column)
        self._frames.append((left - 0.5, top - 0.5, color))

    def draw(self, axes: "Axes") -> None:
        from matplotlib.patches import Rectangle

        axes.set_axis_off()
        axes.imshow(self._image, interpolation="nearest")
        for x, y, text, style in self._texts:
            axes.text(x, y, text, fontsize=8, **style)
        for x, y, color in self._frames:
            size = self._width, self._height
            axes.add_patch(
                Rectangle((x, y), *size, fill=False, edgecolor=color, linewidth=3, clip_on=False)
            )


def _number(value: float) -> str:
    """Formats three digits of cosines, which are at most 1, and of dot products, which are not."""
    digits = 2 - math.floor(math.log10(abs(value))) if value else 2
    return f"{value:.{min(max(digits, 0), 2)}f}"
