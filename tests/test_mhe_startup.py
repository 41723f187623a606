"""What programs do before they load Keras. That all of them do is in benchmarks/test_flags.py."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.one_backend

ROOT = Path(__file__).parents[1]
# Tells that the program itself is loading, and whether anything is left of what came before.
KERAS = """
import sys
left = [name for name in ("__flags__", "mhe") if name in sys.modules]
left += ["beside"] if hasattr(sys.modules.get("beside"), "UNITS") else []
sys.exit(f"loading, with {left}")
"""
PROGRAM = """
import sys

if __name__ == "__main__":
    from mhe_startup import start

    start(__file__)

import beside
import keras
from keras import ops

import mhe
from mhe.harness.errors import BadInput
from mhe.harness.flags import LineParser, integer, program


def make_parser():
    parser = LineParser(prog="small.py")
    parser.add_argument("--units", type=integer(1, 9), default=4, choices=beside.UNITS, help="size")
    return parser


def check(args):
    if args.units == 7:
        raise BadInput("--units must not be 7. Received: 7")
    if args.units == 3:
        ops.zeros((3,))
    if args.units == 2 and keras.backend.backend() == "jax":
        raise BadInput("--units must not be 2. Received: 2")


def main(argv=None):
    check(make_parser().parse_args(argv))


if __name__ == "__main__":
    sys.exit(program(main))
"""
BESIDE = '''
import abc
import keras
from keras import layers

class Base(layers.Layer, abc.ABC):
    """Has what it defines, and nothing else."""
    units: keras.KerasTensor | None = None

    def __init__(self, **kwargs):
        super().__init__()

@keras.saving.register_keras_serializable(package="beside")
class Small(Base):
    """Is a class after its decorator too."""
    def size(self):
        return 7

@keras.ops.custom_gradient
def same(x):
    return x

assert not hasattr(Small, "sizes")
assert issubclass(Small, keras.layers.Layer) and not issubclass(Small, keras.layers.Dense)
UNITS = range(1, Small().size() + same(3))
'''


@pytest.fixture
def run(tmp_path):
    """Starts a small program with some flags, where Keras only tells that it is loaded."""
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "keras.py").write_text(KERAS)
    (tmp_path / "programs").mkdir()
    (tmp_path / "programs" / "small.py").write_text(PROGRAM)
    (tmp_path / "programs" / "beside.py").write_text(BESIDE)

    def run(*flags):
        path = os.pathsep.join([str(tmp_path / "modules"), str(ROOT)])
        ended = subprocess.run(
            [sys.executable, str(tmp_path / "programs" / "small.py"), *flags],
            env={**os.environ, "PYTHONPATH": path},
            capture_output=True,
            text=True,
        )
        return ended.returncode, ended.stderr

    return run


def test_help_and_wrong_flags_end_the_program(run):
    assert run("--help") == (0, "")
    assert run("--units", "7") == (2, "small.py: error: --units must not be 7. Received: 7\n")
    code, line = run("--units", "none")
    assert (code, line.count("\n")) == (2, 1)
    assert line.startswith("small.py: error: argument --units: must be an integer from 1 to 9")


@pytest.mark.parametrize("units", ["4", "3", "2"])
def test_sound_flags_and_those_that_only_keras_can_judge_load_the_program(run, units):
    assert run("--units", units) == (1, "loading, with []\n")
