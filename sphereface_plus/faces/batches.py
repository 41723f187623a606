"""Batches of faces, read from disk when they are needed.

Not `keras.utils.image_dataset_from_directory` or a `tf.data` pipeline: those run TensorFlow on
every backend, and their shuffling and augmentation cannot be resumed. Here every batch is a
function of the seed, the epoch and its position, and images in a zip are read in place.
"""

import functools
import os
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from mhe.harness.batches import Augmentation, Batches, pad_crop_flip
from mhe.harness.datasets.images import pillow
from mhe.harness.errors import BadInput
from mhe.types import Tensor
from sphereface_plus.faces.alignment import align, crop, fault_of, fault_outside
from sphereface_plus.faces.people import People, some, too_few

Landmarks = Mapping[str, np.ndarray]


class FaceBatches(Batches):
    """Batches of normalized faces and the labels of their people, read from disk by threads.

    As in `mhe.harness.batches.Batches`, a batch is a function of the seed, the epoch and its
    position: training resumed at epoch e with `epoch=e` gets the same batches as if it had never
    stopped. Use one object for one `fit`. At most eight batches are prefetched.

    With `per_person=K`, a batch has K different images of each of `batch_size / K` different
    people. The people are shuffled anew whenever all have been seen, so that everyone is seen about
    equally often, however many images they have. The number of batches per epoch is the number of
    images over `batch_size`, rounded down.

    Args:
        people: Whose faces; see `find_people`.
        batch_size: Number of images per batch.
        size: Height and width of the faces.
        channels: 3 or 1: gray images are repeated, color images converted to gray.
        landmarks: Five points per image, by its name, to align the faces by; see `read_landmarks`.
            `None` crops the center of every image.
        seed: Non-negative integer that, with the epoch and the position, determines each batch.
        flip: Whether to flip every face left to right with probability 1/2.
        augment: A callable `(faces, rng) -> faces` on the uint8 faces `(B, h, w, channels)` of a
            batch, before they are flipped, such as `mhe.harness.affine.random_affine`; or `None`.
        shuffle: Whether to shuffle all images in every epoch.
        per_person: The number of images per person in a batch, or `None`.
        drop_remainder: Whether to drop the last batch of an epoch if it is smaller.
        epoch: The epoch to start with.
        workers: Number of threads that read images; 0 reads them on demand.
        cache: Whether to keep faces in memory once they were read, as uint8, at `h · w · channels`
            bytes per image; or how many of them at most.

    Raises:
        BadInput: If the people are not enough for a batch, an image has no landmarks, or landmarks
            are outside of their image.
        ValueError: If a number is out of range.

    Example:

    >>> import tempfile
    >>> from pathlib import Path
    >>> from PIL import Image
    >>> from sphereface_plus.faces import find_people
    >>> folder = Path(tempfile.mkdtemp())
    >>> for name in ("ann/1.png", "ann/2.png", "ben/1.png", "ben/2.png", "ben/3.png"):
    ...     (folder / name).parent.mkdir(exist_ok=True)
    ...     Image.new("L", (30, 30)).save(folder / name)
    >>> batches = FaceBatches(find_people(folder), batch_size=4, per_person=2)
    >>> images, labels = batches[0]
    >>> images.shape, str(images.dtype), sorted(labels.tolist())
    ((4, 112, 96, 3), 'float32', [0, 0, 1, 1])
    """

    def __init__(
        self,
        people: People,
        batch_size: int,
        *,
        size: tuple[int, int] = (112, 96),
        channels: int = 3,
        landmarks: Landmarks | None = None,
        seed: int = 0,
        flip: bool = True,
        augment: Augmentation | None = None,
        shuffle: bool = True,
        per_person: int | None = None,
        drop_remainder: bool = False,
        epoch: int = 0,
        workers: int = 2,
        cache: bool | int = False,
    ):
        if per_person is not None:
            _check_draw(people, batch_size, per_person, shuffle)
        kept = len(people) if cache is True else int(cache)
        faces: Tensor = _Faces(people, size, channels, landmarks, workers, kept)
        super().__init__(
            faces,
            people.labels,
            batch_size,
            seed=seed,
            shuffle=shuffle,
            augment=functools.partial(_mirrored, augment=augment) if flip else augment,
            drop_remainder=drop_remainder or per_person is not None,
            epoch=epoch,
            # These wait for the threads that read. Two, so that those have work while a batch is
            # flipped and normalized; more would only hold more batches.
            workers=min(workers, 2),
        )
        self.people, self.per_person = people, per_person
        bounds = np.cumsum(np.bincount(people.labels))[:-1]
        self._members = np.split(np.arange(len(people)), bounds)

    def _chosen(self, epoch: int, index: int) -> slice | np.ndarray:
        if self.per_person is None:
            return super()._chosen(epoch, index)
        count = self.batch_size // self.per_person
        turn, place = divmod(index, len(self._members) // count)
        order = self._generator(epoch, turn, 0).permutation(len(self._members))
        rng = self._generator(epoch, index, 1)
        drawn = order[place * count : (place + 1) * count]
        return np.concatenate(
            [rng.choice(self._members[each], self.per_person, replace=False) for each in drawn]
        )


def load(
    people: People,
    indices: Sequence[int] | np.ndarray | None = None,
    size: tuple[int, int] = (112, 96),
    channels: int = 3,
    landmarks: Landmarks | None = None,
) -> np.ndarray:
    """Reads faces into one array.

    Args:
        people: Whose faces; see `find_people`.
        indices: Indices of `people.images`; `None` for all.
        size: Height and width of the faces.
        channels: 3 or 1: gray images are repeated, color images converted to gray.
        landmarks: Five points per image, by its name; `None` crops the center of every image.

    Returns:
        uint8 `(n, *size, channels)`.

    Raises:
        BadInput: If an image has no landmarks or cannot be read.
        ValueError: If `size` or `channels` is out of range.

    Example:

    >>> import tempfile
    >>> from pathlib import Path
    >>> from PIL import Image
    >>> from sphereface_plus.faces import find_people
    >>> folder = Path(tempfile.mkdtemp())
    >>> (folder / "ann").mkdir()
    >>> Image.new("L", (30, 40), 200).save(folder / "ann" / "1.png")
    >>> faces = load(find_people(folder, least=1), size=(28, 24))
    >>> faces.shape, faces[0, 0, 0].tolist()
    ((1, 28, 24, 3), [200, 200, 200])
    """
    faces = _Faces(people, size, channels, landmarks, os.cpu_count() or 1)
    return faces[:] if indices is None else faces[np.asarray(indices, np.int64)]


class _Faces:
    """Faces of one size, as an array `(N, h, w, channels)` that is read when indexed."""

    ndim = 4

    def __init__(
        self,
        people: People,
        size: tuple[int, int],
        channels: int,
        landmarks: Landmarks | None,
        workers: int,
        kept: int = 0,
    ):
        if len(size) != 2 or min(size) < 1 or channels not in (1, 3):
            raise ValueError(
                "`size` must be a height and a width, `channels` 1 or 3. "
                f"Received: size={size}, channels={channels}"
            )
        self.people = people
        self.shape = (len(people), int(size[0]), int(size[1]), int(channels))
        self._landmarks = None if landmarks is None else _checked(people, landmarks)
        self._threads = ThreadPoolExecutor(workers, "faces") if workers > 0 else None
        # The first that are read are kept for good: of images in random order none is needed
        # sooner than another. Memory is only taken when it is written to.
        kept = min(max(kept, 0), len(people))
        self._kept = np.empty((kept, *self.shape[1:]), np.uint8)
        self._places = np.full(len(people) if kept else 0, -1)
        self._filled = 0
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, chosen: slice | np.ndarray) -> np.ndarray:
        indices = np.arange(len(self))[chosen]
        faces = np.empty((len(indices), *self.shape[1:]), np.uint8)
        places = self._places[indices] if len(self._kept) else np.full(len(indices), -1)
        known = places >= 0
        faces[known] = self._kept[places[known]]
        missing = np.flatnonzero(~known).tolist()
        each = map if self._threads is None else self._threads.map
        for place, face in zip(missing, each(self._face, indices[missing].tolist()), strict=True):
            faces[place] = face
            self._keep(int(indices[place]), faces[place])
        return faces

    def _keep(self, index: int, face: np.ndarray) -> None:
        """Keeps a face if there is room, and no other thread has."""
        if self._filled == len(self._kept):
            return
        with self._lock:
            if self._filled < len(self._kept) and self._places[index] < 0:
                self._kept[self._filled] = face
                # Known to others once it is whole.
                self._places[index] = self._filled
                self._filled += 1

    def _face(self, index: int) -> np.ndarray:
        _, height, width, channels = self.shape
        size = height, width
        image = self.people.read(index)
        if self._landmarks is None:
            face = crop(image, size)
        else:
            landmarks = self._landmarks[index]
            fault = fault_outside(landmarks, image.shape)
            if fault:
                raise BadInput(f"{self.people.source}: {self.people.images[index]}: {fault}")
            face = align(image, landmarks, size)
        if channels == 1 and face.shape[2] == 3:
            return np.asarray(pillow().fromarray(face).convert("L"))[..., None]
        return face  # a single channel is repeated on assignment


def _mirrored(
    faces: np.ndarray, rng: np.random.Generator, augment: Augmentation | None
) -> np.ndarray:
    return pad_crop_flip(faces if augment is None else augment(faces, rng), rng, padding=0)


def _checked(people: People, landmarks: Landmarks) -> np.ndarray:
    """Returns the landmarks of all images, `(N, 5, 2)`, or raises a `BadInput`."""
    missing = [name for name in people.images if name not in landmarks]
    if missing:
        raise BadInput(
            f"{people.source}: every image needs landmarks. Received none of {some(missing)}"
        )
    points = [np.asarray(landmarks[name], np.float64) for name in people.images]
    for name, each in zip(people.images, points, strict=True):
        fault = fault_of(each)
        if fault:
            raise BadInput(f"{people.source}: {name}: {fault}")
    if people.sizes is not None:
        for name, each, size in zip(people.images, points, people.sizes.tolist(), strict=True):
            fault = fault_outside(each, size)
            if fault:
                raise BadInput(f"{people.source}: {name}: {fault}")
    return np.stack(points)


def _check_draw(people: People, batch_size: int, per_person: int, shuffle: bool) -> None:
    """Raises an error unless batches can be drawn by person."""
    if not shuffle:
        raise ValueError("`per_person` draws at random: `shuffle` must be True. Received: False")
    if per_person < 1 or batch_size < 1 or batch_size % per_person:
        raise BadInput(
            "A batch must hold the same number of images of each person. "
            f"Received: batch_size={batch_size}, per_person={per_person}"
        )
    if batch_size // per_person > len(people.names):
        raise BadInput(
            f"{people.source}: a batch of {batch_size} images, {per_person} per person, needs "
            f"{batch_size // per_person} people. Received: {len(people.names)}"
        )
    counts = np.bincount(people.labels, minlength=len(people.names)).tolist()
    few = too_few(dict(zip(people.names, counts, strict=True)), per_person)
    if few:
        raise BadInput(f"{people.source}: with per_person={per_person}, {few}")
