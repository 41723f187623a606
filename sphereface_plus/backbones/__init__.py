"""Networks from faces to embeddings: the SphereFaceNets and ArcFace's improved ResNets.

Any other Keras model that outputs embeddings `(B, dims)` can take their place.
"""

from sphereface_plus.backbones.iresnet import iresnet
from sphereface_plus.backbones.sfnet import sfnet

__all__ = ["iresnet", "sfnet"]
