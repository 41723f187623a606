"""Scores of the images of a GAN, the same in training and testing."""

import argparse
from collections.abc import Iterable, Iterator, Mapping

import numpy as np
from tqdm import tqdm

from gan.evaluation import evaluate, least_images
from gan.model import GAN
from gan.program import classifier_files
from gan.scores import Reference
from mhe.harness.datasets import Dataset
from mhe.harness.errors import BadInput, as_bad_input
from mhe.harness.flags import COUNT, file_path

_AT_ONCE = 100


def add_flags(parser: argparse.ArgumentParser, *, as_trained: bool = False) -> None:
    """Adds the flags that say how images are scored.

    Args:
        parser: A program's parser.
        as_trained: Whether the program scores a run: then the defaults are None, to be replaced
            with the flags of that run.

    Example:

    >>> parser = argparse.ArgumentParser()
    >>> add_flags(parser)
    >>> parser.parse_args(["--splits", "5"]).splits
    5
    """
    parser.add_argument(
        "--classifier",
        type=file_path,
        help="the classifier that scores images: a complete run of gan/train_classifier.py, or a "
        ".keras file of a classifier of pixels from 0 to 255 (default: "
        + ("that of the run)" if as_trained else "InceptionV3)"),
    )
    parser.add_argument(
        "--inception_weights",
        type=file_path,
        metavar="FILE",
        help="score with InceptionV3 and these weights for its 1000 classes (default: download "
        "those of ImageNet)",
    )
    parser.add_argument(
        "--splits",
        type=COUNT,
        default=None if as_trained else 10,
        help="number of splits of the inception score" + " (default: that of the run)" * as_trained,
    )
    parser.add_argument(
        "--reference",
        choices=["train", "test"],
        default=None if as_trained else "train",
        help="the real images to compare generated ones with: training images, as in published "
        "code, or test images" + " (default: that of the run)" * as_trained,
    )
    parser.add_argument(
        "--statistics",
        type=file_path,
        metavar="FOLDER",
        default="runs/statistics",
        help="folder that caches the statistics of real images",
    )


def require_enough(flag: str, images: int, splits: int) -> None:
    """Refuses too few images to score.

    Args:
        flag: The flag that sets the number.
        images: The number of images; 0 for no scores.
        splits: Number of splits of the inception score.

    Raises:
        BadInput: If there are too few.

    Example:

    >>> require_enough("--images", 5, splits=10)
    Traceback (most recent call last):
        ...
    mhe.harness.errors.BadInput: --images must be at least 10 for --splits 10. Received: 5
    """
    least = least_images(splits)
    if 0 < images < least:
        raise BadInput(f"{flag} must be at least {least} for --splits {splits}. Received: {images}")


class Scorer:
    """A classifier, and its features of the real images.

    Args:
        args: The parsed flags of `add_flags`.
        data: The real images.

    Attributes:
        name: The name of the classifier, for reports.
        digest: The digest of its weights.
        described: Entries of `result.json` besides the scores: the name of the classifier, the
            split and number of the real images, and the splits of the inception score.

    Raises:
        BadInput: If the classifier cannot be used for these images.
    """

    def __init__(self, args: argparse.Namespace, data: Dataset):
        images, _ = getattr(data, args.reference)
        if len(images) < least_images(1):
            raise BadInput(
                f"--reference {args.reference} of --dataset {args.dataset} must have "
                f"at least {least_images(1)} images. Received: {len(images)}"
            )
        self._splits = args.splits
        self._classifier = classifier_files.load(
            args.inception_weights, args.classifier, images.shape[1:]
        )
        with as_bad_input():
            self._reference = Reference.of(
                images, self._classifier, cache=args.statistics, batch_size=_AT_ONCE
            )
        self.name = self._classifier.name
        self.digest = self._classifier.digest
        self.described = {
            "classifier": self.name,
            "reference": args.reference,
            "reference_images": len(images),
            "splits": args.splits,
        }

    def score(
        self, model: GAN, images: int, *, seed: int, batch_size: int = _AT_ONCE
    ) -> dict[str, float]:
        """Generates images and scores them, one batch at a time.

        Args:
            model: The GAN.
            images: The number of images.
            seed: Seed of their latents.
            batch_size: Number of images per batch, which bounds the memory.

        Returns:
            As `gan.evaluation.evaluate`.

        Raises:
            BadInput: If the outputs of the classifier cannot be used.
        """
        generated = model.generate_batches(images, batch_size, seed)
        with as_bad_input():
            return evaluate(
                _with_progress(generated, images),
                self._classifier,
                self._reference,
                splits=self._splits,
                batch_size=batch_size,
            )

    def text(self, metrics: Mapping[str, float], images: int) -> str:
        """Formats scores as text.

        Args:
            metrics: As `score` returns them.
            images: The number of generated images.
        """
        kind = {"train": "training", "test": "test"}[self.described["reference"]]
        return "\n".join(
            [
                f"inception score {metrics['inception_score']:.4f} ± "
                f"{metrics['inception_score_over_splits_std']:.4f} over {self._splits} splits",
                f"Fréchet distance {metrics['frechet_distance']:.4f}",
                f"kernel inception distance {metrics['kernel_inception_distance']:.6f} ± "
                f"{metrics['kernel_inception_distance_over_subsets_std']:.6f}",
                f"precision {metrics['precision']:.4f}, recall {metrics['recall']:.4f}",
                f"{images:,} generated and {self.described['reference_images']:,} {kind} images, "
                f"as {self.name} sees them; scores by other classifiers are not comparable",
            ]
        )


def _with_progress(batches: Iterable[np.ndarray], images: int) -> Iterator[np.ndarray]:
    """Yields the batches, with a bar on a terminal."""
    bar = tqdm(total=images, unit="image", desc="scoring", leave=False, disable=None)
    with bar:
        for batch in batches:
            yield batch
            bar.update(len(batch))
