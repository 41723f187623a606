"""Callbacks that watch a model's neurons during training, and schedule what spreads them."""

from mhe.callbacks.energies import EnergyLogger
from mhe.callbacks.norms import NormLogger, is_normalized
from mhe.callbacks.schedule import StrengthSchedule

__all__ = ["EnergyLogger", "NormLogger", "StrengthSchedule", "is_normalized"]
