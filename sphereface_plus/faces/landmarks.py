"""Files with the positions of the eyes, the nose and the mouth in every image."""

import math
import os
import re
import textwrap
from collections import Counter

import numpy as np

from mhe.harness.errors import BadInput
from mhe.text import lookalike, read_text
from sphereface_plus.faces.alignment import fault_of
from sphereface_plus.faces.people import People, some

_NUMBERS = 10
_NAMED = 3  # lines that an error names, before it only counts
_QUOTED = 80  # characters of a line that an error quotes


def read_landmarks(path: str | os.PathLike, people: People) -> dict[str, np.ndarray]:
    """Reads a file of landmarks and checks all of it.

    Each image has a line, separated by spaces, tabs or commas,

        <image> x1 y1 x2 y2 x3 y3 x4 y4 x5 y5

    with the left eye, the right eye, the nose, the left and the right corner of the mouth, in
    pixels of the image on disk, from the center of its first pixel; left is where x is smaller. The
    image is a path that ends in `<person>/<image>`, or the file name alone if it is unique. The
    first lines may be the number of images and a line of titles without numbers, as in CelebA's
    `list_landmarks_align_celeba.txt`. Empty lines are skipped.

    Args:
        path: The file, in UTF-8.
        people: The people. The file may include images of people that `find_people` left out, but
            no others.

    Returns:
        Points `(5, 2)` by the name of the image, float64.

    Raises:
        BadInput: With all that is wrong, by file and line: missing or malformed numbers, an unknown
            or repeated image, points that are not those of a face, an image without a line.

    Example:

    >>> import pathlib, tempfile
    >>> from PIL import Image
    >>> from sphereface_plus.faces import find_people
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> (folder / "ann").mkdir()
    >>> Image.new("L", (96, 112)).save(folder / "ann" / "1.png")
    >>> people = find_people(folder, least=1)
    >>> _ = (folder / "points.txt").write_text("ann/1.png 30 52 66 52 48 72 34 92 63 92")
    >>> read_landmarks(folder / "points.txt", people)["ann/1.png"][0].tolist()
    [30.0, 52.0]
    """
    source = os.fspath(path)
    try:
        lines = read_text(os.path.expanduser(path)).splitlines()
    except (OSError, ValueError) as error:
        raise BadInput(f"{source}: the landmarks cannot be read: {error}") from error
    times = Counter(name.rsplit("/", 1)[-1] for name in people.known)
    alone = [name for name in people.known if times[name.rsplit("/", 1)[-1]] == 1]
    by_name = {name.rsplit("/", 1)[-1]: name for name in alone}
    by_name.update((name, name) for name in people.known)

    landmarks: dict[str, np.ndarray] = {}
    faults: list[str] = []
    for number, line in enumerate(lines, 1):
        if not line.strip() or (number <= 2 and _is_title(line, number)):
            continue
        parsed = _parsed(line)
        if parsed is None:
            fault = (
                f"an image and {_NUMBERS} numbers are expected. "
                f"Received: {textwrap.shorten(line, _QUOTED, placeholder=' ...')}"
            )
        else:
            name, points = parsed
            image = by_name.get("/".join(name.split("/")[-2:]))
            if image is None:
                hint = lookalike(name, by_name) if len(faults) < _NAMED else ""
                fault = f"there is no image {name}{hint}"
            elif image in landmarks:
                fault = f"{name} is repeated"
            else:
                landmarks[image] = points
                fault = fault_of(points)
        if fault:
            faults.append(f"line {number}: {fault}")
    if faults:
        more = f"; and {len(faults) - _NAMED} more" if len(faults) > _NAMED else ""
        raise BadInput(f"{source}: {'; '.join(faults[:_NAMED])}{more}")
    missing = [name for name in people.images if name not in landmarks]
    if missing:
        raise BadInput(f"{source}: every image needs landmarks. Missing: {some(missing)}")
    return landmarks


def _is_title(line: str, number: int) -> bool:
    words = _words(line)
    if number == 1 and len(words) == 1 and words[0].isdigit():
        return True
    return not any(_number(word) is not None for word in words)


def _parsed(line: str) -> tuple[str, np.ndarray] | None:
    """The image and the points of a line, or None unless the line ends in ten numbers."""
    # Names may contain spaces, so numbers are counted from the end.
    end = re.match(rf"[\s,]*(?:[^\s,]+[\s,]+){{{_NUMBERS}}}", line[::-1])
    if end is None:
        return None
    start = len(line) - end.end()
    numbers = [number for word in _words(line[start:]) if (number := _number(word)) is not None]
    if len(numbers) != _NUMBERS:
        return None
    return line[:start].strip(), np.reshape(numbers, (-1, 2))


def _words(line: str) -> list[str]:
    return re.findall(r"[^\s,]+", line)


def _number(word: str) -> float | None:
    try:
        value = float(word)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
