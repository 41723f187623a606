"""How well a network tells unseen people apart: scores, figures and a report."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mhe.harness.errors import BadInput, as_bad_input
from mhe.harness.files import write_csv
from sphereface_plus.face_model import FaceModel
from sphereface_plus.faces import FaceBatches, People
from sphereface_plus.faces.batches import Landmarks
from sphereface_plus.identification import Identification, identify
from sphereface_plus.pairs import Pairs
from sphereface_plus.program import figures
from sphereface_plus.verification import (
    Verification,
    all_pairs,
    pair_scores,
    stratified_folds,
    verify_scores,
)

_FOLDS = 10


@dataclass(frozen=True)
class Report:
    """The results of a test.

    Attributes:
        verification: How well pairs of one person are told from pairs of two.
        identification: How well each image's person is found among all by one image of each, or
            None for a list of pairs, which serves for verification only.
    """

    verification: Verification
    identification: Identification | None

    @property
    def metrics(self) -> dict[str, float]:
        """The metrics by name, without those for which there are too few pairs."""
        metrics = self.verification.metrics()
        # In a table of runs a column of that name is the spread over seeds.
        metrics["accuracy_over_folds_std"] = metrics.pop("accuracy_std")
        if self.identification is not None:
            metrics["rank_1"] = self.identification.rank(1)
        return {name: value for name, value in metrics.items() if value is not None}

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
        if self.identification is not None:
            lines.append(f"rank 1 {self.identification.rank(1):.2%}")
        same = int(np.count_nonzero(result.same))
        lines.append(f"{same:,} pairs of one person, {result.same.size - same:,} of two")
        return "\n".join([*lines, *result.notes])

    def write(self, folder: Path, title: str) -> None:
        """Writes `folds.csv`, `roc.png`, `scores.png` and, with identification, `cmc.png`.

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
        threshold = float(np.median(result.thresholds))
        figures.draw_scores(result.scores, result.same, folder / "scores.png", threshold, title)
        if self.identification is not None:
            figures.draw_cmc({title: self.identification.cmc}, folder / "cmc.png", title)


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
    height, width, channels = model.backbone.input_shape[1:]
    batches = FaceBatches(
        people,
        batch_size,
        size=(height, width),
        channels=channels,
        landmarks=landmarks,
        flip=False,
        shuffle=False,
    )
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
        return Report(verify_scores(scores, same, folds), identification)
