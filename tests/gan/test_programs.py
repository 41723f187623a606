"""Training, testing and tables of GANs from the command line, and what they refuse."""

import csv
import json
import re
import runpy
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image

import mhe
from gan import test, train
from gan.model import GAN
from gan.program import snapshots
from gan.program.real_images import RealImages
from mhe.harness.errors import BadInput
from mhe.harness.flags import program
from mhe.harness.run import Run

pytestmark = pytest.mark.one_backend

TABLE = Path(__file__).parents[2] / "benchmarks" / "table.py"
SMALL = [
    *("--dataset", "digits", "--train_images", "40", "--width", "0.02", "--batch_size", "8"),
    *("--steps", "3", "--snapshot_every", "2", "--score_images", "10", "--images", "12"),
    *("--splits", "2", "--base_lr", "0.01"),
]


def rows(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    """A saved classifier of digits, which has learnt nothing."""
    path = tmp_path_factory.mktemp("classifier") / "tiny.keras"
    images = keras.Input((8, 8, 1))
    hidden = keras.layers.AveragePooling2D(4)(keras.layers.Rescaling(1 / 255)(images))
    hidden = keras.layers.Flatten()(hidden)
    keras.Model(images, keras.layers.Dense(3)(hidden)).save(path)
    return path


@pytest.fixture(autouse=True)
def eager(monkeypatch):
    """Trains without graphs, which take longer to build than the few steps here to make."""
    compiled = GAN.compile

    def compile_eagerly(self, *args, **kwargs):
        compiled(self, *args, **{**kwargs, "run_eagerly": True, "jit_compile": False})

    monkeypatch.setattr(GAN, "compile", compile_eagerly)


@pytest.fixture
def trained_to(classifier, tmp_path):
    """Ends a training, whatever it is."""

    def run(out, *flags):
        shared = ["--classifier", str(classifier), "--statistics", str(tmp_path / "real")]
        return program(train.main, [*SMALL, *shared, "--out", str(out), *flags])

    return run


def test_interrupted_resumed_tested_and_tabulated(trained_to, tmp_path, capsys):
    unbroken, broken = tmp_path / "unbroken", tmp_path / "broken"
    flags = ("--model_name", "sn_mhe", "--strength", "1e-3", "--ema", "0.5", "--reference", "test")
    assert trained_to(unbroken, *flags) == 0
    said = capsys.readouterr().out
    assert re.search("12 generated and [0-9]+ test images, as .*tiny.keras", said)

    # As if it had been killed between the last row and its checkpoint.
    shutil.copytree(unbroken, broken)
    for name in ("result.json", "checkpoints/epoch-000002.weights.h5"):
        (broken / name).unlink()
    assert program(train.main, ["--resume", str(broken)]) == 0
    for one, other in zip(*(rows(run / "log.csv") for run in (broken, unbroken)), strict=True):
        assert one.keys() == other.keys() >= {"step", "generator_loss", "energy", "recall"}
        for name in one.keys() - {"seconds"}:
            assert float(one[name]) == pytest.approx(float(other[name]), rel=2e-3, abs=1e-6), name
    log = rows(unbroken / "log.csv")
    assert [float(row["step"]) for row in log] == [2, 3]
    for step in (2, 3):
        with Image.open(unbroken / "samples" / f"step-{step:06d}.png") as image:
            assert image.size == (8 * 66 - 2, 8 * 66 - 2)
    result = json.loads((unbroken / "result.json").read_text())
    described = {"model_name": "sn_mhe", "power_s": "0", "dataset": "digits", "seed": 0}
    assert described.items() <= result.items()

    # The snapshot that is kept is the best, and it is what is tested at the end.
    step = max(log, key=lambda row: float(row["inception_score"]))["step"]
    assert result["metrics"]["best_step"] == float(step)
    asked = ["--statistics", str(tmp_path / "real"), "--images", "12"]
    assert program(test.main, ["--run", str(broken), *asked, "--batch_size", "5"]) == 0
    (report,) = broken.glob("test-*")
    found = json.loads((report / "result.json").read_text())
    assert found["step"] == float(step)
    for name in ("classifier", "reference", "reference_images", "splits"):
        assert found[name] == result[name]
    for name, value in found["metrics"].items():
        assert value == pytest.approx(result["metrics"][f"test_{name}"], rel=2e-3, abs=1e-6)
    for name, rows_, columns in (("grid.png", 10, 10), ("interpolation.png", 8, 12)):
        with Image.open(report / name) as image:
            assert image.size == (columns * 66 - 2, rows_ * 66 - 2)
    # Real images are looked at once, however often they are compared with.
    assert len(list((tmp_path / "real").iterdir())) == 1

    out = tmp_path / "table"
    tabulate = runpy.run_path(str(TABLE))["main"]
    assert program(tabulate, [str(unbroken), str(broken), "--out", str(out)]) == 0
    (line,) = rows(out / "table.csv")
    assert (line["model_name"], line["seeds"]) == ("sn_mhe", "2")
    assert (out / "curves.png").exists()


@pytest.mark.parametrize("name", train.MODELS)
def test_the_four_models(name):
    args, _ = train.make_parser().parse([*SMALL, "--width", "0.05", "--model_name", name])
    (one,) = train.expand_runs(args).values()
    network = train.build(one, (8, 8, 1)).discriminator
    normed = [layer for layer in network.layers if isinstance(layer, mhe.layers.SpectralNorm)]
    assert len(normed) == (8 if name.startswith("sn") else 0)
    magnitude = {"mhe": 1e-6, "sn_mhe": 1e-7}.get(name)
    strengths = [
        row.regularizer.strength / (1 - 1 / row.weight.count) for row in mhe.attached(network)
    ]
    assert strengths == pytest.approx([magnitude] * 7 if magnitude else [])


def test_the_best_snapshot_is_kept(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    run = Run(tmp_path, {"steps": 25, "snapshot_every": 10}, resumed=False)

    def snapshot(step, **scores):
        run.rows.append({"epoch": run.epoch + 1, "step": step, **scores})
        path = tmp_path / "checkpoints" / f"epoch-{run.epoch:06d}.weights.h5"
        path.write_text(f"weights of step {step}")
        snapshots.keep_best(run)
        path, best = snapshots.best_snapshot(run)
        return path.read_text(), best

    with pytest.raises(BadInput, match="must be a run with a snapshot"):
        snapshots.best_snapshot(run)
    # Without scores it is the last one.
    assert snapshot(10) == ("weights of step 10", 10)
    for step, score, best in ((20, 3.0, 20), (22, 2.0, 20), (23, 3.0, 20), (25, 3.5, 25)):
        assert snapshot(step, inception_score=score) == (f"weights of step {best}", best)
    assert sorted(path.name for path in tmp_path.glob("best-*")) == [
        "best-step-000025.weights.h5",
        "best-step-000025.weights.h5.sha256",
    ]
    (tmp_path / "best-step-of-mine.weights.h5").touch()
    assert snapshots.best_snapshot(run)[1] == 25


@pytest.mark.parametrize("scored", [True, False])
def test_a_snapshot_that_has_changed_is_not_tested(tmp_path, scored):
    def compiled():
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(50)])
        model.compile("sgd", "mse")
        return model

    config = {"steps": 2, "snapshot_every": 1, "model_name": "sn", "dataset": "d", "seed": 0}
    run = Run.create(tmp_path, "gan/train.py", config)
    model = compiled()
    for step in (1, 2):
        run.record(model, {"step": step, **({"inception_score": step} if scored else {})}, 1.0)
        snapshots.keep_best(run)
    path, step = snapshots.best_snapshot(run)
    assert (path.name.startswith("best"), step) == (scored, 2)
    other = compiled()
    snapshots.load_snapshot(other, path)
    kernel = np.asarray(model.layers[0].kernel)
    np.testing.assert_array_equal(other.layers[0].kernel, kernel)
    data = path.read_bytes()
    path.write_bytes(data.replace(kernel.tobytes()[:512], bytes(512)))
    assert path.read_bytes() != data
    message = f"{path.name} is not the file whose checksum .* holds; put it back, or "
    with pytest.raises(BadInput, match=message):
        snapshots.load_snapshot(other, path)
    if scored:
        # As the line says.
        path.unlink()
        path, step = snapshots.best_snapshot(run)
        assert (path.name, step) == ("epoch-000002.weights.h5", 2)
        snapshots.load_snapshot(other, path)


def test_divergence_ends_a_run_and_leaves_its_snapshot(trained_to, tmp_path, capsys, monkeypatch):
    out = tmp_path / "run"
    draw = RealImages._batch

    def spoilt(self, epoch, index):
        (images,) = draw(self, epoch, index)
        return (np.float32(images) / (np.inf if epoch == 0 else np.nan),)

    monkeypatch.setattr(RealImages, "_batch", spoilt)
    assert trained_to(out, "--model_name", "baseline", "--score_images", "0", "--images", "0") == 1
    error = capsys.readouterr().err
    assert "In epoch 2, discriminator_loss is nan. The checkpoint of epoch 1 is intact" in error
    assert [row["epoch"] for row in rows(out / "log.csv")] == ["1"]
    path, step = snapshots.best_snapshot(Run.resume(out))
    assert (path.name, step) == ("epoch-000001.weights.h5", 2)


def test_real_images_in_the_order_of_iterations():
    images = np.arange(7, dtype="uint8").reshape(7, 1, 1, 1)

    def drawn(every, epochs, **options):
        found = []
        for epoch in epochs:
            batches = RealImages(images, 2, every=every, seed=5, epoch=epoch, **options)
            found += [batch.ravel().tolist() for (batch,) in batches]
        return found

    whole = drawn(12, [0])
    # Three batches are a pass, without an image twice; epochs of any length are the same batches.
    for start in range(0, 12, 3):
        assert len(np.unique(whole[start : start + 3])) == 6
    assert whole[:3] != whole[3:6]
    assert drawn(4, [0, 1, 2]) == whole
    assert drawn(5, [0, 1]) + drawn(5, [2], last=2) == whole


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--splits", "20"], "--score_images must be at least 20 for --splits 20. Received: 10"),
        (["--images", "3"], "--images must be at least 4 for --splits 2. Received: 3"),
        (["--strength", "1"], "--strength does not apply to --model_name baseline"),
        (["--model_name", "mhe", "--power_s", "2"], "--strength must be given.*--power_s 2"),
        (["--ema", "1"], "--ema must be less than 1. Received: 1"),
        (["--batch_size", "64"], "A batch needs at least 64 images. Received: 40 images"),
        (["--classifier", "wide"], "shape \\(8, 8, 1\\).*shape \\(16, 16, 3\\)"),
        (["--dataset", "odd"], "--image_size .*multiples of 8.*Received: \\(12, 12, 3\\)"),
        (
            ["--dataset", "few"],
            "--reference train of --dataset few must have at least 4 .* Received: 2",
        ),
    ],
)
def test_bad_input_of_the_trainer(flags, message, trained_to, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    if "--dataset" in flags:
        side = 12 if "odd" in flags else 8
        for place in ("train/a/1.png", "train/b/1.png", "test/a/1.png", "test/b/1.png"):
            path = tmp_path / flags[1] / place
            path.parent.mkdir(parents=True)
            Image.new("RGB", (side, side)).save(path)
        flags = [*flags, "--train_images", "2", "--batch_size", "2"]
    if "wide" in flags:
        images = keras.Input((16, 16, 3))
        keras.Model(images, keras.layers.Dense(3)(keras.layers.Flatten()(images))).save("w.keras")
        flags = ["--classifier", "w.keras"]
    assert trained_to(tmp_path / "run", "--model_name", "baseline", *flags) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert re.search(message, error)
    assert not (tmp_path / "run").exists()


def test_bad_input_of_the_tester(tmp_path, capsys):
    def refused(*flags):
        assert program(test.main, [*flags, "--statistics", str(tmp_path / "real")]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        return error

    folder = tmp_path / "run"
    assert "is not a run's folder" in refused("--run", str(folder))
    args, _ = train.make_parser().parse([*SMALL, "--model_name", "baseline"])
    (one,) = train.expand_runs(args).values()
    one.out = folder
    Run.start_or_resume(None, train.COMPARISON.program, one)
    assert "must be a run with a snapshot" in refused("--run", str(folder))
    for flags, message in (
        (["--images", "9", "--splits", "10"], "must be at least 10 for --splits 10. Received: 9"),
        (["--images", "3"], "must be at least 4 for --splits 2. Received: 3"),
    ):
        assert message in refused("--run", str(folder), *flags)
