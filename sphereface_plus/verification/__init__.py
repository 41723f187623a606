"""Are two faces of the same person? Scores of pairs of embeddings, and how good they are."""

from sphereface_plus.verification.protocol import (
    Verification,
    stratified_folds,
    verify,
    verify_scores,
)
from sphereface_plus.verification.roc import RocCurve, roc_curve
from sphereface_plus.verification.scores import all_pairs, cosine_scores, pair_scores
from sphereface_plus.verification.validation import ValidationRate, validation_rate

__all__ = [
    "RocCurve",
    "ValidationRate",
    "Verification",
    "all_pairs",
    "cosine_scores",
    "pair_scores",
    "roc_curve",
    "stratified_folds",
    "validation_rate",
    "verify",
    "verify_scores",
]
