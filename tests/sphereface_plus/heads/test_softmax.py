"""Sampling of classes: each draw against a float64 softmax over it, and what is drawn."""

import itertools

import keras
import numpy as np
import pytest
from keras import ops

import mhe
from sphereface_plus import heads
from sphereface_plus.heads.drawn import draw_classes, drawn_vectors

array = ops.convert_to_numpy

CLASSES, DIMS, SCALE, M = 6, 3, 5.0, 0.2
LABELS = np.array([4, 1])
X = np.array([[1.0, 0.5, -0.3], [0.2, -0.8, 0.4]], "float32")
# With three classes drawn: those of the batch, and one of the others.
DRAWS = [{1, 4, other} for other in (0, 2, 3, 5)]


def loss_over(drawn, kernel):
    """The mean loss of CosFace over some classes only, in float64."""
    cosines = X.astype("float64") @ kernel
    cosines /= np.linalg.norm(X, axis=1)[:, None] * np.linalg.norm(kernel, axis=0)
    losses = []
    for row, label in zip(cosines, LABELS, strict=True):
        logits = {each: SCALE * (row[each] - M * (each == label)) for each in drawn | {label}}
        losses.append(np.log(sum(map(np.exp, logits.values()))) - logits[label])
    return np.mean(losses)


@pytest.fixture
def kernel():
    return np.random.default_rng(0).normal(size=(DIMS, CLASSES)).astype("float32")


@pytest.mark.usefixtures("weights_from_numpy")
def test_every_compiled_step_is_that_of_a_softmax_over_its_draw(kernel, reference_gradient):
    head = heads.CosFace(CLASSES, SCALE, M, sample=0.5, seed=0)
    backbone = keras.Sequential([keras.Input((DIMS,)), keras.layers.Activation("linear")])
    model = mhe.HeadModel(backbone, head)
    head.kernel.assign(kernel)
    model.compile(keras.optimizers.SGD(1.0))
    wide = kernel.astype("float64")
    expected = [reference_gradient(lambda k, d=d: loss_over(d, k), wide) for d in DRAWS]
    seen = set()
    for _ in range(6):
        head.kernel.assign(kernel)
        loss = model.train_on_batch(X, LABELS)
        gradient = kernel - array(head.kernel)
        apart = [np.abs(gradient - each).max() for each in expected]
        draw = int(np.argmin(apart))
        assert apart[draw] < 1e-5
        assert loss == pytest.approx(loss_over(DRAWS[draw], wide), rel=1e-5)
        undrawn = sorted(set(range(CLASSES)) - DRAWS[draw])
        assert not gradient[:, undrawn].any()
        seen.add(draw)
    assert len(seen) > 1


@pytest.mark.one_backend
def test_expectation_of_the_gradient(kernel, gradient_step, reference_gradient):
    """The mean over many draws is that over all draws, each as likely as any other."""
    head = heads.CosFace(CLASSES, SCALE, M, sample=0.5, seed=1)
    head.build((None, DIMS))

    def loss(kernel):
        with keras.StatelessScope(state_mapping=[(head.kernel, kernel)]) as scope:
            logits = head(X, labels=LABELS, training=True)
            value = ops.mean(head.loss(LABELS, logits))
        head.seed_generator.state.assign(scope.get_current_value(head.seed_generator.state))
        return value

    step = gradient_step(loss)
    found = np.array([step(kernel)[1] for _ in range(300)])
    wide = kernel.astype("float64")
    each = [reference_gradient(lambda k, d=d: loss_over(d, k), wide) for d in DRAWS]
    error = np.std(each, axis=0) / np.sqrt(len(found))
    assert (np.abs(found.mean(axis=0) - np.mean(each, axis=0)) <= 4 * error + 1e-6).all()


@pytest.mark.parametrize("subcenters", [1, 2])
def test_vectors_of_classes_drawn_and_their_gradient(gradient_step, subcenters):
    """Classes that are drawn, in the batch once or twice, both or neither: sums of gradients."""
    rng = np.random.default_rng(2)
    drawn, index = np.array([1, 3, 4], "int32"), np.array([3, 0, 3, 6, 0], "int32")
    kernel = rng.normal(size=(DIMS, 8 * subcenters)).astype("float32")
    factors = rng.normal(size=(DIMS, 8 * subcenters)).astype("float32")
    columns = np.concatenate([drawn, index])[:, None] * subcenters + np.arange(subcenters)

    def value(kernel):
        found = drawn_vectors(
            kernel, ops.convert_to_tensor(drawn), ops.convert_to_tensor(index), subcenters
        )
        return ops.sum(ops.square(found) * ops.convert_to_tensor(factors))

    expected = np.zeros(kernel.shape)
    total = 0.0
    for place, column in enumerate(columns.ravel()):
        wide = kernel[:, column].astype("float64")
        total += np.sum(wide**2 * factors[:, place])
        expected[:, column] += 2 * wide * factors[:, place]
    found, gradient = gradient_step(value)(kernel)
    assert found == pytest.approx(total, rel=1e-5)
    np.testing.assert_allclose(gradient, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.one_backend
def test_what_is_drawn():
    seed = keras.random.SeedGenerator(3)
    index = ops.convert_to_tensor([7, 2, 7, 2])
    counts = np.zeros(10)
    for _ in range(800):
        drawn = array(draw_classes(index, 10, 4, seed))
        assert len(set(drawn.tolist())) == 4
        counts[drawn] += 1
    assert counts[7] == counts[2] == 800
    # Two of eight others: 200 times each, with a deviation of 12.
    assert np.abs(np.delete(counts, [2, 7]) - 200).max() < 50
    # Of a batch with more classes than are drawn, any may be.
    counts = np.zeros(6)
    for _ in range(400):
        counts[array(draw_classes(ops.arange(4), 6, 2, seed))] += 1
    assert not counts[4:].any()
    assert np.abs(counts[:4] - 200).max() < 50


KINDS = [
    *(heads.NormFace, heads.CosFace, heads.ArcFace, heads.CombinedMargin, heads.MagFace),
    *(heads.AdaFace, heads.CurricularFace, heads.SphereFace, heads.SphereFacePlus),
    *(heads.SphereFaceR,),
]


@pytest.mark.one_backend
@pytest.mark.parametrize(("kind", "subcenters"), [*itertools.product(KINDS, [1, 2])])
def test_logits_are_those_of_the_full_head(kind, subcenters):
    """Every sampled logit is one of the full ones; the true class comes first."""
    options = {"interclass_filtering_threshold": 0.9, "subcenters": subcenters}
    sampled, full = kind(9, sample=0.5, seed=0, **options), kind(9, **options)
    x = np.random.default_rng(1).normal(size=(3, 4)).astype("float32") * 4
    x[2] = 0
    labels = np.array([8, 0, 3])
    for head in (sampled, full):
        head.build((None, 4))
    full.kernel.assign(sampled.kernel)
    few, all_ = (array(head(x, labels=labels, training=True)) for head in (sampled, full))
    assert few.shape == (3, 5)  # round(4.5) = 4 are drawn
    np.testing.assert_allclose(few[:, 0], all_[np.arange(3), labels], rtol=1e-5, atol=1e-5)
    for sample in range(3):
        others = np.sort(few[sample, 1:])
        assert others[0] == pytest.approx(-1e30)  # its own class, a second time
        for each in others[1:]:
            assert np.abs(np.delete(all_[sample], labels[sample]) - each).min() < 1e-4
    # Logits without labels, or not in training, and their losses are the full ones.
    for given in ({}, {"labels": labels}):
        logits = sampled(x, **given)
        assert tuple(logits.shape) == (3, 9)
        assert np.isfinite(array(sampled.loss(labels, logits))).all()


@pytest.mark.one_backend
def test_labels_that_are_no_classes():
    head = heads.ArcFace(9, sample=0.5, seed=0)
    x = np.ones((3, 4), "float32")
    labels = ops.convert_to_tensor([2, 9, -1])
    losses = array(head.loss(labels, head(x, labels, training=True)))
    assert np.isnan(losses).tolist() == [False, True, True]
    with pytest.raises(ValueError, match="Received: label 9"):
        head.loss([2, 9, 0], head(x, labels, training=True))


@pytest.mark.one_backend
def test_float16_features():
    head = heads.ArcFace(9, sample=0.5, seed=0, dtype="mixed_float16")
    logits = head(np.ones((2, 4), "float16"), labels=np.array([0, 1]), training=True)
    assert keras.backend.standardize_dtype(logits.dtype) == "float32"
    assert np.isfinite(array(head.loss([0, 1], logits))).all()


@pytest.mark.one_backend
def test_shares():
    x, labels = np.ones((2, 4), "float32"), np.array([0, 1])
    for share, width in ((1.0, 10), (0.9, 10), (0.8, 9), (0.01, 2)):
        head = heads.CosFace(10, sample=share)
        assert tuple(head(x, labels=labels, training=True).shape) == (2, width)
        assert heads.CosFace.from_config(head.get_config()).sample == share
    for share in (0, -0.5, 1.01, float("nan"), "half"):
        with pytest.raises(ValueError, match=r"`sample` must be .*> 0.*Received: sample="):
            heads.CosFace(10, sample=share)
    with pytest.raises(ValueError, match=r"must not sample. Received: sample=0.5"):
        heads.CosFace(10, sample=0.5, energy=mhe.MHE(), energy_over="batch")
    with pytest.raises(ValueError, match="`seed`"):
        heads.CosFace(10, sample=0.5, seed=-1)


@pytest.mark.one_backend
def test_the_loss_must_be_the_heads_own():
    backbone = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    model = mhe.HeadModel(backbone, heads.CosFace(10, sample=0.5))
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    with pytest.raises(ValueError, match=r"compile without a loss. Received: 6 of 10 outputs"):
        model.train_on_batch(np.ones((2, 4)), np.array([0, 1]))
