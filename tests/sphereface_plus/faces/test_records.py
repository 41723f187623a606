"""InsightFace's training sets: whole, cut short, and with an index of something else."""

import re
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from mhe.harness.errors import BadInput
from sphereface_plus.faces import FaceBatches, find_people, load, read_records

pytestmark = pytest.mark.one_backend

LABELS = [10, 10, 2, 2, 2, 7]


def test_people_of_a_training_set(form, insightface):
    path = insightface(LABELS)
    people = find_people(path, least=1)
    assert people.names == ("2", "7", "10")
    assert list(people.images) == ["2/3", "2/4", "2/5", "7/6", "10/1", "10/2"]
    assert people.labels.tolist() == [0, 0, 0, 1, 2, 2]
    for index, name in enumerate(people.images):
        pixels = form.picture(int(name.split("/")[1]), (12, 12))[1]
        np.testing.assert_array_equal(people.read(index), pixels)
    some = people.subset(["10", "2"])
    assert (some.names, list(some.images)[-2:]) == (("2", "10"), ["10/1", "10/2"])
    np.testing.assert_array_equal(some.read(4), people.read(5))

    with pytest.raises(BadInput, match=r"train.rec: a person needs at least 2.* Received: 7 \(1\)"):
        find_people(path)
    assert find_people(path, skip_small=True).names == ("2", "10")
    with pytest.raises(BadInput, match=r"nobody has 4 images or more"):
        find_people(path, least=4, skip_small=True)
    with pytest.raises(BadInput, match=r"records have no file names to match. Received: \*.jpg"):
        find_people(path, pattern="*.jpg")


def test_many_threads_read_at_once_and_batches_are_those_of_the_pixels(insightface):
    people = find_people(insightface(LABELS), least=1)
    with ThreadPoolExecutor(8) as threads:
        read = list(threads.map(people.read, [*range(6)] * 20))
    for place, image in enumerate(read):
        np.testing.assert_array_equal(image, people.read(place % 6))
    faces = load(people, size=(12, 12))
    images, labels = FaceBatches(people, 6, size=(12, 12), shuffle=False, flip=False)[0]
    np.testing.assert_allclose(images * 128 + 127.5, faces, atol=1e-4)
    assert labels.tolist() == people.labels.tolist()


def test_data_that_hold_the_magic_number_are_joined(form, write_records):
    image, pixels = form.picture(1, (9, 9))
    # In the image, in the header's id, and at the very end.
    odd = image + b"\0" * (-len(image) % 4) + form.MAGIC * 2 + b"tail" + form.MAGIC
    at_id = form.header(3.0, key=int.from_bytes(form.MAGIC + form.MAGIC, "little")) + image
    path = write_records({5: form.header(3.0) + odd, 9: at_id, 2: form.header(8.0, 1.0) + image})
    records = read_records(path)
    assert records.keys.tolist() == [2, 5, 9]
    assert records.labels.tolist() == [8, 3, 3]
    assert records.read("3/5") == odd
    assert records.read("3/9") == image
    people = find_people(path, least=1)
    for index in range(3):
        np.testing.assert_array_equal(people.read(index), pixels)


def test_a_file_cut_anywhere_names_the_first_record_that_is_lost(insightface):
    path = insightface(LABELS)
    data = path.read_bytes()
    lines = path.with_suffix(".idx").read_text().split()
    starts = {int(key): int(start) for key, start in zip(lines[::2], lines[1::2], strict=True)}
    # What fills a record up to 4 bytes may be missing.
    lengths = {key: int.from_bytes(data[at + 4 : at + 8], "little") for key, at in starts.items()}
    for cut in range(0, len(data), 41):
        path.write_bytes(data[:cut])
        lost = [key for key in range(7) if cut < starts[key] + 8 + lengths[key]]
        if not lost:
            break
        with pytest.raises(BadInput, match=rf"record {lost[0]}\b.* cut short: it ") as caught:
            find_people(path, least=1)
        assert str(caught.value).startswith(f"{path}: ")
        assert lost[0] == 0 or f"{len(lost)} record" in str(caught.value)


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ("", r"train.idx must have lines of .* Received: no lines$"),
        ("0 0\n", r"train.idx must have lines of .* Received: line 1: 0 0$"),
        ("0\t0\nkey\t9\n", r"Received: line 2: key 9$"),
        ("0\t\u0663\n", r"Received: line 1"),
        ("0\t" + "9" * 30 + "\n", r"Received: line 1"),
        ("0\t0\n" + "1" * 200, r"Received: line 2: 1+$"),
        ("0\t0\n1\t44\r\n2 \t88", r"Received: line 3: 2 "),
        ("0\t0\n1\t44\n1\t48\n", r"must have every key once. Received: 1 2 times$"),
        ("0\t0\n1\t44\n2\t44\n", r"must have every start once. Received: 44 2 times$"),
        ("0\t0\n1\t40\n", r"does not fit .*train.rec: the first label of record 0 .* Received: 7$"),
        ("0\t0\n1\t40\n6\t80\n", r"must have the records 1 to 6 .* none for 4, such as 2$"),
        (
            "1\t0\n2\t8\n",
            r"2 records cannot be used: record 1 \(it holds no image\); record 2 \(no record",
        ),
        ("3\t999999999\n", r"record 3 \(it is cut short: it starts at byte 999,999,999, the file"),
    ],
)
def test_an_index_that_does_not_fit(insightface, index, message):
    path = insightface(LABELS)
    path.with_suffix(".idx").write_text(index)
    with pytest.raises(BadInput, match=message):
        find_people(path, least=1)


def test_the_end_of_many_images_is_written_out(form, write_records):
    image, _ = form.picture(1, (9, 9))
    path = write_records({0: form.header(5_179_511.0, 2.0), 1: form.header(1.0) + image})
    with pytest.raises(BadInput, match=r"at most 2. Received: 5,179,511$"):
        read_records(path)


def test_an_index_may_be_larger_than_other_texts(insightface, monkeypatch):
    path = insightface(LABELS)
    whole = read_records(path).labels.tolist()
    monkeypatch.setattr("mhe.reading.LARGEST", 10)
    assert read_records(path).labels.tolist() == whole
    monkeypatch.setattr("sphereface_plus.faces.records._LARGEST_INDEX", 10)
    with pytest.raises(BadInput, match=r"train.idx must have at most 10 bytes"):
        read_records(path)


def test_records_that_are_no_images(form, write_records, tmp_path):
    image, _ = form.picture(1, (9, 9))
    path = write_records(
        {
            1: form.header(1.5) + image,
            2: form.header(-1.0) + image,
            3: form.header(float("nan")) + image,
            4: form.header(1.0) + b"words",
            5: form.header(1.0),
            6: b"short",
            7: form.header(1.0) + image,
            8: (2**31).to_bytes(4, "little") + form.header(1.0)[4:],
        }
    )
    with pytest.raises(BadInput) as caught:
        read_records(path)
    text = r"7 records cannot be used: record 1 \(its label must be an integer from 0, not 1.5\)"
    assert re.search(text, str(caught.value))
    assert str(caught.value).endswith("and 4 more")
    # One that begins as an image is found out when it is decoded, and named.
    path = write_records({1: form.header(1.0) + image[:40], 2: form.header(1.0) + image})
    people = find_people(path)
    with pytest.raises(BadInput, match=r"train.rec: 1 file cannot be read as an image: 1/1 \("):
        people.read(0)
    assert people.read(1).shape == (9, 9, 3)

    with pytest.raises(BadInput, match=r"other.idx cannot be read: No such file"):
        find_people((tmp_path / "train.rec").rename(tmp_path / "other.rec"))
    with pytest.raises(BadInput, match=r"none.rec does not exist"):
        find_people(tmp_path / "none.rec")


def test_a_file_that_shrinks_is_named(insightface):
    path = insightface(LABELS)
    people = find_people(path, least=1)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(BadInput, match=r"10/2 \(record 2: the file has changed since it was op"):
        people.read(5)
