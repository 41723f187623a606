"""What a run of `sphereface_plus/train.py` leaves: its network, and the people it knows."""

from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np

from mhe.harness import saved
from mhe.harness.errors import BadInput
from mhe.harness.files import read_csv, write_csv
from mhe.harness.run import Run
from sphereface_plus.face_model import FaceModel
from sphereface_plus.faces import People
from sphereface_plus.faces.people import natural, some
from sphereface_plus.heads import MarginHead

PROGRAM = "sphereface_plus/train.py"
MODEL = "model.keras"

_PEOPLE = "people.csv"
_COLUMNS = ("person", "images", "set")


def list_people(folder: Path, people: People, tested: People | None) -> None:
    """Writes `people.csv`: the people to train on, in the order of the classes, and to test on.

    Args:
        folder: The run's folder.
        people: The people to train on.
        tested: The people to test on, or None.

    Raises:
        BadInput: If the file exists, and the people or their numbers of images have changed.
    """
    path = folder / _PEOPLE
    rows = [
        dict(zip(_COLUMNS, (name, str(count), side), strict=True))
        for side, each in (("train", people), ("test", tested))
        if each is not None
        for name, count in zip(each.names, np.bincount(each.labels).tolist(), strict=True)
    ]
    if path.exists():
        if _read_people(path) != rows:
            raise BadInput(
                f"{people.source} must hold the people that {path} lists, with the same number of "
                "images each as at the start of the run. Received: others"
            )
        return
    write_csv(path, rows)


def trained_people(folder: Path) -> list[str]:
    """Returns the names of the people that a run was trained on, in the order of the classes.

    Args:
        folder: The run's folder.

    Raises:
        BadInput: If its `people.csv` cannot be used.
    """
    rows = _read_people(folder / _PEOPLE)
    return [row["person"] for row in rows if row["set"] == "train"]


def _read_people(path: Path) -> list[dict[str, str]]:
    rows = read_csv(path)
    if any(tuple(row) != _COLUMNS for row in rows):
        raise BadInput(f"{path} must have the columns {', '.join(_COLUMNS)}. Received: others")
    return rows


def load_model(folder: str | Path) -> tuple[FaceModel, Run]:
    """Loads the network of a complete run.

    Args:
        folder: The run's folder.

    Raises:
        BadInput: If it is not a complete run of this program.
    """
    run = Run.resume(folder)
    if run.config.get("program") != PROGRAM or not run.finished:
        raise BadInput(
            f"{folder} must be a complete run of {PROGRAM}. Received: "
            + ("an incomplete run" if not run.finished else f"{run.config.get('program')}")
        )
    model = saved.load_model(run.folder / MODEL)
    if not isinstance(model, FaceModel):
        raise BadInput(
            f"{run.folder / MODEL} must be a FaceModel. Received: {type(model).__name__}"
        )
    return model, run


def require_unseen(tested: People, folder: str | Path, seed: int) -> None:
    """Refuses people to test on whom the run that a training starts from was trained on.

    Args:
        tested: The people held out.
        folder: The folder of the run to start from.
        seed: The seed by which they were drawn.

    Raises:
        BadInput: If there are such people, or it is not a run.
    """
    run = Run.resume(folder)
    seen = sorted(set(tested.names).intersection(trained_people(run.folder)), key=natural)
    if seen:
        raise BadInput(
            f"--test_people must be people on whom --finetune {folder} was not trained: with its "
            f"--seed, {run.config['seed']}, and as many, they are the same. "
            f"Received: with --seed {seed}, {len(seen)} of {len(tested.names)} were, such as "
            f"{some(seen)}"
        )


def begin_with(model: FaceModel, names: Sequence[str], folder: str | Path) -> None:
    """Initializes a network with the weights of a complete run.

    They are the weights of the backbone, the class vectors of the people in both runs, and, if the
    heads have them, the step of the annealing, the bias, and moving averages.

    Args:
        model: The network.
        names: The people to train on, in the order of the classes.
        folder: The run's folder.

    Raises:
        BadInput: If it is not a complete run, or its network has other shapes.
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
        kernel, begun = (_by_class(each.head) for each in (model, trained))
        # Copies of one sub-center would stay equal: new ones keep their initial values.
        shared = min(kernel.shape[-1], begun.shape[-1])
        kernel[:, own, :shared] = begun[:, other, :shared]
        model.head.kernel.assign(kernel.reshape(len(kernel), -1))
    for name in ("step", "bias", "norm_mean", "norm_deviation", "t"):
        one, two = (getattr(each.head, name, None) for each in (model, trained))
        if isinstance(one, keras.Variable) and isinstance(two, keras.Variable):
            one.assign(two)


def _by_class(head: MarginHead) -> np.ndarray:
    """A copy of the kernel, `(dims, classes, subcenters)`."""
    kernel = keras.ops.convert_to_numpy(head.kernel).copy()
    return kernel.reshape(len(kernel), head.classes, head.subcenters)
