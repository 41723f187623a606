"""ROC curves against scikit-learn's, and against counts of pairs and of accepted samples."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from mhe.metrics import roc_curve

pytestmark = pytest.mark.one_backend


def drawn(dtype="float32", digits=8, positives=60, negatives=340):
    """Scores of which some are equal where they have few digits."""
    generator = np.random.default_rng(5)
    positive = generator.permutation(np.repeat([True, False], [positives, negatives]))
    scores = generator.normal(0.4 * positive, 0.25).round(digits).astype(dtype)
    return scores, positive


CASES = [("float32", 8), ("float64", 1), ("float16", 2)]


@pytest.mark.parametrize(("dtype", "digits"), CASES)
def test_roc_is_that_of_scikit_learn(dtype, digits):
    metrics = pytest.importorskip("sklearn.metrics")
    scores, positive = drawn(dtype, digits)
    curve = roc_curve(scores, positive)
    far, tar, thresholds = metrics.roc_curve(positive, scores, drop_intermediate=False)
    places = np.searchsorted(-thresholds, -curve.thresholds)
    assert_allclose(thresholds[places], curve.thresholds, rtol=1e-7)
    assert_allclose(far[places], curve.far, rtol=1e-12)
    assert_allclose(tar[places], curve.tar, rtol=1e-12)
    assert len(places) < len(thresholds)
    # What was left out lies on the lines between what was not.
    along = np.interp(far + tar, curve.far + curve.tar, curve.far)
    assert_allclose(along, far, atol=1e-12)
    assert_allclose(curve.auc, metrics.roc_auc_score(positive, scores), rtol=1e-12)
    for rate in (0.5, 0.1, 0.011, 1 / 340):
        assert curve.tar_at(rate) == pytest.approx(tar[far <= rate].max(), rel=1e-12)
    assert curve.tar_at(0.99 / 340) is None
    for rate in (1.0, 0.95, 0.5, 1 / 60, 0.01):
        assert curve.far_at(rate) == pytest.approx(far[tar >= rate - 1e-12].min(), rel=1e-12)
    # Where false accepts and false rejects are equally frequent, on scikit-learn's curve.
    fine = np.linspace(0, 1, 100001)
    gaps = np.interp(fine, far, tar) - (1 - fine)
    assert curve.eer == pytest.approx(fine[np.argmax(gaps >= 0)], abs=2e-5)


@pytest.mark.parametrize(("dtype", "digits"), CASES)
def test_the_area_is_the_share_of_pairs_in_order(dtype, digits):
    scores, positive = drawn(dtype, digits, 31, 17)
    above, below = scores[positive][:, None], scores[~positive]
    # Twice the number, an integer: equal scores count half.
    twice = int(np.sum(above > below)) + int(np.sum(above >= below))
    assert roc_curve(scores, positive).auc == twice / (2 * 31 * 17)


def test_rates_are_counts_at_the_best_threshold():
    scores, positive = drawn(digits=1, positives=37, negatives=23)
    curve = roc_curve(scores, positive)
    thresholds = [*np.unique(scores), np.inf]
    rates = np.array(
        [[np.mean(scores[kind] >= each) for each in thresholds] for kind in (positive, ~positive)]
    )
    for rate in np.arange(1, 38) / 37:
        assert curve.far_at(rate) == pytest.approx(rates[1][rates[0] >= rate - 1e-12].min())
    for rate in np.arange(1, 24) / 23:
        assert curve.tar_at(rate) == pytest.approx(rates[0][rates[1] <= rate + 1e-12].max())


def test_scores_that_say_nothing_or_everything():
    alike = roc_curve(np.full(6, 0.5), [True, False] * 3)
    assert (alike.auc, alike.eer, alike.far_at(0.95), alike.far_at(0.1)) == (0.5, 0.5, 1.0, 1.0)
    assert_array_equal(alike.thresholds, [np.inf, 0.5])
    best = roc_curve([2.0, 1.0], [True, False])
    assert (best.auc, best.far_at(1), best.tar_at(1)) == (1.0, 0.0, 1.0)
    worst = roc_curve([1.0, 2.0], [True, False])
    assert (worst.auc, worst.eer, worst.far_at(0.95)) == (0.0, 1.0, 1.0)
    assert (best.positives, best.negatives) == (1, 1)
    # Not one of these squares or sums is a float.
    large = roc_curve([1e308, -1e308, 5e-324], [True, False, True])
    assert large.auc == 1.0


BAD = {
    "inf of sample 1": lambda: roc_curve([0.0, np.inf], [True, False]),
    "2 of sample 0": lambda: roc_curve([0.0, 1.0], [2, 0]),
    "2 and 0": lambda: roc_curve([0.0, 1.0], [True, True]),
    "0 and 0": lambda: roc_curve([], []),
    "positive (3,)": lambda: roc_curve([0.0, 1.0], [True, False, True]),
    "scores float64 (2, 1)": lambda: roc_curve([[0.0], [1.0]], [True, False]),
    "scores <U1 (2,)": lambda: roc_curve(["a", "b"], [True, False]),
    "tar=0": lambda: roc_curve([0.0, 1.0], [0, 1]).far_at(0),
    "tar=95": lambda: roc_curve([0.0, 1.0], [0, 1]).far_at(95),
}


@pytest.mark.parametrize("named", BAD)
def test_bad_input_is_named(named):
    with pytest.raises(ValueError) as error:  # noqa: PT011 - the message is what is tested
        BAD[named]()
    assert named in str(error.value).split("Received: ")[1]
