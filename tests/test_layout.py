"""Which way imports point between the parts of the house, and what is never imported."""

import ast
import graphlib
import re
from pathlib import Path

import pytest

pytestmark = pytest.mark.one_backend

ROOT = Path(__file__).parents[1]
LIBRARY = sorted((ROOT / "mhe").rglob("*.py"))
PACKAGES = sorted(p for name in ("sphereface_plus", "gan") for p in (ROOT / name).rglob("*.py"))
PROGRAMS = sorted((ROOT / "benchmarks").rglob("*.py"))
BACKENDS = {"tensorflow", "jax", "torch"}
LOADED_WHERE_NEEDED = {"tensorflow_datasets", "scipy", "matplotlib", "sklearn", "PIL"}
# At the bottom: they import each other at most.
TOOLS = {
    "mhe.arrays",
    "mhe.checkpoints",
    "mhe.checks",
    "mhe.command_line",
    "mhe.directions",
    "mhe.gradients",
    "mhe.keras_internals",
    "mhe.labels",
    "mhe.memory",
    "mhe.neuron_axes",
    "mhe.pairwise",
    "mhe.precision",
    "mhe.reading",
    "mhe.seeds",
    "mhe.serialization",
    "mhe.text",
    "mhe.tracing",
    "mhe.types",
}
# What parts of the library may import from it besides the tools and themselves.
ABOVE = {
    **{tool: set() for tool in TOOLS},
    "mhe.calibration": set(),
    "mhe.clusters": set(),
    "mhe.constraints": set(),
    "mhe.energy": set(),
    "mhe.fewshot": {"mhe.layers"},
    "mhe.head_model": set(),
    "mhe.hierarchy": set(),
    "mhe.layers": {"mhe.energy"},
    "mhe.losses": {"mhe.energy"},
    "mhe.metrics": {"mhe.energy"},
    "mhe.open_set": {"mhe.layers"},
    "mhe.prototypes": {"mhe.metrics"},
    "mhe.regularizers": {"mhe.energy"},
    "mhe.attach": {"mhe.energy", "mhe.regularizers"},
    "mhe.callbacks": {"mhe.attach", "mhe.energy", "mhe.metrics", "mhe.regularizers"},
}
# What Keras has no equivalent for: gradients, making JAX forget a trace, reading TensorFlow
# Datasets, whether PyTorch is exporting, whether a tensor has a value, and devices but JAX's.
BACKEND_SPOTS = {
    ("mhe/attach/retracing.py", "jax"),
    ("mhe/gradients.py", "jax"),
    ("mhe/gradients.py", "tensorflow"),
    ("mhe/gradients.py", "torch"),
    ("mhe/harness/datasets/named.py", "tensorflow"),
    ("mhe/harness/devices.py", "tensorflow"),
    ("mhe/harness/replicas.py", "torch"),
    ("mhe/keras_internals.py", "tensorflow"),
    ("mhe/keras_internals.py", "torch"),
    ("mhe/tracing.py", "jax"),
    ("mhe/tracing.py", "torch"),
    ("mhe/tracing.py", "tensorflow"),
}
# Faces on disk are read as the harness reads datasets: from folders and zips, in its batches.
ON_THE_HARNESS = {
    f"sphereface_plus/faces/{name}.py"
    for name in (
        *("__init__", "alignment", "batches", "landmarks", "people", "records"),
        "validation_sets",
    )
}


def relative(path):
    return path.relative_to(ROOT).as_posix()


def module_name(path):
    """The dotted name of a file, a package's for its `__init__`."""
    return relative(path).removesuffix(".py").removesuffix("/__init__").replace("/", ".")


MODULES = {module_name(path): path for path in (*LIBRARY, *PACKAGES, *PROGRAMS)}


def imports(path, top_level=False):
    """Names of the modules that a file imports, in its functions too unless `top_level`."""
    nodes = [ast.parse(path.read_text("utf-8"))]
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                yield name if name in MODULES else node.module
        if not (top_level and runs_later(node)):
            nodes.extend(ast.iter_child_nodes(node))


def runs_later(node):
    """Whether importing a file does not run what is in a node: functions and type checks."""
    is_function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
    return is_function or (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")


def roots(path, top_level=False):
    return {module.partition(".")[0] for module in imports(path, top_level)}


def within(module, packages):
    return any(f"{module}.".startswith(f"{package}.") for package in packages)


@pytest.mark.parametrize("path", LIBRARY, ids=relative)
def test_library_imports(path):
    found = roots(path)
    assert {(relative(path), root) for root in found & BACKENDS} <= BACKEND_SPOTS
    assert not found & {"pickle", "dill", "cloudpickle", "joblib"}
    assert not found & {"sphereface_plus", "gan", "benchmarks"}
    assert not roots(path, top_level=True) & LOADED_WHERE_NEEDED
    own = {module for module in imports(path) if within(module, ["mhe"])}
    name = module_name(path)
    if not within(name, ["mhe.harness"]):
        assert not {module for module in own if within(module, ["mhe.harness"])}
    for part, allowed in ABOVE.items():
        if within(name, [part]):
            assert {m for m in own if not within(m, {part, *TOOLS, *allowed})} == set()


def test_no_import_circles():
    graph = {}
    for name, path in MODULES.items():
        targets = set()
        for module in imports(path, top_level=True):
            # Programs import the files beside them by their bare names.
            beside = f"benchmarks.{module}"
            is_beside = path.parent.name == "benchmarks" and module not in MODULES
            targets.add(beside if is_beside and beside in MODULES else module)
        graph[name] = targets & MODULES.keys() - {name}
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        pytest.fail(f"import circle: {' ← '.join(error.args[1])}")


def loaded_with(module):
    """The modules of the house that are loaded when one of them is imported."""
    loaded, left = set(), [module]
    while left:
        name = left.pop()
        if name in MODULES and name not in loaded:
            loaded.add(name)
            left += [name.rpartition(".")[0], *imports(MODULES[name], top_level=True)]
    return loaded


@pytest.mark.parametrize("package", ["mhe", "sphereface_plus", "gan"])
def test_importing_a_package_registers_all_that_may_be_in_a_saved_model(package):
    registering = {
        name
        for name, path in MODULES.items()
        if within(name, [package]) and "@keras.saving.register" in path.read_text("utf-8")
    }
    # Only programs save what is in these.
    registering = {n for n in registering if ".harness" not in n and ".program" not in n}
    assert registering
    assert registering <= loaded_with(package)


def prints(node):
    """Whether a node prints to standard output."""
    is_print = isinstance(node, ast.Call) and getattr(node.func, "id", None) == "print"
    return is_print and not any(keyword.arg == "file" for keyword in node.keywords)


@pytest.mark.parametrize("path", LIBRARY, ids=relative)
def test_the_library_never_prints(path):
    if not within(module_name(path), ["mhe.harness"]) and path.name != "__main__.py":
        assert not any(map(prints, ast.walk(ast.parse(path.read_text("utf-8")))))


@pytest.mark.parametrize("path", PACKAGES, ids=relative)
def test_packages_import_no_backend_and_not_each_other(path):
    other = {"sphereface_plus", "gan"} - {path.relative_to(ROOT).parts[0]}
    assert not roots(path) & {*BACKENDS, *other, "benchmarks"}
    assert not roots(path, top_level=True) & LOADED_WHERE_NEEDED


def is_entry(path):
    """Whether a file is a program to run."""
    return 'if __name__ == "__main__":' in path.read_text("utf-8")


@pytest.mark.parametrize("path", [*PACKAGES, *PROGRAMS], ids=relative)
def test_programs_check_their_flags_before_they_import_anything_heavy(path):
    text = path.read_text("utf-8")
    if "sys.exit(program(main))" in text:
        before, _, after = text.partition("    start(__file__)\n")
        assert after
        assert not re.search(r"^(import|from) (keras|mhe|gan|sphereface_plus)\b", before, re.M)


@pytest.mark.parametrize("path", PACKAGES, ids=relative)
def test_what_packages_offer_does_not_rest_on_programs(path):
    if is_entry(path) or "program" in path.relative_to(ROOT).parts:
        return
    own = {module for module in imports(path) if module in MODULES}
    programs = {m for m in own if ".program" in m or is_entry(MODULES[m])}
    assert not {m for m in programs if not within(m, ["mhe"])}
    if relative(path) not in ON_THE_HARNESS:
        assert not {module for module in own if within(module, ["mhe.harness"])}


def test_benchmarks_holds_programs_and_folders_of_their_parts():
    assert [relative(p) for p in (ROOT / "benchmarks").glob("*.py") if not is_entry(p)] == []
    parts = [p for p in PROGRAMS if p.parent != ROOT / "benchmarks"]
    assert {p.parent.name for p in parts} <= {"gpu", "tasks", "timing"}


@pytest.mark.parametrize("path", [*PACKAGES, *PROGRAMS], ids=relative)
def test_programs_never_unpickle(path):
    assert not roots(path) & {"pickle", "dill", "joblib"}
    assert "allow_pickle=True" not in path.read_text("utf-8")
