"""Scores of known inputs against float64 formulas, and thresholds against counts."""

import keras
import numpy as np
import pytest
from keras import ops

from mhe import open_set

array = ops.convert_to_numpy


def draw(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


CLASSES = draw(5, 3, seed=7)


def log_sum_exp(logits, temperature=1.0):
    rows = np.asarray(logits, "float64") / temperature
    largest = rows.max(axis=-1)
    return temperature * (largest + np.log(np.sum(np.exp(rows - largest[..., None]), axis=-1)))


def cosine(embeddings):
    rows, classes = np.asarray(embeddings, "float64"), CLASSES.astype("float64")
    lengths = np.linalg.norm(rows, axis=-1)[..., None] * np.linalg.norm(classes, axis=1)
    return np.max(rows @ classes.T / lengths, axis=-1)


def nearest(embeddings):
    gaps = np.asarray(embeddings, "float64")[..., None, :] - CLASSES.astype("float64")
    return -np.min(np.sqrt(np.sum(gaps**2, axis=-1)), axis=-1)


SCORES = {
    "logit": (open_set.largest_logit, lambda x: np.max(np.asarray(x, "float64"), axis=-1)),
    "cosine": (lambda x: open_set.largest_cosine(x, CLASSES), cosine),
    "energy": (lambda x: open_set.negative_energy(x, 0.5), lambda x: log_sum_exp(x, 0.5)),
    "nearest": (lambda x: open_set.nearest_prototype(x, CLASSES), nearest),
}


@pytest.mark.parametrize("score", SCORES)
def test_values_and_gradients(score, value_and_gradient, reference_gradient):
    function, reference = SCORES[score]
    x, pull = draw(4, 3), draw(4, seed=1)
    np.testing.assert_allclose(array(function(x)), reference(x), rtol=1e-5)
    found = value_and_gradient(lambda x: ops.sum(ops.multiply(function(x), pull)), x)
    expected = reference_gradient(lambda x: np.sum(reference(x) * pull), x)
    np.testing.assert_allclose(found[1], expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_precision_and_leading_axes(score, dtype):
    function, reference = SCORES[score]
    x = draw(2, 4, 3).astype(dtype)
    if dtype == "float64" and keras.backend.backend() == "jax":
        dtype = "float32"  # JAX has none wider
    found = function(ops.convert_to_tensor(x, dtype))
    kept = "float64" if dtype == "float64" else "float32"
    assert keras.backend.standardize_dtype(found.dtype) == kept
    np.testing.assert_allclose(array(found), reference(x), rtol=1e-5)
    assert function(x[0, 0]).shape == ()


def test_extreme_and_degenerate_inputs():
    large = np.array([[1e30, -1e30], [-1e30, -1e30]], "float32")
    np.testing.assert_allclose(array(open_set.negative_energy(large)), [1e30, -1e30])
    np.testing.assert_allclose(array(open_set.negative_energy([[3.0]])), [3.0])
    zero = np.zeros((1, 3), "float32")
    assert float(open_set.largest_cosine(zero, CLASSES)[0]) == pytest.approx(0, abs=1e-6)
    assert float(open_set.nearest_prototype(CLASSES[1:2], CLASSES)[0]) == 0.0
    tiny = 1e-20 * CLASSES
    np.testing.assert_allclose(array(open_set.largest_cosine(tiny, CLASSES)), 1.0, rtol=1e-6)


@pytest.mark.one_backend
@pytest.mark.parametrize("share", [0.0, 0.05, 0.25, 0.07, 0.999])
@pytest.mark.parametrize("digits", [1, 8])
def test_threshold_is_the_largest_with_so_few_false_alarms(share, digits):
    scores = np.random.default_rng(0).normal(size=100).round(digits)
    found = open_set.threshold(scores, share)
    assert np.mean(scores < found) <= share
    above = scores[scores > found]
    assert not above.size or np.mean(scores < above.min()) > share
    assert open_set.threshold([0.0, 1.0], 1 - 1e-12) == 1.0
    assert open_set.threshold(ops.convert_to_tensor(scores.reshape(4, 25)), share) == pytest.approx(
        found, rel=1e-6
    )


@pytest.mark.one_backend
@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: open_set.largest_logit(np.float32(1)), r"\(\)"),
        (lambda: open_set.largest_logit(np.zeros((2, 0))), r"\(2, 0\)"),
        (lambda: open_set.negative_energy([[1.0]], 0), "temperature=0"),
        (lambda: open_set.largest_cosine(np.ones((2, 4)), CLASSES), r"\(2, 4\) and \(5, 3\)"),
        (lambda: open_set.nearest_prototype(np.ones((2, 3)), CLASSES[0]), r"and \(3,\)"),
        (lambda: open_set.nearest_prototype(np.ones((2, 3)), CLASSES, "far"), "distance='far'"),
        (lambda: open_set.threshold([], 0.1), "none"),
        (lambda: open_set.threshold([0.0, np.nan], 0.1), "nan"),
        (lambda: open_set.threshold([0.0], 1.0), "false_alarms=1.0"),
    ],
)
def test_bad_input_is_named(call, named):
    with pytest.raises(ValueError, match=f"Received: .*{named}"):
        call()
