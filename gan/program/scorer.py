"""Scores of a GAN's images, the same while it is trained and when it is tested."""

import argparse
from collections.abc import Iterable, Iterator, Mapping

import numpy as np
from tqdm import tqdm

from gan import classifiers
from gan.evaluation import evaluate, least_images
from gan.model import GAN
from gan.scores import Reference
from mhe.harness.datasets import Dataset
from mhe.harness.errors import BadInput
from mhe.harness.flags import integer

_AT_ONCE = 100


def add_flags(parser: argparse.ArgumentParser, *, as_trained: bool = False) -> None:
    """Adds the flags that say how images are scored.

    Args:
        parser: A program's parser.
        as_trained: For a program that scores a run: what is not given is None, to be taken from
            the flags of that run.

    Example:

    >>> parser = argparse.ArgumentParser()
    >>> add_flags(parser)
    >>> parser.parse_args(["--splits", "5"]).splits
    5
    """
    parser.add_argument(
        "--classifier",
        help="what scores images: a complete run of gan/train_classifier.py, or a .keras file of "
        "a classifier of pixels from 0 to 255 (default: "
        + ("what the run was scored by)" if as_trained else "InceptionV3)"),
    )
    parser.add_argument(
        "--inception_weights",
        metavar="FILE",
        help="score by InceptionV3 with these weights of its 1000 classes (default: ImageNet's, "
        "which are downloaded)",
    )
    parser.add_argument(
        "--splits",
        type=integer(1),
        default=None if as_trained else 10,
        help="parts of the inception score" + " (default: the run's)" * as_trained,
    )
    parser.add_argument(
        "--reference",
        choices=["train", "test"],
        default=None if as_trained else "train",
        help="the real images that generated ones are compared with: those trained on, as in "
        "published code, or the test images" + " (default: the run's)" * as_trained,
    )
    parser.add_argument(
        "--statistics",
        metavar="FOLDER",
        default="runs/statistics",
        help="where statistics of the real images are kept for the next time",
    )


def require_enough(flag: str, images: int, splits: int) -> None:
    """Refuses a number of images that cannot be scored.

    Args:
        flag: What the number was given by.
        images: The number; 0 is for no scores at all.
        splits: Parts of the inception score.

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
    """A classifier, and the real images as it sees them.

    Args:
        args: The flags that `add_flags` adds, as they were parsed.
        data: The real images.

    Attributes:
        name: Which classifier it is, for reports.
        described: What stands in every `result.json` beside scores: the classifier's name, the
            split of the real images and their number, the parts of the inception score.

    Raises:
        BadInput: If the classifier cannot be used, or not on such images.
    """

    def __init__(self, args: argparse.Namespace, data: Dataset):
        images, _ = getattr(data, args.reference)
        if len(images) < least_images(1):
            raise BadInput(
                f"--reference {args.reference} of --dataset {args.dataset} must have "
                f"{least_images(1)} images or more. Received: {len(images)}"
            )
        self._splits = args.splits
        self._classifier = classifiers.load(
            args.inception_weights, args.classifier, images.shape[1:]
        )
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
        """Generates images and scores them, a batch at a time.

        Args:
            model: What generates them.
            images: How many.
            seed: Of their latents.
            batch_size: Images at once; it bounds the memory.

        Returns:
            As `gan.evaluation.evaluate`.
        """
        generated = model.generate_batches(images, batch_size, seed)
        return evaluate(
            _shown(generated, images),
            self._classifier,
            self._reference,
            splits=self._splits,
            batch_size=batch_size,
        )

    def text(self, metrics: Mapping[str, float], images: int) -> str:
        """Lays scores out as text.

        Args:
            metrics: As `score` gives them.
            images: How many images they are of.
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
                f"as {self.name} sees them; scores by another classifier do not compare",
            ]
        )


def _shown(batches: Iterable[np.ndarray], images: int) -> Iterator[np.ndarray]:
    """Yields the batches, with a bar on a terminal."""
    bar = tqdm(total=images, unit="image", desc="scoring", leave=False, disable=None)
    with bar:
        for batch in batches:
            yield batch
            bar.update(len(batch))
