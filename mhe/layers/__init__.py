"""Heads over an embedding, and a wrapper of layers: spectral norm."""

from mhe.directions import unit_vectors
from mhe.layers.class_means import NearestClassMean, class_sums
from mhe.layers.distance import distances
from mhe.layers.expected_cost import LeastExpectedCost, expected_costs
from mhe.layers.folding import fold_spectral_norms
from mhe.layers.hierarchical import HierarchicalLogits, hierarchical_log_probabilities
from mhe.layers.input_prototypes import InputPrototypes, similarities
from mhe.layers.learnt import LearntPrototypes
from mhe.layers.polar import PolarHead, polar_value
from mhe.layers.prototype import PrototypeHead, prototype_cosines
from mhe.layers.representatives import (
    Representatives,
    background_probability,
    mixture_posterior,
    region_logits,
)
from mhe.layers.spectral_norm import (
    SpectralNorm,
    hold_spectral_norms,
    kernel_matrix,
    power_iteration,
    singular_value,
    update_spectral_norms,
)

__all__ = [
    "HierarchicalLogits",
    "InputPrototypes",
    "LearntPrototypes",
    "LeastExpectedCost",
    "NearestClassMean",
    "PolarHead",
    "PrototypeHead",
    "Representatives",
    "SpectralNorm",
    "background_probability",
    "class_sums",
    "distances",
    "expected_costs",
    "fold_spectral_norms",
    "hierarchical_log_probabilities",
    "hold_spectral_norms",
    "kernel_matrix",
    "mixture_posterior",
    "polar_value",
    "power_iteration",
    "prototype_cosines",
    "region_logits",
    "similarities",
    "singular_value",
    "unit_vectors",
    "update_spectral_norms",
]
