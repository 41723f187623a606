"""The template protocols, on a benchmark in miniature, against loops over templates and probes."""

import math

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from sphereface_plus import ijb
from sphereface_plus.identification import search

pytestmark = pytest.mark.one_backend

DIMS, PEOPLE = 6, 14


@pytest.fixture
def benchmark(tmp_path):
    """Writes the files of a benchmark: two templates of each person, of photographs and videos."""
    rng = np.random.default_rng(7)
    centers = rng.normal(size=(PEOPLE, DIMS))
    lines, embeddings, points, people = [], [], [], {}
    for place in range(2 * PEOPLE):
        template, person = 100 + 3 * place, place % PEOPLE
        people[template] = person
        for medium in range(rng.integers(1, 4)):
            for _ in range(1 if medium % 2 else rng.integers(1, 5)):
                lines.append(f"{len(lines) + 1}.jpg {template} {1000 * place + medium}")
                embeddings.append(centers[person] + rng.normal(scale=0.9, size=DIMS))
                row = np.r_[rng.uniform(0, 112, 10).round(2), rng.uniform(0.1, 1)]
                points.append(f"{len(lines)}.jpg {' '.join(map(str, row))}")
    order = rng.permutation(len(lines))
    for name, each in (("face_tid_mid", lines), ("name_5pts_score", points)):
        text = "".join(f"{each[place]}\n" for place in order)
        (tmp_path / f"ijbc_{name}.txt").write_text(text)
    ids = list(people)
    pairs = [(a, b) for a in ids for b in ids if a < b]
    text = "".join(f"{a} {b} {int(people[a] == people[b])}\n" for a, b in pairs)
    (tmp_path / "ijbc_template_pair_label.txt").write_text(text)
    for name, chosen in (("gallery_G1", ids[:8]), ("probe_mixed", ids[PEOPLE:])):
        text = "TEMPLATE_ID,SUBJECT_ID,FILENAME\r\n"
        # A line for each image.
        text += "".join(f"{t},{people[t]},img/{k}.jpg\r\n" for t in chosen[::-1] for k in (1, 2))
        (tmp_path / f"ijbc_1N_{name}.csv").write_text(text, newline="")
    return tmp_path, np.array(embeddings)[order], people


def template_by_hand(embeddings, faces, template, scores, norms):
    """A template in float64, medium by medium."""
    total = np.zeros(DIMS)
    for medium in set(faces.media[faces.templates == template]):
        own = (faces.templates == template) & (faces.media == medium)
        each = embeddings[own]
        each = each if norms else each / np.linalg.norm(each, axis=1, keepdims=True)
        total += np.mean(each * scores[own, None], axis=0)
    return total / np.linalg.norm(total)


@pytest.mark.parametrize(("weighted", "norms"), [(False, False), (True, False), (True, True)])
def test_templates_count_every_medium_once(benchmark, weighted, norms):
    folder, embeddings, people = benchmark
    faces = ijb.read_faces(folder / "ijbc_face_tid_mid.txt")
    names, points, scores = ijb.read_points(folder / "ijbc_name_5pts_score.txt")
    assert names == faces.images
    assert points.shape == (len(names), 5, 2)
    first = (folder / "ijbc_name_5pts_score.txt").read_text().split()[1:12]
    assert_array_equal(np.r_[points[0].ravel(), scores[0]], list(map(float, first)))
    found = ijb.pool(
        embeddings, faces.templates, faces.media, scores if weighted else None, norms=norms
    )
    assert found.ids.tolist() == sorted(people)
    assert found.vectors.dtype == np.float32
    used = scores if weighted else np.ones(len(scores))
    for template, vector in zip(found.ids, found.vectors, strict=True):
        expected = template_by_hand(embeddings, faces, template, used, norms)
        assert_allclose(vector, expected, atol=1e-6)


def test_verification_and_search_against_loops(benchmark):
    folder, embeddings, _ = benchmark
    faces = ijb.read_faces(folder / "ijbc_face_tid_mid.txt")
    templates = ijb.pool(embeddings, faces.templates, faces.media)
    vector = dict(zip(templates.ids.tolist(), templates.vectors.astype("float64"), strict=True))

    pairs, same = ijb.read_template_pairs(folder / "ijbc_template_pair_label.txt")
    assert same.sum() == PEOPLE
    curve = ijb.verify_templates(templates, pairs, same)
    scores = np.array([vector[a] @ vector[b] for a, b in pairs.tolist()])
    for far in (0.1, 0.02):
        allowed = math.floor(far * (~same).sum())
        limit = np.sort(scores[~same])[::-1][allowed]
        assert curve.tar_at(far) == pytest.approx(np.mean(scores[same] > limit))
    assert curve.tar_at(1e-6) is None

    gallery = ijb.read_template_people(folder / "ijbc_1N_gallery_G1.csv")
    probes = ijb.read_template_people(folder / "ijbc_1N_probe_mixed.csv")
    assert (len(gallery[0]), len(probes[0])) == (8, PEOPLE)
    found = ijb.search_templates(templates, *gallery, *probes)
    ranks, own, false = [], [], []
    for probe, person in zip(*(each.tolist() for each in probes), strict=True):
        cosines = {p: vector[t] @ vector[probe] for t, p in zip(*gallery, strict=True)}
        if person in cosines:
            ranks.append(sum(each >= cosines[person] for each in cosines.values()))
            own.append(cosines[person])
        else:
            false.append(max(cosines.values()))
    assert_array_equal(found.ranks, ranks)
    assert max(ranks) > 1
    assert_allclose(found.scores, own, atol=1e-6)
    assert_allclose(found.false_scores, false, atol=1e-6)
    assert found.rank(2) == np.mean(np.array(ranks) <= 2)
    for fpir in (0.2, 0.5):
        limit = sorted(false, reverse=True)[math.floor(fpir * len(false))]
        for rank in (1, 3):
            hits = [score > limit and at <= rank for score, at in zip(own, ranks, strict=True)]
            assert found.tpir_at(fpir, rank) == pytest.approx(np.mean(hits))
    assert found.tpir_at(0.1) is None


def test_ties_and_people_with_several_templates():
    gallery, labels = np.eye(3)[[0, 1, 1, 2]], np.array(["a", "b", "a", "c"])
    found = search(gallery, labels, np.eye(3), np.array(["a", "b", "nobody"]))
    # The image of b is that of a, too.
    assert_array_equal(found.ranks, [1, 2])
    assert_array_equal(found.scores, [1, 1])
    assert_array_equal(found.false_scores, [1])
    with pytest.raises(
        ValueError, match=r"of a person in the gallery\. Received: 1 probes, none of"
    ):
        search(gallery, labels, np.eye(3)[:1], ["d"])
    with pytest.raises(ValueError, match="`fpir` must be a finite number > 0 and < 1"):
        found.tpir_at(0)


READERS = {
    "faces": (ijb.read_faces, "1.jpg 2 3"),
    "pairs": (ijb.read_template_pairs, "1 2 1"),
    "people": (ijb.read_template_people, "a,b\n1,2"),
    "points": (ijb.read_points, "1.jpg " + "1 " * 10 + "0.5"),
}


@pytest.mark.parametrize(
    ("kind", "more", "named"),
    [
        (
            "faces",
            "1.jpg 2",
            "lines of an image, a template and a medium. Received: line 2: 1.jpg 2$",
        ),
        ("faces", "1.jpg 2 x", "lines of integers from 0. Received: line 2"),
        ("faces", "1.jpg -2 3", "lines of integers from 0. Received: line 2"),
        ("faces", "1.jpg 2 " + "9" * 20, "lines of integers from 0. Received: line 2"),
        ("pairs", "1 2 2", "lines of two templates and 1 or 0. Received: line 2: 1 2 2$"),
        ("people", "1,3", "one person for each template. Received: 2 and 3 for template 1$"),
        ("people", "1", "lines of a template and a person. Received: line 3: 1$"),
        (
            "points",
            "1.jpg " + "1 " * 9 + "nan 0.5",
            "lines of an image, ten numbers and a positive score. Received: l",
        ),
        (
            "points",
            "1.jpg " + "1 " * 10 + "0",
            "lines of an image, ten numbers and a positive score. Received: line 2",
        ),
    ],
)
def test_wrong_files_are_named(tmp_path, kind, more, named):
    reader, whole = READERS[kind]
    path = tmp_path / f"{kind}.txt"
    path.write_text(f"{whole}\n")
    reader(path)
    path.write_text(f"{whole}\n{more}\n")
    with pytest.raises(ValueError, match=rf"{kind}.txt must have {named}"):
        reader(path)
    path.write_text("titles\n" if kind == "people" else "")
    with pytest.raises(ValueError, match=r"Received: none$"):
        reader(path)
    if kind == "people":
        path.write_text("1,2\n3,4\n")
        with pytest.raises(ValueError, match=r"begin with a line of titles. Received: 1,2$"):
            reader(path)
    path.unlink()
    with pytest.raises(ValueError, match=rf"{kind}.txt cannot be read: No such file"):
        reader(path)


def test_what_cannot_be_pooled_or_compared():
    vectors = np.eye(3)
    for arguments, named in (
        ((vectors, [1, 2], [1, 2, 3]), "`templates` must be an integer for each of the 3"),
        ((vectors, [1, 2, 3], [1.5, 2, 3]), "`media` must be an integer for each of the 3"),
        ((vectors, [1, 2, 3], [1, 2, 3], [1, 1, 0]), "`scores` must be a positive number"),
        ((np.zeros((1, 3)), [1], [1]), "must be finite and not zero"),
        (([[1.0, 0], [-2, 0]], [4, 4], [1, 2]), "those of template 4, which cancel each other"),
    ):
        with pytest.raises(ValueError, match=named):
            ijb.pool(*arguments)
    templates = ijb.pool(vectors, [1, 2, 3], [1, 2, 3])
    with pytest.raises(ValueError, match=r"`pairs` must name templates with images\. Received: t"):
        ijb.verify_templates(templates, [[1, 2], [1, 9]], [True, False])
    with pytest.raises(ValueError, match="Received: template 7, one of 2 without"):
        ijb.search_templates(templates, [1, 7, 8], [1, 2, 3], [2], [1])
