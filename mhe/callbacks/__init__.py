"""Callbacks that watch a model's neurons during training: energies, angles and norms."""

from mhe.callbacks.energies import EnergyLogger
from mhe.callbacks.norms import NormLogger, is_normalized

__all__ = ["EnergyLogger", "NormLogger", "is_normalized"]
