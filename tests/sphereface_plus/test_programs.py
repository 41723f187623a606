"""Training, testing and the plane from the command line, and what they refuse."""

import argparse
import csv
import json
import pickle
import re
import struct

import keras
import numpy as np
import pytest

from mhe.harness.callbacks import Progress
from mhe.harness.errors import BadInput
from mhe.harness.flags import program
from sphereface_plus import FaceModel, LazyOptimizer, faces, plane, test, train
from sphereface_plus.heads import CosFace, NormFace, SphereFace, SphereFacePlus
from sphereface_plus.program import figures, head_flags, trained

pytestmark = pytest.mark.one_backend

SMALL = [
    *("--arch", "sfnet4", "--width", "0.06", "--dims", "8", "--image_size", "16x16"),
    *("--channels", "1", "--batch_size", "8", "--epochs", "2", "--base_lr", "0.05"),
    *("--test_people", "2", "--weight_decay", "1e-4"),
]


def rows(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def trained_on(people, out, *flags):
    """Ends a training, whatever it is."""
    return program(train.main, [*SMALL, "--data_dir", str(people), "--out", str(out), *flags])


def test_interrupted_resumed_tested_and_fine_tuned(people, tmp_path, capsys, monkeypatch):
    unbroken, broken = tmp_path / "unbroken", tmp_path / "broken"
    base = ("--model_name", "sphereface", "--gamma", "10")
    assert trained_on(people, unbroken, *base) == 0
    said = capsys.readouterr().out
    assert "16 images of 4 people to train on; 2 people to test on" in said
    assert "12 pairs of one person, 16 of two" in said

    def interrupt(self, epoch, logs=None):
        if epoch == 0:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Progress, "on_epoch_end", interrupt)
        assert trained_on(people, broken, *base) == 130
    written = (broken / "people.csv").read_bytes()
    # As a run is left that was killed in its first moments.
    (broken / "people.csv").unlink()
    for name in ("draw_roc", "draw_scores", "draw_cmc"):  # the first run's are enough
        monkeypatch.setattr(figures, name, lambda *args: None)
    monkeypatch.setattr(train.figures, "draw_metrics", lambda *args: None)
    assert program(train.main, ["--resume", str(broken)]) == 0
    for row, other in zip(*(rows(run / "log.csv") for run in (broken, unbroken)), strict=True):
        assert row.keys() == other.keys() >= {"loss", "accuracy", "lr", "energy"}
        for name in row.keys() - {"seconds"}:
            assert float(row[name]) == pytest.approx(float(other[name]), rel=2e-3)
    assert (broken / "people.csv").read_bytes() == written
    with pytest.raises(BadInput, match=r"people must hold the people that .*people.csv lists"):
        trained.list_people(broken, faces.find_people(people), None)
    result = json.loads((unbroken / "result.json").read_text())
    described = {"model_name": "sphereface", "power_s": None, "dataset": str(people), "seed": 0}
    assert described.items() <= result.items()
    metrics = result["metrics"]
    listed = {side: [row["person"] for row in rows(unbroken / "people.csv") if row["set"] == side]
              for side in ("train", "test")}  # fmt: skip
    assert sorted(listed["train"] + listed["test"]) == [f"p{number}" for number in range(6)]
    for name in ("roc.png", "scores.png", "cmc.png", "curves.png", "folds.csv"):
        assert (unbroken / name).exists()

    # Tested by itself, it is what training ended with: the people never seen are the same.
    single = people / "single" / "single_0001.png"
    single.parent.mkdir()
    single.write_bytes((people / "p0" / "p0_0001.png").read_bytes())
    asked = ["--run", str(unbroken), "--data_dir", str(people)]
    assert program(test.main, asked) == 2
    assert "at least 2 images. Received: single (1)" in capsys.readouterr().err
    assert program(test.main, [*asked, "--small_people", "skip"]) == 0
    assert "2 of 6 people have names that the network was not trained on" in capsys.readouterr().out
    found = json.loads((unbroken / "test-people" / "result.json").read_text())
    for name, value in found["metrics"].items():
        assert value == pytest.approx(metrics[f"test_{name}"], abs=1e-6)
    assert any("needs 100 pairs" in note for note in found["notes"])

    # A list of pairs may hold people the network knows, which is said.
    seen = listed["train"][0]
    pairs = tmp_path / "pairs.txt"
    other = listed["test"][0]
    lines = [f"{who}\t{n}\t{n + 1}" for who in (seen, other) for n in (1, 2)]
    lines += [f"{seen}\t{n}\t{other}\t{n}" for n in range(1, 5)]
    blocks = [lines[0:2] + lines[4:6], lines[2:4] + lines[6:8]]
    pairs.write_text("2\t2\n" + "\n".join(line for block in blocks for line in block) + "\n")
    landmarks = tmp_path / "landmarks.txt"
    points = " ".join(map(str, faces.reference((16, 16)).ravel()))
    images = faces.find_people(people, least=1).images
    landmarks.write_text("\n".join(f"{image} {points}" for image in images))
    capsys.readouterr()
    assert program(test.main, [*asked, "--pairs", str(pairs), "--landmarks", str(landmarks)]) == 0
    error = capsys.readouterr().err
    assert "4 of 7 people have the names of people that the network" in error
    assert "trained on faces that are not aligned, and is tested on faces that are aligned" in error
    assert len(rows(unbroken / "test-people-pairs" / "folds.csv")) == 2

    single.unlink()
    single.parent.rmdir()
    # Fine-tuning begins where the other run ended, the margin's annealing too.
    tuned = tmp_path / "tuned"
    flags = ("--model_name", "sphereface_plus", "--gamma", "10", "--finetune", str(unbroken))
    assert trained_on(people, tuned, *flags, "--epochs", "0") == 0
    (one, _), (two, _) = (trained.load_model(run) for run in (unbroken, tuned))
    assert type(two.head) is SphereFacePlus
    for weight, expected in zip(two.get_weights(), one.get_weights(), strict=True):
        np.testing.assert_array_equal(weight, expected)
    assert trained_on(people, tmp_path / "x", *flags, "--width", "0.1") == 2
    assert "must be a run with the same network" in capsys.readouterr().err
    # An epoch of it moves the weights, and is tested on the people that neither has seen.
    assert trained_on(people, tmp_path / "step", *flags, "--epochs", "1") == 0
    three, _ = trained.load_model(tmp_path / "step")
    assert np.any(three.backbone.get_weights()[0] != one.backbone.get_weights()[0])
    tested = [
        row["person"] for row in rows(tmp_path / "step" / "people.csv") if row["set"] == "test"
    ]
    assert tested == listed["test"]
    assert "test_accuracy" in json.loads((tmp_path / "step" / "result.json").read_text())["metrics"]
    # Other people held out would be some that the first run was trained on.
    capsys.readouterr()
    assert trained_on(people, tmp_path / "other", *flags, "--seed", "3") == 2
    error = capsys.readouterr().err
    assert "must be people on whom --finetune" in error
    assert "with its --seed, 0, and as many, they are the same. Received: with --seed 3, " in error
    assert not (tmp_path / "other").exists()


@pytest.fixture
def insightface(people, tmp_path):
    """The people as InsightFace keeps them: `train.rec` with its index, and `lfw.bin`."""
    data, index, files = b"", "", sorted(people.rglob("*.png"))
    for key, path in enumerate(files, 1):
        image = struct.pack("<IfQQ", 0, int(path.parent.name[1:]), key, 0) + path.read_bytes()
        index += f"{key}\t{len(data)}\n"
        data += struct.pack("<II", 0xCED7230A, len(image)) + image + bytes(-len(image) % 4)
    (tmp_path / "train.rec").write_bytes(data)
    (tmp_path / "train.idx").write_text(index)
    images = [path.read_bytes() for path in files]
    # Of one person, and of two, in turn.
    chosen = [(4 * k, 4 * k + 1 + 4 * (turn % 2)) for turn in range(4) for k in range(5)]
    same = [turn % 2 == 0 for turn in range(4) for _ in range(5)]
    content = [images[place % 24] for pair in chosen for place in pair], same
    (tmp_path / "lfw.bin").write_bytes(pickle.dumps(content))
    return tmp_path / "train.rec", tmp_path / "lfw.bin"


def test_what_insightface_has_is_trained_and_tested_on(
    people, insightface, tmp_path, capsys, monkeypatch
):
    for name in ("draw_roc", "draw_scores", "draw_cmc"):
        monkeypatch.setattr(figures, name, lambda *args: None)
    monkeypatch.setattr(train.figures, "draw_metrics", lambda *args: None)
    records, pairs = insightface
    base = ("--model_name", "normface", "--epochs", "1", "--test_people", "0")
    for data, out in ((people, "folder"), (records, "records")):
        assert trained_on(data, tmp_path / out, *base) == 0
    # The same images in the same order.
    one, two = (rows(tmp_path / out / "log.csv")[0] for out in ("folder", "records"))
    assert float(one["loss"]) == pytest.approx(float(two["loss"]), rel=1e-5)

    capsys.readouterr()
    asked = ["--run", str(tmp_path / "records"), "--pairs", str(pairs)]
    assert program(test.main, asked) == 0
    said = capsys.readouterr()
    assert "10 pairs of one person, 10 of two" in said.out
    assert "aligned" not in said.err
    found = json.loads((tmp_path / "records" / "test-lfw" / "result.json").read_text())
    assert found["dataset"] == found["pairs"] == str(pairs)
    model, _ = trained.load_model(tmp_path / "records")
    listed, matches = faces.read_validation_set(pairs)
    vectors = model.embed(
        (faces.load(listed, size=(16, 16), channels=1).astype("float32") - 127.5) / 128, mirror=True
    )
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    scores = np.sum(units[::2] * units[1::2], axis=1)
    same, different = scores[matches.same], scores[~matches.same]
    wins = same[:, None] > different[None, :]
    ties = np.isclose(same[:, None], different[None, :], atol=1e-6)
    auc = np.mean(np.where(ties, 0.5, wins))
    assert found["metrics"]["auc"] == pytest.approx(auc, abs=0.02)

    assert program(test.main, [*asked, "--data_dir", str(people)]) == 2
    assert "lfw.bin holds its own images, aligned. Received: --data_dir" in capsys.readouterr().err
    assert program(test.main, asked[:2]) == 2
    assert "--data_dir must name a folder or zip of people" in capsys.readouterr().err


def test_flags_make_the_head_that_they_name():
    parser = train.make_parser()
    args, _ = parser.parse(["--model_name", "normface", "sphereface_plus", "--m", "2", "3"])
    asked = head_flags.expand_runs(args, train.COMPARISON)
    assert list(asked) == [
        *("normface-seed0", "sphereface_plus-m2-seed0", "sphereface_plus-m3-seed0"),
    ]
    head = head_flags.build(asked["sphereface_plus-m3-seed0"], 5)
    assert (head.classes, head.m, head.energy.distance, head.energy.s) == (5, 3, "angle", 2)
    assert (head.energy.strength, head.energy_over) == (1, "all")
    assert asked["normface-seed0"].m is asked["normface-seed0"].power_s is None
    args, _ = parser.parse(["--model_name", "sphereface"])
    (one,) = head_flags.expand_runs(args, train.COMPARISON).values()
    head = head_flags.build(one, 5)
    default = SphereFace(5)
    assert (head.m, head.lambda_start, head.gamma) == (default.m, 1000, default.gamma)


def test_flags_of_any_head():
    parser = train.make_parser()
    flags = ["--model_name", "arcface", "adaface", "--scale", "auto", "--h", "0.5"]
    args, _ = parser.parse([*flags, "--subcenters", "3", "--energy", "every", "--strength", "2"])
    head_flags.check(args)
    runs = head_flags.expand_runs(args, train.COMPARISON)
    arc, ada = (head_flags.build(each, 5) for each in runs.values())
    assert (arc.subcenters, arc.energy.strength, arc.scale) == (3, 2, NormFace(5, "auto").scale)
    assert (ada.h, ada.m, ada.energy.s) == (0.5, 0.4, 2)
    assert runs["arcface-seed0"].h is None
    args, _ = parser.parse(["--model_name", "sphereface2"])
    (one,) = head_flags.expand_runs(args, train.COMPARISON).values()
    assert head_flags.build(one, 5).energy is None
    args, _ = parser.parse(["--model_name", "sphereface_plus", "--class_share", "0.5"])
    (one,) = head_flags.expand_runs(args, train.COMPARISON).values()
    head = head_flags.build(one, 5)
    assert (head.sample, head.energy.sample) == (0.5, None)
    # The optimizer decays what was drawn; all class vectors otherwise.
    assert head.kernel_regularizer is head.energy
    lazy = head_flags.optimizer(one, keras.optimizers.SGD())
    assert (type(lazy), lazy.l2) == (LazyOptimizer, 2.5e-4)
    one.class_share = None
    assert head_flags.build(one, 5).kernel_regularizer is not head.energy
    assert isinstance(head_flags.optimizer(one, keras.optimizers.SGD()), keras.optimizers.SGD)


def test_a_training_on_a_share_of_the_people_logs_no_accuracy(people, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(train.figures, "draw_metrics", lambda *args: drawn.append(args[1]))
    flags = ("--model_name", "cosface", "--class_share", "0.5", "--epochs", "1")
    run = tmp_path / "run"
    assert trained_on(people, run, *flags, "--test_people", "0") == 0
    (row,) = rows(run / "log.csv")
    assert row.keys() >= {"loss", "energy"}
    assert "accuracy" not in row
    assert "accuracy" not in drawn[0]
    assert "train_accuracy" not in json.loads((run / "result.json").read_text())["metrics"]


def test_class_vectors_of_another_number_of_subcenters(monkeypatch, tmp_path):
    def model(classes, subcenters):
        head = CosFace(classes, subcenters=subcenters)
        return FaceModel(keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)]), head)

    begun = model(3, 2)
    run = argparse.Namespace(folder=tmp_path, config={})
    monkeypatch.setattr(trained, "load_model", lambda folder: (begun, run))
    monkeypatch.setattr(trained, "trained_people", lambda folder: ["a", "b", "c"])
    known = keras.ops.convert_to_numpy(begun.head.kernel).reshape(3, 3, 2)
    for subcenters in (1, 2, 3):
        new = model(2, subcenters)
        before = keras.ops.convert_to_numpy(new.head.kernel).reshape(3, 2, subcenters).copy()
        trained.begin_with(new, ["c", "z"], tmp_path)
        after = keras.ops.convert_to_numpy(new.head.kernel).reshape(3, 2, subcenters)
        np.testing.assert_array_equal(after[:, 0, :2], known[:, 2, :subcenters])
        np.testing.assert_array_equal(after[:, 0, 2:], before[:, 0, 2:])
        np.testing.assert_array_equal(after[:, 1], before[:, 1])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "--data_dir must name a folder or zip of people, or a .rec. Received: none"),
        (["--data_dir", "nowhere"], "nowhere"),
        (["--image_size", "16"], "--image_size must be a height and a width.* Received: 16"),
        (
            ["--pattern", "p0_*", "--small_people", "skip", "--test_people", "0"],
            "at least 2 people to train on. Received: 1",
        ),
        (["--pattern", "*[12].png"], "needed. Received: 2 and 4, of 4 images of 2 people"),
        (["--test_people", "5"], "leave at least 2 people to train on. Received: 5 of 6"),
        (["--model_name", "normface", "--m", "1"], "--m does not apply to --model_name normface"),
        (["--model_name", "cosface", "--strength", "2"], "--strength does not apply to .* cosface"),
        (["--model_name", "arcface", "--h", "1"], "--h does not apply to --model_name arcface"),
        (["--model_name", "sphereface2", "--class_share", "1"], "--class_share does not apply to"),
        (["--class_share", "1.5"], "`sample` must be None or a share.* Received: sample=1.5"),
        (["--model_name", "sphereface", "--m", "2.5"], "`m` must be 1, 2, 3 or 4"),
        (["--arch", "iresnet18", "--norm", "none"], "--norm none needs an sfnet"),
        (["--image_size", "8x8"], "--arch sfnet4: "),
        (["--cache_gib", "1"], "--cache_gib needs --cache memory. Received: --cache_gib 1"),
        (["--finetune", "nowhere"], "nowhere is not a run's folder"),
        (["--per_person", "3"], "batch_size=8, per_person=3"),
    ],
)
def test_bad_flags_of_the_trainer(people, flags, message, tmp_path, capsys):
    out = tmp_path / "run"
    given = [] if not flags else ["--data_dir", str(people)]
    assert program(train.main, [*SMALL, *given, *flags, "--out", str(out)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert re.search(message, error)
    assert not (out / "config.json").exists()


def test_images_that_are_cut_short_are_found_at_once_or_when_they_are_needed(
    people, tmp_path, capsys
):
    broken = people / "p0" / "p0_0001.png"
    broken.write_bytes(broken.read_bytes()[:-40])
    flags = ("--model_name", "normface", "--test_people", "0")
    for check, out in (("pixels", "one"), ("headers", "two")):
        assert trained_on(people, tmp_path / out, *flags, "--check_images", check) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert f"{people}: 1 file cannot be read as an image: p0/p0_0001.png (" in error
        assert (tmp_path / out / "config.json").exists() == (check == "headers")


def test_bad_flags_of_the_tester(people, tmp_path, capsys):
    def refused(*flags):
        assert program(test.main, ["--data_dir", str(people), *flags]) == 2
        return capsys.readouterr().err

    assert "is not a run's folder" in refused("--run", str(tmp_path / "nowhere"))
    run = tmp_path / "run"
    flags = ("--model_name", "normface", "--epochs", "0", "--test_people", "0")
    assert trained_on(people, run, *flags) == 0
    capsys.readouterr()
    missing = tmp_path / "pairs.txt"
    assert f"{missing} cannot be read" in refused("--run", str(run), "--pairs", str(missing))
    missing.write_text("p0\t1\t9\n")
    assert "there is no image p0/p0_0009.*" in refused("--run", str(run), "--pairs", str(missing))
    assert "on whom" in (error := refused("--run", str(run)))
    assert "Received: 0 of 6" in error


def test_a_plane_for_every_margin(tmp_path, monkeypatch):
    out, drawn = tmp_path / "plane", []
    # Drawing has tests of its own.
    monkeypatch.setattr(plane, "draw_planes", lambda *args: drawn.append(args))
    flags = ["--m", "1", "4", "--epochs", "1", "--width", "0.1", "--train_images", "100"]
    assert program(plane.main, [*flags, "--out", str(out)]) == 0
    names = ["sphereface-m1-seed0", "sphereface-m4-seed0"]
    assert [list(planes) for planes, *_ in drawn] == [names[:1], names[1:], names]
    assert [path for *_, path in drawn] == [out / name / "plane.png" for name in (*names, "")]
    table = rows(out / "table.csv")
    assert [float(line["m"]) for line in table] == [1, 4]
    kept = plane.load_plane(out / "sphereface-m4-seed0")
    assert kept.features.shape == (100, 2)
    assert kept.classes.shape == (10, 2)
    assert float(table[1]["gap"]) == pytest.approx(plane.rays(kept.features, kept.labels)[1])


def test_rays_against_their_definition():
    # Two rays, one across the half turn: 170° to 190°, and 9° to 11°.
    first = np.radians(np.linspace(170, 190, 101))
    second = np.radians(np.linspace(9, 11, 101))
    turns = np.concatenate([first, second])
    features = 3.0 * np.column_stack([np.cos(turns), np.sin(turns)])
    spread, gap = plane.rays(features, np.repeat([0, 1], 101))
    offsets = [np.linspace(-10, 10, 101), np.linspace(-1, 1, 101)]
    assert spread == pytest.approx(np.mean([np.sqrt(np.mean(each**2)) for each in offsets]))
    assert gap == pytest.approx((360 - 0.95 * (20 + 2)) / 2)
