"""Figures show the numbers that they are given."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from mhe.harness.figures import canvas
from sphereface_plus.program import figures
from sphereface_plus.verification import roc_curve

pytest.importorskip("matplotlib")
pytestmark = pytest.mark.one_backend


@pytest.fixture
def drawn(monkeypatch):
    """The panels of figures that would have been saved."""
    panels = []
    monkeypatch.setattr(canvas, "save", lambda figure, path: panels.extend(figure.axes))
    return panels


def test_roc_of_several_runs(drawn):
    generator = np.random.default_rng(0)
    same = np.arange(8000) % 2 == 0
    curves = {
        name: roc_curve(generator.normal(margin * same), same)
        for name, margin in (("cosface", 2.0), ("arcface", 1.0))
    }
    figures.draw_roc(curves, "roc.png")
    (axes,) = drawn
    assert axes.get_xscale() == "log"
    for line, (name, curve) in zip(axes.lines, curves.items(), strict=True):
        assert line.get_label() == f"{name} (AUC {curve.auc:.4f})"
        far, tar = line.get_data()
        assert_allclose([far[0], far[-1]], [1 / 4000, 1])
        assert_allclose(tar, [curve.tar_at(each) for each in far])


def test_scores_are_densities_of_both_kinds(drawn):
    figures.draw_scores([0.1, 0.2, 0.9, 0.9], [False, False, True, True], "scores.png", 0.5)
    (axes,) = drawn
    areas = [sum(bar.get_height() * bar.get_width() for bar in each) for each in axes.containers]
    assert_allclose(areas, [1, 1])
    tallest = [max(each, key=lambda bar: bar.get_height()).get_x() for each in axes.containers]
    assert tallest[1] < 0.2 < 0.8 < tallest[0]
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert set(labels) == {"same person (2)", "different people (2)", "threshold 0.500"}


def test_cmc_begins_at_rank_one(drawn):
    figures.draw_cmc({"arcface": np.array([0.5, 0.75, 1.0])}, "cmc.png")
    ranks, rates = drawn[0].lines[0].get_data()
    assert_allclose(ranks, [1, 2, 3])
    assert_allclose(rates, [0.5, 0.75, 1.0])


def test_det_is_what_roc_leaves(drawn):
    generator = np.random.default_rng(0)
    same = np.arange(8000) % 2 == 0
    curve = roc_curve(generator.normal(2.0 * same), same)
    figures.draw_det({"cosface": curve}, "det.png")
    (axes,) = drawn
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    (line,) = axes.lines
    assert line.get_label() == f"cosface (EER {curve.eer:.4f})"
    far, frr = line.get_data()
    known = np.array([curve.tar_at(each) for each in far])
    assert_allclose(frr[known < 1], 1 - known[known < 1], atol=1e-12)
    assert np.isnan(frr[known == 1]).all()


def test_hardest_pairs_are_side_by_side_above_their_scores(drawn):
    faces = np.random.default_rng(0).integers(256, size=(6, 5, 4, 1), dtype=np.uint8)
    rows = {
        "one": [(faces[0], faces[1], 0.125), (faces[2], faces[3], 0.25)],
        "two": [(faces[4], faces[5], 0.75)],
    }
    figures.draw_hardest(rows, "hardest.png")
    assert len(drawn) == 4
    shown = [axes for axes in drawn if axes.images]
    for axes, (one, other, score) in zip(shown, [*rows["one"], *rows["two"]], strict=True):
        pixels = np.asarray(axes.images[0].get_array())
        np.testing.assert_array_equal(pixels[..., :1], np.concatenate([one, other], axis=1))
        assert [text.get_text() for text in axes.texts] == [f"{score:.3f}"]
    assert [drawn[0].get_title("left"), drawn[2].get_title("left")] == ["one", "two"]
