"""Tables of complete runs of any one program."""

import csv
import importlib
import json
import sys
import types

import pytest

from mhe.harness.comparisons import Comparison, Varied
from mhe.harness.errors import BadInput
from mhe.harness.flags import program
from mhe.harness.run import Run

pytestmark = pytest.mark.one_backend

ONE = Comparison(
    "benchmarks/x.py",
    [Varied("model_name"), Varied("dims", prefix="dims"), Varied("rates", "rate", "rate")],
    {"test_error": 100, "cost": 1},
    shared=["dataset", "task_kind"],
)


@pytest.fixture
def table(load, monkeypatch):
    """The program, which knows one other: `benchmarks/x.py`."""
    module = load("table")
    monkeypatch.setitem(sys.modules, "x", types.SimpleNamespace(COMPARISON=ONE))
    monkeypatch.setattr(module, "PROGRAMS", {"benchmarks/x.py": "x"})
    return module


def made(folder, made_by="benchmarks/x.py", **own):
    """A complete run."""
    config = {"model_name": "a", "power_s": None, "dataset": "data/d.zip", "dims": 2, "seed": 0}
    run = Run.create(folder, made_by, {**config, "rates": None, "task_kind": "values", **own})
    run.finish({"cost": 1.0})
    return run


def test_a_table_is_of_complete_runs_that_share_what_they_must(table, tmp_path, monkeypatch):
    runs = [made(tmp_path / each, dataset=f"data/{each}.zip", model_name=each) for each in "de"]
    folders = [str(run.folder) for run in runs]
    out = ["--out", str(tmp_path / "table")]
    with pytest.raises(BadInput, match=r"must share one dataset. Received: data/d.zip, data/e.zip"):
        table.main([*folders, *out])
    titles = []
    monkeypatch.setattr(type(ONE), "draw", lambda self, lines, path, title: titles.append(title))
    table.main([folders[0], *out])
    assert (tmp_path / "table/table.csv").read_text().splitlines()[1] == "d,2,,1,1.0,"
    assert titles == ["dataset d, task kind values"]
    (runs[0].folder / "result.json").unlink()
    with pytest.raises(BadInput, match=r"is not a complete run of benchmarks/x.py"):
        table.main([folders[0], *out])


def test_further_flags_make_lines_of_their_own(table, tmp_path):
    decays = (None, None, 0.0, 5e-4)
    folders = [
        str(made(tmp_path / str(seed), weight_decay=decay, seed=seed).folder)
        for seed, decay in enumerate(decays)
    ]
    out = ["--out", str(tmp_path / "table")]
    with pytest.raises(BadInput, match=r"differ in their seeds only.*--weight_decay"):
        table.main([*folders, *out])
    with pytest.raises(BadInput, match=r"--by must name a flag of .*x\.py.* Received: height"):
        table.main([*folders, "--by", "height", *out])
    with pytest.raises(BadInput, match=r"--by must name a flag .* Received: seed"):
        table.main([*folders, "--by", "seed", *out])
    table.main([*folders, "--by", "weight_decay", "model_name", *out])
    with open(tmp_path / "table/table.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    assert [line["weight_decay"] for line in lines] == ["", "0.0", "0.0005"]
    assert [line["seeds"] for line in lines] == ["2", "1", "1"]


def test_runs_of_two_programs_or_of_none_that_is_known_are_refused(table, tmp_path):
    known, other = made(tmp_path / "x"), made(tmp_path / "y", made_by="benchmarks/y.py")
    out = ["--out", str(tmp_path / "table")]
    with pytest.raises(BadInput, match=r"y is not a complete run of benchmarks/x\.py"):
        table.main([str(known.folder), str(other.folder), *out])
    with pytest.raises(BadInput, match=r"of benchmarks/x\.py\. Received: .* benchmarks/y\.py"):
        table.main([str(other.folder), *out])
    with pytest.raises(BadInput, match=r"nothing is not a run's folder"):
        table.main([str(tmp_path / "nothing"), *out])
    assert not (tmp_path / "table").exists()


def test_bad_input_is_one_line(table, tmp_path, capsys):
    assert program(table.main, [str(tmp_path), "--out", str(tmp_path / "table")]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_programs_are_listed_by_the_names_in_their_configs(load):
    assert load("table").PROGRAMS["benchmarks/train.py"] == "train"
    assert load("train").COMPARISON.program == "benchmarks/train.py"


def test_every_program_that_makes_runs_has_a_comparison_of_its_own(load):
    for name, module in load("table").PROGRAMS.items():
        loaded = importlib.import_module(module)
        assert loaded.COMPARISON.program == name
        assert loaded.PROGRAM.comparison is loaded.COMPARISON
        assert loaded.make_parser().prog == name
        flags = vars(loaded.make_parser().parse_args([]))
        assert {each.flag for each in loaded.COMPARISON.varied} | {"seed", "seeds"} <= flags.keys()


@pytest.mark.parametrize(
    "name",
    [
        *("benchmarks/train.py", "benchmarks/hpn.py", "benchmarks/hierarchy.py"),
        *("benchmarks/clusters.py", "benchmarks/fewshot.py", "benchmarks/detection.py"),
        *("benchmarks/interpret.py", "sphereface_plus/train.py", "sphereface_plus/plane.py"),
        *("gan/train.py", "gan/train_classifier.py"),
    ],
)
def test_the_program_is_that_of_the_runs(load, tmp_path, capsys, monkeypatch, name):
    table = load("table")
    comparison = importlib.import_module(table.PROGRAMS[name]).COMPARISON
    # Some draw further figures, of what these runs do not have.
    monkeypatch.setattr(type(comparison), "report", Comparison.report)
    flags = dict.fromkeys([*(each.flag for each in comparison.varied), *comparison.shared], "a")
    metric, factor = next(iter(comparison.reported.items()))
    folders = []
    for seed in range(3):
        config = {"model_name": "a", "power_s": None, "dataset": "a", **flags, "seed": seed}
        run = Run.create(tmp_path / str(seed), name, config)
        run.finish({metric: 0.5 + 0.1 * seed})
        folders.append(str(run.folder))
    out = tmp_path / "new" / "table"
    assert program(table.main, [*folders, "--out", str(out)]) == 0
    with open(out / "table.csv", newline="") as file:
        (line,) = csv.DictReader(file)
    assert line["seeds"] == "3"
    assert float(line[metric]) == pytest.approx(0.6)
    assert float(line[f"{metric}_std"]) == pytest.approx(0.1)
    digits = 2 if factor == 100 else 3
    assert f"{0.6 * factor:.{digits}f} ± {0.1 * factor:.{digits}f}" in capsys.readouterr().out
    assert (out / "comparison.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("config.json", {"dims": [1]}, r"config\.json: dims must be text, a finite number or null"),
        ("config.json", {"dims": 10**400}, r"dims must be text, a finite number or null"),
        ("config.json", {"dims": None, "model_name": None}, r"model_name must be text"),
        ("result.json", {"metrics": {"cost": None}}, r"cost must be a finite number"),
        ("result.json", {"metrics": {"cost": 10**400}}, r"cost must be a finite number"),
        ("result.json", {"metrics": {"other": 1}}, r"must have the entry cost\. Received: other"),
        ("result.json", {"metrics": None}, r"metrics must be an object of finite numbers"),
    ],
)
def test_runs_whose_files_were_changed_are_refused(table, tmp_path, name, changes, message):
    folders = [str(made(tmp_path / str(seed), seed=seed).folder) for seed in (0, 1)]
    path = tmp_path / "1" / name
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(BadInput, match=message):
        table.main([*folders, "--out", str(tmp_path / "table")])


def test_runs_that_lack_a_flag_are_refused(table, tmp_path):
    run = made(tmp_path / "x")
    path = run.folder / "config.json"
    path.write_text(path.read_text().replace('"dims"', '"other"'))
    with pytest.raises(BadInput, match=r"config\.json must have the entry dims"):
        table.main([str(run.folder), "--out", str(tmp_path / "table")])
