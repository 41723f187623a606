"""What scores images: names, features, probabilities, and what is refused."""

import keras
import numpy as np
import pytest
from numpy.testing import assert_allclose

from gan import classifiers
from gan.evaluation import evaluate
from gan.program import classifier_files
from gan.scores import Reference, frechet_distance, inception_score, precision_recall
from mhe.harness.errors import BadInput
from mhe.harness.flags import program

SHAPE = (8, 8, 1)


def pixels(count, seed=0, shape=SHAPE):
    return np.random.default_rng(seed).integers(256, size=(count, *shape), dtype=np.uint8)


def linear(activation=None, shape=SHAPE, classes=3, after=()):
    """A nest as `gan/train_classifier.py` saves it: pixels, rescaled, into a network."""
    network = keras.Sequential(
        [
            keras.Input(shape),
            keras.layers.Flatten(),
            keras.layers.Dense(4, name="features"),
            keras.layers.Dense(classes, name="logits", activation=activation),
            *after,
        ]
    )
    images = keras.Input(shape)
    return keras.Model(images, network(keras.layers.Rescaling(1 / 255)(images)))


def formulas(model, images):
    """Features and logits in float64."""
    network = model.layers[-1]
    kernel, bias = network.get_layer("features").get_weights()
    features = images.reshape(len(images), -1) / 255.0 @ kernel + bias
    kernel, bias = network.get_layer("logits").get_weights()
    return features, features @ kernel + bias


def softmax(logits):
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def saved(model, folder):
    path = folder / "mine.keras"
    model.save(path)
    return path


@pytest.mark.usefixtures("weights_from_numpy")
def test_features_and_probabilities(tmp_path):
    """The last layer's inputs, in batches of which the last is short, from a file."""
    model = linear()
    path = saved(model, tmp_path)
    classifier = classifier_files.load(classifier=path, image_shape=SHAPE)
    images = pixels(5)
    probabilities, features = classifier.score(images, batch_size=3)
    expected, logits = formulas(model, images)
    assert_allclose(features, expected, rtol=1e-4, atol=1e-5)
    assert_allclose(probabilities, softmax(logits), rtol=1e-4, atol=1e-5)
    assert (classifier.dims, classifier.classes) == (4, 3)
    assert classifier.name == f"mine.keras ({classifier.digest[:8]})"


@pytest.mark.one_backend
@pytest.mark.parametrize(
    ("activation", "after"),
    [
        ("softmax", ()),
        (None, ("softmax", "flatten")),
        (None, ("norm",)),
        (None, ("log",)),
        (None, ("op",)),
    ],
)
def test_what_follows_the_last_kernel(activation, after):
    """A softmax stays one, whatever it is made by; a norm has no kernel."""
    made = {
        "softmax": keras.layers.Softmax(),
        "flatten": keras.layers.Flatten(),
        "norm": keras.layers.BatchNormalization(epsilon=0.0),
        "op": keras.layers.Lambda(keras.ops.softmax),
        "log": keras.layers.Activation("log_softmax"),
    }
    model = linear(activation, after=[made[name] for name in after])
    classifier = classifiers.Classifier(model, "mine", "0" * 64, SHAPE)
    images = pixels(4)
    probabilities, features = classifier.score(images)
    expected, logits = formulas(model, images)
    assert_allclose(features, expected, rtol=1e-4, atol=1e-5)
    assert_allclose(probabilities, softmax(logits), rtol=1e-4, atol=1e-5)


@pytest.mark.one_backend
def test_maps_of_features_are_averaged():
    inputs = keras.Input(SHAPE)
    features = keras.layers.Conv2D(2, 3)(inputs)
    logits = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(3, 1)(features))
    model = keras.Model(inputs, logits)
    images = pixels(2)
    _, found = classifiers.Classifier(model, "mine", "0" * 64, SHAPE).score(images)
    maps = keras.ops.convert_to_numpy(keras.Model(inputs, features)(images.astype("float32")))
    assert_allclose(found, maps.mean(axis=(1, 2)), rtol=1e-4, atol=1e-3)


@pytest.mark.one_backend
def test_classifiers_that_are_refused(tmp_path):
    def refused(complaint, **options):
        with pytest.raises(BadInput, match=complaint):
            classifier_files.load(**{"image_shape": SHAPE, **options})

    path = saved(linear(), tmp_path)
    refused(
        r"of shape \(32, 32, 3\). Received: .* of shape \(8, 8, 1\)",
        classifier=path,
        image_shape=(32, 32, 3),
    )
    refused("exclude each other", classifier=path, inception_weights=path)
    refused("must be a .keras file, or the folder of a complete run", classifier=tmp_path)
    refused("must be a .keras file", classifier=tmp_path / "none.keras")
    refused("1 or 3 channels. Received: 2", image_shape=(8, 8, 2))
    refused("--inception_weights must be a file", inception_weights=tmp_path / "none.h5")
    whole = path.read_bytes()
    for damaged in (b"words", whole[: len(whole) // 2], whole.replace(b"model.w", b"moder.w")):
        (tmp_path / "damaged.keras").write_bytes(damaged)
        refused("damaged.keras cannot be read", classifier=tmp_path / "damaged.keras")

    def never(model, complaint):
        with pytest.raises(ValueError, match=complaint):
            classifiers.Classifier(model, "mine", "0" * 64, SHAPE)

    inputs = keras.Input(SHAPE)
    never(keras.Model(inputs, keras.layers.Dense(3)(inputs)), r"outputs of shape \(8, 8, 3\)")
    never(linear(classes=1), "at least two classes")
    flat = keras.layers.Flatten()(inputs)
    never(keras.Model(inputs, flat), "must end in one layer with a kernel")
    both = keras.layers.Dense(3)(flat) + keras.layers.Dense(3)(flat)
    never(keras.Model(inputs, both), "must end in one layer with a kernel")

    never(linear("sigmoid"), "Received: the sigmoid of logits")

    after = linear("softmax", after=[keras.layers.Rescaling(2.0)])
    classifier = classifiers.Classifier(after, "mine", "0" * 64, SHAPE)
    with pytest.raises(ValueError, match="outputs after a softmax that sum to 1 ± 1"):
        classifier.score(pixels(2))
    with pytest.raises(ValueError, match=r"uint8 array \(N, 8, 8, 1\). Received: .* float64"):
        classifier.score(pixels(2) / 255)
    after.layers[-1].get_layer("logits").bias.assign([np.nan] * 3)
    with pytest.raises(ValueError, match="NaN or infinite"):
        classifier.score(pixels(2))


@pytest.mark.one_backend
def test_inception_gets_pixels_as_it_was_trained_on(tmp_path, monkeypatch):
    """299×299 from −1 to 1; its place is taken by a network that is quick to build."""

    def small(weights):
        inputs = keras.Input((299, 299, 3))
        pooled = keras.layers.GlobalMaxPooling2D()(inputs)
        outputs = keras.layers.Dense(4, "softmax", name="predictions")(pooled)
        if weights == "imagenet":
            raise Exception("URL fetch failure on https://…: Name or service not known")
        return keras.Model(inputs, outputs)

    monkeypatch.setattr(keras.applications, "InceptionV3", small)
    with pytest.raises(BadInput, match=r"with --inception_weights, .*with --classifier.*URL fetch"):
        classifier_files.load()
    path = tmp_path / "inception.weights.h5"
    small(None).save_weights(path)
    one, other = (classifier_files.load(path, image_shape=(6, 5, each)) for each in (1, 3))
    assert one.name == other.name
    assert one.name.startswith("InceptionV3 (")
    grey = np.broadcast_to(np.array([0, 102, 255], "uint8")[:, None, None, None], (3, 6, 5, 1))
    for classifier, images in ((one, grey), (other, np.repeat(grey, 3, axis=-1))):
        _, features = classifier.score(images)
        assert_allclose(features, np.repeat([[-1], [-0.2], [1]], 3, axis=1), atol=1e-6)
    linear().save_weights(path)
    with pytest.raises(BadInput, match="must be weights of InceptionV3 with its 1000 classes"):
        classifier_files.load(path)


@pytest.mark.one_backend
def test_reference_and_all_scores(tmp_path):
    classifier = classifiers.Classifier(linear(), "mine", "0" * 64, SHAPE)
    images, fake = pixels(60), pixels(50, seed=1) // 2
    reference = Reference.of(images, classifier, cache=tmp_path, sample=40)
    p, f = classifier.score(fake)
    _, r = classifier.score(images)
    assert_allclose(reference.statistics.mu, r.mean(axis=0), rtol=1e-5)
    # A sample without repetition, in another order.
    places = [int(np.abs(r - row).sum(axis=1).argmin()) for row in reference.features]
    assert len(set(places)) == 40
    assert places != sorted(places)
    assert_allclose(reference.features, r[places], rtol=1e-4, atol=1e-5)

    found = evaluate(np.array_split(fake, 3), classifier, reference, batch_size=20)
    assert (found["inception_score"], found["inception_score_over_splits_std"]) == pytest.approx(
        inception_score(p), rel=1e-4
    )
    distance = frechet_distance(
        r.mean(axis=0), np.cov(r, rowvar=False), f.mean(axis=0), np.cov(f, rowvar=False)
    )
    assert found["frechet_distance"] == pytest.approx(distance, rel=1e-3)
    shares = precision_recall(reference.features, f[:40])
    assert (found["precision"], found["recall"]) == pytest.approx(shares)
    assert found["kernel_inception_distance"] > 0
    with pytest.raises(ValueError, match=r"at least 10 generated and 4 real .* Received: 9 and 40"):
        evaluate([fake[:9]], classifier, reference)

    # What is kept is read again, for the same images and the same classifier alone.
    (kept,) = tmp_path.iterdir()
    classifier.score = None
    again = Reference.of(images, classifier, cache=tmp_path, sample=40)
    assert_allclose(again.statistics.sigma, reference.statistics.sigma, rtol=1e-12)
    assert_allclose(again.features, reference.features)
    for other, digest in ((images[::-1], "0" * 64), (images, "1" * 64)):
        classifier.digest = digest
        with pytest.raises(TypeError):
            Reference.of(other, classifier, cache=tmp_path, sample=40)
    del classifier.score
    classifier.digest = "0" * 64
    kept.write_bytes(kept.read_bytes()[:200])
    with pytest.warns(UserWarning, match="cannot be used and is recomputed: "):
        Reference.of(images, classifier, cache=tmp_path, sample=40)
    assert [path.name for path in tmp_path.iterdir()] == [kept.name]
    with pytest.raises(ValueError, match="cannot be written to"):
        Reference.of(images, classifier, cache=kept)


@pytest.mark.one_backend
def test_train_classifier(tmp_path, monkeypatch, capsys):
    """Stopped after an epoch and resumed; what it keeps scores pixels as the run did."""
    from gan import train_classifier
    from mhe.harness import batches, datasets
    from mhe.harness.run import Run

    monkeypatch.setattr(
        "mhe.harness.models.build",
        lambda arch, shape, classes, width, decay: linear(shape=shape, classes=classes).layers[-1],
    )
    flags = ["--dataset", "digits", "--train_images", "200", "--epochs", "2", "--base_lr", "0.05"]
    folder = tmp_path / "run"
    complete = Run.record

    def interrupted(self, *given):
        complete(self, *given)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Run, "record", interrupted)
        assert program(train_classifier.main, [*flags, "--out", str(folder)]) == 130
    assert program(train_classifier.main, ["--resume", str(folder)]) == 0
    run = Run.resume(folder)
    assert [row["epoch"] for row in run.rows] == [1, 2]
    assert (run.result["model_name"], run.result["dataset"]) == ("cnn9", "digits")
    assert program(train_classifier.main, ["--resume", str(folder)]) == 0
    assert "nothing to do" in capsys.readouterr().out

    images, labels = datasets.load("digits").test
    classifier = classifier_files.load(classifier=folder, image_shape=images.shape[1:])
    probabilities, features = classifier.score(images)
    accuracy = np.mean(probabilities.argmax(axis=1) == labels)
    assert accuracy == pytest.approx(run.result["metrics"]["test_accuracy"], abs=1e-6)
    # The network sees what `normalize` makes of pixels.
    network = keras.saving.load_model(folder / classifier_files.SAVED).layers[-1]
    kernel, bias = network.get_layer("features").get_weights()
    seen = batches.normalize(images).reshape(len(images), -1)
    assert_allclose(features, seen @ kernel + bias, rtol=1e-4, atol=1e-4)
    assert program(train_classifier.main, ["--drops", "2", "--out", str(tmp_path / "no")]) == 2
    assert "--drops must be increasing" in capsys.readouterr().err
