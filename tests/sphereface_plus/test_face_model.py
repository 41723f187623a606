"""Faces to embeddings and logits in one model: what is trained on, embedded and saved."""

import keras
import numpy as np
import pytest
from keras import ops

from sphereface_plus.backbones import sfnet
from sphereface_plus.face_model import FaceModel
from sphereface_plus.heads import CosFace

array = ops.convert_to_numpy
SHAPE = (16, 17, 1)


@keras.saving.register_keras_serializable(package="test_face_model")
class Margin(keras.layers.Layer):
    """Takes 1 from the logit of the true class, and has a loss of its own."""

    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1], 3), name="kernel")

    def call(self, features, labels=None, training=None):
        logits = ops.matmul(ops.cast(features, "float32"), self.kernel)
        if labels is None:
            return logits
        return logits - ops.one_hot(ops.cast(labels, "int32"), 3, dtype=logits.dtype)

    def loss(self, labels, logits):
        return ops.sparse_categorical_crossentropy(
            ops.cast(labels, "int32"), logits, from_logits=True
        )


def data():
    rng = np.random.default_rng(0)
    return rng.normal(size=(5, *SHAPE)).astype("float32"), np.array([0, 1, 2, 0, 1])


def flat(dims=4):
    return keras.Sequential([keras.Input(SHAPE), keras.layers.Flatten(), keras.layers.Dense(dims)])


class Faces(keras.utils.PyDataset):
    """Batches of images and labels, of which the last is a smaller one."""

    def __init__(self, images, labels, size):
        super().__init__()
        self.images, self.labels, self.size = images, labels, size

    def __len__(self):
        return -(-len(self.images) // self.size)

    def __getitem__(self, place):
        own = slice(place * self.size, (place + 1) * self.size)
        return self.images[own], self.labels[own]

    def on_epoch_end(self):
        raise AssertionError("to embed is no epoch")


@pytest.mark.usefixtures("weights_from_numpy")
def test_embeddings_and_those_of_mirror_images():
    images, labels = data()
    model = FaceModel(flat(), Margin())
    kernel, bias = (array(weight).astype("float64") for weight in model.backbone.weights)

    def embeddings(of):
        return of.reshape(len(of), -1).astype("float64") @ kernel + bias

    mirrored = np.concatenate([embeddings(images), embeddings(images[:, :, ::-1])], axis=1)
    expected = {False: embeddings(images), True: mirrored}
    sizes = []
    predict = model.backbone.predict_on_batch
    model.backbone.predict_on_batch = lambda x: sizes.append(len(x)) or predict(x)
    for mirror in (False, True):
        for given in (
            images,
            Faces(images, labels, 2),
            (images[start : start + 2] for start in (0, 2, 4)),
        ):
            found = model.embed(given, mirror=mirror, batch_size=2)
            assert found.dtype == "float32"
            np.testing.assert_allclose(found, expected[mirror], rtol=1e-4, atol=1e-4)
    # Never more than a batch at once, nor one of another size, for which it would be compiled.
    assert set(sizes) == {2}


@pytest.fixture
def half_precision():
    # The other half precision scales losses, and leaves out the first steps.
    keras.config.set_dtype_policy("mixed_bfloat16")
    yield
    keras.config.set_dtype_policy("float32")


@pytest.mark.usefixtures("weights_from_numpy", "half_precision")
def test_trains_by_the_loss_of_its_head_and_is_saved_whole_and_in_part(tmp_path):
    images, labels = data()
    model = FaceModel(sfnet(4, 6, SHAPE, batch_norm=True, width=1 / 16), Margin())
    model.compile(keras.optimizers.SGD(0.01), metrics=["accuracy"])
    features, logits = (array(each) for each in model(images, training=True))
    assert (features.dtype, logits.dtype) == ("float32", "float32")
    margins = logits.astype("float64") - np.eye(3)[labels]
    logs = margins - np.log(np.exp(margins).sum(axis=1, keepdims=True))
    expected = -np.mean(logs[np.arange(5), labels]) + sum(map(array, model.losses))

    def trained(model):
        return [array(model.backbone.get_layer("conv1_1").kernel), array(model.head.kernel)]

    before = trained(model)
    history = model.fit(images, labels, batch_size=5, verbose=0).history
    assert history["loss"][0] == pytest.approx(expected, rel=1e-2)
    assert history["accuracy"][0] == pytest.approx(np.mean(logits.argmax(axis=1) == labels))
    for old, new in zip(before, trained(model), strict=True):
        assert np.abs(old - new).max() > 1e-5

    embeddings = model.embed(images)
    model.save(tmp_path / "model.keras")
    model.backbone.save(tmp_path / "backbone.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras", safe_mode=True)
    assert type(loaded) is FaceModel
    np.testing.assert_allclose(array(loaded(images)), array(model(images)), atol=1e-6)
    backbone = keras.saving.load_model(tmp_path / "backbone.keras", safe_mode=True)
    np.testing.assert_allclose(FaceModel(backbone, Margin()).embed(images), embeddings, atol=1e-6)


def test_what_is_no_backbone():
    with pytest.raises(ValueError, match=r"must be a Keras model. Received: <Dense"):
        FaceModel(keras.layers.Dense(4), Margin())
    images = keras.Sequential([keras.Input(SHAPE), keras.layers.ReLU()])
    with pytest.raises(
        ValueError, match=r"global pooling .* Received: outputs \(None, 16, 17, 1\)"
    ):
        FaceModel(images, Margin())
    unbuilt = FaceModel(keras.Sequential([keras.layers.ReLU()]), Margin())
    with pytest.raises(ValueError, match=r"\(B, dims\).* Received: outputs \(5, 16, 17, 1\)"):
        unbuilt.embed(data()[0])


def test_labels_that_are_no_class():
    model = FaceModel(flat(), CosFace(3))
    model.compile("sgd")
    images, labels = data()
    with pytest.raises(ValueError, match=r"from 0 to 2, as there are 3 classes. Received: label 3"):
        model.fit(images, labels + 1, verbose=0)


@pytest.mark.parametrize(
    ("images", "options", "message"),
    [
        (np.zeros((0, *SHAPE)), {}, "at least one image to embed. Received: none"),
        (3, {}, "an array, a PyDataset or an iterable of batches. Received: 3"),
        (np.zeros((2, *SHAPE)), {"batch_size": 0}, "`batch_size` must be at least 1. Received: 0"),
        (np.zeros((2, 4)), {"mirror": True}, r"\(B, H, W, C\). Received: shape \(2, 4\)"),
    ],
    ids=["none", "number", "batch size", "not images"],
)
def test_what_cannot_be_embedded(images, options, message):
    with pytest.raises(ValueError, match=message):
        FaceModel(flat(), Margin()).embed(images, **options)


def test_class_weights_in_fit_weigh_the_head_loss():
    """As sample weights of the labels do, with a head whose own loss is trained."""
    images = np.random.default_rng(0).normal(size=(6, 4)).astype("float32")
    labels = np.array([0, 1, 2, 2, 1, 0])
    kernels = []
    for weights in (
        {"class_weight": {0: 0.5, 1: 1.0, 2: 3.0}},
        {"sample_weight": np.choose(labels, [0.5, 1.0, 3.0])},
        {},
    ):
        head = CosFace(3, kernel_initializer=keras.initializers.GlorotNormal(1))
        model = FaceModel(keras.Sequential([keras.Input((4,)), keras.layers.Identity()]), head)
        model.compile(keras.optimizers.SGD(0.1))
        model.fit(images, labels, batch_size=6, verbose=0, **weights)
        kernels.append(array(head.kernel))
    np.testing.assert_allclose(kernels[0], kernels[1], rtol=1e-5, atol=1e-6)
    assert np.abs(kernels[0] - kernels[2]).max() > 1e-3
