"""Timing calls in turn, and what is reported of their times."""

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

# A time is a median of at least this many, however long that takes.
FEWEST_ROUNDS = 3


def interleaved(
    calls: Mapping[str, Callable[[], Any]],
    rounds: int,
    seconds: float,
    warm_up: bool = True,
    seed: int | None = None,
) -> dict[str, np.ndarray]:
    """Times calls in turn, so that whatever else the machine does affects all alike.

    Args:
        calls: What to time, by name.
        rounds: Maximum number of times that each is timed.
        seconds: No round starts after this long, except for the first `FEWEST_ROUNDS`.
        warm_up: Whether each is called once more before. Calls of minutes need not be.
        seed: Draws the order within each round; without it, the order rotates.

    Returns:
        The seconds of each, one number per round.

    Example:

    >>> times = interleaved({"a": lambda: None, "b": lambda: None}, rounds=5, seconds=1)
    >>> {name: len(each) for name, each in times.items()}
    {'a': 5, 'b': 5}
    """
    for call in calls.values() if warm_up else ():
        call()
    names = list(calls)
    times: dict[str, list[float]] = {name: [] for name in names}
    draw = None if seed is None else np.random.default_rng(seed)
    end = time.perf_counter() + seconds
    for turn in range(rounds):
        if turn >= FEWEST_ROUNDS and time.perf_counter() > end:
            break
        # No call always comes first, nor always after the same one.
        rotated = names[turn % len(names) :] + names[: turn % len(names)]
        for name in rotated if draw is None else draw.permutation(names).tolist():
            began = time.perf_counter()
            calls[name]()
            times[name].append(time.perf_counter() - began)
    return {name: np.array(each) for name, each in times.items()}


def summary(times: np.ndarray) -> dict[str, float]:
    """Returns median, minimum and spread (the middle half) in ms, and the number of rounds.

    Example:

    >>> summary(np.array([0.001, 0.002, 0.004]))
    {'median_ms': 2.0, 'min_ms': 1.0, 'spread_ms': 1.5, 'rounds': 3}
    """
    low, median, high = 1000 * np.quantile(times, [0.25, 0.5, 0.75])
    return {
        "median_ms": round(float(median), 4),
        "min_ms": round(float(1000 * times.min()), 4),
        "spread_ms": round(float(high - low), 4),
        "rounds": len(times),
    }


def compared(times: Mapping[str, np.ndarray]) -> dict[str, dict[str, float]]:
    """Returns the summary of each, with the `ratio` of its median to that of the first.

    Example:

    >>> times = {"product": np.array([0.002]), "euclidean": np.array([0.003])}
    >>> {name: each["ratio"] for name, each in compared(times).items()}
    {'product': 1.0, 'euclidean': 1.5}
    """
    summaries = {name: summary(each) for name, each in times.items()}
    first = next(iter(summaries.values()))["median_ms"]
    return {
        name: {**each, "ratio": round(each["median_ms"] / first, 3)}
        for name, each in summaries.items()
    }


def paired(times: Mapping[str, np.ndarray], to: str) -> dict[str, dict[str, float]]:
    """Returns the summary of each, with its ratio to another, round by round.

    Args:
        times: From `interleaved`.
        to: The name of the one that all are compared with.

    Returns:
        For each, the summary; the median of the ratios as `ratio`; and their quartiles as
        `ratio_low` and `ratio_high`.

    Example:

    >>> times = {"a": np.array([0.001, 0.002, 0.004]), "b": np.array([0.002, 0.002, 0.002])}
    >>> {name: paired(times, to="b")["a"][name] for name in ("ratio", "ratio_low", "ratio_high")}
    {'ratio': 1.0, 'ratio_low': 0.75, 'ratio_high': 1.5}
    """
    return {name: {**summary(each), **ratios(each, times[to])} for name, each in times.items()}


def ratios(values: np.ndarray, to: np.ndarray) -> dict[str, float]:
    """Returns the median of the ratios of the rounds and their quartiles.

    Args:
        values: One number per round.
        to: Those that they are compared with.

    Example:

    >>> ratios(np.array([1.0, 2.0, 4.0]), to=np.array([2.0, 2.0, 2.0]))
    {'ratio': 1.0, 'ratio_low': 0.75, 'ratio_high': 1.5}
    """
    low, median, high = np.quantile(values / to, [0.25, 0.5, 0.75]).round(4).tolist()
    return {"ratio": median, "ratio_low": low, "ratio_high": high}
