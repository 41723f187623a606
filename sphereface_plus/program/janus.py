"""The benchmarks IJB-B and IJB-C in a folder as InsightFace lays it out, and a report of both.

loose_crop/<image>                       the faces, with some room around them
meta/ijbc_face_tid_mid.txt               the template and the medium of each image
meta/ijbc_name_5pts_score.txt            landmarks, and the score of a face detector
meta/ijbc_template_pair_label.txt        the pairs of templates of the 1:1 protocol
meta/ijbc_1N_gallery_*.csv               the galleries of the 1:N protocol, if there are any
meta/ijbc_1N_probe_mixed.csv             and its probes
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mhe.harness.errors import BadInput, as_bad_input
from sphereface_plus import ijb
from sphereface_plus.face_model import FaceModel
from sphereface_plus.faces import People, find_faces
from sphereface_plus.faces.people import some
from sphereface_plus.identification import Identification, Search
from sphereface_plus.program import figures
from sphereface_plus.program.embedders import in_order
from sphereface_plus.verification import RocCurve
from sphereface_plus.verification.protocol import FARS

_FACES = "_face_tid_mid.txt"
_RANKS = (1, 5, 10)
_FPIRS = (1e-1, 1e-2)


@dataclass(frozen=True)
class Benchmark:
    """A benchmark on disk.

    Attributes:
        name: `IJB-B` or `IJB-C`, or what its files begin with.
        people: The images; each counts as a person of its own.
        landmarks: Five points per image, by its name.
        rows: The rows of `people.images` of the faces, integers `(n,)`.
        scores: The score of the detector for each face, `(n,)`.
        faces: The template and the medium of each face.
        pairs: The pairs of templates to compare, integers `(m, 2)`.
        same: Whether they are of one person, bool `(m,)`.
        galleries: The templates of each gallery and their people, by the gallery's name.
        probes: The templates of the probes and their people, or None.
    """

    name: str
    people: People
    landmarks: Mapping[str, np.ndarray]
    rows: np.ndarray
    scores: np.ndarray
    faces: ijb.Faces
    pairs: np.ndarray
    same: np.ndarray
    galleries: Mapping[str, tuple[np.ndarray, np.ndarray]]
    probes: tuple[np.ndarray, np.ndarray] | None


def read_benchmark(path: str | os.PathLike) -> Benchmark:
    """Reads the lists of a benchmark and finds its images.

    Args:
        path: Its folder.

    Raises:
        BadInput: If a list is missing or cannot be used, or an image or its landmarks are missing.
    """
    root = Path(os.path.expanduser(path))
    meta = root / "meta"
    lists = sorted(meta.glob(f"*{_FACES}"))
    if len(lists) != 1:
        raise BadInput(
            f"--ijb {path} must be a folder with loose_crop/ and one meta/*{_FACES}. "
            f"Received: {len(lists)} such files"
        )
    begin = lists[0].name.removesuffix(_FACES)
    with as_bad_input():
        listed = ijb.read_faces(lists[0])
        names, points, scores = ijb.read_points(meta / f"{begin}_name_5pts_score.txt")
        pairs, same = ijb.read_template_pairs(meta / f"{begin}_template_pair_label.txt")
        galleries = {
            each.stem.rpartition("_")[2]: ijb.read_template_people(each)
            for each in sorted(meta.glob(f"{begin}_1N_gallery_*.csv"))
        }
        probes = None
        if galleries:
            probes = ijb.read_template_people(meta / f"{begin}_1N_probe_mixed.csv")
    every = find_faces(root / "loose_crop", decode=False)
    wanted = set(listed.images)
    known = set(names)
    for kind, there in (("an image", set(every.images)), ("landmarks", known)):
        missing = sorted(wanted - there)
        if missing:
            raise BadInput(f"--ijb {path}: every face needs {kind}. Missing: {some(missing)}")
    people = every.subset(wanted)
    place = {name: row for row, name in enumerate(people.images)}
    score = dict(zip(names, scores.tolist(), strict=True))
    titles = {"ijbb": "IJB-B", "ijbc": "IJB-C"}
    return Benchmark(
        titles.get(begin.lower(), begin),
        people,
        dict(zip(names, points, strict=True)),
        np.array([place[name] for name in listed.images]),
        np.array([score[name] for name in listed.images]),
        listed,
        pairs,
        same,
        galleries,
        probes,
    )


@dataclass(frozen=True)
class Report:
    """The results of both protocols.

    Attributes:
        roc: The ROC curve of the pairs of templates.
        searches: What became of the probes in each gallery, with the number of its people.
    """

    roc: RocCurve
    searches: Mapping[str, tuple[Search, int]]

    @property
    def metrics(self) -> dict[str, float]:
        """The metrics by name, those of 1:N as means over the galleries."""
        metrics: dict[str, float | None] = {"auc": self.roc.auc, "eer": self.roc.eer}
        for place, far in enumerate(FARS, start=1):
            metrics[f"tar_at_far_1e-{place}"] = self.roc.tar_at(far)
        if self.searches:
            found = [search for search, _ in self.searches.values()]
            for rank in _RANKS:
                metrics[f"rank_{rank}"] = float(np.mean([each.rank(rank) for each in found]))
            for place, fpir in enumerate(_FPIRS, start=1):
                rates = [each.tpir_at(fpir) for each in found]
                known = [rate for rate in rates if rate is not None]
                whole = len(known) == len(rates)
                metrics[f"tpir_at_fpir_1e-{place}"] = float(np.mean(known)) if whole else None
        return {name: value for name, value in metrics.items() if value is not None}

    @property
    def text(self) -> str:
        """A line for each protocol and rate."""
        metrics = self.metrics
        lines = [f"1:1, {self.roc.same:,} pairs of one person, {self.roc.different:,} of two"]
        lines += [
            f"TAR {metrics[f'tar_at_far_1e-{place}']:.2%} at FAR {far:.0e}"
            for place, far in enumerate(FARS, start=1)
            if f"tar_at_far_1e-{place}" in metrics
        ]
        for name, (found, people) in self.searches.items():
            lines.append(
                f"1:N, gallery {name} of {people:,} people: {len(found.ranks):,} probes of these, "
                f"{len(found.false_scores):,} of others"
            )
        if self.searches:
            lines.append(", ".join(f"rank {rank} {metrics[f'rank_{rank}']:.2%}" for rank in _RANKS))
        lines += [
            f"TPIR {metrics[f'tpir_at_fpir_1e-{place}']:.2%} at FPIR {fpir:.0e}"
            for place, fpir in enumerate(_FPIRS, start=1)
            if f"tpir_at_fpir_1e-{place}" in metrics
        ]
        return "\n".join(lines)

    @property
    def notes(self) -> list[str]:
        """Why rates are missing: none is said here, as the numbers of pairs are in the text."""
        return []

    def write(self, folder: Path, title: str) -> None:
        """Writes `roc.png`, `det.png` and, with galleries, `cmc.png`.

        Args:
            folder: The folder to write to.
            title: The title of the figures.
        """
        figures.draw_roc({title: self.roc}, folder / "roc.png", title)
        figures.draw_det({title: self.roc}, folder / "det.png", title)
        if self.searches:
            rates = {
                name: Identification(found.ranks, people).cmc
                for name, (found, people) in self.searches.items()
            }
            figures.draw_cmc(rates, folder / "cmc.png", title)


def evaluate(
    model: FaceModel, benchmark: Benchmark, *, mirror: bool = True, batch_size: int = 128
) -> Report:
    """Embeds the faces of a benchmark, and runs both of its protocols.

    As in InsightFace's published rates, the embedding of a face and that of its mirror image are
    added, and a face counts by the length of its embedding and the score of its detection.

    Args:
        model: The network.
        benchmark: The benchmark.
        mirror: Whether to add the embeddings of mirror images.
        batch_size: Number of images to embed at once.

    Raises:
        BadInput: If a template has no images, or an embedding is zero or not finite.
    """
    batches = in_order(model.backbone, benchmark.people, benchmark.landmarks, batch_size)
    embeddings = model.embed(batches, mirror=mirror)
    if mirror:
        embeddings = embeddings.reshape(len(embeddings), 2, -1).sum(axis=1)
    with as_bad_input(f"{benchmark.people.source} cannot be scored"):
        templates = ijb.pool(
            embeddings[benchmark.rows],
            benchmark.faces.templates,
            benchmark.faces.media,
            benchmark.scores,
            norms=True,
        )
        roc = ijb.verify_templates(templates, benchmark.pairs, benchmark.same)
        searches = {}
        if benchmark.probes is not None:
            for name, (ids, people) in benchmark.galleries.items():
                found = ijb.search_templates(templates, ids, people, *benchmark.probes)
                searches[name] = found, len(np.unique(people))
    return Report(roc, searches)
