"""A callback by which a training that was killed goes on where it stopped."""

import json
import os
import warnings
from pathlib import Path
from typing import Any

import keras
import numpy as np

from mhe.arrays import read_arrays
from mhe.callbacks.seeds import EpochSeeds
from mhe.checkpoints import Checkpoints
from mhe.checkpoints.checksums import Damaged
from mhe.checkpoints.files import replacing
from mhe.checkpoints.generations import epoch_of
from mhe.keras_internals import callbacks_beside, rate_variable, start_at, weights_file

# What callbacks of Keras remember from epoch to epoch. Learning rates are the optimizer's.
_REMEMBERED = {
    keras.callbacks.EarlyStopping: ("wait", "stopped_epoch", "best", "best_epoch"),
    keras.callbacks.ModelCheckpoint: ("best",),
    keras.callbacks.ReduceLROnPlateau: ("wait", "best", "cooldown_counter"),
}
_STATE = "state"


class ResumableTraining(keras.callbacks.Callback):
    """Resumes a training that was killed, when the same program is started again.

    After each epoch it writes a checkpoint to a folder: weights, optimizer, the seeds of layers,
    the logs of all epochs, and what `EarlyStopping`, `ModelCheckpoint` and `ReduceLROnPlateau`
    beside it remember, the best weights among them. When `fit` begins, the newest checkpoint is
    restored and `fit` starts at its epoch; `model.history` has the epochs before, too. A complete
    training goes on only with a larger `epochs`; one that was stopped early stays stopped.

    Checkpoints are written in one step, with checksums, and the last two are kept: a process killed
    at any moment, even while writing, leaves one that is whole. A damaged one is passed over for
    the one before, with a warning. Nothing in them is unpickled.

    A resumed training ends as an unbroken one if its batches are a function of the epoch. What is
    drawn in an epoch is seeded by the epoch (see `EpochSeeds`): dropout, and the order in which
    `fit` shuffles a `PyDataset`, on JAX and PyTorch also arrays and a `DataLoader`. TensorFlow
    shuffles arrays and a `tf.data.Dataset` by a state that is lost: pass `shuffle=False` with data
    in random order, or a `PyDataset`. Data that count epochs themselves can start at `epoch`.

    Put it last, so that no weights are kept in memory while other callbacks run.

    Args:
        folder: The folder, created if needed; one for each training.
        seed: Non-negative integer for what is drawn in the epochs, or None to seed nothing.

    Raises:
        ValueError: If `seed` is no such integer. When `fit` begins: if the model is not built, the
            checkpoints are those of another model, or none of them can be read. After an epoch: if
            a checkpoint cannot be written; those before it are kept.

    Example:

    >>> import keras, numpy as np, tempfile
    >>> from mhe.callbacks import ResumableTraining
    >>> folder = tempfile.mkdtemp()
    >>> def train(epochs):
    ...     model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    ...     model.compile("adam", "mse")
    ...     return model.fit(np.ones((8, 3)), np.ones((8, 1)), epochs=epochs, verbose=0,
    ...                      callbacks=[ResumableTraining(folder)])
    >>> first = train(2)
    >>> second = train(5)  # as if the first had been killed
    >>> second.epoch, second.history["loss"][:2] == first.history["loss"]
    ([0, 1, 2, 3, 4], True)
    """

    def __init__(self, folder: str | os.PathLike, seed: int | None = 0) -> None:
        super().__init__()
        self.folder = Path(folder)
        self._seeds = None if seed is None else EpochSeeds(seed)
        self._kept = Checkpoints(self.folder, ".npz")
        self._rows: list[dict[str, Any]] = []
        self._remembered: dict[str, dict[str, Any]] | None = None
        self._beside: list[keras.callbacks.Callback] = [self]
        self._waiting: tuple[memoryview, int, dict[str, Any]] | None = None

    @property
    def epoch(self) -> int:
        """The number of completed epochs in the newest checkpoint that is whole, or 0."""
        for path in reversed(self._kept.weights):
            try:
                self._kept.require_intact(path)
            except (Damaged, OSError):
                continue
            return epoch_of(path)
        return 0

    def set_model(self, model: keras.Model) -> None:
        super().set_model(model)
        if self._seeds is not None:
            self._seeds.set_model(model)

    def on_train_begin(self, logs: dict[str, float] | None = None) -> None:
        """Restores the newest checkpoint, if there is one."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ValueError(f"{self.folder} cannot be created: {error.strerror}") from error
        self._beside = callbacks_beside(self)
        self._rows, self._remembered, self._waiting = [], None, None
        self._kept.delete_partial()
        if not self._kept.weights:
            return
        if not self.model.built:
            raise ValueError(
                "A model must be built before it can be resumed: give it an input shape, or call "
                f"it on a batch. Received: {self.model!r}"
            )
        path, unreadable = self._kept.restore(self.model)
        if unreadable:
            warnings.warn(f"{'; '.join(unreadable)}; going back to {path}", stacklevel=2)
        state = self._read(path)
        self._rows, self._remembered = state["rows"], state["callbacks"]
        rate = rate_variable(self.model)
        if rate is not None and state["rate"] is not None:
            rate.assign(state["rate"])
        stopped = any(
            each["stopped_epoch"] > 0
            for name, each in self._remembered.items()
            if name in self._named() and "stopped_epoch" in each
        )
        start_at(self.model, self.params["epochs"] if stopped else epoch_of(path))

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Seeds the epoch."""
        self._write_waiting()
        self._remind()
        if self._seeds is not None:
            self._seeds.on_epoch_begin(epoch)

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Writes a checkpoint, unless other callbacks have yet to see the epoch."""
        self._waiting = weights_file(self.model), epoch, {} if logs is None else logs
        behind = self._beside[self._place() + 1 :]
        own = (keras.callbacks.History, keras.callbacks.ProgbarLogger)
        if all(isinstance(each, own) for each in behind):
            self._write_waiting()

    def on_train_end(self, logs: dict[str, float] | None = None) -> None:
        """Writes the last checkpoint, if it is still to be written."""
        self._write_waiting()
        if self._remind():
            # There was no epoch left to train. Those before this one have ended already.
            for each in self._beside[: self._place()]:
                if isinstance(each, keras.callbacks.EarlyStopping):
                    each.on_train_end(logs)

    def _place(self) -> int:
        return next(place for place, each in enumerate(self._beside) if each is self)

    def _named(self) -> dict[str, tuple[keras.callbacks.Callback, tuple[str, ...]]]:
        """The callbacks that remember something, by their kind and their number in it."""
        named = {}
        for kind, attributes in _REMEMBERED.items():
            same = [each for each in self._beside if isinstance(each, kind)]
            for number, each in enumerate(same):
                named[f"{kind.__name__}-{number}"] = each, attributes
        return named

    def _write_waiting(self) -> None:
        if self._waiting is None:
            return
        content, epoch, logs = self._waiting
        self._waiting = None
        row = {"epoch": epoch, **{name: _listed(value) for name, value in logs.items()}}
        self._rows.append(row)
        callbacks: dict[str, dict[str, Any]] = {}
        arrays: dict[str, Any] = {}
        for name, (each, attributes) in self._named().items():
            callbacks[name] = {key: _plain(getattr(each, key)) for key in attributes}
            best = getattr(each, "best_weights", None)
            if best is not None:
                callbacks[name]["best_weights"] = len(best)
                arrays |= {_array_name(name, n): _storable(weight) for n, weight in enumerate(best)}
        # Callbacks behind this one may have changed the rate since the weights were taken.
        rate = rate_variable(self.model)
        state = {
            "rows": self._rows,
            "callbacks": callbacks,
            "rate": None if rate is None else _listed(rate.value),
        }
        arrays[_STATE] = np.array(json.dumps(state))

        def write(path: Path) -> None:
            with replacing(path) as partial:
                np.savez(partial, **arrays)

        self._kept.write(content, epoch + 1, write)

    def _read(self, weights: Path) -> dict[str, Any]:
        path = self._kept.companion_of(weights)
        state = json.loads(str(read_arrays(path, [], [_STATE])[_STATE]))
        for name, each in state["callbacks"].items():
            if "best_weights" in each:
                names = [_array_name(name, n) for n in range(each["best_weights"])]
                arrays = read_arrays(path, names)
                each["best_weights"] = [arrays[key] for key in names]
        return state

    def _remind(self) -> bool:
        """Gives the other callbacks and the history what they had, once; whether there was any.

        Callbacks forget it in their `on_train_begin`, so this comes later.
        """
        if self._remembered is None:
            return False
        for name, (each, _) in self._named().items():
            for key, value in self._remembered.get(name, {}).items():
                setattr(each, key, value)
        self._remembered = None
        history = self.model.history
        for row in self._rows:
            history.epoch.append(row["epoch"])
            for name, value in row.items():
                if name != "epoch":
                    history.history.setdefault(name, []).append(value)
        start_at(self.model, None)
        return True


def _listed(value: Any) -> Any:
    """A number of Python, or a list of them."""
    if keras.ops.is_tensor(value):
        value = keras.ops.convert_to_numpy(value)
    return np.asarray(value, np.float64).tolist()


def _plain(value: Any) -> Any:
    """A number of Python."""
    return value if value is None or isinstance(value, int) else float(value)


def _storable(weight: Any) -> np.ndarray:
    # NumPy's files have no bfloat16.
    array = np.asarray(weight)
    return array if array.dtype.kind in "biuf" else array.astype(np.float32)


def _array_name(callback: str, number: int) -> str:
    return f"{callback}-{number}"
