"""A backbone and a margin head as one model, which embeds faces without labels."""

from collections.abc import Iterable, Iterator
from typing import Any

import keras
import numpy as np
from keras import ops

import mhe
from mhe import keras_internals
from mhe.labels import check_readable


@keras.saving.register_keras_serializable(package="sphereface_plus")
class FaceModel(mhe.HeadModel):
    """A backbone from faces to embeddings with a head on top, fit on images and labels.

    Labels are never model inputs: `fit` trains the logits with the margin on the true class, with
    the head's own loss unless `compile` was given one; `model(images)`, `evaluate`, `predict` and
    the metrics of `fit` use the logits without a margin; `embed` returns embeddings. `save` saves
    backbone and head, `model.backbone.save` the backbone alone.

    Args:
        backbone: A Keras model from images to embeddings `(B, dims)`.
        head: A head of this package, or any layer that `mhe.HeadModel` takes.
        **kwargs: Keras's own: `name`, `dtype`, `trainable`.

    Raises:
        ValueError: If the backbone is not a Keras model with outputs `(B, dims)`, or the head is
            not a layer.

    Example:

    >>> import keras, sphereface_plus
    >>> import numpy as np
    >>> backbone = sphereface_plus.backbones.sfnet(4, 8, input_shape=(16, 16, 1), width=0.1)
    >>> model = sphereface_plus.FaceModel(backbone, sphereface_plus.CosFace(3))
    >>> model.compile("sgd", metrics=["accuracy"])
    >>> images, labels = np.zeros((6, 16, 16, 1), "float32"), np.array([0, 1, 2, 0, 1, 2])
    >>> _ = model.fit(images, labels, verbose=0)
    >>> model.embed(images, mirror=True).shape, tuple(model(images).shape)
    ((6, 16), (6, 3))
    """

    def __init__(self, backbone: Any, head: Any, **kwargs: Any) -> None:
        if not isinstance(backbone, keras.Model):
            raise ValueError(f"`backbone` must be a Keras model. Received: {backbone!r}")
        super().__init__(backbone, head, **kwargs)
        shape = getattr(backbone, "output_shape", None)
        if shape is not None:
            _check_embeddings(shape)

    def fit(
        self, x: Any = None, y: Any = None, *args: Any, **kwargs: Any
    ) -> keras.callbacks.History:
        """Trains like `keras.Model.fit`, after checking the labels if they are an array or list.

        Labels in tensors and datasets are not checked: one that is not a class makes the head's
        loss NaN.

        Raises:
            ValueError: If the loss is the head's own, and a label in an array or list is not a
                class.
        """
        classes = getattr(self.head, "classes", None)
        if classes is not None and not keras_internals.has_compiled_loss(self):
            check_readable(y, classes)
        return super().fit(x, y, *args, **kwargs)

    def embed(self, images: Any, mirror: bool = False, batch_size: int = 128) -> np.ndarray:
        """Embeds faces, one batch at a time.

        Args:
            images: Array `(N, H, W, C)` of inputs of the backbone. Or a `keras.utils.PyDataset` or
                another iterable of batches `(B, H, W, C)`, or of tuples that start with them; its
                order is kept, and a `PyDataset` does not see the end of an epoch.
            mirror: Whether to append the embeddings of the images flipped left to right, as
                published for SphereFace.
            batch_size: Number of images to embed at once if `images` is an array.

        Returns:
            A float32 array `(N, dims)`; with `mirror`, `(N, 2·dims)`.

        Raises:
            ValueError: If there are no images, `images` is not iterable, `batch_size` is less than
                1, inputs to be mirrored are not images, or the backbone does not return embeddings
                `(B, dims)`.
        """
        return embed_with(self.backbone, images, mirror, batch_size)


def embed_with(
    backbone: keras.Model, images: Any, mirror: bool = False, batch_size: int = 128
) -> np.ndarray:
    """Embeds faces by a backbone alone; see `FaceModel.embed`.

    Args:
        backbone: A Keras model from images to embeddings `(B, dims)`.
        images: As in `FaceModel.embed`.
        mirror: As in `FaceModel.embed`.
        batch_size: As in `FaceModel.embed`.

    Returns:
        A float32 array `(N, dims)`; with `mirror`, `(N, 2·dims)`.

    Raises:
        ValueError: As `FaceModel.embed`.

    Example:

    >>> backbone = keras.Sequential([keras.Input((4, 4, 1)), keras.layers.Flatten()])
    >>> embed_with(backbone, np.ones((3, 4, 4, 1)), mirror=True).shape
    (3, 32)
    """
    if batch_size < 1:
        raise ValueError(f"`batch_size` must be at least 1. Received: {batch_size}")
    embeddings, size = [], 0
    for batch in _batches(images, batch_size):
        if mirror and batch.ndim != 4:
            raise ValueError(
                f"To be mirrored, images must be (B, H, W, C). Received: shape {batch.shape}"
            )
        # A smaller batch would be compiled anew.
        size = max(size, len(batch))
        views = (batch, batch[:, :, ::-1]) if mirror else (batch,)
        embeddings.append(
            np.concatenate([_embed_batch(backbone, view, size) for view in views], axis=1)
        )
    if not embeddings:
        raise ValueError("There must be at least one image to embed. Received: none")
    return np.concatenate(embeddings)


def _embed_batch(backbone: keras.Model, images: np.ndarray, size: int) -> np.ndarray:
    """Embeds a batch, padded to `size` images."""
    padded = np.concatenate([images, np.repeat(images[-1:], size - len(images), axis=0)])
    embeddings = backbone.predict_on_batch(padded)
    _check_embeddings(np.shape(embeddings))
    return np.asarray(embeddings[: len(images)], "float32")


def _batches(images: Any, batch_size: int) -> Iterator[np.ndarray]:
    """Yields batches of images from what `FaceModel.embed` takes."""
    batches: Iterable[Any]
    if isinstance(images, keras.utils.PyDataset):
        # Iterating would end an epoch.
        batches = (images[place] for place in range(images.num_batches))
    elif hasattr(images, "shape"):
        batches = (
            images[start : start + batch_size] for start in range(0, len(images), batch_size)
        )
    elif isinstance(images, Iterable):
        batches = images
    else:
        raise ValueError(
            f"`images` must be an array, a PyDataset or an iterable of batches. Received: {images}"
        )
    for batch in batches:
        yield ops.convert_to_numpy(batch[0] if isinstance(batch, (tuple, list)) else batch)


def _check_embeddings(shape: tuple[int | None, ...]) -> None:
    if len(shape) != 2:
        raise ValueError(
            "The backbone must return embeddings (B, dims), as those that end in global pooling or "
            f"a dense layer do. Received: outputs {shape}"
        )
