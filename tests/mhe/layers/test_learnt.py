"""Learnt prototypes: given, drawn or fixed, guided by costs, saved."""

import json
import math

import keras
import numpy as np
import pytest
from keras import ops

import mhe
from mhe import layers

array = ops.convert_to_numpy


def test_prototypes_are_drawn_given_or_fixed(tmp_path, draw, small_model):
    given = draw(5, 4, seed=7)
    drawn = layers.LearntPrototypes(5, 4, "squared", prototypes_initializer="ones")
    np.testing.assert_array_equal(array(drawn.prototypes), 1)
    learnt = layers.LearntPrototypes(5, 4, "huber", 0.5, prototypes=given)
    fixed = layers.LearntPrototypes(5, 4, prototypes=given, trainable=False)
    model = small_model(learnt, fixed)
    model.compile(
        keras.optimizers.SGD(1.0),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    labels = np.arange(8) % 5
    model.fit(draw(8, 3), [labels, labels], verbose=0)
    assert np.abs(array(learnt.prototypes) - given).max() > 1e-3
    np.testing.assert_array_equal(array(fixed.prototypes), given)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras", safe_mode=True)
    x = draw(2, 3)
    for one, other in zip(model(x), loaded(x), strict=True):
        np.testing.assert_array_equal(array(one), array(other))
    for head in (drawn, learnt, fixed):
        config = json.loads(json.dumps(keras.saving.serialize_keras_object(head)))
        copy = keras.saving.deserialize_keras_object(config)
        assert copy.get_config() == head.get_config()
        assert copy.trainable == head.trainable
    np.testing.assert_array_equal(array(copy.prototypes), given)


def test_costs_guide_the_prototypes():
    costs = mhe.ClassTree.from_paths(["animal/dog", "animal/cat", "oak"]).cost_matrix()
    guide = mhe.Sum(mhe.Distortion(costs, 2.0), mhe.Rank(costs))
    head = layers.LearntPrototypes(3, 2, prototypes_regularizer=guide)
    expected = float(array(mhe.Distortion(costs, 2.0)(head.prototypes)))
    expected += float(array(mhe.Rank(costs)(head.prototypes)))
    assert float(array(head.losses[0])) == pytest.approx(expected, rel=1e-6)
    copy = layers.LearntPrototypes.from_config(head.get_config())
    assert repr(copy.prototypes_regularizer) == repr(guide)
    for other in (guide, mhe.Distortion(costs)):
        with pytest.raises(ValueError, match=r"cover all 4 classes.*costs of 3 classes"):
            layers.LearntPrototypes(4, 2, prototypes_regularizer=other)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"classes": 1}, "`classes`.*Received: classes=1"),
        ({"dims": 0}, "`dims`.*Received: dims=0"),
        ({"distance": "manhattan"}, '"huber". Received: distance=.manhattan'),
        ({"delta": 0}, "`delta`.*Received: delta=0"),
        ({"delta": math.inf}, "Received: delta=inf"),
        (
            {"prototypes": np.ones((4, 5))},
            r"\(classes, dims\), here \(5, 4\). Received: shape \(4, 5\)",
        ),
        (
            {"prototypes": np.full((5, 4), np.nan)},
            r"finite. Received: nan at \(0, 0\) of \(classes, dims\)",
        ),
    ],
)
def test_bad_input(options, named):
    with pytest.raises(ValueError, match=named):
        layers.LearntPrototypes(**{"classes": 5, "dims": 4, **options})
