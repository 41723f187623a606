"""Whether a program is being recorded from one run, which keeps one side of a condition only."""

import keras


def keeps_one_branch() -> bool:
    """Whether what runs now is recorded for an export that cannot hold both branches.

    On PyTorch `ops.cond` is a Python `if`: `torch.jit.trace`, with which Keras exports to ONNX,
    silently keeps the branch of its sample, and `torch.export` refuses it. The other backends
    record both branches.

    Example:

    >>> keeps_one_branch()
    False
    """
    if keras.backend.backend() != "torch":
        return False
    # Keras has no name for this.
    import torch

    # PyTorch 2.5 has no name for exporting alone.
    is_exporting = getattr(torch.compiler, "is_exporting", torch.compiler.is_compiling)
    return torch.jit.is_tracing() or is_exporting()
