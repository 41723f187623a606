"""Where fixed prototypes stand on the sphere: as far apart as is known or can be found.

`place` places them, `separation` measures them, and `cosine_lower_bound` tells what no placement
can improve on. `python -m mhe.prototypes` does all three on the command line.
"""

from typing import TYPE_CHECKING, Any

from mhe.prototypes.bounds import cosine_lower_bound, separation
from mhe.prototypes.placement import METHODS, Placement, find, place
from mhe.prototypes.semantics import order_kept

if TYPE_CHECKING:
    from mhe.prototypes.embedding import embed

__all__ = [
    "METHODS",
    "Placement",
    "cosine_lower_bound",
    "embed",
    "find",
    "order_kept",
    "place",
    "separation",
]


def __getattr__(name: str) -> Any:
    # It measures by `mhe.metrics`, which need Keras; placing needs NumPy and SciPy alone.
    if name == "embed":
        from mhe.prototypes.embedding import embed

        return embed
    raise AttributeError(f"module 'mhe.prototypes' has no attribute {name!r}")
