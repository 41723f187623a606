"""Distortion and Rank: values and gradients by float64 formulas, equal prototypes, training."""

import itertools
import json
import math

import keras
import numpy as np
import pytest
from keras import ops

import mhe
from mhe.regularizers import rank_loss, squared_distortion

BACKEND = keras.backend.backend()
TREE = mhe.ClassTree.from_paths(["animal/dog/poodle", "animal/dog/husky", "animal/cat", "oak"])
COSTS = TREE.cost_matrix([3.0, 2.0, 0.5])


def drawn(seed=0, dims=3):
    return np.random.default_rng(seed).normal(size=(len(COSTS), dims)).astype("float32")


def reference_distortion(rows, scale_free):
    """The published average, the scale found by a search instead of its closed form."""
    from scipy.optimize import minimize_scalar

    pairs = list(itertools.permutations(range(len(COSTS)), 2))
    distances = np.array([math.dist(rows[k], rows[m]) for k, m in pairs])
    costs = np.array([COSTS[k, m] for k, m in pairs])

    def mean(scale):
        return np.mean((scale * distances - costs) ** 2 / costs**2)

    if not scale_free:
        return mean(1.0)
    found = minimize_scalar(mean, bounds=(0, 100), method="bounded", options={"xatol": 1e-10})
    return mean(found.x)


def reference_rank(rows):
    """RankNet's cross-entropy, a triplet at a time."""
    terms = []
    for k, m, n in itertools.permutations(range(len(COSTS)), 3):
        o = math.dist(rows[k], rows[m]) - math.dist(rows[k], rows[n])
        probability = 1 / (1 + math.exp(-o))
        target = 0.5 + 0.5 * np.sign(COSTS[k, m] - COSTS[k, n])
        terms.append(-target * math.log(probability) - (1 - target) * math.log(1 - probability))
    return sum(terms) / len(terms)


@pytest.mark.parametrize("scale_free", [True, False])
def test_distortion_and_its_gradient(scale_free, value_and_gradient, reference_gradient):
    rows = drawn()
    value, gradient = value_and_gradient(
        lambda x: squared_distortion(x, COSTS, scale_free), rows, jit_compile=True
    )
    assert value == pytest.approx(reference_distortion(rows.astype("float64"), scale_free), 1e-5)
    expected = reference_gradient(lambda x: reference_distortion(x, scale_free), rows, 1e-4)
    np.testing.assert_allclose(gradient, expected, rtol=1e-3, atol=1e-5)


def test_rank_and_its_gradient(value_and_gradient, reference_gradient):
    rows = drawn(1)
    value, gradient = value_and_gradient(lambda x: rank_loss(x, COSTS), rows, jit_compile=True)
    assert value == pytest.approx(reference_rank(rows.astype("float64")), rel=1e-5)
    expected = reference_gradient(reference_rank, rows)
    np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-6)


def test_published_targets_have_the_same_mean():
    """With S = 0 for equal costs, as published, instead of 1/2."""
    rows = drawn(2).astype("float64")
    terms = []
    for k, m, n in itertools.permutations(range(len(COSTS)), 3):
        o = math.dist(rows[k], rows[m]) - math.dist(rows[k], rows[n])
        target = float(COSTS[k, m] > COSTS[k, n])
        terms.append(-target * -math.log1p(math.exp(-o)) + (1 - target) * math.log1p(math.exp(o)))
    assert np.mean(terms) == pytest.approx(reference_rank(rows), rel=1e-12)


def test_drawn_triplets_estimate_the_mean():
    rows, costs = (
        np.random.default_rng(0).normal(size=(30, 3)).astype("float32"),
        mhe.ClassTree.from_paths([f"{n % 5}/{n}" for n in range(30)]).cost_matrix(),
    )
    whole = float(rank_loss(rows, costs))
    draws = [float(rank_loss(rows, costs, triplets=2000, seed=seed)) for seed in range(8)]
    assert len(set(draws)) == 8
    assert np.mean(draws) == pytest.approx(whole, abs=0.02)
    assert float(rank_loss(rows, costs, triplets=2000, seed=3)) == draws[3]
    # 30 · 29 · 28 / 2 triplets but for the order of two: all of them.
    assert float(rank_loss(rows, costs, triplets=12180)) == whole


def test_draws_are_of_different_classes():
    # Distances and costs agree where all three classes differ: no term is above log 2.
    rows = (50.0 * 3.0 ** np.arange(8))[:, None].astype("float32")
    costs = np.abs(rows - rows.T)
    for seed in range(3):
        assert float(rank_loss(rows, costs, triplets=100, seed=seed)) < 1e-6


def test_a_compiled_step_draws_afresh(gradient_step):
    costs = mhe.ClassTree.from_paths([f"{n % 5}/{n}" for n in range(30)]).cost_matrix()
    rows = np.random.default_rng(0).normal(size=(30, 3)).astype("float32")
    step = gradient_step(lambda x: rank_loss(x, costs, triplets=50), jit_compile=True)
    touched = []
    for _ in range(3):
        value, gradient = step(rows)
        assert np.all(np.isfinite(gradient))
        touched.append(tuple(np.flatnonzero(np.abs(gradient).sum(axis=1))))
        rows = rows - 1e-4 * gradient
        touched.append(round(float(value), 5))
    assert len(set(touched[1::2])) == 3


def test_a_resumed_training_draws_what_an_unbroken_one_would():
    costs = mhe.ClassTree.from_paths([f"{n % 5}/{n}" for n in range(30)]).cost_matrix()
    rows = np.random.default_rng(0).normal(size=(30, 3)).astype("float32")
    unbroken, resumed = (mhe.Rank(costs, triplets=50) for _ in range(2))
    values = [float(unbroken(rows + np.float32(step) / 1024)) for step in range(4)]
    # Moved together, prototypes keep their distances: the draw alone makes the difference.
    assert max(values) - min(values) > 1e-3
    assert float(resumed(rows + np.float32(3) / 1024)) == values[3]


@pytest.mark.parametrize("loss", [squared_distortion, rank_loss])
def test_equal_and_tiny_and_huge_prototypes(loss, gradient_step):
    rows = drawn()
    rows[1] = rows[0]
    step = gradient_step(lambda x: loss(x, COSTS))
    tiny, huge = rows * np.float32(1e-22), rows * np.float32(1e15)
    values = {}
    for name, at in {"rows": rows, "zero": 0 * rows, "tiny": tiny, "huge": huge}.items():
        values[name], gradient = step(at)
        assert np.all(np.isfinite(gradient)), name
    if loss is squared_distortion:
        assert values["zero"] == 1
        assert values["tiny"] == pytest.approx(values["rows"], rel=1e-5)
        assert values["huge"] == pytest.approx(values["rows"], rel=1e-5)
    else:
        assert values["zero"] == pytest.approx(math.log(2))
        assert values["tiny"] == pytest.approx(math.log(2))
        assert math.isfinite(values["huge"])


@pytest.mark.parametrize(
    "regularizer",
    [
        mhe.Distortion(COSTS),
        mhe.Distortion(COSTS.tolist(), 0.25, scale_free=False),
        mhe.Rank(COSTS),
        mhe.Rank(COSTS, 3.0, triplets=None),
    ],
    ids=str,
)
def test_regularizers(regularizer):
    rows = drawn(4)
    config = json.loads(json.dumps(keras.saving.serialize_keras_object(regularizer)))
    copy = keras.saving.deserialize_keras_object(config)
    assert repr(copy) == repr(regularizer)
    assert copy.get_config() == regularizer.get_config()
    assert keras.regularizers.get(config).get_config() == regularizer.get_config()
    if isinstance(regularizer, mhe.Distortion):
        expected = reference_distortion(rows.astype("float64"), regularizer.scale_free)
    else:
        expected = reference_rank(rows.astype("float64"))
    assert float(copy(rows)) == pytest.approx(regularizer.strength * expected, rel=1e-5)
    half = copy(ops.cast(rows, "float16"))
    assert keras.backend.standardize_dtype(half.dtype) == "float32"
    assert float(half) == pytest.approx(regularizer.strength * expected, rel=1e-2)
    assert mhe.regularizers.describe(copy) == repr(regularizer)


def test_names():
    assert repr(mhe.Distortion(COSTS, 2)) == "Distortion(4 classes, 2, scale_free)"
    assert repr(mhe.Rank(COSTS, triplets=None)) == "Rank(4 classes, 1, triplets=all)"
    assert keras.saving.get_registered_object("mhe>Distortion") is mhe.Distortion
    assert keras.saving.get_registered_object("mhe>Rank") is mhe.Rank


def test_training_lowers_the_distortion(tmp_path):
    layer = keras.layers.Embedding(4, 3, embeddings_regularizer=mhe.Distortion(COSTS, 10.0))
    model = keras.Sequential([keras.Input((1,), dtype="int32"), layer, keras.layers.Flatten()])
    jit_compile = BACKEND != "torch"  # Keras compiles nothing there without a C++ toolchain
    model.compile(keras.optimizers.SGD(0.05), "mse", jit_compile=jit_compile)
    layer.embeddings.assign(drawn(3))
    before = mhe.metrics.distortion(layer.embeddings, COSTS)
    x = np.arange(4)[:, None]
    model.fit(x, np.zeros((4, 3), "float32"), epochs=40, verbose=0)
    assert mhe.metrics.distortion(layer.embeddings, COSTS) < before / 3
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras", safe_mode=True)
    first, second = (float(ops.convert_to_numpy(each.losses[0])) for each in (model, loaded))
    assert first == pytest.approx(second, rel=1e-6)


def test_bad_input():
    for make in (mhe.Distortion, mhe.Rank):
        with pytest.raises(ValueError, match="square matrix"):
            make(np.ones((2, 3)))
        for strength in (-1, math.inf, True, "1"):
            with pytest.raises(ValueError, match=r"`strength`.*Received: strength="):
                make(COSTS, strength)
        for shape in ((3, 2), (4,), (4, 2, 2)):
            with pytest.raises(ValueError, match=r"4 classes need as many.*Received: shape"):
                make(COSTS)(np.ones(shape, "float32"))
    with pytest.raises(ValueError, match="more than 0 for every mistake"):
        mhe.Distortion([[0, 0], [0, 0]])
    with pytest.raises(ValueError, match=r"3 classes or more. Received: 2"):
        mhe.Rank([[0, 1], [1, 0]])
    for triplets in (0, 1.5, True):
        with pytest.raises(ValueError, match=r"`triplets`.*Received: triplets="):
            mhe.Rank(COSTS, triplets=triplets)
