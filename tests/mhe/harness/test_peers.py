"""The processes of a run, as threads: they meet, end in order, and miss one that does not."""

import os
import socket
import threading

import pytest

from mhe.harness import peers
from mhe.harness.errors import BadInput
from mhe.harness.peers import Peers

pytestmark = pytest.mark.one_backend


@pytest.fixture
def port():
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return free.getsockname()[1]


@pytest.fixture
def ended(monkeypatch):
    """The codes that processes end with, which end here only in name."""
    codes = []

    def end(code):
        codes.append(code)
        seen.set()

    seen = threading.Event()
    monkeypatch.setattr(os, "_exit", end)
    return codes, seen


def in_threads(*actions):
    threads = [threading.Thread(target=action) for action in actions]
    for each in threads:
        each.start()
    for each in threads:
        each.join(timeout=30)
        assert not each.is_alive()


def test_no_process_passes_a_meeting_before_all_have_come(port, ended):
    seen, late = [], threading.Event()

    def run(process):
        with Peers(process, 3, "localhost", port, "") as others:
            for meeting in range(3):
                if process == 2 and meeting == 1:
                    assert late.wait(30)
                others.meet()
                seen.append((meeting, process))
                if seen.count((0, 0)) and seen.count((0, 1)):
                    late.set()

    in_threads(*[lambda each=each: run(each) for each in range(3)])
    assert [meeting for meeting, _ in seen] == sorted(meeting for meeting, _ in seen)
    assert sorted(seen) == [(meeting, process) for meeting in range(3) for process in range(3)]
    assert ended[0] == []


@pytest.mark.parametrize("lost", [0, 1])
def test_whoever_loses_another_ends_with_a_line(lost, port, ended, capfd):
    codes, over = ended
    made = {}

    def come(process):
        made[process] = Peers(process, 2, "localhost", port, "Resume with: this.")

    in_threads(lambda: come(0), lambda: come(1))
    # What the operating system does to the sockets of a process that was killed.
    made[lost]._is_closing = True
    (connection,) = made[lost]._connections.values()
    connection.shutdown(socket.SHUT_RDWR)
    assert over.wait(30)
    assert codes == [2]
    (line,) = capfd.readouterr().err.splitlines()
    for each in made.values():
        for listener in each._listeners:
            listener.join(30)
    assert line.endswith(
        f"error: process {lost} of 2 has ended, and this one (process {1 - lost}) ends with it. "
        "Resume with: this."
    )


def test_an_error_of_its_own_ends_the_others(port, ended, monkeypatch):
    codes, over = ended
    monkeypatch.setattr(peers, "_OWN_ERROR", 0.1)

    def fail():
        with pytest.raises(BadInput), Peers(0, 2, "localhost", port, ""):
            raise BadInput("no such folder")

    def wait():
        others = Peers(1, 2, "localhost", port, "")
        assert over.wait(30)
        for listener in others._listeners:
            listener.join(30)

    in_threads(fail, wait)
    assert codes == [2]


def test_an_error_that_all_find_is_said_by_each(port, ended):
    codes, _ = ended
    said = []

    def fail(process):
        with pytest.raises(BadInput), Peers(process, 2, "localhost", port, ""):
            raise BadInput("a batch of 25")
        said.append(process)

    in_threads(lambda: fail(0), lambda: fail(1))
    assert sorted(said) == [0, 1]
    assert codes == []


@pytest.mark.parametrize("process", [0, 1])
def test_a_process_that_does_not_come_is_named_in_a_line(process, port, monkeypatch):
    monkeypatch.setattr(peers, "PATIENCE", 0.3)
    with pytest.raises(
        BadInput, match=rf"--processes 2: process {process} cannot reach the others"
    ):
        Peers(process, 2, "localhost", port, "")


def test_what_is_no_process_of_the_run_is_turned_away(port, ended):
    def stranger():
        while True:
            try:
                with socket.create_connection(("localhost", port), timeout=30) as connection:
                    connection.sendall(b"GET / HTTP/1.1")
                    assert connection.recv(1) == b""
                    come.set()
                    return
            except ConnectionRefusedError:
                continue

    come = threading.Event()

    def run(process):
        if process:
            assert come.wait(30)
        with Peers(process, 2, "localhost", port, "") as others:
            others.meet()

    in_threads(stranger, lambda: run(0), lambda: run(1))
    assert ended[0] == []
