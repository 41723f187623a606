"""The distribution of cosines, read back from matplotlib's objects."""

import numpy as np
import pytest

from mhe.harness import figures
from mhe.harness.figures import cosines as module

pytestmark = pytest.mark.one_backend

RNG = np.random.default_rng(0)


def bars(axes, name):
    return next(each for each in axes.patches if each.get_label() == name).get_data()


def test_cosines_are_those_of_all_pairs(tmp_path, drawn, monkeypatch):
    prototypes = RNG.normal(size=(20, 4))
    units = prototypes / np.linalg.norm(prototypes, axis=1, keepdims=True)
    cosines = (units @ units.T)[np.triu_indices(20, 1)]
    monkeypatch.setattr(module, "_BLOCK", 60)  # three rows a block
    figures.draw_cosines(prototypes, tmp_path / "cosines.png", bound=0.25)
    axes = drawn[0].axes[0]
    shares, edges, _ = bars(axes, "pairs of prototypes")
    np.testing.assert_allclose(shares, 100 * np.histogram(cosines, edges)[0] / 190)
    assert (edges[0], edges[-1]) == pytest.approx((cosines.min(), cosines.max()))
    lines = {line.get_label(): line.get_xdata()[0] for line in axes.get_lines()}
    assert lines == pytest.approx(
        {f"largest: {cosines.max():.4f}": cosines.max(), "bound on the largest: 0.2500": 0.25}
    )


def test_equal_cosines_make_one_bar(tmp_path, drawn):
    figures.draw_cosines(np.eye(5) - 0.2, tmp_path / "cosines.png")
    axes = drawn[0].axes[0]
    shares, _, _ = bars(axes, "pairs of prototypes")
    assert shares.max() == 100
    assert [line.get_label() for line in axes.get_lines()] == ["largest: -0.2500"]


@pytest.mark.parametrize("dims", [2, 3, 10])
def test_chance_is_what_random_points_do(dims):
    points = np.random.default_rng(1).normal(size=(1000, dims))
    cosines = points[:, 0] / np.linalg.norm(points, axis=1)
    edges = np.linspace(-1, 1, 9)
    expected = np.mean(cosines[:, None] < edges, axis=0)
    np.testing.assert_allclose(module._chance(dims, edges), expected, atol=0.05)
    if dims == 3:  # Archimedes: uniform
        np.testing.assert_allclose(module._chance(3, edges), (1 + edges) / 2, atol=1e-6)


def test_one_prototype_has_no_cosine(tmp_path):
    with pytest.raises(ValueError, match=r"at least two classes. Received: shape \(1, 2\)"):
        figures.draw_cosines(np.ones((1, 2)), tmp_path / "cosines.png")
