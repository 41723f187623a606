"""How well a network tells unseen people apart: scores, figures and a report."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mhe.harness.errors import BadInput, as_bad_input
from mhe.harness.files import write_csv
from sphereface_plus.face_model import FaceModel
from sphereface_plus.faces import People, load
from sphereface_plus.faces.batches import Landmarks
from sphereface_plus.identification import Identification, identify
from sphereface_plus.pairs import Pairs
from sphereface_plus.program import figures
from sphereface_plus.program.embedders import in_order
from sphereface_plus.verification import (
    Verification,
    all_pairs,
    pair_scores,
    stratified_folds,
    verify_scores,
)

_FOLDS = 10
_HARDEST = 8  # pairs of each kind


@dataclass(frozen=True)
class HardPair:
    """A pair on which a network does badly.

    Attributes:
        images: The names of its images.
        score: Their cosine.
        same: Whether they are of one person.
        faces: The two faces, uint8 `(2, h, w, channels)`.
    """

    images: tuple[str, str]
    score: float
    same: bool
    faces: np.ndarray


@dataclass(frozen=True)
class Report:
    """The results of a test.

    Attributes:
        verification: How well pairs of one person are told from pairs of two.
        identification: How well each image's person is found among all by one image of each, or
            None for a list of pairs, which serves for verification only.
        hardest: The pairs of one person with the lowest scores, and those of two people with the
            highest, the hardest first.
    """

    verification: Verification
    identification: Identification | None
    hardest: Sequence[HardPair] = ()

    @property
    def metrics(self) -> dict[str, float]:
        """The metrics by name, without those for which there are too few pairs."""
        metrics = self.verification.metrics()
        # In a table of runs a column of that name is the spread over seeds.
        for name in [name for name in metrics if name.endswith("_std")]:
            metrics[f"{name.removesuffix('_std')}_over_folds_std"] = metrics.pop(name)
        if self.identification is not None:
            metrics["rank_1"] = self.identification.rank(1)
        return {name: value for name, value in metrics.items() if value is not None}

    @property
    def notes(self) -> list[str]:
        """Why metrics are missing, one sentence for each."""
        return self.verification.notes

    @property
    def text(self) -> str:
        """A line for each metric, and for each missing one the reason."""
        result = self.verification
        lines = [
            f"accuracy {result.accuracy:.2%} ± {result.accuracy_std:.2%} over "
            f"{len(result.accuracies)} folds",
            f"AUC {result.auc:.4f}, EER {result.eer:.2%}",
        ]
        lines += [
            f"TAR {tar:.2%} at FAR {far:.0e}"
            for far, tar in result.tar_at_far.items()
            if tar is not None
        ]
        lines += [
            f"VAL {val.rate:.2%} ± {val.std:.2%} at FAR {far:.0e}, set on the other folds"
            for far, val in result.val_at_far.items()
            if val is not None
        ]
        if self.identification is not None:
            lines.append(f"rank 1 {self.identification.rank(1):.2%}")
        same = int(np.count_nonzero(result.same))
        lines.append(f"{same:,} pairs of one person, {result.same.size - same:,} of two")
        return "\n".join([*lines, *result.notes])

    def write(self, folder: Path, title: str) -> None:
        """Writes the tables `folds.csv` and `hardest.csv`, and the figures.

        These are `roc.png`, `det.png`, `scores.png`, `hardest.png` and, with identification,
        `cmc.png`.

        Args:
            folder: The folder to write to.
            title: The title of the figures.
        """
        result = self.verification
        folds = zip(result.thresholds.tolist(), result.accuracies.tolist(), strict=True)
        rows = [
            {"fold": fold, "threshold": threshold, "accuracy": accuracy}
            for fold, (threshold, accuracy) in enumerate(folds, 1)
        ]
        write_csv(folder / "folds.csv", rows)
        figures.draw_roc({title: result.roc}, folder / "roc.png", title)
        figures.draw_det({title: result.roc}, folder / "det.png", title)
        threshold = float(np.median(result.thresholds))
        figures.draw_scores(result.scores, result.same, folder / "scores.png", threshold, title)
        if self.identification is not None:
            figures.draw_cmc({title: self.identification.cmc}, folder / "cmc.png", title)
        if self.hardest:
            self._write_hardest(folder, title)

    def _write_hardest(self, folder: Path, title: str) -> None:
        rows = [
            {
                "image_1": pair.images[0],
                "image_2": pair.images[1],
                "same": int(pair.same),
                "cosine": f"{pair.score:.6f}",
            }
            for pair in self.hardest
        ]
        write_csv(folder / "hardest.csv", rows)
        drawn = {
            name: [(*pair.faces, pair.score) for pair in self.hardest if pair.same == kind]
            for name, kind in (
                ("one person, lowest cosines", True),
                ("two people, highest cosines", False),
            )
        }
        figures.draw_hardest(drawn, folder / "hardest.png", title)


def require_pairs(people: People) -> None:
    """Refuses people whose images make too few pairs to test on.

    Args:
        people: The people.

    Raises:
        BadInput: If there are fewer pairs of one person, or of two, than folds.
    """
    counts = np.bincount(people.labels)
    same = int(np.sum(counts * (counts - 1) // 2))
    different = len(people) * (len(people) - 1) // 2 - same
    if min(same, different) < _FOLDS:
        raise BadInput(
            f"{people.source}: to test in {_FOLDS} folds, {_FOLDS} pairs of one person and as many "
            f"of two people are needed. Received: {same} and {different}, of {len(people)} images "
            f"of {len(people.names)} people"
        )


def evaluate(
    model: FaceModel,
    people: People,
    pairs: Pairs | None = None,
    *,
    landmarks: Landmarks | None = None,
    mirror: bool = True,
    batch_size: int = 128,
) -> Report:
    """Embeds images of people and scores pairs of them.

    Without a list of pairs, all pairs of images are scored in ten random folds; and the people of
    all images are identified among the first image of each person.

    Args:
        model: The network.
        people: The people.
        pairs: The pairs, as rows of `people.images`.
        landmarks: Five points per image, by its name, to align the faces by; None crops the center
            of every image.
        mirror: Whether to append the embeddings of the mirror images, as published.
        batch_size: Number of images to embed at once.

    Returns:
        The report.

    Raises:
        BadInput: If there are too few pairs, or an embedding is zero or not finite.
    """
    batches = in_order(model.backbone, people, landmarks, batch_size)
    embeddings, labels = model.embed(batches, mirror=mirror), people.labels
    identification = None
    with as_bad_input(f"{people.source} cannot be scored"):
        if pairs is not None:
            scores, same, folds = pair_scores(embeddings, pairs.rows), pairs.same, pairs.folds
        else:
            scores, same = all_pairs(embeddings, labels)
            folds = None
            first = np.unique(labels, return_index=True)[1]
            rest = np.setdiff1d(np.arange(labels.size), first)
            if rest.size:
                identification = identify(
                    embeddings[first], labels[first], embeddings[rest], labels[rest]
                )
        if folds is None:
            folds = stratified_folds(same, _FOLDS)
        verified = verify_scores(scores, same, folds)
    rows = _hardest(scores, same)
    images = pairs.rows[rows] if pairs is not None else _pairs_at(rows, len(labels))
    height, width, channels = model.backbone.input_shape[1:]
    shown = load(people, images.ravel(), (height, width), channels, landmarks)
    hardest = [
        HardPair(
            (people.images[one], people.images[other]),
            float(scores[row]),
            bool(same[row]),
            shown[2 * place : 2 * place + 2],
        )
        for place, (row, (one, other)) in enumerate(
            zip(rows.tolist(), images.tolist(), strict=True)
        )
    ]
    return Report(verified, identification, hardest)


def _hardest(scores: np.ndarray, same: np.ndarray) -> np.ndarray:
    """The pairs of one person with the lowest scores, and those of two with the highest."""
    found = []
    for kind, sign in ((True, 1), (False, -1)):
        own = np.flatnonzero(same == kind)
        count = min(_HARDEST, len(own))
        if count:
            nearest = np.argpartition(sign * scores[own], count - 1)[:count]
            found.append(own[nearest[np.argsort(sign * scores[own[nearest]], kind="stable")]])
    return np.concatenate(found)


def _pairs_at(places: np.ndarray, count: int) -> np.ndarray:
    """The images of pairs that are numbered as `all_pairs` does, integers `(n, 2)`."""
    starts = np.cumsum(np.r_[0, np.arange(count - 1, 0, -1)])
    one = np.searchsorted(starts, places, side="right") - 1
    return np.stack([one, one + 1 + places - starts[one]], axis=1)
