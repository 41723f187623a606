"""The worker: what it measures, what it leaves out, and what memory it expects."""

import math
import time

import keras
import numpy as np
import pytest

import mhe


@pytest.fixture
def worker(part):
    return part("worker")


CASE = {"dims": 16, "neurons": 12, "space": "half", "distance": "euclidean", "s": 2}
JOB = {"rounds": 3, "seconds": 0.01, "memory_limit": 2**30, "seed": 0}


def test_published_formula_is_left_out_where_it_does_not_fit(worker):
    for limit, missing in ((2**30, set()), (1, {"published"})):
        rows = worker.time_case(CASE, {**JOB, "memory_limit": limit})
        assert {row["name"] for row in rows} == {"kernel", "published", "floor"}
        assert {row["name"] for row in rows if "note" in row} == missing
        assert all("median_ms" in row or row["note"] == "needs about 0.0 GiB" for row in rows)
        assert {row["mode"] for row in rows} == set(worker.backend.modes())


@pytest.mark.one_backend
def test_running_out_of_memory_costs_only_the_published_formula(worker, monkeypatch):
    def exhausted(weights, **options):
        raise MemoryError("no memory")

    # Fails when it is called, after it was compiled.
    compiled = worker.backend.compiled
    monkeypatch.setattr(worker.energies, "published_energy", exhausted)
    monkeypatch.setattr(
        worker.backend,
        "compiled",
        lambda function, *options: lambda: compiled(function, *options)(),
    )
    rows = worker.time_case(CASE, JOB)
    noted = {row["name"]: row.get("note") for row in rows}
    assert noted == {"kernel": None, "published": "out of memory", "floor": None}


@pytest.mark.one_backend
def test_a_case_without_memory_is_noted_and_none_starts_late(worker):
    def task(case, job):
        if case["size"] == 1:
            raise RuntimeError("CUDA out of memory. Tried to allocate 40 GiB")
        if case["size"] == 2:
            raise ValueError("a wrong shape")
        return [{"size": case["size"], "seed": job["seed"]}]

    job = {"task": "sizes", "seed": 7, "cases": [{"size": size} for size in range(3)]}
    answers = worker.answers(job, {"sizes": task})
    assert next(answers)["version"] == worker.backend.versions()["version"]
    assert next(answers) == {"rows": [{"size": 0, "seed": 7}]}
    assert next(answers) == {"rows": [{"note": "out of memory"}]}
    with pytest.raises(ValueError, match="a wrong shape"):
        next(answers)
    assert len(list(worker.answers({**job, "until": time.time() - 1}, {"sizes": task}))) == 1


@pytest.mark.one_backend
def test_the_published_formula_is_compiled_where_asked_for(worker, monkeypatch):
    if worker.backend.BACKEND != "torch":
        pytest.skip("torch.compile is PyTorch's")
    import torch

    compiled = []

    def compile(function, dynamic):
        compiled.append(dynamic)
        return function

    monkeypatch.setattr(torch, "compile", compile)
    rows = worker.time_case({**CASE, "compile": True}, {**JOB, "order": 0})
    assert compiled == [False]
    assert [row["method"] for row in rows] == [
        *("kernel", "published", "published (torch.compile)", "floor"),
    ]
    assert [row["ratio"] for row in rows if row["name"] == "floor"] == [1.0]

    def refuse(function, dynamic):
        def call(weights):
            raise RuntimeError("no compiler")

        return call

    monkeypatch.setattr(torch, "compile", refuse)
    first, *others = worker.time_case({**CASE, "compile": True}, JOB)
    assert first["note"] == "torch.compile failed: RuntimeError: no compiler"
    assert all("median_ms" in row for row in others)


@pytest.mark.one_backend
def test_step_of_a_network_with_and_without_energies(worker, monkeypatch, clock):
    built = []

    def small(arch, shape, classes, width):
        layers = [keras.layers.Conv2D(4, 3, use_bias=False), keras.layers.Flatten()]
        built.append(keras.Sequential([keras.Input(shape), *layers, keras.layers.Dense(classes)]))
        return built[-1]

    monkeypatch.setattr(worker.models, "build", small)
    job = {**JOB, "rounds": 1, "model": "cnn9", "batch": 2, "side": 8, "width": 1.0}
    rows = worker.time_step(job)
    assert [row["method"] for row in rows] == ["no energy", "mhe", "published"]
    # The first reading is for the end; the steps are between the 2nd and 3rd, 4th and 5th, ….
    assert [row["median_ms"] for row in rows] == [5000.0, 9000.0, 13000.0]
    plain, having, published = built
    assert plain.losses == []
    own, rival = (
        [float(keras.ops.convert_to_numpy(loss)) for loss in model.losses]
        for model in (having, published)
    )
    assert len(own) == 2
    np.testing.assert_allclose(own, rival, rtol=1e-3)
    # Every call was a step: one to warm up, one that was timed.
    assert {int(model.optimizer.iterations) for model in built} == {2}

    # A head alone, with the energy of a sample, under a policy that is gone afterwards.
    head = {**job, "model": "head", "dims": 6, "classes": 9, "sample": 4}
    rows = worker.time_step({**head, "policy": "mixed_bfloat16", "order": 0})
    assert [row["method"] for row in rows] == ["no energy", "mhe", "published"]
    assert rows[0]["ratio"] == 1.0
    assert keras.config.dtype_policy().name == "float32"

    tight = worker.time_step({**job, "memory_limit": 1})
    assert {row["method"]: "note" in row for row in tight} == {
        "published": True,
        "no energy": False,
        "mhe": False,
    }


@pytest.mark.one_backend
def test_sampled_energies_scatter_about_the_exact_one(worker):
    job = {"kind": "random", "dims": 8, "neurons": 60, "space": "half", "draws": 30, "seed": 0}
    few, many, every = (worker.spread_of_samples({**job, "sample": k})[0] for k in (5, 40, 60))
    weights = worker.energies.normal_layer(8, 60, 0)
    assert few["exact"] == pytest.approx(float(mhe.hyperspherical_energy(weights, space="half")))
    assert few["deviation"] > 2 * many["deviation"] > 0
    assert abs(many["bias"]) < 4 * many["deviation"] / math.sqrt(30)
    assert abs(every["bias"]) < 1e-6
    assert every["deviation"] < 1e-6
