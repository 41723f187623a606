"""Datasets by their name in TensorFlow Datasets, prepared from small archives in public layouts."""

import io
import socket
import sys
import tarfile
import types

import numpy as np
import pytest
from PIL import Image

from mhe.harness.datasets import load
from mhe.harness.errors import BadInput


def picture(seed=0, size=(6, 5), mode="RGB", kind="PNG"):
    """The bytes of an image file, `size` as Pillow has it: width, height."""
    channels = {"RGB": 3, "L": 1, "RGBA": 4}[mode]
    shape = (size[1], size[0]) if channels == 1 else (size[1], size[0], channels)
    pixels = np.random.default_rng(seed).integers(256, size=shape, dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind)
    return stream.getvalue()


def pixels(data):
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def cifar100_archive(root):
    """CIFAR-100's public binary layout: coarse label, fine label, 3×32×32 pixels a record."""
    folder = root / "cifar-100-binary"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    records = {}
    for split, count in (("train", 7), ("test", 3)):
        fine = rng.integers(100, size=count, dtype=np.uint8)
        pixels = rng.integers(256, size=(count, 3, 32, 32), dtype=np.uint8)
        coarse = fine[:, None] // 5
        rows = np.concatenate([coarse, fine[:, None], pixels.reshape(count, -1)], axis=1)
        (folder / f"{split}.bin").write_bytes(rows.astype(np.uint8).tobytes())
        records[split] = pixels.transpose(0, 2, 3, 1), fine
    for kind, count in (("coarse", 20), ("fine", 100)):
        names = "".join(f"{kind}_{number:02}\n" for number in range(count))
        (folder / f"{kind}_label_names.txt").write_text(names)
    return records


@pytest.fixture
def tfds():
    return pytest.importorskip("tensorflow_datasets")


@pytest.fixture
def preparing_tfds(tfds):
    pytest.importorskip("importlib_resources")  # TensorFlow Datasets cannot prepare without it
    return tfds


# Raised inside TensorFlow Datasets, TensorFlow and what they import.
from_tfds = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@from_tfds
def test_cifar100_by_name_from_its_public_archive(preparing_tfds, tmp_path, monkeypatch):
    records = cifar100_archive(tmp_path / "archive")
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args: [])
    monkeypatch.setattr(
        preparing_tfds.download.DownloadManager,
        "download_and_extract",
        lambda self, url: tmp_path / "archive",
    )
    prepared = load("cifar100", data_dir=tmp_path / "data")
    monkeypatch.undo()
    again = load("cifar100", data_dir=tmp_path / "data")  # prepared now, so read without a network
    for dataset in (prepared, again):
        assert dataset.class_names == tuple(f"fine_{number:02}" for number in range(100))
        for split, (images, labels) in (("train", dataset.train), ("test", dataset.test)):
            assert images.dtype == np.uint8
            assert labels.dtype == np.int64
            expected = dict(zip(map(bytes, records[split][0]), records[split][1], strict=True))
            assert dict(zip(map(bytes, images), labels, strict=True)) == expected
    np.testing.assert_array_equal(prepared.train[0], again.train[0])


@from_tfds
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_such_dataset", r"nor the name of a dataset.*Received: no_such_dataset$"),
        ("no/such/folder", r"neither a folder, nor a .zip file.*Received: no/such/folder$"),
        ("missing.zip", r"neither a folder, nor a .zip file.*Received: missing.zip$"),
        ("imdb_reviews", "does not consist of images with class labels"),
        (
            "imagenet2012",
            r"8 bits per channel and one size, .*--image_size. Received: shape \(None, None, 3\)",
        ),
        ("cifar100:9.9.9", "cannot be loaded: "),
    ],
)
def test_names_that_cannot_be_loaded(tfds, name, message, tmp_path):
    with pytest.raises(BadInput, match=message) as error:
        load(name, data_dir=tmp_path)
    assert "\n" not in str(error.value)


@from_tfds
def test_no_network(preparing_tfds, tmp_path, monkeypatch):
    def nowhere(*args, **kwargs):
        raise socket.gaierror("Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", nowhere)
    for proxy in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(proxy, raising=False)
        monkeypatch.delenv(proxy.upper(), raising=False)
    with pytest.raises(BadInput, match=r"cifar100 is not prepared in .* no network, .* not found"):
        load("cifar100", data_dir=tmp_path)


@from_tfds
def test_a_download_that_fails(preparing_tfds, tmp_path, monkeypatch):
    def fail(self):
        raise ConnectionError("connection refused\nand much more")

    monkeypatch.setattr(socket, "getaddrinfo", lambda *args: [])
    monkeypatch.setattr(preparing_tfds.core.DatasetBuilder, "download_and_prepare", fail)
    with pytest.raises(BadInput, match=r"cannot be downloaded: connection refused$"):
        load("cifar100", data_dir=tmp_path)


BIRDS = (
    ("001.Black_footed_Albatross", "Black_Footed_Albatross_0009_34", (20, 10), 1),
    ("001.Black_footed_Albatross", "Black_Footed_Albatross_0074_59", (8, 8), 0),
    ("200.Common_Yellowthroat", "Common_Yellowthroat_0003_190521", (9, 30), 1),
)


@from_tfds
def test_cub_by_name_from_its_public_archives(preparing_tfds, tmp_path, monkeypatch):
    root = tmp_path / "extracted"
    lists = {"images.txt": "", "train_test_split.txt": "", "bounding_boxes.txt": ""}
    files = {}
    for number, (folder, name, size, training) in enumerate(BIRDS, 1):
        lists["images.txt"] += f"{number} {folder}/{name}.jpg\n"
        lists["train_test_split.txt"] += f"{number} {training}\n"
        lists["bounding_boxes.txt"] += f"{number} 1.0 1.0 4.0 4.0\n"
        files[f"CUB_200_2011/images/{folder}/{name}.jpg"] = picture(number, size, kind="JPEG")
        files[f"segmentations/{folder}/{name}.png"] = picture(number, size, "L")
    files.update({f"CUB_200_2011/{name}": text.encode() for name, text in lists.items()})
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    archive = tmp_path / "CUB_200_2011.tgz"
    with tarfile.open(archive, "w:gz") as packed:
        packed.add(root / "CUB_200_2011", "CUB_200_2011")

    def imdecode(data, flags):
        return np.asarray(Image.open(io.BytesIO(data.tobytes())).convert("L"))

    # Its preparation reads the masks, which nothing here uses, with OpenCV.
    monkeypatch.setitem(sys.modules, "cv2", types.SimpleNamespace(imdecode=imdecode))
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args: [])
    manager = preparing_tfds.download.DownloadManager
    monkeypatch.setattr(manager, "download", lambda self, urls: [archive])
    monkeypatch.setattr(
        manager, "download_and_extract", lambda self, urls: [root, root / "segmentations"]
    )
    with pytest.raises(BadInput, match=r"by --image_size. Received: shape \(None, None, 3\)"):
        load("caltech_birds2011", data_dir=tmp_path / "data")
    dataset = load("caltech_birds2011", data_dir=tmp_path / "data", size=8)
    assert len(dataset.class_names) == 200
    assert sorted(dataset.train[1].tolist()) == [0, 199]
    assert dataset.train[0].shape == (2, 8, 8, 3)
    np.testing.assert_array_equal(dataset.test[1], [0])
    expected = pixels(files["CUB_200_2011/images/{}/{}.jpg".format(*BIRDS[1][:2])])
    # TensorFlow's decoder of JPEG rounds in another way than Pillow's.
    np.testing.assert_allclose(dataset.test[0][0], expected, atol=4)
