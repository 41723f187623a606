"""What stands in the library's sources: which way the arrows point, and what is never imported."""

import ast
from pathlib import Path

import pytest

pytestmark = pytest.mark.numpy_only

ROOT = Path(__file__).parents[1]
LIBRARY = sorted((ROOT / "mhe").rglob("*.py"))
PACKAGES = [*(ROOT / "sphereface_plus").rglob("*.py"), *(ROOT / "gan").rglob("*.py")]
PROGRAMS = sorted([*(ROOT / "benchmarks").glob("*.py"), *PACKAGES])
BACKENDS = {"tensorflow", "jax", "torch"}
LOADED_WHERE_NEEDED = {"tensorflow_datasets", "scipy", "matplotlib", "sklearn", "PIL"}
TOOLS = {
    "mhe.checks",
    "mhe.keras_internals",
    "mhe.labels",
    "mhe.neuron_axes",
    "mhe.precision",
    "mhe.serialization",
    "mhe.types",
}
# What files and folders at the bottom of the library may import of it.
BELOW = {
    "mhe/checks.py": set(),
    "mhe/clusters/": {"mhe.checks", "mhe.clusters", "mhe.types"},
    "mhe/energy.py": set(),
    "mhe/image_regularizers.py": {"mhe.checks", "mhe.energy", "mhe.precision"},
    "mhe/labels.py": {"mhe.checks", "mhe.types"},
    "mhe/layers/": {*TOOLS, "mhe.energy", "mhe.layers"},
    "mhe/losses/": {*TOOLS, "mhe.energy", "mhe.losses"},
    "mhe/metrics/": {*TOOLS, "mhe.energy", "mhe.metrics"},
    "mhe/neuron_axes.py": set(),
    "mhe/precision.py": set(),
    "mhe/prototype_regularizers.py": {"mhe.checks", "mhe.energy", "mhe.precision"},
    "mhe/regularizers.py": {"mhe.energy"},
}
# What Keras has no equivalent for: making JAX forget a trace, reading TensorFlow Datasets, and
# norms of rows that TensorFlow takes in one pass.
BACKEND_SPOTS = {
    ("mhe/attach.py", "jax"),
    ("mhe/harness/datasets/named.py", "tensorflow"),
    ("mhe/layers/distance.py", "tensorflow"),
}


def imports(path, top_level=False):
    """Names of the modules that a file imports, those of its functions too unless `top_level`."""
    tree = ast.parse(path.read_text("utf-8"))
    for node in tree.body if top_level else ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module == "mhe":
            yield from (f"mhe.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module


@pytest.mark.parametrize("path", LIBRARY, ids=lambda path: str(path.relative_to(ROOT)))
def test_library_imports(path):
    name = path.relative_to(ROOT).as_posix()
    everything = set(imports(path))
    roots = {module.split(".")[0] for module in everything}
    assert {(name, root) for root in roots & BACKENDS} <= BACKEND_SPOTS
    assert not roots & {"pickle", "dill", "cloudpickle", "joblib"}
    assert not roots & {"sphereface_plus", "gan", "benchmarks"}
    first = {module.split(".")[0] for module in imports(path, top_level=True)}
    assert not first & LOADED_WHERE_NEEDED
    if not name.startswith("mhe/harness/"):
        assert not {module for module in everything if module.startswith("mhe.harness")}
    for below, allowed in BELOW.items():
        if name.startswith(below):
            own = {module for module in everything if module.split(".")[0] == "mhe"}
            assert {
                m for m in own if not any(f"{m}.".startswith(f"{a}.") for a in allowed)
            } == set()


@pytest.mark.parametrize("path", PACKAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_packages_import_no_backend_and_not_each_other(path):
    everything = {module.split(".")[0] for module in imports(path)}
    other = {"sphereface_plus", "gan"} - {path.relative_to(ROOT).parts[0]}
    assert not everything & {*BACKENDS, *other, "benchmarks"}
    first = {module.split(".")[0] for module in imports(path, top_level=True)}
    assert not first & LOADED_WHERE_NEEDED


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: str(path.relative_to(ROOT)))
def test_programs_never_unpickle(path):
    assert not {module.split(".")[0] for module in imports(path)} & {"pickle", "dill", "joblib"}
    assert "allow_pickle=True" not in path.read_text("utf-8")
