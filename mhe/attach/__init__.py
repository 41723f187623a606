"""Regularizers on models that already exist: attach them, list them, detach them.

`mhe.attach` is the function of that name; import what else is here from `mhe.attach`.
"""

from mhe.attach.projections import Projections
from mhe.attach.regularizers import Attached
from mhe.attach.strengths import LayerStrength, Strengths
from mhe.attach.suggestion import suggest_strength
from mhe.attach.table import Attachment, Attachments
from mhe.attach.verbs import attach, attached, detach

__all__ = [
    "Attached",
    "Attachment",
    "Attachments",
    "LayerStrength",
    "Projections",
    "Strengths",
    "attach",
    "attached",
    "detach",
    "suggest_strength",
]
