"""Losses of labels and of values: over the heads of `mhe.layers`, or over plain logits.

Wrong targets show in two ways. Arrays and lists are checked, and a `ValueError` says what is wrong.
Tensors are not read, which would stall an accelerator and is impossible inside a compiled step: the
loss of a wrong target is NaN, and its gradient zero.
"""

from mhe.losses.bounded import BoundedCrossEntropy, bounded_cross_entropy, saturation
from mhe.losses.class_uniformity import ClassUniformity, class_uniformity
from mhe.losses.dot_regression import DotRegressionLoss, dot_regression_loss
from mhe.losses.earth_mover import SquaredEarthMover, squared_earth_mover
from mhe.losses.hierarchical import HierarchicalCrossEntropy, hierarchical_cross_entropy
from mhe.losses.logit_adjusted import (
    LogitAdjustedCrossEntropy,
    logit_adjusted_cross_entropy,
)
from mhe.losses.magnet import MagnetLoss, magnet_loss
from mhe.losses.polar import PolarLoss, polar_loss
from mhe.losses.prototype import PrototypeLoss, prototype_loss
from mhe.losses.repmet import RepMetLoss, repmet_loss
from mhe.losses.soft_labels import SoftLabelCrossEntropy, soft_label_cross_entropy, soft_labels

__all__ = [
    "BoundedCrossEntropy",
    "ClassUniformity",
    "DotRegressionLoss",
    "HierarchicalCrossEntropy",
    "LogitAdjustedCrossEntropy",
    "MagnetLoss",
    "PolarLoss",
    "PrototypeLoss",
    "RepMetLoss",
    "SoftLabelCrossEntropy",
    "SquaredEarthMover",
    "bounded_cross_entropy",
    "class_uniformity",
    "dot_regression_loss",
    "hierarchical_cross_entropy",
    "logit_adjusted_cross_entropy",
    "magnet_loss",
    "polar_loss",
    "prototype_loss",
    "repmet_loss",
    "saturation",
    "soft_label_cross_entropy",
    "soft_labels",
    "squared_earth_mover",
]
