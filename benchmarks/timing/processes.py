"""Measuring in a fresh process, whose memory and backend are its own."""

import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import mhe

PROGRAMS = Path(__file__).parents[1]


class Died(RuntimeError):  # noqa: N818 - an end that a process can come to, not a defect
    """A process was killed, as the system does when memory runs out."""


class Late(RuntimeError):  # noqa: N818 - likewise
    """A process was killed because its time was over."""


def on_backend(name: str) -> dict[str, str]:
    """Returns the variables of a process that measures on a backend.

    Example:

    >>> on_backend("jax")["KERAS_BACKEND"]
    'jax'
    """
    return {
        "KERAS_BACKEND": name,
        # Allocate a GPU's memory on demand, so that it can be measured.
        "TF_FORCE_GPU_ALLOW_GROWTH": "true",
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
    }


def ask(
    what: str,
    arguments: Sequence[str],
    job: Mapping[str, Any] | None = None,
    environment: Mapping[str, str] | None = None,
    seconds: float | None = None,
) -> Iterator[dict[str, Any]]:
    """Runs Python in a process of its own, and yields what it prints, JSON line by line.

    Args:
        what: Names the process in errors.
        arguments: The arguments of Python, such as a script and its flags.
        job: Written to the input of the process as JSON.
        environment: Variables that the process sees besides those of this one.
        seconds: Kills the process after this time.

    Yields:
        Its answers, as they arrive.

    Raises:
        Died: If a signal ended the process.
        Late: If its time was over before it ended.
        RuntimeError: If it ended with an error of its own.

    Example:

    >>> list(ask("Echo", ["-c", "print(input())"], {"layer": "512x64"}))
    [{'layer': '512x64'}]
    """
    paths = [str(Path(mhe.__file__).parents[1]), str(PROGRAMS), os.environ.get("PYTHONPATH", "")]
    path = os.pathsep.join(filter(None, paths))
    with tempfile.TemporaryFile("w+") as question, tempfile.TemporaryFile("w+") as errors:
        json.dump(job, question)
        question.seek(0)
        with subprocess.Popen(
            [sys.executable, *arguments],
            stdin=question,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env={**os.environ, **(environment or {}), "PYTHONPATH": path},
        ) as process:
            late = threading.Event()

            def end() -> None:
                late.set()
                process.kill()

            timer = None if seconds is None else threading.Timer(max(seconds, 0), end)
            if timer:
                timer.start()
            try:
                yield from map(json.loads, process.stdout or ())
                process.wait()
            finally:
                if timer:
                    timer.cancel()
                process.kill()
        if late.is_set() and process.returncode:
            raise Late(f"was ended after {seconds:.0f} s")
        if process.returncode < 0:
            raise Died(f"died (signal {-process.returncode}), perhaps out of memory")
        if process.returncode > 0:
            errors.seek(0)
            raise RuntimeError(f"{what} failed:\n{errors.read()}")
