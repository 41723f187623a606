"""Figures: what they draw, read back from matplotlib's objects and from the PNG."""

import numpy as np
import pytest

from mhe.harness import figures

pytestmark = pytest.mark.one_backend

ROWS = [
    {
        "epoch": epoch,
        "accuracy": 0.1 * epoch,
        "val_accuracy": 0.05 * epoch,
        "energy/a/kernel": 1.0 / epoch,
        "energy/b/kernel": 3.0 / epoch,
        "energy": 2.0 / epoch,
    }
    for epoch in (1, 2, 3)
]


def lines(axes):
    return {
        line.get_label(): line.get_ydata().tolist()
        for line in axes.get_lines()
        if not line.get_label().startswith("_")
    }


def test_curves_show_accuracy_and_energy(tmp_path, drawn):
    figures.draw_curves(ROWS, tmp_path / "curves.png", "a run")
    accuracy, energy = drawn[0].axes
    assert lines(accuracy)["training"] == [0.1, 0.2, pytest.approx(0.3)]
    assert lines(accuracy)["test"] == [0.05, 0.1, pytest.approx(0.15)]
    assert lines(energy)["mean over layers"] == [2.0, 1.0, pytest.approx(2 / 3)]
    assert [3.0, 1.5, 1.0] in [
        line.get_ydata().tolist() for line in energy.get_lines() if len(line.get_ydata())
    ]
    assert drawn[0].get_suptitle() == "a run"
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert [path.name for path in tmp_path.iterdir()] == ["curves.png"]


def test_angles_show_each_layer_before_and_after(tmp_path, drawn):
    before = {"a/kernel": np.full(10, np.pi / 2), "one": np.empty(0), "b/kernel": np.ones(3)}
    after = {"a/kernel": np.full(10, np.pi), "one": np.empty(0), "b/kernel": np.ones(3)}
    figures.draw_angles(before, after, tmp_path / "angles.png")
    first, second = drawn[0].axes
    assert [first.get_title(), second.get_title()] == ["a/kernel", "b/kernel"]
    degrees = []
    for patch in first.patches:
        corners = patch.get_xy()
        above = corners[corners[:, 1] > 0, 0]
        degrees.append((above.min(), above.max()))
    assert len(degrees) == 2
    assert all(high - low < 2 for low, high in degrees)  # one bin each
    assert degrees[0][0] <= 90 <= degrees[0][1]
    assert degrees[1][0] <= 180 <= degrees[1][1] + 1e-9


def test_of_many_layers_the_first_and_last_are_among_those_drawn(tmp_path, drawn):
    many = {f"layer{index}": np.ones(3) for index in range(56)}
    figures.draw_angles(many, many, tmp_path / "angles.png")
    titles = [axes.get_title() for axes in drawn[0].axes]
    assert len(titles) == 12
    assert (titles[0], titles[-1]) == ("layer0", "layer55")
    assert "12 of 56 layers" in drawn[0].get_suptitle()


def test_comparison_draws_the_mean_over_seeds(tmp_path, drawn):
    other = [{**row, "val_accuracy": 3 * row["val_accuracy"]} for row in ROWS]
    runs = {"baseline": [ROWS, other], "mhe": [ROWS[:2]]}
    figures.draw_comparison(runs, tmp_path / "comparison.png")
    accuracy, energy = drawn[0].axes  # no cross-entropy and no norms in these logs
    assert lines(accuracy)["baseline, mean of 2"] == pytest.approx([0.1, 0.2, 0.3])
    assert lines(accuracy)["mhe, mean of 1"] == pytest.approx([0.05, 0.1])
    assert lines(energy)["mhe, mean of 1"] == [2.0, 1.0]


def test_comparison_draws_loss_and_norms_if_they_were_logged(tmp_path, drawn):
    rows = [
        {**row, "cross_entropy": 2.0, "norm/a/kernel": 0.5, "norm/b/kernel": 8.0} for row in ROWS
    ]
    figures.draw_comparison({"mhe": [rows]}, tmp_path / "comparison.png")
    _, loss, _, norm = drawn[0].axes
    assert lines(loss)["mhe, mean of 1"] == [2.0] * len(ROWS)
    # The geometric mean over kernels.
    assert lines(norm)["mhe, mean of 1"] == pytest.approx([2.0] * len(ROWS))


def test_named_results_stand_below_each_other(tmp_path, drawn):
    panels = {"error (%)": {"softmax": (20.0, 1.0)}, "cost": {"softmax": (2, 0), "hxe": (1, 0.5)}}
    figures.draw_named(panels, tmp_path / "named.png", "results")
    assert (tmp_path / "named.png").read_bytes().startswith(b"\x89PNG")
    errors, costs = drawn[0].axes
    assert [text.get_text() for text in errors.get_yticklabels()] == ["softmax", "hxe"]
    points = [container.lines[0].get_xydata()[0].tolist() for container in costs.containers]
    assert points == [[2, 0], [1, 1]]
    assert len(errors.containers) == 1
