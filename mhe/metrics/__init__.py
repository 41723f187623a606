"""Metrics of weights, prototypes, the output of heads, and scores."""

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
from mhe.metrics.roc import RocCurve, roc_curve

__all__ = [
    "AverageCost",
    "CalibrationError",
    "Distortion",
    "HierarchicalDistance",
    "LevelError",
    "MistakeSeverity",
    "RocCurve",
    "TopKCost",
    "angle_blocks",
    "distortion",
    "optimal_scale",
    "pairwise_angles",
    "pairwise_distances",
    "roc_curve",
    "unit_neurons",
]
