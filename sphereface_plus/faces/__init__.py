"""Faces on disk: people and their images, landmarks, alignment, and batches to train on.

Unlike the rest of the package these are built on the harness, whose datasets read folders and zips
and whose batches can be resumed; errors in files are `mhe.harness.errors.BadInput`, a `ValueError`.
"""

from sphereface_plus.faces.alignment import align, crop, reference, similarity
from sphereface_plus.faces.batches import FaceBatches, load
from sphereface_plus.faces.landmarks import read_landmarks
from sphereface_plus.faces.people import People, find_faces, find_people
from sphereface_plus.faces.records import Records, read_records
from sphereface_plus.faces.validation_sets import read_validation_set

__all__ = [
    "FaceBatches",
    "People",
    "Records",
    "align",
    "crop",
    "find_faces",
    "find_people",
    "load",
    "read_landmarks",
    "read_records",
    "read_validation_set",
    "reference",
    "similarity",
]
