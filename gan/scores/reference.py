"""What generated images are compared with: real images as a classifier sees them, kept on disk."""

import hashlib
import json
import os
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gan.scores.statistics import Statistics
from mhe.harness.errors import BadInput

if TYPE_CHECKING:
    from gan.classifiers import Classifier

# Of what is kept, and how it is computed: another number makes what was kept before worthless.
_FORMAT = 1
_CHUNK = 1000


@dataclass(frozen=True)
class Reference:
    """Real images as a classifier sees them.

    Attributes:
        statistics: Mean and covariance of the features of all images.
        features: The features of some in random order, float32 `(n, D)`, for the scores that
            compare image with image.
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
        """Computes what there is to know of real images, or reads what was kept of them.

        What is kept is found by the pixels themselves, the classifier's weights, and all that
        decides the result, so it is never that of other images or another classifier. A file that
        cannot be read is computed anew, with a word on stderr.

        Args:
            images: uint8 `(N, H, W, C)`, two or more.
            classifier: What sees them.
            cache: A folder to keep it in; None keeps nothing.
            sample: Images whose features stay in memory; all if there are fewer.
            seed: Decides which.
            batch_size: Images that are scored at once.

        Returns:
            The reference.

        Raises:
            BadInput: If there are too few images, or the cache cannot be written to.
        """
        if len(images) < 2:
            raise BadInput(f"Scores need 2 real images or more. Received: {len(images)}")
        key = {
            "format": _FORMAT,
            "images": hashlib.sha256(np.ascontiguousarray(images)).hexdigest(),
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
        # Datasets come class by class: any part of the features shall be of all classes.
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


def _read(path: Path, key: Mapping[str, Any]) -> Reference | None:
    try:
        # NumPy would leave a damaged file open.
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as kept:
            if json.loads(str(kept["key"])) != key:
                raise ValueError("it is of other images or another classifier")
            statistics = Statistics.restored(kept["count"], kept["mu"], kept["sigma"])
            return Reference(statistics, kept["features"])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        print(f"{path} cannot be used, computing it anew: {error}", file=sys.stderr)
        return None


def _write(path: Path, key: Mapping[str, Any], reference: Reference) -> None:
    statistics = reference.statistics
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Several runs may keep the same at one time: each writes a file of its own first.
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
        raise BadInput(f"{path.parent} cannot be written to: {error.strerror}") from error
