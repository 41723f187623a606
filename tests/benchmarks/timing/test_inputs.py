"""Rates are batches over seconds, without the first batches, within which Keras compiles."""

import numpy as np
import pytest

pytestmark = pytest.mark.one_backend


def test_the_rate_counts_batches_after_those_that_compile(part, monkeypatch):
    inputs = part("inputs")
    readings = iter(np.arange(100.0))  # a second per batch
    monkeypatch.setattr(inputs.time, "perf_counter", lambda: next(readings))
    counter = inputs.BatchRate(seconds=10)
    counted = 0
    while not counter.over:
        counter.count()
        counted += 1
    assert counted == inputs.WARM_UP + 10
    assert counter.rate == 1


def test_batches_alone_begin_the_first_epoch_again(part):
    inputs = part("inputs")
    batches = inputs.Batches(np.zeros((6, 8, 8, 3), "uint8"), np.arange(6), 2)
    assert inputs.rate_alone(batches, seconds=0.01) > 0
    assert batches.epoch == 0
