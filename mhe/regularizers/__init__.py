"""Keras regularizers: energies of neurons, costs between classes, weights that are images."""

from mhe.regularizers.distortion import (
    Distortion,
    Rank,
    prototype_distances,
    rank_loss,
    squared_distortion,
)
from mhe.regularizers.images import (
    NearestImagePull,
    TotalVariation,
    nearest_images,
    total_variation,
)
from mhe.regularizers.mhe import MHE, Sum, describe

__all__ = [
    "MHE",
    "Distortion",
    "NearestImagePull",
    "Rank",
    "Sum",
    "TotalVariation",
    "describe",
    "nearest_images",
    "prototype_distances",
    "rank_loss",
    "squared_distortion",
    "total_variation",
]
