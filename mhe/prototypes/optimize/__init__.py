"""Searching for placements: four solvers, the work they may do, and the search that combines them.

A placement is good if its largest cosine is small. That has no useful gradient, so most of the
search minimizes a smooth bound on it, a log-sum-exp of all cosines, and sharpens it in stages.
"""

from mhe.prototypes.optimize.constrained import slsqp
from mhe.prototypes.optimize.multistart import search
from mhe.prototypes.optimize.polishing import polish
from mhe.prototypes.optimize.published import sgd
from mhe.prototypes.optimize.smooth import STAGES, Term, lbfgs, soft_maximum
from mhe.prototypes.optimize.work import (
    Effort,
    Progress,
    evaluation_work,
    require_scipy,
    thread_limit,
    to_stderr,
)

__all__ = [
    "STAGES",
    "Effort",
    "Progress",
    "Term",
    "evaluation_work",
    "lbfgs",
    "polish",
    "require_scipy",
    "search",
    "sgd",
    "slsqp",
    "soft_maximum",
    "thread_limit",
    "to_stderr",
]
