"""Figures of prototypes: what they draw, read back from matplotlib's objects."""

import numpy as np
import pytest

from mhe.harness import figures
from mhe.harness.figures import prototypes as module

pytestmark = pytest.mark.one_backend

NAMES = ["cat", "dog", "eel"]
LABELS = np.array([0, 0, 1, 2, 2, 1])
RNG = np.random.default_rng(0)


def dots(axes):
    """What each scatter of a panel holds: places and colors."""
    return [
        (np.asarray(each.get_offsets()), each.get_facecolors()[:, :3]) for each in axes.collections
    ]


def texts(axes):
    return {text.get_text(): text for text in axes.texts}


def test_circle_shows_the_directions_of_embeddings_by_class(tmp_path, drawn):
    turn = np.radians([90, 210, 330])
    prototypes = np.stack([np.cos(turn), np.sin(turn)], axis=1)
    embeddings = RNG.normal(size=(6, 2)) * [[0.01], [1], [5], [1], [1e3], [1]]
    path = tmp_path / "circle.png"
    figures.draw_circle(prototypes, embeddings, LABELS, NAMES, path, "a circle")
    assert path.read_bytes().startswith(b"\x89PNG")
    axes = drawn[0].axes[0]
    *classes, (places, colors) = dots(axes)
    np.testing.assert_allclose(places, prototypes)
    assert len({tuple(color) for color in colors}) == 3
    reached = 0.0
    for label, (places, color) in enumerate(classes):
        np.testing.assert_array_equal(color, colors[[label]])
        radii = np.linalg.norm(places, axis=1)
        own = embeddings[label == LABELS]
        np.testing.assert_allclose(
            places / radii[:, None], own / np.linalg.norm(own, axis=1, keepdims=True)
        )
        assert reached < radii.min()
        reached = radii.max()
    assert reached < 1
    assert set(texts(axes)) == set(NAMES)
    for text in texts(axes).values():
        assert -90 <= (text.get_rotation() + 180) % 360 - 180 <= 90  # not upside down
    assert drawn[0].get_suptitle() == "a circle"


def test_the_share_that_is_nearest_is_counted(tmp_path, drawn):
    embeddings = np.array([[2.0, 1.0], [1.0, 2.0], [0.1, 5.0], [0.0, 0.0]])
    figures.draw_circle(np.eye(2), embeddings, [0, 0, 1, 1], NAMES[:2], tmp_path / "circle.png")
    caption = drawn[0].axes[0].get_title()
    assert caption.startswith("4 embeddings, 66.7% nearest to their class's prototype")
    assert "1 are zero and not drawn" in caption
    assert sum(len(places) for places, _ in dots(drawn[0].axes[0])[:-1]) == 3


def test_sphere_shows_each_point_on_one_of_two_sides(tmp_path, drawn):
    prototypes = np.array([[0.0, 0, -1], [0, 0, 1], [-1, 0, 0]])
    embeddings = RNG.normal(size=(6, 3))
    figures.draw_sphere(prototypes, embeddings, LABELS, NAMES, tmp_path / "sphere.png", "a sphere")
    front, back = drawn[0].axes
    points, protos = zip(dots(front), dots(back), strict=True)
    assert sum(len(places) for places, _ in points) == 6
    assert sum(len(places) for places, _ in protos) == 3
    assert set(texts(front)) | set(texts(back)) == set(NAMES)
    assert not set(texts(front)) & set(texts(back))
    # Seen from afar, cosines between points of one side can be read off the picture.
    for places, _ in points:
        depth = np.sqrt(1 - np.sum(places**2, axis=1))
        seen = np.column_stack([places, depth])
        units = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
        cosines = units @ units.T
        for row in seen @ seen.T:
            assert any(set(np.round(row, 6)) <= set(np.round(other, 6)) for other in cosines)


def test_the_second_view_is_from_the_opposite_point():
    front, back = module._view(30, 20), module._view(210, -20)
    np.testing.assert_allclose(front[:, 2], -back[:, 2], atol=1e-12)
    for view in (front, back):
        np.testing.assert_allclose(view.T @ view, np.eye(3), atol=1e-12)
        assert np.linalg.det(view) == pytest.approx(1)
        assert view[2, 1] > 0  # the pole is up


def test_plane_has_like_colors_for_classes_that_are_cheap_to_confuse(tmp_path, drawn):
    costs = np.array([[0, 4, 2], [4, 0, 4], [2, 4, 0]])  # cat and eel belong together
    prototypes, embeddings = RNG.normal(size=(3, 2)), RNG.normal(size=(6, 2))
    path = tmp_path / "plane.png"
    figures.draw_plane(prototypes, embeddings, LABELS, NAMES, costs, path, "a plane")
    assert path.read_bytes().startswith(b"\x89PNG")
    axes = drawn[0].axes[0]
    (points, shades), (places, colors) = dots(axes)
    np.testing.assert_allclose(points, embeddings)
    np.testing.assert_allclose(places, prototypes)
    np.testing.assert_allclose(shades, colors[LABELS])
    assert set(texts(axes)) == set(NAMES)
    # The way round is cat, eel, dog and back: 2, 4 and 4 of 10.
    np.testing.assert_allclose(module._hues(costs), [0, 0.6, 0.2])


def test_many_classes_are_drawn_without_their_names(tmp_path, drawn):
    turn = np.linspace(0, 2 * np.pi, 41, endpoint=False)
    prototypes = np.stack([np.cos(turn), np.sin(turn)], axis=1)
    names = [str(each) for each in range(41)]
    figures.draw_circle(prototypes, prototypes, np.arange(41), names, tmp_path / "circle.png")
    axes = drawn[0].axes[0]
    assert not axes.texts
    assert len({tuple(color) for color in dots(axes)[-1][1]}) == 41


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.eye(3), np.eye(3), [0, 1, 2], NAMES), r"\(classes, 2\).*\(3, 3\)"),
        ((np.eye(2), np.ones((4, 2)), [0, 1], NAMES[:2]), r"\(4, 2\) and \(2,\)"),
        ((np.eye(2), np.eye(2), [0, 1], NAMES), r"Received: .*3 names"),
        ((np.eye(2), np.eye(2), [0, 2], NAMES[:2]), r"from 0 to 1. Received: int64 up to 2"),
        ((np.eye(2), np.eye(2), [0.0, 1.0], NAMES[:2]), r"integers .*Received: float64"),
    ],
    ids=["dims", "labels", "names", "class", "float labels"],
)
def test_what_does_not_fit_together_is_refused(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        figures.draw_circle(*arguments, tmp_path / "circle.png")
    assert not list(tmp_path.iterdir())
