"""Angular diversity for Keras: minimum hyperspherical energy in any training loop."""

import importlib
import signal
import sys
from types import ModuleType
from typing import TYPE_CHECKING

from mhe.version import __version__

# Of `python -m mhe.prototypes` this is loaded first, while Python looks for the program: `sys.argv`
# begins with "-m" then, and has the program's arguments, but not yet its name.
if sys.argv[:1] == ["-m"] and sys.orig_argv[-len(sys.argv)] == "mhe.prototypes":
    # It needs no Keras. Until its `run` takes over, Ctrl-C prints no traceback.
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
else:
    # Whatever may be saved with a model is loaded, and thereby registered, here.
    from mhe import fewshot, layers, losses, metrics
    from mhe.attach import attach, attached, detach, suggest_strength
    from mhe.calibration import calibrate
    from mhe.callbacks import EnergyLogger, NormLogger, StrengthSchedule
    from mhe.constraints import PixelRange
    from mhe.energy import hyperspherical_energy
    from mhe.head_model import HeadModel
    from mhe.hierarchy import ClassTree
    from mhe.moved import alias_moved_modules
    from mhe.regularizers import MHE, Distortion, NearestImagePull, Rank, Sum, TotalVariation

    alias_moved_modules()

if TYPE_CHECKING:
    from mhe import clusters, open_set, prototypes

# Nothing of these is saved with a model: they are loaded when they are first used.
_LOADED_WHEN_USED = ("clusters", "open_set", "prototypes")

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


def __getattr__(name: str) -> ModuleType:
    if name in _LOADED_WHEN_USED:
        return importlib.import_module(f"mhe.{name}")
    raise AttributeError(f"module 'mhe' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
