"""The data, prototypes and networks of prototype networks and their baselines."""

import keras
import numpy as np
import pytest

from mhe.harness.errors import BadInput
from mhe.prototypes import order_kept

from_numpy = pytest.mark.usefixtures("weights_from_numpy")


@pytest.fixture
def hpn(load):
    return load("hpn")


@pytest.fixture
def task(load_task):
    return load_task("hpn")


def made(seed=0):
    """Eight images with a class of three and a value from -30 to 50."""
    rng = np.random.default_rng(seed)
    images = rng.integers(256, size=(8, 8, 8, 1), dtype=np.uint8)
    labels, values = rng.integers(3, size=8), rng.uniform(-30, 50, 8).astype("float32")
    return images, {"value": values, "label": labels}


def evaluated(task, args, rows=None):
    """Loss and outputs of a new joint network, and the numbers at the end of its network."""
    images, targets = made()
    data = task.Data((images, targets), (images, targets), ("a", "b", "c"), -30.0, 50.0)
    model = task.build(args, data, rows, steps=10)
    inputs = images.astype("float32") / 255
    end = keras.Model(model.input, model.get_layer("logits").output)
    found = model.evaluate(inputs, targets, batch_size=8, verbose=0, return_dict=True)
    outputs = {name: keras.ops.convert_to_numpy(each) for name, each in model(inputs).items()}
    ends = keras.ops.convert_to_numpy(end(inputs)).astype("float64")
    return found, outputs, ends, targets


@from_numpy
def test_joint_loss_and_outputs_are_the_published_ones(hpn, task, small, parsed):
    """One output: axis 0 against the pole, the cosine of the other axes against prototypes."""
    args = parsed(hpn, "--task", "joint", "--dims", "5", "--task_weights", "0.3")
    rows = np.linalg.qr(np.random.default_rng(1).normal(size=(4, 4)))[0][:3]
    found, outputs, ends, targets = evaluated(task, args, rows)
    pole = ends[:, 0] / np.linalg.norm(ends, axis=1)
    np.testing.assert_allclose(outputs["value"][:, 0], -30 + (pole + 1) / 2 * 80, rtol=1e-4)
    rest = ends[:, 1:] / np.linalg.norm(ends[:, 1:], axis=1, keepdims=True)
    cosines = rest @ rows.T
    np.testing.assert_allclose(outputs["label"], cosines, atol=1e-5)
    wanted = 2 * (targets["value"] + 30) / 80 - 1
    regression = np.sum((wanted - pole) ** 2)
    classification = np.sum((1 - cosines[np.arange(8), targets["label"]]) ** 2)
    assert found["loss"] == pytest.approx(0.7 * regression + 0.3 * classification, rel=1e-4)
    error = np.abs(outputs["value"][:, 0] - targets["value"]).mean()
    assert found["value_mae"] == pytest.approx(error, rel=1e-4)
    right = (cosines.argmax(1) == targets["label"]).mean()
    assert found["label_accuracy"] == pytest.approx(right)


@from_numpy
def test_cross_entropy_is_of_scaled_cosines(hpn, task, small, parsed):
    flags = ("--task", "joint", "--dims", "5", "--loss", "cross_entropy", "--scale", "8")
    rows = np.linalg.qr(np.random.default_rng(1).normal(size=(4, 4)))[0][:3]
    found, _, ends, targets = evaluated(task, parsed(hpn, *flags), rows)
    logits = 8 * (ends[:, 1:] / np.linalg.norm(ends[:, 1:], axis=1, keepdims=True)) @ rows.T
    odds = np.log(np.exp(logits).sum(1)) - logits[np.arange(8), targets["label"]]
    pole = ends[:, 0] / np.linalg.norm(ends, axis=1)
    squared = np.mean((2 * (targets["value"] + 30) / 80 - 1 - pole) ** 2)
    assert found["loss"] == pytest.approx((odds.mean() + squared) / 2, rel=1e-4)


@from_numpy
def test_dot_regression_is_half_the_squared_error_of_cosines(hpn, task, small, parsed):
    flags = ("--task", "joint", "--dims", "5", "--loss", "dot_regression")
    rows = np.linalg.qr(np.random.default_rng(1).normal(size=(4, 4)))[0][:3]
    found, outputs, _, targets = evaluated(task, parsed(hpn, *flags), rows)
    own = outputs["label"].astype("float64")[np.arange(8), targets["label"]]
    unit = 2 * (targets["value"] + 30) / 80 - 1
    poles = 2 * (outputs["value"][:, 0] + 30) / 80 - 1
    expected = (np.mean((1 - own) ** 2) / 2 + np.mean((unit - poles) ** 2)) / 2
    assert found["loss"] == pytest.approx(expected, rel=1e-4)


@from_numpy
@pytest.mark.parametrize("model", ["hpn", "baseline"])
def test_logits_are_adjusted_by_the_training_labels(hpn, task, small, parsed, model):
    flags = ("--model_name", model, "--dims", "4", "--loss", "logit_adjusted", "--tau", "0.5")
    images, targets = made()
    targets = {"label": np.array([0, 0, 0, 0, 1, 1, 1, 2])}
    data = task.Data((images, targets), (images, targets), ("a", "b", "c"), 0.0, 0.0)
    rows = np.eye(4)[:3] if model == "hpn" else None
    network = task.build(parsed(hpn, *flags), data, rows, steps=10)
    inputs = images.astype("float32") / 255
    logits = np.asarray(network.predict(inputs, verbose=0)["label"], "float64")
    adjusted = logits + 0.5 * np.log([4, 3, 1])
    odds = np.log(np.exp(adjusted).sum(1)) - adjusted[np.arange(8), targets["label"]]
    found = network.evaluate(inputs, targets, batch_size=8, verbose=0, return_dict=True)
    assert found["loss"] == pytest.approx(odds.mean(), rel=1e-4)
    empty = task.Data(data.train, data.test, (*data.class_names, "d"), 0.0, 0.0)
    with pytest.raises(BadInput, match=r"--loss logit_adjusted: .* Received: 0 of class 3"):
        task.build(parsed(hpn, *flags), empty, rows if rows is None else np.eye(4), steps=10)


@from_numpy
def test_the_smallest_angle_is_that_of_class_vectors(hpn, task, small, parsed):
    images, targets = made()
    data = task.Data((images, targets), (images, targets), ("a", "b", "c"), -30.0, 50.0)
    flags = ("--model_name", "baseline", "--task", "joint")
    model = task.build(parsed(hpn, *flags), data, None, steps=10)
    kernel = model.get_layer("logits").kernel
    columns = np.zeros(kernel.shape, "float32")
    columns[:2] = [[1, 1, 1, -1], [0.1, 0, 1, 0]]  # the first belongs to the value
    kernel.assign(columns)
    assert task.smallest_angle(model, None) == pytest.approx(45)
    assert task.smallest_angle(model, np.eye(3)) == pytest.approx(90)


@from_numpy
def test_the_baseline_is_cross_entropy_and_squared_error_of_scaled_values(hpn, task, small, parsed):
    flags = ("--model_name", "baseline", "--task", "joint", "--task_weights", "0.3")
    found, outputs, ends, targets = evaluated(task, parsed(hpn, *flags))
    assert ends.shape == (8, 4)
    np.testing.assert_allclose(outputs["value"], 10 + 40 * ends[:, :1], rtol=1e-4)
    np.testing.assert_allclose(outputs["label"], ends[:, 1:], rtol=1e-5)
    squared = np.mean((ends[:, 0] - (targets["value"] - 10) / 40) ** 2)
    odds = np.log(np.exp(ends[:, 1:]).sum(1)) - ends[np.arange(8), 1 + targets["label"]]
    assert found["loss"] == pytest.approx(0.7 * squared + 0.3 * odds.mean(), rel=1e-4)


def test_validation_never_looks_at_the_test_set(hpn, task, parsed):
    flags = ["--dataset", "digits", "--validation", "0.25", "--train_images", "100"]
    data = task.prepare(parsed(hpn, *flags))
    whole = task.prepare(parsed(hpn, "--dataset", "digits"))
    known = {image.tobytes() for image in whole.train[0]}
    for images, targets in (data.train, data.test):
        assert {image.tobytes() for image in images} <= known
        assert len(images) == len(targets["label"])
    held = {image.tobytes() for image in data.test[0]}
    assert not held & {image.tobytes() for image in data.train[0]}
    counts = np.bincount(whole.train[1]["label"])
    np.testing.assert_array_equal(np.bincount(data.test[1]["label"]), np.round(0.25 * counts))


def test_turned_images_are_the_same_for_every_task(hpn, task, parsed):
    flags = ["--dataset", "digits", "--target", "rotation", "--low", "-30", "--high", "10"]
    classification, regression = (
        task.prepare(parsed(hpn, *flags, "--task", each)) for each in hpn.TASKS[:2]
    )
    np.testing.assert_array_equal(classification.train[0], regression.train[0])
    np.testing.assert_array_equal(classification.test[0], regression.test[0])
    assert list(classification.train[1]) == ["label"]
    angles = regression.train[1]["value"]
    assert -30 <= angles.min() < -28
    assert 8 < angles.max() <= 10


def test_semantics_decide_which_prototype_a_class_gets(hpn, task, tmp_path, parsed):
    """Ten classes whose word vectors go round in a circle, and prototypes on the circle."""
    angles = np.random.default_rng(0).permutation(10) * np.pi / 5
    lines = [f"{name} {np.cos(a):.6f} {np.sin(a):.6f}\n" for name, a in enumerate(angles)]
    (tmp_path / "words.txt").write_text("".join(lines))
    flags = ["--dataset", "digits", "--dims", "2", "--semantics", str(tmp_path / "words.txt")]
    args = parsed(hpn, *flags)
    data = task.prepare(args)
    rows = task.prototypes(args, data, task.semantics(args, data))
    cosines = rows @ rows.T
    np.testing.assert_allclose(cosines, np.cos(angles[:, None] - angles), atol=0.02)
    assert order_kept(rows, task.semantics(args, data)).mean > 0.9
