"""Clusters, batches of their neighbourhoods, kNC and retrieval, against the paper's formulas."""

import keras
import numpy as np
import pytest

import mhe
from mhe import clusters

LABELS = np.repeat([3, 0, 1], [8, 6, 7])


def embedded(seed=0):
    """Two blobs a class, some near blobs of other classes."""
    rng = np.random.default_rng(seed)
    blobs = rng.normal(size=(4, 2, 3))
    halves = np.arange(LABELS.size) % 2
    return blobs[LABELS, halves] + 0.6 * rng.normal(size=(LABELS.size, 3))


def of_equation_4(embeddings, labels, index, alpha):
    """arXiv:1511.05939, equation 4: the loss of one image at a time."""
    own = np.sum((embeddings - index.centers[index.assignments]) ** 2, axis=1)
    variance = np.sum(own) / (len(own) - 1)
    result = []
    for r, label, distance in zip(embeddings, labels, own, strict=True):
        below = sum(
            np.exp(-np.sum((r - center) ** 2) / (2 * variance))
            for center, of in zip(index.centers, index.classes, strict=True)
            if of != label
        )
        result.append(max(0, -np.log(np.exp(-distance / (2 * variance) - alpha) / below)))
    return np.array(result), variance


@pytest.mark.one_backend
def test_index_is_k_means_of_each_class_and_its_losses():
    embeddings = embedded()
    index = clusters.cluster(embeddings, LABELS, per_class=2, alpha=2.0, seed=4)
    assert index.classes.tolist() == [0, 0, 1, 1, 3, 3]
    np.testing.assert_array_equal(index.classes[index.assignments], LABELS)
    losses, variance = of_equation_4(embeddings, LABELS, index, alpha=2.0)
    assert index.variance == pytest.approx(variance)
    assert np.count_nonzero(losses) > 5
    for number, center in enumerate(index.centers):
        members = index.assignments == number
        np.testing.assert_allclose(center, embeddings[members].mean(axis=0))
        assert index.losses[number] == pytest.approx(losses[members].mean())
        # No image is nearer to the other cluster of its class.
        other = index.centers[number + 1 - 2 * (number % 2)]
        nearer = np.sum((embeddings - center) ** 2, 1) <= np.sum((embeddings - other) ** 2, 1)
        assert nearer[members].all()
    again = clusters.cluster(embeddings, LABELS, per_class=2, alpha=2.0, seed=4)
    np.testing.assert_array_equal(again.assignments, index.assignments)


@pytest.mark.one_backend
def test_degenerate_clusters_have_finite_losses():
    embeddings = embedded()[:6]
    each_its_own = clusters.cluster(embeddings, [0, 0, 1, 1, 2, 2], per_class=2)
    assert each_its_own.variance == pytest.approx(0, abs=1e-20)
    np.testing.assert_array_equal(each_its_own.losses, 0)
    np.testing.assert_array_equal(
        clusters.knc(embeddings, each_its_own).argmax(1) * 2, [0, 0, 2, 2, 4, 4]
    )
    equal = clusters.cluster(np.ones((4, 2)), [0, 0, 1, 1], per_class=1)
    np.testing.assert_allclose(equal.losses, 1.0)
    np.testing.assert_allclose(clusters.knc(np.ones((1, 2)), equal), [[0.5, 0.5]])
    np.testing.assert_array_equal(clusters.cluster(embeddings, [0] * 6, per_class=2).losses, 0)


@pytest.mark.one_backend
@pytest.mark.parametrize(
    ("embeddings", "labels", "named"),
    [
        (np.ones((3, 2)), [0, 1, 1], "per_class=2, and 1 image of class 0, cat"),
        (
            np.ones((4, 2)),
            [0, 0, 1, 1],
            "1 without one in class 0, cat, whose 2 images have 1 dist",
        ),
        (
            [[0, 0], [1, 1], [2, 2], [0, np.nan]],
            [0, 0, 1, 1],
            "class 1, dog has 1 that are not, of 2",
        ),
        (np.ones((5, 2)), [0, 0, 1, 1], "one for each of the labels"),
        (np.ones((4, 2)), [0, 0, -1, 1], "must not be negative. Received: -1"),
        (np.ones((2, 2)), [0.0, 1.0], "must be integers"),
    ],
)
def test_bad_embeddings_and_labels_name_the_class(embeddings, labels, named):
    with pytest.raises(ValueError, match=named):
        clusters.cluster(embeddings, labels, per_class=2, class_names=["cat", "dog"])


@pytest.mark.one_backend
@pytest.mark.parametrize("neighbours", [2, 4, 128])
def test_knc_is_the_share_of_the_nearest_clusters(neighbours):
    index = clusters.cluster(embedded(), LABELS, per_class=2)
    queries = embedded(seed=1)
    found = clusters.knc(queries, index, neighbours)
    assert found.shape == (21, 4)
    for query, of_classes in zip(queries, found, strict=True):
        squares = np.sum((index.centers - query) ** 2, axis=1)
        nearest = np.argsort(squares)[:neighbours]
        g = np.exp(-squares[nearest] / (2 * index.variance))
        expected = [g[index.classes[nearest] == c].sum() / g.sum() for c in range(4)]
        np.testing.assert_allclose(of_classes, expected, rtol=1e-6, atol=1e-12)
    far = clusters.knc([[1e4, 0, 0]], index)
    assert far.sum() == pytest.approx(1)
    with pytest.raises(ValueError, match="row 1 that is not"):
        clusters.knc([[0, 0, 0], [0, np.inf, 0]], index)


@pytest.mark.one_backend
def test_concentration_counts_neighbours_alike(monkeypatch):
    # In blocks, of which the last is smaller.
    monkeypatch.setattr("mhe.clusters.distances._BLOCK", 4 * 21)
    embeddings, gallery = embedded(), embedded(seed=1)
    has = np.random.default_rng(2).random((21, 3)) < [0.5, 0.3, 0.0]

    def share(queries, of_queries, others, of_others, excluded):
        shares = []
        for place, query in enumerate(queries):
            order = np.argsort(np.sum((others - query) ** 2, axis=1))
            nearest = [i for i in order if not (excluded and i == place)][:5]
            shares.append(np.mean([of_others[i] == of_queries[place] for i in nearest], axis=0))
        return np.array(shares)

    concentration = clusters.attribute_concentration
    expected = share(embeddings, LABELS, embeddings, LABELS, True).mean()
    assert concentration(embeddings, LABELS, 5) == pytest.approx(expected)
    expected = share(embeddings, LABELS, gallery, LABELS, False).mean()
    found = concentration(embeddings, LABELS, 5, gallery, LABELS)
    assert found == pytest.approx(expected)
    # An attribute that nobody has has no share.
    shares = share(embeddings, has, embeddings, has, True)
    expected = np.mean([shares[has[:, a], a].mean() for a in (0, 1)])
    assert concentration(embeddings, has, 5) == pytest.approx(expected)
    assert concentration(embeddings[:2], [1, 1], neighbours=10) == 1
    for arguments, named in (
        ((embeddings, LABELS[:5]), r"Received: attributes \(5,\)"),
        ((embeddings[:1], [0]), "Received: 1 among 1"),
        ((np.where(LABELS[:, None] == 1, np.nan, embeddings), LABELS), "row 14 of class 1 that is"),
        ((embeddings, np.zeros((21, 2), bool)), "none that has"),
    ):
        with pytest.raises(ValueError, match=named):
            concentration(*arguments)


def batches(**options):
    images = np.arange(LABELS.size, dtype="float32")[:, None]
    options = {"per_class": 2, "clusters": 3, "members": 2, "steps": 40, "seed": 3, **options}
    return clusters.MagnetBatches(images, LABELS, **options)


@pytest.mark.one_backend
def test_a_batch_is_a_seed_and_the_nearest_clusters_of_other_classes():
    drawn = batches(members=4)
    drawn.refresh(embedded(), epoch=5)
    index = drawn.index
    centers, seeds = index.centers, []
    for place in range(len(drawn)):
        images, pairs = drawn[place]
        assert pairs.dtype == np.int32
        chosen = images[:, 0].astype(int)
        np.testing.assert_array_equal(pairs[:, 0], LABELS[chosen])
        np.testing.assert_array_equal(pairs[:, 1], index.assignments[chosen])
        first, *others = pairs[::4, 1]
        seeds.append(first)
        apart = np.sum((centers - centers[first]) ** 2, axis=1)
        apart[index.classes == index.classes[first]] = np.inf
        assert others == np.argsort(apart)[:2].tolist()
        for number in (first, *others):
            # None twice, where there are enough.
            size = np.count_nonzero(index.assignments == number)
            assert len(set(chosen[pairs[:, 1] == number])) == 4 or size < 4
    chances = np.bincount(seeds, minlength=6) / len(seeds)
    expected = index.losses / index.losses.sum()
    assert np.all(chances[expected == 0] == 0)
    np.testing.assert_allclose(chances, expected, atol=4 * np.sqrt(0.25 / 40))
    # Seed, epoch and place decide, and nothing that was drawn before.
    again = batches(members=4)
    again.refresh(embedded(), epoch=5)
    for one, other in zip(again[7], drawn[7], strict=True):
        np.testing.assert_array_equal(one, other)
    assert not np.array_equal(drawn[8][0], drawn[7][0])
    again.refresh(embedded(), epoch=6)
    assert not np.array_equal(again[7][0], drawn[7][0])


@pytest.mark.one_backend
def test_before_there_is_an_index_clusters_are_parts_of_classes():
    drawn = batches(transform=lambda images, rng: images + 100)
    images, pairs = drawn[0]
    assert drawn.index is None
    np.testing.assert_array_equal(pairs[:, 0], LABELS[(images[:, 0] - 100).astype(int)])
    assert len(set(pairs[:, 1].tolist())) == 3
    assert len(batches(steps=None)) == 4
    # Where no cluster has a loss, all are drawn alike.
    drawn.refresh(1e3 * LABELS[:, None] + 0.01 * embedded(), epoch=0)
    assert drawn.index.losses.sum() == 0
    assert {int(drawn[place][1][0, 1]) for place in range(40)} == set(range(6))


@pytest.mark.one_backend
@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"per_class": 7, "class_names": "abcd"}, "per_class=7, and 6 images of class 0, a"),
        ({"clusters": 6}, "needs 5 of other classes beside each one. Received: 4 in 3 classes"),
        ({"members": 0}, "`members` must be an integer >= 1"),
        ({"steps": 0}, "`steps` must be None or an integer >= 1"),
    ],
)
def test_batches_that_cannot_be(options, named):
    with pytest.raises(ValueError, match=named):
        batches(**options)


def test_fit_on_neighbourhoods_parts_the_classes():
    rng = np.random.default_rng(0)
    labels = np.arange(24) % 3
    images = rng.normal(size=(24, 6)).astype("float32") + 2 * np.eye(3, 6)[labels]
    drawn = clusters.MagnetBatches(images, labels, 2, clusters=3, members=2, steps=10)
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(3)])
    model.compile(keras.optimizers.SGD(0.3), mhe.losses.MagnetLoss())
    epochs = []

    class Watch(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            epochs.append((drawn.epoch, drawn.index.losses.mean()))

    refresh = clusters.RefreshClusters(drawn)
    model.fit(drawn, initial_epoch=2, epochs=5, verbose=0, callbacks=[refresh, Watch()])
    assert [epoch for epoch, _ in epochs] == [2, 3, 4]
    assert epochs[2][1] < epochs[0][1]
    index = clusters.cluster(model.predict(images, verbose=0), labels, 2)
    accuracy = np.mean(clusters.knc(model.predict(images, verbose=0), index).argmax(1) == labels)
    assert accuracy > 0.9
