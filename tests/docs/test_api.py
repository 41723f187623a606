"""The API reference has every public name, and no other."""

import importlib
import inspect
import re
from pathlib import Path

import pytest

API = Path(__file__).parents[2] / "docs" / "api"
MODULES = [
    "mhe",
    "mhe.clusters",
    "mhe.fewshot",
    "mhe.layers",
    "mhe.losses",
    "mhe.metrics",
    "mhe.prototypes",
    "mhe.regularizers",
    "sphereface_plus",
    "sphereface_plus.backbones",
    "sphereface_plus.faces",
    "sphereface_plus.identification",
    "sphereface_plus.verification",
    "gan",
    "gan.energies",
    "gan.losses",
    "gan.networks",
    "gan.scores",
]
# Shown beside what they check or describe.
INTERNAL = {"mhe.regularizers.describe", "gan.losses.check_kind", "gan.networks.check_range"}

# Returned by a function that shows them, or raised.
SHOWN_ELSEWHERE = {
    "gan.scores.Reference",
    "mhe.clusters.ClusterError",
    "mhe.clusters.ClusterIndex",
    "mhe.prototypes.Placement",
    "sphereface_plus.faces.People",
    "sphereface_plus.faces.Records",
    "sphereface_plus.verification.Verification",
}

pytestmark = pytest.mark.one_backend


def documented():
    """Full names in the autosummary lists of the pages."""
    names = []
    for page in sorted(API.glob("*.md")):
        module = None
        for line in page.read_text("utf-8").splitlines():
            if line.startswith(".. currentmodule:: "):
                module = line.split()[-1]
            elif re.fullmatch(r"   \w+", line):
                names.append(f"{module}.{line.strip()}")
    return names


def public(module):
    """Classes and functions a module offers: those of `__all__`, or those it defines."""
    own = [name for name, value in vars(module).items() if inspect.getmodule(value) is module]
    for name in getattr(module, "__all__", own):
        value = getattr(module, name)
        if not name.startswith("_") and (inspect.isclass(value) or inspect.isfunction(value)):
            yield name, value


def test_every_public_name_has_one_page():
    names = documented()
    assert len(names) == len(set(names))
    values = [importlib.import_module(name.rpartition(".")[0]) for name in names]
    shown = {
        id(getattr(module, name.rpartition(".")[2]))
        for module, name in zip(values, names, strict=True)
    }
    missing = [
        f"{module}.{name}"
        for module in MODULES
        for name, value in public(importlib.import_module(module))
        if id(value) not in shown and f"{module}.{name}" not in INTERNAL
    ]
    assert missing == []


def test_every_documented_name_has_an_example():
    without = []
    for name in documented():
        module, _, attribute = name.rpartition(".")
        value = getattr(importlib.import_module(module), attribute)
        if ">>>" not in (inspect.getdoc(value) or ""):
            without.append(name)
    assert set(without) == SHOWN_ELSEWHERE
