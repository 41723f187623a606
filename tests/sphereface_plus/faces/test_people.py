import io
import zipfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from mhe.harness.errors import BadInput
from sphereface_plus.faces import find_people
from sphereface_plus.faces.people import natural

pytestmark = pytest.mark.one_backend


def pixels(seed, shape=(10, 9)):
    return np.random.default_rng(seed).integers(256, size=shape, dtype=np.uint8)


def picture(seed, shape=(10, 9), kind="PNG"):
    """The bytes of an image file."""
    stream = io.BytesIO()
    Image.fromarray(pixels(seed, shape)).save(stream, kind)
    return stream.getvalue()


def written(kind, files, root):
    """Write files into a folder or a zip and return its path."""
    if kind == "zip":
        with zipfile.ZipFile(root / "faces.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in files.items():
                archive.writestr(name, data)
        return root / "faces.zip"
    for name, data in files.items():
        path = root / "faces" / name
        (path if name.endswith("/") else path.parent).mkdir(parents=True, exist_ok=True)
        if not name.endswith("/"):
            path.write_bytes(data)
    return root / "faces"


@pytest.mark.parametrize(("kind", "wrapper"), [("folder", ""), ("zip", "a/orl/"), ("zip", "")])
def test_people_of_a_folder_or_a_zip(tmp_path, kind, wrapper):
    kinds = {"pgm": "PPM", "JPG": "JPEG", "bmp": "BMP", "webp": "WEBP", "tif": "TIFF", "png": "PNG"}
    files = {
        f"{wrapper}s{person}/{number}.{end}": picture(number, (10, 9 + person), kinds[end])
        for person, ends in ((10, ("pgm", "JPG")), (9, ("bmp", "webp")))
        for number, end in zip((10, 9), ends, strict=True)
    }
    files[f"{wrapper}Ann Lee/2.png"] = picture(2, (10, 9, 3))
    files[f"{wrapper}Ann Lee/1.tif"] = picture(1)
    passed_over = ("pairs.txt", "s9/notes.txt", "s9/.hidden.png", "s9/Thumbs.db")
    files |= {wrapper + name: b"words" for name in passed_over}
    files["__MACOSX/s9/._1.png"] = b"words"
    people = find_people(written(kind, files, tmp_path))

    assert people.names == ("Ann Lee", "s9", "s10")
    assert people.images == (
        *("Ann Lee/1.tif", "Ann Lee/2.png", "s9/9.webp", "s9/10.bmp", "s10/9.JPG", "s10/10.pgm"),
    )
    assert people.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert len(people) == 6
    np.testing.assert_array_equal(people.read(1), pixels(2, (10, 9, 3)))
    np.testing.assert_array_equal(people.read(5)[..., 0], pixels(10, (10, 19)))

    assert people.sizes.tolist() == [list(people.read(place).shape[:2]) for place in range(6)]

    some = people.subset(["s10", "Ann Lee"])
    assert some.sizes.tolist() == people.sizes[[0, 1, 4, 5]].tolist()
    assert some.names == ("Ann Lee", "s10")
    assert some.labels.tolist() == [0, 0, 1, 1]
    np.testing.assert_array_equal(some.read(3), people.read(5))
    with pytest.raises(BadInput, match=r"names of people.*Received: s11$"):
        people.subset(["s9", "s11"])
    only = find_people(people.source, pattern="1*.*", least=1, skip_small=True)
    assert only.images == ("Ann Lee/1.tif", "s9/10.bmp", "s10/10.pgm")


def test_a_zip_is_read_by_many_threads_at_once(tmp_path):
    files = {f"s{number % 5}/{number}.png": picture(number) for number in range(40)}
    people = find_people(written("zip", files, tmp_path))
    with ThreadPoolExecutor(8) as threads:
        read = list(threads.map(people.read, [*range(40)] * 10))
    for name, image in zip(people.images * 10, read, strict=True):
        seed = int(name.split("/")[1].removesuffix(".png"))
        np.testing.assert_array_equal(image[..., 0], pixels(seed))


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_everything_wrong_is_said_at_once_by_name(tmp_path, kind):
    whole = picture(0, (64, 64), "JPEG")
    deep = io.BytesIO()
    Image.fromarray(np.zeros((4, 4), np.uint16)).save(deep, "PNG")
    files = {
        "few/1.png": picture(1),
        "none/": b"",
        "short/1.jpg": whole[: len(whole) // 2],
        "short/2.png": picture(1, (64, 64))[:-100],
        "short/3.png": b"words",
        "short/4.png": deep.getvalue(),
        "short/5.jpg": whole,
        "top.png": picture(1),
        "well/within/1.png": picture(1),
        "well/1.png": picture(1),
        "well/2.png": picture(1),
    }
    path = written(kind, files, tmp_path)
    with pytest.raises(BadInput) as caught:
        find_people(path)
    message = str(caught.value)
    assert "must be in <person>/<image>. Received: top.png, well/within/1.png;" in message
    assert "at least 2 images. Received: few (1), none (0);" in message
    assert "4 files cannot be read as images: short/1.jpg (" in message
    assert "short/2.png (" in message
    assert "short/3.png (not an image); and 1 more" in message

    for name in ("top.png", "well/within/1.png"):
        del files[name]
    (tmp_path / "again").mkdir()
    path = written(kind, files, tmp_path / "again")
    # Headers alone do not show that a file is cut short.
    with pytest.raises(BadInput, match=r": 2 files cannot be .*short/3.png.*short/4.png"):
        find_people(path, skip_small=True, decode=False)


def test_a_source_without_people(tmp_path):
    with pytest.raises(BadInput, match=r"nowhere does not exist: expected a folder or zip"):
        find_people(tmp_path / "nowhere")
    (tmp_path / "empty" / "s1").mkdir(parents=True)
    with pytest.raises(BadInput, match=r"empty has no images: expected <person>/<image>"):
        find_people(tmp_path / "empty")
    path = written("folder", {"s1/1.png": picture(1)}, tmp_path)
    with pytest.raises(BadInput, match=r"faces: nobody has 2 images or more"):
        find_people(path, skip_small=True)
    (tmp_path / "words.zip").write_bytes(b"words")
    with pytest.raises(BadInput, match=r"words.zip is not a readable zip"):
        find_people(tmp_path / "words.zip")


def test_an_image_that_is_gone_is_named(tmp_path):
    people = find_people(written("folder", {f"s1/{n}.png": picture(n) for n in (1, 2)}, tmp_path))
    (tmp_path / "faces" / "s1" / "2.png").unlink()
    with pytest.raises(BadInput, match=r"1 file cannot be read as an image: s1/2\.png"):
        people.read(1)


def test_numbers_of_any_length_are_in_order():
    nines, ten = "s" + "9" * 5000, "s1" + "0" * 5000
    assert sorted([ten, nines, "s10", "s010", "s2"], key=natural) == [
        "s2",
        "s010",
        "s10",
        nines,
        ten,
    ]
