"""What is printed while a training runs, on a terminal and elsewhere."""

import io
import re
import sys

import pytest

from mhe.harness import progress
from mhe.harness.runs import Run


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize("kind", [Terminal, io.StringIO])
def test_a_bar_with_an_estimate_on_a_terminal_only(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(sys, "stdout", out := kind())
    run = Run.create(tmp_path, "benchmarks/train.py", {})
    clock = iter([0.0, 100.0, 150.0, 150.05])
    monkeypatch.setattr(progress.time, "perf_counter", lambda: next(clock))
    shown = progress.Progress(run, epochs=2)
    shown.set_params({"steps": 4})
    shown.on_train_begin()
    shown.on_train_batch_end(0)  # 50 s for an eighth of the whole
    shown.on_train_batch_end(1)  # too soon after the last to be drawn
    run.rows.append({"epoch": 1, "loss": 1.25, "energy/conv": 3.0, "seconds": 0.21})
    shown.on_epoch_end(0)
    bar, line = out.getvalue().rsplit("epoch", 1)
    assert line == " 1/2  loss 1.25  0.2 s\n"
    if kind is Terminal:
        assert re.fullmatch(r"\repoch 1/2 \[={7}\.{23}\]  25%, 0:05:50 left\x1b\[K\r\x1b\[K", bar)
    else:
        assert bar == ""
