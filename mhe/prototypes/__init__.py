"""Where fixed prototypes stand on the sphere: far apart, and as far as is known."""

from typing import Any

import numpy as np

from mhe.prototypes import closed_forms, optimize
from mhe.prototypes.bounds import check_shape, separation

__all__ = ["place", "separation"]


def place(
    classes: int, dims: int, method: str = "auto", seed: int = 0, semantics: Any = None
) -> np.ndarray:
    """Prototypes on the unit sphere whose largest cosine is as small as is known or found.

    Args:
        classes: How many prototypes, at least 2.
        dims: Of the space they stand in, at least 2.
        method: `"auto"` takes the best that applies.
        seed: Same seed, same prototypes.
        semantics: None.

    Returns:
        `(classes, dims)` float32, unit rows.

    Raises:
        ValueError: If an argument is not one of the above.

    Example:

    >>> prototypes = place(10, 5)
    >>> prototypes.shape, separation(prototypes)
    ((10, 5), 0.0)
    """
    check_shape(classes, dims)
    if method not in ("auto", "simplex", "orthoplex", "lbfgs"):
        raise ValueError(f"Unknown `method`. Received: method={method!r}")
    if method == "simplex" or (method == "auto" and classes <= dims + 1):
        return closed_forms.simplex(classes, dims)
    if method == "orthoplex" or (method == "auto" and classes <= 2 * dims):
        return closed_forms.orthoplex(classes, dims)
    if method == "auto" and dims == 2:
        return closed_forms.polygon(classes)
    start = np.random.default_rng(seed).normal(size=(classes, dims))
    return optimize.lbfgs(start).astype("float32")
