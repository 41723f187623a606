"""Episodes of image indices, drawn from labels."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from mhe.checks import check_count

_NAMED = 3  # classes an error names before it only counts


class Episodes:
    """Episodes of image indices, each a function of the seed and its number alone.

    Iterating never ends: `zip` it with a `range`, or take `itertools.islice`. `episodes[i]` is
    episode i, so what is trained on can be drawn again from any place, on every backend and in
    every process. Within an episode, classes are drawn without replacement and so are the images
    of a class: support and query never share one.

    Args:
        labels: The class of every image `(N,)`, integers or names.
        ways: Classes in an episode, at least 2.
        shots: Support images of a class.
        queries: Query images of a class.
        seed: Non-negative integer; with the number of the episode it decides everything.
        skip_small: Whether classes of fewer than `shots + queries` images are left out; otherwise
            they are an error.

    Attributes:
        classes: The labels of the classes that episodes are drawn from, in order.

    Raises:
        ValueError: If a number is out of range, a class has too few images, or there are fewer
            classes than ways.

    Example:

    >>> import numpy as np
    >>> episodes = Episodes(np.repeat(["a", "b", "c"], 4), ways=2, shots=1, queries=3)
    >>> support, query = episodes[0]
    >>> support.shape, query.shape
    ((2, 1), (2, 3))
    >>> all((one == other).all() for one, other in zip(next(iter(episodes)), episodes[0]))
    True

    Reference:
        Vinyals et al., Matching Networks for One Shot Learning, NeurIPS 2016
        ([arXiv:1606.04080](https://arxiv.org/abs/1606.04080)); Snell et al., algorithm 1.
    """

    def __init__(
        self,
        labels: Any,
        ways: int = 20,
        shots: int = 5,
        queries: int = 15,
        seed: int = 0,
        skip_small: bool = False,
    ) -> None:
        for name, value, least in (
            ("ways", ways, 2),
            ("shots", shots, 1),
            ("queries", queries, 1),
            ("seed", seed, 0),
        ):
            check_count(name, value, least)
        labels = np.asarray(labels)
        if labels.ndim != 1 or labels.dtype.kind not in "iuU":
            raise ValueError(
                "`labels` must be integers or names (N,). "
                f"Received: shape {labels.shape}, dtype {labels.dtype}"
            )
        classes, place, counts = np.unique(labels, return_inverse=True, return_counts=True)
        small = counts < shots + queries
        if small.any() and not skip_small:
            raise ValueError(
                f"Every class must have {shots} + {queries} images, as an episode takes "
                f"shots={shots} and queries={queries} of it. "
                f"Received: {_few(classes, counts, small)}"
            )
        if ways > len(classes) - small.sum():
            skipped = (
                f", and too few images of {_few(classes, counts, small)}" if small.any() else ""
            )
            kept = ", ".join(map(str, classes[~small][:_NAMED])) or "none"
            more = ", ..." if len(classes) - small.sum() > _NAMED else ""
            raise ValueError(
                "`ways` must be at most the number of classes to draw from. Received: "
                f"ways={ways}, {len(classes) - small.sum()} classes ({kept}{more}){skipped}"
            )
        self.classes = classes[~small]
        self.ways, self.shots, self.queries, self.seed = ways, shots, queries, seed
        members = np.split(np.argsort(place, kind="stable"), np.cumsum(counts)[:-1])
        self._members = [each for each, few in zip(members, small, strict=True) if not few]

    def __getitem__(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Episode `number`: the indices of its support `(ways, shots)`, query `(ways, queries)`."""
        rng = np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=(int(number),)))
        chosen = rng.choice(len(self._members), self.ways, replace=False)
        taken = self.shots + self.queries
        images = np.stack(
            [rng.choice(self._members[each], taken, replace=False) for each in chosen]
        )
        return images[:, : self.shots], images[:, self.shots :]

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """All episodes from the first, without end."""
        number = 0
        while True:
            yield self[number]
            number += 1


def _few(classes: np.ndarray, counts: np.ndarray, small: np.ndarray) -> str:
    """Names the classes that have too few images."""
    found = [f"class {classes[i]} with {counts[i]}" for i in np.flatnonzero(small)]
    more = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
    return ", ".join(found[:_NAMED]) + more
