"""Angular diversity for Keras: minimum hyperspherical energy in any training loop."""

import signal
import sys

# Of `python -m mhe.prototypes` this is loaded first. Until its `run` takes over, Ctrl-C prints no
# traceback. Other programs that run by `-m` keep their handler.
if (
    sys.argv[:1] == ["-m"]
    and "mhe.prototypes" in sys.orig_argv
    and signal.getsignal(signal.SIGINT) is not signal.SIG_IGN
):
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from mhe import clusters, fewshot, layers, losses, metrics, open_set, prototypes
from mhe.attach import attach, attached, detach, suggest_strength
from mhe.calibration import calibrate
from mhe.callbacks import EnergyLogger, NormLogger, StrengthSchedule
from mhe.constraints import PixelRange
from mhe.energy import hyperspherical_energy
from mhe.head_model import HeadModel
from mhe.hierarchy import ClassTree
from mhe.moved import alias_moved_modules
from mhe.regularizers import MHE, Distortion, NearestImagePull, Rank, Sum, TotalVariation
from mhe.version import __version__

alias_moved_modules()

__all__ = [
    "MHE",
    "ClassTree",
    "Distortion",
    "EnergyLogger",
    "HeadModel",
    "NearestImagePull",
    "NormLogger",
    "PixelRange",
    "Rank",
    "StrengthSchedule",
    "Sum",
    "TotalVariation",
    "__version__",
    "attach",
    "attached",
    "calibrate",
    "clusters",
    "detach",
    "fewshot",
    "hyperspherical_energy",
    "layers",
    "losses",
    "metrics",
    "open_set",
    "prototypes",
    "suggest_strength",
]
