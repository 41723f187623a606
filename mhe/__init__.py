"""Angular diversity for Keras: minimum hyperspherical energy in any training loop."""

from mhe.energy import hyperspherical_energy
from mhe.regularizers import MHE, Sum
from mhe.version import __version__

__all__ = ["MHE", "Sum", "__version__", "hyperspherical_energy"]
