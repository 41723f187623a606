"""Names for the types in signatures."""

from typing import Any, TypeAlias

# Whatever `keras.ops` takes and returns: a tensor of the backend, a symbolic `keras.KerasTensor`, a
# variable, or an array. No class is common to all of them, so a type checker lets any use pass; the
# name tells the reader what `Any` would not.
Tensor: TypeAlias = Any
