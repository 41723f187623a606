"""Put regularizers on a model that already exists, take them off again, list them."""

import collections.abc
import dataclasses
import gc
import inspect
from typing import Any

import keras
from keras.layers import Layer

from mhe.attach.neurons import ATTENTION, NeuronWeight, neuron_weights, unbuilt_layers, walk
from mhe.attach.outputs import head_layers
from mhe.attach.selection import select
from mhe.regularizers import MHE, Sum, describe

_SLOTS = (
    "kernel_regularizer",
    "_kernel_regularizer",
    "recurrent_regularizer",
    "depthwise_regularizer",
    "pointwise_regularizer",
    "embeddings_regularizer",
)
# Layers whose config holds the configs of the layers inside them.
_CARRIERS = (
    keras.Sequential,
    keras.layers.Wrapper,
    keras.layers.Bidirectional,
    keras.layers.RNN,
    keras.layers.StackedRNNCells,
    *ATTENTION,
)


@keras.saving.register_keras_serializable(package="mhe")
class Attached(Sum):
    """What `attach` puts on a weight: the added regularizer, and the one that was there before.

    Args:
        added: The added regularizer.
        existing: The regularizer that the weight had, or None.

    Example:

    >>> import keras, mhe
    >>> both = Attached(mhe.MHE(), keras.regularizers.L2(5e-4))
    >>> float(both(keras.ops.eye(3))) > float(both.added(keras.ops.eye(3)))
    True
    """

    def __init__(self, added: Any, existing: Any = None) -> None:
        super().__init__(*([] if existing is None else [existing]), added)
        self.added = self.regularizers[-1]
        self.existing = None if existing is None else self.regularizers[0]

    def get_config(self) -> dict[str, Any]:
        return {
            "added": keras.saving.serialize_keras_object(self.added),
            "existing": keras.saving.serialize_keras_object(self.existing),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Attached":
        return cls(
            keras.saving.deserialize_keras_object(config["added"]),
            keras.saving.deserialize_keras_object(config["existing"]),
        )


@keras.saving.register_keras_serializable(package="mhe")
class Projections(keras.regularizers.Regularizer):
    """A regularizer for each projection of an attention layer, kept in its one config entry.

    An attention layer gives one `kernel_regularizer` to all of its projections, whose neurons lie
    along different axes. A layer that was built from a config therefore calls this object for every
    kernel, and the kernel's shape tells which projection it is. In a layer with as many heads as
    input features and numbers a head, query and output kernels have the same shape: then the call
    is refused rather than answered wrongly; `mhe.attached`, which goes by the names of the
    projections, sets it right.

    Args:
        members: For each projection's name, its kernel's shape and its regularizer (or None).
        existing: The regularizer that the attention layer had, or None.

    Raises:
        ValueError: When called on a kernel whose shape is that of no projection, or of several
            with different regularizers.

    Example:

    >>> import keras, mhe
    >>> l1 = keras.regularizers.L1(1.0)
    >>> both = Projections({"query": ((4, 2, 3), l1), "attention_output": ((2, 3, 4), None)})
    >>> float(both(keras.ops.ones((4, 2, 3)))), float(both(keras.ops.ones((2, 3, 4))))
    (24.0, 0.0)
    """

    def __init__(self, members: dict[str, tuple[Any, Any]], existing: Any = None) -> None:
        self.members = {name: (tuple(shape), each) for name, (shape, each) in members.items()}
        self.existing = existing

    def __call__(self, x: Any) -> Any:
        """The value of the regularizer of the projection that has the shape of `x`."""
        shape = tuple(x.shape)
        fitting = [each for of, each in self.members.values() if of == shape]
        if not fitting or any(not _equal(fitting[0], each) for each in fitting):
            shapes = {name: of for name, (of, _) in self.members.items()}
            raise ValueError(
                "The shape of this kernel does not tell which projection of the attention layer it "
                "is. Call `mhe.attached(model)` once after the model was built from its "
                "config, or `mhe.attach` if it was built with other shapes. "
                f"Received: shape={shape} of {shapes}"
            )
        if fitting[0] is None:
            return keras.ops.zeros((), dtype=keras.config.floatx())
        return fitting[0](x)

    def get_config(self) -> dict[str, Any]:
        return {
            "members": {
                name: [list(shape), keras.saving.serialize_keras_object(each)]
                for name, (shape, each) in self.members.items()
            },
            "existing": keras.saving.serialize_keras_object(self.existing),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Projections":
        members = {
            name: (tuple(shape), keras.saving.deserialize_keras_object(each))
            for name, (shape, each) in config["members"].items()
        }
        return cls(members, keras.saving.deserialize_keras_object(config["existing"]))


@dataclasses.dataclass(frozen=True, eq=False)
class Attachment:
    """One row of a table of attached regularizers.

    Attributes:
        weight: The weight, see `mhe.attach.neurons.NeuronWeight`.
        regularizer: The regularizer that `attach` added.
        kept: The regularizer that was there before, or None.
        trainable: Whether the weight is trained; Keras leaves the loss of a frozen weight out.
        saved: Whether the model's config is sure to carry it through saving and cloning.
    """

    weight: NeuronWeight
    regularizer: Any
    kept: Any
    trainable: bool
    saved: bool

    @property
    def layer(self) -> Layer:
        """The layer that owns the weight."""
        return self.weight.layer

    @property
    def path(self) -> str:
        """The name of the weight in the model."""
        return self.weight.path


class Attachments(collections.abc.Sequence):
    """A table of attached regularizers: a sequence of `Attachment` that prints as a table.

    Args:
        rows: The rows.
        skipped: The layers that `attach` had to leave out because they are not built; the table
            names them in a last line.
    """

    def __init__(
        self,
        rows: collections.abc.Iterable[Attachment] = (),
        skipped: collections.abc.Iterable[Layer] = (),
    ) -> None:
        self._rows = tuple(rows)
        self.skipped = tuple(skipped)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: Any) -> Any:
        return Attachments(self._rows[index]) if isinstance(index, slice) else self._rows[index]

    def __str__(self) -> str:
        if not self._rows:
            return "nothing attached"
        lines = [("weight", "shape", "neurons", "regularizer", "kept", "trained", "saved")]
        for row in self._rows:
            weight = row.weight
            lines.append(
                (
                    weight.path,
                    "x".join(map(str, weight.shape)),
                    f"{weight.count} in {weight.dims}-d",
                    describe(row.regularizer),
                    "-" if row.kept is None else describe(row.kept),
                    "yes" if row.trainable else "frozen",
                    "yes" if row.saved else "no",
                )
            )
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        texts = [
            "  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)).rstrip()
            for line in lines
        ]
        if self.skipped:
            texts.append("not built, skipped: " + ", ".join(layer.name for layer in self.skipped))
        return "\n".join(texts)

    __repr__ = __str__


def attach(model: Layer, regularizer: Any, head: Any = None, layers: Any = None) -> Attachments:
    """Adds a regularizer to the neurons of a model that is already built.

    The model may be pretrained, compiled or half trained: no weight changes, the loss appears in
    `model.losses`, and the next `fit` uses it, also the `fit` of a larger model that contains this
    one. A regularizer that a weight already has is kept and added to. Attaching again replaces what
    was attached before on the weights that it reaches, and leaves the others alone. Saving and
    `clone_model` keep what is attached, where the column `saved` of the table says so: a subclassed
    model makes its layers anew in `__init__` when it is loaded, so attach again after loading.

    In a custom layer, a weight that is not named `kernel` is not found; give it its regularizer
    where it is made, `add_weight(regularizer=MHE(axis=...))`.

    A training step that the user compiled by hand (`tf.function`, `jax.jit`) keeps the losses that
    it was traced with; trace it again. Enable LoRA before attaching: its factors take over the
    regularizers that they find in the layers' configs.

    Args:
        model: A built model.
        regularizer: What every layer with neurons gets: an `MHE`, a `Sum`, or whatever else
            `keras.regularizers.get` takes. Each layer gets its own copy of an `MHE` (also of one in
            a `Sum`), whose `axis` is set to the axes of that layer's neurons, whatever it was;
            other regularizers are used as they are. None gives only the head one.
        head: What the head gets instead, see `mhe.attach.outputs.head_layers`; None treats it like
            every other layer.
        layers: Which layers get it. A string is the name of a layer or of a weight or, where no
            name is equal to it, a regular expression searched for in names such as
            `"backbone/conv1"` and in weights' paths; a compiled regular expression is always
            searched for. A name, type or layer selects everything inside the layer that it means,
            as all the projections of an attention layer. A predicate is called with each layer that
            owns a weight (for a recurrent layer its cell). A list takes what any of its members
            selects. None takes every layer with neurons.

    Returns:
        A table, a row for each weight; `print` it. Where the model has layers that nothing built,
        its last line names them, and so does its attribute `skipped`.

    Raises:
        ValueError: If the model is not built, nothing matches, `head` is given but no head is
            selected or found, or a selected layer is quantized to integers.

    Example:

    >>> import keras, mhe
    >>> hidden, logits = keras.layers.Dense(16, name="hidden"), keras.layers.Dense(4, name="logits")
    >>> model = keras.Sequential([keras.Input((8,)), hidden, logits], name="mlp")
    >>> print(mhe.attach(model, mhe.MHE(1.0), head=mhe.MHE(10.0, space="full")))
    weight             shape  neurons    regularizer                    kept  trained  saved
    mlp/hidden/kernel  8x16   16 in 8-d  MHE(1, s=2, euclidean, half)   -     yes      yes
    mlp/logits/kernel  16x4   4 in 16-d  MHE(10, s=2, euclidean, full)  -     yes      yes

    Reference:
        Liu et al., Learning towards Minimum Hyperspherical Energy, NeurIPS 2018
        ([arXiv:1805.09298](https://arxiv.org/abs/1805.09298)).
    """
    regularizer, head = keras.regularizers.get(regularizer), keras.regularizers.get(head)
    if regularizer is None and head is None:
        raise ValueError("There must be something to attach. Received: regularizer=None, head=None")
    weights = select(model, layers)
    heads = set()
    if head is not None:
        heads = {id(layer) for layer in head_layers(model)}
        if not any(id(weight.layer) in heads for weight in weights):
            raise ValueError(
                "`head` needs a last layer with neurons before an output, among the layers that "
                f"are selected. Received: model={model.name!r}, layers={layers!r}"
            )
    _unfold(model)
    given = {}
    for weight in weights:
        added = head if id(weight.layer) in heads else regularizer
        if added is not None:
            given[id(weight.variable)] = weight
            _put(weight, _along(added, weight.axis))
    _fold(model)
    _retrace(model)
    rows = (row for row in attached(model) if id(row.weight.variable) in given)
    return Attachments(rows, unbuilt_layers(model))


def detach(model: Layer) -> Attachments:
    """Takes off whatever `attach` put on a model, and gives back what was there before.

    Args:
        model: A built model.

    Returns:
        A table of what was taken off, empty if there was nothing.

    Raises:
        ValueError: If the model is not built.

    Example:

    >>> import keras, mhe
    >>> l2 = keras.regularizers.L2(5e-4)
    >>> layer = keras.layers.Dense(4, kernel_regularizer=l2)
    >>> model = keras.Sequential([keras.Input((8,)), layer])
    >>> _ = mhe.attach(model, mhe.MHE())
    >>> layer.kernel_regularizer
    Sum(L2(l2=0.0005), MHE(1, s=2, euclidean, half))
    >>> _ = mhe.detach(model)
    >>> layer.kernel_regularizer is l2
    True
    >>> print(mhe.detach(model))
    nothing attached
    """
    rows = attached(model)
    changed = False
    for layer, _ in walk(model):
        for slot in _SLOTS:
            held = vars(layer).get(slot)
            if isinstance(held, Attached | Projections):
                setattr(layer, slot, held.existing)
                changed = True
    # All variables, not only the weights listed: LoRA's factors take over the kernel's regularizer.
    for variable in model.variables:
        if isinstance(variable.regularizer, Attached):
            variable.regularizer = variable.regularizer.existing
            changed = True
    if changed:
        _retrace(model)
    return rows


def attached(model: Layer) -> Attachments:
    """Lists whatever `attach` put on a model, also on one that was since saved and loaded.

    Args:
        model: A built model.

    Returns:
        A table, a row for each weight.

    Raises:
        ValueError: If the model is not built.

    Example:

    >>> import keras, mhe
    >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
    >>> _ = mhe.attach(model, mhe.MHE(2.0))
    >>> [row.regularizer for row in mhe.attached(keras.models.clone_model(model))]
    [MHE(2, s=2, euclidean, half)]
    """
    weights = neuron_weights(model)
    _unfold(model)
    trained = {id(variable) for variable in model.trainable_variables}
    return Attachments(
        Attachment(
            weight,
            weight.variable.regularizer.added,
            weight.variable.regularizer.existing,
            id(weight.variable) in trained,
            _is_saved(weight),
        )
        for weight in weights
        if isinstance(weight.variable.regularizer, Attached)
    )


def _along(regularizer, axis):
    if isinstance(regularizer, MHE):
        return regularizer.with_axis(axis)
    if isinstance(regularizer, Sum):
        return Sum(*(_along(each, axis) for each in regularizer.regularizers))
    return regularizer


def _put(weight, added):
    before = weight.variable.regularizer
    existing = before.existing if isinstance(before, Attached) else before
    weight.variable.regularizer = Attached(added, existing)
    if weight.slot is None or getattr(weight.layer, "lora_enabled", False):
        # LoRA's factors take over whatever regularizer the config holds, and their columns are no
        # neurons of the layer.
        return
    held = getattr(weight.layer, weight.slot)
    held = held.existing if isinstance(held, Attached) else held
    shared = weight.variable.regularizer if held is existing else Attached(added, held)
    setattr(weight.layer, weight.slot, shared)


def _projections(model):
    """Lists attention layers: `(layer, slot, the weights of its projections by name)`."""
    found = {}
    for weight in neuron_weights(model):
        if weight.parents and isinstance(weight.parents[-1], ATTENTION):
            layer = weight.parents[-1]
            slot = "_kernel_regularizer" if hasattr(layer, "_kernel_regularizer") else _SLOTS[0]
            found.setdefault(id(layer), (layer, slot, {}))[2][weight.layer.name] = weight
    return list(found.values())


def _fold(model):
    """Gathers what the projections of attention layers hold into the layers' own config entries."""
    for layer, slot, weights in _projections(model):
        members = {
            name: (weight.shape, weight.variable.regularizer) for name, weight in weights.items()
        }
        if any(isinstance(member, Attached) for _, member in members.values()):
            held = getattr(layer, slot)
            existing = held.existing if isinstance(held, Projections) else held
            setattr(layer, slot, Projections(members, existing))


def _unfold(model):
    """Gives each projection its own regularizer, where a config has given all of them the same."""
    for _, _, weights in _projections(model):
        for name, weight in weights.items():
            if isinstance(weight.variable.regularizer, Projections):
                _, member = weight.variable.regularizer.members[name]
                weight.variable.regularizer = weight.layer.kernel_regularizer = member


def _equal(one, other):
    serialize = keras.saving.serialize_keras_object
    return one is other or serialize(one) == serialize(other)


def _is_saved(weight):
    if not isinstance(getattr(weight.layer, weight.slot or "", None), Attached):
        return False
    return all(isinstance(layer, _CARRIERS) or _is_functional(layer) for layer in weight.parents)


def _is_functional(layer):
    """Whether a model is saved as a graph, as Keras decides it: by what its constructor takes."""
    functional = [kind for kind in type(layer).__mro__ if kind.__name__ == "Functional"]
    kinds = (type(layer), *functional)
    taken = [inspect.getfullargspec(kind.__init__).args for kind in kinds]
    return len(functional) == 1 and taken[0] == taken[1]


def _descendants(kind):
    """A class and all that derive from it."""
    return {kind}.union(*map(_descendants, kind.__subclasses__()))


def _retrace(model):
    """Makes every live model that contains a layer of `model` trace its train and test steps anew.

    A model that contains this one is not known to it, so it is looked for among all live objects,
    by type only: asking arbitrary objects for attributes could run their code. `gc.freeze` hides
    objects from that search, so the models inside this one are not left to it.
    """
    layers = {id(layer): layer for layer, _ in walk(model)}
    # By the place of the type: a process has millions of objects, and types may hash by own code.
    kinds = {id(kind) for kind in _descendants(keras.Model)}
    found = [each for each in gc.get_objects() if id(type(each)) in kinds]
    inside = [layer for layer in layers.values() if id(type(layer)) in kinds]
    models = [
        each
        for each in {id(each): each for each in (*inside, *found)}.values()
        if getattr(each, "compiled", False) and any(id(layer) in layers for layer, _ in walk(each))
    ]
    for each in models:
        if each.train_function is not None:
            each.make_train_function(force=True)
        if each.test_function is not None:
            each.make_test_function(force=True)
    if models and keras.backend.backend() == "jax":
        # The one spot that needs JAX itself: methods that are equal, as the train step of a model
        # is to itself, share what `jax.jit` traced as long as the older one lives.
        import jax

        jax.clear_caches()
