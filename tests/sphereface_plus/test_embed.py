"""Tables of embeddings from the command line: right, resumable, and of one network."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import keras
import numpy as np
import pytest

import mhe
from mhe.harness.flags import program
from sphereface_plus import backbones, embed, faces, train
from sphereface_plus.face_model import embed_with
from sphereface_plus.program import embedders, trained
from sphereface_plus.program.tables import read_table

pytestmark = pytest.mark.one_backend


@pytest.fixture
def network(tmp_path, weights_from_numpy):
    """A file with a backbone, and the backbone."""
    backbone = backbones.sfnet(4, 8, input_shape=(16, 16, 1), width=0.06)
    path = tmp_path / "embedder.keras"
    backbone.save(path)
    return path, backbone


def expected(backbone, people, mirror=True):
    images = (faces.load(people, size=(16, 16), channels=1).astype("float32") - 127.5) / 128
    return embed_with(backbone, images, mirror)


@pytest.mark.parametrize("suffix", [".npz", ".csv"])
def test_a_folder_of_people(people, network, tmp_path, capsys, suffix):
    path, backbone = network
    single = people / "p9" / "alone.png"
    single.parent.mkdir()
    shutil.copy(people / "p0" / "p0_0001.png", single)
    out = tmp_path / f"table{suffix}"
    asked = ["--run", str(path), "--data_dir", str(people), "--batch_size", "7"]
    assert program(embed.main, [*asked, "--out", str(out)]) == 0
    assert "25 embeddings of 16 numbers" in capsys.readouterr().out
    found, table = faces.find_people(people, least=1), read_table(out)
    assert table.images.tolist() == list(found.images)
    assert table.people.tolist() == [found.names[label] for label in found.labels]
    np.testing.assert_allclose(table.embeddings, expected(backbone, found), atol=1e-5)
    assert table.model == embedders.digest(backbone, True)
    assert sorted(os.listdir(tmp_path)) == ["embedder.keras", "people", out.name]
    assert program(embed.main, [*asked, "--out", str(out)]) == 2
    assert f"--out {out} exists, and nothing is overwritten" in capsys.readouterr().err


def test_a_zip_of_nobody_known_without_mirror_images(people, network, tmp_path):
    path, backbone = network
    flat = tmp_path / "flat"
    flat.mkdir()
    for image in people.rglob("*.png"):
        shutil.copy(image, flat / image.name)
    data = shutil.make_archive(str(tmp_path / "flat"), "zip", flat)
    out = tmp_path / "table.npz"
    flags = ["--run", str(path), "--data_dir", data, "--names", "none", "--mirror", "none"]
    assert program(embed.main, [*flags, "--out", str(out)]) == 0
    table = read_table(out)
    assert table.images.tolist() == [f"p{p}_{n:04d}.png" for p in range(6) for n in range(1, 5)]
    assert set(table.people) == {""}
    found = faces.find_people(people)
    np.testing.assert_allclose(table.embeddings, expected(backbone, found, False), atol=1e-5)
    assert table.model == embedders.digest(backbone, False) != embedders.digest(backbone, True)


def test_a_run_and_what_is_saved_from_it_have_one_digest(people, tmp_path, monkeypatch):
    monkeypatch.setattr(train.figures, "draw_metrics", lambda *args: None)
    run = tmp_path / "run"
    flags = [
        *("--arch", "sfnet4", "--width", "0.06", "--dims", "8", "--image_size", "16x16"),
        *("--channels", "1", "--batch_size", "8", "--model_name", "normface"),
    ]
    for epochs in ("0", "1"):
        out = ["--out", str(run) + epochs, "--epochs", epochs]
        assert program(train.main, [*flags, "--data_dir", str(people), *out]) == 0
    model, _ = trained.load_model(str(run) + "1")
    model.backbone.save(tmp_path / "backbone.keras")
    model.save(tmp_path / "model.keras")
    found = [
        embedders.load_embedder(each).model
        for each in (str(run) + "1", tmp_path / "backbone.keras", tmp_path / "model.keras")
    ]
    assert len(set(found)) == 1
    assert embedders.load_embedder(str(run) + "0").model != found[0]


def test_interrupted_and_gone_on_with(people, network, tmp_path, monkeypatch, capsys):
    path, _ = network
    monkeypatch.setattr(embed, "_PART_IMAGES", 8)
    asked = ["--run", str(path), "--data_dir", str(people), "--batch_size", "4"]
    whole, out = tmp_path / "whole.npz", tmp_path / "table.npz"
    assert program(embed.main, [*asked, "--out", str(whole)]) == 0
    write, written = embed._Parts.write, []

    def interrupted(self, number, part):
        if number == 2:
            raise KeyboardInterrupt
        write(self, number, part)

    with monkeypatch.context() as patch:
        patch.setattr(embed._Parts, "write", interrupted)
        assert program(embed.main, [*asked, "--out", str(out)]) == 130
    assert "Go on with the same command" in capsys.readouterr().err
    folder = tmp_path / "table.npz.parts"
    assert sorted(os.listdir(folder)) == ["part-000000.npy", "part-000001.npy", "settings.json"]
    for flags, what in (
        (["--batch_size", "8"], "batch_size"),
        (["--mirror", "none"], "network"),
        (["--pattern", "*1.png"], "images"),
    ):
        assert program(embed.main, [*asked, *flags, "--out", str(out)]) == 2
        error = capsys.readouterr().err
        assert f"table.npz.parts holds embeddings of an interrupted run with other {what}" in error
    # A part that was cut short is made again.
    part = folder / "part-000001.npy"
    part.write_bytes(part.read_bytes()[:-1])
    (folder / "partial-part-000002.npy").write_bytes(b"")
    monkeypatch.setattr(
        embed._Parts, "write", lambda *args: written.append(args[1]) or write(*args)
    )
    assert program(embed.main, [*asked, "--out", str(out)]) == 0
    assert written == [1, 2]
    assert "embedded anew" in capsys.readouterr().err
    assert not folder.exists()
    for name in ("embeddings", "images", "people", "model"):
        np.testing.assert_array_equal(np.load(out)[name], np.load(whole)[name])


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no kill -9 here")
def test_killed_and_gone_on_with(people, network, tmp_path):
    """Killed by the operating system, in a process of its own."""
    path, _ = network
    for number in range(60):
        shutil.copy(people / "p0" / "p0_0001.png", people / "p0" / f"more_{number}.png")
    script = (
        "import sys, time\n"
        "from sphereface_plus import embed\n"
        "from mhe.harness.flags import program\n"
        "embed._PART_IMAGES = 4\n"
        "write = embed._Parts.write\n"
        "embed._Parts.write = lambda *args: (write(*args), time.sleep(float(sys.argv[1])))\n"
        "sys.exit(program(embed.main, sys.argv[2:]))\n"
    )
    whole, out = tmp_path / "whole.npz", tmp_path / "table.npz"
    asked = ["--run", str(path), "--data_dir", str(people), "--batch_size", "4", "--out"]
    environment = {**os.environ, "PYTHONPATH": str(Path(mhe.__file__).parents[1])}
    command = [sys.executable, "-c", script]
    started = subprocess.Popen([*command, "0.2", *asked, str(out)], env=environment)
    folder, deadline = tmp_path / "table.npz.parts", time.monotonic() + 300
    while not (folder / "part-000001.npy").exists():
        assert started.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    started.kill()
    started.wait()
    assert not out.exists()
    ended = subprocess.run([*command, "0", *asked, str(out)], env=environment, check=False)
    assert ended.returncode == 0
    subprocess.run([*command, "0", *asked, str(whole)], env=environment, check=True)
    assert read_table(out).embeddings.tobytes() == read_table(whole).embeddings.tobytes()
    assert not folder.exists()


def test_what_cannot_be_embedded(people, network, tmp_path, capsys):
    path, backbone = network

    def refused(*flags, run=path, data=people):
        asked = ["--run", str(run), *flags]
        asked += [] if data is None else ["--data_dir", str(data)]
        assert program(embed.main, asked) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        return error

    out = ["--out", str(tmp_path / "table.npz")]
    assert "--data_dir must name a folder or zip of images" in refused(*out, data=None)
    assert "table.txt must end in .npz, .csv or .safetensors" in refused(
        "--out", str(tmp_path / "table.txt")
    )
    assert "nowhere is not a run's folder" in refused(*out, run=tmp_path / "nowhere")
    words = tmp_path / "words.keras"
    words.write_text("words")
    assert "cannot be read as a model that Keras saved" in refused(*out, run=words)
    other = tmp_path / "other.keras"
    keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)]).save(other)
    assert "Received: inputs (None, 3), outputs (None, 2)" in refused(*out, run=other)
    for weight in backbone.weights:
        weight.assign(np.zeros(weight.shape))
    backbone.save(tmp_path / "zero.keras")
    assert "Received: length 0 for p0/p0_0001.png" in refused(*out, run=tmp_path / "zero.keras")
    (people / "p1" / "p1_0002.png").write_bytes(b"words")
    assert "p1/p1_0002.png (not an image)" in refused(*out)
    shutil.rmtree(people / "p1")
    (people / "top.png").write_bytes((people / "p0" / "p0_0001.png").read_bytes())
    assert "images must be in <person>/<image>. Received: top.png" in refused(*out)
    assert not (tmp_path / "table.npz").exists()
