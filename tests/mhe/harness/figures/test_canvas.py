"""What every figure begins and ends with."""

import builtins

import pytest

from mhe.harness import figures
from mhe.harness.errors import BadInput

pytestmark = pytest.mark.one_backend


def test_without_matplotlib_the_extra_is_named(monkeypatch):
    def missing(name, *rest, imports=builtins.__import__):
        if name == "matplotlib":
            raise ImportError(name)
        return imports(name, *rest)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(BadInput, match=r'pip install "\.\[train\]" from the checkout'):
        figures.require_matplotlib()
