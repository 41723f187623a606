"""Checkpoints that a kill at any moment, or a damaged file, leaves usable."""

from mhe.checkpoints.generations import Checkpoints

__all__ = ["Checkpoints"]
