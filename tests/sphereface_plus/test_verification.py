"""Verification against a search over every threshold."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from mhe import metrics
from sphereface_plus import verification

pytestmark = pytest.mark.one_backend


def drawn(dtype="float32", digits=8, matches=60, others=340):
    """Scores of which some are equal where they have few digits."""
    generator = np.random.default_rng(5)
    same = generator.permutation(np.repeat([True, False], [matches, others]))
    scores = generator.normal(0.4 * same, 0.25).round(digits).astype(dtype)
    return scores, same


CASES = [("float32", 8), ("float64", 1), ("float16", 2)]


def test_roc_is_that_of_any_score():
    scores, same = drawn(digits=2)
    curve, general = verification.roc_curve(scores, same), metrics.roc_curve(scores, same)
    assert_array_equal(curve.thresholds, general.thresholds)
    assert (curve.same, curve.different, curve.auc) == (60, 340, general.auc)


@pytest.mark.parametrize(("dtype", "digits"), CASES)
def test_thresholds_are_the_best_of_the_other_folds(dtype, digits):
    scores, same = drawn(dtype, digits)
    folds = verification.stratified_folds(same, 4, seed=1)
    found = verification.verify_scores(scores, same, folds)
    for fold in range(4):
        others = folds != fold
        known = np.unique(scores[others].astype("float64"))
        ends = np.r_[known[0] - 1, known, known[-1] + 1]
        halfway = (ends[1:] + ends[:-1]) / 2
        accuracies = [np.mean((scores[others] >= each) == same[others]) for each in halfway]
        best = np.flatnonzero(accuracies == np.max(accuracies))[-1]
        assert found.thresholds[fold] == pytest.approx(halfway[best], rel=1e-6)
        right = (scores[~others] >= found.thresholds[fold]) == same[~others]
        assert found.accuracies[fold] == right.mean()
    assert found.accuracy == pytest.approx(np.mean(found.accuracies))
    assert found.accuracy_std == pytest.approx(np.std(found.accuracies) * np.sqrt(4 / 3))
    assert found.standard_error == pytest.approx(found.accuracy_std / 2)
    assert found.tar_at_far[1e-3] is None
    assert found.notes[0] == "FAR 1e-03 needs 1,000 pairs of different people, and there are 340"
    assert found.metrics()["tar_at_far_1e-2"] == found.roc.tar_at(1e-2)


@pytest.mark.parametrize(("dtype", "digits"), CASES)
def test_validation_rates_take_their_thresholds_from_the_other_folds(dtype, digits):
    scores, same = drawn(dtype, digits)
    folds = verification.stratified_folds(same, 4, seed=1)
    found = verification.verify_scores(scores, same, folds)
    exact = scores.astype("float64")
    for far in (1e-1, 1e-2):
        result = found.val_at_far[far]
        for fold in range(4):
            others = np.sort(exact[(folds != fold) & ~same])
            known = np.r_[exact.min() - 1, np.unique(exact)]
            # Accepting what is above: the lowest bar with few enough false accepts elsewhere.
            bar = next(each for each in known if np.mean(others > each) <= far)
            own = exact[folds == fold]
            assert result.rates[fold] == np.mean(own[same[folds == fold]] > bar)
            assert result.false_accepts[fold] == np.mean(own[~same[folds == fold]] > bar)
            assert result.thresholds[fold] > bar
            assert result.thresholds[fold] == pytest.approx(bar, rel=2e-3)
        assert result.rate == pytest.approx(np.mean(result.rates))
        assert result.std == pytest.approx(np.std(result.rates) * np.sqrt(4 / 3))
    assert found.val_at_far[1e-3] is None
    metrics = found.metrics()
    assert metrics["val_at_far_1e-2"] == found.val_at_far[1e-2].rate
    assert metrics["val_at_far_1e-2_std"] == found.val_at_far[1e-2].std
    assert metrics["val_at_far_1e-3"] is metrics["val_at_far_1e-3_std"] is None


def test_validation_rates_of_few_pairs_are_missing_and_the_notes_say_so():
    same = np.tile([True, False], 20)
    scores = np.where(same, 1.0, 0.0)
    few = verification.verify_scores(scores[:20], same[:20], 2)
    assert few.tar_at_far[0.1] == 1
    assert few.val_at_far[0.1] is None
    assert few.notes[-1] == (
        "the validation rate at FAR 1e-01 needs 10 pairs of different people outside every fold, "
        "and of 10 there are fewer"
    )
    enough = verification.verify_scores(scores, same, 2)
    # All different pairs score alike: one false accept would be nine too many.
    assert (enough.val_at_far[0.1].rate, enough.val_at_far[0.1].far) == (1, 0)
    with pytest.raises(ValueError, match="`far` must be"):
        verification.validation_rate([scores], [scores], 0)


def test_folds_are_consecutive_or_dealt():
    scores, same = drawn()
    same = np.tile([True, False], 200)
    sets = np.repeat(np.arange(10), 40)
    counted, given = (verification.verify_scores(scores, same, folds) for folds in (10, sets))
    assert_array_equal(counted.thresholds, given.thresholds)
    assert_array_equal(counted.accuracies, given.accuracies)
    _, uneven = drawn()
    dealt = verification.stratified_folds(uneven, 7, seed=2)
    for kind in (uneven, ~uneven):
        assert np.ptp(np.bincount(dealt[kind])) == 1
    assert np.any(dealt != verification.stratified_folds(uneven, 7, seed=3))


def test_thresholds_at_the_ends():
    same = np.array([True, False] * 4)
    alike = verification.verify_scores(np.full(8, 0.5, "float32"), same, 2)
    # Nothing is accepted: as good as everything, and it accepts less.
    assert_array_equal(alike.thresholds, np.nextafter(np.float32(0.5), np.float32(1)))
    assert (alike.accuracy, alike.auc, alike.eer) == (0.5, 0.5, 0.5)
    wrong = verification.verify_scores(1.0 - same, same, 2)
    assert (wrong.accuracy, wrong.auc, wrong.eer) == (0.5, 0.0, 1.0)
    # No float32 lies between the two scores.
    close = np.where(same, np.nextafter(np.float32(0.5), np.float32(1)), np.float32(0.5))
    assert verification.verify_scores(close, same, 2).accuracy == 1.0
    mostly = np.array([True, True, True, False] * 2)
    everything = verification.verify_scores([0.1, 0.2, 0.3, 0.2] * 2, mostly, 2)
    assert_array_equal(everything.thresholds, 0.1)


def test_scores_of_pairs(monkeypatch):
    generator = np.random.default_rng(2)
    embeddings = generator.normal(size=(7, 5)) * 10.0 ** generator.integers(-18, 18, (7, 1))
    labels = np.array([0, 1, 0, 2, 1, 0, 3])
    units = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    first, second = np.triu_indices(7, 1)
    expected = np.sum(units[first] * units[second], axis=1)
    monkeypatch.setattr("sphereface_plus.verification.scores._BLOCK", 15)
    for kind in ("float32", "float64"):
        scores, same = verification.all_pairs(embeddings.astype(kind), labels)
        assert_allclose(scores, expected, atol=3e-7)
        assert_array_equal(same, labels[first] == labels[second])
    pairs = np.stack([first, second], axis=1)
    assert_allclose(verification.pair_scores(embeddings, pairs), expected, atol=3e-7)
    sides = embeddings[first], embeddings[second]
    assert_allclose(verification.cosine_scores(*sides), expected, atol=3e-7)
    found = verification.verify(*sides, np.arange(21) % 2, folds=3)
    assert_allclose(found.scores, expected, atol=3e-7)


GOOD = np.eye(4)
BAD = {
    "row 2 of length nan": lambda: verification.all_pairs(
        GOOD / [[1], [1], [np.nan], [1]], range(4)
    ),
    "row 1 of length 0.0": lambda: verification.verify(GOOD, GOOD * [1, 0, 1, 1], [1, 0, 1, 0]),
    "(4, 4) and (3, 4)": lambda: verification.cosine_scores(GOOD, GOOD[:3]),
    "shape (4,)": lambda: verification.cosine_scores(GOOD[0], GOOD[0]),
    "labels (3,)": lambda: verification.all_pairs(GOOD, [0, 1, 2]),
    "label 4": lambda: verification.pair_scores(GOOD, [[0, 4]]),
    "inf of pair 1": lambda: verification.roc_curve([0.0, np.inf], [True, False]),
    "2 of pair 0": lambda: verification.roc_curve([0.0, 1.0], [2, 0]),
    "2 and 0": lambda: verification.roc_curve([0.0, 1.0], [True, True]),
    "same (3,)": lambda: verification.roc_curve([0.0, 1.0], [True, False, True]),
    "fold 0 with 2 and 0": lambda: verification.verify_scores(range(4), [1, 1, 0, 0], 2),
    "fold 1 with 0 and 0": lambda: verification.verify_scores(range(4), [1, 0, 1, 0], [0] * 4),
    "folds=1": lambda: verification.verify_scores(range(4), [1, 0, 1, 0], 1),
    "for 4 pairs": lambda: verification.verify_scores(range(4), [1, 0, 1, 0], [0, 1]),
    "1 of the same person and 3": lambda: verification.stratified_folds([1, 0, 0, 0], 2),
}


@pytest.mark.parametrize("named", BAD)
def test_bad_input_is_named(named):
    with pytest.raises(ValueError) as error:  # noqa: PT011 - the message is what is tested
        BAD[named]()
    assert named in str(error.value).split("Received: ")[1]
