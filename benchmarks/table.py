"""Tabulates complete runs of one program: means over their seeds as text, CSV and figure.

    python benchmarks/table.py runs/a/* runs/b/* --out runs/both
    python benchmarks/table.py runs/a/* runs/undecayed/* --by weight_decay --out runs/both

The program is the one in the runs' `config.json`. The programs themselves make such a table of the
runs of one command; this one takes any others, such as two models with different learning rates.
"""

import dataclasses
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

if __name__ == "__main__":
    from mhe_startup import start

    start(__file__)

from mhe.harness.comparisons import Comparison, Varied, stem
from mhe.harness.errors import BadInput
from mhe.harness.files import make_folder
from mhe.harness.flags import LineParser, file_path, plain_text, program
from mhe.harness.run import Run

# The module of each program that makes runs. Those in benchmarks/ lie beside this file.
PROGRAMS = {
    **{
        f"benchmarks/{name}.py": name
        for name in (
            *("train", "hpn", "hierarchy", "clusters", "fewshot", "detection", "interpret"),
        )
    },
    "sphereface_plus/train.py": "sphereface_plus.train",
    "sphereface_plus/plane.py": "sphereface_plus.plane",
    "gan/train.py": "gan.train",
    "gan/train_classifier.py": "gan.train_classifier",
}


def make_parser() -> LineParser:
    """Returns the parser of this program's flags."""
    parser = LineParser(
        prog="benchmarks/table.py",
        description="Makes table.csv and comparison.png of complete runs of one program.",
    )
    parser.add_argument(
        "runs", type=file_path, nargs="+", metavar="RUN", help="the folder of a run"
    )
    parser.add_argument(
        "--by",
        type=plain_text,
        nargs="+",
        metavar="FLAG",
        help="further flags whose values make lines of their own, such as weight_decay "
        "(default: none but those that the program compares)",
    )
    parser.add_argument("--out", type=file_path, required=True, help="the folder to write to")
    return parser


def comparison_of(runs: Sequence[Run], by: Sequence[str] = ()) -> Comparison:
    """Returns the comparison of the program that made the runs.

    Args:
        runs: The runs.
        by: Further flags whose values make lines of their own.

    Raises:
        BadInput: If a run is incomplete, the runs are of several programs or of none that is
            known, or differ in a flag that the program's tables share; if they lack one of `by`.
    """
    name = runs[0].config.get("program")
    if name not in PROGRAMS:
        raise BadInput(
            f"{runs[0].folder} must be a run of {', '.join(PROGRAMS)}. Received: a run of {name}"
        )
    for run in runs:
        if run.config.get("program") != name or not run.finished:
            raise BadInput(f"{run.folder} is not a complete run of {name}")
    comparison: Comparison = importlib.import_module(PROGRAMS[name]).COMPARISON
    for flag in comparison.shared:
        values = sorted({str(run.config[flag]) for run in runs})
        if len(values) > 1:
            raise BadInput(f"The runs must share one {flag}. Received: {', '.join(values)}")
    for flag in by:
        for run in runs:
            if flag not in run.config or flag in ("seed", "seeds"):
                raise BadInput(f"--by must name a flag of {name}, not its seed. Received: {flag}")
    known = {each.flag for each in comparison.varied}
    further = [Varied(flag) for flag in dict.fromkeys(by) if flag not in known]
    return dataclasses.replace(comparison, varied=[*comparison.varied, *further])


def main(argv: Sequence[str] | None = None) -> None:
    """Makes a table of complete runs.

    Args:
        argv: The flags; those of the process by default.

    Raises:
        BadInput: If the runs cannot be compared.
    """
    args = make_parser().parse_args(argv)
    runs = [Run.resume(folder) for folder in args.runs]
    comparison = comparison_of(runs, args.by or ())
    shared = {flag: str(runs[0].config[flag]) for flag in comparison.shared}
    if "dataset" in shared:
        shared["dataset"] = stem(shared["dataset"])
    out = make_folder(Path(args.out))
    title = ", ".join(f"{flag.replace('_', ' ')} {value}" for flag, value in shared.items())
    comparison.report(runs, out, title)


if __name__ == "__main__":
    sys.exit(program(main))
