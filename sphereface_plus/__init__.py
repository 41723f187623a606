"""Face recognition with angular margins: heads, backbones, faces on disk, verification."""

from sphereface_plus import backbones, faces, heads, identification, ijb, pairs, verification
from sphereface_plus.face_model import FaceModel
from sphereface_plus.heads import (
    AdaFace,
    ArcFace,
    CombinedMargin,
    CosFace,
    CurricularFace,
    MagFace,
    NormFace,
    SphereFace,
    SphereFace2,
    SphereFacePlus,
    SphereFaceR,
)
from sphereface_plus.lazy_optimizer import LazyOptimizer

__all__ = [
    "AdaFace",
    "ArcFace",
    "CombinedMargin",
    "CosFace",
    "CurricularFace",
    "FaceModel",
    "LazyOptimizer",
    "MagFace",
    "NormFace",
    "SphereFace",
    "SphereFace2",
    "SphereFacePlus",
    "SphereFaceR",
    "backbones",
    "faces",
    "heads",
    "identification",
    "ijb",
    "pairs",
    "verification",
]
