"""Keras regularizers: energies of neurons, costs between classes, weights that are images."""

from mhe.regularizers.compressive import CoMHE, compressed_energy
from mhe.regularizers.convolution import ConvOrthogonality, conv_orthogonality
from mhe.regularizers.distances import prototype_distances
from mhe.regularizers.distortion import Distortion, squared_distortion
from mhe.regularizers.gram_determinant import GramDeterminant, log_determinant
from mhe.regularizers.mhe import MHE
from mhe.regularizers.minimal_angle import MinimalAngle, minimal_angle
from mhe.regularizers.nearest import NearestImagePull, nearest_images
from mhe.regularizers.orthogonality import Orthogonality, orthogonality
from mhe.regularizers.poles import Covering, Polarization, covering_distance, polarization
from mhe.regularizers.rank import Rank, rank_loss
from mhe.regularizers.relaxed_polarization import relaxed_polarization
from mhe.regularizers.separation import Separation, smallest_distance
from mhe.regularizers.sum import Sum, describe
from mhe.regularizers.uniformity import Uniformity, uniformity
from mhe.regularizers.variation import TotalVariation, total_variation

__all__ = [
    "MHE",
    "CoMHE",
    "ConvOrthogonality",
    "Covering",
    "Distortion",
    "GramDeterminant",
    "MinimalAngle",
    "NearestImagePull",
    "Orthogonality",
    "Polarization",
    "Rank",
    "Separation",
    "Sum",
    "TotalVariation",
    "Uniformity",
    "compressed_energy",
    "conv_orthogonality",
    "covering_distance",
    "describe",
    "log_determinant",
    "minimal_angle",
    "nearest_images",
    "orthogonality",
    "polarization",
    "prototype_distances",
    "rank_loss",
    "relaxed_polarization",
    "smallest_distance",
    "squared_distortion",
    "total_variation",
    "uniformity",
]
