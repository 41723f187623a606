import builtins
import io
import socket
import zipfile

import numpy as np
import pytest
from PIL import Image

from mhe.harness.datasets import balanced_subset, load
from mhe.harness.errors import BadInput


def picture(seed=0, size=(6, 5), mode="RGB", kind="PNG"):
    """The bytes of an image file, `size` as Pillow has it: width, height."""
    channels = {"RGB": 3, "L": 1, "RGBA": 4}[mode]
    shape = (size[1], size[0]) if channels == 1 else (size[1], size[0], channels)
    pixels = np.random.default_rng(seed).integers(256, size=shape, dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind)
    return stream.getvalue()


def tree(**changes):
    """A small valid dataset, path to bytes; a change to None takes a file away."""
    files = {
        f"{split}/{label}/{number}.png": picture(number + 10 * ord(label))
        for split, count in (("train", 3), ("test", 1))
        for label in ("b", "a")
        for number in range(count)
    }
    files.update(changes)
    return {name: data for name, data in files.items() if data is not None}


def written(kind, files, root):
    """Write files into a folder or a zip and return its path."""
    if kind == "zip":
        with zipfile.ZipFile(root / "data.zip", "w") as archive:
            for name, data in reversed(files.items()):
                archive.writestr(name, data)
        return str(root / "data.zip")
    for name, data in reversed(files.items()):
        path = root / "data" / name
        (path if name.endswith("/") else path.parent).mkdir(parents=True, exist_ok=True)
        if not name.endswith("/"):
            path.write_bytes(data)
    return str(root / "data")


kinds = pytest.mark.parametrize("kind", ["folder", "zip"])


@kinds
def test_folder_and_zip(kind, tmp_path):
    files = tree(**{"README.txt": b"hello", "train/": b"", "train/a/": b""})
    before = written(kind, files, tmp_path)
    listing = sorted(tmp_path.rglob("*"))
    dataset = load(before)
    assert sorted(tmp_path.rglob("*")) == listing
    assert dataset.class_names == ("a", "b")
    images, labels = dataset.train
    assert images.dtype == np.uint8
    assert labels.dtype == np.int64
    np.testing.assert_array_equal(labels, [0, 0, 0, 1, 1, 1])
    np.testing.assert_array_equal(dataset.test[1], [0, 1])
    for split, (arrays, _) in (("train", dataset.train), ("test", dataset.test)):
        names = sorted(name for name in files if name.startswith(split) and name.endswith(".png"))
        expected = [np.asarray(Image.open(io.BytesIO(files[name]))) for name in names]
        np.testing.assert_array_equal(arrays, expected)
    assert images.shape == (6, 5, 6, 3)


def test_every_image_lands_in_its_place_when_threads_share_the_work(tmp_path):
    files = tree(**{f"train/a/x{n:04}.png": picture(n, size=(2, 2)) for n in range(600)})
    files = {name: picture(size=(2, 2)) if len(name) < 14 else d for name, d in files.items()}
    images, _ = load(written("zip", files, tmp_path)).train
    expected = [
        np.asarray(Image.open(io.BytesIO(files[n]))) for n in sorted(files) if n[:5] == "train"
    ]
    np.testing.assert_array_equal(images, expected)


@kinds
def test_hidden_files_are_skipped(kind, tmp_path):
    files = tree(
        **{
            "__MACOSX/train/a/._0.png": b"?",
            "train/.DS_Store": b"?",
            "train/a/.DS_Store": b"?",
            "train/a/Thumbs.db": b"?",
            "test/.cache/x/y.png": b"?",
        }
    )
    assert len(load(written(kind, files, tmp_path)).train[0]) == 6


def test_grey_stays_grey_only_if_all_are(tmp_path):
    grey = {name: picture(mode="L") for name in tree()}
    assert load(written("zip", grey, tmp_path)).train[0].shape == (6, 5, 6, 1)
    grey["test/a/0.png"] = picture(mode="RGBA")
    dataset = load(written("zip", grey, tmp_path))
    assert dataset.train[0].shape == (6, 5, 6, 3)
    assert np.ptp(dataset.train[0], axis=-1).max() == 0


def test_jpeg_is_decoded_and_a_class_may_lack_test_images(tmp_path):
    files = tree(**{"test/b/0.png": None, "train/a/0.png": picture(3, kind="JPEG")})
    dataset = load(written("folder", files, tmp_path))
    np.testing.assert_array_equal(dataset.test[1], [0])
    decoded = np.asarray(Image.open(io.BytesIO(picture(3, kind="JPEG"))))
    np.testing.assert_array_equal(dataset.train[0][0], decoded)


truncated = picture(kind="JPEG", size=(32, 32))[:-200]
deep = io.BytesIO()
Image.fromarray(np.zeros((5, 6), np.uint16)).save(deep, "PNG")


@kinds
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({n: None for n in tree() if n[:5] == "train"}, r"has no train/ folder"),
        ({n: None for n in tree() if n[:4] == "test"}, r"has no test/ folder"),
        ({"test/c/0.png": picture()}, "the class c is in test/ but not in train/"),
        ({"train/c/": b""}, "the class train/c/ has no images"),
        ({"train/a/1.png": truncated}, r"1 file cannot .*: train/a/1.png \(.*truncated"),
        ({"train/a/1.png": picture()[:60]}, r"1 file cannot .*: train/a/1.png \("),
        ({"train/a/0.png": b"text"}, r"1 file cannot .*: train/a/0.png \(not an image\)"),
        (dict.fromkeys(tree(), b"text"), r"8 files cannot .*0.png .*; and 5 more"),
        ({"test/b/0.png": deep.getvalue()}, r"test/b/0.png \(pixels of kind I;16, expected 8"),
        (
            {"train/b/0.png": picture(size=(7, 5)), "test/a/0.png": picture(size=(9, 9))},
            "train/a/0.png of 6x5 pixels and train/b/0.png of 7x5 pixels",
        ),
        ({"train/a/more/0.png": picture()}, r"train/<class>/. Received: train/a/more/0.png"),
        ({"train/0.png": picture()}, r"train/<class>/. Received: train/0.png"),
    ],
)
def test_bad_trees(kind, changes, message, tmp_path):
    path = written(kind, tree(**changes), tmp_path)
    with pytest.raises(BadInput, match=message) as error:
        load(path)
    assert "\n" not in str(error.value)


def test_corrupt_images_are_reported_before_mixed_sizes(tmp_path):
    files = tree(**{"train/a/0.png": truncated, "train/b/0.png": picture(size=(9, 9))})
    with pytest.raises(BadInput, match=r"train/a/0.png \("):
        load(written("zip", files, tmp_path))


def test_damaged_zip(tmp_path):
    path = tmp_path / "data.zip"
    path.write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(BadInput, match=r"data.zip is not a readable zip"):
        load(str(path))
    written("zip", tree(), tmp_path)
    data = bytearray(path.read_bytes())
    data[200] ^= 0xFF  # within the pixels of the member written first
    path.write_bytes(data)
    with pytest.raises(BadInput, match=r"1 file cannot be read as images: test/a/0.png \(Bad CRC"):
        load(str(path))


def test_digits_are_embedded_and_split_the_same_every_time():
    from sklearn.datasets import load_digits

    dataset, again = load("digits"), load("digits")
    images = np.concatenate([dataset.train[0], dataset.test[0]])
    labels = np.concatenate([dataset.train[1], dataset.test[1]])
    assert images.dtype == np.uint8
    assert labels.dtype == np.int64
    assert images.max() == 255

    def rows(arrays, targets):
        flat = np.column_stack([np.reshape(arrays, (len(targets), -1)), targets])
        return flat[np.lexsort(flat.T)]

    source = load_digits()
    np.testing.assert_array_equal(
        rows(images, labels), rows(np.rint(source.images * 255 / 16), source.target)
    )
    shares = np.bincount(dataset.test[1]) / np.bincount(labels)
    np.testing.assert_allclose(shares, 0.2, atol=0.01)
    np.testing.assert_array_equal(dataset.test[0], again.test[0])


def test_missing_packages_name_the_extra(monkeypatch, tmp_path):
    missing = {"sklearn.datasets", "PIL", "tensorflow_datasets"}
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name in missing:
            raise ImportError(f"No module named {name}")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    for dataset in ("digits", written("folder", tree(), tmp_path), "cifar100"):
        with pytest.raises(BadInput, match=r'pip install "\.\[train\]" from the checkout'):
            load(dataset)


def test_balanced_subset():
    labels = np.random.default_rng(0).integers(5, size=500)
    images = np.arange(500)
    chosen, chosen_labels = balanced_subset(images, labels, 50, seed=1)
    assert np.bincount(chosen_labels).tolist() == [10] * 5
    np.testing.assert_array_equal(labels[chosen], chosen_labels)
    assert len(set(chosen.tolist())) == 50
    np.testing.assert_array_equal(balanced_subset(images, labels, 50, seed=1)[0], chosen)
    assert not np.array_equal(balanced_subset(images, labels, 50, seed=2)[0], chosen)
    assert set(balanced_subset(images, labels, 25, seed=1)[0]) < set(chosen)
    uneven = np.bincount(balanced_subset(images, labels, 53, seed=1)[1])
    assert sorted(uneven) == [10, 10, 11, 11, 11]


def test_balanced_subset_that_cannot_be():
    labels = np.array([0, 0, 0, 1])
    with pytest.raises(BadInput, match=r"needs 2 of class 1, which has 1. Received: 4"):
        balanced_subset(labels, labels, 4, seed=0)
    with pytest.raises(BadInput, match=r"of 2 classes needs at least as many images. Received: 1"):
        balanced_subset(labels, labels, 1, seed=0)


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
        ("imdb_reviews", "not one of images with a class label each"),
        (
            "imagenet2012",
            r"one size and 8 bits a channel, or .*--image_size. Received: shape \(None, None, 3\)",
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


@pytest.mark.parametrize("dataset", ["", " "])
def test_no_name_at_all_is_refused(dataset, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadInput, match=rf"--dataset must be .*\. Received: '{dataset}'"):
        load(dataset)
