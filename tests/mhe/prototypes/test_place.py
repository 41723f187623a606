"""What a user gets from `place`, and from the command line."""

import math
import os
import re
import signal
import subprocess
import sys

import numpy as np
import pytest

from mhe import prototypes
from mhe.prototypes import cosine_lower_bound, find, order_kept, place, separation
from mhe.prototypes.__main__ import run

pytestmark = pytest.mark.one_backend


@pytest.mark.parametrize(
    ("classes", "dims", "cosine", "origin"),
    [
        (2, 2, -1, "simplex"),
        (6, 5, -1 / 5, "simplex"),
        (7, 5, 0, "orthoplex"),
        (100, 50, 0, "orthoplex"),
        (17, 2, math.cos(2 * math.pi / 17), "polygon"),
        (12, 3, 1 / math.sqrt(5), "icosahedron"),
        (24, 3, 0.7230784683, "snub cube"),
        (24, 4, 1 / 2, "D4 roots"),
        (120, 4, (1 + math.sqrt(5)) / 4, "600-cell"),
        (27, 6, 1 / 4, "E8 roots, derived twice"),
        (240, 8, 1 / 2, "E8 roots"),
        (50, 21, 1 / 21, "Hoffman-Singleton graph"),
        (275, 22, 1 / 6, "276 equiangular lines, derived once"),
    ],
)
def test_auto_takes_what_is_optimal(classes, dims, cosine, origin):
    found = find(classes, dims)
    assert found.prototypes.dtype == np.float32
    assert found.prototypes.shape == (classes, dims)
    assert found.origin == origin
    assert found.evaluations == 0
    assert separation(found.prototypes) == pytest.approx(cosine, abs=1e-6)
    assert cosine_lower_bound(classes, dims) == pytest.approx(cosine, abs=1e-6)


@pytest.mark.parametrize(
    ("classes", "cosine"), [(10, 0.4043943252), (13, 0.5426364868), (14, 0.5639503003)]
)
def test_auto_finds_what_is_proven(classes, cosine):
    """Danzer 1963; Musin and Tarasov 2012 and 2015."""
    found = find(classes, 3, effort=0.3)
    assert found.evaluations > 0
    assert separation(found.prototypes) == pytest.approx(cosine, abs=1e-4)
    assert cosine_lower_bound(classes, 3) == cosine


def test_auto_takes_rows_of_codes_for_many_classes():
    found = find(30_000, 128)
    assert (found.origin, found.evaluations) == ("dual BCH code of length 128", 0)
    assert separation(found.prototypes[:5000]) <= 1 / 8 + 1e-6


@pytest.mark.parametrize("method", ["auto", "lbfgs", "sgd", "slsqp"])
def test_every_method_places_unit_rows_that_seeds_settle(method):
    options = {"method": method, "effort": 0.02}
    first = place(13, 4, seed=1, **options)
    assert first.shape == (13, 4)
    assert first.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(first, axis=1), 1, atol=1e-6)
    np.testing.assert_array_equal(first, place(13, 4, seed=1, **options))
    if method != "auto":
        assert np.abs(first - place(13, 4, seed=2, **options)).max() > 1e-3
    assert separation(first) < 0.35
    assert separation(first) > cosine_lower_bound(13, 4)


@pytest.mark.parametrize(
    ("classes", "dims", "reserve", "whole", "first"),
    [
        (5, 16, 8, -1 / 12, -1 / 12),  # a simplex, all of whose cosines are equal
        (10, 8, 6, 0, 0),  # an orthoplex
        (4, 2, 4, math.sqrt(0.5), 0),  # an octagon, a square first
        (6, 3, 6, 1 / math.sqrt(5), 1 / math.sqrt(5)),
    ],
)
def test_prototypes_for_classes_to_come(classes, dims, reserve, whole, first):
    rows = place(classes, dims, reserve=reserve)
    assert rows.shape == (classes + reserve, dims)
    assert separation(rows) == pytest.approx(whole, abs=1e-6)
    assert separation(rows[:classes]) == pytest.approx(first, abs=1e-6)
    np.testing.assert_array_equal(rows, place(classes, dims, reserve=reserve))
    # The same points as without an order.
    plain = place(classes + reserve, dims)
    assert {row.tobytes() for row in rows} == {row.tobytes() for row in plain}


def test_every_prefix_is_well_separated():
    plain = place(60, 5, "lbfgs")
    rows = place(10, 5, "lbfgs", reserve=50)
    each = [separation(rows[:count]) for count in range(10, 61)]
    assert np.all(np.diff(each) >= 0)
    assert each[-1] == pytest.approx(separation(plain), abs=1e-6)
    assert each[0] < separation(plain[:10]) - 0.1
    cosines = rows.astype("float64") @ rows.T
    for count in range(10, 60):
        # No row that is left is farther from those before it than the next.
        near = cosines[:count, count:].max(axis=0)
        assert near[0] <= near.min() + 1e-6


def test_same_seed_same_array_across_processes():
    script = (
        "import sys\nfrom mhe.prototypes import place\n"
        "sys.stdout.write(place(30, 6, seed=3, effort=0.02).tobytes().hex())"
    )
    there = subprocess.run(
        [sys.executable, "-c", script],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONHASHSEED": "7", "PYTHONPATH": os.pathsep.join(sys.path)},
    ).stdout
    assert there == place(30, 6, seed=3, effort=0.02).tobytes().hex()


def test_progress_is_told_to_a_function_or_to_stderr(capsys):
    lines = []
    place(13, 4, effort=0.01, progress=lines.append)
    pattern = r"start 1, a random start: largest cosine 0\.\d{6} \(\d+%\)"
    assert any(re.fullmatch(pattern, line) for line in lines)
    place(13, 4, effort=0.01, progress=True)
    assert capsys.readouterr().err.splitlines() == lines


def test_ctrl_c_ends_the_search_and_writes_its_best(tmp_path, monkeypatch, capsys):
    """The first one; the handler that was there before is back afterwards."""

    def press(line):
        if line.startswith("start 2"):
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setattr("mhe.prototypes.optimize.to_stderr", press)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        out = tmp_path / "p.npy"
        assert run(["--classes", "40", "--dims", "5", "--out", str(out)]) == 130
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
    assert np.load(out, allow_pickle=False).shape == (40, 5)
    printed = capsys.readouterr()
    assert f"written to {out}" in printed.out
    assert "ending the search with the best placement" in printed.err


def test_semantics_are_followed_and_cost_what_their_weight_says():
    rng = np.random.default_rng(0)
    words = np.repeat(rng.normal(size=(5, 8)), 4, axis=0) + 0.5 * rng.normal(size=(20, 8))
    plain = place(20, 6, "lbfgs")
    assigned = place(20, 6, "lbfgs", semantics=words, semantics_weight=0)
    # Only the order of the rows has changed.
    assert sorted(map(tuple, plain)) == sorted(map(tuple, assigned))
    found = find(20, 6, "lbfgs", semantics=words, semantics_weight=3)
    moved = found.prototypes
    assert found.unmoved == pytest.approx(separation(plain), abs=1e-6)
    kept = [order_kept(rows, words).mean for rows in (plain, assigned, moved)]
    assert kept[0] + 0.1 < kept[1] < kept[2] - 0.02
    assert separation(plain) == separation(assigned) < separation(moved)


def test_closed_forms_asked_for_by_name_are_only_assigned():
    words = np.random.default_rng(0).normal(size=(8, 3))
    found = find(8, 4, "orthoplex", semantics=words)
    assert found.origin == "orthoplex, assigned by semantics"
    assert found.unmoved is None
    assert separation(found.prototypes) == 0


@pytest.mark.parametrize(
    ("arguments", "received"),
    [
        ({"classes": 1, "dims": 5}, "classes=1"),
        ({"classes": 5, "dims": 1}, "dims=1"),
        ({"classes": 5.0, "dims": 3}, "classes=5.0"),
        ({"classes": 5, "dims": 3, "method": "best"}, "'best'"),
        ({"classes": 5, "dims": 3, "method": "simplex"}, "classes=5, dims=3"),
        ({"classes": 7, "dims": 3, "method": "orthoplex"}, "classes=7, dims=3"),
        ({"classes": 5, "dims": 3, "seed": -1}, "seed=-1"),
        ({"classes": 5, "dims": 3, "seed": None}, "seed=None"),
        ({"classes": 5, "dims": 3, "effort": 0}, "effort=0"),
        ({"classes": 5, "dims": 3, "seconds": math.nan}, "seconds=nan"),
        ({"classes": 5, "dims": 3, "semantics_weight": -1}, "semantics_weight=-1"),
        ({"classes": 5, "dims": 3, "semantics": np.eye(4)}, "4 vectors"),
        ({"classes": 3, "dims": 3, "semantics": np.full((3, 2), np.nan)}, "0, 1, 2"),
        ({"classes": 5, "dims": 3, "reserve": -1}, "reserve=-1"),
        ({"classes": 5, "dims": 3, "reserve": 2.0}, "reserve=2.0"),
        ({"classes": 5, "dims": 3, "reserve": 2, "semantics": np.eye(5)}, "reserve=2, and semant"),
        ({"classes": 5, "dims": 5, "reserve": 2, "method": "simplex"}, "classes=7, dims=5"),
    ],
)
def test_bad_arguments_are_refused(arguments, received):
    with pytest.raises(ValueError, match=r"Received: .*" + received):
        place(**arguments)


def test_the_command_line_writes_and_reports(tmp_path, capsys):
    out = tmp_path / "prototypes.npy"
    flags = ["--classes", "27", "--dims", "6", "--out", str(out)]
    assert run(flags) == 0
    text = capsys.readouterr().out
    assert "27 prototypes in 6 dimensions: E8 roots, derived twice" in text
    assert text.count(" 0.250000  (75.522 degrees)") == 2
    np.testing.assert_array_equal(np.load(out, allow_pickle=False), place(27, 6))
    assert os.listdir(tmp_path) == ["prototypes.npy"]
    before = out.read_bytes()
    assert run(flags) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert out.read_bytes() == before
    assert run([*flags, "--overwrite", "--method", "lbfgs", "--seed", "1"]) == 0
    assert out.read_bytes() != before


def test_the_command_line_reserves(tmp_path, capsys):
    out = tmp_path / "prototypes.npy"
    assert run(["--classes", "4", "--dims", "2", "--reserve", "4", "--out", str(out)]) == 0
    text = capsys.readouterr().out
    assert "8 prototypes in 2 dimensions: polygon" in text
    assert re.search(r"of the first 4 +-?0.000000  \(90.000 degrees\)", text)
    assert re.search(r"largest cosine +0.707107", text)
    np.testing.assert_array_equal(np.load(out), place(4, 2, reserve=4))


def test_the_command_line_reads_word_vectors(tmp_path, capsys):
    words = tmp_path / "words.txt"
    words.write_text("cat 1 0 0\ndog 0.9 0.1 0\ncar 0 0 1\nbus 0 0.2 1\n", "utf-8")
    names = tmp_path / "names.txt"
    names.write_text("cat\ncar\ndog\nbus\n", "utf-8")
    out = tmp_path / "out.npy"
    flags = ["--classes", "4", "--dims", "2", "--out", str(out), "--semantics", str(words)]
    assert run([*flags, "--names", str(names), "--semantics_weight", "0"]) == 0
    assert "Kendall's tau" in capsys.readouterr().out
    rows = np.load(out)
    # On the square, the cat stands beside the dog or opposite: beside it.
    assert abs(rows[0] @ rows[2]) < 1e-6
    flags = ["--classes", "7", "--dims", "4", "--method", "lbfgs", "--out", str(out)]
    words = tmp_path / "words.npy"
    np.save(words, np.random.default_rng(0).normal(size=(7, 3)))
    assert run([*flags, "--overwrite", "--semantics", str(words)]) == 0
    text = capsys.readouterr().out
    before = float(re.search(r"before semantics moved them +(\S+)", text)[1])
    after = float(re.search(r"largest cosine +(\S+)", text)[1])
    assert before < after == pytest.approx(separation(np.load(out)), abs=1e-6)


def test_two_classes_have_an_order_that_nothing_can_keep(tmp_path, capsys):
    words, out = tmp_path / "words.npy", tmp_path / "out.npy"
    np.save(words, np.eye(2))
    flags = ["--classes", "2", "--dims", "3", "--out", str(out), "--semantics", str(words)]
    assert run(flags) == 0
    assert "Kendall" not in capsys.readouterr().out
    assert separation(np.load(out)) == pytest.approx(-1)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--dims", "3"], "the following arguments are required: --classes"),
        (
            ["--classes", "1", "--dims", "3"],
            "must be an integer from 2 to 1000000. Received: 1",
        ),
        (["--classes", "9", "--dims", "3", "--method", "simplex"], "Received: classes=9, dims=3"),
        (
            ["--classes", "x", "--dims", "3"],
            "must be an integer from 2 to 1000000. Received: x",
        ),
        (["--classes", "9", "--dims", "3", "--out", "a.txt"], "must end in .npy"),
        (["--classes", "9", "--dims", "3", "--out", "no/such/a.npy"], "there is no folder no/such"),
        (["--classes", "9", "--dims", "3", "--semantics", "none.npy"], "none.npy"),
        (["--classes", "9", "--dims", "3", "--names", "n.txt"], "--names needs --semantics"),
    ],
)
def test_the_command_line_refuses_in_one_line(flags, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(["--out", "a.npy", *flags]) == 2
    errors = capsys.readouterr().err
    assert errors.count("\n") == 1
    assert message in errors
    assert not list(tmp_path.iterdir())


def test_the_public_surface():
    assert {"place", "separation", "cosine_lower_bound"} <= set(prototypes.__all__)
