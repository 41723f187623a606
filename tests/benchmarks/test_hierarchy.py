"""The comparison of methods on a class tree: losses, trees, runs and tables, bad input."""

import csv
import doctest
import importlib
import json
from pathlib import Path

import keras
import numpy as np
import pytest

import mhe
from mhe.harness import runs
from mhe.harness.flags import program

SMALL = [
    *("--dataset", "digits", "--train_images", "60", "--batch_size", "20"),
    *("--epochs", "3", "--dims", "2"),
]

tensorflow_only = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="the same on every backend"
)


@pytest.fixture
def hierarchy(load):
    return load("hierarchy")


@pytest.fixture
def task(hierarchy, load):
    return importlib.import_module("tasks.hierarchy")


@pytest.fixture
def small(load, monkeypatch):
    """Trades the published network, which takes long to compile, for a small one."""
    network = load("small_train", folder=Path(__file__).parent).network
    monkeypatch.setattr("mhe.harness.models.build", network)


def settled(hierarchy, *flags):
    """The flags of the one run that some flags ask for."""
    args, _ = hierarchy.make_parser().settle(flags)
    hierarchy.fill_in(args)
    hierarchy.check(args)
    (one,) = hierarchy.single(args).values()
    return one


def log(folder):
    with open(folder / "log.csv", newline="") as file:
        return [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]


@tensorflow_only
def test_without_flags_it_is_metric_guided_prototypes_on_cifar100(hierarchy):
    args = settled(hierarchy)
    assert (args.model_name, args.dataset, args.tree) == ("metric_guided", "cifar100", "cifar100")
    assert (args.guide, args.strength, args.distance) == ("distortion", 1.0, "euclidean")
    assert (args.arch, args.epochs, args.batch_size) == ("resnet32", 164, 128)
    assert (args.base_lr, args.drops, args.augment) == (0.1, "0.5,0.75", "crop_flip")
    assert settled(hierarchy, "--model_name", "hyperspherical").base_lr == 0.01
    assert settled(hierarchy, "--model_name", "deepncm").distance == "squared"


PATHS = ["animal/dog/poodle", "animal/dog/husky", "animal/cat", "oak"]
TREE = mhe.ClassTree.from_paths(PATHS)
D = TREE.cost_matrix()
LABELS = np.array([0, 3, 1, 2, 2, 0])


def softmax_log(logits):
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def cross_entropy(scores):
    return -softmax_log(scores)[np.arange(6), LABELS].mean()


def expected(args, ends, rows):
    """Scores and loss in float64, from the numbers at the network's end and the prototypes."""
    if args.model_name in ("learnt", "metric_guided", "fixed_metric", "deepncm"):
        scores = -np.linalg.norm(ends[:, None] - rows, axis=-1)
        if args.model_name == "deepncm":
            scores = -(scores**2)
        guide = 0.0
        if args.model_name == "metric_guided":
            apart = np.linalg.norm(rows[:, None] - rows, axis=-1)
            off = ~np.eye(4, dtype=bool)
            ratios = apart[off] / D[off]
            guide = 0.5 * np.mean((ratios * ratios.sum() / (ratios**2).sum() - 1) ** 2)
        return scores, cross_entropy(scores) + guide
    if args.model_name == "hyperspherical":
        cosines = ends @ rows.T / np.linalg.norm(ends, axis=1, keepdims=True)
        return cosines, np.sum((1 - cosines[np.arange(6), LABELS]) ** 2)
    if args.model_name == "hierarchical":
        # Nodes: animal, dog, poodle, husky, cat, oak.
        top, pets, dogs = (softmax_log(ends[:, of]) for of in ([0, 5], [1, 4], [2, 3]))
        dog = top[:, 0] + pets[:, 0]
        scores = np.stack([dog + dogs[:, 0], dog + dogs[:, 1], top[:, 0] + pets[:, 1], top[:, 1]])
        return scores.T, -scores.T[np.arange(6), LABELS].mean()
    if args.model_name == "soft_labels":
        targets = np.exp(softmax_log(-4 * D / D.max()))[LABELS]
        return ends, -(targets * softmax_log(ends)).sum(1).mean()
    return ends, cross_entropy(ends)


@pytest.mark.parametrize(
    "model",
    [
        *("softmax", "learnt", "metric_guided", "fixed_metric", "hyperspherical", "deepncm"),
        *("hierarchical", "soft_labels"),
    ],
)
def test_scores_and_losses_are_the_published_ones(hierarchy, task, small, model):
    flags = ["--model_name", model, "--dims", "3", "--strength", "0.5", "--beta", "4"]
    args = settled(hierarchy, *flags)
    images = np.random.default_rng(0).normal(size=(6, 8, 8, 1)).astype("float32")
    network = task.build(args, (8, 8, 1), TREE, task.prototypes(args, D), steps=10)
    ends = keras.ops.convert_to_numpy(network.backbone(images)).astype("float64")
    if model == "softmax":
        assert network.prototypes is None
    if model == "fixed_metric":
        apart = np.linalg.norm(network.prototypes[:, None] - network.prototypes, axis=-1)
        np.testing.assert_allclose(apart, 5 * D, rtol=0.2)
    scores, loss = expected(args, ends, network.prototypes)
    found = network.model(images)
    np.testing.assert_allclose(keras.ops.convert_to_numpy(found), scores, rtol=1e-4, atol=1e-4)
    value = network.model.compute_loss(x=images, y=LABELS, y_pred=found, training=False)
    assert keras.ops.convert_to_numpy(value) == pytest.approx(loss, rel=1e-4)


@pytest.mark.parametrize("model", ["hxe", "emd"])
def test_losses_of_the_tree_take_their_flags(hierarchy, task, model):
    args = settled(hierarchy, "--model_name", model, "--alpha", "0.4", "--mu", "0.2")
    logits = np.random.default_rng(0).normal(size=(6, 4)).astype("float32")
    loss = task.loss(args, TREE, D)
    values = {
        "hxe": lambda: mhe.losses.hierarchical_cross_entropy(LABELS, logits, TREE, 0.4),
        "emd": lambda: mhe.losses.squared_earth_mover(LABELS, logits, D, 0.2),
    }[model]()
    mean = np.mean(keras.ops.convert_to_numpy(values))
    assert float(loss(LABELS, logits)) == pytest.approx(mean, rel=1e-5)


def test_interrupted_and_resumed_it_ends_as_an_unbroken_run(
    hierarchy, small, tmp_path, capsys, monkeypatch
):
    """Class means, which are no weights that are trained, go on from where they were."""
    flags = [*SMALL, "--model_name", "deepncm"]
    unbroken, broken = tmp_path / "unbroken", tmp_path / "broken"
    assert program(hierarchy.main, [*flags, "--out", str(unbroken)]) == 0

    def interrupt(self, epoch, logs=None):
        if epoch == 1:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(runs.Progress, "on_epoch_end", interrupt)
        assert program(hierarchy.main, [*flags, "--out", str(broken)]) == 130
    assert program(hierarchy.main, ["--resume", str(broken)]) == 0
    rows, others = log(broken), log(unbroken)
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    for row, other in zip(rows, others, strict=True):
        # Threads add floats in an order of their own.
        assert {**row, "seconds": 0} == pytest.approx({**other, "seconds": 0}, rel=2e-3, abs=1e-4)
    results = [json.loads((run / "result.json").read_text()) for run in (broken, unbroken)]
    metrics = results[1]["metrics"]
    assert results[0]["metrics"] == pytest.approx(metrics, rel=2e-3, abs=1e-4)
    assert metrics["test_accuracy"] == others[-1]["val_accuracy"]
    assert metrics["test_error"] == pytest.approx(1 - metrics["test_accuracy"])
    assert metrics["test_average_cost"] == others[-1]["val_average_cost"]
    assert 0 < metrics["test_error_at_level_1"] < metrics["test_error_at_level_2"]
    assert 0 < metrics["distortion"] < 1
    left = {path.name for path in unbroken.iterdir()}
    assert left == {
        *("config.json", "log.csv", "result.json", "checkpoints", "tensorboard"),
        *("curves.png", "embeddings.png"),
    }


@tensorflow_only
def test_a_list_is_a_folder_of_runs_and_a_table(hierarchy, small, load, tmp_path, capsys):
    asked = ["--model_name", "softmax", "fixed_metric", "--epochs", "1", "--validation", "0.2"]
    argv = [*SMALL, *asked, "--out", str(tmp_path)]
    assert program(hierarchy.main, argv) == 0
    printed = capsys.readouterr().out
    names = ["softmax-seed0", "fixed_metric-seed0"]
    found = [runs.Run.resume(tmp_path / name) for name in names]
    with open(tmp_path / "table.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    for line, run in zip(lines, found, strict=True):
        metrics = run.result["metrics"]
        assert line["model_name"] == run.config["model_name"]
        for name in ("validation_error", "validation_average_cost"):
            assert float(line[name]) == pytest.approx(metrics[name])
        assert f"{100 * metrics['validation_error']:.2f}" in printed
    assert lines[0]["distortion"] == ""
    # The prototypes are those that were placed, which keep the costs as well as can be.
    rows = np.load(tmp_path / names[1] / "prototypes.npy")
    costs = mhe.ClassTree.ready("digits").cost_matrix()
    assert float(lines[1]["distortion"]) == pytest.approx(mhe.metrics.distortion(rows, costs))
    assert (tmp_path / "comparison.png").read_bytes().startswith(b"\x89PNG")
    table = load("hierarchy_table")
    folders = [str(run.folder) for run in found]
    assert program(table.main, [*folders, "--out", str(tmp_path / "again")]) == 0
    assert (tmp_path / "again/table.csv").read_text() == (tmp_path / "table.csv").read_text()


@tensorflow_only
def test_a_tree_has_the_classes_in_the_order_of_their_labels(task, tmp_path):
    file = tmp_path / "tree.txt"
    file.write_text("# what they are\nanimal/dog/poodle\n\nanimal/cat\nplant/oak\nfake/cat\n")
    tree = task.read_tree(str(file), ["oak", "animal/cat", "dog/poodle"])
    assert tree.classes == ("oak", "cat", "poodle")
    np.testing.assert_array_equal(tree.cost_matrix(), [[0, 4, 5], [4, 0, 3], [5, 3, 0]])
    names = ["Greek/character02", "Greek/character01", "Latin/character01"]
    np.testing.assert_array_equal(task.read_tree("names", names).cost_matrix()[0], [0, 2, 4])
    some = task.read_tree("cifar10", ["truck", "cat", "dog"])
    assert some.classes == ("truck", "cat", "dog")
    np.testing.assert_array_equal(some.cost_matrix()[2], [4, 2, 0])
    species = [("Acer rubrum", "Acer"), ("Acer alba", "Acer"), ("Pica pica", "Pica")]
    categories = [{"id": i, "name": n, "genus": genus} for i, (n, genus) in enumerate(species)]
    (tmp_path / "2018.json").write_text(json.dumps(categories))
    year = task.read_tree(str(tmp_path / "2018.json"), ["Pica pica", "Acer alba"])
    assert year.classes == ("Pica pica", "Acer alba")
    np.testing.assert_array_equal(year.cost_matrix(), [[0, 4], [4, 0]])
    with pytest.raises(ValueError, match=r"Received: no path that ends in beech"):
        task.read_tree(str(file), ["oak", "beech"])
    with pytest.raises(ValueError, match=r"Received: 2 paths that end in cat"):
        task.read_tree(str(file), ["oak", "cat"])


@tensorflow_only
@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--model_name", "mse"], "argument --model_name: invalid choice: 'mse'"),
        (["--dims", "1"], "argument --dims: must be an integer of at least 2. Received: 1"),
        (["--mean_decay", "1"], "--mean_decay must be less than 1. Received: 1"),
        (["--drops", "0.8,0.4"], "--drops must be rising numbers between 0 and 1"),
        (["--validation", "1"], "--validation must be less than 1"),
        (["--tree", "names"], "whose names do not say what they belong to"),
        (["--tree", "mnist"], "--tree mnist: The ready trees are"),
        (["--tree", "cifar10"], "--tree cifar10: The tree has no such class. Received: '0', '1'"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    hierarchy, tmp_path, capsys, monkeypatch, flags, message
):
    monkeypatch.chdir(tmp_path)
    assert program(hierarchy.main, ["--dataset", "digits", *flags]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""
    assert list(tmp_path.iterdir()) == []


@tensorflow_only
def test_examples_run(hierarchy, load):
    for module in (hierarchy, importlib.import_module("tasks.hierarchy")):
        tried = doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE)
        assert tried.attempted > 0
        assert tried.failed == 0
