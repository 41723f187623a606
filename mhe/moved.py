"""Modules that have moved: importing them by their old names keeps working."""

import importlib
import sys
from types import ModuleType

# Old name within `mhe`: where its public names are now.
MOVED = {
    "heads": ["mhe.attach.outputs"],
    "image_regularizers": ["mhe.regularizers", "mhe.constraints"],
    "neurons": ["mhe.attach.neurons"],
    "prototype_regularizers": ["mhe.regularizers"],
    "selection": ["mhe.attach.selection"],
}


def alias_moved_modules() -> None:
    """Makes every old name a module of `mhe`.

    Example:

    >>> from mhe.neurons import neuron_weights
    >>> neuron_weights.__module__
    'mhe.attach.neurons'
    """
    for old, names in MOVED.items():
        homes = [importlib.import_module(name) for name in names]
        module = homes[0]
        if len(homes) > 1:
            module = ModuleType(f"mhe.{old}", f"Moved to {' and '.join(names)}.")
            for home in homes:
                vars(module).update({k: v for k, v in vars(home).items() if k[0] != "_"})
        sys.modules[f"mhe.{old}"] = module
        setattr(sys.modules["mhe"], old, module)
