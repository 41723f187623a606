"""What a complete run of `sphereface_plus/train.py` leaves: its network, and whom it knows."""

import csv
from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np

from mhe.harness.errors import BadInput
from mhe.harness.files import replacing
from mhe.harness.run import Run
from sphereface_plus.face_model import FaceModel
from sphereface_plus.faces import People

PROGRAM = "sphereface_plus/train.py"
MODEL = "model.keras"

_PEOPLE = "people.csv"


def list_people(folder: Path, people: People, tested: People | None) -> None:
    """Writes `people.csv`: who is trained on, in the order of the classes, and who is tested on.

    Args:
        folder: The run's folder.
        people: Those to train on.
        tested: Those to test on, or None.

    Raises:
        BadInput: If the file is there, and the people or their numbers of images have changed.
    """
    path = folder / _PEOPLE
    rows = [["person", "images", "set"]]
    for side, each in (("train", people), ("test", tested)):
        if each is not None:
            counts = np.bincount(each.labels).tolist()
            rows += [
                [name, str(count), side] for name, count in zip(each.names, counts, strict=True)
            ]
    if path.exists():
        if _read_people(path) != rows:
            raise BadInput(
                f"{people.source} must hold the people that {path} lists, each with as many "
                "images, as when the run began. Received: others"
            )
        return
    with (
        replacing(path) as partial,
        open(partial, "w", newline="", encoding="utf-8") as file,
    ):
        csv.writer(file).writerows(rows)


def trained_people(folder: Path) -> list[str]:
    """Returns the names of the people that a run was trained on, in the order of its classes.

    Args:
        folder: The run's folder.

    Raises:
        BadInput: If it does not tell.
    """
    path = folder / _PEOPLE
    try:
        return [person for person, _, side in _read_people(path) if side == "train"]
    except ValueError as error:
        raise BadInput(f"{path} is not a list of a run's people: {error}") from error


def _read_people(path: Path) -> list[list[str]]:
    try:
        with open(path, newline="", encoding="utf-8") as file:
            return list(csv.reader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise BadInput(f"{path} cannot be read: {error}") from error


def load_model(folder: str | Path) -> tuple[FaceModel, Run]:
    """Loads the network of a complete run.

    Args:
        folder: The run's folder.

    Raises:
        BadInput: If it holds no complete run of this program.
    """
    run = Run.resume(folder)
    if run.config.get("program") != PROGRAM or not run.finished:
        raise BadInput(
            f"{folder} must be a complete run of {PROGRAM}. Received: "
            + ("a run that is not complete" if not run.finished else f"{run.config.get('program')}")
        )
    try:
        return keras.saving.load_model(run.folder / MODEL, compile=False, safe_mode=True), run
    except (OSError, ValueError) as error:
        raise BadInput(f"{run.folder / MODEL} cannot be read: {error}") from error


def begin_with(model: FaceModel, names: Sequence[str], folder: str | Path) -> None:
    """Gives a network the weights of a complete run: all of the backbone's, and of the head's those
    of people whom both know, with the number of steps that a margin was annealed for, and a bias.

    Args:
        model: The network.
        names: The people it is to be trained on, in the order of its classes.
        folder: The run's folder.

    Raises:
        BadInput: If there is no such run, or its network is another.
    """
    trained, run = load_model(folder)
    shapes = [[weight.shape for weight in each.backbone.weights] for each in (model, trained)]
    if shapes[0] != shapes[1]:
        raise BadInput(
            f"--finetune {folder} must be a run with the same network: --arch, --width, --dims, "
            f"--norm, --image_size and --channels. Received: --arch {run.config['arch']}, "
            f"--width {run.config['width']}, --dims {run.config['dims']}, "
            f"--norm {run.config['norm']}, --image_size {run.config['image_size']}, "
            f"--channels {run.config['channels']}"
        )
    model.backbone.set_weights(trained.backbone.get_weights())
    known = {name: place for place, name in enumerate(trained_people(run.folder))}
    both = [(place, known[name]) for place, name in enumerate(names) if name in known]
    if both:
        own, other = np.array(both).T
        kernel = keras.ops.convert_to_numpy(model.head.kernel).copy()
        kernel[:, own] = keras.ops.convert_to_numpy(trained.head.kernel)[:, other]
        model.head.kernel.assign(kernel)
    for name in ("step", "bias"):
        if hasattr(model.head, name) and hasattr(trained.head, name):
            getattr(model.head, name).assign(getattr(trained.head, name))
