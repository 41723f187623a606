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
