"""One run in several processes: the first keeps its folder and prints, the others do neither."""

import argparse
import contextlib
import os
import shlex
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from mhe.harness.devices import Place
from mhe.harness.lock import LOCK
from mhe.harness.peers import Peers
from mhe.harness.run import Run


def together(where: Place, args: argparse.Namespace, run: Run | None, program: str) -> Peers:
    """Waits for the other processes of a run.

    Args:
        where: Which process this is.
        args: The flags of the run.
        run: The run to resume, or None.
        program: The script as the user calls it from the checkout.

    Raises:
        mhe.harness.errors.BadInput: If they do not come.
    """
    folder = args.out if run is None else run.folder
    advice = (
        f"{folder} keeps all complete epochs; resume on any number of devices with: python "
        f"{program} --resume {shlex.quote(str(folder))}"
    )
    return Peers(where.process, where.processes, where.host, where.port + 1, advice)


@contextlib.contextmanager
def heard(where: Place) -> Iterator[None]:
    """Drops what any process but the first prints, errors excepted.

    Args:
        where: Which process this is.

    Example:

    >>> with heard(Place(process=1, processes=2)):
    ...     print("epoch 1/2")
    """
    if not where.process:
        yield
        return
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        yield


@contextlib.contextmanager
def aside(
    peers: Peers, args: argparse.Namespace, run: Run | None
) -> Iterator[tuple[argparse.Namespace, Run | None]]:
    """A folder that is deleted in the end, for a process that is not the first.

    It does all that the first one does, so that both come to the same points at the same time.

    Args:
        peers: The other processes.
        args: The flags of the run.
        run: The run to resume, which this process must be able to read, or None.

    Yields:
        The flags with that folder, and a copy of the run in it.
    """
    with tempfile.TemporaryDirectory(prefix="mhe-process-") as name:
        folder = Path(name, Path(args.out if run is None else run.folder).name)
        if run is not None:
            # The first process has locked it and waits.
            peers.meet()
            shutil.copytree(run.folder, folder, ignore=shutil.ignore_patterns(LOCK))
            peers.meet()
            run = Run.resume(folder)
        yield argparse.Namespace(**{**vars(args), "out": str(folder)}), run
