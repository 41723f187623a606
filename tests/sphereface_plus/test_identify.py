"""Names of people from the command line, against cosines that are compared one by one."""

import csv
import json
import shutil

import numpy as np
import pytest

from mhe.harness.flags import program
from sphereface_plus import backbones, identify
from sphereface_plus.program import embedders
from sphereface_plus.program.tables import Table, write_table

pytestmark = pytest.mark.one_backend

GALLERY = np.array(["ann", "ann", "bob", "cid", "cid"])
PROBES = np.array(["bob", "eve", "ann", "dan", "cid", "dan", "ann", "eve"])


@pytest.fixture
def drawn(tmp_path):
    """Tables of people who have directions, and the cosines of probes and gallery."""
    generator = np.random.default_rng(5)
    means = {name: generator.normal(size=4) for name in ("ann", "bob", "cid", "dan", "eve")}

    def table(name, people, model="7f", shown=None):
        rows = np.array([means[each] for each in people]) + generator.normal(
            0, 0.6, (len(people), 4)
        )
        images = np.array([f"{name}/{place}.png" for place in range(len(people))])
        shown = people if shown is None else shown
        path = tmp_path / f"{name}.npz"
        write_table(path, Table("", images, np.asarray(shown), rows.astype("float32"), model))
        return str(path), rows / np.linalg.norm(rows, axis=1, keepdims=True)

    return table


def rows(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def run(capsys, out, gallery, probes, *flags):
    asked = ["--gallery", str(gallery), "--probes", str(probes), "--out", str(out), *flags]
    code = program(identify.main, asked)
    said = capsys.readouterr()
    if code:
        assert (code, said.err.count("\n")) == (2, 1)
        return said.err
    return said.out, json.loads((out / "result.json").read_text()), rows(out / "identified.csv")


def test_names_thresholds_and_rates(drawn, tmp_path, capsys):
    (gallery, known), (probes, sought) = drawn("gallery", GALLERY), drawn("probes", PROBES)
    said, result, found = run(capsys, tmp_path / "out", gallery, probes, "--far", "0.25")
    cosines = sought @ known.T
    largest = cosines.max(axis=1)
    is_stranger = ~np.isin(PROBES, GALLERY)
    bars = np.r_[-1, np.sort(largest)]
    bar = next(each for each in bars if np.mean(largest[is_stranger] > each) <= 0.25)
    assert result["threshold"] == pytest.approx(bar, abs=1e-6)
    assert result["threshold_source"] == "the 4 probes of people who are not in the gallery"
    names = GALLERY[cosines.argmax(axis=1)]
    for row, name, cosine, person in zip(found, names, largest, PROBES, strict=True):
        assert (row["name"], row["person"]) == (name, person)
        assert float(row["cosine"]) == pytest.approx(cosine, abs=2e-6)
        if abs(cosine - bar) > 1e-5:
            assert row["accepted"] == str(int(cosine > bar))
    mated = names[~is_stranger] == PROBES[~is_stranger]
    above = largest[~is_stranger] > bar
    metrics = result["metrics"]
    assert metrics["rank_1"] == pytest.approx(np.mean(mated))
    assert metrics["dir_at_far"] == pytest.approx(np.mean(mated & above))
    assert metrics["false_alarm_rate"] == 0.25
    assert "4 probes are of 2 people who are not in the gallery: dan (2), eve (2)" in said
    assert "4 probes are of people in the gallery: rank 1" in said
    assert "at FAR 0.25" in said


def test_where_thresholds_come_from(drawn, tmp_path, capsys):
    (gallery, known), (probes, _) = drawn("gallery", GALLERY), drawn("probes", PROBES)
    strangers, others = drawn("strangers", ["dan"] * 10)
    asked = capsys, tmp_path / "a", gallery, probes, "--far"
    _, result, _ = run(*asked, "0.1", "--strangers", strangers)
    scores = np.sort((others @ known.T).max(axis=1))
    assert result["threshold"] == pytest.approx(scores[-2], abs=1e-6)
    assert "the 10 strangers of" in result["threshold_source"]

    # One in five: too few strangers among the probes, enough faces in the gallery.
    _, result, _ = run(capsys, tmp_path / "b", gallery, probes, "--far", "0.2")
    apart = np.where(GALLERY[:, None] != GALLERY, known @ known.T, -1)
    assert result["threshold"] == pytest.approx(np.sort(apart.max(axis=1))[-2], abs=1e-6)
    assert result["threshold_source"].startswith("the 5 faces of the gallery")
    said, result, _ = run(capsys, tmp_path / "c", gallery, probes, "--threshold", "0.5")
    assert (result["threshold"], "DIR" in said, "at this threshold" in said) == (0.5, True, True)

    error = run(capsys, tmp_path / "d", gallery, probes, "--far", "0.1")
    assert "--far 0.1 needs 10 faces of strangers to set a threshold by" in error
    assert "Received: 4 probes of people who are not in the gallery, and 5 faces in it" in error
    error = run(capsys, tmp_path / "d", gallery, probes, "--far", "0.01", "--strangers", strangers)
    assert "--far 0.01 needs 100 faces of strangers. Received: 10 in" in error
    error = run(capsys, tmp_path / "d", gallery, probes, "--strangers", probes)
    assert "must hold nobody of the gallery. Received: ann, bob, cid" in error
    assert not (tmp_path / "d").exists()


def test_probes_of_nobody_in_the_gallery_or_of_nobody_known(drawn, tmp_path, capsys):
    gallery, _ = drawn("gallery", GALLERY)
    probes, _ = drawn("strange", ["dan", "eve", "eve"])
    said, result, _ = run(capsys, tmp_path / "a", gallery, probes, "--far", "0.5")
    assert "3 probes are of 2 people who are not in the gallery: dan (1), eve (2)" in said
    assert "no probe is of a person in the gallery: there is no rank 1 and no DIR" in said
    assert sorted(result["metrics"]) == ["accepted", "false_alarm_rate"]
    probes, _ = drawn("unknown", ["ann", "dan"], shown=["", ""])
    said, result, found = run(capsys, tmp_path / "b", gallery, probes, "--far", "0.5")
    assert "no probe has a person: whether names are right is not known" in said
    assert list(result["metrics"]) == ["accepted"]
    assert [row["person"] for row in found] == ["", ""]


def test_what_cannot_be_compared(drawn, tmp_path, capsys):
    (gallery, _), (probes, _) = drawn("gallery", GALLERY), drawn("probes", PROBES)
    other, _ = drawn("other", PROBES, model="80")
    unnamed, _ = drawn("unnamed", GALLERY, shown=["ann", "", "bob", "", ""])
    out = tmp_path / "out"
    error = run(capsys, out, gallery, other)
    assert "other.npz and --gallery" in error
    assert "must be of one network" in error
    assert error.endswith("Received: the networks 80 and 7f\n")
    error = run(capsys, out, unnamed, probes)
    assert "unnamed/1.png must be of a person. Received: none" in error
    error = run(capsys, out, gallery, tmp_path)
    assert f"--run must name what embeds --probes {tmp_path}, which is no table" in error
    assert "--far must be below 1. Received: 1" in run(capsys, out, gallery, probes, "--far", "1")
    assert not out.exists()
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    assert "is not empty" in run(capsys, out, gallery, probes)


def test_folders_are_embedded(people, tmp_path, weights_from_numpy, capsys):
    backbone = backbones.sfnet(4, 8, input_shape=(16, 16, 1), width=0.06)
    path = tmp_path / "embedder.keras"
    backbone.save(path)
    gallery, flat = tmp_path / "gallery", tmp_path / "flat"
    for person in range(4):
        shutil.copytree(people / f"p{person}", gallery / f"p{person}")
    for image in people.rglob("*_0001.png"):
        flat.mkdir(exist_ok=True)
        shutil.copy(image, flat / image.name)
    flags = ["--run", str(path), "--far", "0.25"]
    said, result, found = run(capsys, tmp_path / "a", gallery, people, *flags)
    assert "16 faces of 4 people in the gallery, 24 probes" in said
    assert "8 probes are of 2 people who are not in the gallery: p4 (4), p5 (4)" in said
    assert result["network"] == embedders.digest(backbone, True)
    assert result["metrics"]["rank_1"] == 1  # all are in the gallery themselves
    names = {row["image"].rsplit("/")[-1]: row["name"] for row in found}
    _, result, found = run(
        capsys, tmp_path / "b", gallery, flat, "--probe_names", "none", *flags, "--mirror", "none"
    )
    assert [row["image"] for row in found] == [f"p{person}_0001.png" for person in range(6)]
    for row in found[:4]:
        assert row["name"] == names[row["image"]] == row["image"][:2]
        assert float(row["cosine"]) == pytest.approx(1, abs=1e-5)
    # A table of another network, or without mirror images.
    table = tmp_path / "table.npz"
    write_table(
        table, Table("", np.array(["a"]), np.array(["p0"]), np.ones((1, 16), "float32"), "80")
    )
    error = run(capsys, tmp_path / "c", table, people, *flags)
    assert "table.npz and --run" in error
