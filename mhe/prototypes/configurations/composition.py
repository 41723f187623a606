"""Placements made of several configurations in orthogonal subspaces."""

from typing import NamedTuple

import numpy as np

from mhe.prototypes.configurations.known import Configuration, catalogue


class Composition(NamedTuple):
    """Configurations in orthogonal subspaces; axes and their opposites fill the other dimensions.

    Attributes:
        parts: The configurations.
        cosine: Their largest cosine; those between two parts are 0.
    """

    parts: tuple[Configuration, ...]
    cosine: float

    def rows(self, classes: int, dims: int) -> np.ndarray:
        """The first points, part by part.

        Args:
            classes: Number of points.
            dims: Dimensions of their space.

        Returns:
            `(classes, dims)` float32, unit rows.
        """
        rows = np.zeros((classes, dims), "float32")
        above = left = 0
        for part in self.parts:
            count = min(part.classes, classes - above)
            rows[above : above + count, left : left + part.dims] = part.rows(count)
            above, left = above + count, left + part.dims
        which = np.arange(classes - above)
        rows[above + which, left + which // 2] = 1 - 2 * (which % 2)
        return rows

    def __str__(self) -> str:
        return " + ".join(map(str, self.parts))


def compose(classes: int, dims: int) -> Composition | None:
    """The composition of known configurations that best separates this many points.

    Points in orthogonal subspaces have a cosine of 0. So the numbers of points add up as the
    dimensions do, and choosing the parts is a knapsack problem.

    Args:
        classes: Number of points, more than 2·dims.
        dims: Maximum number of dimensions.

    Returns:
        The composition, or None if no known one has so many points.

    Example:

    >>> found = compose(156, 44)
    >>> str(found), round(1 / found.cosine)
    ('Higman-Sims graph, derived once + Higman-Sims graph, derived once', 12)
    """
    most = [2 * each for each in range(dims + 1)]
    parts: list[tuple[Configuration, ...]] = [()] * (dims + 1)
    for each in catalogue():
        for room in range(each.dims, dims + 1):
            total = most[room - each.dims] + each.classes
            if total > most[room]:
                most[room] = total
                parts[room] = (*parts[room - each.dims], each)
        if most[dims] >= classes:
            return Composition(parts[dims], each.cosine)
    return None
