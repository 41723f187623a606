"""Every block of the README runs, or names only what there is."""

import configparser
import re
import runpy
import shlex
import sys
from pathlib import Path

import keras
import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def blocks(language):
    return [text for kind, text in BLOCKS if kind == language]


def test_every_block_is_of_a_kind_that_is_tested():
    assert {kind for kind, _ in BLOCKS} == {"python", "bash", "bibtex"}
    assert README.count("```") == 2 * len(BLOCKS)


@pytest.mark.skipif(
    keras.backend.backend() == "jax",
    reason="compiling its models one by one takes half a minute; their parts are tested on JAX",
)
@pytest.mark.usefixtures("weights_from_numpy")
def test_python_blocks_run_in_order(capsys):
    namespace = {}
    for text in blocks("python"):
        exec(compile(text, "README.md", "exec"), namespace)
    printed = capsys.readouterr().out
    assert "MHE(10, s=2, euclidean, full)" in printed
    # The last block attached to a model of two layers that had one L2.
    model = namespace["model"]
    assert len(model.losses) == 2
    assert float(keras.ops.convert_to_numpy(namespace["loss"])) > 0


def bash_lines():
    return [line for text in blocks("bash") for line in text.strip().splitlines()]


@pytest.mark.skipif(
    keras.backend.backend() != "tensorflow",
    reason="the programs' own tests run them on every backend; the README is written for one",
)
@pytest.mark.parametrize("line", bash_lines())
def test_bash_lines(line, tmp_path, monkeypatch, capsys):
    words = shlex.split(line)
    if words[0] == "make":
        makefile = (ROOT / "Makefile").read_text("utf-8")
        assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in words[1:])
    elif words[0] == "pip":
        config = configparser.ConfigParser()
        config.read(ROOT / "setup.cfg")
        extras = re.search(r"\[(.*)\]", words[-1]).group(1).split(",")
        assert set(extras) <= set(config["options.extras_require"])
    else:
        assert words[0] == "python"
        runs = "digits" in words or words[1] == "-m"
        # What needs a download is only parsed: `--help` ends the program once the flags are read.
        # Of two --out the last one counts.
        out = tmp_path / (words[-1] if words[-2] == "--out" else "run")
        words += ["--out", str(out)] if runs else ["--help"]
        is_module = words[1] == "-m"
        run, name = (runpy.run_module, words[2]) if is_module else (runpy.run_path, ROOT / words[1])
        monkeypatch.setattr(sys, "argv", words[2:] if is_module else words[1:])
        monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
        # Else runpy warns, where another test of this process has imported it.
        monkeypatch.delitem(sys.modules, f"{name}.__main__", raising=False)
        with pytest.raises(SystemExit) as left:
            run(str(name), run_name="__main__")
        assert left.value.code == 0
        said = capsys.readouterr().out
        if not runs:
            assert "usage" in said
        elif "digits" in words:
            assert "test accuracy" in said
        else:
            assert "largest cosine" in said
