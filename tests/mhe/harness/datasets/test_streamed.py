"""Images on disk: the same as in memory, and refused as early and as clearly."""

import io
import shutil

import numpy as np
import pytest
from PIL import Image

from mhe.harness import datasets
from mhe.harness.batches import Batches, pad_crop_flip
from mhe.harness.datasets.images import decode
from mhe.harness.datasets.streamed import StreamedImages, images_of, take
from mhe.harness.errors import BadInput

pytestmark = pytest.mark.one_backend


def file_of(pixels, kind="PNG", **options):
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind, **options)
    return stream.getvalue()


def random_files(count=9, shape=(6, 5, 3), kind="PNG"):
    rng = np.random.default_rng(0)
    return {
        f"{index}": file_of(rng.integers(256, size=shape, dtype=np.uint8), kind)
        for index in range(count)
    }


def reader(files):
    def read(name, most=None):
        return files[name][:most]

    return read


@pytest.mark.parametrize("size", [None, 4])
@pytest.mark.parametrize("shape", [(6, 5, 3), (6, 5)])
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF"])
def test_pixels_are_those_in_memory(size, shape, kind):
    files = random_files(20, shape, kind)
    files["0"] = file_of(np.zeros((6, 5), np.uint8))  # gray among colors
    whole = decode("data", list(files), reader(files), size)
    images = StreamedImages("data", list(files), reader(files), size)
    assert (images.shape, images.ndim, images.dtype) == (whole.shape, whole.ndim, whole.dtype)
    assert len(images) == len(whole)
    chosen = np.random.default_rng(1).permutation(20)[:11]
    for each in (slice(None), slice(3, 7), chosen, whole[:, 0, 0, 0] > 99, 4, np.arange(0)):
        np.testing.assert_array_equal(images[each], whole[each])
    part, those = images.take(chosen), whole[chosen]
    np.testing.assert_array_equal(part[2:], those[2:])
    bright = those[:, 0, 0, 0] > 99
    np.testing.assert_array_equal(take(part, bright)[:], take(those, bright))
    with pytest.raises(TypeError, match="must be indexed"):
        np.asarray(images)


def test_batches_are_those_in_memory():
    files = random_files(23)
    labels = np.arange(23)
    options = {"seed": 5, "augment": pad_crop_flip}
    kinds = [of("data", list(files), reader(files)) for of in (decode, StreamedImages)]
    whole, streamed = (Batches(images, labels, 4, **options) for images in kinds)
    for epoch in (0, 1, 4):  # any epoch, as resuming needs
        whole.epoch = streamed.epoch = epoch
        for (expected, theirs), (found, ours) in zip(whole, streamed, strict=True):
            np.testing.assert_array_equal(found, expected)
            np.testing.assert_array_equal(ours, theirs)


def test_memory_decides_what_stays_on_disk():
    files = random_files(10)  # 900 bytes decoded
    for memory, kind in ((None, np.ndarray), (900, np.ndarray), (899, StreamedImages)):
        assert isinstance(images_of("data", list(files), reader(files), None, memory), kind)
    for memory, kind in ((12 * 10, np.ndarray), (0, StreamedImages)):
        assert isinstance(images_of("data", list(files), reader(files), 2, memory), kind)


def test_headers_that_are_long_or_last():
    rng = np.random.default_rng(0)
    noise = rng.integers(256, size=(90, 90, 3), dtype=np.uint8)
    files = {
        "exif": file_of(noise, "JPEG", exif=b"Exif\0\0" + bytes(60_000)),
        "last": file_of(noise, "TIFF"),
    }
    sizes = []

    def read(name, most=None):
        sizes.append(most)
        return files[name][:most]

    assert StreamedImages("data", list(files), read).shape == (2, 90, 90, 3)
    assert None in sizes
    sizes.clear()
    StreamedImages(
        "data", ["png"] * 3, lambda name, most=None: sizes.append(most) or file_of(noise)[:most]
    )
    assert set(sizes) == {4096}


def test_bad_files_are_named_before_training():
    files = random_files()
    files["3"] = b"words"
    with pytest.raises(BadInput, match=r"^data: 1 file cannot be read .*: 3 \(not an image\)"):
        StreamedImages("data", list(files), reader(files))
    files["3"] = file_of(np.zeros((6, 7, 3), np.uint8))
    message = r"data: images must all have one size.* Received: 0 of 5x6 pixels and 3 of 7x6 pixels"
    with pytest.raises(BadInput, match=message):
        StreamedImages("data", list(files), reader(files))
    assert StreamedImages("data", list(files), reader(files), 4).shape == (9, 4, 4, 3)


def test_files_damaged_behind_their_header_are_named_when_they_are_read():
    files = random_files(shape=(60, 50, 3))
    files["3"] = files["3"][:5000]
    images = StreamedImages("data", list(files), reader(files))
    assert images[:3].shape == (3, 60, 50, 3)
    with pytest.raises(BadInput, match=r"^data: 1 file cannot be read as an image: 3 \("):
        images[2:5]
    for changed in (np.zeros((60, 51, 3), np.uint8),):
        files["3"] = file_of(changed)
        with pytest.raises(BadInput, match=r"3 has changed: it must be of 50x60 .* 51x60 pixels"):
            images[3]
    grey = {"0": file_of(np.zeros((6, 5), np.uint8))}
    images = StreamedImages("data", ["0"], reader(grey))
    grey["0"] = file_of(np.zeros((6, 5, 3), np.uint8))
    with pytest.raises(BadInput, match=r"0 has changed: .* 1 channels\. Received: .* 3 channels"):
        images[:]


@pytest.mark.parametrize("suffix", ["", ".zip"])
def test_folders_and_zips_stay_where_they_are(tmp_path, suffix):
    root = tmp_path / "data"
    for index, (name, data) in enumerate(random_files(12).items()):
        path = root / ("test" if index % 3 else "train") / "ab"[index % 2] / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    if suffix:
        shutil.make_archive(str(root), "zip", root)
    whole = datasets.load(f"{root}{suffix}")
    streamed = datasets.load(f"{root}{suffix}", memory=0)
    assert isinstance(streamed.train[0], StreamedImages)
    assert whole.in_words().endswith("in memory (0.00 GiB)")
    assert streamed.in_words() == (
        "4 training and 8 test images of 5x6 pixels, streamed from disk (0.00 GiB decoded)"
    )
    for (images, labels), (theirs, others) in (
        (streamed.train, whole.train),
        (streamed.test, whole.test),
    ):
        np.testing.assert_array_equal(images[:], theirs)
        np.testing.assert_array_equal(labels, others)
