"""Tar shards as WebDataset writes them, and those that are cut short, damaged or incomplete."""

import io
import json
import tarfile

import numpy as np
import pytest
from PIL import Image

from mhe.harness import datasets
from mhe.harness.datasets.shards import expand
from mhe.harness.datasets.streamed import StreamedImages
from mhe.harness.errors import BadInput

pytestmark = pytest.mark.one_backend


def png(seed):
    pixels = np.random.default_rng(seed).integers(256, size=(4, 5, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def shard(path, files, form=tarfile.GNU_FORMAT):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=form) as tar:
        for name, data in files:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))


def samples(start, labels, kind="cls"):
    for place, label in enumerate(labels, start):
        yield f"{place:04}.png", png(place)
        text = json.dumps({"label": label, "caption": "a"}) if kind == "json" else f"{label}\n"
        yield f"{place:04}.{kind}", text.encode()
        yield f"{place:04}.txt", b"a caption"


@pytest.fixture
def folder(tmp_path):
    """Two shards to train on and one to test on, of the classes 2, 7 and 10."""
    root = tmp_path / "shards"
    shard(root / "pets-train-000000.tar", samples(0, [10, 2, 7]))
    shard(root / "pets-train-000001.tar", samples(3, [7, 2], "json"), tarfile.PAX_FORMAT)
    shard(root / "pets-test-000000.tar", samples(9, [2, 10]))
    return root


@pytest.mark.parametrize("memory", [None, 0])
def test_images_and_classes_of_a_folder(folder, memory):
    data = datasets.load(str(folder), memory=memory)
    assert isinstance(data.train[0], StreamedImages) == (memory == 0)
    assert data.class_names == ("2", "7", "10")
    assert data.train[1].tolist() == [2, 0, 1, 1, 0]
    assert data.test[1].tolist() == [0, 2]
    expected = [np.asarray(Image.open(io.BytesIO(png(seed)))) for seed in (0, 1, 2, 3, 4, 9, 10)]
    np.testing.assert_array_equal(data.train[0][:], expected[:5])
    np.testing.assert_array_equal(data.test[0][:], expected[5:])


@pytest.mark.parametrize("memory", [None, 0])
def test_shards_by_their_names(folder, memory):
    ranges = f"{folder}/pets-train-{{000000..000001}}.tar,{folder}/pets-test-000000.tar"
    data = datasets.load(ranges, memory=memory)
    whole = datasets.load(str(folder))
    np.testing.assert_array_equal(data.train[0][:], whole.train[0])
    assert data.train[1].tolist() == whole.train[1].tolist()
    with pytest.raises(BadInput, match=r"one of the paths does not exist.*pets-train-000002\.tar"):
        datasets.load(ranges.replace("..000001", "..000002"))


def test_validation_shards_serve_as_test_set_where_there_is_none(folder):
    (folder / "pets-test-000000.tar").rename(folder / "pets-val-000000.tar")
    assert len(datasets.load(str(folder)).test[0]) == 2
    shard(folder / "pets-validation-000000.tar", samples(0, [2]))
    assert len(datasets.load(str(folder)).test[0]) == 1


@pytest.mark.parametrize(
    "names", [("train/0.tar", "test/0.tar"), ("train-a-7.tar", "b_test_0.tar")]
)
def test_names_of_shards(tmp_path, names):
    for name in names:
        shard(tmp_path / name, samples(0, ["dog", "cat"]))
    assert datasets.load(str(tmp_path)).class_names == ("cat", "dog")


@pytest.mark.parametrize("memory", [None, 0])
def test_a_truncated_shard_is_named_wherever_it_is_cut(folder, memory):
    path = folder / "pets-train-000001.tar"
    whole = path.read_bytes()
    with tarfile.open(path) as tar:
        members = tar.getmembers()
        end = tar.offset
    cuts = [0, 1, 300, 512, members[0].offset_data + 7, members[-1].offset, end - 3, end, end + 511]
    for cut in cuts:
        path.write_bytes(whole[:cut])
        with pytest.raises(BadInput, match=r"^pets-train-000001\.tar is truncated"):
            datasets.load(str(folder), memory=memory)
    path.write_bytes(whole[: end + 512])
    assert len(datasets.load(str(folder), memory=memory).train[0]) == 5


def test_a_shard_that_changes_while_it_is_read(folder):
    images = datasets.load(str(folder), memory=0).train[0]
    (folder / "pets-train-000001.tar").write_bytes(b"")
    assert images[:3].shape == (3, 4, 5, 3)
    with pytest.raises(BadInput, match=r"pets-train-000001\.tar has changed: it ends before"):
        images[:]
    (folder / "pets-train-000001.tar").unlink()
    with pytest.raises(BadInput, match=r"pets-train-000001\.tar cannot be read: No such file"):
        images[4]


def damaged(folder):
    path = folder / "pets-train-000000.tar"
    data = bytearray(path.read_bytes())
    with tarfile.open(path) as tar:
        start = tar.getmembers()[3].offset
    data[start + 150] ^= 1  # of the check sum of a header
    path.write_bytes(data)


def compressed(folder):
    with tarfile.open(folder / "pets-train-000002.tar", "w:gz"):
        pass


def without(*removed):
    def change(folder):
        files = [each for each in samples(0, [2]) if each[0] not in removed]
        shard(folder / "pets-train-000000.tar", files)

    return change


def with_file(name, data):
    def change(folder):
        shard(folder / "pets-train-000000.tar", [*samples(0, [2]), (name, data)])

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (damaged, r"pets-train-000000\.tar is damaged: no file begins at byte 3,072"),
        (compressed, r"pets-train-000002\.tar is compressed.*: unpack it to a plain \.tar"),
        (
            lambda folder: (folder / "pets-test-000000.tar").unlink(),
            r"must be named .*-train-.*-test-.*Received: train shards only",
        ),
        (
            lambda folder: (folder / "pets-test-000000.tar").rename(folder / "other.tar"),
            r"must be named .*Received: other\.tar",
        ),
        (
            lambda folder: shard(folder / "pets-train-000003.tar", samples(0, [2])),
            r"pets-train-000002\.tar is missing between pets-train-000000\.tar and .*3\.tar",
        ),
        (without("0000.png"), r"0000 must have one image, .*Received: \.cls, \.txt$"),
        (without("0000.cls"), r"0000 must have its class in 0000\.cls .*Received: \.png, \.txt$"),
        (with_file("0000.jpg", b""), r"must have one image.*Received: \.png, \.cls, \.txt, \.jpg"),
        (with_file("0000.png", b""), r"must have every file once\. Received: 0000\.png twice"),
        (
            lambda folder: shard(folder / "pets-test-000000.tar", samples(0, ["cat"])),
            r"the class of pets-test-000000\.tar/0000\.png is in no train shard\. Received: cat",
        ),
        (
            lambda folder: shard(folder / "pets-test-000000.tar", []),
            r"the test shards hold no samples",
        ),
        (
            lambda folder: shard(
                folder / "pets-test-000000.tar", [("0.png", png(0)), ("0.json", b'{"label": []}')]
            ),
            r"pets-test-000000\.tar/0\.json must hold a class.* Received: b'{\"label\": \[\]}'",
        ),
    ],
)
def test_what_is_wrong_is_named(folder, change, message):
    change(folder)
    with pytest.raises(BadInput, match=message):
        datasets.load(str(folder))


def test_hidden_files_and_links_are_passed_over(folder):
    path = folder / "pets-test-000000.tar"
    with tarfile.open(path, "w") as tar:
        for name, data in [("a/._0.png", b"resource fork"), ("a/0.png", png(0)), ("a/0.cls", b"2")]:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
        link = tarfile.TarInfo("a/1.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    assert len(datasets.load(str(folder)).test[0]) == 1


def test_ranges():
    assert expand("a/{9..10}.tar") == ["a/9.tar", "a/10.tar"]
    assert expand("a/{b}.tar") == ["a/{b}.tar"]
    for text in ("a-{3..2}.tar", "a-{0..99999999}.tar"):
        with pytest.raises(BadInput, match=r"--dataset must have ranges {first\.\.last}"):
            expand(text)
