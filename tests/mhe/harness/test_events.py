"""Event files, as TensorFlow itself reads them."""

import pytest

from mhe.harness.events import EventWriter

pytestmark = pytest.mark.numpy_only


def read(folder):
    tf = pytest.importorskip("tensorflow")
    from tensorflow.core.util import event_pb2

    events = []
    for path in sorted(folder.iterdir()):
        # Fails with DataLossError where a checksum is wrong.
        for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
            events.append(event_pb2.Event.FromString(record))
    return events


def test_tensorflow_reads_what_was_written(tmp_path):
    writer = EventWriter(tmp_path)
    writer.scalars(1, {"loss": 2.5, "energy/conv1/kernel": 0.125})
    writer.scalars(300, {"loss": -1e-9})
    version, first, second = read(tmp_path)
    assert version.file_version == "brain.Event:2"
    values = {value.tag: value.simple_value for value in first.summary.value}
    assert (first.step, values) == (1, {"loss": 2.5, "energy/conv1/kernel": 0.125})
    assert second.step == 300
    assert second.summary.value[0].simple_value == pytest.approx(-1e-9)
    assert 0 <= second.wall_time - first.wall_time < 60


def test_a_resumed_run_takes_back_the_steps_it_writes_again(tmp_path):
    EventWriter(tmp_path, purge_from=7)
    _, start = read(tmp_path)
    assert start.step == 7
    assert start.session_log.status == start.session_log.START
