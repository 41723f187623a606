"""Image files decoded into one array, against arrays whose pixels are known."""

import io
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mhe.harness.datasets.images import decode, fit, grey_or_rgb, open_image, unreadable
from mhe.harness.errors import BadInput

pytestmark = pytest.mark.one_backend


def png(pixels):
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def random_pixels(*shape):
    return np.random.default_rng(0).integers(256, size=shape, dtype=np.uint8)


def test_grayscale_is_spread_over_channels_beside_color():
    gray, color = random_pixels(4, 5), random_pixels(4, 5, 3)
    files = {"gray": png(gray), "color": png(color)}
    images = decode("data", ["gray", "color"], files.get)
    np.testing.assert_array_equal(images, [np.repeat(gray[..., None], 3, axis=-1), color])
    images = decode("data", ["gray", "gray"], files.get)
    np.testing.assert_array_equal(images, [gray[..., None]] * 2)


def test_every_unreadable_file_counts_and_three_are_named():
    files = {"a": b"text", "b": png(random_pixels(4, 5)), "c": b"", "d": b"text", "e": b"text"}
    with pytest.raises(BadInput, match=r"^data: 4 files .*: a \(.*; c \(.*; d \(.*; and 1 more$"):
        decode("data", list(files), files.get)
    assert "e (" not in unreadable([(name, "not an image") for name in "acde"])


def test_sizes_must_agree_unless_one_is_given():
    files = {"wide": png(random_pixels(4, 6)), "high": png(random_pixels(8, 4))}
    with pytest.raises(BadInput, match=r"wide of 6x4 pixels and high of 4x8 pixels"):
        decode("data", ["wide", "high"], files.get)
    images = decode("data", ["wide", "high"], files.get, size=4)
    np.testing.assert_array_equal(images[0, ..., 0], random_pixels(4, 6)[:, 1:5])
    np.testing.assert_array_equal(images[1, ..., 0], random_pixels(8, 4)[2:6])


def test_an_image_that_shrinks_is_averaged_over_areas():
    blocks = random_pixels(2, 2) // 16 * 16
    image = Image.fromarray(np.kron(blocks, np.ones((8, 8), np.uint8)))
    shrunk = np.asarray(fit(image, 2)).astype(float)
    # A triangle of 16 pixels about the middle of a block: of its weight, 1/7 is in the other block
    # and the part beyond the border is left out.
    weights = np.array([[6 / 7, 1 / 7], [1 / 7, 6 / 7]])
    expected = weights @ blocks.astype(float) @ weights.T
    np.testing.assert_allclose(shrunk, expected, atol=1)


@pytest.mark.parametrize(
    ("mode", "expected"),
    [("1", "L"), ("L", "L"), ("LA", "L"), ("P", "RGB"), ("RGBA", "RGB"), ("CMYK", "RGB")],
)
def test_modes_end_as_grayscale_or_rgb(mode, expected):
    assert grey_or_rgb(Image.new(mode, (2, 2))).mode == expected


def test_more_than_8_bits_are_refused():
    with pytest.raises(ValueError, match=r"pixels of mode I;16, expected 8 bits per channel"):
        open_image(png(np.zeros((2, 2), np.uint16)))


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux's /proc")
def test_images_that_do_not_fit_into_memory_are_counted():
    resource = pytest.importorskip("resource")
    file = png(np.zeros((1000, 1000, 3), np.uint8))
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 2**28, hard))
    try:
        with pytest.raises(
            BadInput, match=r"^data: out of memory .* 400 images of 1000x1000 .* take 1\.12 GiB"
        ):
            decode("data", [str(number) for number in range(400)], lambda name: file)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("can't start new thread")])
def test_memory_that_runs_out_later_is_not_the_fault_of_a_file(monkeypatch, error):
    def run_out(self, *args):
        raise error

    monkeypatch.setattr(ThreadPoolExecutor, "submit", run_out)
    with pytest.raises(BadInput, match="out of memory while loading 2 images of 5x4 pixels"):
        decode("data", ["a", "b"], lambda name: png(random_pixels(4, 5)))
    monkeypatch.setattr(Image.Image, "convert", run_out)
    with pytest.raises(type(error)) if isinstance(error, MemoryError) else pytest.raises(BadInput):
        decode("data", ["a"], lambda name: png(random_pixels(4, 5)))
