"""Measures on one backend, in a process of its own: `python -m timing.worker` in `benchmarks/`.

It reads a job as JSON from its input and answers on its output, one JSON line per result.
"""

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeAlias

import keras
import numpy as np
from keras import ops

import mhe
from mhe.attach.neurons import neuron_weights
from mhe.energy import sampled_energy
from mhe.harness import models
from timing import backend, energies
from timing.rounds import compared, interleaved, summary

Rows: TypeAlias = list[dict[str, Any]]
Options: TypeAlias = Mapping[str, Any]


def method(name: str, mode: str) -> dict[str, Any]:
    """Returns a row's columns of a method: what, how compiled, and whether Keras compiles so."""
    title = backend.titled(name, mode)
    return {"name": name, "mode": mode, "method": title, "as_keras": mode == backend.keras_mode()}


def time_case(case: Options, job: Options) -> Rows:
    """Times all methods for one layer and energy; those that need too much memory get a note."""
    weights = energies.normal_layer(case["dims"], case["neurons"], job["seed"])
    calls: dict[str, Callable[[], Any]] = {}
    methods: dict[str, dict[str, Any]] = {}
    rows: Rows = []
    for name, (function, gradient) in energies.functions(case).items():
        for mode in backend.modes():
            this = method(name, mode)
            needed = energies.published_bytes(
                case["neurons"], case["space"], case["distance"], mode
            )
            if name == "published" and needed > job["memory_limit"]:
                rows.append({**this, "note": _needs(needed)})
                continue
            methods[this["method"]] = this
            calls[this["method"]] = backend.compiled(function, weights, mode, gradient)
    while True:
        try:
            times = interleaved(calls, job["rounds"], job["seconds"])
            break
        except Exception as error:
            # Only the published formula takes gigabytes of memory.
            heavy = [title for title in calls if methods[title]["name"] == "published"]
            if not heavy or not backend.is_out_of_memory(error):
                raise
            for title in heavy:
                del calls[title]
                rows.append({**methods[title], "note": "out of memory"})
    return rows + [{**methods[title], **summary(each)} for title, each in times.items()]


def measure_peak(job: Options) -> Rows:
    """Measures one call: its seconds, and the memory it takes beyond weight and gradient.

    On a CPU, this includes compilation within the call (XLA in TensorFlow).
    """
    mode = job.get("mode", backend.keras_mode())
    methods = energies.functions(job)
    if "sample" in job:
        methods["sampled"] = (energies.sampled(job), True)
    function, gradient = methods[job["name"]]
    # The first use of the libraries takes memory of its own.
    backend.compiled(function, energies.normal_layer(16, 32, 0), mode, gradient)()
    weights = energies.normal_layer(job["dims"], job["neurons"], job["seed"])
    call = backend.compiled(function, weights, mode, gradient)
    seconds: list[float] = []

    def timed() -> Any:
        began = time.perf_counter()
        outputs = call()
        seconds.append(time.perf_counter() - began)
        return outputs

    peak = backend.peak_memory(timed)
    row = {**method(job["name"], mode), "seconds": round(seconds[0], 3)}
    if peak is not None:
        row["memory_mib"] = round(max(0, peak - gradient * weights.nbytes) / 2**20, 1)
    return [row]


def time_step(job: Options) -> Rows:
    """Times a training step of one network without an energy, with MHE, and as published."""
    variants: dict[str, tuple[keras.Regularizer, keras.Regularizer] | None] = {
        "no energy": None,
        "mhe": (mhe.MHE(space="half"), mhe.MHE(space="full")),
        "published": (energies.Published("half"), energies.Published("full")),
    }
    calls: dict[str, Callable[[], None]] = {}
    rows: Rows = []
    for name, regularizers in variants.items():
        keras.utils.set_random_seed(job["seed"])
        model, side, classes = _network(job)
        needed = sum(
            energies.published_bytes(weight.count, "half", "euclidean", backend.keras_mode())
            for weight in neuron_weights(model)
        )
        if name == "published" and needed > job["memory_limit"]:
            rows.append({"method": name, "note": _needs(needed)})
            continue
        if regularizers is not None:
            mhe.attach(model, regularizers[0], head=regularizers[1])
        # A learning rate that leaves the weights nearly unchanged.
        model.compile(
            keras.optimizers.SGD(1e-6, momentum=0.9),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        )
        rng = np.random.default_rng(job["seed"])
        images = rng.standard_normal((job["batch"], side, side, 3), dtype=np.float32)
        labels = rng.integers(classes, size=(job["batch"],))
        calls[name] = _step(model, images, labels)
    times = interleaved(calls, job["rounds"], job["seconds"])
    return rows + [{"method": name, **summary(each)} for name, each in times.items()]


def _network(job: Options) -> tuple[keras.Model, int, int]:
    """Returns a new network, its input's pixels per side, and the number of its classes."""
    if job["model"] == "resnet50":
        side, classes = job["side"] or 224, 1000
        model = keras.applications.ResNet50(
            weights=None, input_shape=(side, side, 3), classifier_activation=None
        )
    else:
        side, classes = job["side"] or 32, 100
        model = models.build(job["model"], (side, side, 3), classes, job["width"])
    return model, side, classes


def _step(model: keras.Model, images: np.ndarray, labels: np.ndarray) -> Callable[[], None]:
    def call() -> None:
        # Returns the loss as a number, so the step is done.
        model.train_on_batch(images, labels)
        backend.wait()

    return call


def _needs(memory: float) -> str:
    return f"needs about {memory / 2**30:.1f} GiB"


def spread_of_samples(job: Options) -> Rows:
    """Measures how far sampled energies lie from the exact one, relative to it."""
    layer = energies.LAYERS[job["kind"]](job["dims"], job["neurons"], job["seed"])
    weights = ops.convert_to_tensor(layer)
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


def deviation_of_estimates(job: Options) -> Rows:
    """Measures how far both estimates from a sample lie from the exact energy, relative to it."""
    layer = energies.LAYERS[job["kind"]](job["dims"], job["neurons"], job["seed"])
    weights = ops.convert_to_tensor(layer)
    options = {name: job[name] for name in ("s", "distance", "space")}
    exact = float(mhe.hyperspherical_energy(weights, **options))
    rows = []
    for name, estimate in (
        ("control variate", sampled_energy),
        ("plain", energies.plain_sampled_energy),
    ):
        draws = np.array(
            [
                float(estimate(weights, job["sample"], seed=i, **options))
                for i in range(job["draws"])
            ]
        )
        rows.append(
            {
                "method": name,
                "exact": exact,
                "bias": float(draws.mean() / exact - 1),
                "deviation": float(draws.std(ddof=1) / abs(exact)),
            }
        )
    return rows


def time_estimate(job: Options) -> Rows:
    """Times value and gradient of the sampled energy and of the exact one, in turn."""
    weights = energies.normal_layer(job["dims"], job["neurons"], job["seed"])
    mode = backend.keras_mode()
    functions = {
        "exact": energies.functions(job)["kernel"][0],
        "sampled": energies.sampled(job),
    }
    calls = {name: backend.compiled(each, weights, mode) for name, each in functions.items()}
    times = interleaved(calls, job["rounds"], job["seconds"], warm_up=False)
    return [{"method": name, **numbers} for name, numbers in compared(times).items()]


def time_family(job: Options) -> Rows:
    """Times value and gradient of MHE and of each of its relatives, in turn."""
    weights = energies.normal_layer(job["dims"], job["neurons"], job["seed"])
    mode = backend.keras_mode()
    calls = {
        name: backend.compiled(each, weights, mode) for name, each in energies.family().items()
    }
    times = interleaved(calls, job["rounds"], job["seconds"])
    return [{"method": name, **numbers} for name, numbers in compared(times).items()]


def answers(job: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Does a job.

    Args:
        job: `task`, one of `TASKS`; its options; and `cases`, each with options of its own.

    Yields:
        First what this process runs on; then the rows of each case.
    """
    job["memory_limit"] = job.get("memory_limit") or 0.75 * backend.free_memory()
    yield {
        "device": backend.device(),
        "version": sys.modules[backend.BACKEND].__version__,
        "memory_limit_gib": round(job["memory_limit"] / 2**30, 1),
    }
    for case in job["cases"]:
        yield {"rows": TASKS[job["task"]](case, job)}


TASKS: dict[str, Callable[[Options, Options], Rows]] = {
    "times": time_case,
    "peak": lambda case, job: measure_peak({**job, **case}),
    "step": lambda case, job: time_step({**job, **case}),
    "deviations": lambda case, job: deviation_of_estimates({**job, **case}),
    "estimates": lambda case, job: time_estimate({**job, **case}),
    "family": lambda case, job: time_family({**job, **case}),
    "sampling": lambda case, job: spread_of_samples({**job, **case}),
}


if __name__ == "__main__":
    for answer in answers(json.load(sys.stdin)):
        print(json.dumps(answer), flush=True)
