"""Heads with angular margins, from features to logits, and their losses."""

from sphereface_plus.heads.adaface import AdaFace, adaface_logits, norm_qualities
from sphereface_plus.heads.arcface import ArcFace, arcface_logits
from sphereface_plus.heads.base import MarginHead, class_products
from sphereface_plus.heads.combined import CombinedMargin, combined_logits
from sphereface_plus.heads.cosface import CosFace, cosface_logits
from sphereface_plus.heads.curricularface import CurricularFace, curricularface_logits
from sphereface_plus.heads.magface import MagFace, magface_logits, norm_penalties
from sphereface_plus.heads.normface import NormFace
from sphereface_plus.heads.softmax import SoftmaxHead
from sphereface_plus.heads.sphereface import SphereFace, sphereface_logits
from sphereface_plus.heads.sphereface2 import SphereFace2, sphereface2_logits
from sphereface_plus.heads.sphereface_plus import OVER, SphereFacePlus, class_energies
from sphereface_plus.heads.sphereface_r import SphereFaceR, sphereface_r_logits

__all__ = [
    "OVER",
    "AdaFace",
    "ArcFace",
    "CombinedMargin",
    "CosFace",
    "CurricularFace",
    "MagFace",
    "MarginHead",
    "NormFace",
    "SoftmaxHead",
    "SphereFace",
    "SphereFace2",
    "SphereFacePlus",
    "SphereFaceR",
    "adaface_logits",
    "arcface_logits",
    "class_energies",
    "class_products",
    "combined_logits",
    "cosface_logits",
    "curricularface_logits",
    "magface_logits",
    "norm_penalties",
    "norm_qualities",
    "sphereface2_logits",
    "sphereface_logits",
    "sphereface_r_logits",
]
