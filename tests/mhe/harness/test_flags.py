"""Flags, those of a run that is resumed, and the ways in which a program can end."""

import errno

import keras
import numpy as np
import pytest

from mhe.harness.errors import BadInput, Diverged
from mhe.harness.flags import Parser, integer, number, plain_text, program
from mhe.harness.run import Run

FLAGS = {"model_name": "half_mhe", "power_s": "2", "dataset": "digits", "seed": 0, "data_dir": None}


def create(folder, flags=FLAGS):
    return Run.create(folder, "benchmarks/train.py", flags)


@pytest.mark.parametrize(("error", "code"), [(BadInput("no\nsuch file"), 2), (Diverged("nan"), 1)])
def test_errors_for_the_user_are_one_line(capsys, error, code):
    def main(argv):
        raise error

    assert program(main) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert captured.err.rstrip().endswith(str(error))


def test_a_lack_of_memory_is_one_line(capsys):
    assert program(lambda argv: np.ones((2**20, 2**30))) == 2
    error = capsys.readouterr().err
    assert "error: the flags ask for more memory than there is: Unable to allocate" in error
    assert error.count("\n") == 1


def test_defects_keep_their_traceback():
    def main(argv):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        program(main)


def parser():
    parser = Parser("benchmarks/train.py", "Trains.")
    parser.add_argument("--model_name", choices=["mhe", "half_mhe"], default="mhe")
    parser.add_argument("--power_s", default="2")
    parser.add_argument("--dataset", default="cifar100")
    parser.add_argument("--data_dir")
    parser.add_argument("--rate", type=number(0, above=True), default=0.1)
    return parser


def test_a_resumed_run_keeps_its_own_flags(tmp_path):
    args, run = parser().parse(["--model_name", "half_mhe", "--rate", "0.5"])
    assert run is None
    assert (args.out, args.model_name, args.rate, args.seed) == (None, "half_mhe", 0.5, 0)
    flags = {name: value for name, value in vars(args).items() if name not in ("out", "resume")}
    create(tmp_path, flags)
    same = ["--resume", str(tmp_path), "--out", str(tmp_path), "--rate", "0.5"]
    for argv in (same[:2], same, [*same, "--data_dir", "elsewhere"]):
        again, run = parser().parse(argv)
        assert (again.model_name, again.rate) == ("half_mhe", 0.5)
        assert run.folder == tmp_path
    assert again.data_dir == "elsewhere"


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--rate", "0.1"], "--rate 0.1 contradicts the run in .*, which has --rate 0.5"),
        (["--model_name", "mhe"], "--model_name mhe contradicts .* --model_name half_mhe"),
        (["--out", "elsewhere"], "--out elsewhere contradicts --resume"),
    ],
)
def test_flags_that_contradict_the_resumed_run_are_refused(tmp_path, argv, message):
    create(tmp_path, {**FLAGS, "rate": 0.5})
    with pytest.raises(BadInput, match=message):
        parser().parse(["--resume", str(tmp_path), *argv])


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("model_name", "sn", r"--model_name must be one of mhe, half_mhe\. Received: sn"),
        ("rate", -1, r"--rate must be a number above 0 and at most 1e\+30\. Received: -1"),
        ("rate", "0.5", r"--rate must not be text\. Received: '0\.5'"),
        ("rate", None, r"--rate must be a number above 0 and at most 1e\+30\. Received: None"),
        ("seed", -1, r"--seed must be an integer from 0 to 4294967295\. Received: -1"),
        ("seed", 1.5, r"seed must be an integer\. Received: 1\.5"),
        ("seed", True, r"seed must be an integer\. Received: true"),
        ("dataset", 3, r"dataset must be text\. Received: 3"),
        ("program", None, r"program must be text\. Received: null"),
        ("data_dir", ["a"], r"--data_dir must be text\. Received: \['a'\]"),
    ],
)
def test_a_config_that_no_flags_could_give_is_refused(tmp_path, name, value, message):
    create(tmp_path, {**FLAGS, "rate": 0.5, name: value})
    with pytest.raises(BadInput, match=rf"config\.json.*: {message}"):
        parser().parse(["--resume", str(tmp_path)])


def test_data_that_moved_may_get_a_new_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pets.zip").touch()
    create(tmp_path / "run", {**FLAGS, "rate": 0.5, "dataset": "../gone/pets"})
    argv = ["--resume", "run", "--dataset"]
    for moved in ("pets.zip", str(tmp_path / "pets.zip")):
        assert parser().parse([*argv, moved])[0].dataset == moved
    for other in ("cifar10", "digits"):
        with pytest.raises(BadInput, match=f"--dataset {other} contradicts"):
            parser().parse([*argv, other])
    (tmp_path / "digits").mkdir()
    create(tmp_path / "named", {**FLAGS, "rate": 0.5})
    with pytest.raises(BadInput, match=r"--dataset pets\.zip contradicts .* --dataset digits"):
        parser().parse(["--resume", "named", "--dataset", "pets.zip"])


def test_runs_of_other_programs_or_versions_are_recognized(tmp_path, capsys):
    Run.create(tmp_path / "gan", "gan/train.py", FLAGS)
    with pytest.raises(BadInput, match=r"is a run of gan/train\.py, not of benchmarks/train\.py"):
        parser().parse(["--resume", str(tmp_path / "gan")])
    create(tmp_path / "old")
    with pytest.raises(BadInput, match="lacks the flag --rate"):
        parser().parse(["--resume", str(tmp_path / "old")])
    later = parser()
    later.added = {"rate"}
    args, _ = later.parse(["--resume", str(tmp_path / "old")])
    assert args.rate == 0.1
    with pytest.raises(BadInput, match=r"--rate 0\.5 contradicts .*, which has --rate 0\.1"):
        later.parse(["--resume", str(tmp_path / "old"), "--rate", "0.5"])
    create(tmp_path / "other", {**FLAGS, "rate": 0.5})
    path = tmp_path / "other" / "config.json"
    path.write_text(path.read_text().replace(f'"{keras.__version__}"', '"3.8.0"'))
    parser().parse(["--resume", str(path.parent)])
    assert f"started with keras 3.8.0 (now {keras.__version__})" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--model_name", "sn"], "--model_name: invalid choice: 'sn'"),
        (["--rate", "0"], r"--rate: must be a number above 0 and at most 1e\+30\. Received: 0"),
        (["--rate", "nan"], r"--rate: must be a number above 0 and at most 1e\+30\. Received: nan"),
        (["--seed", "-1"], r"--seed: must be an integer from 0 to 4294967295\. Received: -1"),
        (["--seed", "1.5"], r"Received: 1\.5"),
        (["--model", "mhe"], "unrecognized arguments"),
    ],
)
def test_bad_flags_are_named(argv, message):
    with pytest.raises(BadInput, match=message):
        parser().parse(argv)


LONG = "a" * 400


@pytest.mark.parametrize("value", [LONG, "a\udcffb", "", "--", "a\0b"])
@pytest.mark.parametrize("flag", ["out", "resume", "dataset", "data_dir"])
def test_what_cannot_be_a_path_is_refused_with_its_flag(flag, value):
    with pytest.raises(BadInput, match=f"argument --{flag}: must "):
        data_parser().parse([f"--{flag}={value}"])


def data_parser():
    parser = Parser("benchmarks/train.py", "Trains.")
    parser.add_argument("--model_name", type=plain_text, default="mhe")
    parser.add_data_flags("digits")
    return parser


def test_the_config_of_a_run_is_held_to_the_types_of_its_text(tmp_path):
    args, _ = data_parser().parse(["--dataset", "a.zip,b.zip", "--data_dir", "here"])
    config = {name: value for name, value in vars(args).items() if name not in ("out", "resume")}
    create(tmp_path / "run", config)
    again, _ = data_parser().parse(["--resume", str(tmp_path / "run")])
    assert (again.dataset, again.data_dir, again.model_name) == ("a.zip,b.zip", "here", "mhe")
    for place, (name, value) in enumerate(
        [("dataset", LONG), ("data_dir", "a\0b"), ("model_name", "a\nb"), ("data_dir", 3)]
    ):
        folder = tmp_path / str(place)
        create(folder, {**config, name: value})
        with pytest.raises(BadInput, match=rf"config\.json cannot be used: --{name} must be "):
            data_parser().parse(["--resume", str(folder)])


def test_help_gives_defaults(capsys):
    with pytest.raises(SystemExit) as left:
        parser().parse(["--help"])
    assert left.value.code == 0
    assert "seed of everything random (default: 0)" in capsys.readouterr().out


def test_a_flag_of_several_values_has_one_in_the_config_of_a_run(tmp_path):
    def parse(*argv):
        each = parser()
        each.add_argument("--dims", nargs="+", type=integer(2))
        return each.parse(argv)

    args, _ = parse("--dims", "3", "5")
    assert args.dims == [3, 5]
    create(tmp_path, {**FLAGS, "rate": 0.1, "dims": 5})
    args, _ = parse("--resume", str(tmp_path), "--dims", "5")
    assert args.dims == [5]
    with pytest.raises(BadInput, match=r"--dims 3 5 contradicts the run"):
        parse("--resume", str(tmp_path), "--dims", "3", "5")
    for wrong in (1, "5", [5]):
        (tmp_path / "config.json").unlink()
        create(tmp_path, {**FLAGS, "rate": 0.1, "dims": wrong})
        with pytest.raises(BadInput, match=r"config\.json cannot be used: --dims "):
            parse("--resume", str(tmp_path))


def test_a_flag_of_several_values_that_does_not_apply_is_none(tmp_path):
    each = parser()
    each.add_argument("--powers", nargs="+", choices=["0", "2"], default=["2"])
    create(tmp_path, {**FLAGS, "rate": 0.1, "powers": None})
    args, _ = each.parse(["--resume", str(tmp_path)])
    assert args.powers is None
    with pytest.raises(BadInput, match=r"--powers 2 contradicts the run"):
        each.parse(["--resume", str(tmp_path), "--powers", "2"])


def test_flags_that_do_not_belong_to_a_run_may_change(tmp_path):
    each = parser()
    each.add_argument("--workers", type=integer(1), default=1)
    each.excluded.add("workers")
    create(tmp_path, {**FLAGS, "rate": 0.1})
    assert each.parse(["--resume", str(tmp_path)])[0].workers == 1
    assert each.parse(["--resume", str(tmp_path), "--workers", "4"])[0].workers == 4


def test_ctrl_c_exits_with_130(capsys):
    def main(argv):
        raise KeyboardInterrupt

    assert program(main) == 130
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "error: No space left on device"),
        (OSError(errno.EROFS, "Read-only file system", "a/b"), "error: a/b: Read-only file system"),
        (MemoryError("Unable to allocate 3 GiB"), "than there is: Unable to allocate 3 GiB"),
    ],
)
@pytest.mark.one_backend
def test_what_the_machine_refuses_is_one_line(capsys, error, line):
    def main(argv):
        raise error

    assert program(main) == 2
    assert capsys.readouterr().err.endswith(f"{line}\n")


@pytest.mark.one_backend
def test_other_errors_of_files_are_defects():
    def main(argv):
        raise FileNotFoundError(errno.ENOENT, "No such file or directory", "forgotten")

    with pytest.raises(FileNotFoundError):
        program(main)
