"""The flags of every program: what `--help` says about them."""

import argparse
import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from mhe.command_line import TEXTS, file_path, file_paths

pytestmark = pytest.mark.one_backend

ROOT = Path(__file__).parents[2]
PROGRAMS = ROOT / "benchmarks"
BENCHMARKS = sorted(path.stem for path in PROGRAMS.glob("*.py"))
PACKAGED = [
    *("sphereface_plus.train", "sphereface_plus.plane", "sphereface_plus.test"),
    *("sphereface_plus.embed", "sphereface_plus.identify"),
    *("gan.train", "gan.train_classifier", "gan.test"),
]
# Without these something is left out.
OPTIONAL = {"help", "resume"}


@pytest.mark.parametrize("name", [*BENCHMARKS, *PACKAGED])
def test_help_names_the_default_of_every_flag(name, load):
    module = load(name) if name in BENCHMARKS else importlib.import_module(name)
    parser = module.make_parser()
    formatter = parser._get_formatter()
    flags = [action for action in parser._actions if action.option_strings]
    assert len(flags) > (1 if name == "table" else 4)
    for flag in flags:
        if flag.help is argparse.SUPPRESS:  # a program passes it to a process of its own
            continue
        text = formatter._expand_help(flag)
        named = re.search(r"\(default: (.+)\)", text)
        if flag.required:
            assert not named, f"{flag.dest}: {text}"
        elif flag.default is argparse.SUPPRESS or flag.default is None:
            # Some say what they do "instead" of what is done by default; argparse cannot require
            # what a resumed run has.
            optional = (
                flag.dest in OPTIONAL or "instead" in text or "required for a new run" in text
            )
            assert named or optional, f"{flag.dest}: {text}"
        else:
            assert named, f"{flag.dest}: {text}"
            values = flag.default if isinstance(flag.default, list | tuple) else [flag.default]
            assert named[1] == " ".join(map(str, values))
        assert "None" not in text


@pytest.mark.parametrize("name", [*BENCHMARKS, *PACKAGED])
def test_the_parser_is_named_like_the_program(name, load):
    module = load(name) if name in BENCHMARKS else importlib.import_module(name)
    path = f"benchmarks/{name}" if name in BENCHMARKS else name.replace(".", "/")
    assert module.make_parser().prog == f"{path}.py"


# What no flag takes; what no number is; and what no number, choice or path is.
NOTHING = ("--", "\0", "\udcff", "  ")
BEYOND = ("1e99", "-1e99", "9" * 40, "9" * 5000, "nan", "x" * 400)


@pytest.mark.parametrize("name", [*BENCHMARKS, *PACKAGED, "mhe.prototypes.__main__"])
def test_every_flag_refuses_values_that_no_program_can_use(name, load):
    parser = (load(name) if name in BENCHMARKS else importlib.import_module(name)).make_parser()
    for flag in parser._actions:
        if not flag.option_strings or flag.nargs == 0:
            continue
        is_text = flag.type in TEXTS and flag.choices is None
        for value in (*NOTHING, *(() if is_text else BEYOND)):
            with pytest.raises(ValueError, match=f"^argument {flag.option_strings[0]}: ") as caught:
                parser.parse_args([f"{flag.option_strings[0]}={value}"])
            assert len(str(caught.value).splitlines()) == 1
            assert len(str(caught.value)) < 2100
        if flag.type in (file_path, file_paths):
            with pytest.raises(ValueError, match="must be a path"):
                parser.parse_args([f"{flag.option_strings[0]}={'x' * 400}"])


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """Starts a program where Keras and what else takes seconds to load cannot be imported."""
    modules = tmp_path_factory.mktemp("modules")
    for name in ("keras", "tensorflow", "jax", "torch", "scipy", "sklearn", "matplotlib"):
        (modules / f"{name}.py").write_text(f'raise SystemExit("{name} was imported")')

    def start(name, *flags):
        if name == "mhe.prototypes":
            command = ["-m", name]
        else:
            path = f"benchmarks/{name}" if name in BENCHMARKS else name.replace(".", "/")
            command = [str(ROOT / f"{path}.py")]
        return subprocess.run(
            [sys.executable, *command, *flags],
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join([str(modules), str(ROOT)]),
                "COLUMNS": "80",
            },
            cwd=modules,
            capture_output=True,
            text=True,
        )

    return start


@pytest.mark.parametrize("name", [*BENCHMARKS, *PACKAGED, "mhe.prototypes"])
def test_help_needs_no_keras(name, start, load, monkeypatch):
    ended = start(name, "--help")
    assert (ended.returncode, ended.stderr) == (0, "")
    monkeypatch.setenv("COLUMNS", "80")
    module = "mhe.prototypes.__main__" if name == "mhe.prototypes" else name
    program = load(name) if name in BENCHMARKS else importlib.import_module(module)
    assert ended.stdout == program.make_parser().format_help()


@pytest.mark.parametrize("name", [*BENCHMARKS, *PACKAGED, "mhe.prototypes"])
def test_a_wrong_flag_is_refused_without_keras(name, start):
    ended = start(name, "--out=--")
    called = "python -m mhe.prototypes" if name == "mhe.prototypes" else f"{name.split('.')[-1]}.py"
    expected = f"{called}: error: argument --out: must have a value. Received: --\n"
    assert (ended.returncode, ended.stdout, ended.stderr) == (2, "", expected)


@pytest.mark.parametrize(
    ("name", "flags", "message"),
    [
        ("train", "--drops 3,2", "--drops must be increasing numbers"),
        ("fewshot", "--shots many", "argument --shots: must be an integer"),
        ("hpn", "--task_weights 0.5", "--task_weights goes with --task joint"),
        ("hierarchy", "--mean_decay 1", "--mean_decay must be less than 1"),
        ("verification", "--people 99 --images 99", "--people must be at least 10 fewer"),
        ("train", "--devices 4", "--devices needs --distribute data or classes"),
        ("fewshot", "--distribute data", "--distribute data does not suit this program: a batch"),
        (
            "gan.train",
            "--distribute classes",
            "--distribute classes does not suit this program: its",
        ),
        ("speed", "--backends torch jax mxnet", "argument --backends: invalid choice: 'mxnet'"),
        ("interpret", "--resume missing", "missing is not a run's folder"),
        ("gan.train", "--model_name sn --strength 1", "--strength does not apply"),
        ("gan.test", "--run x --images 5 --splits 10", "--images must be at least 10"),
        ("sphereface_plus.train", "--data_dir x --model_name cosface --gamma 3", "--gamma does"),
        ("sphereface_plus.test", "--run x", "--data_dir must name a folder or zip"),
        ("mhe.prototypes", "--classes 9 --dims 3 --out x.txt", "--out must end in .npy"),
    ],
)
def test_what_programs_check_is_refused_without_keras(name, flags, message, start):
    ended = start(name, *flags.split())
    assert (ended.returncode, ended.stdout) == (2, "")
    assert f"error: {message}" in ended.stderr
    assert ended.stderr.count("\n") == 1
