"""Losses of both sides against float64 formulas."""

import numpy as np
import pytest

from gan import losses

# Among them a discriminator that is sure, and the corners of the hinge.
REAL = np.array([-2.0, 0.3, 1.5, 70.0])
FAKE = np.array([-90.0, -0.4, 0.2, 3.0])
REFERENCE = {
    "softplus": (
        lambda real, fake: np.logaddexp(0, -real).mean() + np.logaddexp(0, fake).mean(),
        lambda fake: np.logaddexp(0, -fake).mean(),
    ),
    "hinge": (
        lambda real, fake: np.maximum(0, 1 - real).mean() + np.maximum(0, 1 + fake).mean(),
        lambda fake: -fake.mean(),
    ),
}


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("kind", losses.LOSSES)
def test_values_and_gradients(kind, dtype, value_and_gradient, reference_gradient):
    of_discriminator, of_generator = REFERENCE[kind]
    both = np.stack([REAL, FAKE]).astype(dtype)

    def loss(logits):
        mine = losses.discriminator_loss(logits[0], logits[1], kind)
        return mine + 3.0 * losses.generator_loss(logits[1], kind)

    def reference(logits):
        return of_discriminator(*logits) + 3.0 * of_generator(logits[1])

    value, gradient = value_and_gradient(loss, both)
    assert value.dtype == "float32"
    exact = both.astype("float64")
    np.testing.assert_allclose(value, reference(exact), rtol=1e-6)
    tolerance = {"float32": 1e-5, "float16": 1e-3}[dtype]
    np.testing.assert_allclose(
        gradient, reference_gradient(reference, exact), rtol=tolerance, atol=tolerance
    )
