"""Callbacks: what watches neurons, schedules what spreads them, and makes training resumable."""

from mhe.callbacks.energies import EnergyLogger
from mhe.callbacks.norms import NormLogger, is_normalized
from mhe.callbacks.resumable import ResumableTraining
from mhe.callbacks.schedule import StrengthSchedule
from mhe.callbacks.seeds import EpochSeeds

__all__ = [
    "EnergyLogger",
    "EpochSeeds",
    "NormLogger",
    "ResumableTraining",
    "StrengthSchedule",
    "is_normalized",
]
