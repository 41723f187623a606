"""Put regularizers on a model that already exists, take them off again, list them."""

from mhe.attach.verbs import (
    Attached,
    Attachment,
    Attachments,
    Projections,
    attach,
    attached,
    detach,
)

__all__ = [
    "Attached",
    "Attachment",
    "Attachments",
    "Projections",
    "attach",
    "attached",
    "detach",
]
