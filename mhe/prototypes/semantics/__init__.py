"""Prior knowledge about the classes: prototypes that keep the order of their similarities."""

from mhe.prototypes.semantics.assignment import assign
from mhe.prototypes.semantics.order import Order, order_kept
from mhe.prototypes.semantics.ranking import RankingTerm
from mhe.prototypes.semantics.similarity import unit_semantics

__all__ = ["Order", "RankingTerm", "assign", "order_kept", "unit_semantics"]
