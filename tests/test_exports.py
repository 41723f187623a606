"""Exported programs, run by their own runtimes, at batch sizes that they were not exported with."""

import functools
import importlib.util
import re
import sys
import warnings
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import ops

import gan
import mhe
import sphereface_plus
from mhe import layers

# With this package OpenVINO reports each use from a fork, of which JAX warns.
sys.modules.setdefault("openvino_telemetry", None)

BACKEND = keras.backend.backend()
pytestmark = pytest.mark.usefixtures("weights_from_numpy")
# What Keras exports to with each backend.
FORMATS = {
    "tensorflow": ("tf_saved_model", "onnx", "litert", "openvino"),
    "jax": ("tf_saved_model",),
    "torch": ("onnx", "openvino"),
}[BACKEND]
# What Keras refuses, and the words.
REFUSED = {
    "tensorflow": {},
    "jax": {
        "onnx": "This requires the jax2onnx module",
        "litert": "LiteRT export requires TensorFlow or PyTorch backend",
        "openvino": "No conversion rule found for operations: XlaCallModule",
    },
    "torch": {
        "litert": "you must install the `litert-torch` package",
        "tf_saved_model": "Detected mismatch between the structure of `inputs` and",
    },
}[BACKEND]
# The words where inputs are a dict, if they are others.
REFUSED_DICTS = {"torch": {"tf_saved_model": "'dict' object has no attribute 'shape'"}}.get(
    BACKEND, {}
)
SUFFIXES = {"litert": ".tflite", "torch": ".pt2", "openvino": ".xml"}
PAGE = Path(__file__).parents[1] / "docs" / "guides" / "exporting.md"
TREE = mhe.ClassTree.from_paths(["animal/dog/poodle", "animal/dog/husky", "animal/cat", "oak"])
FACE_HEADS = (
    *("NormFace", "SphereFace", "SphereFacePlus", "SphereFaceR", "SphereFace2", "CombinedMargin"),
    *("CosFace", "ArcFace", "AdaFace", "MagFace", "CurricularFace"),
)
array = ops.convert_to_numpy


def draw(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


@pytest.fixture
def export(tmp_path):
    """Exports a model to a format, and returns what runs the program on an array or a dict."""

    def exported(model, form, **options):
        path = str(tmp_path / "program") + SUFFIXES.get(form, "")
        if form == "onnx":
            pytest.importorskip("tf2onnx" if BACKEND == "tensorflow" else "onnx")
            return run_onnx(pytest.importorskip("onnxruntime"), write(model, path, form, options))
        if form == "litert":
            litert = pytest.importorskip("ai_edge_litert.interpreter")
            return run_litert(litert, write(model, path, form, options))
        if form == "openvino":
            openvino = pytest.importorskip("openvino")
            return run_openvino(openvino, write(model, path, form, options))
        if form == "torch":
            import torch

            batch = torch.export.Dim("batch", min=1, max=64)
            options = {"dynamic_shapes": {0: batch}, **options}
            program = torch.export.load(write(model, path, form, options)).module()
            return lambda inputs: array(program(torch.tensor(inputs)))
        tf = pytest.importorskip("tensorflow")
        program = tf.saved_model.load(write(model, path, form, options))
        return lambda inputs: np.asarray(program.serve(inputs))

    return exported


def write(model, path, form, options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the converters' own
        model.export(path, format=form, verbose=False, **options)
    return path


def run_onnx(onnxruntime, path):
    session = onnxruntime.InferenceSession(path)
    names = [each.name for each in session.get_inputs()]
    # A dict's are sorted by name. PyTorch gives them other names, but the same order.
    flat = keras.tree.flatten
    return lambda inputs: session.run(None, dict(zip(names, flat(inputs), strict=True)))[0]


def run_openvino(openvino, path):
    program = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda inputs: program(inputs if isinstance(inputs, dict) else [inputs])[0]


def run_litert(litert, path):
    def run(inputs):
        # In large programs, XNNPACK may read the inputs of a second call from where they were in
        # the first.
        interpreter = litert.Interpreter(model_path=path)
        places = [each["index"] for each in interpreter.get_input_details()]
        arrays = keras.tree.flatten(inputs)
        for place, each in zip(places, arrays, strict=True):
            interpreter.resize_tensor_input(place, each.shape)
        interpreter.allocate_tensors()
        for place, each in zip(places, arrays, strict=True):
            interpreter.set_tensor(place, each)
        interpreter.invoke()
        return interpreter.get_tensor(interpreter.get_output_details()[0]["index"])

    return run


def numbers(model, inputs):
    """What the model itself returns. JAX would compile each of its operations."""
    return array(model.predict_on_batch(inputs) if BACKEND == "jax" else model(inputs))


def class_means(prototypes, **options):
    """A `NearestClassMean` whose means are given."""
    head = layers.NearestClassMean(*prototypes.shape, **options)
    head(prototypes, labels=np.arange(len(prototypes)), training=True)
    return head


def side_by_side(dims, heads):
    """A model with one output, what every head makes of the same embedding."""
    inputs = keras.Input((dims,), name="embedding")
    outputs = [keras.layers.Flatten()(head(inputs)) for head in heads]
    return keras.Model(inputs, keras.layers.Concatenate()(outputs))


def all_heads(prototypes):
    classes, dims = prototypes.shape
    encoder = keras.Sequential([keras.Input((dims,)), keras.layers.Dense(5)])
    nodes = keras.Sequential([keras.Input((dims,)), keras.layers.Dense(len(TREE.nodes) - 1)])
    heads = [
        layers.LearntPrototypes(classes, dims, prototypes=prototypes),
        class_means(prototypes, distance="cosine"),
        layers.Representatives(5, 2, dims, representatives=prototypes.reshape(5, 2, dims)),
        layers.PrototypeHead(np.eye(dims)),
        layers.PolarHead(1900, 2000, dims),
        lambda x: layers.HierarchicalLogits(TREE)(nodes(x)),
        layers.InputPrototypes(2, 3, "cosine", encoder=encoder),
        layers.InputPrototypes(2, 3, "lk", encoder=encoder, k=3, reduction="mean"),
        layers.SpectralNorm(keras.layers.Dense(3)),
        layers.SpectralNorm(keras.layers.Dense(3), warm_up=0),
    ]
    return side_by_side(dims, heads)


@pytest.mark.parametrize("form", FORMATS)
def test_heads_give_the_numbers_of_the_model(form, export):
    prototypes = 3 * draw(10, 16)
    model = all_heads(prototypes)
    apart = draw(7, 16, seed=1)
    on_prototypes = np.concatenate([prototypes[:5], np.zeros((1, 16), "float32"), apart[:1]])
    expected = [numbers(model, each) for each in (on_prototypes, apart)]
    run = export(model, form)
    found = [run(each) for each in (on_prototypes, apart)]
    for ours, theirs in zip(expected, found, strict=True):
        np.testing.assert_allclose(theirs, ours, rtol=1e-5, atol=5e-5)
    # The distances, of which other digits are rounded.
    for start in (0, 10, 20):
        itself = found[0][np.arange(5), start + np.arange(5)]
        np.testing.assert_allclose(itself, 0, atol=1e-12)


@pytest.mark.parametrize("form", FORMATS)
def test_heads_of_faces_give_the_numbers_of_the_model(form, export):
    # Apart from the others: from TensorFlow to ONNX, one large program takes longer than two.
    model = side_by_side(6, [getattr(sphereface_plus, name)(4) for name in FACE_HEADS])
    features = draw(7, 6)
    expected = numbers(model, features)
    found = export(model, form)(features)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=5e-5)


@pytest.mark.parametrize("form", FORMATS)
def test_decisions_of_least_expected_cost(form, export):
    costs = TREE.cost_matrix(inner=True)
    inputs = keras.Input((6,))
    logits = keras.layers.Dense(4)(inputs)
    calibrated = layers.LeastExpectedCost(costs, temperature=1.5)(logits)
    likely = layers.LeastExpectedCost(costs, from_logits=False)(keras.layers.Softmax()(logits))
    model = keras.Model(inputs, keras.layers.Concatenate()([calibrated, likely]))
    batches = [2 * draw(size, 6, seed=size) for size in (3, 40)]
    outputs = [numbers(model, batch) for batch in batches]
    run = export(model, form)
    for batch, expected in zip(batches, outputs, strict=True):
        found = run(batch)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
        for part in (slice(0, 7), slice(7, 14)):
            decisions = (each[:, part].argmax(axis=1) for each in (expected, found))
            np.testing.assert_array_equal(*decisions)


@pytest.mark.skipif(BACKEND != "torch", reason="PyTorch has exporters of its own")
@pytest.mark.parametrize("form", ["torch", "onnx"])
def test_programs_that_torch_export_records(form, export):
    """For ONNX, Keras uses it where all sizes are given."""
    prototypes = 3 * draw(10, 16)
    head = layers.LearntPrototypes(10, 16, prototypes=prototypes)
    model = keras.Sequential([keras.Input((16,)), head])
    options = {}
    if form == "onnx":
        pytest.importorskip("onnxscript")
        options["input_signature"] = [keras.InputSpec(shape=(10, 16), dtype="float32")]
    found = export(model, form, **options)(prototypes)
    np.testing.assert_allclose(found, array(model(prototypes)), rtol=1e-5)
    np.testing.assert_allclose(np.diagonal(found), 0, atol=1e-12)


def prototypical_network():
    backbone = keras.Sequential(
        [keras.Input((3, 2)), keras.layers.Flatten(), keras.layers.Dense(4)]
    )
    return mhe.fewshot.PrototypicalNetwork(backbone)


def episodes_of(ways, shots, queries):
    """The options with which a network is exported: sizes of episodes, where it needs them."""
    if BACKEND != "jax":
        return {}
    shapes = {"support": (1, ways, shots, 3, 2), "query": (1, ways, queries, 3, 2)}
    signature = {name: keras.InputSpec("float32", shape) for name, shape in shapes.items()}
    return {"input_signature": [signature]}


@pytest.mark.parametrize("form", FORMATS)
def test_episodes_of_other_sizes_than_any_before(form, export):
    model = prototypical_network()
    run = export(model, form, **episodes_of(5, 2, 3))  # before any call
    # JAX does not know that support and query have as many classes, and keeps to given sizes.
    for ways, shots, queries in ((5, 2, 3), (2, 1, 6)) if BACKEND != "jax" else ((5, 2, 3),):
        support, query = draw(1, ways, shots, 3, 2), draw(1, ways, queries, 3, 2, seed=1)
        query[0, 1, 0] = support[0, 1, 0]
        episode = {"support": support, "query": query}
        logits = numbers(model, episode)
        assert logits.shape == (1, ways, queries, ways)
        np.testing.assert_allclose(run(episode), logits, rtol=1e-5, atol=1e-5)


@pytest.mark.skipif(BACKEND != "jax", reason="the others take episodes of any size")
def test_jax_says_that_episodes_need_a_size(tmp_path):
    with pytest.raises(ValueError, match="pass `input_signature`"):
        prototypical_network().export(str(tmp_path / "program"))


@pytest.mark.parametrize("form", FORMATS)
def test_face_models(form, export):
    backbone = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
    model = sphereface_plus.FaceModel(backbone, sphereface_plus.SphereFacePlus(3))
    images = draw(3, 8)
    run = export(model, form)  # before any call
    np.testing.assert_allclose(run(images), numbers(model, images), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["sfnet", "iresnet"])
@pytest.mark.parametrize("form", FORMATS)
def test_embedders_at_batch_sizes_they_were_not_exported_with(form, name, export, monkeypatch):
    shape, network = (16, 16, 1), getattr(sphereface_plus.backbones, name)
    if name == "iresnet":
        # Two units, which differ as all do, instead of eight.
        monkeypatch.setitem(network.__globals__["_UNITS"], 18, (2, 0, 0, 0))
    backbone = network({"sfnet": 4, "iresnet": 18}[name], 8, input_shape=shape, width=0.1)
    images = draw(7, *shape)
    expected = [numbers(backbone, images[:count]) for count in (2, 7)]
    run = export(backbone, form)
    for count, embeddings in zip((2, 7), expected, strict=True):
        found = run(images[:count])
        assert found.shape == embeddings.shape == (count, 8)
        np.testing.assert_allclose(found, embeddings, rtol=1e-4, atol=1e-5)
    if name == "sfnet":
        # As `embed` does, by the program.
        model = sphereface_plus.FaceModel(backbone, sphereface_plus.CosFace(3))
        mirrored = np.concatenate([found, run(images[:, :, ::-1].copy())], axis=1)
        embeddings = model.embed(images, mirror=True)
        np.testing.assert_allclose(mirrored, embeddings, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("form", FORMATS)
def test_generators_of_gans(form, export):
    generator = gan.networks.generator(width=0.02, latent_dims=6, image_shape=(16, 8, 1))
    discriminator = keras.Sequential(
        [
            keras.Input((16, 8, 1)),
            keras.layers.Flatten(),
            layers.SpectralNorm(keras.layers.Dense(1)),
        ]
    )
    model = gan.GAN(generator, discriminator, ema=0.9)
    latents = draw(3, 6)
    run = export(model, form)
    # Images are a thousandth of their range as long as nothing is trained.
    np.testing.assert_allclose(run(latents), numbers(model, latents), rtol=1e-4, atol=1e-8)


@pytest.mark.one_backend
def test_what_training_alone_needs_is_not_in_a_program(export, tmp_path):
    onnx = pytest.importorskip("onnx")
    hidden = layers.SpectralNorm(keras.layers.Dense(8, kernel_regularizer=mhe.MHE()))
    backbone = keras.Sequential([keras.Input((16,)), hidden])
    model = mhe.HeadModel(backbone, class_means(draw(10, 8)))
    inputs = draw(3, 16)
    for weight in (hidden.states[-1], model.head.counts):
        weight.assign(draw(*weight.shape, seed=2))  # what no other weight is
    stored = {}
    for each in (model, layers.fold_spectral_norms(model)):
        run = export(each, "onnx")
        np.testing.assert_allclose(run(inputs), array(model(inputs)), rtol=1e-5)
        tensors = onnx.load(tmp_path / "program").graph.initializer
        stored[each is model] = [onnx.numpy_helper.to_array(tensor).ravel() for tensor in tensors]
    for weight in (hidden.states[-1], model.head.counts):
        number = array(weight).ravel()[0]
        assert not any((number == tensor).any() for tensor in stored[True])
    assert any((array(hidden.kernel)[0, 0] == tensor).any() for tensor in stored[True])
    # Kernel, bias, and the means as they are and transposed. The rest is axes, shapes and scalars.
    assert 0 <= sum(tensor.size for tensor in stored[False]) - (16 * 8 + 8 + 2 * 10 * 8) <= 60


QUANTIZED = {
    "PrototypeHead": lambda: layers.PrototypeHead(np.eye(16)),
    "PolarHead": lambda: layers.PolarHead(1900, 2000, 16),
    "LearntPrototypes": lambda: layers.LearntPrototypes(5, 16),
    "NearestClassMean": lambda: class_means(draw(5, 16)),
    "Representatives": lambda: layers.Representatives(5, 2, 16),
    "InputPrototypes": lambda: layers.InputPrototypes(
        2, 3, "cosine", encoder=keras.Sequential([keras.Input((16,)), keras.layers.Dense(5)])
    ),
    "HierarchicalLogits": lambda: layers.HierarchicalLogits(TREE),
    **{name: functools.partial(getattr(sphereface_plus, name), 4) for name in FACE_HEADS},
}


@pytest.fixture
def quantize():
    def quantize(model):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Keras's own, on layers without a kernel
            model.quantize("int8")

    return quantize


@pytest.mark.one_backend
@pytest.mark.parametrize("name", QUANTIZED)
def test_models_with_heads_quantize_to_int8(name, quantize):
    """What has a kernel of Keras is quantized; class vectors and prototypes stay as they are."""
    units = len(TREE.nodes) - 1 if name == "HierarchicalLogits" else 16
    dense = keras.layers.Dense(units)
    model = keras.Sequential([keras.Input((8,)), dense, QUANTIZED[name]()])
    inputs = draw(6, 8)
    before = array(model(inputs))
    quantize(model)
    assert str(dense._kernel.dtype) == "int8"
    after = array(model(inputs))
    assert 0 < np.abs(after - before).max() < 0.05 * np.abs(before).max()


@pytest.mark.one_backend
def test_spectral_norms_quantize_once_they_are_folded(quantize):
    network = keras.Sequential(
        [keras.Input((8,)), layers.SpectralNorm(keras.layers.Dense(6)), keras.layers.Dense(2)]
    )
    inputs = draw(6, 8)
    plain = layers.fold_spectral_norms(network)
    before = array(plain(inputs))
    quantize(plain)
    assert 0 < np.abs(array(plain(inputs)) - before).max() < 0.05 * np.abs(before).max()
    quantize(network)
    message = "SpectralNorm needs a kernel that is trained itself, without LoRA and not quantized"
    with pytest.raises(ValueError, match=message):
        network(inputs)


@pytest.mark.parametrize("form", REFUSED)
@pytest.mark.parametrize("name", ["dense", "episodes"])
def test_formats_that_keras_refuses(form, name, tmp_path):
    if form == "openvino":
        pytest.importorskip("openvino")
    package = {"litert": "litert_torch", "onnx": "jax2onnx"}.get(form)
    if package is not None and importlib.util.find_spec(package):
        pytest.skip(f"{package} is installed")
    words, options = REFUSED[form], {}
    if name == "dense":
        model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
        model(draw(2, 4))
    else:
        model, options = prototypical_network(), episodes_of(5, 2, 3)
        words = REFUSED_DICTS.get(form, words)
    with pytest.raises(Exception, match=re.escape(words)):
        write(model, str(tmp_path / f"program{SUFFIXES.get(form, '')}"), form, options)


@pytest.mark.parametrize("model", ["all but `PrototypicalNetwork`", "`PrototypicalNetwork`"])
def test_the_table_has_what_works_and_what_is_refused(model):
    name = {"tensorflow": "TensorFlow", "jax": "JAX", "torch": "PyTorch"}[BACKEND]
    lines = PAGE.read_text("utf-8").splitlines()
    tables = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    titles = ["Layers and models", "Backend", "SavedModel", "ONNX", "LiteRT", "OpenVINO"]
    assert titles in tables
    (cells,) = (row[2:] for row in tables if row[:2] == [model, name])
    forms = ("tf_saved_model", "onnx", "litert", "openvino")
    assert {form for form, cell in zip(forms, cells, strict=True) if "works" in cell} == {*FORMATS}
    refused = {form for form, cell in zip(forms, cells, strict=True) if "refused" in cell}
    assert refused == set(REFUSED)


def test_the_page_has_what_is_refused():
    page = " ".join(PAGE.read_text("utf-8").split())
    for words in (*REFUSED.values(), *REFUSED_DICTS.values()):
        assert words in page
