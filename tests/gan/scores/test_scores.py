"""The scores against formulas written from the papers, in closed forms and at random."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from gan.scores import (
    Statistics,
    frechet_distance,
    inception_score,
    kernel_inception_distance,
    precision_recall,
)

pytestmark = pytest.mark.one_backend


def test_inception_score_of_closed_forms():
    assert inception_score(np.full((10, 7), 1 / 7)) == pytest.approx((1, 0), abs=1e-12)
    for classes in (2, 10):
        certain = np.tile(np.eye(classes, dtype="float32"), (20, 1))
        assert inception_score(certain) == pytest.approx((classes, 0), abs=1e-12)
    # In one part all images are of one class, in the other of two.
    parts = np.eye(2)[[0, 0, 0, 0, 0, 1, 0, 1]]
    assert inception_score(parts, splits=2) == pytest.approx((1.5, 0.5))


@pytest.mark.parametrize(("images", "splits"), [(23, 10), (40, 1)])
def test_inception_score_is_that_of_the_paper(images, splits):
    rng = np.random.default_rng(1)
    p = rng.dirichlet([0.2] * 5, images)
    p[3] = [0, 1, 0, 0, 0]
    scores = []
    for part in range(splits):
        some = p[part * images // splits : (part + 1) * images // splits]
        marginal = some.mean(axis=0)
        divergence = [
            sum(a * np.log(a / b) for a, b in zip(row, marginal, strict=True) if a > 0)
            for row in some
        ]
        scores.append(np.exp(np.mean(divergence)))
    expected = np.mean(scores), np.sqrt(np.mean((scores - np.mean(scores)) ** 2))
    assert_allclose(inception_score(p, splits), expected, rtol=1e-12)
    # What a softmax leaves in 16 and 32 bits.
    assert_allclose(inception_score(p.astype("float16"), splits), expected, rtol=5e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("probabilities", "splits", "complaint"),
    [
        (np.full((9, 2), 0.5), 10, r"9 images, splits=10"),
        (np.full((9, 2), 0.5), 0, r"Received: 0"),
        ([[0.5, 0.4]], 1, r"row 0 of smallest entry 0.4 and sum 0.9"),
        ([[0.5, 0.5], [1.5, -0.5]], 1, r"row 1 of smallest entry -0.5"),
        ([[0.5, np.nan]], 1, r"NaN or infinity in 1 of 1 rows"),
        ([0.5, 0.5], 1, r"shape \(2,\)"),
    ],
)
def test_no_distributions(probabilities, splits, complaint):
    with pytest.raises(ValueError, match=complaint):
        inception_score(probabilities, splits)


def gaussian(rng, dims, rank):
    root = rng.normal(size=(dims, rank)) * 10.0 ** rng.uniform(-2, 1, size=rank)
    return rng.normal(size=dims), root @ root.T


def test_frechet_distance_of_closed_forms():
    mean, spread = np.array([1.0, 2.0]), np.diag([4.0, 9.0])
    # Covariances that commute: ‖μ₁ − μ₂‖² + Σ (√λ₁ − √λ₂)².
    assert frechet_distance(mean, spread, [1.0, 5.0], np.diag([1.0, 25.0])) == pytest.approx(14)
    assert frechet_distance(mean, 0 * spread, mean, spread) == pytest.approx(13)
    assert frechet_distance(mean, spread, mean, spread) == 0
    # Of rank 1, along different directions: (Σ₁Σ₂)^½ has the trace |a · b|.
    a, b = np.array([3.0, 4.0]), np.array([0.0, 2.0])
    found = frechet_distance(mean, np.outer(a, a), mean, np.outer(b, b))
    assert found == pytest.approx(25 + 4 - 2 * 8)


@pytest.mark.parametrize("ranks", [(6, 6), (3, 6), (2, 3)])
def test_frechet_distance_is_that_of_the_paper(ranks):
    linalg = pytest.importorskip("scipy.linalg")
    rng = np.random.default_rng(2)
    (mu1, sigma1), (mu2, sigma2) = (gaussian(rng, 6, rank) for rank in ranks)
    # A root of a singular matrix needs a little on the diagonal, which moves it by its root.
    little = 0 if ranks == (6, 6) else 1e-10
    cross = linalg.sqrtm((sigma1 + little * np.eye(6)) @ (sigma2 + little * np.eye(6)))
    expected = np.sum((mu1 - mu2) ** 2) + np.trace(sigma1 + sigma2 - 2 * np.real(cross))
    assert_allclose(
        frechet_distance(mu1, sigma1, mu2, sigma2), expected, rtol=1e-4 if little else 1e-9
    )
    assert_allclose(
        frechet_distance(mu2, sigma2, mu1, sigma1), frechet_distance(mu1, sigma1, mu2, sigma2)
    )
    # Nothing is between a set and itself, though half of its roots are rounding.
    assert frechet_distance(mu1, sigma1, mu1, sigma1) <= 1e-12 * np.trace(sigma1)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (([0.0], [[1.0]], [0.0, 0.0], np.eye(2)), r"\(1,\), \(1, 1\), \(2,\), \(2, 2\)"),
        (([0.0], [1.0], [0.0], [[1.0]]), r"\(1,\), \(1,\), \(1,\), \(1, 1\)"),
        (([np.nan], [[1.0]], [0.0], [[1.0]]), "NaN"),
        (([0.0] * 2, [[1.0, 0.5], [0.0, 1.0]], [0.0] * 2, np.eye(2)), "`sigma1` must be symmetric"),
        (([0.0] * 2, np.eye(2), [0.0] * 2, -np.eye(2)), "`sigma2` must have no negative"),
    ],
)
def test_no_gaussians(arguments, complaint):
    with pytest.raises(ValueError, match=complaint):
        frechet_distance(*arguments)


def test_kernel_distance_is_that_of_the_paper():
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(7, 4)), rng.normal(0.5, 1, size=(7, 4))

    def kernel(a, b):
        return (sum(a * b) / 4 + 1) ** 3

    pairs = [(i, j) for i in range(7) for j in range(7)]
    expected = sum(kernel(x[i], x[j]) + kernel(y[i], y[j]) for i, j in pairs if i != j) / 42
    expected -= 2 * sum(kernel(x[i], y[j]) for i, j in pairs) / 49
    # A subset of all images is all images.
    mean, std = kernel_inception_distance(x.astype("float32"), y, subsets=3, size=7)
    assert_allclose(mean, expected, rtol=1e-5)
    assert std == pytest.approx(0, abs=1e-12)


def test_kernel_distance_has_no_bias_and_keeps_its_seed():
    rng = np.random.default_rng(4)
    x, y = rng.normal(size=(2, 4000, 3))
    mean, std = kernel_inception_distance(x, y, size=20, subsets=400)
    assert abs(mean) < 4 * std / 20
    few = {"size": 10, "subsets": 5}
    assert kernel_inception_distance(x, y, **few) == kernel_inception_distance(x, y, **few)
    assert kernel_inception_distance(x, y, **few) != kernel_inception_distance(x, y, **few, seed=1)
    with pytest.raises(ValueError, match=r"`features1` must have at least 4001 rows"):
        kernel_inception_distance(x, y, size=4001)
    with pytest.raises(ValueError, match=r"of one classifier. .*\(4000, 3\) and \(4000, 2\)"):
        kernel_inception_distance(x, y[:, :2])


@pytest.mark.parametrize("k", [1, 3])
def test_precision_and_recall_are_those_of_the_paper(k, monkeypatch):
    rng = np.random.default_rng(5)
    real, fake = rng.normal(100, 1, size=(40, 2)), rng.normal(100.7, 0.7, size=(30, 2))
    fake[:6] = fake[6]  # equal images, in a ball of no size
    fake[28:] += 9
    real[9] = fake[6]

    def share(points, others):
        inside = 0
        for point in points:
            for i, other in enumerate(others):
                rest = np.delete(others, i, axis=0)
                radius = np.sort(np.linalg.norm(rest - other, axis=1))[k - 1]
                if np.linalg.norm(point - other) <= radius:
                    inside += 1
                    break
        return inside / len(points)

    expected = share(fake, real), share(real, fake)
    assert 0 < expected[1] < expected[0] < 1
    assert precision_recall(real, fake, k) == pytest.approx(expected)
    monkeypatch.setattr("gan.scores.manifold._BLOCK", 100)
    assert precision_recall(real.astype("float32"), fake.astype("float32"), k) == pytest.approx(
        expected
    )
    with pytest.raises(ValueError, match=f"`fake` must have at least {k + 1} rows"):
        precision_recall(real, fake[:k], k)


def test_statistics_are_those_of_all_batches_at_once():
    rng = np.random.default_rng(6)
    # Far from 0 the mean of squares has no digit left for the covariance.
    features = (1e4 + rng.normal(size=(50, 3)) @ rng.normal(size=(3, 3))).astype("float32")
    statistics = Statistics(3)
    for batch in np.split(features, [1, 2, 20, 45]):
        statistics.update(batch)
    exact = features.astype("float64")
    assert statistics.count == 50
    assert_allclose(statistics.mu, exact.mean(axis=0), rtol=1e-14)
    assert_allclose(statistics.sigma, np.cov(exact, rowvar=False), rtol=1e-9)
    kept = Statistics.restored(45, exact[:45].mean(axis=0), np.cov(exact[:45], rowvar=False))
    kept.update(features[45:])
    assert_allclose(kept.sigma, statistics.sigma, rtol=1e-9)
    with pytest.raises(ValueError, match=r"shape \(N, 3\). Received: shape \(2, 4\)"):
        statistics.update(np.zeros((2, 4)))
    with pytest.raises(ValueError, match="finite"):
        statistics.update([[0, 0, np.inf]])
    with pytest.raises(ValueError, match=r"at least 2 images. Received: 0"):
        _ = Statistics(3).sigma
