"""Where fixed prototypes stand on the sphere: as far apart as is known or can be found.

`place` places them, `separation` measures them, and `cosine_lower_bound` tells what no placement
can improve on. `python -m mhe.prototypes` does all three on the command line.
"""

from mhe.prototypes.bounds import cosine_lower_bound, separation
from mhe.prototypes.embedding import embed
from mhe.prototypes.placement import METHODS, Placement, find, place
from mhe.prototypes.semantics import order_kept

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
