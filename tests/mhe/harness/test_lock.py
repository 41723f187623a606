"""The lock on a run's folder, held by this process and by others."""

import os
import subprocess
import sys

import pytest

from mhe.harness.errors import BadInput, CannotWrite
from mhe.harness.lock import locked

pytest.importorskip("fcntl")
pytestmark = pytest.mark.one_backend

# The same system call as the harness's, without the seconds that loading Keras takes.
HOLD = """
import fcntl, os, sys, time
file = open(sys.argv[1], "w")
fcntl.flock(file, fcntl.LOCK_EX)
print(os.getpid(), file=file, flush=True)
print("locked", flush=True)
time.sleep(60)
"""


def test_the_second_learns_the_process_of_the_first(tmp_path):
    with locked(tmp_path):
        with (
            pytest.raises(BadInput, match=f"is in use by process {os.getpid()}: "),
            locked(tmp_path),
        ):
            pass
        # Still that of the first.
        assert (tmp_path / "run.lock").read_text() == f"{os.getpid()}\n"
    assert list(tmp_path.iterdir()) == []
    with locked(tmp_path):
        pass


def test_an_error_frees_the_folder(tmp_path):
    with pytest.raises(ZeroDivisionError), locked(tmp_path / "new"):
        raise ZeroDivisionError
    with locked(tmp_path / "new"):
        pass


def test_the_lock_of_another_process_ends_with_it(tmp_path):
    path = tmp_path / "run.lock"
    other = subprocess.Popen([sys.executable, "-c", HOLD, path], stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout.readline() == "locked\n"
        with pytest.raises(BadInput, match=f"in use by process {other.pid}: "), locked(tmp_path):
            pass
    finally:
        other.kill()
        other.communicate()
    assert path.exists()
    with locked(tmp_path):
        assert path.read_text() == f"{os.getpid()}\n"


def test_a_file_removed_while_it_was_opened_is_not_taken_for_the_lock(tmp_path, monkeypatch):
    """Whoever held the lock removes the file after another has opened it, before that locks it."""
    opened = []

    def open_late(path, *args, open=os.open):
        descriptor = open(path, *args)
        opened.append(descriptor)
        if len(opened) == 1:
            os.unlink(path)
        return descriptor

    monkeypatch.setattr(os, "open", open_late)
    with locked(tmp_path):
        assert len(opened) == 2
        assert (tmp_path / "run.lock").read_text() == f"{os.getpid()}\n"


def test_a_folder_that_cannot_be_written_to_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(CannotWrite, match="file cannot be created"), locked(tmp_path / "file"):
        pass
    (tmp_path / "run.lock").write_text("precious")
    with pytest.raises(BadInput, match="must be the lock of a run"), locked(tmp_path):
        pass
    assert (tmp_path / "run.lock").read_text() == "precious"
    (tmp_path / "run.lock").unlink()
    (tmp_path / "run.lock").mkdir()
    with pytest.raises(CannotWrite, match="cannot be written to: Is a directory"), locked(tmp_path):
        pass


def test_no_two_processes_ever_hold_it_at_once(tmp_path):
    """Processes take and free it as fast as they can, and each checks that it is alone."""
    code = f"""
import sys, time
sys.path[:0] = {sys.path!r}
import importlib.util, types
for name, attributes in {{
    "mhe": {{}}, "mhe.harness": {{}},
    "mhe.harness.errors": {{"BadInput": ValueError, "CannotWrite": OSError}},
    "mhe.harness.files": {{"make_folder": lambda path: path}},
}}.items():
    sys.modules[name] = module = types.ModuleType(name)
    module.__dict__.update(attributes)
spec = importlib.util.spec_from_file_location("lock", {locked.__wrapped__.__code__.co_filename!r})
lock = importlib.util.module_from_spec(spec)
spec.loader.exec_module(lock)
from pathlib import Path
folder, alone = Path(sys.argv[1]), Path(sys.argv[1], "alone")
took, end = 0, time.monotonic() + 1
while time.monotonic() < end:
    try:
        with lock.locked(folder):
            alone.open("x").close()
            alone.unlink()
            took += 1
    except ValueError:
        pass
print(took)
"""
    processes = [
        subprocess.Popen([sys.executable, "-c", code, tmp_path], stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    assert sum(int(process.communicate()[0]) for process in processes) > 10
    assert [process.returncode for process in processes] == [0, 0, 0]
