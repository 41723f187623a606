"""Measures on one backend, in a process of its own: `python -m timing.worker` in `benchmarks/`.

It reads a job as JSON from its input and answers on its output, one JSON line per result.
"""

import contextlib
import json
import math
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
from mhe.text import brief
from timing import backend, energies
from timing.rounds import compared, interleaved, paired

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
    extra = (backend.TORCH_COMPILE,) if case.get("compile") and backend.BACKEND == "torch" else ()
    for name, (function, gradient) in energies.functions(case).items():
        for mode in (*backend.modes(), *(extra if name == "published" else ())):
            this = method(name, mode)
            needed = energies.published_bytes(
                case["neurons"], case["space"], case["distance"], mode
            )
            if name == "published" and needed > job["memory_limit"]:
                rows.append({**this, "note": _needs(needed)})
                continue
            call = backend.compiled(function, weights, mode, gradient)
            failed = _fails_to_compile(call) if mode == backend.TORCH_COMPILE else None
            if failed is not None:
                rows.append({**this, "note": failed})
                continue
            methods[this["method"]] = this
            calls[this["method"]] = call
    while True:
        try:
            times = interleaved(calls, job["rounds"], job["seconds"], seed=job.get("order"))
            break
        except Exception as error:
            # Only the published formula takes gigabytes of memory.
            heavy = [title for title in calls if methods[title]["name"] == "published"]
            if not heavy or not backend.is_out_of_memory(error):
                raise
            for title in heavy:
                del calls[title]
                rows.append({**methods[title], "note": "out of memory"})
    floor = next(title for title in times if methods[title]["name"] == "floor")
    return rows + [{**methods[title], **each} for title, each in paired(times, floor).items()]


def _fails_to_compile(call: Callable[[], Any]) -> str | None:
    """Returns a note if the call that compiles fails, as without a compiler for C++ or Triton."""
    try:
        call()
    except Exception as error:
        if backend.is_out_of_memory(error):
            return "out of memory"
        return f"{backend.TORCH_COMPILE} failed: {type(error).__name__}: {brief(error, 200)}"
    return None


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
    """Times a training step of one network without an energy, with MHE, and as published.

    The energy of `job["sample"]` neurons takes the place of the exact one if that is given, and
    `job["policy"]` is Keras's policy of dtypes. Ratios are to the step without an energy.
    """
    sample = job.get("sample")
    variants: dict[str, tuple[keras.Regularizer, keras.Regularizer] | None] = {
        "no energy": None,
        "mhe": (mhe.MHE(space="half", sample=sample), mhe.MHE(space="full", sample=sample)),
        "published": (energies.Published("half"), energies.Published("full")),
    }
    calls: dict[str, Callable[[], None]] = {}
    rows: Rows = []
    for name, regularizers in variants.items():
        keras.utils.set_random_seed(job["seed"])
        model = _network(job)
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
        shape, classes = model.input_shape[1:], model.output_shape[-1]
        inputs = rng.standard_normal((job["batch"], *shape), dtype=np.float32)
        labels = rng.integers(classes, size=(job["batch"],))
        calls[name] = step(model, inputs, labels)
    times = interleaved(calls, job["rounds"], job["seconds"], seed=job.get("order"))
    return rows + [{"method": name, **each} for name, each in paired(times, "no energy").items()]


def _network(job: Options) -> keras.Model:
    """Returns a new network that ends in logits."""
    with _policy(job.get("policy")):
        if job["model"] == "head":
            head = keras.layers.Dense(job["classes"], use_bias=False)
            return keras.Sequential([keras.Input((job["dims"],)), head])
        if job["model"] == "resnet50":
            side = job["side"] or 224
            return keras.applications.ResNet50(
                weights=None, input_shape=(side, side, 3), classifier_activation=None
            )
        side = job["side"] or 32
        return models.build(job["model"], (side, side, 3), 100, job["width"])


@contextlib.contextmanager
def _policy(name: str | None) -> Iterator[None]:
    """Builds layers under a policy of dtypes, if any."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(name or before)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def step(model: keras.Model, inputs: np.ndarray, labels: np.ndarray | None) -> Callable[[], None]:
    """Returns a function without arguments that trains a compiled model on a batch, and waits."""
    on_device = ops.convert_to_tensor(inputs)

    def call() -> None:
        # Returns the loss as a number, so the step is done.
        model.train_on_batch(on_device, labels)
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


def answers(
    job: dict[str, Any], tasks: Mapping[str, Callable[[Options, Options], Rows]] | None = None
) -> Iterator[dict[str, Any]]:
    """Does a job.

    Args:
        job: `task`, one of the tasks; its options; and `cases`, each with options of its own, such
            as the `precision` of products. No case starts after `until`, in seconds since 1970.
        tasks: What can be done, by name; `TASKS` by default.

    Yields:
        First what this process runs on; then the rows of each case. One that runs out of memory has
        a row with a note.
    """
    job["memory_limit"] = job.get("memory_limit") or 0.75 * backend.free_memory()
    yield {
        "device": backend.device(),
        **backend.versions(),
        "memory_limit_gib": round(job["memory_limit"] / 2**30, 1),
    }
    task = (tasks or TASKS)[job["task"]]
    for case in job["cases"]:
        if time.time() > job.get("until", math.inf):
            return
        try:
            with backend.precision(case.get("precision", "")):
                rows = task(case, job)
        except Exception as error:
            if not backend.is_out_of_memory(error):
                raise
            rows = [{"note": "out of memory"}]
        backend.release_memory()
        yield {"rows": rows}


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
