"""Processes that measure: how their ends are told."""

import time

import pytest

pytestmark = pytest.mark.one_backend


@pytest.fixture
def processes(part):
    return part("processes")


def test_a_process_is_ended_when_its_time_is_over(processes):
    code = "import time; print(1, flush=True); time.sleep(600)"
    began = time.monotonic()
    answers = processes.ask("Sleep", ["-c", code], seconds=20)
    assert next(answers) == 1
    with pytest.raises(processes.Late, match="was ended after 20 s"):
        next(answers)
    assert time.monotonic() - began < 300


def test_a_process_that_ends_in_time_is_not_late(processes):
    assert list(processes.ask("Echo", ["-c", "print(2)"], seconds=600)) == [2]
    with pytest.raises(processes.Died, match="signal 9"):
        list(processes.ask("Dies", ["-c", "import os; os.kill(os.getpid(), 9)"], seconds=600))
    with pytest.raises(RuntimeError, match=r"Fails failed:(?s:.*)no such thing"):
        list(processes.ask("Fails", ["-c", "raise KeyError('no such thing')"], seconds=600))
