"""What every figure begins and ends with."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mhe.harness.errors import BadInput
from mhe.harness.files import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def require_matplotlib() -> None:
    """Fails now rather than at the end of a long run, when the figures are due.

    Raises:
        BadInput: If matplotlib is not installed.

    Example:

    >>> require_matplotlib()
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise BadInput(
            'The figures need matplotlib: pip install ".[train]" from the checkout'
        ) from error


def blank(width: float, height: float, title: str = "") -> "Figure":
    """A figure with nothing on it yet.

    Args:
        width: In inches.
        height: In inches.
        title: A title above everything, or none.

    Returns:
        The figure.

    Example:

    >>> blank(4, 3, "a run").get_suptitle()
    'a run'
    """
    # Not pyplot, which keeps every figure open and wants a display on some machines.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    if title:
        figure.suptitle(title)
    return figure


def label(axes: "Axes", x: str, y: str) -> None:
    """Names the two axes of a panel and gives it a grid.

    Args:
        axes: The panel.
        x: What the horizontal axis shows.
        y: What the vertical axis shows.

    Example:

    >>> label(blank(4, 3).subplots(), "epoch", "accuracy")
    """
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(alpha=0.3)


def colors(count: int) -> np.ndarray:
    """A color for each class, as different as that many can be.

    Args:
        count: The number of classes.

    Returns:
        Red, green, blue and opacity from 0 to 1, `(count, 4)`.

    Example:

    >>> colors(3).shape
    (3, 4)
    """
    from matplotlib import colormaps

    if count <= 10:
        return colormaps["tab10"](np.arange(count))
    if count <= 20:
        return colormaps["tab20"](np.arange(count))
    return colormaps["hsv"](np.arange(count) / count)


def save(figure: "Figure", path: str | Path) -> None:
    """Writes a figure as PNG, in one step.

    Args:
        figure: The figure.
        path: The PNG to write.

    Example:

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp(), "blank.png")
    >>> save(blank(4, 3), path)
    >>> path.exists()
    True
    """
    with replacing(Path(path)) as partial:
        figure.savefig(partial, dpi=120, format="png")
