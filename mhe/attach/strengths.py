"""A strength for each layer, and one for all: what `suggest_strength` returns."""

import collections.abc
import dataclasses
import math
from typing import Any

from mhe.attach.neurons import NeuronWeight
from mhe.attach.regularizers import along
from mhe.attach.table import aligned
from mhe.regularizers import describe
from mhe.regularizers.base import Weighted


@dataclasses.dataclass(frozen=True, eq=False)
class LayerStrength:
    """One row of a table of strengths.

    Attributes:
        weight: The weight, see `mhe.attach.neurons.NeuronWeight`.
        loss_gradient: The norm of the loss's gradient with respect to the weight.
        gradient: The norm of the regularizer's gradient, at a strength of 1.
        strength: The strength at which the second is the share of the first that was asked for;
            None if the regularizer has no gradient there.
    """

    weight: NeuronWeight
    loss_gradient: float
    gradient: float
    strength: float | None

    @property
    def path(self) -> str:
        """The name of the weight in the model."""
        return self.weight.path


class Strengths(collections.abc.Mapping):
    """A table of strengths: a mapping from weights' paths to strengths that prints as a table.

    `mhe.attach` takes it in place of a regularizer, and gives each weight its own strength;
    `regularizer` has the one for all.

    Args:
        regularizer: The regularizer that they are for, of any strength.
        share: What the regularizer's gradient is to be of the loss's.
        rows: The rows.

    Attributes:
        share: As given.
        rows: As given, a tuple.
        strength: The one strength for all: that at which the regularizer's gradient over all
            weights together is `share` of the loss's.
        regularizer: The regularizer with that strength.
    """

    def __init__(
        self,
        regularizer: Weighted,
        share: float,
        rows: collections.abc.Iterable[LayerStrength],
    ) -> None:
        self.share = share
        self.rows = tuple(rows)
        loss_gradient = math.hypot(*(row.loss_gradient for row in self.rows))
        self.strength = share * loss_gradient / math.hypot(*(row.gradient for row in self.rows))
        self.regularizer = with_strength(regularizer, self.strength)
        self._strengths = {row.path: row.strength for row in self.rows if row.strength is not None}

    def __getitem__(self, path: str) -> float:
        return self._strengths[path]

    def __iter__(self) -> collections.abc.Iterator[str]:
        return iter(self._strengths)

    def __len__(self) -> int:
        return len(self._strengths)

    def regularizer_of(self, weight: NeuronWeight) -> Weighted | None:
        """The regularizer of a weight, by its path, with its own strength and axes, or None."""
        strength = self._strengths.get(weight.path)
        if strength is None:
            return None
        return with_strength(along(self.regularizer, weight.axis), strength)

    def __str__(self) -> str:
        lines: list[tuple[str, ...]] = [("weight", "loss's gradient", "regularizer's", "strength")]
        for row in self.rows:
            strength = "-" if row.strength is None else f"{row.strength:.3g}"
            lines.append((row.path, f"{row.loss_gradient:.3g}", f"{row.gradient:.3g}", strength))
        norms = [
            math.hypot(*(getattr(row, name) for row in self.rows))
            for name in ("loss_gradient", "gradient")
        ]
        lines.append(("one for all", *(f"{each:.3g}" for each in (*norms, self.strength))))
        title = f"{describe(with_strength(self.regularizer, 1.0))}, share {self.share:g}"
        return "\n".join([title, *aligned(lines)])

    __repr__ = __str__


def with_strength(regularizer: Weighted, strength: float) -> Any:
    """A copy of a regularizer with another strength.

    Example:

    >>> import mhe
    >>> with_strength(mhe.MHE(1.0, s=0), 0.5)
    MHE(0.5, s=0, euclidean, half)
    """
    return type(regularizer).from_config({**regularizer.get_config(), "strength": strength})
