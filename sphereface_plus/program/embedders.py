"""What embeds faces: the network of a run or of a file, and a digest that tells two apart."""

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from mhe.harness import saved
from mhe.harness.errors import BadInput
from mhe.harness.run import Run
from sphereface_plus.face_model import FaceModel, embed_with
from sphereface_plus.faces import FaceBatches, People
from sphereface_plus.faces.batches import Landmarks
from sphereface_plus.program import trained

# Numbers of Python objects, which differ from process to process.
_CHANGING = {"shared_object_id"}


def in_order(
    backbone: keras.Model, people: People, landmarks: Landmarks | None, batch_size: int
) -> FaceBatches:
    """Returns the faces of people in their order, of the size that a network takes.

    Args:
        backbone: The network from faces to embeddings.
        people: The people.
        landmarks: Five points per image to align the faces by, or None.
        batch_size: Number of images in a batch.
    """
    height, width, channels = backbone.input_shape[1:]
    return FaceBatches(
        people,
        batch_size,
        size=(height, width),
        channels=channels,
        landmarks=landmarks,
        flip=False,
        shuffle=False,
    )


@dataclass(frozen=True)
class Embedder:
    """A network from faces to embeddings.

    Attributes:
        source: The run's folder, or the file.
        backbone: The network.
        mirror: Whether the embedding of the mirror image is appended.
        run: The run, or None if the network is from a file.
        model: The digest; see `digest`.
    """

    source: str
    backbone: keras.Model
    mirror: bool
    run: Run | None
    model: str

    def batches(
        self, people: People, landmarks: Landmarks | None = None, batch_size: int = 128
    ) -> FaceBatches:
        """Returns the faces of people in their order, of the size that the network takes.

        Args:
            people: The people.
            landmarks: Five points per image to align the faces by, or None.
            batch_size: Number of images to embed at once.
        """
        return in_order(self.backbone, people, landmarks, batch_size)

    def embed(
        self,
        batches: FaceBatches,
        chosen: range | None = None,
        done: Callable[[int], Any] = lambda count: None,
    ) -> np.ndarray:
        """Embeds faces.

        Args:
            batches: What `batches` returned.
            chosen: Which of the batches; None for all.
            done: Called after each batch with its number of images.

        Returns:
            float32 `(N, dims)`.

        Raises:
            BadInput: If an embedding is zero or not finite, by the name of its image.
        """
        chosen = range(len(batches)) if chosen is None else chosen

        def images() -> Iterator[np.ndarray]:
            for place in chosen:
                faces = batches[place][0]
                yield faces
                done(len(faces))

        embeddings = embed_with(self.backbone, images(), self.mirror)
        lengths = np.linalg.norm(embeddings.astype(np.float64), axis=1)
        wrong = ~(np.isfinite(lengths) & (lengths > 0))
        if wrong.any():
            place = chosen.start * batches.batch_size + int(wrong.argmax())
            raise BadInput(
                f"{self.source} must embed every face as finite numbers that are not all zero. "
                f"Received: length {lengths[wrong.argmax()]:g} for {batches.people.images[place]}"
            )
        return embeddings


def load_embedder(path: str | os.PathLike, mirror: bool = True) -> Embedder:
    """Loads the network of a complete run, or of a `.keras` file.

    Args:
        path: The run's folder; or a file with a `FaceModel`, or with its backbone alone, such as
            `model.backbone.save("embedder.keras")` writes.
        mirror: Whether to append the embedding of the mirror image.

    Returns:
        The embedder.

    Raises:
        BadInput: If it is neither, or the network does not embed images of one size.
    """
    source = os.fspath(path)
    place = os.path.expanduser(source)
    run = None
    if os.path.isfile(place):
        model = saved.load_model(place)
    else:
        model, run = trained.load_model(source)
    backbone = model.backbone if isinstance(model, FaceModel) else model
    shapes = getattr(backbone, "input_shape", None), getattr(backbone, "output_shape", None)
    if not _embeds(*shapes):
        raise BadInput(
            f"{source} must hold a FaceModel, or a network from images (B, H, W, 1 or 3) of one "
            f"size to embeddings (B, dims). Received: inputs {shapes[0]}, outputs {shapes[1]}"
        )
    return Embedder(source, backbone, mirror, run, digest(backbone, mirror))


def _embeds(inputs: Any, outputs: Any) -> bool:
    """Whether shapes are those of a network from images of one size to embeddings."""
    if not (isinstance(inputs, tuple) and isinstance(outputs, tuple)):
        return False
    known = all(isinstance(side, int) for side in (*inputs[1:], *outputs[1:]))
    return known and len(inputs) == 4 and inputs[3] in (1, 3) and len(outputs) == 2


def digest(backbone: keras.Model, mirror: bool) -> str:
    """What embeddings have in common if they can be compared, as a text of 64 digits.

    It is SHA-256 over the layers of the network, its weights, and whether embeddings of mirror
    images are appended. A run and the backbone that was saved from it have the same.

    Args:
        backbone: The network.
        mirror: Whether embeddings of mirror images are appended.

    Example:

    >>> backbone = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    >>> digest(backbone, True) == digest(backbone, True), len(digest(backbone, True))
    (True, 64)
    >>> digest(backbone, True) == digest(backbone, False)
    False
    """
    summed = hashlib.sha256()
    config = json.dumps(_lasting(backbone.get_config()), sort_keys=True, default=str)
    summed.update(f"{config}\n{bool(mirror)}\n".encode())
    for weight in backbone.weights:
        array = keras.ops.convert_to_numpy(weight)
        summed.update(f"{array.shape} {array.dtype}\n".encode())
        summed.update(np.ascontiguousarray(array).tobytes())
    return summed.hexdigest()


def _lasting(config: Any) -> Any:
    """A config without what differs from process to process."""
    if isinstance(config, dict):
        return {key: _lasting(each) for key, each in config.items() if key not in _CHANGING}
    if isinstance(config, list | tuple):
        return [_lasting(each) for each in config]
    return config
