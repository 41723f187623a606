"""TensorBoard's event files, written without TensorFlow.

The callback of Keras needs TensorFlow and TensorBoard whatever the backend, and TensorFlow takes a
GPU's memory away from the JAX or PyTorch that trains on it. The format is small: records of
length, checksum, protocol buffer, checksum. See
https://github.com/tensorflow/tensorflow/blob/master/tensorflow/core/util/event.proto
"""

import os
import struct
import time
from collections.abc import Mapping
from pathlib import Path


def _crc_table() -> list[int]:
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
        table.append(byte)
    return table


_TABLE = _crc_table()


def masked_crc(data: bytes) -> int:
    """Returns the CRC-32C of `data`, rotated and shifted as event files store it.

    Example:

    >>> hex(masked_crc(b"123456789"))
    '0xc78ab0e5'
    """
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ _TABLE[(crc ^ byte) & 0xFF]
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _varint(number: int) -> bytes:
    digits = bytearray()
    while number > 0x7F:
        digits.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*digits, number])


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _bytes(field: int, value: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(value)) + value


class EventWriter:
    """Writes scalars for TensorBoard into a new event file.

    Args:
        folder: Where the file goes; it is made when missing.
        purge_from: When a run is resumed, the first step it writes again: TensorBoard then drops
            what older files in the folder say of this step and those after it.

    Example:

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     EventWriter(folder).scalars(1, {"loss": 2.5})
    ...     len(os.listdir(folder))
    1
    """

    def __init__(self, folder: str | os.PathLike, purge_from: int | None = None):
        Path(folder).mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{time.time_ns()}.{os.getpid()}"
        self._path = Path(folder, name)
        self._write(_bytes(3, b"brain.Event:2"))
        if purge_from is not None:
            self._write(_number(2, purge_from) + _bytes(7, _number(1, 1)))  # SessionLog.START

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Writes one value for each name.

        Args:
            step: The step, a non-negative integer.
            values: Names and numbers.
        """
        summary = b"".join(
            _bytes(1, _bytes(1, name.encode()) + b"\x15" + struct.pack("<f", value))
            for name, value in values.items()
        )
        self._write(_number(2, step) + _bytes(5, summary))

    def _write(self, event: bytes) -> None:
        event = b"\x09" + struct.pack("<d", time.time()) + event
        length = struct.pack("<Q", len(event))
        crc = struct.Struct("<I")
        # Opened for each event, of which there are few, so that no run has to close it.
        with open(self._path, "ab") as file:
            file.write(length + crc.pack(masked_crc(length)))
            file.write(event + crc.pack(masked_crc(event)))
