"""How well a network tells people apart whom it has never seen: scores, figures, a report."""

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mhe.harness.errors import BadInput
from mhe.harness.files import replacing
from sphereface_plus import figures
from sphereface_plus.face_model import FaceModel
from sphereface_plus.faces import FaceBatches, People
from sphereface_plus.faces.batches import Landmarks
from sphereface_plus.identification import Identification, identify
from sphereface_plus.pairs import Pairs
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
    """What was found out about a network.

    Attributes:
        verification: How well it tells pairs of one person from pairs of two.
        identification: How well it finds each image's person among all, by one image of each;
            None for a list of pairs, which is for verification alone.
    """

    verification: Verification
    identification: Identification | None

    @property
    def metrics(self) -> dict[str, float]:
        """Its numbers by name; what the pairs are too few for is left out."""
        found = self.verification.metrics()
        # A table of runs has a column of that name for the spread over seeds.
        found["accuracy_over_folds_std"] = found.pop("accuracy_std")
        if self.identification is not None:
            found["rank_1"] = self.identification.rank(1)
        return {name: value for name, value in found.items() if value is not None}

    @property
    def text(self) -> str:
        """A line for each number, and for each that there is not the reason."""
        found = self.verification
        lines = [
            f"accuracy {found.accuracy:.2%} ± {found.accuracy_std:.2%} over "
            f"{len(found.accuracies)} folds",
            f"AUC {found.auc:.4f}, EER {found.eer:.2%}",
        ]
        lines += [
            f"TAR {tar:.2%} at FAR {far:.0e}"
            for far, tar in found.tar_at_far.items()
            if tar is not None
        ]
        if self.identification is not None:
            lines.append(f"rank 1 {self.identification.rank(1):.2%}")
        same = int(np.count_nonzero(found.same))
        lines.append(f"{same:,} pairs of one person, {found.same.size - same:,} of two")
        return "\n".join([*lines, *found.notes])

    def write(self, folder: Path, title: str) -> None:
        """Writes `folds.csv`, `roc.png`, `scores.png` and, with identification, `cmc.png`.

        Args:
            folder: Where to.
            title: A title for the figures.
        """
        found = self.verification
        with (
            replacing(folder / "folds.csv") as partial,
            open(partial, "w", newline="", encoding="utf-8") as file,
        ):
            writer = csv.writer(file)
            writer.writerow(["fold", "threshold", "accuracy"])
            rows = zip(found.thresholds.tolist(), found.accuracies.tolist(), strict=True)
            writer.writerows([fold, *row] for fold, row in enumerate(rows, 1))
        figures.draw_roc({title: found.roc}, folder / "roc.png", title)
        threshold = float(np.median(found.thresholds))
        figures.draw_scores(found.scores, found.same, folder / "scores.png", threshold, title)
        if self.identification is not None:
            figures.draw_cmc({title: self.identification.cmc}, folder / "cmc.png", title)


def require_pairs(people: People) -> None:
    """Refuses people whose images make too few pairs to be tested on.

    Args:
        people: Whose images.

    Raises:
        BadInput: If there are fewer pairs of one person, or of two, than folds.
    """
    counts = np.bincount(people.labels)
    same = int(np.sum(counts * (counts - 1) // 2))
    different = len(people) * (len(people) - 1) // 2 - same
    if min(same, different) < _FOLDS:
        raise BadInput(
            f"{people.source}: to test in {_FOLDS} folds, {_FOLDS} pairs of one person and as many "
            f"of two are needed. Received: {same} and {different}, of {len(people)} images of "
            f"{len(people.names)} people"
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
    """Embeds people's images and scores pairs of them.

    Without a list of pairs, all pairs of images are scored, dealt into ten folds at random; and
    every image but each person's first is looked up among the first ones.

    Args:
        model: The network.
        people: Whose images.
        pairs: The pairs, as rows of `people.images`.
        landmarks: Five points of every image, by its name, to align the faces by; None takes the
            middle of every image.
        mirror: Whether the embeddings of the mirror images are concatenated, as published.
        batch_size: Images that are embedded at once.

    Returns:
        What was found.

    Raises:
        BadInput: If there are too few pairs, or an embedding is 0 or not finite.
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
    try:
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
    except ValueError as error:
        raise BadInput(f"{people.source} cannot be scored: {error}") from error
