"""Episodes: what they draw, and that it is a function of the seed and their number."""

import itertools

import numpy as np
import pytest

from mhe.fewshot import Episodes

pytestmark = pytest.mark.one_backend


def test_support_and_query_share_no_image_and_stand_in_rows_of_one_class():
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(40), 7))
    seen = set()
    for support, query in itertools.islice(Episodes(labels, ways=6, shots=3, queries=4), 30):
        rows = np.concatenate([support, query], axis=1)
        assert support.shape == (6, 3)
        assert np.unique(rows).size == rows.size
        assert (labels[rows] == labels[rows[:, :1]]).all()
        assert np.unique(labels[rows[:, 0]]).size == 6
        seen.update(support.ravel().tolist())
    # 540 draws of 280 images leave out one in seven.
    assert len(seen) > 200


def test_an_episode_is_a_function_of_the_seed_and_its_number():
    episodes = Episodes(np.arange(60) % 6, ways=2, shots=1, queries=2, seed=5)
    support, query = episodes[1]
    # The same in every process, on every machine.
    assert (support.tolist(), query.tolist()) == ([[2], [19]], [[50, 38], [49, 25]])
    for drawn, number in zip(episodes, range(3), strict=False):
        for one, other in zip(drawn, episodes[number], strict=True):
            np.testing.assert_array_equal(one, other)
    others = [episodes[2], Episodes(np.arange(60) % 6, 2, 1, 2, seed=6)[1]]
    assert all(not np.array_equal(query, other) for _, other in others)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shots": 3, "queries": 2}, r"3 \+ 2 images.*: class a with 4, class b with 4, class c"),
        ({}, r"1 \+ 2 images.*Received: class d with 1$"),
        ({"ways": 4, "skip_small": True}, r"ways=4, 3 classes \(a, b, c\), .* of class d with 1$"),
        ({"ways": 1}, r"`ways` must be an integer >= 2. Received: ways=1"),
        ({"shots": 0}, r"`shots` must be an integer >= 1. Received: shots=0"),
        ({"seed": -1}, r"`seed` must be an integer >= 0. Received: seed=-1"),
        (
            {"labels": np.zeros((4, 1))},
            r"integers or names \(N,\). Received: shape \(4, 1\), dtype",
        ),
    ],
)
def test_episodes_that_cannot_be_drawn(changes, message, names):
    given = {"labels": names, "ways": 3, "shots": 1, "queries": 2, **changes}
    with pytest.raises(ValueError, match=message):
        Episodes(**given)


def test_small_classes_are_skipped_by_choice(names):
    episodes = Episodes(names, ways=3, shots=1, queries=3, skip_small=True)
    assert episodes.classes.tolist() == ["a", "b", "c"]
    assert 12 not in np.concatenate(episodes[0], axis=1)


def test_labels_in_object_arrays_are_what_they_hold(names):
    plain = Episodes(names, ways=3, shots=1, queries=2, skip_small=True)
    held = Episodes(np.array(names, object), ways=3, shots=1, queries=2, skip_small=True)
    for one, other in zip(plain[0], held[0], strict=True):
        np.testing.assert_array_equal(one, other)
    with pytest.raises(ValueError, match=r"`labels` must be integers or names .* dtype object"):
        Episodes(np.array(["a", 1, None], object), ways=2, shots=1, queries=1)
