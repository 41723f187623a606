"""What one process on one backend measures for `speed.py`.

It reads a job as JSON from its input and answers on its output, a JSON line for each thing done.
"""

import json
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import keras
import numpy as np
from keras import ops

import mhe
from mhe.attach.neurons import neuron_weights
from mhe.energy import sampled_energy
from mhe.harness import models
from timing import backend

Rows = list[dict[str, Any]]
Variant = Mapping[str, Any]

# So many float32 arrays of all pairs of points are alive at once when the published formula is
# differentiated, operation by operation or fused by XLA: measured on all backends, rounded up.
PUBLISHED_ARRAYS = {"euclidean": (8, 4), "angle": (12, 6)}
# A time is a median of at least so many, however long that takes.
FEWEST_ROUNDS = 3


# --- what is compared ---------------------------------------------------------------------------


def published_energy(weights: Any, s: float, distance: str, space: str) -> Any:
    """The paper's mean energy as it is usually written: all pairs of points in one matrix.

    Args:
        weights: (D, N), the neurons in columns, none of them equal or opposite.
        s: Power of the potential.
        distance: `"euclidean"` or `"angle"`.
        space: `"full"` or `"half"`.

    Returns:
        A scalar, to be differentiated by the backend.

    Example:

    >>> round(float(published_energy(ops.eye(2), 2, "euclidean", "full")), 4)
    0.5

    Reference:
        Liu et al., Learning towards Minimum Hyperspherical Energy, NeurIPS 2018
        ([arXiv:1805.09298](https://arxiv.org/abs/1805.09298)), equations 1-3 and section 3.3.
    """
    points = weights * ops.rsqrt(ops.sum(ops.square(weights), axis=0, keepdims=True))
    if space == "half":
        points = ops.concatenate([points, -points], axis=1)
    cosines = ops.matmul(ops.transpose(points), points)
    count = int(points.shape[1])
    diagonal = ops.eye(count, dtype=cosines.dtype)
    if distance == "euclidean":
        potential = _of_squared_distance(2.0 - 2.0 * cosines + diagonal, s)
    else:
        # The slope of the arc cosine is infinite at the ends.
        potential = _of_angle(ops.arccos(ops.clip(cosines, -1.0 + 1e-6, 1.0 - 1e-6)), s)
    return ops.sum(potential * (1.0 - diagonal)) / (count * (count - 1))


def _of_squared_distance(squared, s):
    if s == 0:
        return -0.5 * ops.log(squared)
    if s == 1:
        return ops.rsqrt(squared)
    return 1.0 / squared if s == 2 else ops.power(squared, -s / 2)


def _of_angle(angle, s):
    if s == 0:
        return -ops.log(angle)
    if s in (1, 2):
        return 1.0 / (angle if s == 1 else ops.square(angle))
    return ops.power(angle, -s)


def two_products(weights: Any) -> Any:
    """The floor: the Gram matrix and one product with it, 4N²D operations."""
    return ops.matmul(weights, ops.matmul(ops.transpose(weights), weights))


def functions(variant: Variant) -> dict[str, tuple[Callable[[Any], Any], bool]]:
    """Returns what is compared for one energy, by name: functions, and whether to differentiate."""
    options = {name: variant[name] for name in ("s", "distance", "space")}
    return {
        "kernel": (lambda w: mhe.hyperspherical_energy(w, **options), True),
        "published": (lambda w: published_energy(w, **options), True),
        "floor": (two_products, False),
    }


def published_bytes(neurons: int, space: str, distance: str, mode: str) -> int:
    """Returns about how much memory the published formula takes, in bytes.

    Example:

    >>> full, half = (published_bytes(1000, each, "angle", "XLA") for each in ("full", "half"))
    >>> half // full
    4
    """
    fused = backend.BACKEND == "jax" or mode == "XLA"
    points = 2 * neurons if space == "half" else neurons
    return 4 * PUBLISHED_ARRAYS[distance][fused] * points * points


def normal_layer(dims: int, neurons: int, seed: int) -> np.ndarray:
    """Returns a layer (dims, neurons) as it is initialised."""
    rng = np.random.default_rng(seed)
    return rng.standard_normal((dims, neurons), dtype=np.float32)


def clustered_layer(dims: int, neurons: int, seed: int, clusters: int = 100) -> np.ndarray:
    """Returns a layer like the head of a trained network, whose classes come in families.

    Neurons of one cluster have a cosine of about 0.3, others of about 0.
    """
    rng = np.random.default_rng([seed, 1])
    centres = rng.standard_normal((dims, clusters), dtype=np.float32)
    mine = rng.integers(clusters, size=neurons)
    return normal_layer(dims, neurons, seed) + math.sqrt(0.3 / 0.7) * centres[:, mine]


LAYERS = {"random": normal_layer, "clustered": clustered_layer}


# --- measuring ----------------------------------------------------------------------------------


def interleaved(
    calls: Mapping[str, Callable[[], Any]], rounds: int, seconds: float
) -> dict[str, np.ndarray]:
    """Times calls in turn, so that whatever else the machine does falls on all alike.

    Args:
        calls: What to time, by name; each is called once more before, to warm up.
        rounds: How often each is timed at most.
        seconds: Once so many are over no round begins, but `FEWEST_ROUNDS` there are.

    Returns:
        The seconds of each, a number a round.

    Example:

    >>> times = interleaved({"a": lambda: None, "b": lambda: None}, rounds=5, seconds=1)
    >>> {name: len(each) for name, each in times.items()}
    {'a': 5, 'b': 5}
    """
    for call in calls.values():
        call()
    names = list(calls)
    times = {name: [] for name in names}
    end = time.perf_counter() + seconds
    for turn in range(rounds):
        if turn >= FEWEST_ROUNDS and time.perf_counter() > end:
            break
        # Nobody always comes first, nor always after the same.
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            began = time.perf_counter()
            calls[name]()
            times[name].append(time.perf_counter() - began)
    return {name: np.array(each) for name, each in times.items()}


def summary(times: np.ndarray) -> dict[str, float]:
    """Returns median, minimum and spread (the middle half) in ms, and how many there are.

    Example:

    >>> summary(np.array([0.001, 0.002, 0.004]))
    {'median_ms': 2.0, 'min_ms': 1.0, 'spread_ms': 1.5, 'rounds': 3}
    """
    low, median, high = 1000 * np.quantile(times, [0.25, 0.5, 0.75])
    return {
        "median_ms": round(float(median), 4),
        "min_ms": round(float(1000 * times.min()), 4),
        "spread_ms": round(float(high - low), 4),
        "rounds": len(times),
    }


def method(name: str, mode: str) -> dict[str, Any]:
    """Returns what a row says of a method: what, how compiled, and whether Keras compiles so."""
    title = f"{name} ({mode})" if mode else name
    return {"name": name, "mode": mode, "method": title, "as_keras": mode == backend.keras_mode()}


def time_case(case: Variant, job: Mapping[str, Any]) -> Rows:
    """Times all methods for one layer and energy; those without room get a row with a note."""
    weights = normal_layer(case["dims"], case["neurons"], job["seed"])
    calls, methods, rows = {}, {}, []
    for name, (function, gradient) in functions(case).items():
        for mode in backend.modes():
            this = method(name, mode)
            needed = published_bytes(case["neurons"], case["space"], case["distance"], mode)
            if name == "published" and needed > job["memory_limit"]:
                rows.append({**this, "note": f"needs about {needed / 2**30:.1f} GiB"})
                continue
            methods[this["method"]] = this
            calls[this["method"]] = backend.compiled(function, weights, mode, gradient)
    while True:
        try:
            times = interleaved(calls, job["rounds"], job["seconds"])
            break
        except Exception as error:
            # Of what is compared only the published formula takes memory by the gigabyte.
            heavy = [title for title in calls if methods[title]["name"] == "published"]
            if not heavy or not backend.is_out_of_memory(error):
                raise
            for title in heavy:
                del calls[title]
                rows.append({**methods[title], "note": "out of memory"})
    return rows + [{**methods[title], **summary(each)} for title, each in times.items()]


def measure_peak(job: Mapping[str, Any]) -> Rows:
    """Measures one call: its seconds, and the memory it takes beyond the weight and the gradient.

    On a CPU, what compiles in the call itself (XLA in TensorFlow) is counted too.
    """
    mode = job.get("mode", backend.keras_mode())
    function, gradient = functions(job)[job["name"]]
    # The libraries' own memory, with all that their first use brings.
    backend.compiled(function, normal_layer(16, 32, 0), mode, gradient)()
    weights = normal_layer(job["dims"], job["neurons"], job["seed"])
    call = backend.compiled(function, weights, mode, gradient)
    seconds = []

    def timed():
        began = time.perf_counter()
        outputs = call()
        seconds.append(time.perf_counter() - began)
        return outputs

    peak = backend.peak_memory(timed)
    row = {**method(job["name"], mode), "seconds": round(seconds[0], 3)}
    if peak is not None:
        row["memory_mib"] = round(max(0, peak - gradient * weights.nbytes) / 2**20, 1)
    return [row]


class Published(keras.regularizers.Regularizer):
    """The published formula as a regularizer, neurons along the last axis.

    Args:
        space: `"full"` or `"half"`.
    """

    def __init__(self, space: str) -> None:
        self.space = space

    def __call__(self, x: Any) -> Any:
        """The mean Euclidean energy with s = 2."""
        columns = ops.reshape(x, (-1, x.shape[-1]))
        return published_energy(columns, 2, "euclidean", self.space)

    def get_config(self) -> dict[str, Any]:
        return {"space": self.space}


def time_step(job: Mapping[str, Any]) -> Rows:
    """Times a training step of one network without an energy, with MHE, and as published."""
    energies = {
        "no energy": None,
        "mhe": (mhe.MHE(space="half"), mhe.MHE(space="full")),
        "published": (Published("half"), Published("full")),
    }
    calls, rows = {}, []
    for name, energy in energies.items():
        keras.utils.set_random_seed(job["seed"])
        if job["model"] == "resnet50":
            side, classes = job["side"] or 224, 1000
            model = keras.applications.ResNet50(
                weights=None, input_shape=(side, side, 3), classifier_activation=None
            )
        else:
            side, classes = job["side"] or 32, 100
            model = models.build(job["model"], (side, side, 3), classes, job["width"])
        needed = sum(
            published_bytes(weight.count, "half", "euclidean", backend.keras_mode())
            for weight in neuron_weights(model)
        )
        if name == "published" and needed > job["memory_limit"]:
            rows.append({"method": name, "note": f"needs about {needed / 2**30:.1f} GiB"})
            continue
        if energy is not None:
            mhe.attach(model, energy[0], head=energy[1])
        # Slow enough for the weights to stay as they are.
        model.compile(
            keras.optimizers.SGD(1e-6, momentum=0.9),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        )
        rng = np.random.default_rng(job["seed"])
        images = rng.standard_normal((job["batch"], side, side, 3), dtype=np.float32)
        labels = rng.integers(classes, size=job["batch"])
        calls[name] = _step(model, images, labels)
    times = interleaved(calls, job["rounds"], job["seconds"])
    return rows + [{"method": name, **summary(each)} for name, each in times.items()]


def _step(model, images, labels):
    def call():
        # The loss is a number here, so the step is over.
        model.train_on_batch(images, labels)
        backend.wait()

    return call


def spread_of_samples(job: Mapping[str, Any]) -> Rows:
    """Measures how far sampled energies lie from the exact one, relative to it."""
    weights = ops.convert_to_tensor(LAYERS[job["kind"]](job["dims"], job["neurons"], job["seed"]))
    exact = float(mhe.hyperspherical_energy(weights, space=job["space"]))
    draws = np.array(
        [
            float(sampled_energy(weights, job["sample"], seed=i, space=job["space"]))
            for i in range(job["draws"])
        ]
    )
    return [
        {
            "exact": exact,
            "bias": round(float(draws.mean() / exact - 1), 8),
            "deviation": round(float(draws.std(ddof=1) / exact), 8),
        }
    ]


def answers(job: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Does a job.

    Args:
        job: `task`, one of `TASKS`, what it needs, and `cases`, what it is done for.

    Yields:
        First what this process runs on; then for each case its rows.
    """
    job["memory_limit"] = job.get("memory_limit") or 0.75 * backend.free_memory()
    yield {
        "device": backend.device(),
        "version": sys.modules[backend.BACKEND].__version__,
        "memory_limit_gib": round(job["memory_limit"] / 2**30, 1),
    }
    for case in job["cases"]:
        yield {"rows": TASKS[job["task"]](case, job)}


TASKS: dict[str, Callable[[Variant, Mapping[str, Any]], Rows]] = {
    "times": time_case,
    "peak": lambda case, job: measure_peak({**job, **case}),
    "step": lambda case, job: time_step({**job, **case}),
    "sampling": lambda case, job: spread_of_samples({**job, **case}),
}


if __name__ == "__main__":
    for answer in answers(json.load(sys.stdin)):
        print(json.dumps(answer), flush=True)
