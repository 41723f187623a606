"""Few-shot detection: a run, and bad input."""

import json

import pytest

from mhe.harness.flags import program
from mhe.harness.run import Run

pytestmark = pytest.mark.one_backend

SMALL = [
    *("--dataset", "digits", "--scenes", "6", "--epochs", "1", "--batch_size", "16"),
    *("--ways", "3", "--shots", "2", "--episodes", "2", "--queries", "1", "--dims", "4"),
]


@pytest.fixture
def detection(load):
    return load("detection")


def test_a_run_scores_classes_it_was_not_trained_on(
    detection, small, tmp_path, capsys, monkeypatch, load_task
):
    task = load_task("detection")
    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        # Ctrl-C after the training; what it was tested on is drawn again.
        patch.setattr(task, "episode", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        assert program(detection.main, [*SMALL, "--out", str(folder)]) == 130
    assert Run.resume(folder).epoch == 1
    assert program(detection.main, ["--resume", str(folder)]) == 0
    metrics = json.loads((folder / "result.json").read_text())["metrics"]
    precision = metrics["test_mean_average_precision"]
    assert 0 <= precision <= 1
    assert f"test mean average precision {precision:.4f}" in capsys.readouterr().out
    args, _ = detection.make_parser().parse(["--resume", str(folder)])
    split = task.prepare(args)
    assert not set(split.train[1]) & set(split.test[1])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--ways", "6"], "--ways must be at most the 5 classes to test on. Received: 6"),
        (["--shots", "500"], "--shots must leave a drawing of each class to detect; "),
        (["--drops", "2"], "--drops must be increasing numbers"),
        (["--test_alphabets", "Greek"], "--test_alphabets needs Omniglot"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(detection, flags, message, assert_refused):
    assert_refused(detection.main, [*SMALL, *flags], message)
