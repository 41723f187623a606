"""Word vectors in the public formats, and what cannot be read as such."""

import gzip
import struct
import tracemalloc

import numpy as np
import pytest

from mhe.prototypes import vectors

pytestmark = pytest.mark.one_backend

WORDS = {
    "the": [0.5, -1.0, 2.0],
    "fish": [1.0, 0.0, 3.0],
    "aquarium": [0.0, 2.0, 1.0],
    "Sweet": [9.0, 9.0, 9.0],
    "dog": [3.0, 4.0, 0.0],
    "Dog": [7.0, 7.0, 7.0],
    "lawn-mower": [1.0, 2.0, 3.0],
    "Sweet_Pepper": [4.0, 5.0, 6.0],
}


def lines(words, end="\n"):
    return "".join(
        f"{word} {' '.join(map(str, numbers))}{end}" for word, numbers in words.items()
    ).encode()


@pytest.fixture
def written(tmp_path):
    """Writes bytes to a file and returns its path."""

    def write(content, name="words.txt"):
        path = tmp_path / name
        path.write_bytes(content)
        return path

    return write


HEADER = f"{len(WORDS)} 3\n".encode()


@pytest.mark.parametrize(
    "content",
    [
        lines(WORDS),
        HEADER + lines(WORDS),
        HEADER + lines(WORDS, " \n"),  # as the original word2vec writes it
        lines(WORDS, "\r\n").replace(b" ", b"\t"),
        gzip.compress(HEADER + lines(WORDS)),
        lines(WORDS) + b"\n",
    ],
    ids=["glove", "word2vec", "trailing space", "tabs", "gzip", "blank line"],
)
def test_every_format_gives_the_classes_in_order(written, content):
    read = vectors.read(written(content), ["fish", "the", "dog"])
    assert read.dtype == np.float32
    np.testing.assert_array_equal(read, [WORDS["fish"], WORDS["the"], WORDS["dog"]])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("dog", WORDS["dog"]),
        ("Dog", WORDS["Dog"]),
        ("DOG", WORDS["dog"]),  # the first that differs in case
        ("lawn_mower", WORDS["lawn-mower"]),
        ("Lawn mower", WORDS["lawn-mower"]),
        ("sweet-pepper", WORDS["Sweet_Pepper"]),  # found as a whole before its words
        ("aquarium_fish", [0.5, 1.0, 2.0]),
        ("Aquarium Sweet-Fish", np.mean([[0, 2, 1], [9, 9, 9], [1, 0, 3]], axis=0)),
    ],
)
def test_names_are_found_in_their_variants(written, name, expected):
    read = vectors.read(written(lines(WORDS)), [name])
    np.testing.assert_allclose(read, [expected], rtol=1e-6)


def test_nearer_variants_win_wherever_they_stand(written):
    words = {"Ice_Cream": [1], "ice-cream": [2], "ice": [3], "cream": [4]}
    for order in (words, dict(reversed(words.items()))):
        path = written(lines(order))
        assert vectors.read(path, ["ice_cream"]) == 2
        assert vectors.read(path, ["Ice Cream"]) == 1
        assert vectors.read(path, ["ICE_CREAM"]) == next(v for w, v in order.items() if len(w) > 5)


def test_words_with_spaces_in_them(written):
    words = {"dog": [3.0, 4.0], ". . .": [1.0, 2.0], "ice cream": [5.0, 6.0]}
    read = vectors.read(written(lines(words)), ["dog", "ice_cream"])
    np.testing.assert_array_equal(read, [[3, 4], [5, 6]])


def test_a_word_given_twice(written):
    twice = lines({"dog": [1, 2], "cat": [3, 4]}) + lines({"dog": [1, 2], "cat": [3, 5]})
    np.testing.assert_array_equal(vectors.read(written(twice), ["dog"]), [[1, 2]])
    message = "a word once. Received: 'cat' with different vectors in lines 2 and 4"
    with pytest.raises(ValueError, match=message):
        vectors.read(written(twice), ["cat"])


def test_all_missing_names_are_listed(written):
    with pytest.raises(ValueError, match=r"classes, or their words. Received: .*") as error:
        vectors.read(written(lines(WORDS)), ["cat", "dog", "gold_fish", "tree-frog"])
    expected = "Received: no vectors for cat, gold_fish (gold), tree-frog (tree, frog)"
    assert str(error.value).endswith(expected)


WORD2VEC_BINARY = b"2 4\n" + b"".join(
    word + b" " + struct.pack("4f", 0.1, -0.2, 0.3, 1.0) + b"\n" for word in (b"dog", b"cat")
)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "must hold words.*Received: none"),
        (b"2 3\n", "must hold words.*Received: none"),
        (b"dog\ncat\n", "line 1 must be a word and, as in the first line, its numbers"),
        (b"dog 1 2\ncat 1\n", "line 2 must be a word and, .* 2 numbers. Received: 1 numbers"),
        (b"dog 1 2\ncat 1 2 3\n", "line 2 must be a word and, .* 2 numbers. Received: 3 numbers"),
        (b"2 3\ncat 1 2 3\ndog 1 2\n", "line 3 must be .* 3 numbers. Received: 2 numbers"),
        (b"3 1\ndog 1\ncat 2\n", "must hold 3 words, as its first line says. Received: 2 words"),
        (b"cat 1 2\ndog 1 two\n", "line 2 must hold numbers. Received: .*two"),
        (b"cat 1 2\ndog 1 nan\n", "line 2 must hold finite numbers. Received: .*nan"),
        (WORD2VEC_BINARY, "Received: binary data. .*binary word vectors written as text"),
        (gzip.compress(WORD2VEC_BINARY), "Received: binary data"),
        (b"PK\3\4" + 30 * b"x", "Received: binary data. An archive must be unpacked"),
        (gzip.compress(lines(WORDS))[:-20], "is damaged and cannot be decompressed"),
    ],
    ids=[
        "empty",
        "header alone",
        "words alone",
        "too few numbers",
        "too many numbers",
        "fewer than the header says",
        "cut off",
        "not a number",
        "not finite",
        "binary",
        "binary in gzip",
        "zip",
        "damaged gzip",
    ],
)
def test_files_that_cannot_be_used_are_refused(written, content, message):
    with pytest.raises(ValueError, match=rf"(?s)words\.txt.*{message}"):
        vectors.read(written(content), ["dog"])


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (None, "text needs the `names` of the classes. Received: names=None"),
        ("dog", "must be strings, one per class. Received: 'dog'"),
        (["dog", 3], "must be strings, one per class. Received: "),
        (["dog", "fish", "dog"], "must be distinct.*Received: twice dog"),
        (["dog", "_"], "a word each. Received: "),
    ],
)
def test_names_that_cannot_be_used_are_refused(written, names, message):
    with pytest.raises(ValueError, match=message):
        vectors.read(written(lines(WORDS)), names)


def test_arrays(tmp_path):
    path = tmp_path / "words.npy"
    array = np.arange(6, dtype="float64").reshape(3, 2)
    np.save(path, array)
    read = vectors.read(path)
    assert read.dtype == np.float32
    np.testing.assert_array_equal(read, array)
    np.testing.assert_array_equal(vectors.read(str(path), ["a", "b", "c"]), array)
    with pytest.raises(ValueError, match=r"each of the 2 classes. Received: 3 rows"):
        vectors.read(path, ["a", "b"])


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.ones(3), r"numbers \(classes, m\). Received: float64 of shape \(3,\)"),
        (np.array([["a"], ["b"]]), "words.npy must hold numbers. Received: dtype <U1"),
        (np.array([[1.0], [np.nan]]), r"finite numbers. Received: others in row 1"),
        (np.array([[1.0], [1e300]]), r"finite numbers. Received: others in row 1"),
        (np.array([[1.0], [None]]), "words.npy must hold numbers. Received: dtype object"),
    ],
    ids=["flat", "text", "nan", "too large", "objects"],
)
def test_arrays_that_cannot_be_used_are_refused(tmp_path, array, message):
    path = tmp_path / "words.npy"
    np.save(path, array)
    with pytest.raises(ValueError, match=message):
        vectors.read(path)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError):
        vectors.read(tmp_path / "missing.txt", ["dog"])


def test_a_line_with_other_spaces_than_one_per_number_is_refused(written):
    with pytest.raises(ValueError, match=r"line 2 must have one space .* 2 numbers and 3 spaces"):
        vectors.read(written(b"2 3\ndog  0 0.5\ncat 0 1 2\n"), ["cat", "dog"])


def test_an_error_about_a_long_vector_is_one_line(written):
    with pytest.raises(ValueError, match=r"line 1 must hold finite numbers\. Received: ") as caught:
        vectors.read(written(b"dog" + b" 1e99" * 300 + b"\n"), ["dog"])
    assert len(str(caught.value).splitlines()) == 1


def test_large_files_are_streamed(written):
    row = " ".join(["0.123456"] * 50)
    path = written("".join(f"word{line} {row}\n" for line in range(5000)).encode())
    tracemalloc.start()
    read = vectors.read(path, ["word4999", "word0"])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert read.shape == (2, 50)
    assert path.stat().st_size > 2_000_000
    assert peak < 500_000
