"""Decisions of least expected cost: the formula, the gradient, models with it, and bad input."""

import keras
import numpy as np
import pytest
from keras import ops

import mhe
from mhe import layers

TREE = mhe.ClassTree.from_paths(["animal/dog/poodle", "animal/dog/husky", "animal/cat", "oak"])
ALL_NODES = TREE.cost_matrix(inner=True)
array = ops.convert_to_numpy


def reference(logits, costs, temperature=1.0):
    """Σ_c p_c·C_ck, answer by answer."""
    logits = np.asarray(logits, "float64") / temperature
    weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
    p = weights / weights.sum(axis=-1, keepdims=True)
    answers = range(np.shape(costs)[1])
    return np.stack([sum(p[..., c] * row[k] for c, row in enumerate(costs)) for k in answers], -1)


@pytest.mark.parametrize("shape", [(5,), (2, 3)], ids=["flat", "dense"])
@pytest.mark.parametrize("costs", [TREE.cost_matrix(), ALL_NODES], ids=["square", "all nodes"])
def test_expected_costs_of_logits_and_probabilities(shape, costs, draw):
    logits = 3 * draw(*shape, 4)
    expected = reference(logits, costs, temperature=2.0)
    head = layers.LeastExpectedCost(costs, temperature=2.0)
    np.testing.assert_allclose(array(head(logits)), -expected, rtol=1e-5)
    p = array(ops.softmax(logits / 2.0))
    for given in (p, ops.convert_to_tensor(p)):
        found = layers.expected_costs(given, costs, from_logits=False)
        np.testing.assert_allclose(array(found), expected, rtol=1e-5)
    assert head.compute_output_shape((None, 7, 4)) == (None, 7, costs.shape[1])


def test_gradient_at_usual_and_extreme_logits(value_and_gradient, reference_gradient, draw):
    pull = draw(3, 7)
    logits = np.array([[0.5, -1, 2, 0], [0, 0, 0, 0], [300, -300, 0, 1]], "float32")

    def loss(x):
        return ops.sum(ops.multiply(layers.expected_costs(x, ALL_NODES), pull))

    value, gradient = value_and_gradient(loss, logits)
    expected = np.sum(reference(logits, ALL_NODES) * pull)
    assert value == pytest.approx(expected, rel=1e-5)
    expected = reference_gradient(lambda x: np.sum(reference(x, ALL_NODES) * pull), logits)
    np.testing.assert_allclose(gradient, expected, atol=1e-5)


def test_equal_costs_decide_like_the_model_and_others_like_the_least_expectation(draw):
    logits = draw(200, 4)
    equal = layers.LeastExpectedCost(1 - np.eye(4))
    np.testing.assert_array_equal(array(equal(logits)).argmax(1), logits.argmax(1))
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    found = array(layers.LeastExpectedCost(TREE.cost_matrix())(logits)).argmax(1)
    risks = [[p[i] @ TREE.cost_matrix()[:, k] for k in range(4)] for i in range(200)]
    np.testing.assert_array_equal(found, np.argmin(risks, axis=1))
    assert (found != logits.argmax(1)).any()
    unsure = layers.LeastExpectedCost(ALL_NODES)(np.array([[2.0, 2.0, 1.0, 0.0]], "float32"))
    assert TREE.nodes[int(array(unsure).argmax())] == "dog"


def test_half_precision_is_computed_in_float32(draw):
    logits = (4 * draw(5, 4)).astype("float16")
    head = layers.LeastExpectedCost(ALL_NODES, dtype="mixed_float16")
    found = head(logits)
    assert keras.backend.standardize_dtype(found.dtype) == "float32"
    np.testing.assert_allclose(array(found), -reference(logits, ALL_NODES), rtol=1e-5)
    p = ops.softmax(ops.convert_to_tensor(logits), axis=-1)
    found = layers.expected_costs(p, ALL_NODES, from_logits=False)
    np.testing.assert_allclose(array(found), reference(logits, ALL_NODES), rtol=2e-3)


def test_a_saved_model_decides_the_same(tmp_path, draw):
    inputs = keras.Input((3,))
    outputs = layers.LeastExpectedCost([[0, 9, 0.1], [1, 0, 0.1]])(keras.layers.Dense(2)(inputs))
    model = keras.Model(inputs, outputs)
    model.save(tmp_path / "model.keras")
    copy = keras.saving.load_model(tmp_path / "model.keras")
    x = draw(4, 3)
    np.testing.assert_array_equal(array(copy(x)), array(model(x)))
    assert copy.layers[-1].get_config() == model.layers[-1].get_config()


@pytest.mark.one_backend
def test_bad_costs_and_scores():
    for costs, named in (
        ([0.0, 1.0], r"at least two classes and two answers. Received: shape \(2,\)"),
        ([[0, 1], [np.nan, 0]], "Received: nan of answer 0 for class 1"),
        ([[0, np.inf], [1, 0]], "Received: inf of answer 1 for class 0"),
        ([[0, -1], [1, 0]], "finite and at least 0. Received: -1"),
        ([["a", "b"]], "must be numbers"),
    ):
        with pytest.raises(ValueError, match=named):
            layers.LeastExpectedCost(costs)
    costs = 1 - np.eye(3)
    with pytest.raises(ValueError, match=r"scores \(..., 3\). Received: shape \(2, 4\)"):
        layers.expected_costs(np.ones((2, 4)), costs)
    for temperature in (0, -1, np.nan):
        with pytest.raises(ValueError, match="`temperature` must be a finite number > 0"):
            layers.LeastExpectedCost(costs, temperature=temperature)
    with pytest.raises(ValueError, match="divides logits"):
        layers.LeastExpectedCost(costs, from_logits=False, temperature=2.0)


def test_scores_that_are_no_probabilities():
    head = layers.LeastExpectedCost(1 - np.eye(3), from_logits=False)
    logits = np.array([[0.2, 0.5, 0.3], [4.0, 1.0, -2.0]], "float32")
    for given in (logits, logits.tolist()):
        with pytest.raises(ValueError, match=r"set `from_logits=True`. Received: -2"):
            head(given)
    with pytest.raises(ValueError, match=r"Received: probabilities that sum to 1\.5"):
        layers.expected_costs([0.5, 0.5, 0.5], 1 - np.eye(3), from_logits=False)
    found = array(head(ops.convert_to_tensor(logits)))
    assert np.isfinite(found[0]).all()
    assert np.isnan(found[1]).all()
