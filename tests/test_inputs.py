"""What models train from: each input pipeline gives the weights that arrays give.

`docs/guides/inputs.md` has the tables below, which these tests prove cell by cell.
"""

from pathlib import Path

import keras
import numpy as np
import pytest

import gan
import mhe
import sphereface_plus

BACKEND = keras.backend.backend()
PAGE = Path(__file__).parents[1] / "docs" / "guides" / "inputs.md"
BATCH, BATCHES = 4, 4
array = keras.ops.convert_to_numpy
pytestmark = pytest.mark.usefixtures("weights_from_numpy")

STEPS = "`steps_per_execution=2`"
# What is refused, and the words; all else works on every backend.
REFUSED = {
    ("sample weights", "GAN"): "A GAN has no sample weights and no class weights",
    ("`class_weight`", "GAN"): "A GAN has no sample weights and no class weights",
    ("`class_weight`", "PrototypicalNetwork"): "The classes of an episode have no weights",
    ("`evaluate`", "GAN"): "A GAN is not evaluated by its losses",
}
# What Keras refuses on one backend.
NOT_ON_TORCH = {STEPS: "`steps_per_execution` must be 1 with the PyTorch backend"}


def draw(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


# --- models -------------------------------------------------------------------------------------


def dense(units, *shape, **options):
    layers = [keras.Input(shape), keras.layers.Flatten(), keras.layers.Dense(units, **options)]
    return keras.Sequential(layers)


def head_model():
    return mhe.HeadModel(dense(5, 4), mhe.layers.LearntPrototypes(3, 5))


def face_model():
    return sphereface_plus.FaceModel(dense(5, 4), sphereface_plus.CosFace(3, scale=8))


def prototypical_network():
    return mhe.fewshot.PrototypicalNetwork(dense(5, 4))


def adversarial():
    generator = keras.Sequential(
        [keras.Input((2,)), keras.layers.Dense(12, "tanh"), keras.layers.Reshape((2, 2, 3))]
    )
    critic = keras.Sequential(
        [
            keras.Input((2, 2, 3)),
            keras.layers.Flatten(),
            mhe.layers.SpectralNorm(keras.layers.Dense(1)),
        ]
    )
    return gan.GAN(generator, critic, seed=1)


MODELS = {
    "HeadModel": head_model,
    "FaceModel": face_model,
    "PrototypicalNetwork": prototypical_network,
    "GAN": adversarial,
}


def compiled(name, model=None, optimizer=None, **options):
    """A model of fixed initial weights, compiled."""
    model = MODELS[name]() if model is None else model
    optimizer = optimizer or (lambda: keras.optimizers.SGD(0.1))
    if name == "GAN":
        model.compile(optimizer(), optimizer(), **options)
    elif name == "HeadModel":
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(optimizer(), loss, **options)
    else:
        model.compile(optimizer(), **options)
    return model


def batches_of(name):
    """The batches that a model takes: inputs, and targets unless it is a GAN."""
    for number in range(BATCHES):
        if name == "GAN":
            rng = np.random.default_rng(number)
            yield (rng.integers(256, size=(BATCH, 2, 2, 3)).astype("uint8"),)
        elif name == "PrototypicalNetwork":
            support, query = draw(1, 3, 2, 4, seed=number), draw(1, 3, 2, 4, seed=100 + number)
            classes = np.repeat(np.arange(3, dtype="int32"), 2).reshape(1, 3, 2)
            yield {"support": support, "query": query}, classes
        else:
            labels = np.random.default_rng(number).integers(3, size=BATCH).astype("int32")
            yield draw(BATCH, 4, seed=number), labels


def joined(batches):
    """The batches of a list in one."""
    parts = list(zip(*batches, strict=True))
    return tuple(
        {key: np.concatenate([each[key] for each in part]) for key in part[0]}
        if isinstance(part[0], dict)
        else np.concatenate(part)
        for part in parts
    )


def size_of(name):
    return 1 if name == "PrototypicalNetwork" else BATCH


# --- inputs -------------------------------------------------------------------------------------


class Given(keras.utils.PyDataset):
    def __init__(self, batches, **options):
        super().__init__(**options)
        self.batches = list(batches)

    def __len__(self):
        return len(self.batches)

    def __getitem__(self, index):
        return self.batches[index]


def from_arrays(name):
    x, *y = joined(batches_of(name))
    return {"x": x, "y": y[0] if y else None, "batch_size": size_of(name)}


def from_tf_data(name):
    tf = pytest.importorskip("tensorflow")
    whole = tf.data.Dataset.from_tensor_slices(joined(batches_of(name)))
    return {"x": whole.batch(size_of(name)).prefetch(1)}


def from_data_loader(name):
    torch = pytest.importorskip("torch")
    return {"x": torch.utils.data.DataLoader(list(batches_of(name)), batch_size=None)}


def from_generator(name):
    def generate():
        while True:
            yield from batches_of(name)

    return {"x": generate(), "steps_per_epoch": BATCHES}


def from_py_dataset(name):
    return {"x": Given(batches_of(name), workers=2, use_multiprocessing=False)}


def from_grain(name):
    grain = pytest.importorskip("grain", exc_type=ImportError)
    # Keras does not know its length.
    data = grain.MapDataset.source(list(batches_of(name))).repeat()
    return {"x": data, "steps_per_epoch": BATCHES}


INPUTS = {
    "NumPy arrays": from_arrays,
    "`tf.data.Dataset`": from_tf_data,
    "PyTorch `DataLoader`": from_data_loader,
    "generator": from_generator,
    "`PyDataset`, two workers": from_py_dataset,
    "Grain `MapDataset`": from_grain,
}


@pytest.fixture(scope="module")
def kept():
    """Of each model: it, compiled once; its first variables; the weights that steps lead to."""
    return {}


def variables(model):
    return [*model.variables, *model.optimizer.variables]


def weights(model):
    return [array(each) for each in model.trainable_variables]


def put(variables, values):
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)


def assert_same(found, expected):
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


def step_by_step(model, batches):
    """The weights after each batch, trained on one by one."""
    for batch in batches:
        model.train_on_batch(*batch)
        yield weights(model)


def begin(name, kept):
    """Returns a compiled model at its start, and the weights that it ends with."""
    if name not in kept:
        model = compiled(name)
        start = [array(each) for each in variables(model)]
        first = weights(model)
        *_, last = step_by_step(model, batches_of(name))
        assert max(np.abs(a - b).max() for a, b in zip(first, last, strict=True)) > 1e-3
        kept[name] = model, start, last
    model, start, last = kept[name]
    put(variables(model), start)
    return model, last


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("feed", INPUTS)
def test_every_input_trains_as_batch_by_batch(feed, name, kept):
    model, expected = begin(name, kept)
    model.fit(**INPUTS[feed](name), shuffle=False, verbose=0)
    assert_same(weights(model), expected)
    given = INPUTS[feed](name)
    given["steps"] = given.pop("steps_per_epoch", None)
    if ("`evaluate`", name) in REFUSED:
        with pytest.raises(NotImplementedError, match=REFUSED["`evaluate`", name]):
            model.evaluate(**given, verbose=0)
    else:
        losses = []
        for batch in batches_of(name):
            model.reset_metrics()
            losses.append(model.test_on_batch(*batch, return_dict=True)["loss"])
        loss = model.evaluate(**given, verbose=0, return_dict=True)["loss"]
        assert loss == pytest.approx(np.mean(losses), rel=1e-4)


# --- options ------------------------------------------------------------------------------------


def trained(name, **options):
    """The weights that a model of its own ends with, compiled with some options."""

    def train(kept):
        begin(name, kept)
        model = compiled(name, **options)
        put(model.variables, kept[name][1][: len(model.variables)])
        model.fit(**from_arrays(name), shuffle=False, verbose=0)
        return weights(model), kept[name][2]

    return train


def sample_weights(name):
    """Weights of 2 and 0 in turn are those of half of the samples."""

    def train(kept):
        model, _ = begin(name, kept)
        batches = [
            (*batch, np.broadcast_to([2.0, 0.0] * (batch[1].shape[-1] // 2), batch[1].shape))
            for batch in batches_of(name)
        ]
        x, y, factors = joined(batches)
        model.fit(x, y, size_of(name), sample_weight=factors, shuffle=False, verbose=0)
        found = weights(model)
        put(variables(model), kept[name][1])
        for x, y in batches_of(name):
            if isinstance(x, dict):
                half = {"support": x["support"], "query": x["query"][:, :, ::2]}, y[:, :, ::2]
            else:
                half = x[::2], y[::2]
            model.train_on_batch(*half)
        return found, weights(model)

    return train


def class_weights(name):
    def train(kept):
        model, _ = begin(name, kept)
        factors = {0: 0.5, 1: 3.0, 2: 0.0}
        model.fit(**from_arrays(name), class_weight=factors, shuffle=False, verbose=0)
        found = weights(model)
        put(variables(model), kept[name][1])
        for x, y in batches_of(name):
            model.train_on_batch(x, y, np.array([factors[int(label)] for label in y]))
        return found, weights(model)

    return train


def accumulated(name):
    """Two batches make a step by the mean of their gradients: of the generator, in a GAN."""

    def train(kept):
        model, _ = begin(name, kept)
        own = model.generator if name == "GAN" else model
        first, ends = weights(own), []
        two = list(batches_of(name))[:2]
        trainable = model.trainable_variables
        before = weights(model)
        for batch in two:
            put(trainable, before)
            model.train_on_batch(*batch)
            ends.append(weights(own))
        slow = compiled(
            name, optimizer=lambda: keras.optimizers.SGD(0.1, gradient_accumulation_steps=2)
        )
        put(slow.variables, kept[name][1][: len(slow.variables)])
        slow.train_on_batch(*two[0])
        assert_same(weights(slow), before)
        slow.train_on_batch(*two[1])
        found = weights(slow.generator if name == "GAN" else slow)
        expected = [(one + other) / 2 for one, other in zip(*ends, strict=True)]
        assert max(np.abs(a - b).max() for a, b in zip(first, expected, strict=True)) > 1e-4
        return found, expected

    return train


def averaged(name):
    """The moving average of the weights takes their place at the end."""

    def train(kept):
        model, _ = begin(name, kept)
        average = None
        for now in step_by_step(model, batches_of(name)):
            pairs = zip(average or now, now, strict=True)
            average = [(one + other) / 2 for one, other in pairs]
        options = {"use_ema": True, "ema_momentum": 0.5}
        found, _ = trained(name, optimizer=lambda: keras.optimizers.SGD(0.1, **options))(kept)
        return found, average

    return train


OPTIONS = {
    "sample weights": sample_weights,
    "`class_weight`": class_weights,
    STEPS: lambda name: trained(name, steps_per_execution=2),
    "gradient accumulation": accumulated,
    "moving average of the weights": averaged,
    "`run_eagerly`": lambda name: trained(name, run_eagerly=True),
    "`jit_compile`": lambda name: trained(name, jit_compile=True),
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_has_its_effect_or_is_refused(option, name, kept):
    if BACKEND == "torch" and option == "`jit_compile`":
        pytest.skip("PyTorch's compiler takes minutes for these models")
    if BACKEND == "torch" and option in NOT_ON_TORCH:
        with pytest.raises(ValueError, match=NOT_ON_TORCH[option]):
            OPTIONS[option](name)(kept)
        return
    if (option, name) in REFUSED:
        model, _ = begin(name, kept)
        given = from_arrays(name)
        key, value = ("class_weight", {0: 2.0})
        if option == "sample weights":
            key, value = "sample_weight", np.ones(len(given["x"]))
        with pytest.raises(ValueError, match=REFUSED[option, name]):
            model.fit(**given, **{key: value}, verbose=0)
        return
    found, expected = OPTIONS[option](name)(kept)
    if (BACKEND, option, name) == ("tensorflow", "`jit_compile`", "GAN"):
        # XLA draws other noise from the same seed.
        assert all(np.isfinite(each).all() for each in found)
        model, first = kept[name][:2]
        before = dict(zip(map(id, variables(model)), first, strict=True))
        for ours, variable in zip(found, model.trainable_variables, strict=True):
            assert np.any(ours != before[id(variable)])
        return
    assert_same(found, expected)


# --- tables -------------------------------------------------------------------------------------


def table(rows):
    """A table of what works and what is refused, without an empty cell."""
    yield f"| | {' | '.join(f'`{name}`' for name in MODELS)} |"
    yield "|---" * (len(MODELS) + 1) + "|"
    for row in rows:
        works = "not on PyTorch" if row in NOT_ON_TORCH else "works"
        cells = ["refused" if (row, name) in REFUSED else works for name in MODELS]
        yield f"| {row} | {' | '.join(cells)} |"


@pytest.mark.one_backend
def test_the_page_has_these_tables():
    page = PAGE.read_text("utf-8")
    for rows in (INPUTS, [*OPTIONS, "`evaluate`"]):
        assert "\n".join(table(rows)) in page, "\n".join(table(rows))
    for message in (*REFUSED.values(), *NOT_ON_TORCH.values()):
        assert message in " ".join(page.split())
