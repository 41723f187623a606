"""The features of real images, to compare generated ones with, cached on disk."""

import hashlib
import json
import os
import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gan.scores.statistics import Statistics
from mhe.arrays import read_arrays

if TYPE_CHECKING:
    from gan.classifiers import Classifier

# Version of the cached files and of how they are computed; another one invalidates them.
_FORMAT = 1
_CHUNK = 1000


@dataclass(frozen=True)
class Reference:
    """The features of real images by a classifier.

    Attributes:
        statistics: Mean and covariance of the features of all images.
        features: The features of a random sample, float32 `(n, D)`, for scores that compare pairs
            of images.
    """

    statistics: Statistics
    features: np.ndarray

    @classmethod
    def of(
        cls,
        images: np.ndarray,
        classifier: "Classifier",
        *,
        cache: str | os.PathLike | None = None,
        sample: int = 10_000,
        seed: int = 0,
        batch_size: int = 100,
    ) -> "Reference":
        """Computes the features of real images, or reads them from the cache.

        The cache is keyed by the pixels, the classifier's weights and all arguments that affect the
        result, so it never returns that of other images or another classifier. An unreadable file
        is computed anew, with a warning.

        Args:
            images: uint8 `(N, H, W, C)`, at least two.
            classifier: The classifier.
            cache: A folder for the cache, or None.
            sample: Number of images whose features are kept; all if there are fewer.
            seed: Seed of the sample.
            batch_size: Number of images to score at once.

        Returns:
            The reference.

        Raises:
            ValueError: If there are too few images, or the cache cannot be written to.
        """
        if len(images) < 2:
            raise ValueError(f"Scores need at least 2 real images. Received: {len(images)}")
        key = {
            "format": _FORMAT,
            "images": _digest(images),
            "shape": list(images.shape),
            "classifier": classifier.digest,
            "sample": min(sample, len(images)),
            "seed": seed,
        }
        path = None
        if cache is not None:
            digest = hashlib.sha256(json.dumps(key).encode()).hexdigest()
            path = Path(cache) / f"real-{digest[:16]}.npz"
            kept = _read(path, key) if path.exists() else None
            if kept is not None:
                return kept
        # Datasets may be sorted by class: any part of the features should be of all classes.
        drawn = np.random.default_rng(seed).permutation(len(images))[: key["sample"]]
        places = np.full(len(images), -1)
        places[drawn] = np.arange(len(drawn))
        statistics = Statistics(classifier.dims)
        features = np.empty((len(drawn), classifier.dims), np.float32)
        for begin in range(0, len(images), _CHUNK):
            part = slice(begin, begin + _CHUNK)
            _, seen = classifier.score(images[part], batch_size)
            statistics.update(seen)
            chosen = places[part] >= 0
            features[places[part][chosen]] = seen[chosen]
        reference = cls(statistics, features)
        if path is not None:
            _write(path, key, reference)
        return reference


def _digest(images: np.ndarray) -> str:
    digest = hashlib.sha256()
    for begin in range(0, len(images), _CHUNK):  # which need not all be in memory
        digest.update(np.ascontiguousarray(images[begin : begin + _CHUNK]).data)
    return digest.hexdigest()


def _read(path: Path, key: Mapping[str, Any]) -> Reference | None:
    try:
        kept = read_arrays(path, ["count", "mu", "sigma", "features"], texts=["key"])
        if json.loads(str(kept["key"])) != key:
            raise ValueError("it belongs to other images or another classifier")
        dims = kept["mu"].size
        shapes = [kept[name].shape for name in ("count", "mu", "sigma", "features")]
        if shapes != [(), (dims,), (dims, dims), (key["sample"], dims)]:
            raise ValueError(f"it has arrays of other shapes: {shapes}")
        statistics = Statistics.restored(int(kept["count"]), kept["mu"], kept["sigma"])
        return Reference(statistics, kept["features"])
    except (OSError, ValueError) as error:
        warnings.warn(f"{path} cannot be used and is recomputed: {error}", stacklevel=3)
        return None


def _write(path: Path, key: Mapping[str, Any], reference: Reference) -> None:
    statistics = reference.statistics
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Several runs may write the same file at once: each writes one of its own first.
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            partial = Path(folder, path.name)
            np.savez(
                partial,
                key=np.array(json.dumps(key)),
                count=np.array(statistics.count),
                mu=statistics.mu,
                sigma=statistics.sigma,
                features=reference.features,
            )
            os.replace(partial, path)
    except OSError as error:
        raise ValueError(f"{path.parent} cannot be written to: {error.strerror}") from error
