"""What is measured on a GPU: the parts, the most important first, and the cases of each."""

import dataclasses
import itertools
from collections.abc import Iterator, Sequence

from timing.flags import numbers
from timing.results import Row

# The last is too wide for a matrix of all pairs.
LAYERS = ("576x64", "1152x128", "2304x256", "4608x512", "512x4096", "512x10575", "512x100000")
TOY_LAYERS = ("16x8", "8x24")
SPACES = ("full", "half")
DISTANCES = ("euclidean", "angle")
TIMES = ("median_ms", "min_ms", "spread_ms", "rounds", "ratio", "ratio_low", "ratio_high")
SHAPE = ("dims", "neurons")
ENERGY = (*SHAPE, "space", "distance", "s", "precision")
# All classes in every step, compiled and optimized as `face_heads.py` does by default.
WHOLE_HEADS = {"class_share": None, "momentum": 0.9, "jit_compile": "auto"}


@dataclasses.dataclass(frozen=True)
class Part:
    """A part of the session: one CSV.

    Attributes:
        name: Of the CSV, without suffix.
        task: One of `gpu.worker.TASKS`.
        share: Minutes of 25 that the part may take if others need theirs.
        keys: The columns that tell its cases apart.
        measured: The columns of what is measured.
        cases: The most important first.
        options: Of all cases.
        alone: Whether each case has a process of its own: a peak cannot be reset everywhere.
    """

    name: str
    task: str
    share: float
    keys: Sequence[str]
    measured: Sequence[str]
    cases: Sequence[Row]
    options: Row
    alone: bool = False

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of the CSV."""
        return ("backend", "device", *self.keys, *self.measured, "note")


NAMES = ("energy", "steps", "memory", "distances", "heads", "gan", "head_memory")


def parts(backend: str, toy: bool) -> list[Part]:
    """Returns the parts, the most important first.

    Args:
        backend: The backend to measure on.
        toy: Whether to make everything so small that a CPU does it in a minute.

    Example:

    >>> [part.name for part in parts("jax", toy=False)] == list(NAMES)
    True
    """
    few = {"rounds": 3, "seconds": 0.01}
    timed = few if toy else {"rounds": 25, "seconds": 1.0}
    longer = few if toy else {"rounds": 15, "seconds": 8.0}
    method = ("method", *TIMES)
    return [
        Part(
            *("energy", "times", 10),
            (*ENERGY, "compile"),
            ("name", "as_keras", *method),
            energies(backend, toy),
            timed,
        ),
        Part(
            *("steps", "step", 6),
            ("model", "batch", "classes", "sample", "precision", "policy"),
            method,
            list(steps(toy)),
            {**longer, "width": 0.1 if toy else 1.0, "side": 16 if toy else None},
        ),
        Part(
            *("memory", "peak", 2),
            (*ENERGY, "name"),
            ("method", "seconds", "memory_mib"),
            list(peaks(toy)),
            {},
            alone=True,
        ),
        Part(
            *("distances", "distances", 2),
            ("embeddings", "classes", "dims", "placed", "gradient", "precision"),
            ("mode", "as_keras", *method),
            list(distances(toy)),
            timed,
        ),
        Part(
            *("heads", "heads", 2),
            ("head", "classes", "dims", "batch_size", "precision"),
            method,
            heads(toy),
            {**longer, **WHOLE_HEADS},
        ),
        Part(
            *("gan", "gan", 2),
            ("spectral_norm", "batch", "precision"),
            method,
            gans(toy),
            {**longer, "width": 0.1 if toy else 1.0},
        ),
        Part(
            *("head_memory", "head_memory", 1),
            ("head", "classes", "dims", "batch_size", "precision"),
            ("median_ms", "min_ms", "spread_ms", "rounds", "step_gib", "process_gib"),
            heads(toy, plain=True),
            {"steps": 2 if toy else 7, **WHOLE_HEADS},
            alone=True,
        ),
    ]


def energies(backend: str, toy: bool) -> list[Row]:
    """Returns the energies: s = 2 over Euclidean distances first, and what takes longest last.

    Example:

    >>> cases = energies("torch", toy=False)
    >>> len([case for case in cases if not case["compile"]])
    238
    >>> {(case["s"], case["distance"], case["compile"]) for case in cases[:14]}
    {(2, 'euclidean', True)}
    """
    # TensorFlow has no products of float32 in bfloat16.
    precisions = ("tf32", "float32") + (() if backend == "tensorflow" else ("bfloat16",))
    layers = TOY_LAYERS if toy else LAYERS
    main = [(space, "euclidean", 2) for space in SPACES]
    every = list(itertools.product(SPACES, DISTANCES, (0, 1, 2)))
    others = [each for each in every if each not in main]
    # Compiling takes longer than timing.
    compiles = backend == "torch"
    if toy:
        first = _energies(layers[:1], main[:1], precisions[:1], compiles)
        return [*first, *_energies(layers[1:], others[-1:], precisions)]
    return [
        *_energies(layers, main, precisions[:1], compiles),
        *_energies(layers, main, precisions[1:]),
        *_energies(layers[:-1], others, precisions),
        *(_energies(layers[:-1], others, precisions[:1], True) if compiles else ()),
        *_energies(layers[-1:], others, precisions),
    ]


def _energies(
    layers: Sequence[str],
    variants: Sequence[tuple[str, str, int]],
    precisions: Sequence[str],
    compiled: bool = False,
) -> Iterator[Row]:
    for precision, layer, (space, distance, s) in itertools.product(precisions, layers, variants):
        energy = {"space": space, "distance": distance, "s": s}
        yield {**shape(layer), **energy, "precision": precision, "compile": compiled}


def steps(toy: bool) -> Iterator[Row]:
    """Yields networks whose training steps are timed with MHE and without."""
    classes = 40 if toy else 1_000_000
    head = {"model": "head", "batch": 4 if toy else 128, "dims": 8 if toy else 512}
    head |= {"classes": classes, "sample": 16 if toy else 1024}
    networks = [{"model": "cnn9", "batch": 2 if toy else 128}, head]
    if not toy:
        networks.insert(1, {"model": "resnet50", "batch": 32})
    for precision, policy in (("tf32", None), ("float32", None), ("tf32", "mixed_bfloat16")):
        for network in networks:
            yield {**network, "precision": precision, "policy": policy}
        if toy:
            return
    # The exact energy of a million classes takes about half a minute.
    yield {**head, "sample": None, "precision": "tf32", "policy": None}


def peaks(toy: bool) -> Iterator[Row]:
    """Yields energies whose memory is measured."""
    layers = TOY_LAYERS[:1] if toy else ("512x100000", "512x10575", "4608x512")
    for layer, space, name in itertools.product(layers, SPACES, ("kernel", "published")):
        if layer == "512x100000" and name == "published":
            continue  # terabytes
        if toy and (space, name) != ("half", "kernel"):
            continue
        energy = {"space": space, "distance": "euclidean", "s": 2, "precision": "tf32"}
        yield {**shape(layer), **energy, "name": name}


def distances(toy: bool) -> Iterator[Row]:
    """Yields sizes at which distances to prototypes are timed."""
    sizes = [(4, 6, 5)] if toy else [(256, 10_000, 512), (4096, 100_000, 512)]
    for precision, size in itertools.product(("tf32",) if toy else ("tf32", "float32"), sizes):
        for gradient, placed in itertools.product((True, False), ("near", "far")):
            columns = dict(zip(("embeddings", "classes", "dims"), size, strict=True))
            yield {**columns, "placed": placed, "gradient": gradient, "precision": precision}


def heads(toy: bool, plain: bool = False) -> list[Row]:
    """Returns the face heads, with the plain softmax or, as others are compared with it, without.

    Example:

    >>> heads(toy=True)
    [{'classes': 9, 'dims': 4, 'batch_size': 3, 'precision': 'tf32', 'head': 'arcface'}]
    """
    sizes = {"classes": 100_000, "dims": 512, "batch_size": 128}
    if toy:
        sizes = {"classes": 9, "dims": 4, "batch_size": 3}
    names = ["arcface", "cosface", "sphereface_plus_sample", "sphereface_plus_batch", "sphereface2"]
    names += ["sphereface_r", "sphereface", "normface"]
    shown = [*(["softmax"] if plain else []), *(names[:1] if toy else names)]
    return [{**sizes, "precision": "tf32", "head": name} for name in shown]


def gans(toy: bool) -> list[Row]:
    """Returns the GANs, each of which is timed with the published energy and without."""
    batch = 2 if toy else 64
    return [
        {"spectral_norm": spectral_norm, "batch": batch, "precision": precision}
        for precision in (("tf32",) if toy else ("tf32", "float32"))
        for spectral_norm in ((False,) if toy else (False, True))
    ]


def shape(layer: str) -> Row:
    """Returns the columns of a layer such as `"512x4096"`.

    Example:

    >>> shape("512x4096")
    {'dims': 512, 'neurons': 4096}
    """
    return dict(zip(SHAPE, numbers(layer), strict=True))
