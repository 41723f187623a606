"""Published layouts of images, in folders and in zips."""

import io
import zipfile

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
            "train/a/ehthumbs.db": b"?",
            "train/a/notes.txt": b"?",
            "train/Desktop.ini": b"?",
            "train/notes.txt": b"?",
            "train/a/more/notes.txt": b"?",
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
        (
            {"train/Zo\u00eb/0.png": picture(), "test/Zoe\u0308/0.png": picture()},
            r"is in test/ but not in train/ \(it is there in another Unicode normalization form",
        ),
        ({"train/c/": b""}, "the class train/c/ has no images"),
        ({"train/a/1.png": truncated}, r"1 file cannot .*: train/a/1.png \(.*truncated"),
        ({"train/a/1.png": picture()[:60]}, r"1 file cannot .*: train/a/1.png \("),
        ({"train/a/0.png": b"text"}, r"1 file cannot .*: train/a/0.png \(not an image\)"),
        (dict.fromkeys(tree(), b"text"), r"8 files cannot .*0.png .*; and 5 more"),
        ({"test/b/0.png": deep.getvalue()}, r"test/b/0.png \(pixels of mode I;16, expected 8"),
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
    with pytest.raises(BadInput, match=r"1 file cannot .* an image: test/a/0.png \(Bad CRC"):
        load(str(path))


def jpeg(seed, size=(8, 8), mode="RGB"):
    return picture(seed, size, mode, "JPEG")


def pixels(data):
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


WNIDS = ["n02", "n01", "n03"]


def tiny_imagenet(**changes):
    """The public layout of tiny-imagenet-200.zip, small; a change to None takes a file away."""
    files = {
        "wnids.txt": "\n".join(WNIDS).encode(),
        # Of all of WordNet, in an order of its own.
        "words.txt": b"n00\tentity\nn01\tcrane, goldfish, carp\nn02\tcrane, tailed frog\n",
        "test/images/test_0.JPEG": jpeg(99),
    }
    for label, wnid in enumerate(WNIDS):
        files[f"train/{wnid}/{wnid}_boxes.txt"] = f"{wnid}_0.JPEG\t0\t10\t63\t58\n".encode()
        for image in range(2):
            mode = "L" if (label, image) == (0, 1) else "RGB"  # as a few of the real ones are
            files[f"train/{wnid}/images/{wnid}_{image}.JPEG"] = jpeg(10 * label + image, mode=mode)
    files["val/images/val_0.JPEG"], files["val/images/val_1.JPEG"] = jpeg(50), jpeg(51)
    lines = ["val_0.JPEG\tn03\t0\t32\t44\t62", "val_1.JPEG\tn02\t1\t2\t3\t4"]
    files["val/val_annotations.txt"] = ("\n".join(lines) + "\n").encode()
    files.update(changes)
    return {name: data for name, data in files.items() if data is not None}


def prefixed(files, prefix):
    return {prefix + name: data for name, data in files.items()}


@pytest.mark.parametrize(("kind", "prefix"), [("zip", "tiny-imagenet-200/"), ("folder", "")])
def test_tiny_imagenet(kind, prefix, tmp_path):
    notes = {"train/n01/images/notes.txt": b"?", "val/images/Thumbs.db": b"?"}
    files = tiny_imagenet(**notes)
    dataset = load(written(kind, prefixed(files, prefix), tmp_path))
    assert dataset.class_names == ("tailed frog", "goldfish", "n03")
    np.testing.assert_array_equal(dataset.test[1], [2, 0])
    expected = [pixels(files[f"val/images/val_{number}.JPEG"]) for number in range(2)]
    np.testing.assert_array_equal(dataset.test[0], expected)
    images, labels = dataset.train
    assert images.dtype == np.uint8
    np.testing.assert_array_equal(np.bincount(labels), [2, 2, 2])
    for label, wnid in enumerate(WNIDS):
        expected = [pixels(files[f"train/{wnid}/images/{wnid}_{n}.JPEG"]) for n in range(2)]
        np.testing.assert_array_equal(images[labels == label], expected)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"val/val_annotations.txt": None}, "lacks val/val_annotations.txt"),
        ({"val/images/val_1.JPEG": None}, r"txt, line 2 names an image .*Received: val_1.JPEG$"),
        ({"val/images/val_2.JPEG": jpeg(1)}, "has no line for val/images/val_2.JPEG"),
        (
            {"val/val_annotations.txt": b"val_0.JPEG\tn09\t0\t0\t1\t1\n"},
            r"line 1 names a class that wnids.txt lacks. Received: n09$",
        ),
        ({"wnids.txt": b"n01\nn02\n"}, "wnids.txt lacks the class of train/n03/images/n03_0.JPEG"),
        ({"wnids.txt": b"n01\nn02\nn03\nn04"}, "the class train/n04/images/ has no images"),
        ({"wnids.txt": b"n01\nn02\nn03\nn01\n"}, r"wnids.txt must list .*Received: n01 twice$"),
        ({"words.txt": b"n01\tcarp\nn01\tfrog\n"}, r"words.txt must list .*Received: n01 twice$"),
        (
            {"val/val_annotations.txt": b"val_0.JPEG\tn03\nval_0.JPEG\tn02\n"},
            r"val_annotations.txt must list .*Received: val/images/val_0.JPEG twice$",
        ),
        ({"wnids.txt": b"\xe9"}, "wnids.txt cannot be read: "),
        ({"val/images/val_0.JPEG": b"text"}, "val/images/val_0.JPEG \\(not an image"),
    ],
)
def test_a_tiny_imagenet_that_cannot_be_read(changes, message, tmp_path):
    with pytest.raises(BadInput, match=message) as error:
        load(written("zip", prefixed(tiny_imagenet(**changes), "tiny-imagenet-200/"), tmp_path))
    assert "\n" not in str(error.value)


def omniart(**changes):
    header = "omni_id,artist,creation_year,century,school\n"
    files = {
        "train.csv": header
        + '7,"Hals, Frans",1630.0,17,dutch\n8,,1899,19,french\n9,,1642,17,dutch\n',
        "test.csv": header + "5,,1700,17,french\n",
        **{f"train/{number}.jpg": jpeg(number, (8, 8)) for number in (7, 8, 9)},
        "test/5.jpg": jpeg(5, (12, 8)),
    }
    files.update(changes)
    return {
        name: data.encode() if isinstance(data, str) else data
        for name, data in files.items()
        if data is not None
    }


@kinds
def test_omniart(kind, tmp_path):
    files = omniart()
    dataset = load(written(kind, files, tmp_path), size=8)
    np.testing.assert_array_equal(dataset.values[0], np.array([1630, 1899, 1642], np.float32))
    np.testing.assert_array_equal(dataset.values[1], np.array([1700], np.float32))
    assert dataset.values[0].dtype == np.float32
    assert dataset.class_names == ("dutch", "french")
    np.testing.assert_array_equal(dataset.train[1], [0, 1, 0])
    np.testing.assert_array_equal(dataset.test[1], [1])
    expected = [pixels(files[f"train/{number}.jpg"]) for number in (7, 8, 9)]
    np.testing.assert_array_equal(dataset.train[0], expected)
    # The middle of the longer side.
    np.testing.assert_array_equal(dataset.test[0][0], pixels(files["test/5.jpg"])[:, 2:10])
    assert load(written(kind, files, tmp_path), size=8, label="century").class_names == ("17", "19")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"test.csv": None}, r"lacks test.csv$"),
        ({"train/8.jpg": None}, r"train.csv, line 3 names an image .*Received: train/8.jpg$"),
        ({"test.csv": "omni_id,century\n"}, r"test.csv must have the column creation_year. Rec"),
        ({"test.csv": ""}, r"test.csv must have the column omni_id. Received: an empty file$"),
        ({"test.csv": "omni_id,creation_year,school\n"}, "test.csv lists no images"),
        (
            {"test.csv": "omni_id,creation_year,school\n5,1700,swiss\n"},
            r"the school of test/5.jpg is not in train.csv. Received: swiss$",
        ),
        (
            {"test.csv": "omni_id,creation_year,school\n5,ca. 1700,dutch\n"},
            r"test.csv, line 2: creation_year must be a number from .*Received: ca. 1700$",
        ),
        ({"test.csv": "omni_id,creation_year,school\n5,1e39,dutch\n"}, r"Received: 1e39$"),
        ({"test.csv": "omni_id,creation_year,school\n5,1700,\n"}, "line 2 has no school"),
        ({"test.csv": f"omni_id,creation_year,school\n{'5' * 200_000}"}, "is no CSV: .* limit"),
        (
            {"test.csv": "omni_id,creation_year,school\n5,1,dutch\n5,2,dutch\n"},
            r"test.csv must list everything once. Received: test/5.jpg twice$",
        ),
        ({"test.csv": "omni_id,school,omni_id\n"}, "each column once. Received: omni_id twice"),
        ({"test.csv": "omni_id,creation_year,school\n../train/7,1,dutch\n"}, "that is missing"),
    ],
)
def test_an_omniart_that_cannot_be_read(changes, message, tmp_path):
    with pytest.raises(BadInput, match=message) as error:
        load(written("zip", omniart(**changes), tmp_path), size=8)
    assert "\n" not in str(error.value)


def omniglot(*alphabets, drawings=20):
    files = {}
    for alphabet in alphabets:
        for character in (1, 2):
            start = 1000 * ord(alphabet[0]) + 100 * character
            for number in range(1, drawings + 1):
                name = f"{alphabet}/character{character:02}/{start}_{number:02}.png"
                files[name] = picture(start + number, (5, 5), "L")
    return files


def test_omniglot_counts_what_stands_in_both_sets_once(tmp_path):
    paths, seen = [], {}
    for number, alphabets in enumerate((("Greek", "Balinese"), ("Latin", "Greek")), 1):
        files = omniglot(*alphabets)
        seen.update(files)
        (tmp_path / str(number)).mkdir()
        prefix = f"images_background_small{number}/"
        paths.append(written("zip", prefixed(files, prefix), tmp_path / str(number)))
    dataset = load(",".join(paths))
    assert dataset.class_names == tuple(
        f"{alphabet}/character{n:02}" for alphabet in ("Balinese", "Greek", "Latin") for n in (1, 2)
    )
    (images, labels), (test_images, test_labels) = dataset.train, dataset.test
    np.testing.assert_array_equal(np.bincount(labels), [15] * 6)
    np.testing.assert_array_equal(np.bincount(test_labels), [5] * 6)
    # Every drawing once, in train or test, with the label of its folder.
    expected = {
        np.asarray(Image.open(io.BytesIO(data))).tobytes(): name.rpartition("/")[0]
        for name, data in seen.items()
    }
    found = {
        image.tobytes(): dataset.class_names[label]
        for image, label in zip(
            np.concatenate([images, test_images]),
            np.concatenate([labels, test_labels]),
            strict=True,
        )
    }
    assert found == expected
    np.testing.assert_array_equal(load(",".join(paths)).test[0], test_images)


def test_omniglot_in_a_folder_at_a_smaller_size(tmp_path):
    files = prefixed(omniglot("Greek"), "omniglot/images_background/")
    files |= {"notes.txt": b"?", "omniglot/images_background/Greek/character01/thumbs.db": b"?"}
    dataset = load(written("folder", files, tmp_path), size=3)
    assert dataset.train[0].shape == (30, 3, 3, 1)


def test_an_omniglot_that_cannot_be_read(tmp_path):
    few = written("zip", omniglot("Greek", drawings=1), tmp_path)
    with pytest.raises(BadInput, match=r"drawings to train and to test on. .*character01 with 1$"):
        load(few)
    stray = {**omniglot("Greek"), "Greek/1.png": b"?"}
    with pytest.raises(BadInput, match=r"<Alphabet>/characterNN/.*Received: Greek/1.png$"):
        load(written("zip", stray, tmp_path))
    (tmp_path / "tree").mkdir()
    both = (
        f"{written('zip', omniglot('Greek'), tmp_path)},{written('zip', tree(), tmp_path / 'tree')}"
    )
    with pytest.raises(BadInput, match="Several paths must all hold Omniglot's"):
        load(both)
    with pytest.raises(BadInput, match=r"one of the paths does not exist. .*missing.zip$"):
        load(f"{few},missing.zip")


@kinds
def test_images_of_many_sizes_are_brought_to_one(kind, tmp_path):
    files = tree(**{"train/a/1.png": picture(7, (12, 6)), "test/a/0.png": picture(8, (6, 18))})
    dataset = load(written(kind, files, tmp_path), size=6)
    assert dataset.train[0].shape == (6, 6, 6, 3)
    np.testing.assert_array_equal(dataset.train[0][1], pixels(files["train/a/1.png"])[:, 3:9])
    np.testing.assert_array_equal(dataset.test[0][0], pixels(files["test/a/0.png"])[6:12])
    with pytest.raises(BadInput, match="or be brought to one by --image_size"):
        load(written(kind, files, tmp_path))
