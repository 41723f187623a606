"""Answers `--help` and wrong flags at once: Keras and its backend take seconds to load.

The flags of a program are declared next to what uses them, in modules full of classes derived from
Keras's. `start` therefore runs a program twice. The first time stand-ins take the place of Keras:
modules load and classes are defined, but nothing can be computed, and only the flags are checked.
If they are sound, all that is forgotten, and the program goes on with Keras itself.

This module lies outside the packages because importing `mhe` imports Keras.
"""

import importlib.util
import os
import signal
import sys
from abc import ABCMeta
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

_PACKAGES = ("mhe", "gan", "sphereface_plus")


def start(file: str) -> None:
    """Ends the process if its flags ask for help or are wrong. Programs call it first.

    From here until `mhe.harness.flags.program` takes over, Ctrl-C prints no traceback.

    Args:
        file: The program. It has a `PROGRAM`, or `make_parser` and, if more than the parser can
            refuse flags without data, `check`.

    Raises:
        SystemExit: With 0 after `--help`, and with 2 after one line on stderr if a flag is wrong.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        _check_flags(file)
        return
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    _check_flags(file)
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _check_flags(file: str) -> None:
    if "keras" in sys.modules:  # nothing to gain
        return
    known = set(sys.modules)
    stand_ins = _StandIns()
    sys.meta_path.insert(0, stand_ins)
    try:
        module = _load(file)
        program = importlib.import_module("mhe.harness.flags").program
        _StandIn.is_usable = False
        code = program(lambda argv: _check(module, argv))
    except _KerasNeeded:  # the program itself checks the rest
        code = 0
    finally:
        _StandIn.is_usable = True
        sys.meta_path.remove(stand_ins)
        folder = str(Path(file).resolve().parent)
        for name in set(sys.modules) - known:
            if name.partition(".")[0] in ("keras", *_PACKAGES) or _lies_in(folder, name):
                del sys.modules[name]
    if code:
        sys.exit(code)


def _load(file: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location("__flags__", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def _lies_in(folder: str, name: str) -> bool:
    file = getattr(sys.modules[name], "__file__", None)
    return file is not None and os.path.realpath(file).startswith(folder + os.sep)


def _check(module: ModuleType, argv: Sequence[str] | None) -> None:
    if hasattr(module, "PROGRAM"):
        module.PROGRAM.parse(argv)
        return
    args = module.make_parser().parse_args(argv)
    if hasattr(module, "check"):
        module.check(args)


class _KerasNeeded(BaseException):
    """A check that cannot be made without Keras. No error handler of a program may take it."""


class _StandIn(ABCMeta):
    """The class of what stands for a class, function, decorator or namespace of Keras."""

    is_usable = True

    def __getattr__(cls, name: str) -> Any:
        # What derives from a stand-in is a class of ours, and has what it defines.
        if name.startswith("__") or not _stands_in(cls):
            raise AttributeError(f"{cls.__name__} has no attribute {name}")
        member = _stand_in(name)
        setattr(cls, name, member)
        return member

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        if not _stands_in(cls):
            return super().__call__(*args, **kwargs)
        _require_usable()
        # As a decorator, and as a call that returns a decorator, it changes nothing.
        return args[0] if len(args) == 1 and callable(args[0]) else _unchanged


def _unchanged(decorated: Callable) -> Callable:
    return decorated


def _require_usable() -> None:
    if not _StandIn.is_usable:
        raise _KerasNeeded


def _stands_in(cls: type) -> bool:
    return "_stands_in" in vars(cls)


def _stand_in(name: str) -> type:
    _require_usable()
    return _StandIn(name, (), {"_stands_in": True})


class _StandInModule(ModuleType):
    """A module of Keras's names."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(f"{self.__name__} has no attribute {name}")
        member = _stand_in(name)
        setattr(self, name, member)
        return member


class _StandIns:
    """Finds and loads stand-ins for Keras and its modules."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname.partition(".")[0] != "keras":
            return None
        loader: Any = self  # a loader by its methods; importlib.abc would take a while to load
        return ModuleSpec(fullname, loader, is_package=True)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _StandInModule(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        pass
