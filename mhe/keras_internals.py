"""Everything this library relies on in Keras that Keras does not document.

Tried on Keras 3.15.1 (all backends) and 3.8.0 (PyTorch), the lower bound in `setup.cfg`. When a new
version of Keras breaks the library, look here first.
"""

import contextlib
import inspect
import io
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
from keras.layers import Layer
from keras.src.backend.common.stateless_scope import get_stateless_scope, in_stateless_scope
from keras.src.saving import saving_lib

from mhe.types import Tensor


def sublayers(layer: Layer) -> list[Layer]:
    """The layers that a layer holds directly, in the order in which it was given them."""
    return layer._layers


def flat_layers(model: Layer) -> list[Layer]:
    """A model and all layers inside it, in Keras's order."""
    return list(model._flatten_layers())


def own_trainable_variables(layer: Layer) -> list[keras.Variable]:
    """The trainable variables of a layer itself, without those of its sublayers."""
    return getattr(layer, "_trainable_variables", [])


def own_variables(layer: Layer) -> list[keras.Variable]:
    """The variables of a layer itself, without those of its sublayers."""
    return [*layer._trainable_variables, *layer._non_trainable_variables]


def stored_variable(layer: Layer, name: str) -> keras.Variable | None:
    """The variable behind a weight's name.

    Where `layer.kernel` is a property that adds LoRA's update or unpacks integers, the variable
    itself has another name.
    """
    candidates = (getattr(layer, each, None) for each in (f"_{name}", f"quantized_{name}", name))
    return next((each for each in candidates if isinstance(each, keras.Variable)), None)


def build_shapes(layer: Layer) -> dict[str, Any] | None:
    """The arguments of `build` by name, or None for a layer that was not built from shapes."""
    return layer._build_shapes_dict


def call_on_zeros(model: keras.Model) -> None:
    """Calls a model that was built but never called: Keras refuses to export it as it is."""
    shapes = build_shapes(model)
    if shapes is None or model._called:
        return

    def zeros(shape: tuple[int | None, ...]) -> Tensor:
        sizes = [1 if size is None else size for size in shape]
        return keras.ops.zeros(sizes, model.input_dtype)

    (shape,) = shapes.values()
    model(keras.tree.map_shape_structure(zeros, shape))


def unlock(layer: Layer) -> None:
    """Lets a built layer get more sublayers and weights, as an unbuilt one may."""
    layer._tracker.unlock()


class _Holder:
    """What Keras takes for the generator of a layer's random numbers: an object with a state."""

    def __init__(self, state: keras.Variable) -> None:
        self.state = state


def track_state(layer: Layer, variable: keras.Variable) -> None:
    """Makes a variable part of a layer's state in training, but none of its weights.

    As a seed is: JAX's training step passes it on, and files of weights do not have it.
    """
    holders = layer._seed_generators
    if not any(holder.state is variable for holder in holders):
        # Past the tracking of a layer that is built.
        list.append(holders, _Holder(variable))


def tracked_states(model: keras.Model) -> list[keras.Variable]:
    """What `track_state` and the seed generators of layers keep, in Keras's order."""
    return [holder.state for layer in flat_layers(model) for holder in layer._seed_generators]


def sync_in_training(model: keras.Model) -> None:
    """Makes a model's variables current in a callback; on JAX, the values are outside meanwhile.

    What is assigned then takes part in the next step, too.
    """
    sync = getattr(model, "jax_state_sync", None)
    if keras.backend.backend() == "jax" and sync is not None:
        sync()


def keep_in_training(model: keras.Model) -> None:
    """Makes what a callback assigned outlast a step that finds no batch, at the end of an epoch.

    JAX's trainer goes back to the values that the last step returned then.
    """
    if keras.backend.backend() == "jax" and getattr(model, "_jax_state", None):
        kinds = ("trainable", "non_trainable", "optimizer", "metrics")
        names = [f"{kind}_variables" for kind in kinds]
        values = model._get_jax_state(**dict.fromkeys(names, True))
        model._jax_state = dict(zip(names, values, strict=True))


def assign_in_training(model: keras.Model, variable: keras.Variable, value: float) -> None:
    """Assigns a variable from a callback."""
    sync_in_training(model)
    variable.assign(value)


def _innermost(optimizer: Any) -> Any:
    """An optimizer without those that are wrapped around it."""
    while hasattr(optimizer, "inner_optimizer"):
        optimizer = optimizer.inner_optimizer
    return optimizer


def build_optimizer(
    optimizer: keras.optimizers.Optimizer, variables: Sequence[keras.Variable]
) -> list[list[keras.Variable]]:
    """Builds an optimizer, and returns what it keeps for each number of each weight.

    Raises:
        ValueError: If it keeps anything else but single numbers.

    Example:

    >>> weight = keras.Variable([[1.0, 2.0]])
    >>> states = build_optimizer(keras.optimizers.SGD(momentum=0.9), [weight])
    >>> [[tuple(each.shape) for each in state] for state in states]
    [[(1, 2)]]
    """
    before = len(optimizer.variables)
    states: dict[int, list[keras.Variable]] = {id(variable): [] for variable in variables}
    add = optimizer.add_variable_from_reference

    def adding(reference_variable: keras.Variable, *args: Any, **kwargs: Any) -> keras.Variable:
        variable = add(reference_variable, *args, **kwargs)
        states[id(reference_variable)].append(variable)
        return variable

    optimizer.add_variable_from_reference = adding
    try:
        optimizer.build(variables)
    finally:
        del optimizer.add_variable_from_reference
    known = {id(each) for state in states.values() for each in state}
    for each in optimizer.variables[before:]:
        if id(each) not in known and len(each.shape) > 0:
            raise ValueError(
                "The optimizer must keep its state for each number of a weight. "
                f"Received: {type(optimizer).__name__}, with a state of shape {tuple(each.shape)}"
            )
    return [states[id(variable)] for variable in variables]


def batches_trained(model: keras.Model) -> int:
    """The number of batches that the optimizer has seen: several per update if it accumulates."""
    optimizer = _innermost(model.optimizer)
    return int(keras.ops.convert_to_numpy(optimizer._iterations.value))


def batches_variable(model: keras.Model) -> keras.Variable | None:
    """The variable in which the optimizer counts batches, or None without one."""
    return getattr(_innermost(model.optimizer), "_iterations", None)


def rate_variable(model: keras.Model) -> keras.Variable | None:
    """The variable of the learning rate, or None where a schedule gives it."""
    optimizer = _innermost(model.optimizer)
    rate = getattr(optimizer, "_learning_rate", None)
    return rate if isinstance(rate, keras.Variable) else None


def accumulation_steps(model: keras.Model) -> int:
    """The number of batches per update of the optimizer."""
    optimizer = _innermost(model.optimizer)
    return optimizer.gradient_accumulation_steps or 1


def has_compiled_loss(model: keras.Model) -> bool:
    """Whether `compile` was given a loss."""
    return model._compile_loss is not None


def has_compiled_metrics(model: keras.Model) -> bool:
    """Whether `compile` was given metrics."""
    return model._compile_metrics is not None


def share_of_replica(model: keras.Model, loss: Tensor) -> Tensor:
    """What a loss of a replica's samples, or of weights, adds to the total loss of the replica.

    Keras sums the gradients of TensorFlow's replicas. Its own losses are scaled accordingly.
    """
    return model._aggregate_additional_loss(loss)


def replica() -> tuple[Any, int]:
    """Which of TensorFlow's replicas or PyTorch's processes this is, and their number.

    Both draw the same random numbers. JAX has one program for all devices: (0, 1).
    """
    if keras.backend.backend() == "torch":
        import torch.distributed as dist

        is_one = dist.is_available() and dist.is_initialized()
        return (dist.get_rank(), dist.get_world_size()) if is_one else (0, 1)
    if keras.backend.backend() != "tensorflow":
        return 0, 1
    import tensorflow as tf

    context = tf.distribute.get_replica_context()
    if context is None:
        return 0, 1
    return context.replica_id_in_sync_group, context.num_replicas_in_sync


def build_once(model: keras.Model) -> None:
    """Builds a model on TensorFlow's replicas from the first batch that it sees, and never again.

    Keras averages the first batch of every `fit` and every evaluation over the replicas, to learn
    its shape, which fails where their parts of it differ in size. To be called after `compile`,
    whose metrics are built too.
    """
    build, built = model._maybe_symbolic_build, False

    def once(**batch: Any) -> None:
        nonlocal built
        if not built:
            build(**batch)
        built = True

    model._maybe_symbolic_build = once


def batch_parts(model: keras.Model) -> int:
    """The number of devices among which `fit` splits each batch."""
    if keras.backend.backend() == "tensorflow":
        return model.distribute_strategy.num_replicas_in_sync
    distribution = keras.distribution.distribution()
    if distribution is None:
        return 1
    mesh = distribution.device_mesh
    return mesh.shape[mesh.axis_names.index(distribution.batch_dim_name)]


def added_losses(layer: Layer) -> list[Tensor]:
    """The list of what `add_loss` collected during the last call."""
    return layer._losses


def call_in_compute_loss(
    layer: Callable[..., Any], *args: Any, **kwargs: Any
) -> tuple[Any, list[Tensor]]:
    """Calls a layer, or a method of one, from `compute_loss`.

    Returns its outputs, and the added losses that Keras would miss.

    JAX's training step collects what `add_loss` is given in the forward pass only.
    """
    if not in_stateless_scope():
        return layer(*args, **kwargs), []
    scope = get_stateless_scope()
    collected, before = scope.collect_losses, len(scope.losses)
    scope.collect_losses = True
    try:
        outputs = layer(*args, **kwargs)
    finally:
        scope.collect_losses = collected
    added = scope.losses[before:]
    del scope.losses[before:]
    return outputs, added


def loss_of_batch(
    model: keras.Model, state: list[tuple[keras.Variable, Tensor]], x: Any, y: Any, weight: Any
) -> Tensor:
    """The loss of a batch in training, at given values of variables; no variable is assigned."""
    x, y, weight = keras.tree.map_structure(
        lambda each: None if each is None else keras.ops.convert_to_tensor(each), (x, y, weight)
    )
    with keras.StatelessScope(state, collect_losses=True):
        outputs = model(x, training=True) if model._call_has_training_arg else model(x)
        return model._compute_loss(x, y, outputs, weight, training=True)


def loss_scale(model: keras.Model) -> float:
    """The factor of the loss against underflow in half precision, 1 without one."""
    if model.optimizer is None:
        return 1.0
    scaled = model.optimizer.scale_loss(keras.ops.ones(()))
    return float(keras.ops.convert_to_numpy(scaled))


def stands_for(value: Tensor, variable: keras.Variable) -> bool:
    """Whether a regularizer that is called on `value` is called for `variable`."""
    if value is variable:
        return True
    return in_stateless_scope() and get_stateless_scope().get_current_value(variable) is value


def nodes(operation: keras.Operation) -> tuple[list[Any], list[Any]]:
    """The lists of graph nodes that lead into and out of an operation."""
    return operation._inbound_nodes, operation._outbound_nodes


def origin(tensor: Tensor) -> tuple[keras.Operation | None, Any, int]:
    """Which operation made a symbolic tensor, in which node, and as which of its outputs."""
    operation, node_index, tensor_index = getattr(tensor, "_keras_history", (None, 0, 0))
    node = None if operation is None else operation._inbound_nodes[node_index]
    return operation, node, tensor_index


def graph(layer: Layer) -> tuple[list[Tensor], list[Tensor]] | None:
    """The symbolic inputs and outputs of a functional or sequential model, else None."""
    if not isinstance(layer, keras.Model):
        return None
    try:
        inputs, outputs = list(layer.inputs), list(layer.outputs)
    except (AttributeError, TypeError):
        return None
    known = all(hasattr(tensor, "_keras_history") for tensor in inputs + outputs)
    return (inputs, outputs) if known else None


def is_saved_as_graph(model: Layer) -> bool:
    """Whether a model's config is its graph. Keras decides by the arguments of its constructor."""
    kinds: list[Any] = [kind for kind in type(model).__mro__ if kind.__name__ == "Functional"]
    own, *functional = [
        inspect.getfullargspec(kind.__init__).args for kind in (type(model), *kinds)
    ]
    return functional == [own]


def attention_output(layer: Layer) -> Layer:
    """The output projection of an attention layer."""
    return layer._output_dense


def attention_regularizer_slot(layer: Layer) -> str:
    """The attribute in which an attention layer keeps the regularizer of all its projections."""
    return "_kernel_regularizer" if hasattr(layer, "_kernel_regularizer") else "kernel_regularizer"


def drop_traces(model: keras.Model) -> None:
    """Makes a model trace its train and test steps again, if it has traced them."""
    if model.train_function is not None:
        model.make_train_function(force=True)
    if model.test_function is not None:
        model.make_test_function(force=True)


@contextlib.contextmanager
def replaced_attribute(layer: Layer, name: str, value: Any) -> Iterator[None]:
    """Replaces an attribute of a layer inside the context, out of sight of its tracking.

    Setting it normally would register variables and layers, or be refused on a built layer.
    """
    attributes = vars(layer)
    was_set, before = name in attributes, attributes.get(name)
    attributes[name] = value
    try:
        yield
    finally:
        if was_set:
            attributes[name] = before
        else:
            del attributes[name]


def callbacks_beside(callback: keras.callbacks.Callback) -> list[keras.callbacks.Callback]:
    """All callbacks of the `fit` that is calling this one, in their order.

    Keras tells a callback nothing of the others.
    """
    frame = inspect.currentframe()
    while frame is not None:
        caller = frame.f_locals.get("self")
        callbacks = caller.callbacks if isinstance(caller, keras.callbacks.CallbackList) else []
        if any(each is callback for each in callbacks):
            return list(callbacks)
        frame = frame.f_back
    return [callback]


def start_at(model: keras.Model, epoch: int | None) -> None:
    """Makes the `fit` that begins start at an epoch, as `keras.callbacks.BackupAndRestore` does.

    It holds for later calls of `fit`, too, until it is None again.
    """
    model._initial_epoch = epoch


def pass_over(model: keras.Model, logs: dict[str, Any]) -> None:
    """Makes `fit` draw the batches of its next step without training on them.

    Call it in `on_train_batch_begin`. Trainers call `train_function` with an iterator, on JAX with
    the state before it, which they want back; on PyTorch with batches that are already drawn.

    Args:
        model: The model in `fit`.
        logs: What the step returns instead of its metrics.
    """
    train_function = model.train_function

    def passing_over(*arguments: Any) -> Any:
        model.train_function = train_function
        if keras.backend.backend() == "torch":
            return logs
        *state, batches = arguments
        batch = next(batches)
        if keras.backend.backend() == "tensorflow" and model._distribute_strategy is None:
            # Only here are metrics not built before the first step. Tensors may be optional.
            build = model._autoconvert_optionals(lambda x: model._symbolic_build(data_batch=x))
            build(batch)
        # The last step of an epoch may have fewer batches, but not none.
        with contextlib.suppress(StopIteration):
            for _ in range(model.steps_per_execution - 1):
                next(batches)
        return (logs, *state) if state else logs

    model.train_function = passing_over


def _framework_generators() -> list[Any]:
    """PyTorch's generators: an unseeded dropout of Keras draws from them, not from its layer's."""
    if keras.backend.backend() != "torch":
        return []
    import torch
    from keras.src.backend.torch.core import get_device

    on_device = getattr(torch, get_device().split(":")[0])
    return [torch, on_device] if hasattr(on_device, "get_rng_state") else [torch]


def framework_states() -> list[np.ndarray]:
    """The states of generators of the framework itself from which layers draw."""
    return [each.get_rng_state().numpy() for each in _framework_generators()]


def restore_framework_states(states: Sequence[np.ndarray]) -> None:
    """Restores what `framework_states` returned, as far as the device has such generators."""
    for each, state in zip(_framework_generators(), states, strict=False):
        each.set_rng_state(keras.ops.convert_to_tensor(state).cpu())


def weights_file(model: keras.Model) -> memoryview:
    """The bytes of the file that `model.save_weights` writes.

    Where a disk is full, HDF5 takes the process down with it; so it gets to write to memory only.
    """
    file = io.BytesIO()
    store = saving_lib.H5IOStore(file, mode="w")
    saving_lib._save_state(
        model, weights_store=store, assets_store=None, inner_path="", visited_saveables=set()
    )
    store.close()
    return file.getbuffer()


def differentiates_again(*arguments: Tensor) -> bool:
    """Whether PyTorch differentiates a gradient that it is computing from these arguments.

    The other backends record what a custom gradient computes; PyTorch only what its gradient does.

    Example:

    >>> differentiates_again(keras.ops.ones(2))
    False
    """
    return any(getattr(each[:1] * 1.0, "requires_grad", False) for each in arguments)
