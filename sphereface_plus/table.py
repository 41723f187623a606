"""Runs of `sphereface_plus/train.py` side by side: means over the seeds, as text, CSV and figure.

`train.py` makes one of the runs that a list of flags asks for. Called by itself, this program makes
one of any complete runs, such as two heads' at a learning rate of their own.
"""

import sys
from collections.abc import Sequence

from mhe.harness.comparisons import Comparison, Varied
from mhe.harness.flags import program
from sphereface_plus.program import trained

COMPARISON = Comparison(
    trained.PROGRAM,
    [Varied("model_name"), Varied("m", prefix="m")],
    {"test_accuracy": 100, "test_auc": 100, "test_eer": 100, "class_energy": 1},
    shared=["dataset", "test_people"],
)


def main(argv: Sequence[str] | None = None) -> None:
    """Makes a table of complete runs.

    Args:
        argv: The flags; those of the process by default.

    Raises:
        BadInput: If a folder holds no complete run of the program, or the runs are not of one
            dataset.
    """
    COMPARISON.tabulate("sphereface_plus/table.py", argv)


if __name__ == "__main__":
    sys.exit(program(main))
