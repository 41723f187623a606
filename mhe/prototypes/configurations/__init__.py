"""Sharp configurations: the best known placements of certain sizes."""

from mhe.prototypes.configurations.composition import Composition, compose
from mhe.prototypes.configurations.derivation import derive
from mhe.prototypes.configurations.graphs import spectral
from mhe.prototypes.configurations.known import Configuration, catalogue

__all__ = ["Composition", "Configuration", "catalogue", "compose", "derive", "spectral"]
