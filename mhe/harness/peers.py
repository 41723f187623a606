"""The processes that train one run together: they start together, and none outlives another.

Backends wait for a process that has died, for minutes or for ever, or abort without a word. So the
processes hold connections of their own, all with the first one. The operating system closes those
of a process however it ends, and whoever sees that says so and ends too.
"""

import contextlib
import os
import socket
import sys
import threading
import time
from types import TracebackType

from mhe.harness.errors import BadInput, Diverged

# Seconds until all processes must have come, or one that failed is missed.
PATIENCE = 120.0
_GRACE = 10.0
# For the errors that all processes find at once, so that each can say what it was.
_OWN_ERROR = 3.0
# A machine that is gone closes nothing: it is asked after 10 s of silence, and 3 times more.
_KEEP_ALIVE = (("TCP_KEEPIDLE", 10), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3))
_WELCOME, _MET, _DONE, _FAILED = b"w", b"m", b"d", b"f"


class Peers:
    """The other processes of a run. As a context manager, an orderly end is no loss to them.

    Args:
        process: Which process this is, from 0.
        processes: How many there are.
        host: The machine of process 0.
        port: A free port there.
        advice: What to do when one is lost; goes into the message.

    Raises:
        BadInput: If not all have come within `PATIENCE` seconds.

    Example:

    >>> with Peers(0, 1, "localhost", 0, "") as alone:
    ...     alone.meet()
    """

    def __init__(self, process: int, processes: int, host: str, port: int, advice: str):
        self.process, self.processes, self.advice = process, processes, advice
        self._connections: dict[int, socket.socket] = {}
        self._listeners: list[threading.Thread] = []
        self._met = dict.fromkeys(range(processes), 0)
        self._done: set[int] = set()
        self._news = threading.Condition()
        self._meetings = 0
        self._is_closing = False
        if processes > 1:
            try:
                self._accept(port) if process == 0 else self._connect(host, port)
            except OSError as error:
                for connection in self._connections.values():
                    connection.close()
                raise BadInput(
                    f"--processes {processes}: process {process} cannot reach the others at "
                    f"{host}:{port} within {PATIENCE:g} s: {error}"
                ) from error
        for other, connection in self._connections.items():
            connection.settimeout(None)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for name, value in _KEEP_ALIVE:
                if hasattr(socket, name):
                    connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
            listener = threading.Thread(target=self._listen, args=(other, connection), daemon=True)
            listener.start()
            self._listeners.append(listener)

    def meet(self) -> None:
        """Waits until all processes have come to this point."""
        self._meetings += 1
        if self.process:
            self._send(0, _MET)
        others = set(self._connections)
        with self._news:
            self._news.wait_for(lambda: all(self._met[each] >= self._meetings for each in others))
        if not self.process:
            for other in others:
                self._send(other, _MET)

    def __enter__(self) -> "Peers":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Says that this process is done; after an error, waits whether another one caused it."""
        if error is None:
            for other in self._connections:
                self._send(other, _DONE)
            # Backends need all processes until the last is done.
            with self._news:
                self._news.wait_for(lambda: self._done >= set(self._connections))
        elif isinstance(error, BadInput | Diverged | KeyboardInterrupt):
            for other in self._connections:
                self._send(other, _FAILED)
        elif self._connections:
            # Its listener ends this process if it has lost another one.
            time.sleep(_GRACE)
        self._is_closing = True
        for connection in self._connections.values():
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for listener in self._listeners:
            listener.join(timeout=_GRACE)

    def _accept(self, port: int) -> None:
        deadline = time.monotonic() + PATIENCE
        with socket.create_server(("", port)) as server:
            while len(self._connections) < self.processes - 1:
                server.settimeout(max(0.01, deadline - time.monotonic()))
                connection, _ = server.accept()
                connection.settimeout(max(0.01, deadline - time.monotonic()))
                # What is no process of the run is not one of its numbers.
                name = connection.recv(16)
                if name.isdigit() and 0 < int(name) < self.processes:
                    connection.sendall(_WELCOME)
                    self._connections[int(name)] = connection
                else:
                    connection.close()

    def _connect(self, host: str, port: int) -> None:
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                connection = socket.create_connection((host, port), timeout=PATIENCE)
                connection.sendall(b"%d" % self.process)
                if connection.recv(1) == _WELCOME:
                    self._connections[0] = connection
                    return
                connection.close()
                raise ConnectionError("another program listens there")
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)

    def _send(self, other: int, word: bytes) -> None:
        # A connection that has broken is the listener's business.
        with contextlib.suppress(OSError):
            self._connections[other].sendall(word)

    def _listen(self, other: int, connection: socket.socket) -> None:
        with connection:
            self._listen_to(other, connection)

    def _listen_to(self, other: int, connection: socket.socket) -> None:
        has_failed = False
        while True:
            try:
                words = connection.recv(64)
            except OSError:
                words = b""
            if not words:
                break
            has_failed = has_failed or _FAILED in words
            with self._news:
                self._met[other] += words.count(_MET)
                if _DONE in words:
                    self._done.add(other)
                self._news.notify_all()
        if has_failed and not self._is_closing:
            time.sleep(_OWN_ERROR)
        if other not in self._done and not self._is_closing:
            name = os.path.basename(sys.argv[0])
            print(
                f"{name}: error: process {other} of {self.processes} has ended, and this one "
                f"(process {self.process}) ends with it. {self.advice}",
                file=sys.stderr,
                flush=True,
            )
            # Backends would wait for it when Python ends in order.
            os._exit(2)
