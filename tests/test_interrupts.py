"""Ctrl-C while a program loads its modules: it ends at once, without a traceback."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mhe.harness.flags import program

pytestmark = pytest.mark.one_backend

ROOT = Path(__file__).parents[1]
PROGRAMS = sorted(
    path.relative_to(ROOT).as_posix()
    for folder in ("benchmarks", "gan", "sphereface_plus")
    for path in (ROOT / folder).glob("*.py")
    if "sys.exit(program(main))" in path.read_text("utf-8")
)
# Stands in for a module that takes seconds to load.
PRESSED = "import os, signal, sys\nos.kill(os.getpid(), signal.SIGINT)\nsys.exit(7)\n"


@pytest.fixture(scope="module")
def slow_modules(tmp_path_factory):
    """A folder of modules in which Ctrl-C is pressed."""
    folder = tmp_path_factory.mktemp("modules")
    for name in ("keras", "numpy"):
        (folder / f"{name}.py").write_text(PRESSED)
    return folder


def start(modules, *command, **options):
    path = os.pathsep.join([str(modules), str(ROOT)])
    environment = {**os.environ, "PYTHONPATH": path}
    command = [sys.executable, *command]
    # A process started in the background ignores Ctrl-C, and tests may be in one.
    handler = signal.signal(signal.SIGINT, options.pop("handler", signal.SIG_DFL))
    try:
        return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    finally:
        signal.signal(signal.SIGINT, handler)


@pytest.mark.parametrize("path", [*PROGRAMS, "-m mhe.prototypes"])
def test_ctrl_c_while_modules_load(slow_modules, path):
    ended = start(slow_modules, *path.split())
    assert (ended.returncode, ended.stderr) == (-signal.SIGINT, "")


@pytest.mark.parametrize("path", ["benchmarks/train.py", "-m mhe.prototypes"])
def test_programs_in_the_background_go_on_ignoring_ctrl_c(slow_modules, path):
    ended = start(slow_modules, *path.split(), handler=signal.SIG_IGN)
    assert ended.returncode == 7


def test_importing_the_package_leaves_ctrl_c_alone(slow_modules):
    assert start(slow_modules, "-c", "import mhe").stderr.endswith("\nKeyboardInterrupt\n")


def test_other_programs_that_run_by_m_keep_their_handler(slow_modules):
    (slow_modules / "theirs").mkdir()
    (slow_modules / "theirs" / "__init__.py").write_text("import mhe\n")
    (slow_modules / "theirs" / "__main__.py").write_text("")
    assert start(slow_modules, "-m", "theirs").stderr.endswith("\nKeyboardInterrupt\n")


def test_a_program_that_has_loaded_takes_ctrl_c():
    def main(argv):
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        signal.raise_signal(signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        assert program(main) == 130
    finally:
        signal.signal(signal.SIGINT, before)
