"""Images of no known class: scores, thresholds on other halves, runs, and bad input."""

import doctest
import json
import shutil

import numpy as np
import pytest
from PIL import Image

from mhe.harness.flags import program

pytestmark = pytest.mark.one_backend

SMALL = [
    *("--dataset", "digits", "--train_images", "300", "--batch_size", "50"),
    *("--dims", "10", "--loss", "cross_entropy", "--base_lr", "0.1"),
]
SCORES = ("largest_logit", "largest_cosine", "negative_energy", "nearest_prototype")


@pytest.fixture
def hpn(load):
    return load("hpn")


@pytest.fixture
def unknown(load_task):
    return load_task("unknown")


def noise(folder, count=40, side=8, mode="L"):
    """A folder of images of noise."""
    generator = np.random.default_rng(0)
    folder.mkdir(parents=True)
    for place in range(count):
        pixels = generator.integers(0, 256, (side, side), np.uint8)
        Image.fromarray(pixels).convert(mode).save(folder / f"{place}.png")
    return folder


def contents(folder):
    return json.loads((folder / "unknown.json").read_text())


def test_examples_run(unknown):
    tried = doctest.testmod(unknown, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert (tried.attempted, tried.failed) == (5, 0)


def test_rates_are_those_of_the_other_half(unknown):
    sklearn = pytest.importorskip("sklearn.metrics")
    generator = np.random.default_rng(1)
    labels = generator.integers(0, 4, 400)
    known, other = {"a": generator.normal(1.5, 1, 400)}, {"a": generator.normal(0, 1, 150)}
    found = unknown.compare(known, other, labels, 0.1)["a"]
    scores = np.concatenate([known["a"], other["a"]])
    kinds = np.repeat([1, 0], [400, 150])
    assert found["auroc"] == pytest.approx(sklearn.roc_auc_score(kinds, scores), rel=1e-12)
    far, tar, _ = sklearn.roc_curve(kinds, scores, drop_intermediate=False)
    assert found["fpr_at_95_tpr"] == pytest.approx(far[tar >= 0.95].min())
    # Classes take turns: of each, every other image in its order chooses.
    chosen = np.zeros(400, bool)
    for label in range(4):
        chosen[np.flatnonzero(labels == label)[label % 2 :: 2]] = True
    ordered = np.sort(known["a"][chosen])
    assert found["threshold"] == ordered[int(0.1 * len(ordered))]
    assert found["false_alarms"] == np.mean(known["a"][~chosen] < found["threshold"])
    assert found["found"] == np.mean(other["a"] < found["threshold"])


@pytest.mark.parametrize("kind", ["hpn", "baseline"])
def test_a_new_and_a_complete_run_are_measured_alike(hpn, small, tmp_path, capsys, kind):
    path, run = noise(tmp_path / "noise" / "deep"), tmp_path / "run"
    flags = [*SMALL, "--model_name", kind, "--epochs", "2"]
    flags += ["--unknown", str(path), "--out", str(run)]
    assert program(hpn.main, flags) == 0
    assert "nearest prototype" in capsys.readouterr().out
    first, result = contents(run), (run / "result.json").read_text()
    assert set(first["scores"]) == set(SCORES)
    assert (first["unknown_images"], first["known_images"]) == (40, 359)
    assert first["scores"]["largest_logit"]["auroc"] > 0.5
    again = ["--resume", str(run), "--unknown", str(path.parent), "--false_alarms", "0.2"]
    assert program(hpn.main, again) == 0
    second = contents(run)
    for name in SCORES:
        one, two = first["scores"][name], second["scores"][name]
        assert one["auroc"] == pytest.approx(two["auroc"], abs=1e-3)
        assert one["fpr_at_95_tpr"] == pytest.approx(two["fpr_at_95_tpr"], abs=0.03)
        assert one["threshold"] <= two["threshold"]
    if kind == "hpn":
        # Logits are the cosines times one factor.
        for share in ("auroc", "fpr_at_95_tpr", "found"):
            one, two = (second["scores"][name][share] for name in SCORES[:2])
            assert one == pytest.approx(two, abs=0.01)
    assert (run / "result.json").read_text() == result
    config = json.loads((run / "config.json").read_text())
    assert not {"unknown", "false_alarms"} & set(config)
    shutil.rmtree(run / "checkpoints")
    (run / "checkpoints").mkdir()
    assert program(hpn.main, again) == 2
    assert "--unknown needs a checkpoint of the run. Received: none" in capsys.readouterr().err


@pytest.mark.parametrize("arch", ["cnn9", "conv4", "resnet20"])
def test_logits_are_products_of_what_scores_are_made_of(hpn, unknown, load_task, parsed, arch):
    """In joint training the first output belongs to the value."""
    argv = [*SMALL, "--task", "joint", "--target", "rotation", "--model_name", "baseline"]
    argv += ["--arch", arch, "--width", "0.1"]
    args = parsed(hpn, *argv)
    data = load_task("hpn").prepare(args)
    model = load_task("hpn").build(args, data, None, steps=10)
    images = data.test[0][:5]
    found = unknown._reader(model, args)(images)
    vectors = unknown._class_vectors(model, args)
    # Biases start at 0.
    np.testing.assert_allclose(found.logits, found.embeddings @ vectors.T, rtol=1e-4, atol=1e-5)


def test_images_come_from_where_the_flag_says(hpn, unknown, load_task, tmp_path, parsed, capsys):
    args = parsed(hpn, *SMALL)
    data = load_task("hpn").prepare(args)
    assert unknown.load(args, data) is None
    noise(tmp_path / "set" / "train" / "3", 5)
    args.unknown = str(tmp_path / "set")
    assert len(unknown.load(args, data)) == 5
    assert "folders have the names of known classes: 3" in capsys.readouterr().err
    noise(tmp_path / "set" / "test" / "cat", 3)
    assert len(unknown.load(args, data)) == 3
    assert capsys.readouterr().err == ""
    noise(tmp_path / "large", 2, side=24)
    args.unknown = shutil.make_archive(str(tmp_path / "zipped"), "zip", tmp_path / "large")
    assert unknown.load(args, data).shape == (2, 8, 8, 1)
    args.unknown = "digits"
    assert unknown.load(args, data).shape == data.test[0].shape


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--false_alarms", "1"], "argument --false_alarms: must be a number from 0 to 0.999"),
        (["--unknown", "missing/images"], "--unknown missing/images: "),
        (["--unknown", "digits", "--task", "regression", "--target", "rotation"], "needs classes"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(hpn, flags, message, assert_refused):
    assert_refused(hpn.main, ["--dataset", "digits", *flags], message)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (lambda folder: folder.mkdir(), "must hold images. Received: none"),
        (lambda folder: noise(folder, 2, mode="RGB"), "must be 8x8x1, as those of digits are"),
        (lambda folder: noise(folder).joinpath("5.png").write_bytes(b"no"), "5.png"),
    ],
    ids=["none", "colors", "damaged"],
)
def test_images_that_cannot_be_used_are_one_line(hpn, tmp_path, images, message, assert_refused):
    folder = tmp_path / "images"
    images(folder)
    flags = [*SMALL, "--unknown", str(folder)]
    assert_refused(hpn.main, flags, message)
