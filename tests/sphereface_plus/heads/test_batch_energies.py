"""Energies over a batch in one pass with products: float64 formulas, and steps with them."""

import keras
import numpy as np
import pytest
from keras import ops

import mhe
from mhe.energy.potential import Variant
from sphereface_plus import heads
from sphereface_plus.heads import products
from sphereface_plus.heads.batch_energies import products_and_energies

array = ops.convert_to_numpy

# TensorFlow would trace for longer than it computes; `fit` is compiled below.
EAGER = keras.backend.backend() == "tensorflow"

DIMS, CLASSES = 3, 6
# Two samples of one class, and classes without a sample.
LABELS = np.array([4, 1, 4, 0, 2])
VARIANTS = [(2, "angle", "full"), (1, "angle", "half"), (0, "euclidean", "half")]
VARIANTS += [(2, "euclidean", "full"), (1.5, "euclidean", "half")]


def energies_of(w, s, distance, space):
    """mean_{j≠y} f_s(ρ(ŵ_y, ŵ_j)) of each sample, arXiv 1805.09298, equations 1-3."""
    points = (w / np.linalg.norm(w, axis=0)).T
    points = np.concatenate([points, -points]) if space == "half" else points
    found = []
    for label in LABELS:
        others = np.delete(points, label, axis=0)
        apart = np.linalg.norm(others - points[label], axis=1)
        if distance == "angle":
            apart = 2 * np.arctan2(apart, np.linalg.norm(others + points[label], axis=1))
        found.append(np.mean(-np.log(apart) if s == 0 else apart**-s))
    return np.array(found)


@pytest.fixture
def packed():
    """Vectors `(B, dims)` and class vectors `(classes, dims)`, of lengths from 1e-4 to 1e4."""
    found = np.random.default_rng(4).normal(size=(len(LABELS) + CLASSES, DIMS))
    found[len(LABELS) + 3 :] *= [[1e-4], [1.0], [1e4]]
    return found.astype("float32")


@pytest.mark.parametrize("large", [False, True])
def test_both_follow_the_float64_formulas(
    packed, gradient_step, reference_gradient, monkeypatch, large
):
    if large:  # gone through in parts, of which some are empty
        monkeypatch.setattr(products, "_LARGE", 1)
        monkeypatch.setattr(products, "_ROWS", 2)
    batch = len(LABELS)
    rng = np.random.default_rng(5)
    factors = rng.normal(size=(batch, CLASSES))
    weights = rng.normal(size=(len(VARIANTS), batch))

    def total(packed):
        vectors, kernel = packed[:batch], ops.transpose(packed[batch:])
        value = 0.0
        for options, weight in zip(VARIANTS, weights, strict=True):
            index = ops.convert_to_tensor(LABELS, "int32")
            found, energies = products_and_energies(vectors, kernel, index, Variant.of(*options))
            value = value + ops.sum(found * ops.convert_to_tensor(factors, "float32"))
            value = value + ops.sum(energies * ops.convert_to_tensor(weight, "float32"))
        return value

    scales = np.linalg.norm(packed, axis=1, keepdims=True).astype("float64")

    def expected(units):
        vectors, kernel = units[:batch] * scales[:batch], units[batch:].T
        cosines = vectors @ (kernel / np.linalg.norm(kernel, axis=0))
        value = len(VARIANTS) * np.sum(cosines * factors)
        for options, weight in zip(VARIANTS, weights, strict=True):
            value += np.sum(energies_of(kernel, *options) * weight)
        return value

    value, gradient = gradient_step(total, eager=EAGER)(packed)
    units = packed / scales
    assert value == pytest.approx(expected(units), rel=1e-5)
    found = gradient * scales
    np.testing.assert_allclose(found, reference_gradient(expected, units), rtol=1e-4, atol=2e-4)


def test_second_derivative(packed, second_derivative, reference_gradient):
    """Also where two samples are of one class."""
    batch, rng = len(LABELS), np.random.default_rng(6)
    factors, weights = rng.normal(size=(batch, CLASSES)), rng.normal(size=batch)
    direction = rng.normal(size=packed.shape)
    units = packed / np.linalg.norm(packed, axis=1, keepdims=True)

    def total(at):
        index, variant = ops.convert_to_tensor(LABELS, "int32"), Variant.of(2, "angle", "full")
        kernel = ops.transpose(at[batch:])
        found, energies = products_and_energies(at[:batch], kernel, index, variant)
        value = ops.sum(found * ops.convert_to_tensor(factors, "float32"))
        return value + ops.sum(energies * ops.convert_to_tensor(weights, "float32"))

    def slope(at):
        def reference(at):
            kernel = at[batch:].T
            cosines = at[:batch] @ (kernel / np.linalg.norm(kernel, axis=0))
            energies = energies_of(kernel, 2, "angle", "full")
            return np.sum(cosines * factors) + np.sum(energies * weights)

        return np.sum(reference_gradient(reference, at, 1e-4) * direction)

    along = second_derivative(total, units, direction.astype("float32"))
    expected = reference_gradient(slope, units, 1e-4)
    assert np.linalg.norm(along - expected) <= 1e-3 * np.linalg.norm(expected)


def test_equal_opposite_and_zero_class_vectors(packed, gradient_step):
    """Values and gradients are finite, and a zero vector can leave zero."""
    kernel = packed[len(LABELS) :].T.copy()
    kernel[:, 1] = kernel[:, 4]
    kernel[:, 0] = -2 * kernel[:, 4]
    kernel[:, 2] = 0

    def total(kernel):
        found = [heads.energies.class_energies(LABELS, kernel, *each) for each in VARIANTS]
        return ops.sum(ops.stack(found))

    value, gradient = gradient_step(total, eager=EAGER)(kernel)
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()
    assert gradient[:, 2].any()


class Doubled(heads.NormFace):
    """A head whose loss is its own."""

    def loss(self, labels, logits):
        return 2 * super().loss(labels, logits)


@pytest.mark.usefixtures("weights_from_numpy")
def test_a_step_takes_the_losses_of_logits_and_energies(packed):
    """Also with a filter, weights of samples, and a loss of the head's own."""
    energy = mhe.MHE(0.3, s=2, distance="angle", space="full")
    options = {"energy": energy, "energy_over": "batch"}
    x, weights = packed[: len(LABELS)], np.array([1.0, 0.5, 2.0, 1.5, 0.0])
    found = [
        heads.SphereFacePlus(CLASSES, **options),
        heads.CosFace(CLASSES, 5, interclass_filtering_threshold=0.3, **options),
        Doubled(CLASSES, 5, **options),
        heads.SphereFace2(CLASSES, 5, **options),
    ]
    # JAX compiles every step for long.
    for head in found[: 1 if keras.backend.backend() == "jax" else None]:
        backbone = keras.Sequential([keras.Input((DIMS,)), keras.layers.Dense(DIMS)])
        model = mhe.HeadModel(backbone, head)
        model.compile(keras.optimizers.SGD(0.0))
        features = model.backbone(x)
        if isinstance(head, heads.SphereFace):
            head.step.assign(1)  # a step of training counts first
        losses = array(head.loss(LABELS, head(features, labels=LABELS)))
        if isinstance(head, heads.SphereFace):
            head.step.assign(0)
        found = model.train_on_batch(x, LABELS, sample_weight=weights)
        assert found == pytest.approx(np.mean(losses * weights), rel=1e-5), head
        if keras.backend.backend() != "jax":  # which would compile every operation by itself
            labels = ops.convert_to_tensor(np.where(LABELS == 2, CLASSES, LABELS))
            known = np.isnan(array(head.training_losses(features, labels)))
            assert known.tolist() == [False] * 4 + [True]
