"""All heads: logits, losses and gradients against the papers' formulas in float64.

The formulas are in terms of angles and share nothing with the heads. All heads are run as one
function, each on arrays of its own: compiling one costs less than compiling many.
"""

import json
import math

import keras
import numpy as np
import pytest
from keras import ops

import mhe
from mhe.gradients import gradients
from sphereface_plus import heads

array = ops.convert_to_numpy

not_jax = pytest.mark.skipif(
    keras.backend.backend() == "jax", reason="it would compile every operation by itself"
)

SAMPLES, CLASSES, DIMS = 6, 5, 3
LABELS = np.array([0, 1, 2, 3, 4, 1])
# Heads whose logits without labels are part of the gradients' test: one of each kind, as a head
# makes them of what the logits with labels are made of.
UNLABELLED = ("cosface", "sphereface", "sphereface2, detach False")
# How much each sample counts, so that none can stand for another.
WEIGHTS = np.array([1.0, 0.5, 2.0, 1.5, 0.25, 3.0])


# --- the formulas -------------------------------------------------------------------------------


def angles(x, w):
    """Of every pair; a zero vector is at a right angle to all."""
    norms = np.linalg.norm(x, axis=1)[:, None] * np.linalg.norm(w, axis=0)
    cosines = x @ w / np.where(norms > 0, norms, 1)
    return np.arccos(np.clip(cosines, -1, 1))


def put(values, targets):
    """Values in which the true classes have other ones."""
    values = values.copy()
    values[np.arange(len(LABELS)), LABELS] = targets
    return values


def true(values):
    return values[np.arange(len(LABELS)), LABELS]


def softmax(logits):
    logits = logits - logits.max(axis=1, keepdims=True)
    return np.log(np.exp(logits).sum(axis=1)) - true(logits)


def falling(theta, m):
    """(-1)^k cos(mθ) - 2k."""
    k = np.floor(m * theta / np.pi)
    return (-1.0) ** k * np.cos(m * theta) - 2 * k


def norm_face(x, w, start):
    return 5 * np.cos(angles(x, w))


def cos_face(x, w, start):
    cosines = np.cos(angles(x, w))
    return 6 * put(cosines, true(cosines) - 0.3)


def arc_face(easy):
    def logits(x, w, start):
        theta = angles(x, w)
        target = true(theta)
        beyond = np.cos(target) if easy else np.cos(target) - 0.8 * np.sin(0.8)
        further = target < (np.pi / 2 if easy else np.pi - 0.8)
        return 6 * put(np.cos(theta), np.where(further, np.cos(target + 0.8), beyond))

    return logits


def arc_face_detached(x, w, start):
    theta, theta0 = angles(x, w), angles(*start)
    return 6 * put(np.cos(theta), true(np.cos(theta) + np.cos(theta0 + 0.8) - np.cos(theta0)))


def mag_face(x, w, start):
    theta = angles(x, w)
    target = true(theta)
    m = 0.2 + 0.5 * (np.clip(np.linalg.norm(x, axis=1), 1.5, 3.5) - 1.5) / 2
    beyond = np.cos(target) - m * np.sin(m)
    return 6 * put(np.cos(theta), np.where(target < np.pi - m, np.cos(target + m), beyond))


def combined_margin(x, w, start):
    theta = angles(x, w)
    target = np.minimum(1.2 * true(theta), np.pi)
    beyond = np.cos(target) - 0.7 * np.sin(0.7)
    target = np.where(target < np.pi - 0.7, np.cos(target + 0.7), beyond) - 0.1
    return 6 * put(np.cos(theta), target)


def filtered_sphere_face(x, w, start):
    """ψ(θ) for the true class, and no cosine above 0.4 for the others."""
    cosines = np.cos(angles(x, w))
    ends = put(np.where(cosines > 0.4, 0, cosines), falling(true(angles(x, w)), 3))
    return np.linalg.norm(x, axis=1)[:, None] * ends


def ada_face(x, w, start):
    theta = angles(x, w)
    norms = np.clip(np.linalg.norm(start[0], axis=1), 1e-3, 100)
    quality = np.clip((norms - 2) / (1.5 + 1e-3) * 0.9, -1, 1)
    turned = np.cos(np.clip(true(theta) - 0.6 * quality, 0, np.pi))
    return 6 * put(np.cos(theta), turned - 0.6 * quality - 0.6)


def curricular_face(x, w, start):
    cosines = np.cos(angles(x, w))
    target = true(arc_face(easy=False)(x, w, start)) / 6
    hard = cosines > target[:, None]
    return 6 * put(np.where(hard, cosines * (0.3 + cosines), cosines), target)


def sphere_face(m, annealing):
    def logits(x, w, start):
        theta = angles(x, w)
        target = true(theta)
        mixed = (annealing * np.cos(target) + falling(target, m)) / (1 + annealing)
        return np.linalg.norm(x, axis=1)[:, None] * put(np.cos(theta), mixed)

    return logits


def sphere_face_r(version, hard, detach):
    def margins(theta):
        if version == 2:
            return put(np.cos(theta / 1.7), np.cos(true(theta)))
        target = true(theta)
        turned = falling(target, 1.7) if version == 0 else np.cos(np.minimum(1.7 * target, np.pi))
        return put(np.cos(theta), turned)

    def logits(x, w, start):
        theta = angles(x, w)
        moved = margins(theta)
        if detach:
            theta0 = angles(*start)
            moved = np.cos(theta) + margins(theta0) - np.cos(theta0)
        return (7.0 if hard else np.linalg.norm(x, axis=1)[:, None]) * moved

    return logits


def sphere_face_2(detach):
    def similarity(theta):
        return 2 * ((np.cos(theta) + 1) / 2) ** 3 - 1

    def logits(x, w, start):
        theta = angles(x, w)
        adjusted = similarity(theta)
        if detach:
            theta0 = angles(*start)
            adjusted = np.cos(theta) + similarity(theta0) - np.cos(theta0)
        return 5 * put(adjusted + 0.4, true(adjusted) - 0.4) + 0.5

    return logits


def binary(logits):
    losses = np.log1p(np.exp(logits)) * 0.3
    return (losses.sum(axis=1) - true(losses) + 0.7 * np.log1p(np.exp(-true(logits)))) / 5


def batch_energy(w, s, distance, space):
    """mean_{j≠y} f_s(ρ(ŵ_y, ŵ_j)) of each sample, times 0.3."""
    points = (w / np.linalg.norm(w, axis=0)).T
    if space == "half":
        points = np.concatenate([points, -points])
    energies = []
    for label in LABELS:
        others = np.delete(points, label, axis=0)
        apart = np.linalg.norm(others - points[label], axis=1)
        if distance == "angle":
            apart = 2 * np.arcsin(np.minimum(apart / 2, 1))
        energies.append(np.mean(-np.log(apart) if s == 0 else apart**-s))
    return 0.3 * np.array(energies)


def with_energy(m, s, distance, space):
    head = heads.SphereFacePlus(
        CLASSES, m, mhe.MHE(0.3, s, distance, space), "batch", lambda_start=1, lambda_end=0
    )

    def losses(logits, w):
        return softmax(logits) + batch_energy(w, s, distance, space)

    return head, sphere_face(m, 1), losses


def cosface_plus():
    """The energy of another head, which the base adds."""
    head = heads.CosFace(
        CLASSES, 6, 0.3, energy=mhe.MHE(0.3, s=1, distance="euclidean"), energy_over="batch"
    )
    return head, cos_face, lambda z, w: softmax(z) + batch_energy(w, 1, "euclidean", "half")


def cases():
    """Heads, their logits, and the losses of these where they are no softmax.

    JAX, which compiles them for long, has every head, but not every variant.
    """
    all_variants = keras.backend.backend() != "jax"
    annealed = {"lambda_start": 2, "lambda_end": 1}
    yield "normface", heads.NormFace(CLASSES, 5), norm_face
    yield "cosface", heads.CosFace(CLASSES, 6, 0.3), cos_face
    for easy in (False, True)[: 1 + all_variants]:
        head = heads.ArcFace(CLASSES, 6, 0.8, easy_margin=easy)
        yield f"arcface, easy {easy}", head, arc_face(easy)
    if all_variants:
        yield "arcface, detach", heads.ArcFace(CLASSES, 6, 0.8, detach=True), arc_face_detached
    margins = {"l_a": 1.5, "u_a": 3.5, "l_m": 0.2, "u_m": 0.7}
    yield "magface", heads.MagFace(CLASSES, 6, **margins), mag_face
    yield "combined", heads.CombinedMargin(CLASSES, 6, 1.2, 0.7, 0.1), combined_margin
    annealed_to_none = {"lambda_start": 0, "lambda_end": 0, "interclass_filtering_threshold": 0.4}
    if all_variants:
        yield "filtered", heads.SphereFace(CLASSES, 3, **annealed_to_none), filtered_sphere_face
    yield "adaface", heads.AdaFace(CLASSES, 6, 0.6, h=0.9), ada_face
    yield "curricularface", heads.CurricularFace(CLASSES, 6, 0.8), curricular_face
    yield "sphereface", heads.SphereFace(CLASSES, 4, **annealed), sphere_face(4, 2)
    yield "sphereface+ angle", *with_energy(3, 2, "angle", "full")
    if all_variants:
        yield "cosface+", *cosface_plus()
        yield "sphereface+ half", *with_energy(2, 0, "euclidean", "half")
    for version, normalization, detach in (
        (1, "soft", False),
        (2, "none", False),
        (0, "none", False),
        (1, "hard", True),
    )[: 2 + 2 * all_variants]:
        options = {"version": version, "normalization": normalization, "detach": detach}
        formula = sphere_face_r(version, normalization == "hard", detach)
        yield f"sphereface-r {options}", heads.SphereFaceR(CLASSES, 7, **options), formula
    for detach in (False, True)[: 1 + all_variants]:
        head = heads.SphereFace2(CLASSES, 5, detach=detach)
        yield f"sphereface2, detach {detach}", head, sphere_face_2(detach), lambda z, w: binary(z)


def plain(head, x, w, start):
    """Logits without labels."""
    cosines = np.cos(angles(x, w))
    if isinstance(head, heads.SphereFace2):
        adjusted = 2 * ((cosines + 1) / 2) ** 3 - 1
        if head.detach:
            cosines0 = np.cos(angles(*start))
            adjusted = cosines + 2 * ((cosines0 + 1) / 2) ** 3 - 1 - cosines0
        return 5 * adjusted + 0.5
    keeps_norms = isinstance(head, heads.SphereFace) or (
        isinstance(head, heads.SphereFaceR) and head.normalization != "hard"
    )
    return (np.linalg.norm(x, axis=1)[:, None] if keeps_norms else head.scale) * cosines


# --- what is tested -----------------------------------------------------------------------------


def split(packed):
    """Features and kernel of a head out of the rows in which they are packed."""
    return packed[:SAMPLES], ops.transpose(packed[SAMPLES:])


@pytest.fixture(scope="module")
def built():
    """Name → head, formula of logits, formula of losses; every kernel is built."""
    found = {}
    for name, head, logits, *losses in cases():
        head.build((None, DIMS))
        if isinstance(head, heads.SphereFace2):
            head.bias.assign(0.5)
        if isinstance(head, heads.AdaFace):
            head.norm_mean.assign(2.0)
            head.norm_deviation.assign(1.5)
        if isinstance(head, heads.CurricularFace):
            head.t.assign(0.3)
        found[name] = head, logits, losses[0] if losses else lambda z, w: softmax(z)
    return found


@pytest.fixture(scope="module")
def factors():
    """By what all logits are multiplied, those with labels and those without."""
    return np.random.default_rng(6).normal(size=(2, SAMPLES, CLASSES)) * 0.1


@pytest.fixture(scope="module")
def step(built, factors, gradient_step):
    """From `(heads, samples + classes, dims)` to a sum of all losses and logits, and its gradient.

    Every loss and logit has a weight of its own.
    """
    labelled, unlabelled = (ops.convert_to_tensor(each, "float32") for each in factors)
    weights = ops.convert_to_tensor(WEIGHTS, "float32")

    def total(packed):
        value = 0.0
        for number, (name, (head, *_)) in enumerate(built.items()):
            features, kernel = split(packed[number])
            # The head's own weight, with a gradient on all backends.
            with keras.StatelessScope(state_mapping=[(head.kernel, kernel)]):
                logits = head(features, labels=LABELS)
                value = value + ops.sum(head.loss(LABELS, logits) * weights)
                value = value + ops.sum(logits * labelled)
                if name in UNLABELLED:
                    value = value + ops.sum(head(features) * unlabelled)
        return value

    # TensorFlow would trace for longer than it computes; other tests trace heads.
    return gradient_step(total, eager=keras.backend.backend() == "tensorflow")


@pytest.fixture(scope="module")
def drawn(built):
    """Arrays of every head, float32 that are exact in float64."""
    rng = np.random.default_rng(5)
    packed = rng.normal(size=(len(built), SAMPLES + CLASSES, DIMS)) * 1.5
    # Some features near their class, some on its other side.
    for sample, label in enumerate(LABELS):
        towards = 1.2 if sample % 2 else -1.2
        packed[:, sample] += towards * packed[:, SAMPLES + label]
    return packed.astype("float32")


@pytest.fixture(scope="module")
def lengths():
    """Of the rows of `at_the_limits`: features and classes from 1e-4 to 1e4, and a zero feature."""
    return np.array([1.0, 1, 0, 1e-4, 1e4, 1, 1, 1, 1, 1e-4, 1e4])[:, None]


@pytest.fixture(scope="module")
def at_the_limits(drawn, lengths):
    """Arrays of every head with angles of exactly 0 and π, and lengths near the limits."""
    packed = drawn.copy()
    # Powers of two, with which float32 is exact.
    packed[:, SAMPLES], packed[:, SAMPLES + 1] = [2, 0, 0], [0, 0.5, 0]
    packed[:, 0], packed[:, 1] = [4, 0, 0], [0, -2, 0]
    return (packed * lengths).astype("float32")


@pytest.mark.one_backend
@pytest.mark.parametrize("arrays", ["drawn", "at_the_limits"])
def test_logits_and_losses(built, arrays, request):
    """One by one, so that it can be told what is wrong."""
    packed = request.getfixturevalue(arrays)
    for number, (name, (head, formula, losses)) in enumerate(built.items()):
        x, kernel = packed[number, :SAMPLES], packed[number, SAMPLES:].T
        head.kernel.assign(kernel)
        wide = x.astype("float64"), kernel.astype("float64")
        expected = formula(*wide, start=wide)
        found = head(x, labels=LABELS)
        for one, other in (
            (found, expected),
            (head(x), plain(head, *wide, start=wide)),
            (head.loss(LABELS[:, None], found), losses(expected, wide[1])),
        ):
            # Losses are differences of logits, which are as large as features can be.
            atol = 2e-5 if arrays == "drawn" else 2e-6 * np.abs(expected).max() + 2e-5
            np.testing.assert_allclose(array(one), other, rtol=2e-5, atol=atol, err_msg=name)


def what_is_differentiated(name, head, formula, losses, at, start, factors):
    """The weighted losses and logits of a head in float64, at features and class vectors."""
    labelled, unlabelled = factors
    x, kernel = at[:SAMPLES], at[SAMPLES:].T
    logits = formula(x, kernel, start=start)
    value = np.sum(WEIGHTS * losses(logits, kernel)) + np.sum(labelled * logits)
    if name in UNLABELLED:
        value += np.sum(unlabelled * plain(head, x, kernel, start))
    return value


def test_values_and_gradients_follow_the_float64_formulas(
    built, drawn, factors, step, reference_gradient
):
    value, gradients = step(drawn)
    sum_of_all = 0.0
    for number, name in enumerate(built):
        packed = drawn[number].astype("float64")
        start = packed[:SAMPLES], packed[SAMPLES:].T

        def total(at, name=name, start=start):
            return what_is_differentiated(name, *built[name], at, start, factors)

        expected = reference_gradient(total, packed)
        np.testing.assert_allclose(
            gradients[number],
            expected,
            rtol=1e-4,
            atol=1e-5 * np.abs(expected).max(),
            err_msg=name,
        )
        sum_of_all += total(packed)
    assert value == pytest.approx(sum_of_all, rel=1e-5)


def test_gradients_at_the_limits(built, at_the_limits, lengths, factors, step, reference_gradient):
    """Central differences are 0 where an angle of 0 or π has a cusp, as the slopes here."""
    _, gradients = step(at_the_limits)
    scales = np.where(lengths > 0, lengths, 1)
    for number, name in enumerate(built):
        packed = at_the_limits[number].astype("float64")
        start = packed[:SAMPLES], packed[SAMPLES:].T

        def total(units, name=name, start=start):
            return what_is_differentiated(name, *built[name], units * lengths, start, factors)

        expected = reference_gradient(total, packed / scales)
        found = gradients[number] * scales
        # A zero feature has no direction; `unit_vectors` says what its gradient is.
        found[2] = 0
        # What is left where contributions as large as the longest feature cancel.
        rounding = 1e-4 + 1e-6 * np.abs(expected).max()
        bounds = 1e-3 * np.abs(expected).max(axis=1, keepdims=True) + rounding
        assert (np.abs(found - expected) <= bounds).all(), (name, found, expected)


def test_degenerate_features_and_classes(built, drawn, step):
    """Angles of 0 and π, zero features and classes, equal classes, lengths near the limits."""
    packed = drawn.copy()
    packed[:, 0] = packed[:, SAMPLES]  # θ = 0 of sample 0
    packed[:, 1] = -2 * packed[:, SAMPLES + 1]  # θ = π
    packed[:, 2] = 0
    packed[:, SAMPLES + 3] = 0
    packed[:, SAMPLES + 4] = packed[:, SAMPLES]  # equal class vectors
    packed[:, 4] *= 1e-25
    packed[:, 5] *= 1e3
    value, gradients = step(packed)
    assert np.isfinite(value)
    names = list(built)
    bad = [names[number] for number in np.flatnonzero(~np.isfinite(gradients).all(axis=(1, 2)))]
    assert bad == []
    # A zero feature and a zero class can leave zero.
    assert np.abs(gradients[:, SAMPLES + 3]).max(axis=1).min() > 0
    assert np.abs(gradients[:, 2]).max(axis=1).min() > 0


@pytest.fixture(params=["normface", "sphereface+ angle", "sphereface2, detach False"])
def one_of_each_loss(request, built):
    return built[request.param][0]


@not_jax
def test_huge_logits(one_of_each_loss):
    logits = np.full((SAMPLES, CLASSES), 1e5, "float32")
    logits[:, 0] = -1e5
    losses = array(one_of_each_loss.loss(LABELS, logits))
    assert np.isfinite(losses).all()
    assert losses[0] > 1e3


@not_jax
def test_bad_labels(one_of_each_loss):
    head = one_of_each_loss
    x, logits = np.ones((SAMPLES, DIMS), "float32"), np.zeros((SAMPLES, CLASSES), "float32")
    labels = ops.convert_to_tensor([0, CLASSES, 4, -1, 0, 0])
    assert np.isnan(array(head.loss(labels, logits))).tolist() == [False, True] * 2 + [False] * 2
    assert np.isfinite(array(head(x, labels))).all()
    for labels, named in (
        ([0, CLASSES], "from 0 to 4, as there are 5 classes. Received: label 5"),
        (np.array([-1, 0]), "Received: label -1"),
        (np.array([0.5, 0]), "Received: label 0.5"),
        (np.zeros(3, int), r"one target per sample.*Received: targets \(3,\)"),
    ):
        if not isinstance(head, heads.NormFace):
            with pytest.raises(ValueError, match=named):
                head(x, labels=labels)
        with pytest.raises(ValueError, match=named):
            head.loss(labels, logits)


@pytest.mark.one_backend
def test_configs(built):
    regularized = heads.SphereFacePlus(
        CLASSES, energy=mhe.MHE(2.0, s=0), kernel_regularizer=keras.regularizers.L2(0.5)
    )
    combined = heads.SphereFace2(
        CLASSES,
        energy=mhe.MHE(2.0, s=1),
        kernel_regularizer=mhe.Sum(keras.regularizers.L2(0.5), keras.regularizers.L1(0.1)),
        subcenters=2,
    )
    others = regularized, combined, heads.SphereFacePlus(3)
    for head in (*(head for head, *_ in built.values()), *others):
        config = json.loads(json.dumps(keras.saving.serialize_keras_object(head)))
        copy = keras.saving.deserialize_keras_object(config)
        assert type(copy) is type(head)
        assert copy.get_config() == head.get_config()
        assert repr(copy.kernel_regularizer) == repr(head.kernel_regularizer)
        assert config["registered_name"].startswith("sphereface_plus>")


@pytest.mark.one_backend
@pytest.mark.parametrize(
    ("kind", "options", "named"),
    [
        ("NormFace", {"classes": 1}, "`classes`.*Received: classes=1"),
        ("NormFace", {"scale": 0}, "`scale`.*> 0. Received: scale=0"),
        ("CosFace", {"m": -0.1}, "`m`.*>= 0. Received: m=-0.1"),
        ("ArcFace", {"m": 2.0}, "at most π/2.*Received: m=2.0"),
        ("MagFace", {"l_a": 0}, "`l_a`.*> 0. Received: l_a=0"),
        ("MagFace", {"l_a": 5, "u_a": 5}, "below `u_a`. Received: l_a=5, u_a=5"),
        ("MagFace", {"l_m": 0.9}, "at least `l_m`.*Received: l_m=0.9, u_m=0.8"),
        ("MagFace", {"u_m": 1.6}, "at most π/2.*Received: l_m=0.45, u_m=1.6"),
        ("MagFace", {"penalty": -1}, "`penalty`.*Received: penalty=-1"),
        ("CombinedMargin", {"m1": 0}, "`m1`.*> 0. Received: m1=0"),
        ("CombinedMargin", {"m2": 2}, "`m2`.*at most π/2.*Received: m2=2"),
        ("CombinedMargin", {"m3": -1}, "`m3`.*>= 0. Received: m3=-1"),
        ("ArcFace", {"interclass_filtering_threshold": 1}, "> 0 and < 1. Received: .*=1"),
        ("CosFace", {"subcenters": 0}, "`subcenters`.*Received: subcenters=0"),
        ("CosFace", {"subcenters": 1000}, "from 1 to 100. Received: subcenters=1000"),
        (
            "ArcFace",
            {"energy": mhe.MHE(), "energy_over": "batch", "subcenters": 2},
            "one vector per class. Received: subcenters=2",
        ),
        ("ArcFace", {"energy": 3}, "must be an mhe.MHE.*Received: energy=3"),
        ("CosFace", {"scale": "auto", "classes": 2}, "at least 3 classes.*Received: classes=2"),
        ("NormFace", {"scale": "big"}, "> 0 or \"auto\". Received: scale='big'"),
        ("AdaFace", {"m": 1.6}, "at most π/2.*Received: m=1.6"),
        ("AdaFace", {"h": 0}, "`h`.*> 0. Received: h=0"),
        ("AdaFace", {"momentum": 1}, "`momentum`.*< 1. Received: momentum=1"),
        ("CurricularFace", {"momentum": -0.1}, "`momentum`.*Received: momentum=-0.1"),
        ("SphereFace", {"m": 5}, "1, 2, 3 or 4. Received: m=5"),
        ("SphereFace", {"lambda_end": math.inf}, "Received: lambda_end=inf"),
        ("SphereFaceR", {"m": 0.5}, "`m`.*>= 1. Received: m=0.5"),
        ("SphereFaceR", {"version": 3}, "0, 1 or 2. Received: version=3"),
        ("SphereFaceR", {"normalization": True}, '"none". Received: normalization=True'),
        ("SphereFace2", {"t": 0.5}, "`t`.*Received: t=0.5"),
        ("SphereFace2", {"weight": 1}, "less than 1. Received: weight=1"),
        ("SphereFacePlus", {"energy": "mhe"}, "must be an mhe.MHE.*Received: energy='mhe'"),
        ("SphereFacePlus", {"energy": mhe.MHE(axis=0)}, "Received: .* with axis=0"),
        ("SphereFacePlus", {"energy_over": "some"}, "Received: energy_over='some'"),
        (
            "SphereFacePlus",
            {"energy": mhe.MHE(sample=5), "energy_over": "batch"},
            "must not sample. Received: .*sample=5",
        ),
    ],
)
def test_bad_arguments(kind, options, named):
    with pytest.raises(ValueError, match=named):
        getattr(heads, kind)(**{"classes": 5, **options})


@not_jax
def test_magface_penalty_at_extreme_norms(gradient_step):
    """Norms clip: 0, 1e-4 and 1e4 have finite penalties, and no gradient."""
    directions = np.eye(5, DIMS) + np.eye(5, DIMS, -DIMS)
    norms = np.array([0.0, 1e-4, 20.0, 90.0, 1e4])

    def total(features):
        head_norms = heads.base.lengths(features)
        return ops.sum(heads.norm_penalties(head_norms))

    value, gradient = gradient_step(total)((norms[:, None] * directions).astype("float32"))
    clipped = np.clip(norms, 10, 110)
    assert value == pytest.approx(np.sum(clipped / 110**2 + 1 / clipped), rel=1e-6)
    slopes = np.where(clipped == norms, 1 / 110**2 - 1 / clipped**2, 0)
    np.testing.assert_allclose(gradient, slopes[:, None] * directions, rtol=1e-5, atol=1e-12)


@pytest.mark.one_backend
def test_magface_penalty_is_a_loss_of_training_only():
    head = heads.MagFace(CLASSES, l_a=1, u_a=4, penalty=3)
    x = np.eye(2, DIMS, dtype="float32") * 2
    head(x, labels=[0, 1])
    assert head.losses == []
    head(x, labels=[0, 1], training=True)
    assert float(array(sum(head.losses))) == pytest.approx(3 * (2 / 16 + 1 / 2))


@pytest.mark.one_backend
def test_every_head_has_a_plus_version():
    """The energy of all class vectors, sub-centers included, is a loss of any head."""
    energy = mhe.MHE(0.5, s=1, distance="euclidean", space="full")
    for kind in (heads.ArcFace, heads.MagFace, heads.SphereFace2, heads.SphereFaceR):
        head = kind(CLASSES, energy=energy, subcenters=2)
        assert tuple(head(np.ones((2, DIMS), "float32")).shape) == (2, CLASSES)
        columns = array(head.kernel).astype("float64")
        assert columns.shape == (DIMS, 2 * CLASSES)
        points = columns / np.linalg.norm(columns, axis=0)
        apart = np.linalg.norm(points[:, :, None] - points[:, None], axis=0)
        expected = 0.5 * np.mean(1 / apart[~np.eye(2 * CLASSES, dtype=bool)])
        assert float(array(sum(head.losses))) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("s", "distance", "space"),
    [(2, "angle", "full"), (1, "angle", "half"), (2, "euclidean", "full")],
)
def test_nearly_equal_class_vectors_do_not_move_each_other(s, distance, space):
    kernel = np.random.default_rng(4).normal(size=(DIMS, CLASSES)).astype("float32")
    kernel /= np.linalg.norm(kernel, axis=0)
    across = np.cross(kernel[:, 0], kernel[:, 2])
    kernel[:, 1] = kernel[:, 0] + 5e-4 * across / np.linalg.norm(across)
    at = [ops.convert_to_tensor(kernel)]
    whole = mhe.MHE(s=s, distance=distance, space=space)
    classes = np.arange(CLASSES)

    def of_classes(values):
        return ops.mean(heads.energies.class_energies(classes, values[0], s, distance, space))

    (own,), (expected,) = gradients(of_classes, at), gradients(lambda w: whole(w[0]), at)
    assert np.abs(array(expected)).max() < 10
    # In half space the pair is nearly opposite too, and a cosine in float32 tells that little.
    atol = 1e-4 if space == "full" else 5e-3
    np.testing.assert_allclose(array(own), array(expected), rtol=1e-3, atol=atol)


@pytest.mark.one_backend
@pytest.mark.parametrize("kind", [heads.ArcFace, heads.SphereFace, heads.SphereFace2])
def test_the_logit_of_a_class_is_that_of_its_nearest_subcenter(kind):
    x = np.random.default_rng(3).normal(size=(4, DIMS)).astype("float32")
    ones, head = kind(12), kind(3, subcenters=4)
    for each in (ones, head):
        each.build((None, DIMS))
    head.set_weights(ones.get_weights())
    if kind is heads.SphereFace2:
        head.bias.assign(ones.bias)
    expected = array(ones(x)).reshape(4, 3, 4).max(axis=-1)
    np.testing.assert_allclose(array(head(x)), expected, rtol=1e-5)


def test_gradient_of_subcenters(gradient_step, reference_gradient):
    rng = np.random.default_rng(3)
    head = heads.ArcFace(CLASSES, 6, 0.8, subcenters=2)
    head.build((None, DIMS))
    x = rng.normal(size=(SAMPLES, DIMS)).astype("float32")
    kernel = rng.normal(size=(DIMS, 2 * CLASSES)).astype("float32")

    def loss(kernel):
        with keras.StatelessScope(state_mapping=[(head.kernel, kernel)]):
            return ops.sum(head.loss(LABELS, head(x, labels=LABELS)))

    def reference(kernel):
        theta = angles(x.astype("float64"), kernel).reshape(SAMPLES, CLASSES, 2).min(axis=-1)
        target = true(theta)
        beyond = np.cos(target) - 0.8 * np.sin(0.8)
        target = np.where(target < np.pi - 0.8, np.cos(target + 0.8), beyond)
        return np.sum(softmax(6 * put(np.cos(theta), target)))

    step = gradient_step(loss)
    value, gradient = step(kernel)
    wide = kernel.astype("float64")
    assert value == pytest.approx(reference(wide), rel=1e-5)
    np.testing.assert_allclose(gradient, reference_gradient(reference, wide), rtol=1e-4, atol=1e-5)
    kernel[:, 0] = 0
    kernel[:, 3] = kernel[:, 2]
    value, gradient = step(kernel)
    assert np.isfinite(gradient).all()


@pytest.mark.one_backend
def test_scale_by_the_number_of_classes():
    """At π/4 from its class and at right angles to the others, the probability is 1/2."""
    for kind in (heads.NormFace, heads.ArcFace, heads.MagFace, heads.AdaFace, heads.SphereFaceR):
        head = kind(1001, scale="auto")
        right = np.exp(head.scale * np.cos(np.pi / 4))
        assert right / (right + 1000) == pytest.approx(0.5)
        assert kind.from_config(head.get_config()).scale == head.scale
    assert heads.NormFace(3, "auto").scale == pytest.approx(math.sqrt(2) * math.log(2))


@pytest.mark.one_backend
def test_the_combined_margin_has_the_single_ones_as_special_cases():
    cosines = np.linspace(-1, 1, 201, dtype="float32")[:, None] * [1, 0.5]
    labels = np.zeros(201, int)
    norms = np.full(201, 4.0, "float32")
    for (m1, m2, m3), expected in (
        ((1, 0.5, 0), heads.arcface_logits(cosines, labels, 4, 0.5)),
        ((1, 0, 0.35), heads.cosface_logits(cosines, labels, 4, 0.35)),
        ((1.7, 0, 0), heads.sphereface_r_logits(4 * cosines, norms, labels, 1.7, 1)),
    ):
        found = heads.combined_logits(cosines, labels, 4, m1, m2, m3)
        np.testing.assert_allclose(array(found), array(expected), rtol=1e-5, atol=2e-6)


@pytest.mark.one_backend
def test_filtered_classes_get_no_gradient(gradient_step):
    """Neither in logits without labels nor for labels that are no classes is anything special."""
    head = heads.CosFace(3, 8, 0.1, interclass_filtering_threshold=0.6)
    head.build((None, 3))
    kernel = np.eye(3, dtype="float32")
    head.kernel.assign(kernel)
    x = np.array([[0.8, 0.6 + 1e-3, 0.1], [0.8, 0.7, 0.1]], "float32")
    cosines = x / np.linalg.norm(x, axis=1)[:, None]
    np.testing.assert_allclose(array(head(x)), 8 * cosines, rtol=1e-6)
    labels = ops.convert_to_tensor([1, 7])
    filtered = [[0, 8 * (cosines[0, 1] - 0.1), 8 * cosines[0, 2]], [0, 0, 8 * cosines[1, 2]]]
    np.testing.assert_allclose(array(head(x, labels)), filtered, rtol=1e-5)

    def loss(kernel):
        with keras.StatelessScope(state_mapping=[(head.kernel, kernel)]):
            return head.loss([1], head(x[:1], labels=np.array([1])))[0]

    _, gradient = gradient_step(loss)(kernel)
    assert not gradient[:, 0].any()
    assert gradient[:, 1].any()
    assert gradient[:, 2].any()


@not_jax
def test_adaface_at_extreme_norms(gradient_step):
    """Zero features, norms of 1e-4 and 1e4, at angles of 0 and π and beyond the ends."""
    head = heads.AdaFace(2, 8, 0.4, kernel_initializer=keras.initializers.Identity())
    head.build((None, 2))
    units = np.array([[1, 0], [-1, 0], [1, 0], [-1, 0], [0, 0], [0.995, 0.1], [-0.995, 0.1]])
    norms = np.array([1e-4, 1e-4, 1e4, 1e4, 1.0, 1e4, 1e-4])
    head.norm_mean.assign(50.0)
    head.norm_deviation.assign(1.0)
    labels = ops.convert_to_tensor(np.zeros(7, int))
    value, gradient = gradient_step(lambda x: ops.sum(head(x, labels=labels)[:, 0]))(
        (units * norms[:, None]).astype("float32")
    )
    quality = np.where(norms > 50, 1, -1)
    # A zero feature has a cosine of 0.
    theta = np.arccos(units[:, 0] / np.maximum(np.linalg.norm(units, axis=1), 1e-9))
    turned = np.cos(np.clip(theta - 0.4 * quality, 0, np.pi))
    assert value == pytest.approx(8 * np.sum(turned - 0.4 * quality - 0.4), rel=1e-5)
    assert np.isfinite(gradient).all()


@pytest.mark.usefixtures("weights_from_numpy")
def test_moving_averages_follow_the_batches_and_are_saved(tmp_path):
    x = np.random.default_rng(0).normal(size=(6, 4)).astype("float32") * 20
    labels = np.array([0, 1, 2, 3, 4, 1])
    for kind in (heads.AdaFace, heads.CurricularFace):
        head = kind(CLASSES, momentum=0.7)
        backbone = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
        model = mhe.HeadModel(backbone, head)
        model.compile(keras.optimizers.SGD(0.0))
        model.fit(x, labels, batch_size=3, shuffle=False, epochs=2, verbose=0)
        features = array(model.backbone(x)).astype("float64")
        averages = [[20.0, 100.0], [0.0]][kind is heads.CurricularFace]
        for batch in (slice(3), slice(3, 6)) * 2:
            norms = np.linalg.norm(features[batch], axis=1)
            assert norms.min() > 1e-3
            cosines = np.cos(angles(features[batch], array(head.kernel)))
            norms = np.clip(norms, 0, 100)
            seen = [norms.mean(), norms.std(ddof=1)]
            if kind is heads.CurricularFace:
                seen = [cosines[np.arange(3), labels[batch]].mean()]
            averages = [0.7 * old + 0.3 * new for old, new in zip(averages, seen, strict=True)]
        names = {"AdaFace": ["norm_mean", "norm_deviation"], "CurricularFace": ["t"]}
        found = [float(array(getattr(head, name))) for name in names[kind.__name__]]
        np.testing.assert_allclose(found, averages, rtol=1e-4)
        if keras.backend.backend() != "jax":  # which would compile every operation by itself
            head(features.astype("float32"), labels=labels)  # no training: moves nothing
        model.save_weights(tmp_path / "model.weights.h5")
        loaded = kind(CLASSES)
        again = mhe.HeadModel(backbone, loaded)
        again.load_weights(tmp_path / "model.weights.h5")
        for each in (head, loaded):
            kept = [float(array(getattr(each, name))) for name in names[kind.__name__]]
            assert kept == found


@pytest.mark.one_backend
def test_moving_averages_of_odd_batches():
    """One sample has no deviation, and labels that are no classes do not count."""
    ada = heads.AdaFace(CLASSES)
    ada(np.full((1, 4), 10.0, "float32"), labels=[0], training=True)
    assert float(ada.norm_deviation) == pytest.approx(99)
    assert float(ada.norm_mean) == pytest.approx(20)
    curricular = heads.CurricularFace(3, kernel_initializer=keras.initializers.Identity())
    features = np.eye(3, dtype="float32")
    curricular(features, labels=ops.convert_to_tensor([0, -1, 3]), training=True)
    assert float(curricular.t) == pytest.approx(0.01)
    curricular(features, labels=ops.convert_to_tensor([7, -1, 3]), training=True)
    assert float(curricular.t) == pytest.approx(0.01)


def test_unknown_dims():
    with pytest.raises(ValueError, match=r"known dims. Received: shape \(None, None\)"):
        heads.CosFace(5).build((None, None))


# --- dtypes and models --------------------------------------------------------------------------


@not_jax
@pytest.mark.parametrize("kind", [heads.ArcFace, heads.SphereFace2])
def test_dtypes(kind):
    x = np.random.default_rng(0).normal(size=(3, 8)).astype("float16")
    kernel = np.random.default_rng(1).normal(size=(8, 4)).astype("float32")
    options = {"kernel_initializer": keras.initializers.Constant(1.0)}
    found = {}
    # What the other backends make of float64 depends on their settings.
    doubled = ["float64"] if keras.backend.backend() == "tensorflow" else []
    for dtype in ("float32", "mixed_float16", *doubled):
        head = kind(4, dtype=dtype, **options)
        head.build((None, 8))
        head.kernel.assign(kernel)
        logits = head(x, labels=[1, 2, 3])
        found[dtype] = array(logits)
        expected = "float64" if dtype == "float64" else "float32"
        for each in (head.kernel, logits, head.loss([1, 2, 3], logits)):
            assert keras.backend.standardize_dtype(each.dtype) == expected
    np.testing.assert_array_equal(found["mixed_float16"], found["float32"])
    for wide in doubled:
        np.testing.assert_allclose(found["float32"], found[wide], rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("weights_from_numpy")
def test_fit_counts_steps_and_saving_keeps_them(tmp_path):
    x = np.random.default_rng(0).normal(size=(6, 4)).astype("float32")
    energy = mhe.MHE(0.5, s=1, distance="euclidean", space="full")
    head = heads.SphereFacePlus(CLASSES, 2, energy, lambda_end=0)
    model = mhe.HeadModel(keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)]), head)
    model.compile(keras.optimizers.SGD(0.0))
    model.fit(x, LABELS, batch_size=2, verbose=0)
    assert int(array(head.step)) == 3
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras", safe_mode=True)
    assert int(array(loaded.head.step)) == 3
    assert loaded.head.kernel_regularizer.get_config() == energy.get_config()
    np.testing.assert_array_equal(array(loaded.head.kernel), array(head.kernel))
    if keras.backend.backend() != "jax":  # which would compile every operation by itself
        # Evaluation counts nothing, and sees λ as training left it.
        logits = array(head(x[:, :3], labels=LABELS))
        np.testing.assert_array_equal(array(loaded.head(x[:, :3], labels=LABELS)), logits)
        assert int(array(head.step)) == 3
        assert float(array(head.annealing())) == pytest.approx(1000 / (1 + 0.12 * 3), rel=1e-6)
        assert float(array(model.losses[0])) == pytest.approx(float(array(energy(head.kernel))))


@pytest.mark.usefixtures("weights_from_numpy")
def test_soft_normalization_adds_to_the_loss():
    x = np.random.default_rng(0).normal(size=(6, 4)).astype("float32")
    head = heads.SphereFaceR(CLASSES, 3, normalization="soft", penalty=2.0)
    model = mhe.HeadModel(keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)]), head)
    model.compile(keras.optimizers.SGD(0.0))
    features = array(model.backbone(x))
    loss = array(head.loss(LABELS, head(features, labels=LABELS))).mean()
    penalty = 2.0 * np.abs(np.linalg.norm(features.astype("float64"), axis=1) - 3).mean()
    assert model.train_on_batch(x, LABELS) == pytest.approx(loss + penalty, rel=1e-5)
    model(x)
    assert model.losses == []
