"""The options of an energy, and the axes that count the neurons of a weight."""

from mhe.checks import check_choice, check_number, is_integer

DISTANCES = ("euclidean", "angle")
SPACES = ("full", "half")
REDUCTIONS = ("mean", "sum")


def check_options(s: float, distance: str, space: str, reduction: str = "mean") -> None:
    """Raises a `ValueError` unless the options name an energy.

    Example:

    >>> check_options(2, "euclidean", "full")
    >>> check_options(2, "cosine", "full")
    Traceback (most recent call last):
    ValueError: `distance` must be "euclidean" or "angle". Received: distance='cosine'
    """
    check_number("s", s, least=0)
    check_choice("distance", distance, DISTANCES)
    check_choice("space", space, SPACES)
    check_choice("reduction", reduction, REDUCTIONS)


def check_axis(axis: int | tuple[int, ...]) -> int | tuple[int, ...]:
    """Returns `axis` as an int or a tuple of ints, or raises a `ValueError`.

    Example:

    >>> check_axis(-1), check_axis([0, 1])
    (-1, (0, 1))
    """
    if isinstance(axis, tuple | list):
        if axis and all(map(is_integer, axis)):
            return tuple(int(a) for a in axis)
    elif is_integer(axis):
        return int(axis)
    raise ValueError(f"`axis` must be an int or a tuple of ints. Received: axis={axis!r}")


def neuron_axes(axis: int | tuple[int, ...], rank: int) -> tuple[int, ...]:
    """The sorted non-negative axes that count the neurons of a weight with `rank` axes.

    Example:

    >>> neuron_axes(-1, rank=4), neuron_axes((-1, 0), rank=4)
    ((3,), (0, 3))
    """
    axis = check_axis(axis)
    given = (axis,) if isinstance(axis, int) else axis
    if rank == 0:
        raise ValueError("A weight must have axes, one of them for its neurons. Received: a scalar")
    if any(not -rank <= a < rank for a in given):
        raise ValueError(
            f"`axis` is out of range for a weight of {rank} axes, which allows {-rank} to "
            f"{rank - 1}. Received: axis={axis!r}"
        )
    axes = tuple(sorted(a % rank for a in given))
    if len(set(axes)) != len(axes):
        raise ValueError(f"`axis` names one axis twice. Received: axis={axis!r}")
    return axes
