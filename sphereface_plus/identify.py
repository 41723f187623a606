"""Names the people on images: whom of a gallery each probe shows, if anybody.

    python sphereface_plus/identify.py --gallery staff.npz --probes visitors.npz --far 0.01
    python sphereface_plus/identify.py --run runs/faces --gallery staff --probes visitors.zip

The gallery and the probes are tables of `sphereface_plus/embed.py`, or folders or zips of
<person>/<image>. A probe gets the name of the nearest face of the gallery, and is accepted if the
cosine is above a threshold, of which at most a share `--far` of strangers is. That share is
measured on `--strangers`; or on the probes of people who are not in the gallery, if their names say
so; or on the gallery, each of its faces among those of all other people.
"""

import argparse
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    from mhe_startup import start

    start(__file__)

import numpy as np
from tqdm import tqdm

from mhe.harness.comparisons import stem
from mhe.harness.errors import BadInput, as_bad_input, within_memory
from mhe.harness.files import make_folder, write_csv, write_json
from mhe.harness.flags import LineParser, file_path, number, program
from mhe.harness.run import require_unused
from sphereface_plus.faces import find_faces, find_people
from sphereface_plus.faces.people import some
from sphereface_plus.identification import Search, nearest, search, stranger_scores, threshold_at
from sphereface_plus.program import embedders, people_flags, tables
from sphereface_plus.program.tables import Table


def make_parser() -> LineParser:
    """Returns the parser of this program's flags."""
    parser = LineParser(
        prog="sphereface_plus/identify.py",
        description="Names the people on images by a gallery of people.",
    )
    what = "a table of sphereface_plus/embed.py, or a folder or zip of <person>/<image>"
    parser.add_argument(
        "--gallery", type=file_path, required=True, help=f"the people to find: {what}"
    )
    parser.add_argument("--probes", type=file_path, required=True, help=f"the images: {what}")
    parser.add_argument(
        "--probe_names",
        choices=["folders", "none"],
        default="folders",
        help="with a folder or zip of probes: whether its folders are people, by whom names are "
        "checked, or nothing is known of them, and images may be in any folders",
    )
    parser.add_argument(
        "--run",
        type=file_path,
        help="what embeds folders and zips: the folder of a complete run of "
        "sphereface_plus/train.py, or a .keras file (default: none, for tables)",
    )
    parser.add_argument(
        "--far",
        type=number(0, 1, above=True),
        default=0.01,
        help="the share of strangers to accept at most, below 1",
    )
    parser.add_argument(
        "--strangers",
        type=file_path,
        help=f"people who are not in the gallery, to set the threshold by: {what} (default: probes "
        "of people who are not in the gallery, or else the gallery itself)",
    )
    parser.add_argument(
        "--threshold",
        type=number(-1, 1),
        help="the cosine above which a probe is accepted (default: set by --far)",
    )
    people_flags.add_embedding(parser, "with --run: ")
    parser.add_argument(
        "--out",
        type=file_path,
        help="the folder of the result, new or empty (default: in runs/, named after the gallery "
        "and the probes)",
    )
    return parser


@dataclass(frozen=True)
class Threshold:
    """The cosine above which a probe is accepted.

    Attributes:
        value: The cosine.
        source: By what it was set, in words.
    """

    value: float
    source: str


def identify(args: argparse.Namespace) -> dict[str, Any]:
    """Names the probes, and writes `identified.csv` and `result.json`.

    Args:
        args: The flags.

    Returns:
        The content of `result.json`.

    Raises:
        BadInput: If the gallery, the probes or the folder cannot be used.
    """
    started = time.monotonic()
    if args.far >= 1:
        raise BadInput(f"--far must be below 1. Received: {args.far:g}")
    out = args.out or Path("runs", f"identify-{stem(args.gallery)}-{stem(args.probes)}")
    folder = Path(os.path.expanduser(out))
    require_unused(folder)
    asked = {"gallery": args.gallery, "probes": args.probes, "strangers": args.strangers}
    given = {name: path for name, path in asked.items() if path is not None}
    read = _read(args, given)
    gallery, probes = read["gallery"], read["probes"]
    unnamed = gallery.images[gallery.people == ""]
    if len(unnamed):
        raise BadInput(
            f"--gallery {args.gallery}: {unnamed[0]} must be of a person. Received: none"
        )
    with as_bad_input():
        names, cosines = nearest(gallery.embeddings, gallery.people, probes.embeddings)
        found = _search(gallery, probes)
        threshold = _threshold(args, gallery, read.get("strangers"), found)
    accepted = cosines > threshold.value
    make_folder(folder)
    rows = zip(probes.images, probes.people, names, cosines.tolist(), accepted, strict=True)
    write_csv(
        folder / "identified.csv",
        [
            {
                "image": image,
                "person": person,
                "name": name,
                "cosine": f"{cosine:.6f}",
                "accepted": int(is_accepted),
            }
            for image, person, name, cosine, is_accepted in rows
        ],
    )
    metrics = _metrics(found, threshold.value) | {"accepted": float(np.mean(accepted))}
    print(_text(args, gallery, probes, found, threshold, metrics))
    result = {
        "gallery": args.gallery,
        "probes": args.probes,
        "run": args.run,
        "network": gallery.model,
        "far": args.far,
        "threshold": threshold.value,
        "threshold_source": threshold.source,
        "metrics": metrics,
        "seconds": round(time.monotonic() - started, 3),
    }
    write_json(folder / "result.json", result)
    print(f"Names in {folder / 'identified.csv'}")
    return result


def _read(args: argparse.Namespace, given: dict[str, str]) -> dict[str, Table]:
    """Reads or embeds the tables, which must be of one network."""
    to_embed = [name for name, path in given.items() if not tables.is_table(path)]
    if to_embed and args.run is None:
        raise BadInput(
            f"--run must name what embeds --{to_embed[0]} {given[to_embed[0]]}, which is no table. "
            "Received: none"
        )
    embedder = None
    if args.run is not None:
        embedder = embedders.load_embedder(args.run, args.mirror == "concatenate")
    read = {}
    for name, path in given.items():
        if embedder is None or name not in to_embed:
            read[name] = tables.read_table(path)
        else:
            is_unnamed = name == "probes" and args.probe_names == "none"
            read[name] = _embedded(embedder, path, is_unnamed, args.batch_size)
    gallery = read["gallery"]
    model, what = gallery.model, f"--gallery {gallery.source}"
    if embedder is not None:
        model, what = embedder.model, f"--run {args.run}"
    for name, table in read.items():
        if table.model != model:
            raise BadInput(
                f"--{name} {table.source} and {what} must be of one network, with mirror images "
                "or without. "
                f"Received: the networks {str(table.model)[:12]} and {model[:12]}"
            )
    return read


def _embedded(embedder: embedders.Embedder, path: str, unnamed: bool, batch_size: int) -> Table:
    """Embeds a folder or zip."""
    if unnamed:
        people = find_faces(path, decode=False)
        names = np.full(len(people), "")
    else:
        people = find_people(path, least=1, decode=False)
        names = np.array(people.names, str)[people.labels]
    bar = tqdm(
        total=len(people), unit="image", desc=f"embedding {stem(path)}", leave=False, disable=None
    )
    with bar:
        batches = embedder.batches(people, batch_size=batch_size)
        embeddings = embedder.embed(batches, done=bar.update)
    images = np.array(list(people.images), str)
    return Table(path, images, names, embeddings, embedder.model)


def _search(gallery: Table, probes: Table) -> Search | None:
    """Searches for the probes with names, or returns None if there are none."""
    named = probes.people != ""
    if not named.any():
        return None
    vectors, people = probes.embeddings[named], probes.people[named]
    if not np.isin(people, gallery.people).any():
        # Of strangers alone, nobody has a rank.
        _, scores = nearest(gallery.embeddings, gallery.people, vectors)
        return Search(np.empty(0, np.int64), np.empty(0, np.float32), scores)
    return search(gallery.embeddings, gallery.people, vectors, people)


def _threshold(
    args: argparse.Namespace, gallery: Table, strangers: Table | None, found: Search | None
) -> Threshold:
    """Sets the threshold by the first of the sources that allows the rate."""
    if args.threshold is not None:
        return Threshold(args.threshold, "--threshold")
    if strangers is not None:
        both = np.intersect1d(strangers.people, gallery.people)
        if len(both):
            raise BadInput(
                f"--strangers {strangers.source} must hold nobody of the gallery. "
                f"Received: {some(both.tolist())}"
            )
        _, scores = nearest(gallery.embeddings, gallery.people, strangers.embeddings)
        value = threshold_at(scores, args.far)
        if value is None:
            raise BadInput(
                f"--far {args.far:g} needs {1 / args.far:,.0f} faces of strangers. "
                f"Received: {len(scores):,} in {strangers.source}"
            )
        return Threshold(value, f"the {len(scores):,} strangers of {strangers.source}")
    outside = np.empty(0) if found is None else found.false_scores
    value = threshold_at(outside, args.far)
    if value is not None:
        return Threshold(value, f"the {len(outside):,} probes of people who are not in the gallery")
    if len(np.unique(gallery.people)) > 1:
        scores = stranger_scores(gallery.embeddings, gallery.people)
        value = threshold_at(scores, args.far)
        if value is not None:
            return Threshold(
                value, f"the {len(scores):,} faces of the gallery, each among all other people's"
            )
    raise BadInput(
        f"--far {args.far:g} needs {1 / args.far:,.0f} faces of strangers to set a threshold by: "
        "name some by --strangers, raise --far, or pass --threshold. "
        f"Received: {len(outside):,} probes of people who are not in the gallery, and "
        f"{len(gallery):,} faces in it"
    )


def _metrics(found: Search | None, threshold: float) -> dict[str, float]:
    """The metrics by name, those that the names of the probes allow."""
    metrics = {}
    if found is not None and len(found.ranks):
        metrics["rank_1"] = found.rank(1)
        # The detection and identification rate.
        is_found = (found.ranks == 1) & (found.scores > threshold)
        metrics["dir_at_far"] = float(np.mean(is_found))
    if found is not None and len(found.false_scores):
        metrics["false_alarm_rate"] = float(np.mean(found.false_scores > threshold))
    return metrics


def _text(
    args: argparse.Namespace,
    gallery: Table,
    probes: Table,
    found: Search | None,
    threshold: Threshold,
    metrics: dict[str, float],
) -> str:
    """What is printed."""
    people = np.unique(gallery.people)
    lines = [
        f"{len(gallery):,} faces of {len(people):,} people in the gallery, {len(probes):,} probes",
        f"threshold {threshold.value:.4f}, by {threshold.source}",
        f"{metrics['accepted']:.2%} of the probes accepted",
    ]
    if found is None:
        return "\n".join([*lines, "no probe has a person: whether names are right is not known"])
    missing, counts = np.unique(
        probes.people[(probes.people != "") & ~np.isin(probes.people, people)], return_counts=True
    )
    if len(missing):
        listed = [f"{name} ({count})" for name, count in zip(missing, counts, strict=True)]
        lines.append(
            f"{counts.sum():,} probes are of {len(missing):,} people who are not in the gallery: "
            f"{some(listed)}; of these, {metrics['false_alarm_rate']:.2%} are accepted"
        )
    if "rank_1" in metrics:
        where = f"FAR {args.far:g}" if args.threshold is None else "this threshold"
        lines.append(
            f"{len(found.ranks):,} probes are of people in the gallery: rank 1 "
            f"{metrics['rank_1']:.2%}, DIR {metrics['dir_at_far']:.2%} at {where}"
        )
    else:
        lines.append("no probe is of a person in the gallery: there is no rank 1 and no DIR")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    """Identifies people.

    Args:
        argv: The flags; those of the process by default.
    """
    args = make_parser().parse_args(argv)
    with within_memory(f"--batch_size {args.batch_size}"):
        identify(args)


if __name__ == "__main__":
    sys.exit(program(main))
