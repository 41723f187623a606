"""A backbone and a head with a margin as one model, which embeds faces without their labels."""

from collections.abc import Iterable, Iterator
from typing import Any

import keras
import numpy as np
from keras import ops

import mhe
from mhe import checks
from mhe.labels import is_readable


@keras.saving.register_keras_serializable(package="sphereface_plus")
class FaceModel(mhe.HeadModel):
    """A backbone from faces to embeddings and a head over them, fit on images and labels.

    Labels never are an input: `fit` trains the logits with the margin on the true class, by the
    head's own loss where `compile` was given none; `model(images)`, `evaluate`, `predict` and the
    metrics of `fit` see the logits without a margin; `embed` gives embeddings. `save` keeps
    backbone and head, `model.backbone.save` the backbone alone.

    Args:
        backbone: A Keras model from images to embeddings `(B, dims)`.
        head: A head of this package, or any layer that `mhe.HeadModel` takes.
        **kwargs: Keras's own: `name`, `dtype`, `trainable`.

    Raises:
        ValueError: If the backbone is no Keras model or does not give embeddings `(B, dims)`, or
            the head is no layer.

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

    def fit(self, x: Any = None, y: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Keras's own `fit`, which checks the labels first where they can be read.

        In a traced step they cannot, and a label that is no class makes the head's loss NaN.

        Raises:
            ValueError: If the loss is the head's own, and a label in an array or a list is no
                class.
        """
        classes = getattr(self.head, "classes", None)
        if classes is not None and self._compile_loss is None and is_readable(y):
            checks.check_labels(y, classes)
        return super().fit(x, y, *args, **kwargs)

    def embed(self, images: Any, mirror: bool = False, batch_size: int = 128) -> np.ndarray:
        """The embeddings of faces, a batch at a time.

        Args:
            images: Array `(N, H, W, C)` as the backbone takes them. Or a `keras.utils.PyDataset`
                or another iterable that gives batches `(B, H, W, C)`, or tuples that begin with
                them; it sets the order, and is not told of an end of an epoch.
            mirror: Whether the embeddings of the images turned left to right are concatenated, as
                published for SphereFace.
            batch_size: Images that are embedded at once, where `images` is an array.

        Returns:
            A float32 array `(N, dims)`; with `mirror`, `(N, 2·dims)`.

        Raises:
            ValueError: If there are no images, `images` gives no batches, `batch_size` is less
                than 1, `mirror` is asked for something else than images, or the backbone does not
                give embeddings `(B, dims)`.
        """
        if batch_size < 1:
            raise ValueError(f"`batch_size` must be at least 1. Received: {batch_size}")
        embeddings, size = [], 0
        for batch in _batches(images, batch_size):
            if mirror and batch.ndim != 4:
                raise ValueError(
                    f"To be mirrored, images must be (B, H, W, C). Received: shape {batch.shape}"
                )
            # Smaller batches would be compiled for.
            size = max(size, len(batch))
            views = (batch, batch[:, :, ::-1]) if mirror else (batch,)
            found = [self._embed_batch(view, size) for view in views]
            embeddings.append(np.concatenate(found, axis=1))
        if not embeddings:
            raise ValueError("There must be at least one image to embed. Received: none")
        return np.concatenate(embeddings)

    def _embed_batch(self, images: np.ndarray, size: int) -> np.ndarray:
        """The embeddings of a batch, which is filled up to `size` images."""
        filled = np.concatenate([images, np.repeat(images[-1:], size - len(images), axis=0)])
        found = self.backbone.predict_on_batch(filled)
        _check_embeddings(np.shape(found))
        return np.asarray(found[: len(images)], "float32")


def _batches(images: Any, batch_size: int) -> Iterator[np.ndarray]:
    """Batches of images, one at a time, from whatever `FaceModel.embed` takes."""
    if isinstance(images, keras.utils.PyDataset):
        # Not by iterating, which would end an epoch.
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


def _check_embeddings(shape: Any) -> None:
    if len(shape) != 2:
        raise ValueError(
            "The backbone must give embeddings (B, dims), as one does that ends in global pooling "
            f"or a dense layer. Received: outputs {shape}"
        )
