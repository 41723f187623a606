"""Whatever a file holds, what reads it returns a value or raises a `ValueError` of one line."""

import contextlib
import csv
import functools
import gzip
import io
import json
import pickle
import re
import signal
import struct
import sys
import tarfile
import warnings
import zipfile

import keras
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from gan.scores import Reference
from gan.scores.reference import _read as read_reference
from mhe import ClassTree
from mhe.arrays import read_array, read_arrays
from mhe.harness import datasets, recipes
from mhe.harness.comparisons import Comparison, Varied
from mhe.harness.datasets.one_shot import load_one_shot_runs
from mhe.harness.datasets.shards import expand
from mhe.harness.errors import BadInput
from mhe.harness.files import read_csv, read_json
from mhe.harness.flags import Parser
from mhe.harness.run import Run
from mhe.harness.saved import load_model, load_weights
from mhe.prototypes import vectors
from mhe.text import read_text
from sphereface_plus import faces, ijb
from sphereface_plus.pairs import read_pairs
from sphereface_plus.program import tables, trained

pytestmark = pytest.mark.one_backend

# Times the examples of each test: 1 takes some seconds in all.
EFFORT = 1
SECONDS = 60  # no test takes nearly as long unless a reader hangs

# What is special to some reader, or to what it is made of.
SPECIAL = [
    *("", " ", "\t", "\n", "\r", "\r\n", ",", "\t\t", "/", "//", "\\", "#", ";", "|", '"', "'"),
    *("\0", "\x1a", "\x1c", "\x85", "\xa0", "\u2028", "\ufeff", "\ud800", "é", "e\u0301", "²", "٣"),
    *("0", "1", "2", "-1", "00", "1e9", "1e999", "-1e999", "nan", "inf", "1_0", "0x1", "9" * 25),
    *("9" * 400, "9" * 5000, "true", "null", "[", "]", "{", "}", ":", "[" * 2000, "{" * 9),
    *("..", ".", "../x", "a", "b", "a/b", "A", "Ann", "Bob", "name", "id", "epoch", "__class__"),
]
TOKENS = st.sampled_from(SPECIAL)
# What may be taken for a number, or for one that can be counted with.
ODD_WORDS = TOKENS | st.sampled_from(
    ["²", "٣", "inf", "nan", "1e999", "-1", "9" * 25, "9" * 5000, "1_0"]
)
TEXT = st.lists(TOKENS, max_size=12).map("".join)
# None with which a layer could be built that fills the memory.
NUMBERS = st.integers(-1000, 1000) | st.integers(10**18, 10**40)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.floats() | TEXT,
    lambda each: st.lists(each, max_size=3) | st.dictionaries(TEXT, each, max_size=3),
    max_leaves=5,
)


def encoded(text):
    return text.encode("utf-8", "surrogatepass")


def damaged(data):
    """Files that were cut, or have other bytes somewhere, or some of their bytes twice."""
    place = st.integers(0, len(data))
    other = st.one_of(st.binary(max_size=8), TOKENS.map(encoded))

    def edited(edits):
        changed = data
        for (begin, end), new in edits:
            changed = changed[: min(begin, end)] + new + changed[max(begin, end) :]
        return changed

    near = st.tuples(place, st.integers(0, 8)).map(lambda pair: (pair[0], sum(pair)))
    edit = st.tuples(st.one_of(near, near, st.tuples(place, place)), other)
    return st.lists(edit, max_size=4).map(edited)


def altered(content):
    """JSON in which one entry, at any depth, has another value or is missing."""

    def places(value, before=()):
        inside = value.items() if isinstance(value, dict) else enumerate(value)
        for key, each in inside:
            yield (*before, key)
            if isinstance(each, dict | list):
                yield from places(each, (*before, key))

    def change(place, value, is_missing):
        changed = json.loads(json.dumps(content))
        parent = functools.reduce(lambda each, key: each[key], place[:-1], changed)
        if is_missing:
            del parent[place[-1]]
        else:
            parent[place[-1]] = value
        return json.dumps(changed).encode()

    return st.builds(change, st.sampled_from(list(places(content))), VALUES, st.booleans())


def lines_of(*valid, also=()):
    """Texts: a valid one in which a word is special, and lines that are valid, special or neither.

    Args:
        valid: The lines of a valid text.
        also: Further lines that some valid texts have.
    """

    def with_word(line, place, word):
        parts = re.split(r"([ \t,]+)", line)
        parts[2 * place % len(parts)] = word
        return "".join(parts)

    places = st.integers(0, 30)
    known = st.sampled_from([*valid, *also])
    other = st.builds(with_word, known, places, ODD_WORDS)
    odd = st.lists(TOKENS, max_size=5).map(" ".join) | st.lists(TOKENS, max_size=5).map("\t".join)
    nearly = st.builds(
        lambda at, place, word: [
            with_word(line, place, word) if number == at % len(valid) else line
            for number, line in enumerate(valid)
        ],
        *(places, places, ODD_WORDS),
    )
    lines = st.one_of(nearly, nearly, st.lists(st.one_of(known, other, odd), max_size=8))
    text = st.builds(lambda end, each: end.join(each), st.sampled_from(["\n", "\r\n"]), lines)
    data = text.map(encoded)
    in_utf16 = text.map(lambda each: each.encode("utf-16", "replace"))
    return st.one_of(data, data, data, in_utf16, st.binary(max_size=60))


def fuzz(examples, **given_by):
    """Runs a test on as many examples, the same in every run."""
    chosen = settings(
        max_examples=examples * EFFORT,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    return lambda test: chosen(given(**given_by)(test))


@pytest.fixture
def folder(tmp_path):
    """A folder for the files of all examples of a test."""
    return tmp_path


@pytest.fixture(autouse=True)
def ends():
    """Ends a test that hangs."""
    if not hasattr(signal, "SIGALRM"):
        yield
        return

    def hangs(*_):
        raise TimeoutError("a reader hangs")

    before = signal.signal(signal.SIGALRM, hangs)
    signal.alarm(SECONDS * EFFORT)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@contextlib.contextmanager
def refusing(*sources):
    """What is inside may raise a `ValueError` of one line that names a source, and warn."""
    refused = None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        except ValueError as error:
            refused = error
    if refused is not None:
        # Those of encodings, JSON and the like are `ValueError`s too, and say nothing of a file.
        assert type(refused) in (ValueError, BadInput)
        assert not sources or any(str(source) in str(refused) for source in sources)
        assert len(str(refused).splitlines()) == 1
        assert not isinstance(refused, BadInput) or len(str(refused)) < 2100


def at(folder, name, data):
    path = folder / name
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_bytes(data)
    return path


def zipped(members, how=zipfile.ZIP_STORED):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", how) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return stream.getvalue()


def tarred(members, mode="w:gz", form=tarfile.PAX_FORMAT):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=mode, format=form) as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return stream.getvalue()


# --- text ---------------------------------------------------------------------------------------


@fuzz(60, data=lines_of("animal dog", "animal cat", "dog poodle", "# note"))
def test_trees_of_pairs(folder, data):
    path = at(folder, "tree.txt", data)
    for reader in (read_text, ClassTree.from_wordnet):
        with refusing(path):
            reader(path)


CATEGORIES = [
    {"id": i, "name": f"G{i} s", "kingdom": "A", "phylum": "B", "class": "C", "order": "D",
     "family": "E", "genus": f"G{i}", "supercategory": "S"} for i in range(3)
]  # fmt: skip


@fuzz(80, data=damaged(json.dumps(CATEGORIES).encode()) | altered(CATEGORIES))
def test_trees_of_categories(folder, data):
    path = at(folder, "categories.json", data)
    with refusing(path):
        ClassTree.from_categories(path)


@fuzz(60, paths=st.lists(TEXT, max_size=5), links=st.dictionaries(TEXT, TEXT, max_size=5))
def test_trees_of_names(paths, links):
    with refusing():
        ClassTree.from_paths(paths)
    with refusing():
        ClassTree.from_parents(links)


WORDS = [b"dog 1 0 0.5", b"cat 0 1 2", b"fish -1 1e-3 0"]


@fuzz(
    80,
    data=lines_of("3 3", "dog 1 0 0.5", "cat 0 1 2", "fish -1 1e-3 0", also=["2 3"]),
    pick=st.integers(0, 2),
)
def test_word_vectors(folder, data, pick):
    data = [data, gzip.compress(data), b"dog 1 2\ncat 3 4\n" + data][pick]
    path = at(folder, "words.txt", data)
    with refusing(path):
        vectors.read(path, ["dog", "cat"])


@fuzz(60, data=damaged(gzip.compress(b"\n".join(WORDS))))
def test_compressed_word_vectors(folder, data):
    path = at(folder, "words.gz", data)
    with refusing(path):
        vectors.read(path, ["dog", "cat"])


IMAGES = ["Ann/Ann_0001.jpg", "Ann/Ann_0002.jpg", "Bob/Bob_0001.png"]


@fuzz(80, data=lines_of("1 1", "Ann\t1\t2", "Ann 1 Bob 1", also=["1", "2 300"]))
def test_lists_of_pairs(folder, data):
    path = at(folder, "pairs.txt", data)
    with refusing(path):
        read_pairs(path, IMAGES)


@fuzz(
    80,
    data=lines_of("a,b,same", "Ann/Ann_0001.jpg,Bob/Bob_0001,0", "Ann,1,2,", also=["Ann,1,Bob,1"]),
)
def test_tables_of_pairs(folder, data):
    path = at(folder, "pairs.csv", data)
    with refusing(path):
        read_pairs(path, IMAGES)


IJB = {
    ijb.read_faces: ["1.jpg 11 7", "2.jpg 11 8"],
    ijb.read_template_pairs: ["1 2 1", "1 3 0"],
    ijb.read_template_people: ["TEMPLATE_ID,SUBJECT_ID", "1,2,a.jpg", '3,"4"'],
    ijb.read_points: [f"{number}.jpg 30 52 66 52 48 72 34 92 63 92 0.9" for number in (1, 2)],
}


@fuzz(100, reader=st.sampled_from(list(IJB)), draw=st.data())
def test_lists_of_templates(folder, reader, draw):
    path = at(folder, "ijb.txt", draw.draw(lines_of(*IJB[reader], also=["a b c", "1,2"])))
    with refusing(path):
        reader(path)


def picture(size=(8, 9), kind="PNG", mode="L"):
    stream = io.BytesIO()
    Image.new(mode, size, 7).save(stream, kind)
    return stream.getvalue()


@functools.cache
def some_people(folder):
    folder = folder / "people"
    for name in ("Ann/1.png", "Ann/2.png", "Bob/1.png", "Bob/3.png"):
        at(folder, name, picture())
    return faces.find_people(folder)


POINTS = "30 52 66 52 48 72 34 92 63 92"


@fuzz(
    80,
    data=lines_of(
        "4",
        *(f"{name} {POINTS}" for name in ("Ann/1.png", "2.png", "Bob/1.png", "3.png")),
        also=[f"Ann/2.png,{POINTS}", "x1 y1"],
    ),
)
def test_landmarks(folder, data):
    path = at(folder, "points.txt", data)
    with refusing(path):
        faces.read_landmarks(path, some_people(folder))


LONG_CELL = f"{'x' * (csv.field_size_limit() + 1)},2,train"


@fuzz(
    60,
    data=lines_of("person,images,set", "Ann,2,train", 'Bob,"3",test', also=["a,b", LONG_CELL]),
)
def test_tables(folder, data):
    path = at(folder, "people.csv", data)
    for reader in (read_csv, lambda _: trained.trained_people(folder)):
        with refusing(path):
            reader(path)


# --- the folder of a run ------------------------------------------------------------------------

CONFIG = {
    "program": "benchmarks/x.py", "model_name": "a", "power_s": None, "dataset": "digits",
    "seed": 0, "data_dir": None, "image_size": None, "label": "school", "train_images": 3,
    "width": 1.0, "arch": "conv4", "versions": {"mhe": "0"},
}  # fmt: skip


def run_parser():
    parser = Parser("benchmarks/x.py", "Trains.")
    parser.add_argument("--model_name", nargs="+", choices=["a", "b"], default=["a"])
    parser.add_data_flags("digits")
    recipes.add_size_flags(parser, arch="conv4")
    return parser


@fuzz(120, data=damaged(json.dumps(CONFIG).encode()) | altered(CONFIG))
def test_configs(folder, capsys, data):
    path = at(folder, "config.json", data)
    with refusing(path):
        read_json(path)
    with refusing(folder):
        run_parser().parse(["--resume", str(folder)])


@fuzz(120, data=lines_of("epoch,loss,seconds", "1,0.5,2", "2,,3", also=["epoch,lr", "inf,1,1"]))
def test_logs(folder, data):
    at(folder, "config.json", json.dumps(CONFIG).encode())
    at(folder, "log.csv", data)
    with refusing(folder / "log.csv"):
        run = Run.resume(folder)
        assert all(isinstance(row["epoch"], int) for row in run.rows)


COMPARISON = Comparison(
    "benchmarks/x.py", [Varied("model_name"), Varied("width")], {"test_accuracy": 100}
)
RESULT = {"model_name": "a", "metrics": {"test_accuracy": 0.5}, "seconds": 1.0}


@fuzz(80, data=damaged(json.dumps(RESULT).encode()) | altered(RESULT))
def test_results(folder, data):
    at(folder, "config.json", json.dumps(CONFIG).encode())
    at(folder, "result.json", data)
    with refusing(folder):
        metrics = Run.resume(folder).result["metrics"]
        assert np.isfinite(np.array(list(metrics.values()), float)).all()
        COMPARISON.text(COMPARISON.collect([Run.resume(folder), Run.resume(folder)]))


# --- arrays and models --------------------------------------------------------------------------


def npy(array=((1.0, 2.0), (3.0, 4.0))):
    stream = io.BytesIO()
    np.save(stream, np.array(array))
    return stream.getvalue()


def npz(**arrays):
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    return stream.getvalue()


HEADER = st.sampled_from(["(2, 2)", "(2,)", "(-1, 2)", "(9999999999, 9)", "()", "2", "(2, 2.0)"])
DTYPE = st.sampled_from(
    ["'<f8'", "'|O'", "'<U4'", "'f8'", "[('a', '<f8')]", "'<M8[s]'", "'V8'", "9"]
)


@fuzz(100, data=damaged(npy()) | st.binary(max_size=80), shape=HEADER, dtype=DTYPE, extra=TOKENS)
def test_arrays(folder, data, shape, dtype, extra):
    header = f"{{'descr': {dtype}, 'fortran_order': False, 'shape': {shape}, {extra}}}\n"
    header = encoded(header)
    made = b"\x93NUMPY\x01\x00" + (len(header) % 2**16).to_bytes(2, "little") + header + bytes(32)
    for content in (data, made):
        path = at(folder, "a.npy", content)
        for reader in (read_array, lambda path: vectors.read(path, ["dog", "cat"])):
            with refusing(path):
                reader(path)


KEY = {"format": 1, "sample": 2}
ARRAYS = npz(
    labels=[0, 1], key=np.array(json.dumps(KEY)), count=np.array(2), mu=np.zeros(2),
    sigma=np.eye(2), features=np.zeros((2, 2), "float32"),
)  # fmt: skip


FEATURES = st.one_of(damaged(npy()), damaged(npy(["a"])))


@fuzz(60, data=damaged(ARRAYS) | FEATURES.map(lambda x: zipped({"labels.npy": x, "key.npy": x})))
def test_archives_of_arrays(folder, data):
    path = at(folder, "a.npz", data)
    with refusing(path):
        read_arrays(path, ["labels", "features"], texts=["key"])
    with refusing():  # it warns, and returns None
        assert read_reference(path, KEY) is None or isinstance(read_reference(path, KEY), Reference)


EMBEDDED = {
    "embeddings": np.eye(2, dtype="float32"), "images": np.array(["a", "b"]),
    "people": np.array(["Ann", ""]), "model": np.array("7f"),
}  # fmt: skip


def one_array_of(name):
    """Archives of a table in which one array is damaged, with sums that fit."""
    members = {f"{each}.npy": npy(array) for each, array in EMBEDDED.items()}
    return damaged(members[f"{name}.npy"]).map(lambda x: zipped({**members, f"{name}.npy": x}))


@fuzz(80, data=damaged(npz(**EMBEDDED)) | st.one_of(*map(one_array_of, EMBEDDED)))
def test_archives_of_embeddings(folder, data):
    path = at(folder, "table.npz", data)
    with refusing(path):
        assert np.isfinite(tables.read_table(path).embeddings).all()


@fuzz(80, data=lines_of("image,person,model,e1,e2", "a,Ann,7f,0.5,1", '"b",,7f,1e-3,2'))
def test_tables_of_embeddings(folder, data):
    path = at(folder, "table.csv", data)
    with refusing(path):
        assert np.isfinite(tables.read_table(path).embeddings).all()


@fuzz(80, edit=st.data())
def test_safetensors_of_embeddings(folder, edit):
    pytest.importorskip("safetensors")
    path = folder / "whole.safetensors"
    tables.write_table(
        path, tables.Table("", EMBEDDED["images"], EMBEDDED["people"], EMBEDDED["embeddings"], "7f")
    )
    path = at(folder, "table.safetensors", edit.draw(damaged(path.read_bytes())))
    with refusing(path):
        assert np.isfinite(tables.read_table(path).embeddings).all()


@functools.cache
def model():
    return keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, name="dense")], name="m")


@functools.cache
def model_bytes(folder, name):
    path = folder / f"whole-{name}"
    model().save(path) if name.endswith(".keras") else model().save_weights(path)
    return path.read_bytes()


@fuzz(60, draw=st.data())
def test_models(folder, draw):
    whole = model_bytes(folder, "m.keras")
    with zipfile.ZipFile(io.BytesIO(whole)) as archive:
        members = {each: archive.read(each) for each in archive.namelist()}
    settings, weights = "config.json", "model.weights.h5"
    data = draw.draw(
        st.one_of(
            damaged(whole),
            # With sums that fit.
            altered(json.loads(members[settings])).map(lambda x: zipped({**members, settings: x})),
            damaged(members[weights]).map(lambda x: zipped({**members, weights: x})),
        )
    )
    path = at(folder, "m.keras", data)
    with refusing(path):
        load_model(path)


@fuzz(40, edit=st.data())
def test_weights(folder, edit):
    data = edit.draw(damaged(model_bytes(folder, "m.weights.h5")))
    path = at(folder, "m.weights.h5", data)
    with refusing(path):
        load_weights(model(), path)


# --- images -------------------------------------------------------------------------------------


HOW = st.sampled_from(
    [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]
)
CLASSES = {
    f"{part}/{name}/{i}.png": picture()
    for part in ("train", "test")
    for name in "ab"
    for i in (1, 2)
}
TINY = {
    "wnids.txt": b"n1\nn2\n", "words.txt": b"n1\tdog\nn2\tcat\n",
    "train/n1/images/a.png": picture(), "train/n2/images/b.png": picture(),
    "val/images/c.png": picture(), "val/val_annotations.txt": b"c.png\tn1\t0\t0\n",
}  # fmt: skip
FACES = {f"{name}/{i}.png": picture() for name in ("Ann", "Bob") for i in (1, 2)}


@fuzz(
    80,
    how=HOW,
    draw=st.data(),
)
def test_archives_of_images(folder, how, draw):
    is_tar = draw.draw(st.booleans())
    classes, people = (tarred(x) if is_tar else zipped(x, how) for x in (CLASSES, FACES))
    with refusing(folder / "a.zip"):
        datasets.load(at(folder, "a.zip", draw.draw(damaged(classes))))
    with refusing(folder / "a.zip"):
        faces.find_people(at(folder, "a.zip", draw.draw(damaged(people)))).read(0)


KINDS = [picture(kind=kind) for kind in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "PPM", "WEBP")]


@fuzz(60, how=HOW, draw=st.data())
def test_archives_of_lists(folder, how, draw):
    # Long, so that most of the damage is to what was compressed.
    words = "".join(f"n{place}\t{place**5}\n" for place in range(1, 300)).encode()
    path = at(folder, "a.zip", draw.draw(damaged(zipped({**TINY, "words.txt": words}, how))))
    with refusing(path):
        datasets.load(path)


@fuzz(80, data=st.one_of(*map(damaged, KINDS)), size=st.sampled_from([None, 8]))
def test_images(folder, data, size):
    with refusing(folder / "a.zip"):
        datasets.load(at(folder, "a.zip", zipped({**CLASSES, "train/a/1.png": data})), size=size)
    path = at(folder, "a.zip", zipped({**FACES, "Ann/1.png": data}))
    for decode in (False, True):
        with refusing(path):
            faces.find_people(path, decode=decode).read(0)


@fuzz(
    60, names=st.lists(TEXT, min_size=1, max_size=5), suffix=st.sampled_from(["", ".png", "/1.png"])
)
def test_names_in_archives(folder, names, suffix):
    members = {
        name + suffix: picture()
        for name in (name.replace("\0", "").replace("\ud800", "") for name in names)
        if name + suffix
    }
    with refusing(folder / "a.zip"):
        datasets.load(at(folder, "a.zip", zipped({**CLASSES, **members})))
    with refusing(folder / "a.zip"):
        faces.find_people(at(folder, "a.zip", zipped({**FACES, **members})))


SHARD = {
    "0.png": picture(), "0.cls": b"0\n", "1.png": picture(), "1.json": b'{"label": "b"}',
    "x/2.png": picture(), "x/2.cls": b"0", "x/2.txt": b"a caption",
}  # fmt: skip
FORMS = st.sampled_from([tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])


@pytest.fixture
def shards(folder):
    """A folder with a whole shard to test on."""
    at(folder, "shards/a-test-000000.tar", tarred(SHARD, "w"))
    return folder / "shards"


def load_shards(shards, data):
    """Loads a shard to train on, in memory and streamed."""
    at(shards, "a-train-000000.tar", data)
    for memory in (None, 0):
        with refusing(shards, "a-train-000000.tar"):
            datasets.load(str(shards), memory=memory).train[0][:]


@fuzz(100, form=FORMS, draw=st.data())
def test_shards(shards, form, draw):
    load_shards(shards, draw.draw(damaged(tarred(SHARD, "w", form))))


@fuzz(60, name=st.sampled_from(sorted(SHARD)), data=st.binary(max_size=60) | TEXT.map(encoded))
def test_files_in_shards(shards, name, data):
    load_shards(shards, tarred({**SHARD, name: data}, "w"))


@fuzz(60, data=altered({"label": "a", "cls": 1}))
def test_json_in_shards(shards, data):
    load_shards(shards, tarred({**SHARD, "1.json": data}, "w"))


@fuzz(
    60, names=st.lists(TEXT, min_size=1, max_size=3), suffix=st.sampled_from(["", ".png", ".cls"])
)
def test_names_in_shards(shards, names, suffix):
    odd = (name.replace("\ud800", "") + suffix for name in names)
    load_shards(shards, tarred({**SHARD, **{name: picture() for name in odd if name}}, "w"))


ENDS = st.integers(-1, 12).map(str) | ODD_WORDS


@fuzz(100, first=ENDS, last=ENDS, around=st.tuples(TEXT, TEXT))
def test_ranges_of_shards(first, last, around):
    before, after = around
    with refusing("--dataset"):
        assert expand(f"{before}{{{first}..{last}}}{after}")


def records(images, labels):
    """The bytes of a .rec and of its .idx, as InsightFace makes them."""
    headers = [(2, 0.0, struct.pack("<ff", len(images) + 1, len(images) + 1))]
    headers += [(0, float(label), image) for label, image in zip(labels, images, strict=True)]
    data, index = b"", ""
    for key, (count, label, content) in enumerate(headers):
        content = struct.pack("<IfQQ", count, label, key, 0) + content
        index += f"{key}\t{len(data)}\n"
        data += struct.pack("<II", 0xCED7230A, len(content)) + content + bytes(-len(content) % 4)
    return data, index.encode()


FEW = [picture() for _ in range(4)]
MANY_RECORDS, INDEX = records(FEW, [3, 3, 5, 5])


def read_all(people):
    """Reads every image; what is read must be one of them."""
    for place in range(len(people)):
        pixels = people.read(place)
        assert pixels.dtype == np.uint8
        assert pixels.ndim == 3


@fuzz(
    120,
    data=damaged(MANY_RECORDS),
    index=st.just(INDEX) | lines_of(*INDEX.decode().splitlines(), also=["0\t4", "9\t0"]),
)
def test_records(folder, data, index):
    path = at(folder, "train.rec", data)
    at(folder, "train.idx", index)
    with refusing(folder / "train."):
        read_all(faces.find_people(path, least=1))


PAIRS = (FEW, [True, False])
# Opcodes of values that people did not mean, and of programs.
ODD_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.binary(max_size=4) | st.text()
    | st.sampled_from([print, exit, complex(1, 2), FEW[0]]),
    lambda x: st.lists(x, max_size=3) | st.tuples(x, x) | st.dictionaries(st.text(), x),
    max_leaves=5,
)  # fmt: skip


@fuzz(
    80,
    data=st.one_of(
        *(damaged(pickle.dumps(PAIRS, protocol)) for protocol in (2, 3, 4, 5)),
        st.builds(pickle.dumps, ODD_VALUES, st.integers(0, 5)),
        st.builds(lambda x: pickle.dumps((FEW, x)), ODD_VALUES),
        st.binary(max_size=60),
    ),
)
def test_validation_sets(folder, data):
    path = at(folder, "lfw.bin", data)
    with refusing(path):
        people, pairs = faces.read_validation_set(path)
        assert pairs.same.dtype == bool
        assert pairs.rows.shape == (len(pairs.same), 2)
        assert len(people) == 2 * len(pairs.same)
        read_all(people)


LISTS = {
    "wnids.txt": lines_of("n1", "n2"),
    "words.txt": lines_of("n1\tdog", "n2\tcat"),
    "val/val_annotations.txt": lines_of("c.png\tn1\t0", also=["c.png\tn2"]),
}


@fuzz(100, name=st.sampled_from(sorted(LISTS)), draw=st.data())
def test_lists_of_classes(folder, name, draw):
    data = draw.draw(LISTS[name])
    path = at(folder, "tiny.zip", zipped({**TINY, name: data}))
    with refusing(path):
        datasets.load(path)


TABLE = b"omni_id,creation_year,school,century\n1,1630,dutch,17\n"
OMNIART = {f"{part}.csv": TABLE for part in ("train", "test")}
OMNIART |= {f"{part}/1.jpg": picture(kind="JPEG") for part in ("train", "test")}


@fuzz(
    200,
    data=lines_of(
        "omni_id,creation_year,school,century", "1,1630,dutch,17", also=["1,,,", '"1"', "2,1,a,b"]
    ),
    label=st.sampled_from(["school", "century"]),
)
def test_tables_of_images(folder, data, label):
    path = at(folder, "art.zip", zipped({**OMNIART, "train.csv": data}))
    with refusing(path):
        years, _ = datasets.load(path, label=label).values
        assert np.isfinite(years[0])


ONE_SHOT = {
    f"run01/{part}/{name}01.png": picture()
    for part, name in (("training", "class"), ("test", "item"))
}
ONE_SHOT["run01/class_labels.txt"] = b"run01/test/item01.png run01/training/class01.png\n"


@fuzz(40, data=lines_of("run01/test/item01.png run01/training/class01.png", also=["a b"]))
def test_one_shot_runs(folder, data):
    path = at(
        folder,
        "runs.zip",
        zipped({**ONE_SHOT, "run01/class_labels.txt": data}),
    )
    with refusing(path):
        load_one_shot_runs(path, 8)


# --- flags --------------------------------------------------------------------------------------


@fuzz(60, text=TEXT)
def test_flags(text):
    for flag in (
        "out",
        "resume",
        "dataset",
        "data_dir",
        "image_size",
        "width",
        "model_name",
        "seed",
    ):
        with refusing(f"--{flag}"):
            run_parser().parse_args([f"--{flag}={text}"])
    with refusing():
        recipes.fractions(text)


@fuzz(40, text=TEXT)
def test_names_of_datasets(text):
    # Names that TensorFlow Datasets might know would be looked for.
    with refusing(), pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "tensorflow_datasets", None)
        datasets.load(text)


# --- what the examples start from ----------------------------------------------------------------


@pytest.mark.filterwarnings("ignore")
def test_what_is_whole_is_read(folder):
    tree = b"animal dog\nanimal cat\n"
    assert ClassTree.from_wordnet(at(folder, "t", tree)).classes == ("dog", "cat")
    assert ClassTree.from_categories(at(folder, "c", json.dumps(CATEGORIES).encode())).depth == 7
    for data in (b"\n".join(WORDS), gzip.compress(b"\n".join(WORDS))):
        assert vectors.read(at(folder, "words", data), ["dog", "cat"]).tolist()[1] == [0, 1, 2]
    assert read_pairs(at(folder, "pairs.txt", b"Ann 1 2\nAnn 1 Bob 1\n"), IMAGES).rows.size == 4
    table = b"a,b,same\nAnn/Ann_0001,Bob/Bob_0001,0\n"
    assert read_pairs(at(folder, "pairs.csv", table), IMAGES).rows.tolist() == [[0, 2]]
    for reader, lines in IJB.items():
        reader(at(folder, "ijb.txt", "\n".join(lines).encode()))
    at(folder, "train.idx", INDEX)
    found = faces.find_people(at(folder, "train.rec", MANY_RECORDS))
    assert found.labels.tolist() == [0, 0, 1, 1]
    found, pairs = faces.read_validation_set(at(folder, "lfw.bin", pickle.dumps(PAIRS)))
    assert (len(found), pairs.same.tolist()) == (4, [True, False])
    people = some_people(folder)
    points = "".join(f"{name} {POINTS}\n" for name in people.images).encode()
    assert len(faces.read_landmarks(at(folder, "points.txt", points), people)) == 4
    at(folder, "run/config.json", json.dumps(CONFIG).encode())
    at(folder, "run/log.csv", b"epoch,loss\n1,0.5\n")
    at(folder, "run/result.json", json.dumps(RESULT).encode())
    _, run = run_parser().parse(["--resume", str(folder / "run")])
    assert run.rows == [{"epoch": 1, "loss": 0.5}]
    assert run.result["metrics"] == {"test_accuracy": 0.5}
    assert read_array(at(folder, "a.npy", npy())).shape == (2, 2)
    assert set(read_arrays(at(folder, "a.npz", ARRAYS), ["mu"], ["key"])) == {"mu", "key"}
    assert read_reference(folder / "a.npz", KEY).statistics.count == 2
    assert load_model(at(folder, "m.keras", model_bytes(folder, "m.keras"))).count_params() == 3
    load_weights(model(), at(folder, "m.weights.h5", model_bytes(folder, "m.weights.h5")))
    for data in KINDS:
        path = at(folder, "a.zip", zipped({**CLASSES, "train/a/1.png": data}))
        assert len(datasets.load(path).train[0]) == 4
        path = at(folder, "a.zip", zipped({**FACES, "Ann/1.png": data}))
        assert faces.find_people(path).read(0).shape[:2] == (9, 8)
    for members in (TINY, OMNIART):
        assert datasets.load(at(folder, "a.zip", zipped(members))).train[0].ndim == 4
    assert load_one_shot_runs(at(folder, "a.zip", zipped(ONE_SHOT)), 8)
    for name in ("train", "test"):
        at(folder, f"shards/a-{name}-000000.tar", tarred(SHARD, "w"))
    assert datasets.load(str(folder / "shards"), memory=0).train[1].tolist() == [0, 1, 0]
