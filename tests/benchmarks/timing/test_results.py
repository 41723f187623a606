"""Measuring in processes of their own: one that dies costs a case, and the progress is shown."""

import sys

import pytest

pytestmark = pytest.mark.one_backend


@pytest.fixture
def results(part):
    return part("results")


def fake_worker(tmp_path, body):
    path = tmp_path / "fake.py"
    path.write_text(
        "import json, os, sys, signal\n"
        "cases = json.load(sys.stdin)['cases']\n"
        "print(json.dumps({'device': 'cpu'}), flush=True)\n"
        f"for case in cases:\n    {body}\n"
        "    print(json.dumps({'rows': [{'median_ms': case['neurons']}]}), flush=True)\n"
    )
    return str(path)


CASES = [{"dims": 8, "neurons": n} for n in (3, 4, 5)]


def test_a_killed_process_costs_one_case(results, tmp_path, monkeypatch):
    dies = "if case['neurons'] == 4: os.kill(os.getpid(), signal.SIGKILL)"
    monkeypatch.setattr(results, "WORKER", [fake_worker(tmp_path, dies)])
    output = results.Results(str(tmp_path / "out"), {})
    with results.progress(3) as bar:
        rows = [row for (row,) in output.measure("jax", {}, CASES, bar)]
    assert [row["neurons"] for row in rows] == [3, 4, 5]
    assert [row.get("median_ms") for row in rows] == [3, None, 5]
    assert rows[1]["note"] == "died (signal 9), perhaps out of memory"


def test_a_defect_keeps_its_words(results, tmp_path, monkeypatch):
    fails = "raise KeyError('lost')"
    monkeypatch.setattr(results, "WORKER", [fake_worker(tmp_path, fails)])
    output = results.Results(str(tmp_path / "out"), {})
    with (
        results.progress(3) as bar,
        pytest.raises(RuntimeError, match=r"The worker on jax failed(.|\n)*KeyError: 'lost'"),
    ):
        list(output.measure("jax", {}, CASES, bar))


def test_progress_is_for_terminals(results, monkeypatch, capsys):
    for terminal in (False, True):
        monkeypatch.setattr(sys.stderr, "isatty", lambda shown=terminal: shown, raising=False)
        with results.progress(3) as bar:
            bar.start_t = getattr(bar, "start_t", 0.0) - 600
            for done in range(1, 3):
                bar.set_description_str(f"jax 16x{8 * done}")
                bar.update()
        shown = capsys.readouterr().err
        assert bool(shown) == terminal
    assert "1/3 jax 16x16, 20:00 left" in shown
    assert shown.endswith("\r")
