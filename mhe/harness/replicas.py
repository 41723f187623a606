"""One model in several processes of PyTorch, each on its part of every batch.

Keras's PyTorch trainer never calls `DistributedDataParallel`, so what that does is done here:
gradients are averaged over the processes before the optimizer sees them. Besides, batch
normalization takes its statistics from the whole batch, and metrics count all parts of it.
"""

import contextlib
import functools
import os
from collections.abc import Callable, Iterator
from typing import Any

import keras

from mhe import keras_internals
from mhe.harness.errors import BadInput
from mhe.types import Tensor

# The one place that needs PyTorch itself: Keras has no distribution for it.


@contextlib.contextmanager
def started() -> Iterator[str]:
    """Joins the other processes, which torchrun has started, and leaves them in the end.

    Yields:
        The kind of device: `"cuda"`, with a device per process, or `"cpu"`.
    """
    import torch
    import torch.distributed as dist

    has_gpu = torch.cuda.is_available()
    if has_gpu:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))
    dist.init_process_group("nccl" if has_gpu else "gloo")
    try:
        yield "cuda" if has_gpu else "cpu"
    finally:
        dist.destroy_process_group()


def require_means(model: keras.Model) -> None:
    """Refuses losses that are sums over a batch, of which processes have no mean.

    Args:
        model: A compiled model.

    Raises:
        BadInput: If one is.

    Example:

    >>> model = keras.Sequential([keras.layers.Dense(1)])
    >>> model.compile(loss=keras.losses.MeanSquaredError(reduction="sum"))
    >>> require_means(model)
    Traceback (most recent call last):
        ...
    mhe.harness.errors.BadInput: --distribute data on PyTorch averages over processes, so losses
    must be means over a batch. Received: a sum, MeanSquaredError
    """
    for loss in keras.tree.flatten(getattr(model, "loss", None)):
        if getattr(loss, "reduction", None) == "sum":
            raise BadInput(
                "--distribute data on PyTorch averages over processes, so losses must be means "
                f"over a batch. Received: a sum, {type(loss).__name__}"
            )


@contextlib.contextmanager
def synchronized(model: keras.Model) -> Iterator[None]:
    """Inside, training steps of all processes change the model alike.

    Args:
        model: A compiled model, the same in all processes.
    """
    with contextlib.ExitStack() as stack:
        # A GAN has one for each side.
        for optimizer in getattr(model.optimizer, "parts", [model.optimizer]):
            apply = functools.partial(_apply_means, optimizer.apply)
            stack.enter_context(keras_internals.replaced_attribute(optimizer, "apply", apply))
        for layer in keras_internals.flat_layers(model):
            if isinstance(layer, keras.layers.BatchNormalization):
                moments = functools.partial(_moments, layer)
                stack.enter_context(keras_internals.replaced_attribute(layer, "_moments", moments))
        yield


class Alike(keras.callbacks.Callback):
    """Adds up the metrics of all processes at the end of an epoch, and looks for other differences.

    Raises:
        BadInput: After the first step, if a layer keeps a state of the batches that only its own
            process has seen.
    """

    def __init__(self) -> None:
        super().__init__()
        self._is_first = True

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        if self._is_first:
            self._is_first = False
            for variable in self.model.non_trainable_variables:
                if not _is_alike(variable):
                    raise BadInput(
                        "--distribute data on PyTorch cannot train layers that keep a state of "
                        f"the batches. Received: {variable.path}"
                    )
        if batch == self.params["steps"] - 1:
            import torch.distributed as dist

            for variable in self.model.metrics_variables:
                dist.all_reduce(variable.value.data)


def _apply_means(apply: Callable[..., Any], grads: Any, trainable_variables: Any = None) -> Any:
    return apply(_means(grads), trainable_variables)


def _means(grads: Any) -> Any:
    """The means of gradients over all processes, in place and in one exchange."""
    import torch
    import torch.distributed as dist

    own = [each for each in grads if each is not None]
    with torch.no_grad():
        together = torch.cat([each.reshape(-1) for each in own])
        dist.all_reduce(together)
        together /= dist.get_world_size()
        parts = together.split([each.numel() for each in own])
        for each, part in zip(own, parts, strict=True):
            each.copy_(part.reshape(each.shape))
    return grads


def _moments(layer: Any, inputs: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Mean and variance over all axes but the layer's, over the batches of all processes.

    The exchange has a gradient: what a process puts in changes the losses of all.
    """
    import torch.distributed as dist

    if mask is not None:
        raise ValueError("Batch normalization over processes takes no mask. Received: one")
    axes = layer._reduction_axes
    count = dist.get_world_size() * inputs.numel() // inputs.shape[layer.axis]
    total = _total()
    mean = total(inputs.sum(dim=axes, keepdim=True)) / count
    variance = total((inputs - mean).square().sum(dim=axes)) / count
    return mean.squeeze(axes), variance


@functools.cache
def _total() -> Callable[[Tensor], Tensor]:
    """The sum of a tensor over all processes, as a function with a gradient."""
    import torch
    import torch.distributed as dist

    def summed(tensor: Tensor) -> Tensor:
        tensor = tensor.clone()
        dist.all_reduce(tensor)
        return tensor

    class Total(torch.autograd.Function):
        # The losses of all processes depend on the tensor of each.
        @staticmethod
        def forward(ctx: Any, tensor: Tensor) -> Tensor:
            return summed(tensor)

        @staticmethod
        def backward(ctx: Any, gradient: Tensor) -> Tensor:
            return summed(gradient)

    return Total.apply


def _is_alike(variable: keras.Variable) -> bool:
    import torch
    import torch.distributed as dist

    value = variable.value.detach().to(torch.float64)
    highest, lowest = value.clone(), value.clone()
    dist.all_reduce(highest, dist.ReduceOp.MAX)
    dist.all_reduce(lowest, dist.ReduceOp.MIN)
    return bool(torch.allclose(highest, lowest, rtol=1e-5, atol=1e-6))
