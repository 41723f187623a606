"""Episodes of image indices, drawn from labels."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from mhe.checks import check_count, read_class_names

_NAMED = 3  # An error names this many classes and counts the others.


class Episodes:
    """Episodes of image indices, each a function of the seed and its number alone.

    Iteration never ends: `zip` it with a `range`, or use `itertools.islice`. `episodes[i]` is
    episode i, the same on every backend and in every process, so a training can be resumed at any
    episode. Within an episode, classes and the images of a class are drawn without replacement:
    support and query never share an image.

    Args:
        labels: Class of each image `(N,)`, integers or names.
        ways: Classes per episode, at least 2.
        shots: Support images per class.
        queries: Query images per class.
        seed: Non-negative integer.
        skip_small: Whether to skip classes with fewer than `shots + queries` images; otherwise
            they are an error.

    Attributes:
        classes: Sorted labels of the classes that episodes are drawn from.

    Raises:
        ValueError: If an argument is out of range, a class has too few images, or there are fewer
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
        labels = read_class_names("labels", labels)
        classes, place, counts = np.unique(labels, return_inverse=True, return_counts=True)
        small = counts < shots + queries
        if small.any() and not skip_small:
            raise ValueError(
                f"Every class must have {shots} + {queries} images, since an episode takes "
                f"shots={shots} and queries={queries} from it. "
                f"Received: {describe_classes(classes[small], counts[small])}"
            )
        self.classes = classes[~small]
        if ways > len(self.classes):
            named = ", ".join(map(str, self.classes[:_NAMED])) or "none"
            more = ", ..." if len(self.classes) > _NAMED else ""
            skipped = describe_classes(classes[small], counts[small])
            skipped = f", and too few images of {skipped}" if skipped else ""
            raise ValueError(
                "`ways` must be at most the number of classes to draw from. Received: "
                f"ways={ways}, {len(self.classes)} classes ({named}{more}){skipped}"
            )
        self.ways, self.shots, self.queries, self.seed = ways, shots, queries, seed
        members = np.split(np.argsort(place, kind="stable"), np.cumsum(counts)[:-1])
        self._members = [each for each, skip in zip(members, small, strict=True) if not skip]

    def __getitem__(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """The indices of support `(ways, shots)` and query `(ways, queries)` of an episode."""
        rng = np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=(int(number),)))
        chosen = rng.choice(len(self._members), self.ways, replace=False)
        count = self.shots + self.queries
        images = np.stack(
            [rng.choice(self._members[each], count, replace=False) for each in chosen]
        )
        return images[:, : self.shots], images[:, self.shots :]

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """All episodes from number 0 on, without end."""
        number = 0
        while True:
            yield self[number]
            number += 1


def describe_classes(classes: np.ndarray, counts: np.ndarray) -> str:
    """Names a few classes, each with its number of images, and counts the others."""
    more = f" and {len(classes) - _NAMED} more" if len(classes) > _NAMED else ""
    named = zip(classes[:_NAMED], counts, strict=False)
    return ", ".join(f"class {label} with {count}" for label, count in named) + more
