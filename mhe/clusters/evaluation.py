"""Classification by the nearest clusters, and retrieval by the nearest neighbors."""

from typing import Any

import numpy as np

from mhe import checks
from mhe.clusters.distances import distance_scale, finite_rows, largest, squared_distances
from mhe.clusters.index import ClusterIndex


def knc(embeddings: Any, index: ClusterIndex, neighbours: int = 128) -> np.ndarray:
    """Returns the probability of each class from the L nearest clusters (k-nearest-cluster, kNC).

    p(c) = Σ_{l: C(μ_l) = c} exp(-‖r - μ_l‖²/(2σ²)) / Σ_l exp(-‖r - μ_l‖²/(2σ²)), over the L
    clusters l nearest to r, with the variance σ² of the index (in the paper, a running average over
    batches). Classes without a cluster among them have probability 0.

    Args:
        embeddings: Array `(B, dims)`.
        index: The clusters of the training set, as `cluster` returns them.
        neighbours: L; all clusters if there are fewer.

    Returns:
        A float64 array `(B, classes)`, with the classes up to the largest in the index.

    Raises:
        ValueError: If the embeddings are not finite numbers `(B, dims)`.

    Example:

    >>> from mhe.clusters import cluster
    >>> embeddings = np.array([[0.0], [1.0], [5.0], [6.0], [2.4], [2.6]])
    >>> one, two = (cluster(embeddings, [0, 0, 0, 0, 1, 1], per_class) for per_class in (1, 2))
    >>> int(knc([[2.9]], one).argmax()), int(knc([[2.9]], two).argmax())
    (0, 1)

    Reference:
        Rippel et al., Metric learning with adaptive density discrimination, ICLR 2016
        ([arXiv:1511.05939](https://arxiv.org/abs/1511.05939)), equation 6.
    """
    checks.check_count("neighbours", neighbours, 1)
    embeddings = finite_rows(embeddings, index.centers.shape[1])
    count = min(neighbours, len(index.classes))
    scale = distance_scale(index.variance, index.centers)
    of_classes = np.zeros((len(embeddings), int(index.classes.max()) + 1))
    for rows, squares in squared_distances(embeddings, index.centers):
        nearest = np.argpartition(squares, count - 1, axis=1)[:, :count]
        exponents = -np.take_along_axis(squares, nearest, axis=1) / scale
        weights = np.exp(exponents - largest(exponents))
        weights /= weights.sum(axis=1, keepdims=True)
        places = np.arange(rows.start, rows.stop)[:, None]
        np.add.at(of_classes, (places, index.classes[nearest]), weights)
    return of_classes


def attribute_concentration(
    embeddings: Any,
    attributes: Any,
    neighbours: int = 10,
    gallery: Any = None,
    gallery_attributes: Any = None,
) -> float:
    """Returns the share of nearest neighbors with the same attribute or class.

    With classes, it is the share of an image's nearest neighbors that are of its class, averaged
    over images: the accuracy of retrieval. With attributes, of which an image may have several or
    none, the average is over all images that have an attribute, and then over attributes.

    Args:
        embeddings: Array `(N, dims)`.
        attributes: Classes, integers `(N,)`, or attributes of each image, bool `(N, A)`.
        neighbours: Number of nearest neighbors; all if there are fewer.
        gallery: Embeddings `(M, dims)` to search, or None for the others of `embeddings`.
        gallery_attributes: The classes or attributes of the gallery.

    Returns:
        A number from 0 to 1.

    Raises:
        ValueError: If the arrays do not fit together, an embedding is not finite, there is no
            neighbor, or no image has an attribute.

    Example:

    >>> embeddings = np.array([[0.0], [1.0], [2.0], [9.0], [10.0]])
    >>> attribute_concentration(embeddings, [0, 0, 1, 1, 1], neighbours=1)
    0.8

    Reference:
        Rippel et al., Metric learning with adaptive density discrimination, ICLR 2016
        ([arXiv:1511.05939](https://arxiv.org/abs/1511.05939)), section 4.3.
    """
    checks.check_count("neighbours", neighbours, 1)
    attributes = np.asarray(attributes)
    embeddings = finite_rows(embeddings, classes=attributes)
    among_others = gallery is None
    if among_others:
        gallery, gallery_attributes = embeddings, attributes
    gallery_attributes = np.asarray(gallery_attributes)
    gallery = finite_rows(gallery, embeddings.shape[1], gallery_attributes)
    for each, of in ((attributes, embeddings), (gallery_attributes, gallery)):
        if (
            each.ndim not in (1, 2)
            or len(each) != len(of)
            or each.shape[1:] != attributes.shape[1:]
        ):
            raise ValueError(
                "Attributes must be (N,) or (N, A), one or A for each embedding. "
                f"Received: attributes {each.shape} for embeddings {of.shape}"
            )
    count = min(neighbours, len(gallery) - among_others)
    if count < 1 or len(embeddings) < 1:
        raise ValueError(
            "There must be embeddings, and others as their neighbors. "
            f"Received: {len(embeddings)} among {len(gallery)}"
        )
    shares = np.empty(attributes.shape)
    for rows, squares in squared_distances(embeddings, gallery):
        if among_others:
            squares[np.arange(len(squares)), np.arange(rows.start, rows.stop)] = np.inf
        nearest = np.argpartition(squares, count - 1, axis=1)[:, :count]
        shares[rows] = (gallery_attributes[nearest] == attributes[rows, None]).mean(axis=1)
    if attributes.ndim == 1:
        return float(shares.mean())
    has = attributes.astype(bool)
    known = has.any(axis=0)
    if not known.any():
        raise ValueError("At least one image must have an attribute. Received: none that has")
    return float(np.mean(np.sum(shares * has, axis=0)[known] / has.sum(axis=0)[known]))
