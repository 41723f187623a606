"""What every figure shares."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mhe.harness.errors import BadInput
from mhe.harness.files import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def require_matplotlib() -> None:
    """Checks for matplotlib, so that a long run does not fail when it draws its figures at the end.

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
    """Returns an empty figure.

    Args:
        width: Width in inches.
        height: Height in inches.
        title: Title of the figure.

    Example:

    >>> blank(4, 3, "a run").get_suptitle()
    'a run'
    """
    # pyplot would keep every figure open, and needs a display on some machines.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    if title:
        figure.suptitle(title)
    return figure


def label(axes: "Axes", x: str, y: str) -> None:
    """Labels the two axes of a panel and adds a grid.

    Args:
        axes: The panel.
        x: Label of the horizontal axis.
        y: Label of the vertical axis.

    Example:

    >>> label(blank(4, 3).subplots(), "epoch", "accuracy")
    """
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(alpha=0.3)


def colors(count: int) -> np.ndarray:
    """Returns colors that are as distinct as possible.

    Args:
        count: Number of colors.

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
    """Writes a figure as PNG in one step.

    Args:
        figure: The figure.
        path: The file to write.

    Example:

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp(), "blank.png")
    >>> save(blank(4, 3), path)
    >>> path.exists()
    True
    """
    with replacing(Path(path)) as partial:
        figure.savefig(partial, dpi=120, format="png")
