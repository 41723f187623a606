"""The flags of every program: what `--help` says about them."""

import argparse
import importlib
import re
from pathlib import Path

import pytest

from mhe.command_line import TEXTS, file_path, file_paths

pytestmark = pytest.mark.one_backend

PROGRAMS = Path(__file__).parents[2] / "benchmarks"
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
