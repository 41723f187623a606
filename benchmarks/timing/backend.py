"""How the backend of this process compiles, waits and measures memory.

Keras has no API for these, so the backends are named here.
"""

import contextlib
import functools
import gc
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np

from mhe.types import Tensor

BACKEND = keras.backend.backend()
# The mode of a function that PyTorch compiles; without it PyTorch runs each operation on its own.
TORCH_COMPILE = "torch.compile"
PRECISIONS = ("float32", "tf32", "bfloat16")


@functools.cache
def device() -> str:
    """Returns the name of the GPU in use, or `"cpu"`."""
    if BACKEND == "tensorflow":
        import tensorflow as tf

        gpus = tf.config.list_physical_devices("GPU")
        if not gpus:
            return "cpu"
        return tf.config.experimental.get_device_details(gpus[0]).get("device_name", "GPU")
    if BACKEND == "jax":
        import jax

        first = jax.devices()[0]
        return "cpu" if first.platform == "cpu" else first.device_kind
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"


def modes() -> tuple[str, ...]:
    """Returns the ways to compile: `""`, the backend's default, and perhaps `"XLA"`."""
    return ("", "XLA") if BACKEND == "tensorflow" else ("",)


def keras_mode() -> str:
    """Returns the mode that `Model.compile(jit_compile="auto")` picks on this machine."""
    return "XLA" if BACKEND == "tensorflow" and device() != "cpu" else ""


def versions() -> dict[str, str]:
    """Returns the version of the backend, and of what it computes with on a GPU if it says so.

    Example:

    >>> all(versions().values())
    True
    """
    if BACKEND == "tensorflow":
        import tensorflow as tf

        build = tf.sysconfig.get_build_info()
        known = {"cuda": build.get("cuda_version"), "cudnn": build.get("cudnn_version")}
        found = {"version": tf.__version__, **known}
    elif BACKEND == "jax":
        import jax
        import jaxlib

        platform = jax.devices()[0].client.platform_version
        found = {"version": jax.__version__, "jaxlib": jaxlib.__version__, "platform": platform}
    else:
        import torch

        cudnn = str(torch.backends.cudnn.version() or "")
        found = {"version": torch.__version__, "cuda": torch.version.cuda, "cudnn": cudnn}
    return {name: text.strip() for name, text in found.items() if text}


@contextlib.contextmanager
def precision(name: str) -> Iterator[None]:
    """Computes products of float32 matrices in a precision, where the device has it.

    JAX and TensorFlow look when a function is compiled, PyTorch when it is called.

    Args:
        name: `"float32"`; `"tf32"`, with mantissas of 10 bits; `"bfloat16"`, of 7 bits, with sums
            in float32 (in PyTorch by `torch.autocast`, which rounds the product, too); or `""`,
            the backend's default.

    Raises:
        ValueError: If the backend has no such precision.

    Example:

    >>> with precision("float32"):
    ...     float(keras.ops.matmul(np.ones((1, 3), "float32"), np.ones((3, 1), "float32"))[0, 0])
    3.0
    """
    if name not in (*PRECISIONS, "") or (BACKEND, name) == ("tensorflow", "bfloat16"):
        raise ValueError(f"{BACKEND} has no products in this precision. Received: {name!r}")
    if not name:
        yield
        return
    with {"tensorflow": _tensorflow_precision, "jax": _jax_precision}.get(
        BACKEND, _torch_precision
    )(name):
        yield


@contextlib.contextmanager
def _tensorflow_precision(name: str) -> Iterator[None]:
    import tensorflow as tf

    before = tf.config.experimental.tensor_float_32_execution_enabled()
    tf.config.experimental.enable_tensor_float_32_execution(name == "tf32")
    try:
        yield
    finally:
        tf.config.experimental.enable_tensor_float_32_execution(before)


@contextlib.contextmanager
def _jax_precision(name: str) -> Iterator[None]:
    import jax

    # On a GPU JAX's own "bfloat16" is its default, which is TF32.
    exact = "bfloat16" if device() == "cpu" else "BF16_BF16_F32"
    options = {"float32": "float32", "tf32": "tensorfloat32", "bfloat16": exact}
    with jax.default_matmul_precision(options[name]):
        yield


@contextlib.contextmanager
def _torch_precision(name: str) -> Iterator[None]:
    import torch

    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("highest" if name == "float32" else "high")
    torch.backends.cudnn.allow_tf32 = name != "float32"
    kind = "cpu" if device() == "cpu" else "cuda"
    try:
        with torch.autocast(kind, torch.bfloat16, enabled=name == "bfloat16"):
            yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]


def titled(name: str, mode: str) -> str:
    """Returns the title of a function compiled in a mode.

    Example:

    >>> titled("kernel", "XLA"), titled("kernel", "")
    ('kernel (XLA)', 'kernel')
    """
    return f"{name} ({mode})" if mode else name


def compiled(
    function: Callable[[Tensor], Tensor], weights: np.ndarray, mode: str = "", gradient: bool = True
) -> Callable[[], tuple[Tensor, ...]]:
    """Compiles a function of a weight ahead of its first call.

    Args:
        function: From a tensor to a tensor, a scalar if `gradient`.
        weights: The weight.
        mode: One of `modes()`, or on PyTorch `TORCH_COMPILE`, which compiles in the first call.
        gradient: Whether to compute the gradient with respect to the weight too.

    Returns:
        A function without arguments that waits for the device and returns the value and, with
        `gradient`, the gradient.
    """
    if BACKEND == "tensorflow":
        return _compiled_tensorflow(function, weights, mode, gradient)
    if BACKEND == "jax":
        return _compiled_jax(function, weights, gradient)
    return _torch(function, weights, mode, gradient)


def _compiled_tensorflow(
    function: Callable[[Tensor], Tensor], weights: Tensor, mode: str, gradient: bool
) -> Callable[[], tuple[Tensor, ...]]:
    import tensorflow as tf

    weights = tf.convert_to_tensor(weights)

    def step(w: Tensor) -> tuple[Tensor, ...]:
        if not gradient:
            return (function(w),)
        with tf.GradientTape() as tape:
            tape.watch(w)
            value = function(w)
        return value, tape.gradient(value, w)

    traced = tf.function(step, jit_compile=mode == "XLA", autograph=False)
    traced = traced.get_concrete_function(weights)
    on_gpu = device() != "cpu"

    def call() -> tuple[Tensor, ...]:
        outputs = traced(weights)
        # On a CPU a call returns when it is done; from a GPU a number has to arrive.
        for output in outputs if on_gpu else ():
            tf.reshape(output, (-1,))[0].numpy()
        return outputs

    return call


def _compiled_jax(
    function: Callable[[Tensor], Tensor], weights: Tensor, gradient: bool
) -> Callable[[], tuple[Tensor, ...]]:
    import jax

    weights = jax.numpy.asarray(weights)
    step = jax.value_and_grad(function) if gradient else lambda w: (function(w),)
    step = jax.jit(step).lower(weights).compile()
    return lambda: jax.block_until_ready(step(weights))


def _torch(
    function: Callable[[Tensor], Tensor], weights: Tensor, mode: str, gradient: bool
) -> Callable[[], tuple[Tensor, ...]]:
    import torch

    if mode == TORCH_COMPILE:
        # After a few compilations of the same code it would run uncompiled.
        torch.compiler.reset()
        function = torch.compile(function, dynamic=False)
    weights = keras.ops.convert_to_tensor(weights).requires_grad_(gradient)

    def call() -> tuple[Tensor, ...]:
        value = function(weights)
        gradients = torch.autograd.grad(value, weights) if gradient else ()
        wait()
        return (value.detach(), *gradients)

    return call


def wait() -> None:
    """Waits for a PyTorch GPU to finish its work; other backends wait when a result is read."""
    if BACKEND == "torch" and device() != "cpu":
        import torch

        torch.cuda.synchronize()


def free_memory() -> int:
    """Returns the free bytes of memory of the device, or all RAM if only that is known.

    Example:

    >>> free_memory() > 2**20
    True
    """
    if device() == "cpu" and Path("/proc/meminfo").exists():
        return _from_proc("/proc/meminfo", "MemAvailable")
    if device() == "cpu":
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if BACKEND == "tensorflow":
        from tensorflow.python.client import device_lib

        return max(d.memory_limit for d in device_lib.list_local_devices())
    if BACKEND == "jax":
        import jax

        stats = jax.devices()[0].memory_stats()
        return stats["bytes_limit"] - stats["bytes_in_use"]
    import torch

    return torch.cuda.mem_get_info()[0]


def peak_memory(call: Callable[[], Any]) -> int | None:
    """Returns the bytes by which a call raises the memory in use at its peak.

    A process can measure only one call: on some devices the peak cannot be reset.

    Args:
        call: A function without arguments, such as `compiled` returns.

    Returns:
        Bytes, or None on the CPU of a system other than Linux.
    """
    if device() == "cpu" and not Path("/proc/self/clear_refs").exists():
        call()
        return None
    if device() == "cpu":
        # Garbage that is collected during the call would hide as much of what it takes.
        gc.collect()
        # Writing 5 resets the peak to the memory in use.
        Path("/proc/self/clear_refs").write_text("5")
        before = _from_proc("/proc/self/status", "VmRSS")
        call()
        return _from_proc("/proc/self/status", "VmHWM") - before
    in_use, peak = _gpu_counters()
    before = in_use()
    call()
    return peak() - before


def peak_resident() -> int | None:
    """Returns the peak of this process' RAM in bytes, libraries included; None except on Linux.

    On a CPU, `peak_memory` resets this peak.

    Example:

    >>> peak = peak_resident()
    >>> peak is None or peak > 2**20
    True
    """
    status = Path("/proc/self/status")
    return _from_proc(status, "VmHWM") if status.exists() else None


def _gpu_counters() -> tuple[Callable[[], int], Callable[[], int]]:
    """Returns functions that return the bytes in use on the GPU, now and at the peak."""
    if BACKEND == "tensorflow":
        import tensorflow as tf

        tf.config.experimental.reset_memory_stats("GPU:0")
        read = functools.partial(tf.config.experimental.get_memory_info, "GPU:0")
        return lambda: read()["current"], lambda: read()["peak"]
    if BACKEND == "jax":
        import jax

        read = jax.devices()[0].memory_stats
        return lambda: read()["bytes_in_use"], lambda: read()["peak_bytes_in_use"]
    import torch

    torch.cuda.reset_peak_memory_stats()
    return torch.cuda.memory_allocated, torch.cuda.max_memory_allocated


def _from_proc(path: str | Path, name: str) -> int:
    for line in Path(path).read_text("utf-8").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise ValueError(f"{path} must have a line {name}. Received: none")


def release_memory() -> None:
    """Gives memory of the device that nothing refers to back to it, where the backend can."""
    gc.collect()
    if BACKEND == "torch" and device() != "cpu":
        import torch

        torch.cuda.empty_cache()


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error says that the device is out of memory.

    Example:

    >>> is_out_of_memory(MemoryError()), is_out_of_memory(ValueError("a wrong shape"))
    (True, False)
    """
    words = ("RESOURCE_EXHAUSTED", "OOM when", "out of memory", "enough memory")
    return isinstance(error, MemoryError) or any(each in str(error) for each in words)
