"""Files of InsightFace in miniature, written byte by byte from the public descriptions."""

import io
import itertools
import struct
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

MAGIC = struct.pack("<I", 0xCED7230A)


def _part(flag, data):
    return MAGIC + struct.pack("<I", flag << 29 | len(data)) + data + b"\0" * (-len(data) % 4)


def record(data):
    """One record; data that hold the magic number at a multiple of 4 bytes are split there."""
    places = [at for at in range(0, len(data) // 4 * 4, 4) if data[at : at + 4] == MAGIC]
    if not places:
        return _part(0, data)
    bounds = [-4, *places, len(data)]
    parts = [data[a + 4 : b] for a, b in itertools.pairwise(bounds)]
    flags = [1] + [2] * (len(parts) - 2) + [3]
    return b"".join(map(_part, flags, parts))


def header(*labels, key=0):
    """The header of a record, with its label in it or, if there are several, behind it."""
    if len(labels) == 1:
        return struct.pack("<IfQQ", 0, labels[0], key, 0)
    return struct.pack("<IfQQ", len(labels), 0, key, 0) + np.array(labels, "<f4").tobytes()


def picture(seed, size=(112, 112), kind="PNG"):
    """The bytes of an image file, and its pixels."""
    pixels = np.random.default_rng(seed).integers(256, size=(*size, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind)
    return stream.getvalue(), pixels


@pytest.fixture(scope="session")
def form():
    """What records are made of."""
    return SimpleNamespace(MAGIC=MAGIC, header=header, picture=picture)


@pytest.fixture
def write_records(tmp_path):
    """Writes records, by their keys, in this order, and their index; returns the .rec."""

    def write(records, name="train"):
        data, lines = b"", []
        for key, content in records.items():
            lines.append(f"{key}\t{len(data)}\n")
            data += record(content)
        (tmp_path / f"{name}.idx").write_text("".join(lines))
        path = tmp_path / f"{name}.rec"
        path.write_bytes(data)
        return path

    return write


@pytest.fixture
def insightface(write_records):
    """Writes a training set of people with these labels, as InsightFace does: record 0 first."""

    def write(labels, image=lambda place: picture(place, (12, 12))[0], name="train"):
        end = len(labels) + 1
        people = sorted(set(labels))
        records = {0: header(float(end), float(end + len(people)))}
        for place, label in enumerate(labels, 1):
            records[place] = header(float(label), key=place) + image(place)
        for place, label in enumerate(people, end):
            own = [at for at, each in enumerate(labels, 1) if each == label]
            records[place] = header(float(own[0]), float(own[-1] + 1), key=place)
        return write_records(records, name)

    return write
