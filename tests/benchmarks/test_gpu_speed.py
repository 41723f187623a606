"""The program for GPUs from end to end at toy size, and how it shares its time."""

import csv
import dataclasses
import json
import re

import keras
import pytest

from mhe.harness.flags import program

BACKEND = keras.backend.backend()


@pytest.fixture
def speed(load):
    return load("gpu_speed")


@pytest.fixture
def in_this_process(gpu, monkeypatch):
    """Does what a process of its own would do in this one."""
    worker = gpu("worker")

    def ask(what, arguments, job, environment, seconds):
        assert list(arguments) == ["-m", "gpu.worker"]
        assert environment["KERAS_BACKEND"] == BACKEND
        for answer in worker.worker.answers(json.loads(json.dumps(job)), worker.TASKS):
            yield json.loads(json.dumps(answer))

    monkeypatch.setattr(gpu("session"), "ask", ask)


def read(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.one_backend
def test_a_part_from_end_to_end(speed, in_this_process, tmp_path, capsys):
    out = tmp_path / "gpu"
    flags = ["--toy", "--parts", "distances", "--out", str(out)]
    assert program(speed.main, flags) == 0
    rows = read(out / "distances.csv")
    assert {row["backend"] for row in rows} == {BACKEND}
    assert {(row["placed"], row["gradient"]) for row in rows} == {
        (placed, gradient) for placed in ("near", "far") for gradient in ("True", "False")
    }
    for row in rows:
        low, high = float(row["ratio_low"]), float(row["ratio_high"])
        assert 0 < low <= high
        assert (low == high == 1) == (row["method"] == "product")
    printed = capsys.readouterr().out.splitlines()
    assert re.fullmatch(rf"{BACKEND} distances: 4 of 4 cases in \d+ s", printed[1])
    assert printed[-1] == f"Numbers in {out}"
    assert len((out / "distances.txt").read_text().splitlines()) == len(rows) + 1
    assert (out / "distances.png").exists()

    # A second call finds nothing to do, and changes nothing.
    before = (out / "distances.csv").read_bytes()
    assert program(speed.main, flags) == 0
    assert (out / "distances.csv").read_bytes() == before
    assert "cases in" not in capsys.readouterr().out


@pytest.mark.one_backend
def test_the_other_parts(speed, gpu, in_this_process, monkeypatch, tmp_path, capsys):
    plan = gpu("plan")
    chosen = plan.parts(BACKEND, toy=True)
    energy = chosen[0]
    # One is compiled, and one is in each precision.
    assert [case["compile"] for case in energy.cases][:2] == [BACKEND == "torch", False]
    cases = [{**case, "compile": False} for case in energy.cases]
    steps = dataclasses.replace(chosen[1], cases=chosen[1].cases[1:2])
    parts = [dataclasses.replace(energy, cases=cases), steps, *chosen[2:]]
    monkeypatch.setattr(speed.plan, "parts", lambda backend, toy: parts)
    names = [name for name in plan.NAMES if name != "distances"]
    out = tmp_path / "gpu"
    assert program(speed.main, ["--toy", "--parts", *names, "--out", str(out)]) == 0
    printed = capsys.readouterr().out.splitlines()
    lines = [line.split(":")[0] for line in printed if "cases in" in line]
    assert lines == [f"{BACKEND} {name}" for name in names]
    for name in names:
        rows = read(out / f"{name}.csv")
        assert rows
        assert {row["note"] for row in rows} == {""}
        assert (out / f"{name}.png").stat().st_size > 1000
        assert (out / f"{name}.txt").read_text()
    energies = read(out / "energy.csv")
    assert {row["precision"] for row in energies} == {"tf32", "float32", "bfloat16"}
    assert {row["method"] for row in energies} == {"kernel", "published", "floor"}
    assert {row["ratio"] for row in energies if row["method"] == "floor"} == {"1.0"}
    assert [row["method"] for row in read(out / "steps.csv")] == ["no energy", "mhe", "published"]
    assert [row["method"] for row in read(out / "heads.csv")] == ["softmax", "arcface"]
    assert [row["method"] for row in read(out / "gan.csv")] == ["baseline", "mhe"]
    assert [row["head"] for row in read(out / "head_memory.csv")] == ["softmax", "arcface"]
    assert "tf32, ms" in (out / "energy.txt").read_text()


@pytest.mark.one_backend
def test_time_is_shared_and_what_is_left_goes_round(speed, gpu, monkeypatch, capsys):
    plan = gpu("plan")
    now = [0.0]
    monkeypatch.setattr(speed.time, "time", lambda: now[0])

    class Session:
        """Each case of `slow` takes 400 s, of `fast` 10 s."""

        def __init__(self):
            self.seconds = {"slow": 400, "fast": 10}
            self.cases = {"slow": [{}] * 3, "fast": [{}] * 2, "never": []}
            self.calls = []

        def left(self, part, backend):
            return self.cases[part.name]

        def rows(self, part):
            return [{"backend": "torch", "note": "out of memory"}] if part.name == "fast" else []

        def measure(self, part, backend, until, end):
            self.calls.append((part.name, now[0], until))
            while self.cases[part.name] and now[0] < until:
                self.cases[part.name] = self.cases[part.name][1:]
                now[0] += self.seconds[part.name]

    parts = [
        plan.Part(name, "", share, (), (), [], {})
        for name, share in (("slow", 1), ("fast", 3), ("never", 5))
    ]
    session = Session()
    speed.measure(session, "torch", parts, end=1000.0)
    # A part that is done has no share, and the first part gets what the second leaves.
    assert session.calls == [("slow", 0, 250), ("fast", 400, 1000), ("slow", 420, 1000)]
    assert capsys.readouterr().out.splitlines() == [
        "torch slow: 1 of 3 cases in 400 s",
        "torch fast: 2 of 2 cases in 20 s; 1 out of memory",
        "torch slow: 2 of 2 cases in 800 s",
    ]


@pytest.mark.one_backend
def test_a_cpu_is_refused_without_toy(speed, in_this_process, gpu, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(gpu("worker").worker.backend, "device", lambda: "cpu")
    assert program(speed.main, ["--out", str(tmp_path / "new")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{BACKEND} finds no GPU; --toy measures something small on the CPU" in line
    monkeypatch.setattr(speed, "INSTALLED", ["jax"])
    assert program(speed.main, ["--backends", "tensorflow", "--out", str(tmp_path / "new")]) == 2
    assert "--backends tensorflow is not installed" in capsys.readouterr().err
