"""Files that a kill leaves either as they were or complete."""

import json

import pytest

from mhe.harness.errors import BadInput, CannotWrite
from mhe.harness.files import PARTIAL, read_csv, read_json, replacing, write_csv, write_json

pytestmark = pytest.mark.one_backend


def test_a_file_is_replaced_only_once_it_is_complete(tmp_path):
    path = tmp_path / "a.tar.gz"
    path.write_text("old")
    with replacing(path) as partial:
        assert (partial.parent, partial.name) == (tmp_path, PARTIAL + path.name)
        partial.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_is_left_alone_if_the_writer_fails(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def write():
        with replacing(path) as partial:
            partial.write_text("half of i")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write()
    assert path.read_text() == "old"


def test_json_comes_back(tmp_path):
    content = {"model_name": "ä", "seed": 3, "rates": [0.1, 1e-30], "steps": None}
    write_json(tmp_path / "a.json", content)
    assert read_json(tmp_path / "a.json") == content
    assert json.loads((tmp_path / "a.json").read_text("utf-8")) == content
    before = (tmp_path / "a.json").read_bytes()
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"loss": float("nan")})
    assert (tmp_path / "a.json").read_bytes() == before


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read: .*No such file"),
        (b"{", "cannot be read"),
        (b"\xff\xfe", "cannot be read"),
        (b"[1]", r"must hold a JSON object\. Received: list"),
    ],
)
def test_what_is_not_a_json_object_is_refused(tmp_path, content, message):
    path = tmp_path / "a.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(BadInput, match=rf"a\.json {message}"):
        read_json(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a,b\n1\n", "line 2: a row must have a cell for each column"),
        ("a\n1,2\n", "line 2: a row must have a cell for each column"),
        ("a\n" + "1" * 200_000, "field larger than field limit"),
    ],
)
def test_tables_that_are_none_are_refused(tmp_path, content, message):
    path = tmp_path / "a.csv"
    path.write_text(content)
    with pytest.raises(BadInput, match=rf"a\.csv.*{message}"):
        read_csv(path)


def test_csv_keeps_every_digit_and_leaves_out_what_is_missing(tmp_path):
    path = tmp_path / "a.csv"
    rows = [{"b": 1 / 3, "a": "x, y"}, {"a": None, "c": 1e-30}]
    write_csv(path, rows)
    assert path.read_bytes() == b'b,a,c\r\n0.3333333333333333,"x, y",\r\n,,1e-30\r\n'
    write_csv(path, rows, ["c", "b", "a"])
    assert path.read_text().splitlines()[0] == "c,b,a"
    before = path.read_bytes()
    with pytest.raises(ValueError, match="fields not in fieldnames"):
        write_csv(path, rows, ["a"])
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("metrics", "message"),
    [
        ("null", r"metrics must be an object of finite numbers\. Received: null"),
        ("[1]", r"metrics must be an object of finite numbers\. Received: \[1\]"),
        ('{"loss": null}', r"loss must be a finite number\. Received: null"),
        ('{"loss": "0.5"}', r'loss must be a finite number\. Received: "0\.5"'),
        ('{"loss": true}', r"loss must be a finite number\. Received: true"),
        ('{"loss": NaN}', r"loss must be a finite number\. Received: another"),
        (f'{{"loss": {10**400}}}', r"loss must be a finite number\. Received: another"),
        ('{"loss": ' + "9" * 5000 + "}", "cannot be read: "),
        ("[" * 100_000, "cannot be read: "),
    ],
)
def test_numbers_in_json_are_checked(tmp_path, metrics, message):
    path = tmp_path / "result.json"
    path.write_text(f'{{"metrics": {metrics}}}')
    with pytest.raises(BadInput, match=rf"result\.json:? {message}") as caught:
        read_json(path).numbers("metrics")
    assert len(str(caught.value)) < 400 + len(str(path))


def test_what_json_lacks_is_named(tmp_path):
    path = tmp_path / "result.json"
    write_json(path, {"metrics": {}})
    with pytest.raises(BadInput, match=r"must have the entry seconds\. Received: metrics"):
        read_json(path)["seconds"]


def test_what_cannot_be_written_is_named_and_leaves_nothing(tmp_path, no_file_larger_than):
    path = tmp_path / "a.csv"
    write_csv(path, [{"a": 1}])
    before = path.read_bytes()
    with no_file_larger_than(50), pytest.raises(CannotWrite, match=r"a\.csv cannot be written"):
        write_csv(path, [{"a": "x" * 100}])
    assert (path.read_bytes(), list(tmp_path.iterdir())) == (before, [path])
    with pytest.raises(CannotWrite, match=r"b\.csv cannot be written: No such file or directory"):
        write_csv(tmp_path / "none" / "b.csv", [{"a": 1}])
    # Where a partial file would be, there is a folder of the user's.
    (tmp_path / "partial-a.csv").mkdir()
    with pytest.raises(CannotWrite, match=r"a\.csv cannot be written: Is a directory"):
        write_csv(path, [{"a": 2}])


def test_tables_with_zeros_are_damaged(tmp_path):
    path = tmp_path / "people.csv"
    path.write_bytes(b"person,images\nZo\0\0,3\n")
    with pytest.raises(BadInput, match=r"people\.csv, line 2, is damaged: it holds zero bytes"):
        read_csv(path)
