"""How strong a regularizer has to be for its gradient to be a given share of the loss's."""

import contextlib
import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from mhe import keras_internals
from mhe.attach.neurons import NeuronWeight
from mhe.attach.regularizers import along
from mhe.attach.selection import select
from mhe.attach.strengths import LayerStrength, Strengths, with_strength
from mhe.checks import check_count, check_number
from mhe.gradients import gradients
from mhe.regularizers import describe
from mhe.regularizers.base import Weighted
from mhe.types import Tensor

# How much smaller a scaled loss is made where its gradient overflows float16.
_SMALLER = 16.0


def suggest_strength(
    model: keras.Model,
    regularizer: Any,
    x: Any,
    y: Any = None,
    share: float = 0.1,
    layers: Any = None,
    batch_size: int = 32,
    batches: int = 4,
) -> Strengths:
    """Suggests how strong a regularizer should be, from its gradient and the loss's.

    For each weight with neurons it finds the strength at which

        ‖strength · ∇R‖ = share · ‖∇L‖

    where R is the regularizer at a strength of 1, L the compiled loss of a batch with whatever
    layers add to it, without regularizers of weights, and ‖∇L‖ the mean over a few batches; and
    the one strength at which this holds for the gradients of all these weights together. Norms are
    Frobenius norms. That tells how hard the regularizer pulls now, in this state of the model.

    The model is not changed: not its weights, optimizer or metrics, nor the state of its batch
    norms and random seeds.

    Args:
        model: A built and compiled model. Its loss is what `compute_loss` says.
        regularizer: A regularizer of this package with a strength, which is ignored.
        x: Inputs, as for `fit`: an array, a list or dictionary of arrays; or, without `y`, an
            iterable of batches `(x, y)` or `(x, y, sample_weight)`, such as a `tf.data.Dataset`.
        y: Targets, as for `fit`.
        share: Finite number > 0.
        layers: Which layers, as in `mhe.attach`; None takes all.
        batch_size: Samples per batch, drawn from the arrays by a fixed seed.
        batches: Number of batches, or fewer if there are no more.

    Returns:
        A table of strengths; `print` it. `mhe.attach(model, strengths)` gives each weight its own,
        `mhe.attach(model, strengths.regularizer)` all the same.

    Raises:
        ValueError: If the model is not built or not compiled, the regularizer has no strength,
            `share` is not a finite number > 0, no layer matches or is trained, there is no sample,
            a gradient is not finite, or that of the loss or of the regularizer is zero.

    Example:

    >>> import keras, mhe
    >>> import numpy as np
    >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4), keras.layers.Dense(2)])
    >>> model.compile("sgd", "mse")
    >>> x, y = np.random.default_rng(0).normal(size=(2, 64, 8)).astype("float32")
    >>> strengths = mhe.suggest_strength(model, mhe.MHE(s=0), x, y[:, :2], share=0.1)
    >>> len(strengths), len(mhe.attach(model, strengths))
    (2, 2)
    """
    check_number("share", share, above=0)
    check_count("batch_size", batch_size, 1)
    check_count("batches", batches, 1)
    if not isinstance(model, keras.Model) or not getattr(model, "compiled", False):
        name = getattr(model, "name", model)
        raise ValueError(
            f"`model` must be compiled, so that it has a loss. Received: model={name!r}"
        )
    if not isinstance(regularizer, Weighted):
        raise ValueError(
            "`regularizer` must be one of this package with a strength, such as `mhe.MHE()`. "
            f"Received: regularizer={describe(regularizer)}"
        )
    trained = {id(variable) for variable in model.trainable_variables}
    weights = [each for each in select(model, layers) if id(each.variable) in trained]
    if not weights:
        raise ValueError(
            f"A layer with neurons must be trained. Received: model={model.name!r}, in which all "
            "selected layers are frozen"
        )
    data = list(_unpacked(x, y, batch_size, batches))
    if not data:
        raise ValueError("`x` must have at least one sample. Received: none")
    loss_norms = _loss_norms(model, weights, data)
    if not any(loss_norms):
        raise ValueError(
            "The loss must depend on the weights, but its gradient is zero. "
            f"Received: model={model.name!r}, a loss whose gradient is 0 on {len(data)} batches"
        )
    rows = []
    for weight, loss_norm in zip(weights, loss_norms, strict=True):
        norm = _regularizer_norm(regularizer, weight)
        strength = float(share) * loss_norm / norm if norm > 0 else None
        rows.append(LayerStrength(weight, loss_norm, norm, strength))
    if all(row.strength is None for row in rows):
        raise ValueError(
            "The regularizer must pull at a weight, but its gradient is zero on all of them. "
            f"Received: regularizer={describe(regularizer)}"
        )
    return Strengths(regularizer, float(share), rows)


def _unpacked(x: Any, y: Any, batch_size: int, batches: int) -> Iterator[tuple[Any, Any, Any]]:
    """Inputs, targets and sample weights of each batch."""
    if y is None and not hasattr(x, "shape") and not isinstance(x, list | tuple | dict):
        for batch in itertools.islice(_in_order(x), batches):
            yield keras.utils.unpack_x_y_sample_weight(batch)
        return
    arrays = keras.tree.map_structure(
        lambda each: None if each is None else np.asarray(ops.convert_to_numpy(each)), (x, y)
    )
    lengths = {len(each) for each in keras.tree.flatten(arrays) if each is not None}
    if len(lengths) != 1:
        raise ValueError(
            "`x` and `y` must have the same number of samples. "
            f"Received: {', '.join(map(str, sorted(lengths)))}"
        )
    (count,) = lengths
    order = np.random.default_rng(0).permutation(count)[: batch_size * batches]
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        inputs, targets = keras.tree.map_structure(
            lambda each, chosen=chosen: None if each is None else each[chosen], arrays
        )
        yield inputs, targets, None


def _in_order(batches: Any) -> Iterable[Any]:
    """The batches of an iterable; a `PyDataset` ends only by its length."""
    if isinstance(batches, keras.utils.PyDataset):
        return (batches[i] for i in range(len(batches)))
    return batches


def _loss_norms(
    model: keras.Model, weights: Sequence[NeuronWeight], data: Sequence[tuple[Any, Any, Any]]
) -> list[float]:
    """The mean norm of the loss's gradient with respect to each weight."""
    variables = list(model.trainable_variables)
    places = [
        next(i for i, variable in enumerate(variables) if variable is weight.variable)
        for weight in weights
    ]
    values = [ops.convert_to_tensor(variable.value) for variable in variables]
    norms = []
    with _without_regularizers(variables):
        for x, y, sample_weight in data:

            def loss(
                chosen: list[Tensor], x: Any = x, y: Any = y, sample_weight: Any = sample_weight
            ) -> Tensor:
                replaced = list(values)
                for place, value in zip(places, chosen, strict=True):
                    replaced[place] = value
                state = list(zip(variables, replaced, strict=True))
                return keras_internals.loss_of_batch(model, state, x, y, sample_weight)

            norms.append(_norms_of_scaled(model, loss, [values[place] for place in places]))
    if not np.isfinite(norms).all():
        raise ValueError(
            "The loss's gradient must be finite. "
            f"Received: a gradient of model {model.name!r} that is not"
        )
    return [float(each) for each in np.mean(norms, axis=0)]


def _norms_of_scaled(model: keras.Model, loss: Any, at: Sequence[Tensor]) -> list[float]:
    """Norms of a gradient, through a loss scaled as the optimizer does it in half precision."""
    scale = keras_internals.loss_scale(model)
    while True:

        def scaled(chosen: list[Tensor], scale: float = scale) -> Tensor:
            return loss(chosen) * scale

        found = gradients(scaled, at)
        norms = [_norm(each) / scale for each in found]
        if scale <= 1 or np.isfinite(norms).all():
            return norms
        scale = max(1.0, scale / _SMALLER)


def _regularizer_norm(regularizer: Weighted, weight: NeuronWeight) -> float:
    """The norm of the gradient of a regularizer with a strength of 1."""
    alone = with_strength(along(regularizer, weight.axis), 1.0)
    value = ops.cast(ops.convert_to_tensor(weight.variable.value), "float32")
    (found,) = gradients(lambda chosen: alone.value(chosen[0]), [value])
    norm = _norm(found)
    if not np.isfinite(norm):
        raise ValueError(
            "The regularizer's gradient must be finite. "
            f"Received: {describe(regularizer)} on {weight.path!r}, where it is not"
        )
    return norm


def _norm(gradient: Tensor) -> float:
    values = ops.convert_to_numpy(ops.cast(gradient, "float32"))
    return float(np.linalg.norm(np.asarray(values, "float64")))


@contextlib.contextmanager
def _without_regularizers(variables: Sequence[keras.Variable]) -> Iterator[None]:
    """Takes the regularizers off variables inside the context."""
    before = [variable.regularizer for variable in variables]
    try:
        for variable in variables:
            variable.regularizer = None
        yield
    finally:
        for variable, regularizer in zip(variables, before, strict=True):
            variable.regularizer = regularizer
