"""Calls are timed in turn and within bounds."""

import functools

import numpy as np
import pytest

pytestmark = pytest.mark.one_backend


@pytest.fixture
def rounds(part):
    return part("rounds")


def test_calls_take_turns(rounds):
    order = []
    calls = {name: functools.partial(order.append, name) for name in "abc"}
    times = rounds.interleaved(calls, rounds=4, seconds=10)
    assert "".join(order) == "abc" + "abc" + "bca" + "cab" + "abc"
    assert {name: each.shape for name, each in times.items()} == dict.fromkeys("abc", (4,))


def test_a_seed_draws_the_order_of_each_round(rounds):
    order = []
    calls = {name: functools.partial(order.append, name) for name in "abc"}
    rounds.interleaved(calls, rounds=60, seconds=1000, seed=1)
    turns = ["".join(order[at : at + 3]) for at in range(3, len(order), 3)]
    assert len(turns) == 60
    # Every order comes up, and each round has every call once.
    assert set(turns) == {"abc", "acb", "bac", "bca", "cab", "cba"}
    again = len(order)
    rounds.interleaved(calls, rounds=60, seconds=1000, seed=1)
    assert order[again:] == order[:again]


def test_paired_ratios_are_round_by_round(rounds):
    # The machine slows down threefold; the ratio does not change.
    slower = np.linspace(1, 3, 9)
    times = {"floor": 0.001 * slower, "kernel": 0.002 * slower}
    found = rounds.paired(times, to="floor")
    assert found["kernel"] == {
        **rounds.summary(times["kernel"]),
        "ratio": 2.0,
        "ratio_low": 2.0,
        "ratio_high": 2.0,
    }
    times["kernel"] = np.array([0.001, 0.002, 0.004, 0.008])
    times["floor"] = np.full(4, 0.001)
    quartiles = [rounds.paired(times, "floor")["kernel"][f"ratio_{end}"] for end in ("low", "high")]
    assert quartiles == [1.75, 5.0]


def test_times_stop_when_the_seconds_are_over(rounds):
    times = rounds.interleaved({"a": lambda: None}, rounds=100, seconds=0)
    assert len(times["a"]) == rounds.FEWEST_ROUNDS


def test_times_are_those_of_the_clock(rounds, clock):
    times = rounds.interleaved(dict.fromkeys("ab", lambda: None), rounds=2, seconds=1000)
    # Readings: 1 for the end, then two for each call, b before a in the second round.
    assert {name: list(each) for name, each in times.items()} == {
        "a": [5.0, 17.0],
        "b": [9.0, 13.0],
    }


def test_the_ratio_is_to_the_median_of_the_first(rounds):
    times = {"first": np.array([0.001, 0.004, 0.002]), "second": np.array([0.009, 0.001, 0.006])}
    found = rounds.compared(times)
    assert found["first"] == {**rounds.summary(times["first"]), "ratio": 1.0}
    assert found["second"] == {**rounds.summary(times["second"]), "ratio": 3.0}


def test_calls_of_minutes_need_no_warming_up(rounds):
    calls = []
    times = rounds.interleaved({"a": lambda: calls.append(1)}, 1, 0, warm_up=False)
    assert len(times["a"]) == len(calls) == 1
