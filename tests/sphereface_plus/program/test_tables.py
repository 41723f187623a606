"""Tables of embeddings are read as they were written, or refused in one line."""

import csv
import re

import numpy as np
import pytest

from mhe.harness.errors import BadInput
from sphereface_plus.program.tables import SUFFIXES, Table, read_table, write_table

pytestmark = pytest.mark.one_backend

NAMES = np.array(["ann/1.png", 'b "o", b/2.png', "Zoë/3\n.png"])
PEOPLE = np.array(["ann", "", "Zoë"])


def vectors(count=3):
    rows = np.random.default_rng(3).normal(size=(count, 5)).astype("float32")
    rows[0, :2] = np.finfo("float32").tiny, np.finfo("float32").max
    return rows


@pytest.fixture(params=SUFFIXES)
def path(request, tmp_path):
    if request.param == ".safetensors":
        pytest.importorskip("safetensors")
    return tmp_path / f"table{request.param}"


def test_every_number_and_name_comes_back(path):
    write_table(path, Table("", NAMES, PEOPLE, vectors(), "7f"))
    table = read_table(path)
    np.testing.assert_array_equal(table.embeddings, vectors())
    assert table.embeddings.dtype == np.float32
    assert table.images.tolist() == NAMES.tolist()
    assert table.people.tolist() == PEOPLE.tolist()
    assert (table.model, table.source, len(table)) == ("7f", str(path), 3)


def test_what_is_cut_short_is_refused(path):
    write_table(path, Table("", NAMES, PEOPLE, vectors(), "7f"))
    data = path.read_bytes()
    for end in (0, 1, len(data) // 2, len(data) - 30):
        path.write_bytes(data[:end])
        with pytest.raises(BadInput, match=re.escape(str(path))) as caught:
            read_table(path)
        assert len(str(caught.value).splitlines()) == 1


def test_numbers_that_are_not_finite_are_named(path):
    rows = vectors()
    rows[1, 2] = np.nan
    write_table(path, Table("", NAMES, PEOPLE, rows, "7f"))
    with pytest.raises(BadInput, match=r"must be finite\. Received: that of b \"o\", b/2\.png"):
        read_table(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows[0].pop(), r"line 1 must have 8|line \d must have 7 cells. Received: 8"),
        (lambda rows: rows[0].__setitem__(3, "e2"), "columns image, person, model, e1"),
        (lambda rows: rows[2].pop(), "line 3 must have 8 cells. Received: 7"),
        (lambda rows: rows[2].__setitem__(4, "wide"), "line 3: could not convert string to float"),
        (lambda rows: rows[2].__setitem__(2, "80"), "of one model. Received: 7f and 80, in line 3"),
        (lambda rows: rows.__delitem__(slice(1, None)), "at least one embedding. Received: none"),
        (lambda rows: rows.clear(), "Received: an empty file"),
    ],
)
def test_tables_that_somebody_edited(tmp_path, change, message):
    path = tmp_path / "table.csv"
    write_table(path, Table("", np.array(["a", "b", "c"]), PEOPLE, vectors(), "7f"))
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    change(rows)
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    with pytest.raises(BadInput, match=message):
        read_table(path)


def test_tables_of_other_shapes(tmp_path):
    path = tmp_path / "table.npz"
    for embeddings, images in (
        (vectors()[0], NAMES),
        (vectors(), NAMES[:2]),
        (np.eye(3, dtype=int), NAMES),
    ):
        np.savez(path, embeddings=embeddings, images=images, people=PEOPLE, model="7f")
        with pytest.raises(BadInput, match=r"must hold floating-point embeddings \(N, dims\)"):
            read_table(path)
    np.savez(path, embeddings=vectors(), images=NAMES, people=PEOPLE)
    with pytest.raises(BadInput, match="must hold the array model"):
        read_table(path)
    np.savez(path, embeddings=vectors(), images=NAMES, people=PEOPLE, model=["7f"] * 3)
    with pytest.raises(BadInput, match="its model must be one text"):
        read_table(path)
    # Nothing is unpickled.
    np.savez(path, embeddings=vectors(), images=NAMES.astype(object), people=PEOPLE, model="7f")
    with pytest.raises(BadInput, match=r"its images must hold text\. Received: dtype object"):
        read_table(path)


def test_safetensors_without_a_description(tmp_path):
    numpy = pytest.importorskip("safetensors.numpy")
    path = tmp_path / "table.safetensors"
    numpy.save_file({"embeddings": vectors()}, path)
    with pytest.raises(BadInput, match="its metadata must have the entry 'images'"):
        read_table(path)
    numpy.save_file({"embeddings": vectors()}, path, {"images": "[1]", "people": "[]", "model": ""})
    with pytest.raises(BadInput, match="its images and people must be lists of text"):
        read_table(path)
    numpy.save_file({"other": vectors()}, path, {"images": "[]", "people": "[]", "model": ""})
    with pytest.raises(BadInput, match="embeddings"):
        read_table(path)
