"""Event files, as TensorFlow itself reads them."""

import subprocess
import sys

import pytest

from mhe.harness.errors import BadInput, CannotWrite
from mhe.harness.events import EventWriter, require_tensorboardx

pytestmark = pytest.mark.one_backend


def read(folder):
    tf = pytest.importorskip("tensorflow")
    from tensorflow.core.util import event_pb2

    found = []
    for path in sorted(folder.iterdir()):
        # Fails with DataLossError where a checksum is wrong.
        for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
            found.append(event_pb2.Event.FromString(record))
    return found


def scalars(event):
    return event.step, {value.tag: value.simple_value for value in event.summary.value}


def test_tensorflow_reads_what_was_written(tmp_path):
    writer = EventWriter(tmp_path)
    writer.scalars(1, {"loss": 2.5, "energy/conv1/kernel": 0.125})
    writer.scalars(300, {"loss": -1e-9})
    # The writer is still open: what it wrote is on disk already.
    version, first, second = read(tmp_path)
    assert version.file_version == "brain.Event:2"
    assert scalars(first) == (1, {"loss": 2.5, "energy/conv1/kernel": 0.125})
    assert second.step == 300
    assert second.summary.value[0].simple_value == pytest.approx(-1e-9)
    assert 0 <= second.wall_time - first.wall_time < 60
    writer.scalars(301, {"loss": 0.0})
    assert len(read(tmp_path)) == 4
    assert len(list(tmp_path.iterdir())) == 1


def test_a_resumed_run_takes_back_the_steps_it_writes_again(tmp_path):
    EventWriter(tmp_path, purge_from=7)
    _, start = read(tmp_path)
    assert start.step == 7
    assert start.session_log.status == start.session_log.START


def test_a_run_resumed_in_the_same_second_overwrites_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("tensorboardX.event_file_writer.time.time", lambda: 1_700_000_000.5)
    first = EventWriter(tmp_path)
    first.scalars(1, {"loss": 2.0})
    first.scalars(2, {"loss": 1.0})
    EventWriter(tmp_path, purge_from=2).scalars(2, {"loss": 1.5})
    files = sorted(tmp_path.iterdir())
    assert len(files) == 2
    # TensorBoard reads the files of a folder in the order of their names.
    written = read(tmp_path)
    assert [event.step for event in written] == [0, 1, 2, 0, 2, 2]
    assert scalars(written[-1]) == (2, {"loss": 1.5})


def test_files_need_no_tensorflow():
    blocked = "import sys; sys.modules['tensorflow'] = None; sys.modules['torch'] = None; "
    needed = "import tensorboardX.event_file_writer, tensorboardX.proto.summary_pb2"
    subprocess.run([sys.executable, "-c", blocked + needed], check=True, timeout=120)


def test_without_tensorboardx_the_error_names_what_to_install(monkeypatch):
    require_tensorboardx()
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(BadInput, match=r'need tensorboardX: pip install "\.\[train\]"'):
        require_tensorboardx()


def test_events_that_cannot_be_written_are_one_line(tmp_path, capfd, no_file_larger_than):
    writer = EventWriter(tmp_path / "first")
    with no_file_larger_than(100):
        with pytest.raises(CannotWrite, match="first cannot be written to: File too large"):
            writer.scalars(1, dict.fromkeys("abcdefgh", 0.5))
        # What is still buffered would be refused again, in a traceback at the end of the process.
        del writer
    with no_file_larger_than(10), pytest.raises(CannotWrite, match="second cannot be written to"):
        EventWriter(tmp_path / "second")
    (tmp_path / "file").touch()
    with pytest.raises(CannotWrite, match="file cannot be created: File exists"):
        EventWriter(tmp_path / "file")
    assert capfd.readouterr().err == ""
