"""The layouts of published image archives, in a folder, a zip or tar shards."""

import dataclasses
import math
import os
import re
from collections import Counter
from collections.abc import Iterable
from contextlib import ExitStack

import numpy as np

from mhe.harness.datasets.dataset import Dataset
from mhe.harness.datasets.images import SUFFIXES, is_image
from mhe.harness.datasets.shards import SHARD, Shards
from mhe.harness.datasets.streamed import StreamedImages, images_of, take
from mhe.harness.datasets.subsets import held_out
from mhe.harness.datasets.tree import Tree
from mhe.harness.errors import BadInput
from mhe.harness.files import table_rows
from mhe.text import lookalike

# Fixed, so that every run is tested on the same drawings.
_OMNIGLOT_SEED = 0
_OMNIGLOT_TEST = 0.25
_LAST_YEAR = 9999


def load_trees(
    paths: list[str], size: int | None, label: str, memory: float | None = None
) -> Dataset:
    """Loads a dataset whose layout is recognized from its files.

    Args:
        paths: Folders or .zip files, or tar shards; only Omniglot and shards may have several.
        size: Height and width of the images, or `None` if they already have one size.
        label: The column of OmniArt's CSV files that names the class.
        memory: The bytes that decoded images may take; more stay on disk. `None` for any number.

    Returns:
        The dataset, named after the paths.

    Raises:
        BadInput: If a path cannot be read or does not have one of the layouts.
    """
    if all(path.endswith(SHARD) for path in paths):
        found = {path: os.path.expanduser(path) for path in paths}
        return _shards(Shards(os.path.dirname(paths[0]) or ".", found), size, memory)
    with ExitStack() as stack:
        trees = [stack.enter_context(Tree(path)) for path in paths]
        data = _load(trees, size, label, memory)
        if isinstance(data.train[0], StreamedImages):
            stack.pop_all()  # the zips are still to be read
        return data


def _load(trees: list[Tree], size: int | None, label: str, memory: float | None) -> Dataset:
    if all(_holds_drawings(tree) for tree in trees):
        return _omniglot(trees, size, memory)
    if len(trees) > 1:
        raise BadInput(
            "Several paths must all hold Omniglot's <Alphabet>/characterNN/<drawing>.png. "
            f"Received: {', '.join(tree.name for tree in trees)}"
        )
    (tree,) = trees
    found = {
        name: os.path.join(os.path.expanduser(tree.name), name)
        for name in tree.names
        if name.endswith(SHARD) and tree.is_folder
    }
    if found:
        return _shards(Shards(tree.name, found), size, memory)
    if "wnids.txt" in tree.names:
        return _tiny_imagenet(tree, size, memory)
    if "train.csv" in tree.names:
        return _omniart(tree, size, label, memory)
    return _classes(tree, size, memory)


def _shards(found: Shards, size: int | None, memory: float | None) -> Dataset:
    return _dataset(found, found.train, found.test, found.class_names, size, memory)


def _classes(tree: Tree, size: int | None, memory: float | None) -> Dataset:
    """Loads `train/<class>/<image>` and `test/<class>/<image>`."""
    files: dict[str, dict[str, list[str]]] = {"train": {}, "test": {}}
    for name in tree.names:
        split, *inside = name.split("/")
        if split not in files:
            continue
        if len(inside) == 2:
            members = files[split].setdefault(inside[0], [])
            if is_image(inside[1]):
                members.append(name)
        elif is_image(name):
            raise BadInput(f"{tree.name}: images must be in {split}/<class>/. Received: {name}")

    for split, classes in files.items():
        if not classes:
            raise BadInput(f"{tree.name} has no {split}/ folder with a folder per class")
        for label, members in classes.items():
            if not members:
                raise BadInput(
                    f"{tree.name}: the class {split}/{label}/ has no images, which are files with "
                    f"a suffix of {' '.join(SUFFIXES)}"
                )
    class_names = tuple(sorted(files["train"]))
    for label in files["test"]:
        if label not in files["train"]:
            raise BadInput(
                f"{tree.name}: the class {label} is in test/ but not in train/"
                + lookalike(label, files["train"])
            )

    train, test = (
        [(name, label) for label, members in files[split].items() for name in members]
        for split in ("train", "test")
    )
    return _dataset(tree, train, test, class_names, size, memory)


def _tiny_imagenet(tree: Tree, size: int | None, memory: float | None) -> Dataset:
    """Loads Tiny ImageNet, with the validation set as test set: its test images have no labels."""
    wnids = tree.text("wnids.txt").split()
    _refuse_twice(f"{tree.name}: wnids.txt", wnids)
    listed = set(wnids)
    train = []
    for name in tree.names:
        inside = re.fullmatch(r"train/([^/]+)/images/([^/]+)", name)
        if inside and is_image(name):
            if inside[1] not in listed:
                raise BadInput(f"{tree.name}: wnids.txt lacks the class of {name}")
            train.append((name, inside[1]))
    for wnid in sorted(listed - {wnid for _, wnid in train}):
        raise BadInput(f"{tree.name}: the class train/{wnid}/images/ has no images")

    if "val/val_annotations.txt" not in tree.names:
        raise BadInput(f"{tree.name} lacks val/val_annotations.txt")
    images = {
        name for name in tree.names if re.fullmatch(r"val/images/[^/]+", name) and is_image(name)
    }
    test = []
    for number, line in enumerate(tree.text("val/val_annotations.txt").splitlines(), 1):
        where = f"{tree.name}: val/val_annotations.txt, line {number}"
        name, _, rest = line.partition("\t")
        wnid = rest.split("\t")[0]
        if f"val/images/{name}" not in images:
            raise BadInput(
                f"{where} names an image that is not in val/images/. Received: {name}"
                + lookalike(f"val/images/{name}", images)
            )
        if wnid not in listed:
            raise BadInput(f"{where} names a class that wnids.txt lacks. Received: {wnid}")
        test.append((f"val/images/{name}", wnid))
    _refuse_twice(f"{tree.name}: val/val_annotations.txt", [name for name, _ in test])
    for name in sorted(images - {name for name, _ in test}):
        raise BadInput(f"{tree.name}: val/val_annotations.txt has no line for {name}")

    dataset = _dataset(tree, train, test, wnids, size, memory)
    words = tree.text("words.txt") if "words.txt" in tree.names else ""
    class_names = _first_synonyms(tree.name, wnids, words.splitlines())
    return dataclasses.replace(dataset, class_names=class_names)


def _first_synonyms(source: str, wnids: list[str], lines: list[str]) -> tuple[str, ...]:
    """The first name of each class that no other class shares, as word vectors would know it."""
    pairs = [line.split("\t", 1) for line in lines if "\t" in line]
    _refuse_twice(f"{source}: words.txt", [wnid for wnid, _ in pairs])
    words = dict(pairs)
    synonyms = [[name.strip() for name in words.get(wnid, wnid).split(",")] for wnid in wnids]
    count = Counter(name for names in synonyms for name in set(names))
    return tuple(
        next((name for name in names if count[name] == 1), wnid)
        for wnid, names in zip(wnids, synonyms, strict=True)
    )


def _omniart(tree: Tree, size: int | None, label: str, memory: float | None) -> Dataset:
    """Loads OmniArt: the years as values to regress, and the classes from the column `label`."""
    known = set(tree.names)
    parts = {}
    for split in ("train", "test"):
        if f"{split}.csv" not in known:
            raise BadInput(f"{tree.name} lacks {split}.csv")
        source = f"{tree.name}: {split}.csv"
        columns = ("omni_id", "creation_year", label)
        listed, years = [], []
        for line, row in table_rows(tree.text(f"{split}.csv"), source, columns):
            where = f"{source}, line {line}"
            name = f"{split}/{row['omni_id']}.jpg"
            if name not in known:
                raise BadInput(
                    f"{where} names an image that is missing. Received: {name}"
                    + lookalike(name, known)
                )
            if not row[label]:
                raise BadInput(f"{where} has no {label}")
            listed.append((name, row[label]))
            years.append(_year(row["creation_year"], where))
        if not listed:
            raise BadInput(f"{source} lists no images")
        _refuse_twice(source, [name for name, _ in listed])
        parts[split] = listed, np.array(years, np.float32)
    (train, train_years), (test, test_years) = parts["train"], parts["test"]
    class_names = sorted({label for _, label in train})
    for name, each in test:
        if each not in class_names:
            raise BadInput(
                f"{tree.name}: the {label} of {name} is not in train.csv. Received: {each}"
                + lookalike(each, class_names)
            )
    dataset = _dataset(tree, train, test, class_names, size, memory)
    return dataclasses.replace(dataset, values=(train_years, test_years))


def _year(text: str | None, where: str) -> float:
    try:
        year = float(text or "")
    except ValueError:
        year = math.nan
    if not abs(year) <= _LAST_YEAR:
        raise BadInput(
            f"{where}: creation_year must be a number from -{_LAST_YEAR} to {_LAST_YEAR}. "
            f"Received: {text or 'nothing'}"
        )
    return year


def _refuse_twice(source: str, names: Iterable[str]) -> None:
    """Raises a `BadInput` if a list names something twice."""
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        more = f" and {len(twice) - 1} more" if len(twice) > 1 else ""
        raise BadInput(f"{source} must list everything once. Received: {twice[0]}{more} twice")


_DRAWING = re.compile(r"(?:[^/]+/)*([^/]+/character\d+)/([^/]+\.png)")


def _holds_drawings(tree: Tree) -> bool:
    classes = any(name.startswith(("train/", "test/")) for name in tree.names)
    return not classes and any(_DRAWING.fullmatch(name) for name in tree.names)


def _omniglot(trees: list[Tree], size: int | None, memory: float | None) -> Dataset:
    """Loads Omniglot: a fixed quarter of every character's drawings is the test set.

    A drawing in several of the trees, as Greek's and Latin's in the two small sets, counts once.
    """
    places: dict[tuple[str, str], tuple[Tree, str]] = {}
    for tree in trees:
        for name in tree.names:
            drawing = _DRAWING.fullmatch(name)
            if drawing:
                places.setdefault((drawing[1], drawing[2]), (tree, name))
            elif is_image(name):
                raise BadInput(
                    f"{tree.name}: drawings must be <Alphabet>/characterNN/<drawing>.png. "
                    f"Received: {name}"
                )
    drawings = sorted(places)
    class_names = sorted({character for character, _ in drawings})
    number = {character: index for index, character in enumerate(class_names)}
    labels = np.array([number[character] for character, _ in drawings], np.int64)
    test = held_out(labels, _OMNIGLOT_TEST, _OMNIGLOT_SEED)
    for label, count in enumerate(np.bincount(labels[test], minlength=len(class_names))):
        if count == 0:
            raise BadInput(
                f"{trees[0].name}: every character needs drawings to train and to test on. "
                f"Received: {class_names[label]} with {np.sum(labels == label)}"
            )
    by_path = {f"{tree.name}: {name}": (tree, name) for tree, name in places.values()}
    wanted = [f"{tree.name}: {name}" for tree, name in (places[each] for each in drawings)]

    def read(path: str, most: int | None = None) -> bytes:
        tree, name = by_path[path]
        return tree.read(name, most)

    images = images_of("Omniglot", wanted, read, size, memory)
    name = ",".join(tree.name for tree in trees)
    return Dataset(
        name,
        (take(images, ~test), labels[~test]),
        (take(images, test), labels[test]),
        tuple(class_names),
    )


def _dataset(
    tree: Tree | Shards,
    train: list[tuple[str, str]],
    test: list[tuple[str, str]],
    classes: Iterable[str],
    size: int | None,
    memory: float | None,
) -> Dataset:
    """Decodes images that are listed with their classes, or leaves them on disk."""
    class_names = tuple(classes)
    number = {label: index for index, label in enumerate(class_names)}
    images = images_of(tree.name, [name for name, _ in train + test], tree.read, size, memory)
    labels = np.array([number[label] for _, label in train + test], np.int64)
    count = len(train)
    first, rest = slice(count), slice(count, None)
    return Dataset(
        tree.name,
        (take(images, first), labels[first]),
        (take(images, rest), labels[rest]),
        class_names,
    )
