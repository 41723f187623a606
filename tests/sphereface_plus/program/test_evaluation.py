"""The hardest pairs, against all pairs in order."""

import numpy as np
import pytest

from mhe.harness.files import read_csv
from sphereface_plus import FaceModel, backbones, faces
from sphereface_plus.heads import NormFace
from sphereface_plus.pairs import Pairs
from sphereface_plus.program import evaluation
from sphereface_plus.verification import all_pairs

pytestmark = pytest.mark.one_backend


def test_numbers_of_pairs():
    first, second = np.triu_indices(7, 1)
    found = evaluation._pairs_at(np.arange(21), 7)
    np.testing.assert_array_equal(found, np.stack([first, second], axis=1))


@pytest.mark.parametrize("is_listed", [False, True])
def test_the_hardest_pairs_of_each_kind(people, tmp_path, weights_from_numpy, is_listed):
    backbone = backbones.sfnet(4, 8, input_shape=(16, 16, 1), width=0.06)
    model = FaceModel(backbone, NormFace(3))
    found = faces.find_people(people)
    first, second = np.triu_indices(24, 1)
    scores, same = all_pairs(
        model.embed(faces.FaceBatches(found, 8, size=(16, 16), channels=1, flip=False,
                                      shuffle=False), mirror=True), found.labels)  # fmt: skip
    pairs, listed = None, np.arange(len(scores))
    if is_listed:
        listed = np.random.default_rng(0).permutation(len(scores))
        rows = np.stack([first, second], axis=1)[listed]
        pairs = Pairs(rows, same[listed], None)
    report = evaluation.evaluate(model, found, pairs, batch_size=8)
    expected = []
    for kind, order in ((True, np.argsort(scores)), (False, np.argsort(-scores))):
        expected += [place for place in order if same[place] == kind][:8]
    assert len(report.hardest) == 16
    assert [pair.same for pair in report.hardest] == [True] * 8 + [False] * 8
    np.testing.assert_allclose([pair.score for pair in report.hardest], scores[expected], atol=1e-5)
    for pair in report.hardest:
        rows = [found.images.index(name) for name in pair.images]
        place = np.flatnonzero((first == min(rows)) & (second == max(rows))).item()
        assert pair.score == pytest.approx(scores[place], abs=1e-5)
        shown = faces.load(found, rows, (16, 16), 1)
        np.testing.assert_array_equal(pair.faces, shown)
    report.write(tmp_path, "a test")
    table = read_csv(tmp_path / "hardest.csv")
    assert [row["same"] for row in table] == ["1"] * 8 + ["0"] * 8
    assert (tmp_path / "hardest.png").exists()
    assert (tmp_path / "det.png").exists()
    assert report.metrics["val_at_far_1e-1"] == report.verification.val_at_far[0.1].rate
    assert not [name for name in report.metrics if name.endswith("_std") and "_over_" not in name]
    assert "VAL " in report.text
