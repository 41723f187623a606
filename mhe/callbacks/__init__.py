"""Callbacks: what watches a model's neurons in training, and what makes training resumable."""

from mhe.callbacks.energies import EnergyLogger
from mhe.callbacks.norms import NormLogger, is_normalized
from mhe.callbacks.resumable import ResumableTraining
from mhe.callbacks.seeds import EpochSeeds

__all__ = ["EnergyLogger", "EpochSeeds", "NormLogger", "ResumableTraining", "is_normalized"]
