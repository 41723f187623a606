"""The best temperature, against SciPy's minimizer and in closed form, and where there is none."""

import numpy as np
import pytest
from keras import ops

import mhe

pytestmark = pytest.mark.one_backend


def cross_entropy(temperature, logits, labels):
    """Guo et al., equation 9, sample by sample."""
    total = 0.0
    for row, label in zip(np.asarray(logits, "float64") / temperature, labels, strict=True):
        total += np.log(np.sum(np.exp(row - row.max()))) + row.max() - row[label]
    return total / len(labels)


@pytest.mark.parametrize("scale", [1e-6, 0.3, 20.0, 1e8])
@pytest.mark.parametrize("classes", [2, 7])
def test_temperature_is_that_of_scipy(scale, classes):
    from scipy.optimize import minimize_scalar

    rng = np.random.default_rng(classes)
    labels = rng.integers(0, classes, 200)
    logits = scale * (rng.normal(size=(200, classes)) + 1.5 * np.eye(classes)[labels])
    found = mhe.calibrate(logits, labels)
    best = minimize_scalar(
        lambda log: cross_entropy(np.exp(log), logits, labels),
        bounds=np.log(scale) + np.array([-5, 5]),
        method="bounded",
        options={"xatol": 1e-10},
    )
    assert found == pytest.approx(np.exp(best.x), rel=1e-6)
    value = cross_entropy(found, logits, labels)
    assert value <= best.fun + 1e-14
    # It undoes what multiplies all logits.
    assert mhe.calibrate(8 * logits, labels) == pytest.approx(8 * found, rel=1e-9)


def test_one_mistake_in_closed_form():
    labels = [0] * 99 + [1]
    found = mhe.calibrate(np.tile([50.0, 0.0], (100, 1)), labels)
    assert found == pytest.approx(50 / np.log(99), rel=1e-10)


def test_dense_tensors_and_ignored_labels():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, (4, 5))
    logits = (rng.normal(size=(4, 5, 3)) + np.eye(3)[labels]).astype("float32")
    expected = mhe.calibrate(logits.reshape(-1, 3), labels.reshape(-1))
    found = mhe.calibrate(ops.convert_to_tensor(logits), ops.convert_to_tensor(labels[..., None]))
    assert found == pytest.approx(expected, rel=1e-12)
    more = np.concatenate([logits.reshape(-1, 3), [[0.0, 0.0, 90.0]]])
    found = mhe.calibrate(more, [*labels.reshape(-1), 255], ignore_class=255)
    assert found == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("logits", "labels", "named"),
    [
        ([[2.0, 1.0], [0.0, 1.0]], [0, 1], "Received: 2 labels without a mistake"),
        ([[2.0, 1.0], [0.0, 1.0]], [1, 0], "no better than equal ones. Received: .* -0.5"),
        (np.zeros((2, 3)), [0, 1], "without a mistake"),
        ([[2.0, np.nan]], [0], "must be finite. Received: nan"),
        ([[2.0, 1.0]], [2], "Received: label 2"),
        ([[2.0, 1.0]], [0, 1], r"Received: labels \(2,\), logits \(1, 2\)"),
        (np.zeros((0, 3)), np.zeros(0), "must be a label that counts"),
        ([2.0], 0, "two classes or more"),
    ],
)
def test_where_no_temperature_is_best(logits, labels, named):
    with pytest.raises(ValueError, match=named):
        mhe.calibrate(np.asarray(logits), labels)
