"""The notebooks are committed as they are written: without outputs, and without errors of syntax.

They are executed when the documentation is built.
"""

import json
from pathlib import Path

import pytest

NOTEBOOKS = sorted((Path(__file__).parents[2] / "docs" / "notebooks").glob("*.ipynb"))

pytestmark = pytest.mark.one_backend


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_committed_without_outputs(path):
    notebook = json.loads(path.read_text("utf-8"))
    assert notebook["nbformat"] == 4
    first, *others = notebook["cells"]
    assert first["cell_type"] == "markdown"
    assert "".join(first["source"]).startswith("# ")
    codes = [cell for cell in others if cell["cell_type"] == "code"]
    assert codes
    for cell in codes:
        assert cell["outputs"] == []
        assert cell["execution_count"] is None
        compile("".join(cell["source"]), path.name, "exec")
    assert "plt.show()" in "".join("".join(cell["source"]) for cell in codes)


def test_all_are_in_the_table_of_contents():
    index = (NOTEBOOKS[0].parents[1] / "index.md").read_text("utf-8")
    listed = [line for line in index.splitlines() if line.startswith("notebooks/")]
    assert sorted(listed) == [f"notebooks/{path.stem}" for path in NOTEBOOKS]
