"""Several protocols in one test from the command line, each by its name."""

import json
import pickle
import shutil

import keras
import numpy as np
import pytest

from mhe.harness.flags import program
from sphereface_plus import FaceModel, backbones, faces, ijb, test
from sphereface_plus.heads import NormFace
from sphereface_plus.program import figures, trained

pytestmark = pytest.mark.one_backend


@pytest.fixture
def run(tmp_path, weights_from_numpy):
    """A complete run of a network that has learnt nothing, on people who are not tested on."""
    folder = tmp_path / "run"
    folder.mkdir()
    backbone = backbones.sfnet(4, 8, input_shape=(16, 16, 1), width=0.06)
    FaceModel(backbone, NormFace(2)).save(folder / trained.MODEL)
    config = {
        "program": trained.PROGRAM, "model_name": "normface", "power_s": None, "dataset": "x",
        "seed": 0, "data_dir": "x.rec", "landmarks": None,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "result.json").write_text(json.dumps({"metrics": {}, "seconds": 0.0}))
    (folder / "people.csv").write_text("person,images,set\nyan,2,train\nzoe,2,train\n")
    return folder


@pytest.fixture
def sets(people, tmp_path):
    """Two validation sets of 24 pairs."""
    images = [path.read_bytes() for path in sorted(people.rglob("*.png"))]
    for name, shift in (("cfp_fp", 1), ("agedb_30", 2)):
        same = [turn % 2 == 0 for turn in range(24)]
        pairs = [
            (place, place // 4 * 4 + (place + shift) % 4 if is_same else (place + 4 * shift) % 24)
            for place, is_same in enumerate(same)
        ]
        content = [images[place] for pair in pairs for place in pair], same
        (tmp_path / f"{name}.bin").write_bytes(pickle.dumps(content))
    return [str(tmp_path / f"{name}.bin") for name in ("cfp_fp", "agedb_30")]


@pytest.fixture
def janus(people, tmp_path):
    """The people as IJB-C is laid out: two templates each, of an image and of three frames."""
    folder = tmp_path / "IJBC"
    (folder / "meta").mkdir(parents=True)
    (folder / "loose_crop").mkdir()
    points = " ".join(f"{number:.3f}" for number in faces.reference((16, 16)).ravel())
    media, landmarks = [], []
    for number, path in enumerate(sorted(people.rglob("*.png")), 1):
        shutil.copy(path, folder / "loose_crop" / f"{number}.png")
        person, image = int(path.parent.name[1:]), int(path.stem[-1])
        template = 10 * person + (1 if image == 1 else 2)
        media.append(f"{number}.png {template} {number if image < 3 else 100 + person}")
        landmarks.append(f"{number}.png {points} {0.5 + image / 10}")
    shutil.copy(people / "p0" / "p0_0001.png", folder / "loose_crop" / "99.png")  # of no template
    pairs = [f"{10 * a + 1} {10 * b + 2} {int(a == b)}" for a in range(6) for b in range(6)]
    lists = {
        "face_tid_mid.txt": media,
        "name_5pts_score.txt": landmarks,
        "template_pair_label.txt": pairs,
        "1N_gallery_G1.csv": ["TEMPLATE_ID,SUBJECT_ID", *(f"{10 * p + 1},{p}" for p in range(3))],
        "1N_gallery_G2.csv": ["TEMPLATE_ID,SUBJECT_ID", *(f"{10 * p + 1},{p}" for p in (3, 4, 5))],
        "1N_probe_mixed.csv": ["TEMPLATE_ID,SUBJECT_ID", *(f"{10 * p + 2},{p}" for p in range(6))],
    }
    for name, lines in lists.items():
        (folder / "meta" / f"ijbc_{name}").write_text("\n".join(lines) + "\n")
    return folder


def report(folder):
    return json.loads((folder / "result.json").read_text())


def test_every_protocol_is_reported_by_its_name(people, run, sets, janus, capsys, monkeypatch):
    drawn = []
    for name in ("draw_roc", "draw_det", "draw_scores", "draw_cmc", "draw_hardest"):
        monkeypatch.setattr(figures, name, lambda *args, name=name: drawn.append(name))
    asked = ["--run", str(run), "--batch_size", "8"]
    assert program(test.main, [*asked, "--pairs", *sets, "--ijb", str(janus)]) == 0
    said = capsys.readouterr().out
    for name in ("CFP-FP:\naccuracy", "AgeDB-30:\naccuracy", "IJB-C:\n1:1, 6 pairs of one person"):
        assert name in said
    found = report(run / "test-IJBC-cfp_fp-agedb_30")
    assert list(found["protocols"]) == ["CFP-FP", "AgeDB-30", "IJB-C"]
    assert found["pairs"] == sets
    assert drawn.count("draw_det") == drawn.count("draw_roc") == 3
    assert drawn.count("draw_hardest") == 2
    for key, name in (("cfp_fp", "CFP-FP"), ("agedb_30", "AgeDB-30"), ("IJBC", "IJB-C")):
        for metric, value in found["protocols"][name].items():
            assert found["metrics"][f"{key}_{metric}"] == value
    assert (run / "test-IJBC-cfp_fp-agedb_30" / "cfp_fp" / "folds.csv").exists()
    # Alone, a set has the same numbers, by names of its own.
    assert program(test.main, [*asked, "--pairs", sets[1]]) == 0
    alone = report(run / "test-agedb_30")
    for metric, value in alone["metrics"].items():
        assert value == pytest.approx(found["protocols"]["AgeDB-30"][metric], abs=1e-6)
    assert alone["pairs"] == sets[1]
    assert list(alone["protocols"]) == ["AgeDB-30"]


def test_templates_against_the_library(run, janus, monkeypatch, capsys):
    for name in ("draw_roc", "draw_det", "draw_cmc"):
        monkeypatch.setattr(figures, name, lambda *args: None)
    assert program(test.main, ["--run", str(run), "--ijb", str(janus), "--batch_size", "8"]) == 0
    assert "1:N, gallery G2 of 3 people: 3 probes of these, 3 of others" in capsys.readouterr().out
    metrics = report(run / "test-IJBC")["metrics"]
    model, _ = trained.load_model(run)
    names, points, scores = ijb.read_points(janus / "meta" / "ijbc_name_5pts_score.txt")
    listed = ijb.read_faces(janus / "meta" / "ijbc_face_tid_mid.txt")
    assert listed.images == names
    every = faces.find_faces(janus / "loose_crop")
    place = [every.images.index(name) for name in names]
    shown = faces.load(
        every.subset(names), None, (16, 16), 1, dict(zip(names, points, strict=True))
    )
    images = (shown.astype("float32") - 127.5) / 128
    order = np.argsort(np.argsort(place))
    both = [
        keras.ops.convert_to_numpy(model.backbone(each)) for each in (images, images[:, :, ::-1])
    ]
    vectors = np.sum(both, axis=0)[order] * scores[:, None]
    # Frames of one medium are averaged, media added.
    templates = {}
    for template in set(listed.templates.tolist()):
        own = listed.templates == template
        means = [vectors[own & (listed.media == m)].mean(0) for m in set(listed.media[own])]
        total = np.sum(means, axis=0)
        templates[template] = total / np.linalg.norm(total)
    cosines = np.array(
        [[templates[10 * a + 1] @ templates[10 * b + 2] for b in range(6)] for a in range(6)]
    )
    same = np.eye(6, dtype=bool)
    wins = cosines[same][:, None] > cosines[~same][None]
    assert metrics["auc"] == pytest.approx(np.mean(wins), abs=0.01)
    ranks = [
        np.mean([np.argmax(cosines[group, b]) + group.start == b for b in range(*group.indices(6))])
        for group in (slice(0, 3), slice(3, 6))
    ]
    assert metrics["rank_1"] == pytest.approx(np.mean(ranks))


def test_what_cannot_be_tested(people, run, sets, janus, capsys):
    def refused(*flags):
        assert program(test.main, ["--run", str(run), *flags]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        return error

    assert "agedb_30 twice" in refused("--pairs", sets[1], sets[1])
    assert "holds its own images, aligned" in refused("--pairs", *sets, "--data_dir", str(people))
    assert "must be a folder with loose_crop/ and one meta/" in refused("--ijb", str(people))
    faces_file = janus / "meta" / "ijbc_face_tid_mid.txt"
    whole = faces_file.read_text()
    faces_file.write_text(whole + "77.png 11 5\n")
    assert "every face needs an image. Missing: 77.png" in refused("--ijb", str(janus))
    faces_file.write_text(whole + "99.png 11 5\n")
    assert "every face needs landmarks. Missing: 99.png" in refused("--ijb", str(janus))
    faces_file.write_text("\n".join(whole.splitlines()[:-1]) + "\n")
    pairs = janus / "meta" / "ijbc_template_pair_label.txt"
    pairs.write_text(pairs.read_text() + "11 88 0\n")
    error = refused("--ijb", str(janus), "--out", str(janus / "out"))
    assert "`pairs` must name templates with images. Received: template 88" in error
    (janus / "meta" / "ijbc_1N_probe_mixed.csv").unlink()
    assert "ijbc_1N_probe_mixed.csv cannot be read" in refused("--ijb", str(janus))
