"""Angular diversity for Keras: minimum hyperspherical energy in any training loop."""

from mhe.version import __version__

__all__ = ["__version__"]
