"""The speed program: what it compares is right, how it measures is fair, what it prints is so."""

import csv
import doctest
import functools
import itertools
import json
import math
import re
from pathlib import Path

import keras
import numpy as np
import pytest

import mhe
from mhe.harness.errors import BadInput
from mhe.harness.flags import program

BACKEND = keras.backend.backend()
VARIANTS = [
    (0, "euclidean", "full"),
    (1, "euclidean", "half"),
    (2, "euclidean", "half"),
    (3, "euclidean", "full"),
    (0, "angle", "half"),
    (1, "angle", "full"),
    (2, "angle", "full"),
    (3, "angle", "half"),
]
SMALL = ("--backends", BACKEND, "--rounds", "3", "--seconds", "0.01")
# A process for each backend is what these take; one backend's tells whether the program is right.
on_one_backend = pytest.mark.skipif(
    BACKEND != "tensorflow", reason="the program is the same; what differs is tested by itself"
)


@pytest.fixture
def backend(load):
    return load("backend", PROGRAMS / "timing")


@pytest.fixture
def worker(backend, load):
    return load("worker", PROGRAMS / "timing")


@pytest.fixture
def report(load):
    return load("report", PROGRAMS / "timing")


@pytest.fixture
def speed(report, load):
    return load("speed")


def draw(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def read(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


# --- what is compared ---------------------------------------------------------------------------


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_published_formula_is_the_same_energy(variant, backend, worker, reference_energy):
    weights = draw(12, 7)
    calls = worker.functions(dict(zip(("s", "distance", "space"), variant, strict=True)))
    value, gradient = backend.compiled(calls["published"][0], weights)()
    expected = reference_energy(weights.T, *variant)
    # In half space it has to stop short of the angle of opposite neurons.
    assert float(value) == pytest.approx(expected, rel=1e-3)
    own, own_gradient = backend.compiled(calls["kernel"][0], weights)()
    assert float(own) == pytest.approx(expected, rel=1e-5)
    gradient, own_gradient = map(keras.ops.convert_to_numpy, (gradient, own_gradient))
    np.testing.assert_allclose(gradient, own_gradient, atol=1e-3 * np.abs(own_gradient).max())


def test_every_mode_computes_the_same(backend, worker):
    weights = draw(6, 5)
    assert backend.modes()[0] == ""
    assert backend.keras_mode() in backend.modes()
    for mode in backend.modes():
        (product,) = backend.compiled(worker.two_products, weights, mode, gradient=False)()
        expected = weights @ (weights.T @ weights)
        np.testing.assert_allclose(keras.ops.convert_to_numpy(product), expected, rtol=1e-4)
        value, gradient = backend.compiled(lambda w: keras.ops.sum(w * w), weights, mode)()
        assert float(value) == pytest.approx((weights**2).sum())
        np.testing.assert_allclose(keras.ops.convert_to_numpy(gradient), 2 * weights, rtol=1e-5)


def test_clusters_are_as_close_as_they_claim(worker):
    weights = worker.clustered_layer(2000, 40, seed=0, clusters=2)
    units = weights / np.linalg.norm(weights, axis=0)
    cosines = (units.T @ units)[np.triu_indices(40, 1)]
    near = cosines > 0.15
    assert 0.3 < near.mean() < 0.7
    assert cosines[near].mean() == pytest.approx(0.3, abs=0.02)
    assert cosines[~near].mean() == pytest.approx(0, abs=0.03)
    assert np.array_equal(weights, worker.clustered_layer(2000, 40, seed=0, clusters=2))


def test_published_regularizer_is_the_half_space_energy(worker):
    kernel = draw(3, 3, 2, 6)
    value = float(worker.Published("half")(keras.ops.convert_to_tensor(kernel)))
    assert value == pytest.approx(float(mhe.MHE()(kernel)), rel=1e-4)


# --- how it is measured -------------------------------------------------------------------------


def test_calls_take_turns(worker):
    order = []
    calls = {name: functools.partial(order.append, name) for name in "abc"}
    times = worker.interleaved(calls, rounds=4, seconds=10)
    assert "".join(order) == "abc" + "abc" + "bca" + "cab" + "abc"
    assert {name: each.shape for name, each in times.items()} == dict.fromkeys("abc", (4,))


def test_times_stop_when_the_seconds_are_over(worker):
    times = worker.interleaved({"a": lambda: None}, rounds=100, seconds=0)
    assert len(times["a"]) == worker.FEWEST_ROUNDS


def test_peak_memory_sees_what_a_call_takes(backend):
    if backend.device() != "cpu":
        pytest.skip("NumPy's memory is not the device's")

    def call():
        return np.ones(48 * 2**20, np.uint8)

    if Path("/proc/self/clear_refs").exists():
        assert 47 < backend.peak_memory(call) / 2**20 < 60
        # The first peak is forgotten.
        assert backend.peak_memory(lambda: None) / 2**20 < 10
    else:
        assert backend.peak_memory(call) is None


CASE = {"dims": 16, "neurons": 12, "space": "half", "distance": "euclidean", "s": 2}
JOB = {"rounds": 3, "seconds": 0.01, "memory_limit": 2**30, "seed": 0}


def test_published_formula_is_left_out_where_it_does_not_fit(worker):
    for limit, missing in ((2**30, set()), (1, {"published"})):
        rows = worker.time_case(CASE, {**JOB, "memory_limit": limit})
        assert {row["name"] for row in rows} == {"kernel", "published", "floor"}
        assert {row["name"] for row in rows if "note" in row} == missing
        assert all("median_ms" in row or row["note"] == "needs about 0.0 GiB" for row in rows)
        assert {row["mode"] for row in rows} == set(worker.backend.modes())


def test_running_out_of_memory_costs_only_the_published_formula(worker, monkeypatch):
    def exhausted(weights, **options):
        raise MemoryError("no memory")

    # Fails when it is called, after it was compiled.
    compiled = worker.backend.compiled
    monkeypatch.setattr(worker, "published_energy", exhausted)
    monkeypatch.setattr(
        worker.backend,
        "compiled",
        lambda function, *options: lambda: compiled(function, *options)(),
    )
    rows = worker.time_case(CASE, JOB)
    noted = {row["name"]: row.get("note") for row in rows}
    assert noted == {"kernel": None, "published": "out of memory", "floor": None}


def test_step_of_a_network_with_and_without_energies(worker, monkeypatch):
    built = []

    def small(arch, shape, classes, width):
        layers = [keras.layers.Conv2D(4, 3, use_bias=False), keras.layers.Flatten()]
        built.append(keras.Sequential([keras.Input(shape), *layers, keras.layers.Dense(classes)]))
        return built[-1]

    monkeypatch.setattr(worker.models, "build", small)
    job = {**JOB, "rounds": 1, "model": "cnn9", "batch": 2, "side": 8, "width": 1.0}
    rows = worker.time_step(job)
    assert [row["method"] for row in rows] == ["no energy", "mhe", "published"]
    assert all(row["median_ms"] > 0 for row in rows)
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

    tight = worker.time_step({**job, "memory_limit": 1})
    assert {row["method"]: "note" in row for row in tight} == {
        "published": True,
        "no energy": False,
        "mhe": False,
    }


@on_one_backend
def test_sampled_energies_scatter_about_the_exact_one(worker):
    job = {"kind": "random", "dims": 8, "neurons": 60, "space": "half", "draws": 30, "seed": 0}
    few, many, every = (worker.spread_of_samples({**job, "sample": k})[0] for k in (5, 40, 60))
    weights = worker.normal_layer(8, 60, 0)
    assert few["exact"] == pytest.approx(float(mhe.hyperspherical_energy(weights, space="half")))
    assert few["deviation"] > 2 * many["deviation"] > 0
    assert abs(many["bias"]) < 4 * many["deviation"] / math.sqrt(30)
    assert abs(every["bias"]) < 1e-6
    assert every["deviation"] < 1e-6


# --- what is printed ----------------------------------------------------------------------------


def timed(method, ms, layer=(512, 4096), space="half", distance="euclidean", s=2, own=True, **more):
    case = {"backend": "tensorflow", "dims": layer[0], "neurons": layer[1], "space": space}
    name = method.split(" ")[0]
    row = {**case, "distance": distance, "s": s, "name": name, "method": method, "as_keras": own}
    return {**row, **({} if ms is None else {"median_ms": ms}), **more}


def test_ratios_take_the_better_rival_and_the_kernel_that_keras_runs(report):
    rows = [
        timed("kernel", 10.0),
        timed("kernel (XLA)", 2.0, own=False),
        timed("published", 90.0),
        timed("published (XLA)", 60.0, own=False),
        timed("floor", 8.0),
        timed("floor (XLA)", 5.0, own=False),
    ]
    (case,) = report.compare(rows)
    assert (case["speedup"], case["over_floor"]) == (6.0, 2.0)
    (case,) = report.compare([timed("published", None, note="needs about 99.0 GiB"), *rows[:2]])
    assert (case["speedup"], case["over_floor"]) == (None, None)
    assert case["notes"] == {"published": "needs about 99.0 GiB"}


def test_table_shows_times_ratios_memory_and_what_is_missing(report):
    rows = [
        timed("kernel", 10.0, memory_mib=64.2),
        timed("published", None, note="out of memory"),
        timed("floor", 8.0),
    ]
    head, line, note = report.table(report.compare(rows)).splitlines()
    assert head.split()[:4] == ["layer", "energy", "kernel", "floor"]
    assert line.split() == ["512x4096", "half", "2", "10", "8", "-", "1.25", "64"]
    assert note == "512x4096 half 2, published: out of memory"


def test_targets_are_judged_by_the_worst_case(report):
    rows = []
    for s, own, rival in ((0, 10.0, 50.0), (1, 30.0, 99.0), (2, 10.0, 80.0)):
        rows += [
            timed("kernel", own, s=s),
            timed("published", rival, s=s),
            timed("floor", 8.0, s=s),
        ]
    rows += [timed("kernel", 1.0, (576, 64)), timed("published", 1.5, (576, 64))]
    lines = report.targets(report.compare(rows)).splitlines()
    asked = {line.split("  ")[0]: line.split() for line in lines[1:]}
    assert asked["half space, 512x4096"][-6:] == ["3.30", "512x4096", "half", "1", "5.00", "missed"]
    assert asked["small layer, 576x64"][-6:] == ["1.50", "576x64", "half", "2", "1.50", "met"]
    # s = 1, the slowest, is not among what is asked.
    floor = asked["Euclidean, s = 0 and 2, N >= 512"]
    assert (floor[-6], floor[-1]) == ("1.25", "met")
    assert asked["full space, the same"][-2:] == ["not", "measured"]


def test_figure_has_a_row_of_panels_for_each_backend(report, tmp_path):
    rows = [timed("kernel", 10.0), timed("published", 90.0), timed("floor", 8.0)]
    cases = report.compare([*rows, *({**row, "backend": "jax"} for row in rows)])
    heights = []
    for shown in (cases[:1], cases):
        report.draw(shown, tmp_path / "speed.png")
        data = (tmp_path / "speed.png").read_bytes()
        assert data[:8] == b"\x89PNG\r\n\x1a\n"
        heights.append(int.from_bytes(data[20:24], "big"))
    assert heights[1] > 1.5 * heights[0]


# --- the program --------------------------------------------------------------------------------


@on_one_backend
def test_table_from_end_to_end(speed, tmp_path, capsys):
    out = tmp_path / "speed"
    flags = ["--layers", "16x8", "16x12", "--spaces", "half", "--powers", "0", "2"]
    speed.main([*SMALL, *flags, "--distances", "angle", "--peaks", "none", "--out", str(out)])
    rows = read(out / "speed.csv")
    layers = [(row["dims"], row["neurons"], row["s"]) for row in rows]
    assert list(dict.fromkeys(layers)) == list(itertools.product(["16"], ["8", "12"], ["0", "2"]))
    assert all(row["rounds"] == "3" and float(row["median_ms"]) > 0 for row in rows)
    assert {row["backend"] for row in rows} == {BACKEND}
    machine = json.loads((out / "machine.json").read_text())
    assert machine["keras"] == keras.__version__
    assert machine["backends"][BACKEND]["device"] == rows[0]["device"]
    assert (out / "speed.png").exists()
    printed = capsys.readouterr()
    assert "16x12  half a2" in printed.out
    assert "not measured" in printed.out
    # Its errors do not go to a terminal here, so it shows no progress.
    assert "left" not in printed.err


@on_one_backend
def test_peaks_are_measured_for_what_was_timed(speed, tmp_path, capsys):
    out = tmp_path / "speed"
    flags = ["--layers", "64x600", "--spaces", "full", "--distances", "euclidean"]
    flags += ["--powers", "0", "2", "--memory_limit", "1e-9", "--out", str(out)]
    speed.main([*SMALL, *flags])
    rows = {(row["method"], row["s"]): row for row in read(out / "speed.csv")}
    assert "MiB kernel" in capsys.readouterr().out
    assert rows["published", "2"]["note"] == "needs about 0.0 GiB"
    # One energy is enough, the last, and the floor is no energy.
    assert rows["kernel", "0"]["memory_mib"] == rows["floor", "2"]["memory_mib"] == ""
    square = 4 * 600**2 / 2**20
    assert square / 2 < float(rows["kernel", "2"]["memory_mib"]) < 40 * square


@on_one_backend
def test_memory_of_wide_layers(speed, tmp_path, capsys):
    out = tmp_path / "memory"
    speed.main(["--backends", BACKEND, "--memory", "16x3000", "--out", str(out)])
    (row,) = read(out / "memory.csv")
    assert (row["dims"], row["neurons"], row["note"]) == ("16", "3000", "")
    assert float(row["seconds"]) > 0
    assert float(row["memory_mib"]) > 0
    assert "16x3000" in capsys.readouterr().out


def fake_worker(tmp_path, body):
    path = tmp_path / "worker.py"
    path.write_text(
        "import json, os, sys, signal\n"
        "cases = json.load(sys.stdin)['cases']\n"
        "print(json.dumps({'device': 'cpu'}), flush=True)\n"
        f"for case in cases:\n    {body}\n"
        "    print(json.dumps({'rows': [{'median_ms': case['neurons']}]}), flush=True)\n"
    )
    return path


CASES = [{"dims": 8, "neurons": n} for n in (3, 4, 5)]


def test_a_killed_process_costs_one_case(speed, tmp_path, monkeypatch):
    dies = "if case['neurons'] == 4: os.kill(os.getpid(), signal.SIGKILL)"
    monkeypatch.setattr(speed, "WORKER", fake_worker(tmp_path, dies))
    results = speed.Results(tmp_path / "out")
    rows = [row for (row,) in results.measure("jax", {}, CASES, speed.Progress(3))]
    assert [row["neurons"] for row in rows] == [3, 4, 5]
    assert [row.get("median_ms") for row in rows] == [3, None, 5]
    assert rows[1]["note"] == "died (signal 9), perhaps out of memory"


def test_a_defect_keeps_its_words(speed, tmp_path, monkeypatch):
    fails = "raise KeyError('lost')"
    monkeypatch.setattr(speed, "WORKER", fake_worker(tmp_path, fails))
    results = speed.Results(tmp_path / "out")
    with pytest.raises(RuntimeError, match="failed on jax"):
        list(results.measure("jax", {}, CASES, speed.Progress(3)))


def test_progress_is_for_terminals(speed, monkeypatch, capsys):
    monkeypatch.setattr(speed.sys.stderr, "isatty", lambda: True, raising=False)
    show = speed.Progress(3)
    show.began -= 600
    show.begin("jax 16x8")
    show.done("jax 16x12")
    show.done("jax 16x16")
    show.done("jax")
    shown = [line.removesuffix("\x1b[K") for line in capsys.readouterr().err.split("\r")]
    assert shown == [
        *("", "1/3 jax 16x8", "2/3 jax 16x12, about 20 min left"),
        *("3/3 jax 16x16, about 5 min left", ""),
    ]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--layers", "512"], "--layers: must be dimensions x neurons, .* Received: 512"),
        (["--memory", "0x64"], "--memory: must be dimensions x neurons"),
        (["--backends", "numpy"], "--backends: invalid choice: 'numpy'"),
        (["--powers", "-1"], "--powers: must be a finite number of at least 0"),
        (["--spaces", "quarter"], "--spaces: invalid choice"),
        (["--step", "vgg"], "--step: invalid choice"),
        (["--rounds", "0"], "--rounds: must be an integer"),
        (["--out", "{full}"], "is not empty, and nothing in it is overwritten"),
    ],
    ids=str,
)
def test_bad_input_is_one_line(flags, words, speed, tmp_path, capsys):
    (tmp_path / "kept.txt").write_text("kept")
    flags = [flag.format(full=tmp_path) for flag in flags]
    assert program(speed.main, ["--out", str(tmp_path / "new"), *flags]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(words, line)
    assert [path.name for path in tmp_path.iterdir()] == ["kept.txt"]


def test_backends_that_are_not_installed_are_refused(speed, monkeypatch, tmp_path):
    monkeypatch.setattr(speed, "INSTALLED", ["jax"])
    with pytest.raises(BadInput, match=r"--backends torch is not installed\. Installed: jax"):
        speed.main(["--backends", "jax", "torch", "--out", str(tmp_path / "new")])


def test_flags_without_numbers_take_the_published_ones(speed):
    flags = vars(speed.make_parser().parse_args(["--step", "--sampling"]))
    assert flags["step"] == flags["sampling"] == []
    assert not {"memory", "memory_limit", "step_batch"} & flags.keys()
    assert "512x10575" in flags["layers"]


def test_examples_run(backend, worker, report, speed):
    for module in (backend, worker, report, speed):
        tried = doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE)
        assert tried.attempted > 0
        assert tried.failed == 0
