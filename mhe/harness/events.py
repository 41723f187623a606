"""TensorBoard's event files, written by tensorboardX: no TensorFlow, whatever the backend.

Keras's callback needs TensorFlow, which would take a GPU's memory away from the JAX or PyTorch that
trains on it.
"""

import os
import time
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from mhe.harness.errors import BadInput, CannotWrite
from mhe.harness.files import make_folder


def require_tensorboardx() -> None:
    """Raises a `BadInput` now, not after the first epoch, if tensorboardX is not installed.

    Example:

    >>> require_tensorboardx()
    """
    try:
        import tensorboardX  # noqa: F401
    except ImportError as error:
        raise BadInput(
            'TensorBoard events need tensorboardX: pip install ".[train]" from the checkout'
        ) from error


class EventWriter:
    """Writes scalars into a new event file, which is complete on disk after each step.

    Args:
        folder: Where the file goes; created if missing.
        purge_from: For a resumed run, the first step that is written again. TensorBoard drops what
            older files in the folder say about this step and later ones.

    Raises:
        CannotWrite: If the disk is full, for example; its methods raise it too.

    Example:

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     EventWriter(folder).scalars(1, {"loss": 2.5})
    ...     len(os.listdir(folder))
    1
    """

    def __init__(self, folder: str | os.PathLike, purge_from: int | None = None):
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto import event_pb2

        self._folder = make_folder(Path(folder))
        # The synchronous half of `SummaryWriter`, which would start a thread and a queue.
        # Its names change every second only, and an existing file would be overwritten.
        own = f".{time.time_ns()}.{os.getpid()}"
        with self._writing():
            self._writer = EventsWriter(str(Path(folder, "events")), own)
            weakref.finalize(self, _close, self._writer)
            if purge_from is not None:
                started = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
                event = event_pb2.Event(wall_time=time.time(), step=purge_from, session_log=started)
                self._writer.write_event(event)
            self._writer.flush()

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Writes one value per name.

        Args:
            step: The step, a non-negative integer.
            values: Numbers by name.
        """
        from tensorboardX.proto import event_pb2, summary_pb2

        summary = summary_pb2.Summary(
            value=[
                summary_pb2.Summary.Value(tag=name, simple_value=value)
                for name, value in values.items()
            ]
        )
        event = event_pb2.Event(wall_time=time.time(), step=step, summary=summary)
        with self._writing():
            self._writer.write_event(event)
            self._writer.flush()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise CannotWrite(f"{self._folder} cannot be written to: {error.strerror}") from error


def _close(writer: Any) -> None:
    # What a full disk did not take is still buffered, and refused again.
    for close in (writer.close, writer._py_recordio_writer.close):
        with suppress(OSError):
            close()
