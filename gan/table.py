"""Runs of `gan/train.py` side by side: means over the seeds as text, CSV and figure, and curves.

`train.py` makes one of the runs that a list of flags asks for. Called by itself, this program makes
one of any complete runs that the same classifier has scored.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from gan.program import figures
from mhe.harness.comparisons import Comparison, Varied
from mhe.harness.flags import program
from mhe.harness.runs import Run

PROGRAM = "gan/train.py"


class Curves(Comparison):
    """A comparison that draws the curves of all runs too, in `curves.png`."""

    def report(self, finished: Sequence[Run], out: Path, title: str) -> None:
        """Writes `table.csv`, `comparison.png` and `curves.png`, and prints the table.

        Args:
            finished: Complete runs.
            out: The folder to write to.
            title: A title for the figures.

        Raises:
            BadInput: If two runs of one line differ in more than the seed.
        """
        super().report(finished, out, title)
        rows = {run.folder.name: run.rows for run in finished}
        figures.draw_curves(rows, out / "curves.png", title)


COMPARISON = Curves(
    PROGRAM,
    [Varied("model_name")],
    {
        "test_inception_score": 1,
        "test_frechet_distance": 1,
        "test_kernel_inception_distance": 1,
        "test_precision": 100,
        "test_recall": 100,
        "energy": 1,
    },
    shared=["dataset", "scored_by", "reference", "images", "splits"],
)


def main(argv: Sequence[str] | None = None) -> None:
    """Makes a table of complete runs.

    Args:
        argv: The flags; those of the process by default.

    Raises:
        BadInput: If a folder holds no complete run of the program, or the runs are not of one
            dataset or not scored alike.
    """
    COMPARISON.tabulate("gan/table.py", argv)


if __name__ == "__main__":
    sys.exit(program(main))
