"""Every block of the README, of CONTRIBUTING and of the documentation's pages runs, or names only
what there is.
"""

import configparser
import re
import runpy
import shlex
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text("utf-8")
    for path in sorted((ROOT / "docs").rglob("*.md"))
    if "_build" not in path.parts
}


def all_blocks(text):
    return re.findall(r"^```(\w+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def blocks(language, text=README):
    return [block for kind, block in all_blocks(text) if kind == language]


def test_every_block_is_of_a_kind_that_is_tested():
    for text, kinds in ((README, {"python", "bash", "bibtex"}), (CONTRIBUTING, {"python", "bash"})):
        assert {kind for kind, _ in all_blocks(text)} == kinds
        assert text.count("```") == 2 * len(all_blocks(text))
    assert PAGES
    for text in PAGES.values():
        # Directives in braces are Sphinx's; text is other people's code.
        shown = re.sub(r"^```\{[\w-]+\}.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
        assert {kind for kind, _ in all_blocks(shown)} <= {"python", "bash", "text"}
        assert shown.count("```") == 2 * len(all_blocks(shown))


@pytest.mark.one_backend
@pytest.mark.parametrize("page", PAGES)
def test_no_line_is_a_comment_by_mistake(page):
    # MyST drops lines that begin so, as the rest of "59.9 %" may after a line break.
    assert not re.search(r"^\s*%", PAGES[page], re.MULTILINE)


@pytest.mark.one_backend
def test_the_readme_fits_and_its_links_lead_somewhere():
    assert len(README.splitlines()) <= 170
    for target in re.findall(r"\]\(([^)#]+)", README):
        assert target.startswith("https://") or (ROOT / target).exists(), target


# The steps of its large models take minutes to compile; their parts are tested on every backend.
@pytest.mark.one_backend
@pytest.mark.usefixtures("weights_from_numpy")
def test_python_blocks_run_in_order(capsys):
    namespace = {}
    for text in blocks("python"):
        exec(compile(text, "README.md", "exec"), namespace)
    printed = capsys.readouterr().out
    assert "MHE(10, s=2, euclidean, full)" in printed
    # The last block makes a model of two layers with a regularizer each.
    model = namespace["model"]
    assert len(model.losses) == 2
    assert float(keras.ops.convert_to_numpy(namespace["loss"])) > 0


def test_the_examples_of_contributing_work(value_and_gradient):
    namespace = {}
    for text in blocks("python", CONTRIBUTING):
        exec(compile(text, "CONTRIBUTING.md", "exec"), namespace)
    # The regularizer, against the formula in float64, and where a neuron is zero.
    weights = np.random.default_rng(0).normal(size=(2, 3, 5))
    columns = weights.reshape(6, 5) / np.linalg.norm(weights.reshape(6, 5), axis=0)
    expected = np.mean((columns.T @ columns)[~np.eye(5, dtype=bool)] ** 2)
    regularizer = namespace["Coherence"](2.0)
    value = keras.ops.convert_to_numpy(regularizer(weights.astype("float32")))
    assert value == pytest.approx(2 * expected, rel=1e-5)
    weights[..., 0] = 0
    _, gradient = value_and_gradient(regularizer, weights.astype("float32"))
    assert np.isfinite(gradient).all()
    again = keras.regularizers.deserialize(keras.regularizers.serialize(regularizer))
    assert again.strength == 2
    # The head, whose margin applies to the true class only.
    head = namespace["ScaledCosine"](4, scale=10)
    features = np.random.default_rng(1).normal(size=(2, 6)).astype("float32")
    plain, margin = (
        keras.ops.convert_to_numpy(head(features, labels)) for labels in (None, [3, 1])
    )
    factors = np.ones((2, 4))
    factors[[0, 1], [3, 1]] = 0.8
    np.testing.assert_allclose(margin, factors * plain, rtol=1e-5)
    assert np.abs(plain).max() <= 10


def pages_with_python():
    """Pages, each for one backend: the parts of their examples are tested on every backend."""
    pages = []
    for page, text in PAGES.items():
        if "saved_model" in text or ".export(" in text:
            only = pytest.mark.skipif(
                keras.backend.backend() != "tensorflow", reason="SavedModel is TensorFlow's"
            )
        else:
            only = pytest.mark.one_backend
        if blocks("python", text):
            pages.append(pytest.param(page, marks=only))
    return pages


@pytest.mark.parametrize("page", pages_with_python())
# They are written for the default backend; PyTorch alone warns of `float(loss)`.
@pytest.mark.filterwarnings("ignore:Converting a tensor with requires_grad")
@pytest.mark.usefixtures("weights_from_numpy")
def test_python_blocks_of_pages_run_in_order(page, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    namespace = {}
    for text in blocks("python", PAGES[page]):
        exec(compile(text, page, "exec"), namespace)
    assert "nan" not in capsys.readouterr().out


def bash_lines():
    texts = [
        block for text in (README, CONTRIBUTING, *PAGES.values()) for block in blocks("bash", text)
    ]
    return list(dict.fromkeys(line for text in texts for line in text.strip().splitlines()))


@pytest.mark.one_backend
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
        runs = "digits" in words or "--classes" in words
        # What needs a download or another file is only parsed: `--help` ends the program once the
        # flags are read. Of two --out the last one counts.
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
