"""From lists of flags to a folder of runs, and from runs to a table of means over their seeds.

A program that compares has one `Comparison`, which says which of its flags take lists and which of
its metrics are shown. One combination of the flags is one run; several are a folder of runs with
`table.csv` and `comparison.png`. The same command can be stopped and repeated: it keeps complete
runs and resumes the others. `benchmarks/table.py` makes such a table of any complete runs of one
program, such as two models with different learning rates.
"""

import argparse
import itertools
import re
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np

from mhe.harness import figures
from mhe.harness.errors import BadInput
from mhe.harness.files import write_csv
from mhe.harness.run import Run
from mhe.harness.tables import text_table

Line = Mapping[str, Any]

# At most this many levels in a figure can be told apart.
_MOST_LEVELS = 6


@dataclass(frozen=True)
class Varied:
    """A flag that takes a list, each value of which makes runs of its own.

    Attributes:
        flag: Its name in the parsed flags; a list with `nargs="+"`, else a single value or None.
        prefix: Prefix of the value in the name of a run.
        column: Its column in the table; by default the flag.
    """

    flag: str
    prefix: str = ""
    column: str = ""

    @property
    def title(self) -> str:
        """The name of the column."""
        return self.column or self.flag


@dataclass(frozen=True)
class Comparison:
    """What a program compares.

    Attributes:
        program: The script as the user calls it from the checkout.
        varied: The flags that take lists. The seeds vary too: the program has the flags `--seed`
            and `--seeds`.
        reported: The metrics of `result.json` that the text and the figure show if runs have them,
            each with its factor: 100 for shares, which are shown in percent, else 1.
        derived: Numbers that follow from a run besides its metrics, by name, each as a function of
            the run that returns None where it has none. They may be among `reported`.
        shared: Flags in which all runs of one table must agree; the runs of one line agree in all
            but the seed.

    Example:

    >>> one = Comparison("benchmarks/x.py", [Varied("model_name")], {"test_accuracy": 100})
    >>> args = argparse.Namespace(model_name=["a", "b"], seed=3, seeds=2, epochs=1)
    >>> list(one.combinations(args))
    ['a-seed3', 'a-seed4', 'b-seed3', 'b-seed4']
    """

    program: str
    varied: Sequence[Varied]
    reported: Mapping[str, int]
    shared: Sequence[str] = ()
    derived: Mapping[str, Callable[[Run], float | None]] = field(default_factory=dict)

    def combinations(
        self,
        args: argparse.Namespace,
        applicable: Callable[[dict[str, Any]], dict[str, Any]] = dict,
    ) -> dict[str, argparse.Namespace]:
        """Returns the flags of each run by the name of the run.

        Args:
            args: The resolved flags, with lists.
            applicable: Takes the values of a combination by flag, and returns them with None for
                those that do not apply to it: combinations that are then equal are one run.

        Raises:
            BadInput: If a seed is too large.
        """
        if args.seed + args.seeds > 2**32:
            raise BadInput(
                f"--seed and the --seeds after it must be at most {2**32 - 1}. "
                f"Received: --seed {args.seed} --seeds {args.seeds}"
            )
        flags = [each.flag for each in self.varied]
        given = [getattr(args, flag) for flag in flags]
        lists = [value if isinstance(value, list) else [value] for value in given]
        runs = {}
        for *values, seed in itertools.product(*lists, range(args.seed, args.seed + args.seeds)):
            own = applicable(dict(zip(flags, values, strict=True)))
            parts = [
                each.prefix + _written(own[each.flag])
                for each in self.varied
                if own[each.flag] is not None
            ]
            one = {**vars(args), **own, "seed": seed, "seeds": 1}
            runs["-".join([*parts, f"seed{seed}"])] = argparse.Namespace(**one)
        return runs

    def carry_out(
        self,
        runs: Mapping[str, argparse.Namespace],
        run: Run | None,
        out: str | Path,
        *,
        train: Callable[[argparse.Namespace, Run | None], Mapping[str, Any]],
        main: Callable[[Sequence[str]], None],
        title: str,
    ) -> None:
        """Trains a single run, or makes several and a table of them.

        Args:
            runs: The flags of the runs by name, see `combinations`.
            run: The run to resume, or None.
            out: The folder of the single run, or of the several.
            train: Trains one run from its flags, from the start or from where the run stopped, and
                returns the content of its `result.json`.
            main: The program's own `main`, which is called with the flags of each of several runs.
            title: A title for the figure.

        Raises:
            BadInput: If existing runs contradict the flags.
        """
        if len(runs) > 1:
            self.report(self.make(runs, Path(out), main), Path(out), title)
            return
        (one,) = runs.values()
        folder = Path(out) if run is None else run.folder
        result: Mapping[str, Any]
        if run is not None and run.finished:
            print(f"{run.folder} is complete; nothing to do")
            result = run.result
        else:
            result = train(one, run)
        held_out = [
            f"{name.replace('_', ' ')} {value:.4f}"
            for name, value in result["metrics"].items()
            if name.startswith(("test_", "validation_"))
        ]
        print(", ".join([*held_out, f"results and figures in {folder}"]))

    def make(
        self,
        runs: Mapping[str, argparse.Namespace],
        out: Path,
        main: Callable[[Sequence[str]], None],
    ) -> list[Run]:
        """Makes every run that is missing, and resumes those that are incomplete.

        Args:
            runs: The flags of the runs by name, see `combinations`.
            out: The folder of the runs.
            main: The program's `main`.

        Returns:
            The complete runs.
        """
        finished = []
        for name, flags in runs.items():
            folder = out / name
            place = "resume" if (folder / "config.json").exists() else "out"
            values = {**vars(flags), "out": None, "resume": None, place: folder}
            command = [
                text
                for flag, value in values.items()
                if value is not None
                for text in _passed(flag, str(value))
            ]
            print(f"\npython {self.program} {shlex.join(command)}", flush=True)
            main(command)
            finished.append(Run.resume(folder))
            # The next model is a new one; this frees the graphs of the last.
            keras.backend.clear_session()
        return finished

    def collect(self, finished: Sequence[Run]) -> list[Line]:
        """Averages complete runs over their seeds.

        Args:
            finished: The runs.

        Returns:
            A line per combination of the varied flags, in the order of the runs: the values, the
            number of seeds, and for each metric the mean and the sample standard deviation, which
            divides by n - 1 and is None for one seed.

        Raises:
            BadInput: If two runs of one combination differ in more than the seed, or a metric is
                named like another's standard deviation.
        """
        groups: dict[tuple, list[Run]] = {}
        for run in finished:
            key = tuple(_one_value(run, each.flag) for each in self.varied)
            groups.setdefault(key, []).append(run)
        lines: list[Line] = []
        for key, runs in groups.items():
            for run in runs[1:]:
                _require_same_flags(runs[0], run)
            metrics = [run.result["metrics"] for run in runs]
            taken = sorted(metrics[0].keys() & {f"{name}_std" for name in metrics[0]})
            if taken:
                raise BadInput(
                    f"{runs[0].folder}: metrics must not have the names of the table's deviations "
                    f"over the seeds. Received: metrics {', '.join(taken)}"
                )
            line = dict(zip((each.title for each in self.varied), key, strict=True))
            line["seeds"] = len(metrics)
            columns = {name: [each[name] for each in metrics] for name in metrics[0]}
            for name, numbers in {**columns, **self._derived(runs)}.items():
                values = np.array(numbers)
                line[name] = float(values.mean())
                line[f"{name}_std"] = float(values.std(ddof=1)) if values.size > 1 else None
            lines.append(line)
        return lines

    def text(self, lines: Sequence[Line]) -> str:
        """Formats the lines as text.

        Args:
            lines: See `collect`.

        Example:

        >>> one = Comparison(
        ...     "benchmarks/x.py", [Varied("model_name"), Varied("dims")],
        ...     {"test_accuracy": 100, "test_mae": 1})
        >>> line = {"model_name": "hpn", "dims": 9, "seeds": 2, "test_accuracy": 0.85,
        ...         "test_accuracy_std": 0.0707, "test_mae": 3.5, "test_mae_std": 0.25}
        >>> bare = {"model_name": "baseline", "dims": None, "seeds": 1, "test_accuracy": 0.8,
        ...         "test_accuracy_std": None}
        >>> print(one.text([line, bare]))
        model_name  dims  seeds  test_accuracy      test_mae
        hpn            9      2   85.00 ± 7.07  3.500 ± 0.250
        baseline              1          80.00
        """
        reported = self._reported(lines)
        known = [*(each.title for each in self.varied), "seeds"]
        rows = [
            ["" if line[name] is None else str(line[name]) for name in known]
            + [_spread(name, line, factor) for name, factor in reported.items()]
            for line in lines
        ]
        return text_table(rows, [*known, *reported])

    def draw(self, lines: Sequence[Line], path: Path, title: str) -> None:
        """Draws each reported metric over a varied flag that is a number, or over the names.

        Of several such flags it takes the last with two values or more, or the first with any. A
        line without a value is drawn as a level across the figure, unless there are too many of
        them to tell apart.

        Args:
            lines: See `collect`.
            path: The PNG.
            title: A title for the figure.
        """
        varied = [each.title for each in self.varied]
        values = {name: {line[name] for line in lines} for name in varied}
        numbers = [name for name in varied if values[name] - {None} and _numeric(values[name])]
        several = [name for name in numbers if len(values[name] - {None}) > 1]
        across = several[-1] if several else numbers[0] if numbers else None
        if across is not None and sum(line[across] is None for line in lines) > _MOST_LEVELS:
            across = None
        named = [
            name
            for place, name in enumerate(varied)
            if name != across and (place == 0 or len(values[name]) > 1)
        ]
        panels: dict[str, dict[str, list[tuple]]] = {}
        for name, factor in self._reported(lines).items():
            series = panels.setdefault(name.replace("_", " ") + " (%)" * (factor == 100), {})
            for line in (line for line in lines if name in line):
                label = ", ".join(
                    str(line[each]) if place == 0 else f"{line[each]} {each.replace('_', ' ')}"
                    for place, each in enumerate(named)
                    if line[each] is not None
                )
                spread = (line[f"{name}_std"] or 0.0) * factor
                at = None if across is None else line[across]
                series.setdefault(label, []).append((at, line[name] * factor, spread))
        if across is None:
            figures.draw_named(
                {
                    metric: {label: points[0][1:] for label, points in series.items()}
                    for metric, series in panels.items()
                },
                path,
                title,
            )
        else:
            figures.draw_series(panels, across.replace("_", " "), path, title)

    def report(self, finished: Sequence[Run], out: Path, title: str) -> None:
        """Writes `table.csv` and `comparison.png`, and prints the table.

        Args:
            finished: Complete runs.
            out: The folder to write to.
            title: A title for the figure.

        Raises:
            BadInput: If two runs of one line differ in more than the seed.
        """
        lines = self.collect(finished)
        write_csv(out / "table.csv", lines)
        self.draw(lines, out / "comparison.png", title)
        print(f"\n{self.text(lines)}\n\nTable and figure: {out}/table.csv, {out}/comparison.png")

    def _derived(self, runs: Sequence[Run]) -> dict[str, list[float | None]]:
        columns = {name: [function(run) for run in runs] for name, function in self.derived.items()}
        return {name: numbers for name, numbers in columns.items() if None not in numbers}

    def _reported(self, lines: Sequence[Line]) -> dict[str, int]:
        return {
            name: factor
            for name, factor in self.reported.items()
            if any(name in line for line in lines)
        }


def milliseconds_per_step(run: Run) -> float | None:
    """Returns the time of an iteration, with its share of what an epoch ends with.

    From the median epoch, as other work may slow some down; None for a run of no epochs, or one
    that does not count its `steps`.

    Args:
        run: A complete run.
    """
    steps = run.result["metrics"].get("steps")
    if not run.rows or not steps:
        return None
    median = float(np.median([row["seconds"] for row in run.rows]))
    return 1000.0 * median * len(run.rows) / steps


def stem(dataset: str) -> str:
    """Returns a short name of a dataset, that of the first path if there are several.

    Args:
        dataset: The value of `--dataset`.

    Example:

    >>> stem("data/small1.zip,data/small2.zip"), stem("data/train-{00..12}.tar")
    ('small1', 'train')
    """
    return re.sub(r"[-_]?\{.*", "", Path(dataset.split(",")[0]).stem)


def _passed(flag: str, value: str) -> tuple[str, ...]:
    # argparse takes a value such as -1e-05 for a flag.
    return (f"--{flag}={value}",) if value.startswith("-") else (f"--{flag}", value)


def _written(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _one_value(run: Run, flag: str) -> Any:
    """The value of a flag in a run's config, which may be text, a finite number or None."""
    value = run.config[flag]
    is_number = isinstance(value, int | float) and abs(value) <= sys.float_info.max
    if value is not None and not isinstance(value, str) and not is_number:
        raise BadInput(
            f"{run.folder / 'config.json'}: {flag} must be text, a finite number or null. "
            f"Received: {type(value).__name__}"
        )
    return value


def _numeric(values: set) -> bool:
    return all(value is None or isinstance(value, int | float) for value in values)


def _require_same_flags(first: Run, other: Run) -> None:
    """Raises a `BadInput` if two runs differ in more than the seed."""
    for name in (first.config.keys() | other.config.keys()) - {"seed", "versions"}:
        one, two = first.config.get(name), other.config.get(name)
        if one != two:
            raise BadInput(
                f"Runs of one line must differ in their seeds only. Received: --{name} {one} in "
                f"{first.folder} and {two} in {other.folder}"
            )


def _spread(name: str, line: Line, factor: int) -> str:
    if name not in line:
        return ""
    digits = 2 if factor == 100 else 3
    mean = f"{line[name] * factor:.{digits}f}"
    spread = line[f"{name}_std"]
    return mean if spread is None else f"{mean} ± {spread * factor:.{digits}f}"
