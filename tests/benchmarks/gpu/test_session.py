"""Sessions: what is measured, what is noted, and how the next sitting goes on."""

import csv
import dataclasses
import doctest
import json
import time

import keras
import pytest

from mhe.harness.errors import BadInput

pytestmark = pytest.mark.one_backend
CARD = {"device": "Some card", "version": "1.0"}


@pytest.fixture
def sessions(gpu):
    return gpu("session")


@pytest.fixture
def part(gpu):
    """A part with cases 0 to 3, whose rows hold ten times the case."""
    cases = [{"size": size, "precision": None} for size in range(4)]
    options = {"rounds": 3}
    keys, measured = ("size", "precision"), ("method", "ratio")
    return gpu("plan").Part("steps", "step", 5, keys, measured, cases, options)


@pytest.fixture
def asked(sessions, monkeypatch):
    """Answers for workers: `jobs` are what they are asked, `ends` how they end at a size."""

    class Asked:
        def __init__(self):
            self.jobs, self.ends = [], {}

        def ask(self, what, arguments, job, environment, seconds):
            assert environment["KERAS_BACKEND"] == "torch"
            self.jobs.append({**job, "allowed": seconds})
            yield CARD
            for case in job["cases"]:
                if case["size"] in self.ends:
                    raise self.ends[case["size"]]
                yield {"rows": [{"method": "mhe", "ratio": 10 * case["size"]}]}

    asked = Asked()
    monkeypatch.setattr(sessions, "ask", asked.ask)
    return asked


def sit(sessions, out, part, seconds=1000.0, end=2000.0):
    session = sessions.Session(str(out), toy=False, seed=3)
    session.start("torch", 60)
    session.measure(part, "torch", time.time() + seconds, time.time() + end)
    with open(out / "steps.csv", newline="", encoding="utf-8") as file:
        return session, list(csv.DictReader(file))


def test_rows_say_what_was_measured_and_on_what(sessions, part, asked, tmp_path):
    session, rows = sit(sessions, tmp_path, part)
    assert list(rows[0]) == ["backend", "device", "size", "precision", "method", "ratio", "note"]
    assert [(row["size"], row["ratio"]) for row in rows] == [
        (str(n), str(10 * n)) for n in range(4)
    ]
    assert {(row["backend"], row["device"]) for row in rows} == {("torch", "Some card")}
    about = json.loads((tmp_path / "session.json").read_text())
    assert about["backends"] == {"torch": CARD}
    assert about["keras"] == keras.__version__
    assert session.left(part, "torch") == []
    assert session.left(part, "jax") == part.cases
    (_, job) = asked.jobs
    assert (job["task"], job["rounds"], job["seed"]) == ("step", 3, 3)


def test_a_session_goes_on_with_what_is_missing(sessions, part, asked, tmp_path):
    asked.ends = {2: sessions.Late("was ended after 9 s")}
    # The time of the session was over, so nothing is wrong with the case.
    _, rows = sit(sessions, tmp_path, part, end=1000.0)
    assert [row["size"] for row in rows] == ["0", "1"]
    asked.ends = {}
    _, rows = sit(sessions, tmp_path, part)
    assert asked.jobs[-1]["cases"] == part.cases[2:]
    assert [row["size"] for row in rows] == ["0", "1", "2", "3"]


def test_a_case_that_holds_up_its_part_is_noted_and_tried_again(sessions, part, asked, tmp_path):
    asked.ends = {1: sessions.Late("was ended after 9 s")}
    session, rows = sit(sessions, tmp_path, part)
    assert 1000 < asked.jobs[-1]["allowed"] <= 1000 + sessions.GRACE
    assert rows[-1]["note"].startswith("failed: not done")
    # Not in this sitting: it would hold up the next part, too.
    assert [case["size"] for case in session.left(part, "torch")] == [2, 3]
    asked.ends = {}
    _, rows = sit(sessions, tmp_path, part)
    assert [(row["size"], row["note"]) for row in rows] == [(n, "") for n in "0123"]


def test_a_killed_worker_costs_one_case(sessions, part, asked, tmp_path):
    asked.ends = {1: sessions.Died("died (signal 9), perhaps out of memory")}
    _, rows = sit(sessions, tmp_path, part)
    assert [row["ratio"] for row in rows] == ["0", "", "20", "30"]
    assert rows[1]["note"] == "died (signal 9), perhaps out of memory"
    asked.jobs.clear()
    sit(sessions, tmp_path, part)
    assert [job["cases"] for job in asked.jobs] == [[]]


def test_an_error_is_noted_and_tried_again(sessions, part, asked, tmp_path):
    asked.ends = {3: RuntimeError("The worker failed:\nTraceback\nValueError: a wrong shape\n")}
    _, rows = sit(sessions, tmp_path, part)
    assert rows[3]["note"] == "failed: ValueError: a wrong shape"
    asked.ends = {}
    _, rows = sit(sessions, tmp_path, part)
    assert rows[3]["note"] == ""
    assert rows[3]["ratio"] == "30"


def test_a_worker_that_does_not_start_is_an_error(sessions, part, monkeypatch, tmp_path):
    def ask(*options):
        raise RuntimeError("The worker failed:\nno such card")
        yield

    session = sessions.Session(str(tmp_path), toy=False, seed=0)
    monkeypatch.setattr(sessions, "ask", ask)
    with pytest.raises(RuntimeError, match="no such card"):
        session.measure(part, "torch", time.time() + 10, time.time() + 10)


def test_peaks_have_a_process_each(sessions, part, asked, tmp_path):
    alone = dataclasses.replace(part, alone=True)
    asked.ends = {0: sessions.Died("died (signal 9)")}
    _, rows = sit(sessions, tmp_path, alone)
    assert [job["cases"] for job in asked.jobs[1:]] == [[case] for case in part.cases]
    assert [row["note"] for row in rows] == ["died (signal 9)", "", "", ""]


def test_nothing_starts_when_the_time_is_over(sessions, part, asked, tmp_path):
    session = sessions.Session(str(tmp_path), toy=False, seed=0)
    session.measure(part, "torch", time.time() - 1, time.time() + 100)
    assert asked.jobs == []


def test_folders_of_anything_else_are_refused(sessions, part, asked, monkeypatch, tmp_path):
    sit(sessions, tmp_path, part)
    with pytest.raises(BadInput, match=r"holds a session with seed 3; .* Received: seed 4"):
        sessions.Session(str(tmp_path), toy=False, seed=4)
    monkeypatch.setitem(CARD, "device", "Another card")
    session = sessions.Session(str(tmp_path), toy=False, seed=3)
    with pytest.raises(BadInput, match="measured on Some card; torch now runs on Another card"):
        session.start("torch", 60)
    monkeypatch.setitem(CARD, "device", "cpu")
    with pytest.raises(BadInput, match="torch finds no GPU; --toy measures"):
        session.start("torch", 60)
    (tmp_path / "session.json").unlink()
    with pytest.raises(BadInput, match="is not empty"):
        sessions.Session(str(tmp_path), toy=False, seed=3)


def test_a_backend_that_does_not_start_in_time(sessions, monkeypatch, tmp_path):
    def ask(*options):
        raise sessions.Late("was ended after 1 s")
        yield

    monkeypatch.setattr(sessions, "ask", ask)
    session = sessions.Session(str(tmp_path), toy=True, seed=0)
    with pytest.raises(BadInput, match="--minutes is too short to start jax, which was ended"):
        session.start("jax", 1)


@pytest.mark.parametrize("name", ["plan", "session", "pictures"])
def test_examples(gpu, name):
    tried = doctest.testmod(gpu(name))
    assert tried.attempted > 0
    assert tried.failed == 0
