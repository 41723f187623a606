"""What all regularizers of the family share: saving, attaching, features, degenerate neurons."""

import json

import keras
import numpy as np
import pytest
from keras import ops

import mhe
from mhe import regularizers

FAMILY = {
    "comhe": lambda **given: regularizers.CoMHE(dims=1, **given),
    "comhe by angle": lambda **given: regularizers.CoMHE(
        projection="angle", dims=1, steps=2, **given
    ),
    "comhe by adversary": lambda **given: regularizers.CoMHE(
        projection="adversarial", dims=1, steps=2, **given
    ),
    "covering": lambda **given: regularizers.Covering(steps=3, **given),
    "gram_determinant": lambda **given: regularizers.GramDeterminant(**given),
    "minimal_angle": lambda **given: regularizers.MinimalAngle(**given),
    **{
        kind: lambda kind=kind, **given: regularizers.Orthogonality(kind=kind, **given)
        for kind in ("single", "double", "coherence", "spectral")
    },
    "spectral of units": lambda **given: regularizers.Orthogonality(
        kind="spectral", unit=True, **given
    ),
    "polarization": lambda **given: regularizers.Polarization(steps=3, **given),
    "polarization by angle": lambda **given: regularizers.Polarization(
        s=1, distance="angle", steps=3, **given
    ),
    "separation": lambda **given: regularizers.Separation(**given),
    "separation by angle": lambda **given: regularizers.Separation(distance="angle", **given),
    "uniformity": lambda **given: regularizers.Uniformity(**given),
}
# These take their time to compile.
SEARCHING = ("comhe", "covering", "polarization")
family = pytest.mark.parametrize("make", FAMILY.values(), ids=FAMILY)
pytestmark = pytest.mark.usefixtures("weights_from_numpy")


def everything(**given):
    """The sum of all that search for nothing, which compiles at once."""
    return mhe.Sum(
        *(make(**given) for name, make in FAMILY.items() if not name.startswith(SEARCHING))
    )


def kernel(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


@family
@pytest.mark.one_backend
def test_json_gives_the_same_regularizer_back(make):
    regularizer = make(strength=0.5, space="half", axis=(0, -2))
    config = json.loads(json.dumps(keras.saving.serialize_keras_object(regularizer)))
    copy = keras.regularizers.get(config)
    assert type(copy) is type(regularizer)
    assert copy.get_config() == regularizer.get_config()
    assert repr(copy) == repr(regularizer)
    assert config["registered_name"] == f"mhe>{type(regularizer).__name__}"


@family
@pytest.mark.parametrize("strength", [-1, float("nan"), float("inf"), "1"])
@pytest.mark.one_backend
def test_strength_is_checked(make, strength):
    with pytest.raises(ValueError, match=r"`strength` .*Received: "):
        make(strength=strength)


@family
@pytest.mark.one_backend
def test_options_are_checked(make):
    with pytest.raises(ValueError, match=r"`space` .*Received: space='third'"):
        make(space="third")
    with pytest.raises(ValueError, match=r"`axis` .*Received: axis=1.5"):
        make(axis=1.5)
    with pytest.raises(ValueError, match=r"`axis` is out of range .*Received: axis=2"):
        make(axis=2)(kernel(3, 4))


DEGENERATE = {
    "zero": np.zeros((4, 4)),
    "one zero": np.eye(4) - np.eye(1, 16).reshape(4, 4),
    "equal": np.ones((4, 4)),
    "opposite": np.array([[1.0], [-1.0], [1.0], [-1.0]]) * np.arange(1, 5),
    "collinear": np.array([[1.0], [-2.0], [3.0], [0.1]]) * np.ones((1, 4)),
    "orthogonal": np.eye(4),
    "one": np.array([[1.0, 2.0]]),
    "one number": np.array([[1.0], [-2.0], [3.0]]),
    "none": np.ones((0, 3)),
}


@pytest.mark.parametrize("space", [pytest.param("full", marks=pytest.mark.one_backend), "half"])
def test_degenerate_neurons_are_finite(space, gradient_step):
    together = {"all": everything(space=space, axis=0)}
    each = {name: make(space=space, axis=0) for name, make in FAMILY.items()}
    # Compiling each by itself would take a minute.
    compiles = keras.backend.backend() != "torch"
    for kind, regularizer in (together if compiles else each).items():
        step = gradient_step(regularizer)
        for name, rows in DEGENERATE.items():
            if compiles and rows.shape not in ((4, 4), (1, 2)):
                continue  # each shape compiles anew
            for dtype in ("float32", "float16") if name == "one zero" else ("float32",):
                value, gradient = step(rows.astype(dtype))
                assert np.isfinite(value), (kind, name, dtype)
                assert np.all(np.isfinite(gradient)), (kind, name, dtype)
                assert gradient.shape == rows.shape, (kind, name)


def test_compiled_as_eager(value_and_gradient):
    regularizer, weights = everything(space="half"), kernel(7, 5)
    value, gradient = value_and_gradient(regularizer, weights, eager=True)
    compiled, again = value_and_gradient(
        regularizer, weights, jit_compile=keras.backend.backend() != "torch"
    )
    assert compiled == pytest.approx(value, rel=1e-5, abs=1e-6)
    np.testing.assert_allclose(again, gradient, rtol=1e-3, atol=1e-4)


def layers():
    return {
        "dense": (keras.layers.Dense(4), (None, 6), -1),
        "conv": (keras.layers.Conv2D(4, 3), (None, 5, 5, 2), -1),
        "depthwise": (keras.layers.DepthwiseConv2D(3, depth_multiplier=2), (None, 5, 5, 2), (2, 3)),
        "embedding": (keras.layers.Embedding(5, 6), (None,), 0),
        "einsum": (keras.layers.EinsumDense("ab,bcd->acd", (2, 3)), (None, 6), (1, 2)),
    }


@family
@pytest.mark.parametrize("kind", layers())
@pytest.mark.one_backend
def test_attach_knows_the_axis(make, kind):
    layer, shape, axis = layers()[kind]
    model = keras.Sequential([keras.Input(shape[1:]), layer])
    mhe.attach(model, make(strength=2.0))
    (loss,) = map(ops.convert_to_numpy, model.losses)
    weight = ops.convert_to_numpy(layer.weights[0])
    assert float(loss) == pytest.approx(float(make(strength=2.0, axis=axis)(weight)), rel=1e-5)
    rows = np.moveaxis(weight, axis, (0, 1) if isinstance(axis, tuple) else 0)
    rows = rows.reshape(np.prod(np.take(weight.shape, axis)), -1)
    assert float(loss) == pytest.approx(float(make(strength=2.0, axis=0)(rows)), rel=1e-5)
    mhe.detach(model)
    assert model.losses == []


@family
@pytest.mark.one_backend
def test_models_keep_it(make, tmp_path):
    model = keras.Sequential(
        [keras.Input((6,)), keras.layers.Dense(4, kernel_regularizer=make(strength=0.5))]
    )
    mhe.attach(model, make())
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    losses, again = (list(map(ops.convert_to_numpy, each.losses)) for each in (model, loaded))
    np.testing.assert_allclose(again, losses, rtol=1e-6)


@pytest.mark.parametrize(
    "policy", [pytest.param("float32", marks=pytest.mark.one_backend), "mixed_float16"]
)
def test_fit_with_kernels_and_features(policy):
    hidden = keras.layers.Dense(
        4,
        kernel_regularizer=everything(strength=0.1),
        activity_regularizer=everything(strength=0.1, axis=0),
        dtype=policy,
    )
    model = keras.Sequential([keras.Input((6,)), hidden, keras.layers.Dense(1, dtype="float32")])
    model.compile(keras.optimizers.SGD(0.01), "mse")
    before = model.get_weights()
    # Where the last batch is smaller, TensorFlow does not know the number of rows when it compiles;
    # JAX would only compile twice.
    rows = 16 if keras.backend.backend() == "jax" else 12
    history = model.fit(kernel(rows, 6), kernel(rows, 1), batch_size=8, epochs=2, verbose=0).history
    assert np.all(np.isfinite(history["loss"]))
    after = model.get_weights()
    assert all(np.all(np.isfinite(each)) for each in after)
    assert not np.allclose(before[0], after[0])


def test_searches_are_compiled_in_fit():
    names = ("comhe by angle", "comhe by adversary", "covering", "polarization")
    searches = mhe.Sum(*(FAMILY[name]() for name in names), regularizers.CoMHE(dims=2))
    model = keras.Sequential(
        [keras.Input((6,)), keras.layers.Dense(4, kernel_regularizer=searches)]
    )
    compiled = keras.backend.backend() != "torch"
    model.compile(keras.optimizers.SGD(0.01), "mse", jit_compile=compiled)
    history = model.fit(kernel(8, 6), kernel(8, 4), batch_size=8, epochs=2, verbose=0).history
    assert np.all(np.isfinite(history["loss"]))
    assert all(np.all(np.isfinite(each)) for each in model.get_weights())
