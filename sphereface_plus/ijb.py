"""The template protocols of the IARPA Janus Benchmarks, IJB-B and IJB-C.

A template is what is known of a person: several photographs and frames of videos. Templates are
compared with each other (1:1), or searched for in a gallery of templates (1:N).
"""

import csv
import io
import os
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from mhe.text import brief, read_text
from sphereface_plus.identification import Search, search
from sphereface_plus.verification import RocCurve, roc_curve
from sphereface_plus.verification.scores import merged, pair_scores, unit_rows

_MOST_DIGITS = 18  # of int64


@dataclass(frozen=True)
class Faces:
    """The faces of a benchmark, in the order of its file.

    Attributes:
        images: The name of each image, `(n,)`.
        templates: The template that it belongs to, integers `(n,)`.
        media: The photograph or video that it is from, integers `(n,)`.
    """

    images: tuple[str, ...]
    templates: np.ndarray
    media: np.ndarray


@dataclass(frozen=True)
class Templates:
    """Templates, one unit vector each.

    Attributes:
        ids: Their numbers, increasing integers `(T,)`.
        vectors: float32 `(T, dims)`.
    """

    ids: np.ndarray
    vectors: np.ndarray

    def rows(self, ids: Any, what: str = "A list of templates") -> np.ndarray:
        """Returns the rows of templates, or refuses one without images.

        Args:
            ids: Numbers of templates, of any shape.
            what: What names them, for the error.

        Raises:
            ValueError: If a template is not among them.
        """
        ids = np.asarray(ids)
        rows = np.minimum(np.searchsorted(self.ids, ids), len(self.ids) - 1)
        missing = ids[self.ids[rows] != ids]
        if missing.size:
            raise ValueError(
                f"{what} must name templates with images. Received: template {missing.ravel()[0]}, "
                f"one of {np.unique(missing).size:,} without"
            )
        return rows


def read_faces(path: str | os.PathLike) -> Faces:
    r"""Reads which face belongs to which template and medium, such as `ijbc_face_tid_mid.txt`.

    A line is `<image> <template> <medium>`.

    Args:
        path: The file.

    Raises:
        ValueError: If it cannot be read, or a line has another form.

    Example:

    >>> import pathlib, tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp(), "ijbc_face_tid_mid.txt")
    >>> _ = path.write_text("1.jpg 11 69544\n2.jpg 11 69545\n")
    >>> faces = read_faces(path)
    >>> faces.images, faces.templates, faces.media
    (('1.jpg', '2.jpg'), array([11, 11]), array([69544, 69545]))
    """
    lines = [
        (fields[0], *_integers(path, number, fields[1:], fields))
        for number, fields in _lines(path, 3, "an image, a template and a medium")
    ]
    images, templates, media = zip(*lines, strict=True)
    return Faces(images, np.array(templates), np.array(media))


def read_template_pairs(path: str | os.PathLike) -> tuple[np.ndarray, np.ndarray]:
    r"""Reads pairs of templates to compare, such as `ijbc_template_pair_label.txt`.

    A line is `<template> <template> <same>`, where the last is 1 for one person and 0 for two.

    Args:
        path: The file.

    Returns:
        The templates of each pair, integers `(n, 2)`, and whether they are of one person,
        bool `(n,)`.

    Raises:
        ValueError: If it cannot be read, or a line has another form.

    Example:

    >>> import pathlib, tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp(), "ijbc_template_pair_label.txt")
    >>> _ = path.write_text("1 11065 1\n1 11066 0\n")
    >>> pairs, same = read_template_pairs(path)
    >>> pairs.tolist(), same.tolist()
    ([[1, 11065], [1, 11066]], [True, False])
    """
    expected = "two templates and 1 or 0"
    numbers = array("q")  # 16 million pairs would not fit in lists
    for number, fields in _lines(path, 3, expected):
        row = _integers(path, number, fields, fields)
        if row[2] not in (0, 1):
            raise _wrong(path, number, fields, expected)
        numbers.extend(row)
    table = np.frombuffer(numbers, np.int64).reshape(-1, 3)
    return table[:, :2], table[:, 2] == 1


def read_template_people(path: str | os.PathLike) -> tuple[np.ndarray, np.ndarray]:
    r"""Reads the templates of a gallery or of probes, such as `ijbc_1N_gallery_G1.csv`.

    After a line of titles, a line is `<template>,<person>`, with any further columns; the images of
    a template are lines of their own.

    Args:
        path: The file.

    Returns:
        The templates, increasing integers `(T,)`, and the person of each, integers `(T,)`.

    Raises:
        ValueError: If it cannot be read, has no titles, a line has another form, or a template is
            of two people.

    Example:

    >>> import pathlib, tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp(), "ijbc_1N_gallery_G1.csv")
    >>> _ = path.write_text("TEMPLATE_ID,SUBJECT_ID,FILENAME\n7,3,a.jpg\n7,3,b.jpg\n5,4,c.jpg\n")
    >>> read_template_people(path)
    (array([5, 7]), array([4, 3]))
    """
    expected = "a template and a person"
    reader = csv.reader(_text(path).splitlines(keepends=True))
    people: dict[int, int] = {}
    try:
        titles = next(reader, [])
        if titles and titles[0].strip().isdecimal():
            raise ValueError(
                f"{path} must begin with a line of titles. Received: {brief(','.join(titles))}"
            )
        for row in reader:
            if not row:
                continue
            if len(row) < 2:
                raise _wrong(path, reader.line_num, row, expected)
            template, person = _integers(path, reader.line_num, row[:2], row)
            if people.setdefault(template, person) != person:
                raise ValueError(
                    f"{path} must have one person for each template. "
                    f"Received: {people[template]} and {person} for template {template}"
                )
    except csv.Error as error:
        raise ValueError(f"{path} cannot be read: line {reader.line_num}: {error}") from error
    if not people:
        raise ValueError(f"{path} must have lines of {expected}. Received: none")
    templates = np.array(sorted(people))
    return templates, np.array([people[template] for template in templates.tolist()])


def read_points(path: str | os.PathLike) -> tuple[tuple[str, ...], np.ndarray, np.ndarray]:
    r"""Reads landmarks and scores of a face detector, such as `ijbc_name_5pts_score.txt`.

    A line is `<image> x1 y1 ... x5 y5 <score>`, with both eyes, the nose and both corners of the
    mouth.

    Args:
        path: The file.

    Returns:
        The names of the images `(n,)`, the landmarks, float64 `(n, 5, 2)`, and the scores, float64
        `(n,)`.

    Raises:
        ValueError: If it cannot be read, a line has another form, or a score is not positive.

    Example:

    >>> import pathlib, tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp(), "ijbc_name_5pts_score.txt")
    >>> _ = path.write_text("1.jpg 30 52 66 52 48 72 34 92 63 92 0.99\n")
    >>> images, points, scores = read_points(path)
    >>> images, points.shape, scores.tolist()
    (('1.jpg',), (1, 5, 2), [0.99])
    """
    expected = "an image, ten numbers and a positive score"
    images, rows = [], []
    for number, fields in _lines(path, 12, expected):
        try:
            row = [float(field) for field in fields[1:]]
        except ValueError as error:
            raise _wrong(path, number, fields, expected) from error
        if not (np.isfinite(row).all() and row[-1] > 0):
            raise _wrong(path, number, fields, expected)
        images.append(fields[0])
        rows.append(row)
    table = np.array(rows)
    return tuple(images), table[:, :10].reshape(-1, 5, 2), table[:, 10]


def pool(
    embeddings: Any, templates: Any, media: Any, scores: Any = None, *, norms: bool = False
) -> Templates:
    """Merges the embeddings of faces into templates, in which every medium counts the same.

    The embeddings of the frames of a video are averaged, those of the media of a template summed,
    and the sum is normalized.

    InsightFace's published rates use `norms=True`, the `scores` of `read_points`, and for each face
    the sum of the embeddings of the image and its mirror image. The rows of `read_faces` and of
    `read_points` are matched by the names of the images.

    Args:
        embeddings: Embeddings `(n, dims)`.
        templates: The template of each, integers `(n,)`, as in `Faces`.
        media: The medium of each, integers `(n,)`.
        scores: A positive weight of each face, such as the score of a detector, `(n,)`, or None.
        norms: Whether a face also counts by the length of its embedding; otherwise embeddings are
            normalized first.

    Returns:
        The templates.

    Raises:
        ValueError: If the shapes do not match, an embedding is zero or not finite, a score is not
            positive, or the embeddings of a template cancel each other.

    Example:

    >>> pooled = pool([[2.0, 0.0], [0.0, 1.0], [0.0, 3.0], [1.0, 0.0]], [7, 7, 7, 5], [1, 2, 2, 3])
    >>> pooled.ids, pooled.vectors.round(3).tolist()
    (array([5, 7]), [[1.0, 0.0], [0.7070000171661377, 0.7070000171661377]])

    Reference:
        Maze et al., IARPA Janus Benchmark - C: face dataset and protocol, ICB 2018, on templates
        and media. Averages over media before templates are those of InsightFace's evaluation.
    """
    units = unit_rows(embeddings)
    rows = np.asarray(embeddings, np.float32) if norms else units
    templates, media = np.asarray(templates), np.asarray(media)
    for name, given in (("templates", templates), ("media", media)):
        if given.shape != (len(rows),) or given.dtype.kind not in "iu":
            raise ValueError(
                f"`{name}` must be an integer for each of the {len(rows)} embeddings. "
                f"Received: {given.dtype} {given.shape}"
            )
    if scores is not None:
        weights = np.asarray(scores, np.float64)
        if weights.shape != (len(rows),) or not (np.isfinite(weights) & (weights > 0)).all():
            raise ValueError(
                f"`scores` must be a positive number for each of the {len(rows)} embeddings. "
                f"Received: shape {weights.shape}, smallest {np.min(weights, initial=np.inf):g}"
            )
        rows = rows * weights[:, None].astype(np.float32)
    order = np.lexsort((media, templates))
    templates, media = templates[order], media[order]
    begins = np.r_[True, (np.diff(templates) != 0) | (np.diff(media) != 0)]
    firsts = np.flatnonzero(begins)
    frames = np.diff(np.r_[firsts, len(rows)])
    means = np.add.reduceat(rows[order], firsts, axis=0, dtype=np.float64) / frames[:, None]
    vectors, ids = merged(means, templates[firsts], "template")
    return Templates(ids, vectors)


def verify_templates(templates: Templates, pairs: Any, same: Any) -> RocCurve:
    """Compares pairs of templates by their cosine: the 1:1 protocol.

    Args:
        templates: The templates.
        pairs: Their numbers, integers `(n, 2)`.
        same: Whether each pair is of one person, `(n,)`.

    Returns:
        The ROC curve; `curve.tar_at(1e-4)` is the rate that is usually reported.

    Raises:
        ValueError: If a template has no images, or there are no pairs of one kind.

    Example:

    >>> templates = pool([[2.0, 0.0], [1.0, 0.1], [0.0, 3.0]], [1, 2, 3], [1, 2, 3])
    >>> verify_templates(templates, [[1, 2], [1, 3]], [True, False]).auc
    1.0

    Reference:
        Maze et al., IARPA Janus Benchmark - C: face dataset and protocol, ICB 2018.
    """
    rows = templates.rows(pairs, "`pairs`")
    return roc_curve(pair_scores(templates.vectors, rows), same)


def search_templates(
    templates: Templates, gallery: Any, gallery_people: Any, probes: Any, probe_people: Any
) -> Search:
    """Searches a gallery of templates for probes: the 1:N protocol.

    IJB-C has two galleries of different people, `G1` and `G2`, and one list of probes: those of
    people in one gallery are nobody's in the other. Search both and average the rates; or, for
    identification among all people, search the two together.

    Args:
        templates: The templates.
        gallery: The numbers of those to search, integers `(G,)`.
        gallery_people: The person of each, `(G,)`.
        probes: The numbers of those to search for, integers `(P,)`.
        probe_people: The person of each, `(P,)`, in the gallery or not.

    Returns:
        The ranks and scores: `found.rank(1)`, `found.tpir_at(1e-2)`.

    Raises:
        ValueError: If a template has no images, or no probe's person is in the gallery.

    Example:

    >>> templates = pool([[2.0, 0.0], [1.0, 0.1], [0.0, 3.0]], [1, 2, 3], [1, 2, 3])
    >>> search_templates(templates, [1], [30], [2, 3], [30, 40]).rank(1)
    1.0

    Reference:
        Maze et al., IARPA Janus Benchmark - C: face dataset and protocol, ICB 2018.
    """
    rows = templates.rows(gallery, "`gallery`"), templates.rows(probes, "`probes`")
    vectors = templates.vectors
    return search(vectors[rows[0]], gallery_people, vectors[rows[1]], probe_people)


def _text(path: str | os.PathLike) -> str:
    try:
        return read_text(path)
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from error


def _lines(path: str | os.PathLike, count: int, expected: str) -> Iterator[tuple[int, list[str]]]:
    """The fields of each line, or a `ValueError` if a line has others or there is none."""
    is_empty = True
    for number, line in enumerate(io.StringIO(_text(path), newline="\n"), 1):
        fields = line.split()
        if not fields:
            continue
        if len(fields) != count:
            raise _wrong(path, number, fields, expected)
        is_empty = False
        yield number, fields
    if is_empty:
        raise ValueError(f"{path} must have lines of {expected}. Received: none")


def _integers(
    path: str | os.PathLike, number: int, fields: list[str], line: list[str]
) -> list[int]:
    digits = [field.strip() for field in fields]
    if not all(
        each.isascii() and each.isdecimal() and len(each) <= _MOST_DIGITS for each in digits
    ):
        raise _wrong(path, number, line, "integers from 0")
    return [int(each) for each in digits]


def _wrong(path: str | os.PathLike, number: int, fields: list[str], expected: str) -> ValueError:
    return ValueError(
        f"{path} must have lines of {expected}. Received: line {number}: {brief(' '.join(fields))}"
    )
