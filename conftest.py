"""What every test starts from: the same seed, no state of the test before, and float64 formulas.

The formulas are written from the paper, over all pairs of points, and share nothing with `mhe`.
"""

import gc
import importlib.util
import math
import os
import shutil
import tempfile
from importlib import metadata
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("MPLBACKEND", "Agg")

# Most of the time on JAX is spent compiling, much of it what another test, or a program that a
# test started, has compiled before. A folder for each worker: two would read half-written files.
os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="mhe-tests-jax-")
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"
# The arrays of tests are small: what is saved in running them is less than it costs to compile.
os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
# A third of the time it takes to compile the program of a small array goes into this. XLA aborts if
# it does not know a flag, so only versions that were tried get it.
if os.environ["KERAS_BACKEND"] == "jax" and metadata.version("jaxlib").startswith("0.10."):
    flags = os.environ.get("XLA_FLAGS", "")
    os.environ["XLA_FLAGS"] = f"{flags} --xla_cpu_use_fusion_emitters=false"

import numpy as np
import pytest

# Where a backend makes no difference a test runs on one: on PyTorch if it is there, as it compiles
# nothing, which is what takes most of the time on the others.
ONE = "torch" if importlib.util.find_spec("torch") else "tensorflow"
# Sources in which no backend takes part, or Keras's layers alone, slow to build.
ONE_BACKEND = tuple(
    Path(__file__).parent / path
    for path in (
        "gan/scores",
        "mhe/harness/figures",
        "mhe/prototypes",
        "sphereface_plus/backbones",
        "sphereface_plus/faces",
        "sphereface_plus/program/figures.py",
        "sphereface_plus/identification.py",
        "sphereface_plus/ijb.py",
        "sphereface_plus/pairs.py",
        "sphereface_plus/verification",
    )
)


def pytest_collection(session):
    """Loads the package, but not where tests are only handed out to other processes."""
    if session.config.getoption("dist", "no") != "no":
        return
    # Before pytest collects mhe/attach/ for its doctests: the function `mhe.attach` has its name.
    import mhe  # noqa: F401

    # What is imported stays: hidden from the garbage collector, and from the search for live
    # models, both of which would walk over a million objects of TensorFlow's or JAX's again and
    # again.
    gc.collect()
    gc.freeze()


def pytest_collection_modifyitems(items):
    """Runs what is the same on every backend on one alone."""
    import keras

    if keras.backend.backend() == ONE:
        return
    skip = pytest.mark.skip(reason="the same on every backend")
    for item in items:
        is_same = any(item.path.is_relative_to(path) for path in ONE_BACKEND)
        if is_same or item.get_closest_marker("one_backend"):
            item.add_marker(skip)


def pytest_unconfigure():
    """Drop what JAX compiled."""
    shutil.rmtree(os.environ["JAX_COMPILATION_CACHE_DIR"])


@pytest.fixture(autouse=True)
def fresh_keras():
    """Seed Keras, NumPy and Python, and drop the names and graphs of the test before."""
    import keras

    # Without collecting garbage, which would take longer than most tests do.
    keras.backend.clear_session(free_memory=False)
    keras.utils.set_random_seed(1)


@pytest.fixture(autouse=True, scope="module")
def bounded_memory():
    """Drop what JAX compiled for a file of tests, which comes to gigabytes over all of them."""
    import keras

    yield
    if keras.backend.backend() == "jax":
        import jax

        jax.clear_caches()


@pytest.fixture(scope="session")
def reference_energy():
    """Energy of a weight in float64: arXiv:1805.09298, equations 1-3 and section 3.3.

    Its neurons lie along `axis`, by default as the rows of a matrix.
    """

    def energy(weights, s, distance, space, reduction="mean", axis=0):
        axes = axis if isinstance(axis, tuple) else (axis,)
        points = np.moveaxis(np.asarray(weights, "float64"), axes, range(len(axes)))
        points = points.reshape(math.prod(points.shape[: len(axes)]), -1)
        points = points / np.linalg.norm(points, axis=1, keepdims=True)
        if space == "half":
            points = np.concatenate([points, -points])
        total, pairs = 0.0, 0
        for i, point in enumerate(points):
            others = np.delete(points, i, axis=0)
            apart = np.linalg.norm(others - point, axis=1)
            if distance == "angle":
                apart = 2 * np.arctan2(apart, np.linalg.norm(others + point, axis=1))
            total += np.sum(-np.log(apart) if s == 0 else apart ** (-float(s)))
            pairs += len(others)
        return total / pairs if reduction == "mean" else total

    return energy


@pytest.fixture(scope="session")
def reference_gradient():
    """Central differences of a float64 function of an array."""

    def gradient(function, at, step=1e-5):
        at = np.asarray(at, "float64")
        result = np.zeros_like(at)
        for index in np.ndindex(at.shape):
            there = at.copy()
            there[index] += step
            above = function(there)
            there[index] -= 2 * step
            result[index] = (above - function(there)) / (2 * step)
        return result

    return gradient


@pytest.fixture(scope="session")
def gradient_step():
    """From a scalar function of a tensor, one that gives `(value, gradient)` as NumPy arrays.

    It is compiled on the backends that compile, unless `eager`.
    """
    import keras

    def make(function, eager=False, jit_compile=False):
        backend = keras.backend.backend()
        if backend == "tensorflow":
            import tensorflow as tf

            def step(x):
                x = tf.convert_to_tensor(x)
                with tf.GradientTape() as tape:
                    tape.watch(x)
                    value = function(x)
                return value, tape.gradient(value, x)

            if not eager:
                step = tf.function(step, jit_compile=jit_compile, autograph=False)
        elif backend == "jax":
            import jax

            step = jax.value_and_grad(function)
            step = step if eager else jax.jit(step)
        else:

            def step(x):
                x = keras.ops.convert_to_tensor(x).clone().requires_grad_(True)
                value = function(x)
                value.backward()
                return value.detach(), x.grad

        def run(at):
            return tuple(_to_numpy(each) for each in step(keras.ops.convert_to_tensor(at)))

        return run

    return make


@pytest.fixture(scope="session")
def value_and_gradient(gradient_step):
    """`(value, gradient)` of a function at one array, compiled where that exists."""
    return lambda function, at, **options: gradient_step(function, **options)(at)


def _to_numpy(tensor):
    import keras

    # NumPy has no bfloat16, and what TensorFlow makes of one warns.
    if keras.backend.standardize_dtype(tensor.dtype) == "bfloat16":
        tensor = keras.ops.cast(tensor, "float32")
    return keras.ops.convert_to_numpy(tensor)


@pytest.fixture(scope="session")
def second_derivative():
    """The derivative of a gradient along a direction, by the backend, as a NumPy array."""
    import keras

    def derivative(function, at, direction):
        at, direction = (keras.ops.convert_to_tensor(each) for each in (at, direction))
        if keras.backend.backend() == "torch":
            import torch

            at = at.clone().requires_grad_(True)
            (gradient,) = torch.autograd.grad(function(at), at, create_graph=True)
            return torch.autograd.grad((gradient * direction).sum(), at)[0].cpu().numpy()
        if keras.backend.backend() == "jax":
            import jax

            first = jax.grad(function)
            along = jax.grad(lambda at: keras.ops.sum(first(at) * direction))
            return np.asarray(jax.jit(along)(at))
        import tensorflow as tf

        with tf.GradientTape() as outer:
            outer.watch(at)
            with tf.GradientTape() as inner:
                inner.watch(at)
                value = function(at)
            along = tf.reduce_sum(inner.gradient(value, at) * direction)
        return outer.gradient(along, at).numpy()

    return derivative
