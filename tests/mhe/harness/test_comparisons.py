"""Lists of flags as runs, and runs as lines of a table."""

import argparse
import dataclasses

import numpy as np
import pytest

from mhe.harness import comparisons
from mhe.harness.comparisons import Comparison, Varied, milliseconds_per_step
from mhe.harness.errors import BadInput
from mhe.harness.run import Run

pytestmark = pytest.mark.one_backend

ONE = Comparison(
    "benchmarks/x.py",
    [Varied("model_name"), Varied("dims", prefix="dims"), Varied("rates", "rate", "rate")],
    {"test_error": 100, "cost": 1},
    shared=["dataset"],
)


def flags(**own):
    known = {"model_name": ["a", "b"], "dims": [2, 3], "rates": None, "seed": 4, "seeds": 2}
    return argparse.Namespace(**{**known, "out": None, "resume": None, **own})


def made(folder, seed, **own):
    """A complete run."""
    metrics = own.pop("metrics")
    config = {"model_name": "a", "power_s": None, "dataset": "d", "dims": 2, "rates": None}
    run = Run.create(folder, "benchmarks/x.py", {**config, "seed": seed, **own})
    run.finish(metrics)
    return run


def test_combinations_that_are_equal_are_one_run():
    found = ONE.combinations(
        flags(rates=[0.5, 0.25]),
        lambda values: {**values, "dims": None} if values["model_name"] == "b" else values,
    )
    assert list(found)[:4] == [
        *("a-dims2-rate0.5-seed4", "a-dims2-rate0.5-seed5"),
        *("a-dims2-rate0.25-seed4", "a-dims2-rate0.25-seed5"),
    ]
    assert list(found)[8:] == [
        *("b-rate0.5-seed4", "b-rate0.5-seed5", "b-rate0.25-seed4", "b-rate0.25-seed5")
    ]
    one = found["a-dims3-rate0.25-seed5"]
    assert (one.model_name, one.dims, one.rates, one.seed, one.seeds) == ("a", 3, 0.25, 5, 1)


def test_milliseconds_per_step_are_those_of_the_median_epoch(tmp_path):
    one = dataclasses.replace(
        ONE, reported={"ms_per_step": 1}, derived={"ms_per_step": milliseconds_per_step}
    )
    runs = [made(tmp_path / str(seed), seed, metrics={"steps": 30}) for seed in (0, 1)]
    for run, seconds in zip(runs, ((2.0, 9.0, 3.0), (1.0, 1.0, 1.0)), strict=True):
        run.rows = [{"epoch": i + 1, "seconds": each} for i, each in enumerate(seconds)]
    (line,) = one.collect(runs)
    # 3 epochs of 10 steps.
    assert line["ms_per_step"] == pytest.approx((300 + 100) / 2)
    assert "200.000 ± 141.421" in one.text([line])
    bare = [made(tmp_path / "bare", 0, metrics={"steps": 30})]
    (line,) = one.collect(bare)
    assert "ms_per_step" not in line
    assert milliseconds_per_step(made(tmp_path / "uncounted", 0, metrics={"cost": 1})) is None


def test_missing_runs_are_made_and_broken_ones_resumed(tmp_path, capsys):
    """The program is called for each run with the flags that make that run alone."""
    called = []

    def main(argv):
        called.append(argv)
        given = dict(zip(argv[::2], argv[1::2], strict=True))
        folder = given.get("--out") or given["--resume"]
        if "--out" in given:
            made(folder, int(given["--seed"]), metrics={"cost": 1.0})
        else:
            Run.resume(folder).finish({"cost": 2.0})

    broken = tmp_path / "a-dims2-seed4"
    made(broken, 4, metrics={"cost": 9.0})
    (broken / "result.json").unlink()
    runs = ONE.combinations(flags(model_name=["a"], dims=[2]))
    ONE.carry_out(runs, None, tmp_path, train=None, main=main, title="")
    assert called[0][-2:] == ["--resume", str(broken)]
    assert called[1][-2:] == ["--out", str(tmp_path / "a-dims2-seed5")]
    assert called[1][:8] == ["--model_name", "a", "--dims", "2", "--seed", "5", "--seeds", "1"]
    printed = capsys.readouterr().out
    assert "python benchmarks/x.py --model_name a --dims 2" in printed
    assert "1.500 ± 0.707" in printed
    assert (tmp_path / "comparison.png").read_bytes().startswith(b"\x89PNG")


def test_means_are_over_the_seeds_of_one_combination(tmp_path):
    errors = [0.5, 0.25, 0.75]
    finished = [
        made(tmp_path / str(seed), seed, metrics={"test_error": error})
        for seed, error in enumerate(errors)
    ]
    finished.append(made(tmp_path / "b", 0, model_name="b", dims=None, metrics={"cost": 3.0}))
    a, b = ONE.collect(finished)
    assert (a["model_name"], a["dims"], a["rate"], a["seeds"]) == ("a", 2, None, 3)
    assert a["test_error"] == pytest.approx(0.5)
    assert a["test_error_std"] == pytest.approx(np.std(errors, ddof=1))
    assert (b["cost"], b["cost_std"]) == (3.0, None)
    header, first, second = ONE.text([a, b]).splitlines()
    assert header.split() == ["model_name", "dims", "rate", "seeds", "test_error", "cost"]
    assert first.split() == ["a", "2", "3", "50.00", "±", "25.00"]
    assert second.split() == ["b", "1", "3.000"]
    other = made(tmp_path / "other", 3, metrics={"test_error": 0.1}, epochs=9)
    with pytest.raises(BadInput, match="must differ in their seeds only"):
        ONE.collect([finished[0], other])
    twice = made(tmp_path / "twice", 0, metrics={"test_error": 0.1, "test_error_std": 0.2})
    with pytest.raises(BadInput, match=r"over the seeds. Received: metrics test_error_std"):
        ONE.collect([twice])


def test_values_that_look_like_flags_reach_the_runs(tmp_path):
    def main(command):
        parser = argparse.ArgumentParser()
        parser.add_argument("--mu", type=float)
        parser.add_argument("--out")
        args = parser.parse_args(command)
        made(args.out, 0, mu=args.mu, metrics={"cost": 1.0})

    one = argparse.Namespace(mu=-1e-5, out=None, resume=None)
    (run,) = ONE.make({"-first": one}, tmp_path, main)
    assert run.config["mu"] == -1e-5


def test_seeds_beyond_the_largest_are_refused_before_the_first_run():
    assert len(ONE.combinations(flags(model_name="a", dims=2, seed=2**32 - 2))) == 2
    with pytest.raises(BadInput, match=r"--seeds .* at most 4294967295\. Received: --seed"):
        ONE.combinations(flags(seed=2**32 - 1))


@pytest.mark.parametrize(("levels", "drawn"), [(6, "series"), (7, "named")])
def test_too_many_levels_are_compared_by_name(levels, drawn, tmp_path, monkeypatch):
    asked = {}
    monkeypatch.setattr(
        comparisons.figures, "draw_series", lambda panels, *_: asked.update(series=panels)
    )
    monkeypatch.setattr(
        comparisons.figures, "draw_named", lambda panels, *_: asked.update(named=panels)
    )
    lines = [
        {
            "model_name": f"m{i}",
            "dims": i - levels if i > levels else None,
            "rate": None,
            "cost": i,
        }
        for i in range(1, levels + 3)
    ]
    ONE.draw([{**line, "cost_std": 0.0} for line in lines], tmp_path / "a.png", "")
    assert list(asked) == [drawn]
    labels = list(asked[drawn]["cost"])
    assert labels[0] == "m1"
    assert labels[-1] == f"m{levels + 2}" + ", 2 dims" * (drawn == "named")
