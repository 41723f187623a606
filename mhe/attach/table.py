"""The table of attached regularizers."""

import collections.abc
import dataclasses
from typing import Any

import keras
from keras.layers import Layer

from mhe import keras_internals
from mhe.attach.neurons import ATTENTION, NeuronWeight
from mhe.attach.projections import is_in_config
from mhe.attach.regularizers import Attached
from mhe.regularizers import describe

# Layers whose config holds the configs of the layers inside them.
_CARRIERS = (
    keras.Sequential,
    keras.layers.Wrapper,
    keras.layers.Bidirectional,
    keras.layers.RNN,
    keras.layers.StackedRNNCells,
    *ATTENTION,
)


def aligned(lines: collections.abc.Sequence[tuple[str, ...]]) -> list[str]:
    """Rows of cells as lines of text, in columns.

    Example:

    >>> aligned([("weight", "shape"), ("a", "3x4")])
    ['weight  shape', 'a       3x4']
    """
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return [
        "  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    ]


@dataclasses.dataclass(frozen=True, eq=False)
class Attachment:
    """One row of a table of attached regularizers.

    Attributes:
        weight: The weight, see `mhe.attach.neurons.NeuronWeight`.
        regularizer: The regularizer that `attach` added.
        kept: The regularizer that was there before, or None.
        trainable: Whether the weight is trained; Keras leaves out the loss of a frozen weight.
        saved: Whether the model's config is sure to carry it through saving and cloning.
    """

    weight: NeuronWeight
    regularizer: Any
    kept: Any
    trainable: bool
    saved: bool

    @property
    def layer(self) -> Layer:
        """The layer that owns the weight."""
        return self.weight.layer

    @property
    def path(self) -> str:
        """The name of the weight in the model."""
        return self.weight.path


class Attachments(collections.abc.Sequence):
    """A table of attached regularizers: a sequence of `Attachment` that prints as a table.

    Args:
        rows: The rows.
        skipped: The layers that `attach` had to leave out because they are not built; the last line
            of the table names them.
    """

    def __init__(
        self,
        rows: collections.abc.Iterable[Attachment] = (),
        skipped: collections.abc.Iterable[Layer] = (),
    ) -> None:
        self._rows = tuple(rows)
        self.skipped = tuple(skipped)

    @classmethod
    def of(
        cls,
        model: Layer,
        weights: collections.abc.Iterable[NeuronWeight],
        skipped: collections.abc.Iterable[Layer] = (),
    ) -> "Attachments":
        """The table of those weights of a model that have something attached."""
        trained = {id(variable) for variable in model.trainable_variables}
        rows = (
            Attachment(
                weight,
                weight.variable.regularizer.added,
                weight.variable.regularizer.existing,
                id(weight.variable) in trained,
                _is_saved(weight),
            )
            for weight in weights
            if isinstance(weight.variable.regularizer, Attached)
        )
        return cls(rows, skipped)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: Any) -> Any:
        return Attachments(self._rows[index]) if isinstance(index, slice) else self._rows[index]

    def __str__(self) -> str:
        if not self._rows:
            return "nothing attached"
        lines = [("weight", "shape", "neurons", "regularizer", "kept", "trained", "saved")]
        for row in self._rows:
            weight = row.weight
            lines.append(
                (
                    weight.path,
                    "x".join(map(str, weight.shape)),
                    f"{weight.count} in {weight.dims}-d",
                    describe(row.regularizer),
                    "-" if row.kept is None else describe(row.kept),
                    "yes" if row.trainable else "frozen",
                    "yes" if row.saved else "no",
                )
            )
        texts = aligned(lines)
        if self.skipped:
            texts.append("not built, skipped: " + ", ".join(layer.name for layer in self.skipped))
        return "\n".join(texts)

    __repr__ = __str__


def _is_saved(weight: NeuronWeight) -> bool:
    return is_in_config(weight) and all(
        isinstance(layer, _CARRIERS) or keras_internals.is_saved_as_graph(layer)
        for layer in weight.parents
    )
