"""Faces on disk: people and their images, landmarks, alignment, and batches to train on.

Unlike the rest of the package these are built on the harness, whose datasets read folders and zips
and whose batches can be resumed; errors in files are `mhe.harness.errors.BadInput`, a `ValueError`.
"""

from sphereface_plus.faces.alignment import align, crop, reference, similarity
from sphereface_plus.faces.batches import FaceBatches, load
from sphereface_plus.faces.landmarks import read_landmarks
from sphereface_plus.faces.people import People, find_people

__all__ = [
    "FaceBatches",
    "People",
    "align",
    "crop",
    "find_people",
    "load",
    "read_landmarks",
    "reference",
    "similarity",
]
