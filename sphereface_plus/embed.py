"""Embeds faces: from a folder or zip of images to a table of embeddings.

    python sphereface_plus/embed.py --run runs/faces --data_dir lfw --out lfw.npz
    python sphereface_plus/embed.py --run embedder.keras --data_dir photos --names none --out p.csv

The table has a row per image: its name, its person and its embedding, and a digest of the network,
by which `sphereface_plus/identify.py` refuses to compare embeddings of two networks. Embeddings of
an image and its mirror image are concatenated, as published.

Embeddings are kept in `<out>.parts` while the program runs: after a kill the same command goes on
where it stopped, and ends with the table of an unbroken run.
"""

import argparse
import hashlib
import json
import os
import re
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    from mhe_startup import start

    start(__file__)

import numpy as np
from tqdm import tqdm

from mhe.arrays import read_array
from mhe.harness.comparisons import stem
from mhe.harness.errors import BadInput, CannotWrite, within_memory
from mhe.harness.files import PARTIAL, make_folder, read_json, write_array, write_json
from mhe.harness.flags import LineParser, file_path, program
from mhe.harness.lock import locked
from sphereface_plus import faces
from sphereface_plus.faces.batches import Landmarks
from sphereface_plus.program import embedders, people_flags, tables

PARTS = ".parts"

_SETTINGS = "settings.json"
_OWN = re.compile(rf"({re.escape(PARTIAL)})?(part-\d{{6,}}\.npy|{re.escape(_SETTINGS)})")
_PART_IMAGES = 1024  # about as many are lost by a kill at most


def make_parser() -> LineParser:
    """Returns the parser of this program's flags."""
    parser = LineParser(
        prog="sphereface_plus/embed.py",
        description="Embeds a folder or zip of faces into a table.",
    )
    parser.add_argument(
        "--run",
        type=file_path,
        required=True,
        help="the folder of a complete run of sphereface_plus/train.py; or a .keras file with its "
        "network, or with the backbone alone",
    )
    people_flags.add(parser, "default: none, and one must be named", with_names=True)
    people_flags.add_embedding(parser)
    parser.add_argument(
        "--out",
        type=file_path,
        help="the table, a new file that ends in .npz, .csv or .safetensors (default: named after "
        "--data_dir, .npz, in the current folder)",
    )
    return parser


def embed(args: argparse.Namespace) -> tables.Table:
    """Embeds faces, and writes the table.

    Args:
        args: The flags.

    Returns:
        The table.

    Raises:
        BadInput: If the network, the images or the table's path cannot be used.
    """
    if args.data_dir is None:
        raise BadInput("--data_dir must name a folder or zip of images, or a .rec. Received: none")
    out = Path(os.path.expanduser(args.out or f"{stem(args.data_dir)}.npz"))
    tables.require_writable(out)
    folder = out.with_name(out.name + PARTS)
    if out.exists() and not (folder / _SETTINGS).exists():
        raise BadInput(f"--out {out} exists, and nothing is overwritten: pass another --out")
    embedder = embedders.load_embedder(args.run, args.mirror == "concatenate")
    people = people_flags.find(args, least=1)
    landmarks = None
    if args.landmarks is not None:
        landmarks = faces.read_landmarks(args.landmarks, people)
    names = np.array(people.names, str)[people.labels]
    if args.names == "none":
        names = np.full(len(people), "")
    images = np.array(list(people.images), str)
    parts = _Parts(folder, _settings(args, embedder, images, names, landmarks))
    with locked(folder):
        parts.begin()
        embeddings = _embedded(args, embedder, people, landmarks, parts)
        table = tables.Table(args.data_dir, images, names, embeddings, embedder.model)
        tables.write_table(out, table)
        parts.remove()
    with suppress(OSError):
        folder.rmdir()
    print(
        f"{len(table):,} embeddings of {embeddings.shape[1]:,} numbers in {out}, "
        f"by the network {table.model[:12]}"
    )
    return table


def _embedded(
    args: argparse.Namespace,
    embedder: embedders.Embedder,
    people: faces.People,
    landmarks: Landmarks | None,
    parts: "_Parts",
) -> np.ndarray:
    """Embeds the parts that are missing, and returns all of them."""
    batches = embedder.batches(people, landmarks, args.batch_size)
    step = max(1, _PART_IMAGES // args.batch_size)
    found = []
    bar = tqdm(total=len(people), unit="image", desc="embedding", leave=False, disable=None)
    with bar:
        for number, start in enumerate(range(0, len(batches), step)):
            chosen = range(start, min(start + step, len(batches)))
            count = min(chosen.stop * args.batch_size, len(people)) - start * args.batch_size
            part = parts.read(number, count)
            if part is None:
                part = embedder.embed(batches, chosen, bar.update)
                parts.write(number, part)
            else:
                bar.update(count)
                bar.refresh()
            found.append(part)
    return np.concatenate(found)


def _settings(
    args: argparse.Namespace,
    embedder: embedders.Embedder,
    images: np.ndarray,
    names: np.ndarray,
    landmarks: Landmarks | None,
) -> dict[str, Any]:
    """What parts must have in common to be put together."""
    listed = hashlib.sha256()
    for image, name in zip(images.tolist(), names.tolist(), strict=True):
        points = [] if landmarks is None else np.asarray(landmarks[image]).tolist()
        listed.update(f"{json.dumps([image, name, points])}\n".encode())
    return {
        "network": embedder.model,
        "images": listed.hexdigest(),
        "batch_size": args.batch_size,
    }


class _Parts:
    """The embeddings of a run that has not ended, in a folder beside the table."""

    def __init__(self, folder: Path, settings: dict[str, Any]):
        self._folder, self._settings = folder, settings

    def begin(self) -> None:
        """Starts the parts, or checks that those which are there belong to this run."""
        path = make_folder(self._folder) / _SETTINGS
        if not path.exists():
            write_json(path, self._settings)
            return
        before = read_json(path)
        for name, value in self._settings.items():
            if before[name] != value:
                raise BadInput(
                    f"{self._folder} holds embeddings of an interrupted run with other {name}: "
                    "repeat its command, or delete the folder to start anew"
                )

    def read(self, number: int, count: int) -> np.ndarray | None:
        """Returns a part, or None if it is missing or damaged."""
        path = self._path(number)
        try:
            part = read_array(path)
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            print(f"{error}; embedded anew", file=sys.stderr)
            return None
        if part.ndim != 2 or part.dtype != np.float32 or len(part) != count:
            print(f"{path} is damaged; embedded anew", file=sys.stderr)
            return None
        return part

    def write(self, number: int, part: np.ndarray) -> None:
        write_array(self._path(number), part)

    def remove(self) -> None:
        """Removes the parts, and no other files that somebody may have put there."""
        try:
            own = [path for path in self._folder.iterdir() if _OWN.fullmatch(path.name)]
            # The settings last: while they are there, an interrupted run is.
            for path in sorted(own):
                path.unlink()
        except OSError as error:
            raise CannotWrite(f"{self._folder} cannot be removed: {error.strerror}") from error

    def _path(self, number: int) -> Path:
        return self._folder / f"part-{number:06}.npy"


def main(argv: Sequence[str] | None = None) -> None:
    """Embeds faces.

    Args:
        argv: The flags; those of the process by default.
    """
    args = make_parser().parse_args(argv)
    try:
        with within_memory(f"--batch_size {args.batch_size}"):
            embed(args)
    except KeyboardInterrupt:
        print("\nInterrupted. Go on with the same command.", file=sys.stderr)
        raise


if __name__ == "__main__":
    sys.exit(program(main))
