"""The expected calibration error, bin by bin in float64, and what is no probability."""

import json
import math

import keras
import numpy as np
import pytest
from keras import ops

from mhe import metrics


def reference(labels, p, bins, weights=None):
    """Guo et al., equation 3, bin by bin."""
    p = np.asarray(p, "float64")
    weights = np.ones(len(p)) if weights is None else weights
    sure, right = p.max(axis=1), p.argmax(axis=1) == labels
    total = 0.0
    for b in range(bins):
        inside = (sure > b / bins) & (sure <= (b + 1) / bins)
        if (n := weights[inside].sum()) > 0:
            accuracy = np.average(right[inside], weights=weights[inside])
            total += n * abs(accuracy - np.average(sure[inside], weights=weights[inside]))
    return total / weights.sum()


@pytest.mark.parametrize("bins", [1, 15])
def test_error_over_uneven_batches(bins):
    rng = np.random.default_rng(3)
    logits = rng.normal(size=(23, 4)).astype("float32")
    labels, weights = rng.integers(0, 4, 23), rng.uniform(0.5, 2, 23)
    p = np.exp(logits.astype("float64"))
    p /= p.sum(axis=1, keepdims=True)
    of_logits = metrics.CalibrationError(bins, from_logits=True, ignore_class=9)
    of_probabilities = metrics.CalibrationError(bins)
    assert float(of_logits.result()) == 0
    for part in (slice(0, 5), slice(5, 6), slice(6, 23)):
        given = ops.convert_to_tensor(np.r_[labels[part], 9])
        rows = np.concatenate([logits[part], [[90.0, 0, 0, 0]]])
        of_logits.update_state(given, rows, np.r_[weights[part], 1.0])
        of_probabilities.update_state(labels[part], p[part].astype("float32"))
    found = float(of_logits.result())
    assert found == pytest.approx(reference(labels, p, bins, weights), rel=1e-5)
    assert float(of_probabilities.result()) == pytest.approx(reference(labels, p, bins), rel=1e-5)
    of_logits.reset_state()
    assert float(of_logits.result()) == 0


def test_dense_predictions_and_sure_ones():
    metric = metrics.CalibrationError(10)
    p = np.array([[[1.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [0.5, 0.5]]], "float32")
    metric.update_state([[0, 1], [1, 0]], p, [1.0, 3.0])
    # All weights are in two bins: 5 at confidence 1, of which 2 are right; 3 at 0.5, all right.
    assert float(metric.result()) == pytest.approx((3 + 1.5) / 8)


def test_in_evaluate():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(10, 3)).astype("float32"), rng.integers(0, 4, (10, 1))
    outputs = keras.layers.Dense(4, activation="softmax")
    model = keras.Sequential([keras.Input((3,)), outputs])
    model.compile(loss="sparse_categorical_crossentropy", metrics=[metrics.CalibrationError(5)])
    found = model.evaluate(x, y, batch_size=4, verbose=0, return_dict=True)
    expected = reference(y[:, 0], model.predict(x, verbose=0), 5)
    assert found["calibration_error"] == pytest.approx(expected, rel=1e-4)


@pytest.mark.one_backend
def test_json_and_bad_input():
    metric = metrics.CalibrationError(7, from_logits=True, ignore_class=255)
    config = json.loads(json.dumps(keras.saving.serialize_keras_object(metric)))
    assert keras.saving.deserialize_keras_object(config).get_config() == metric.get_config()
    for bins in (0, 1.5, True):
        with pytest.raises(ValueError, match="`bins` must be an integer >= 1"):
            metrics.CalibrationError(bins)
    metric = metrics.CalibrationError()
    with pytest.raises(ValueError, match="set `from_logits=True`"):
        metric.update_state([0], [[2.0, 1.0]])
    with pytest.raises(ValueError, match="Received: label 2"):
        metric.update_state([2], [[0.5, 0.5]])
    metric.update_state(ops.convert_to_tensor([2]), ops.convert_to_tensor([[0.5, 0.5]]))
    assert math.isnan(float(metric.result()))
