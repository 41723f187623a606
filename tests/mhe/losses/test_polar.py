"""The loss of values read off an angle: values, gradients, weights and what is refused."""

import keras
import numpy as np
import pytest
from keras import ops

import mhe
from mhe import losses


def reference_polar_loss(values, cosines, low, high):
    targets = 2 * (np.asarray(values, "float64") - low) / (high - low) - 1
    return (targets - cosines) ** 2


@pytest.mark.parametrize(("low", "high"), [(1600, 1950), (-0.2, 0.1), (1e-20, 3e-20)])
def test_polar_loss_is_the_difference_of_cosines_squared(
    low, high, value_and_gradient, reference_gradient, draw
):
    embeddings = draw(4, 3)
    values = low + np.array([0, 0.3, 0.9, 1]) * (high - low)
    head, loss = mhe.layers.PolarHead(low, high, dims=3), losses.PolarLoss(low, high)

    def reference(x):
        cosines = x[:, 0] / np.linalg.norm(x, axis=1)
        return np.mean(reference_polar_loss(values, cosines, low, high))

    value, gradient = value_and_gradient(lambda x: loss(values, head(x)), embeddings)
    assert value == pytest.approx(reference(embeddings.astype("float64")), rel=1e-5)
    np.testing.assert_allclose(gradient, reference_gradient(reference, embeddings), atol=1e-5)


def test_near_its_target_a_value_loses_no_digits():
    # The two cosines in float32 would differ by rounding alone.
    values, predictions = np.array([1999.5]), np.array([[1999.5 + 2**-10]], "float32")
    loss = losses.polar_loss(values, predictions, low=1500, high=2000)
    assert float(loss[0]) == pytest.approx((2**-10 / 250) ** 2, rel=1e-6)


@pytest.mark.parametrize("shape", [(4,), (4, 1)])
def test_targets_meet_their_own_predictions(shape):
    values = np.array([0.0, 1.0, 2.0, 4.0])
    predictions = values[:, None].astype("float32")
    loss = losses.PolarLoss(0, 4)
    assert float(loss(values.reshape(shape), predictions)) == 0
    each = losses.PolarLoss(0, 4, reduction=None)(values.reshape(shape), predictions[::-1])
    np.testing.assert_allclose(each, ((values - values[::-1]) / 2) ** 2)
    weights = np.array([1.0, 0.0, 0.0, 2.0])
    value = loss(values.reshape(shape), predictions[::-1], weights)
    assert float(value) == pytest.approx((4 + 2 * 4) / 4)


def test_dense_values(draw):
    values, predictions = draw(2, 2, 2), draw(2, 2, 2, 1, seed=1)
    each = (values - predictions[..., 0]) ** 2
    for given in (values, values[..., None]):
        np.testing.assert_allclose(
            ops.convert_to_numpy(losses.polar_loss(given, predictions, -1, 1)), each, rtol=1e-5
        )
    value = losses.PolarLoss(-1, 1)(values, predictions, np.array([1.0, 3.0]))
    assert float(value) == pytest.approx(np.mean(each * [[[1]], [[3]]]), rel=1e-5)


@pytest.mark.parametrize("wrong", [-0.1, 1.1, float("nan"), float("inf")])
def test_values_outside_never_train(wrong, value_and_gradient, draw):
    values, predictions = np.array([0.2, wrong, 1.0]), draw(3, 1) ** 2
    loss = losses.PolarLoss(0, 1)
    with pytest.raises(ValueError, match=r"in \[0.0, 1.0\]. Received: value"):
        loss(values, predictions)
    with pytest.raises(ValueError, match=r"in \[0, 1\]. Received: value"):
        losses.polar_loss(values.tolist(), predictions, 0, 1)
    tensor = ops.convert_to_tensor(values.astype("float32"))
    value, gradient = value_and_gradient(lambda p: loss(tensor, p), predictions)
    assert np.isnan(value)
    assert gradient[1] == 0
    assert np.count_nonzero(gradient) == 2


def test_bounds_themselves_are_inside_in_float32(draw):
    values = ops.convert_to_tensor(np.array([0.1, 0.3], "float32"))
    assert np.isfinite(float(losses.PolarLoss(0.1, 0.3)(values, draw(2, 1))))


@pytest.mark.parametrize(
    ("values", "predictions", "named"),
    [
        ((3,), (3,), r"\(..., 1\), one value per sample. Received: shape \(3,\)"),
        ((3,), (3, 2), r"Received: shape \(3, 2\)"),
        ((1,), (3, 1), r"Received: targets \(1,\), predictions \(3, 1\)"),
        ((3, 3), (3, 1), r"Received: targets \(3, 3\), predictions \(3, 1\)"),
    ],
)
def test_values_do_not_broadcast(values, predictions, named, draw):
    with pytest.raises(ValueError, match=named):
        losses.PolarLoss(-1, 1)(draw(*values), draw(*predictions))


@pytest.mark.parametrize(("low", "high"), [(1, 1), (2, 1), (0, float("inf"))])
def test_ranges_are_checked(low, high):
    with pytest.raises(ValueError, match=r"Received: (low|high)="):
        losses.PolarLoss(low, high)
    with pytest.raises(ValueError, match=r"Received: (low|high)="):
        losses.polar_loss([1.0], [[1.0]], low, high)


@pytest.mark.parametrize("dtype", ["float16", "mixed_bfloat16", "float32", None])
def test_values_are_never_rounded_to_half_precision(dtype):
    # 2049 is 2048 in float16.
    loss = losses.PolarLoss(0, 4000, dtype=dtype)(np.array([2049]), np.array([[2050]]))
    assert float(loss) == pytest.approx(1 / 2000**2, rel=1e-6)
    assert keras.backend.standardize_dtype(loss.dtype) == "float32"


def test_json_gives_the_same_loss_back(check_copies):
    check_copies(losses.PolarLoss(1600, 1950.5, reduction=None, name="year"))
