"""Placements beside a table of known ones: what is read, what is compared, what is refused."""

import signal

import pytest

from mhe.prototypes import __main__ as command_line
from mhe.prototypes import find
from mhe.prototypes.__main__ import run
from mhe.prototypes.comparison import Known, read_known

pytestmark = pytest.mark.one_backend


@pytest.fixture
def table(tmp_path):
    def table(text):
        path = tmp_path / "records.txt"
        path.write_text(text)
        return str(path)

    return table


def test_a_table_is_read_as_people_write_it(table):
    path = table(
        "# of my own search\nclasses,dims,cosine\n\n4, 3, -0.3333\n  240\t8 5e-1 # E8\n6 3 0\r\n"
    )
    assert read_known(path) == [Known(4, 3, -0.3333), Known(240, 8, 0.5), Known(6, 3, 0.0)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("4 3 -0.3\n4 3\n", r"Line 2 of .*records.txt must be .* Received: 4 3$"),
        ("4 3 -0.3 simplex\n", "Received: 4 3 -0.3 simplex"),
        ("1 3 0.5\n", "Received: 1 3 0.5"),
        ("4 3 1.5\n", "from -1 to 1"),
        ("4 3 nan\n", "Received: 4 3 nan"),
        ("4 3.0 0.5\n", "Received: 4 3.0 0.5"),
        ("4 3 0\nclasses dims cosine\n", "Line 2"),
        ("4 3 0\n\n4 3 0.1\n", "Received: 4 classes in 3 dimensions again on line 3"),
        ("# nothing\n", "at least one placement. Received: none"),
    ],
)
def test_what_is_no_table_is_refused(text, message, table):
    with pytest.raises(ValueError, match=message):
        read_known(table(text))


def test_the_command_line_compares(table, capsys, monkeypatch):
    # Optimal; worse than what is placed; impossible; and better than one descent finds.
    path = table("4 3 -0.33333\n6 3 0.1\n240 8 0.45\n60 10 0.255\n")
    assert run(["--compare", path, "--effort", "0.01", "--quiet"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["classes", "dims", "listed", "placed", "difference", "bound"]
    assert [line.split()[:2] for line in lines[1:]] == [
        *(["4", "3"], ["6", "3"], ["240", "8"], ["60", "10"])
    ]
    for line, verdict in zip(
        lines[1:], ("equal", "better", "the listed cosine is below the bound", "worse"), strict=True
    ):
        listed, placed, difference = map(float, line.split()[2:5])
        assert difference == pytest.approx(placed - listed, abs=2e-6)
        assert f"  {verdict}: " in line


def test_ctrl_c_ends_the_table_without_what_was_cut_short(table, capsys, monkeypatch):
    def pressed(classes, dims, *args, stop, **options):
        placement = find(classes, dims)
        if classes == 6:
            signal.raise_signal(signal.SIGINT)
            assert stop()
        return placement

    monkeypatch.setattr(command_line, "find", pressed)
    # A test run in the background ignores Ctrl-C, and what it runs does, too.
    usual = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        assert run(["--compare", table("4 3 -0.33333\n6 3 0\n8 4 0\n")]) == 130
    finally:
        signal.signal(signal.SIGINT, usual)
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["classes", "4"]


@pytest.mark.parametrize(
    "flags",
    [["--dims", "3"], ["--out", "a.npy"], ["--overwrite"], ["--reserve", "1"], ["--names", "n"]],
)
def test_flags_of_one_placement_are_refused(flags, table, capsys):
    assert run(["--compare", table("4 3 0\n"), *flags]) == 2
    assert f"{flags[0]} cannot be combined with --compare" in capsys.readouterr().err


def test_without_a_table_one_placement_must_be_named(capsys):
    assert run(["--classes", "4"]) == 2
    assert "arguments are required: --dims, --out; or --compare alone" in capsys.readouterr().err
