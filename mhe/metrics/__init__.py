"""Metrics of weights, prototypes and the output of heads."""

from mhe.metrics.angles import angle_blocks, pairwise_angles, unit_neurons
from mhe.metrics.calibration import CalibrationError
from mhe.metrics.mistakes import (
    AverageCost,
    HierarchicalDistance,
    LevelError,
    MistakeSeverity,
    TopKCost,
)
from mhe.metrics.prototypes import Distortion, distortion, optimal_scale, pairwise_distances

__all__ = [
    "AverageCost",
    "CalibrationError",
    "Distortion",
    "HierarchicalDistance",
    "LevelError",
    "MistakeSeverity",
    "TopKCost",
    "angle_blocks",
    "distortion",
    "optimal_scale",
    "pairwise_angles",
    "pairwise_distances",
    "unit_neurons",
]
