"""A callback by which a training that was killed goes on where it stopped."""

import json
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from mhe import checks
from mhe.arrays import read_arrays
from mhe.callbacks.seeds import EpochSeeds
from mhe.callbacks.within_epoch import Arrays, restore_state_of_step, state_of_step
from mhe.checkpoints import Checkpoints
from mhe.checkpoints.checksums import Damaged
from mhe.checkpoints.files import replacing
from mhe.checkpoints.generations import epoch_of, position_of
from mhe.keras_internals import (
    batches_variable,
    callbacks_beside,
    keep_in_training,
    pass_over,
    rate_variable,
    start_at,
    weights_file,
)

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

    With `every`, it also writes checkpoints within an epoch, with the metrics so far and the states
    from which layers draw. The epoch that was interrupted then draws its batches from the first on,
    but passes over those that have been trained on. Other callbacks see these batches too, with
    empty logs; the last of them has the logs of the checkpoint, and all is then as it was there,
    even where callbacks changed the learning rate at the beginning of the epoch. Until then, the
    optimizer has counted the batches before the epoch only.

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
        every: Positive integer, the number of batches between checkpoints within an epoch, or None
            for checkpoints after epochs only. With `steps_per_execution`, a checkpoint is written
            after the execution that reaches this number. Keras waits for the logs of every step
            then, as it does with any callback that sees batches.

    Raises:
        ValueError: If `seed` or `every` is no such integer. When `fit` begins: if the model is not
            built, the checkpoints are those of another model, or none of them can be read; if
            `steps_per_execution` does not divide the number of batches to pass over. If an epoch
            has fewer batches than that: when `fit` begins, or at the end of the epoch where the
            number is not known before. If a checkpoint cannot be written; those before it are kept.

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

    def __init__(
        self, folder: str | os.PathLike, seed: int | None = 0, every: int | None = None
    ) -> None:
        super().__init__()
        checks.check_count("every", every, 1, optional=True)
        self.folder = Path(folder)
        self.every = every
        self._seeds = None if seed is None else EpochSeeds(seed)
        self._kept = Checkpoints(self.folder, ".npz")
        self._rows: list[dict[str, Any]] = []
        self._remembered: dict[str, dict[str, Any]] | None = None
        self._beside: list[keras.callbacks.Callback] = [self]
        self._waiting: tuple[memoryview, int, dict[str, Any]] | None = None
        self._epoch = 0
        self._count_before: int | None = None
        # Batches of the epoch before its last checkpoint, and what to restore after them.
        self._batches = 0
        self._within: dict[str, Any] | None = None

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

    @property
    def async_safe(self) -> bool:
        """Whether Keras may call `on_train_batch_end` later, as it does nothing."""
        return self.every is None and not any(position_of(path)[1] for path in self._kept.weights)

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
        self._batches, self._within = 0, None
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
        _assign(rate_variable(self.model), state["rate"])
        epoch, batches = position_of(path)
        if batches and epoch < self.params["epochs"]:
            self._batches, self._within = batches, {**state["within"], "rate": state["rate"]}
            self._require_batches()
            _assign(batches_variable(self.model), self._within["count_before"])
        stopped = any(
            each["stopped_epoch"] > 0
            for name, each in self._remembered.items()
            if name in self._named() and "stopped_epoch" in each
        )
        start_at(self.model, self.params["epochs"] if stopped else epoch)

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Seeds the epoch."""
        self._write_waiting()
        self._remind()
        if self._seeds is not None:
            self._seeds.on_epoch_begin(epoch)
        self._epoch = epoch
        self._count_before = self._count()
        if self._within is None:
            self._batches = 0

    def on_train_batch_begin(self, batch: int, logs: dict[str, float] | None = None) -> None:
        """Passes over a batch that was trained on before the checkpoint."""
        if self._within is not None:
            is_last = batch + self.model.steps_per_execution >= self._batches
            pass_over(self.model, self._within["logs"] if is_last else {})

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        """Writes a checkpoint if it is time, or goes on from one."""
        batches = batch + 1
        if self._within is not None:
            if batches >= self._batches:
                self._restore_within()
        elif self.every is not None and batches - self._batches >= self.every:
            self._batches = batches
            arrays = state_of_step(self.model)
            within = {
                "logs": {name: _listed(value) for name, value in (logs or {}).items()},
                "count_before": self._count_before,
                "count": self._count(),
                "arrays": {name: len(each) for name, each in arrays.items()},
            }
            self._write(weights_file(self.model), self._epoch, batches, within, arrays)

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Writes a checkpoint, unless other callbacks have yet to see the epoch."""
        if self._within is not None:
            if not self.model.stop_training:
                raise self._too_few("fewer")
            self._restore_within()
            return
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
        self._write(content, epoch + 1)

    def _write(
        self,
        content: memoryview,
        epoch: int,
        batches: int = 0,
        within: dict[str, Any] | None = None,
        arrays_within: Arrays | None = None,
    ) -> None:
        callbacks: dict[str, dict[str, Any]] = {}
        arrays: dict[str, Any] = {}
        for name, (each, attributes) in self._named().items():
            callbacks[name] = {key: _plain(getattr(each, key)) for key in attributes}
            best = getattr(each, "best_weights", None)
            if best is not None:
                callbacks[name]["best_weights"] = len(best)
                arrays |= _numbered(name, best)
        for name, several in (arrays_within or {}).items():
            arrays |= _numbered(name, several)
        # Callbacks behind this one may have changed the rate since the weights were taken.
        state = {
            "rows": self._rows,
            "callbacks": callbacks,
            "rate": _value(rate_variable(self.model)),
            "within": within,
        }
        arrays[_STATE] = np.array(json.dumps(state))

        def write(path: Path) -> None:
            with replacing(path) as partial:
                np.savez(partial, **arrays)

        self._kept.write(content, epoch, write, batches)

    def _read(self, weights: Path) -> dict[str, Any]:
        path = self._kept.companion_of(weights)
        state = json.loads(str(read_arrays(path, [], [_STATE])[_STATE]))

        def numbered(name: str, number: int) -> list[np.ndarray]:
            names = [_array_name(name, n) for n in range(number)]
            arrays = read_arrays(path, names)
            return [arrays[key] for key in names]

        for name, each in state["callbacks"].items():
            if "best_weights" in each:
                each["best_weights"] = numbered(name, each["best_weights"])
        within = state.get("within")  # earlier versions have none
        if within is not None:
            within["arrays"] = {name: numbered(name, n) for name, n in within["arrays"].items()}
        return state

    def _count(self) -> int | None:
        """The optimizer's count of batches, or None without an optimizer."""
        count = _value(batches_variable(self.model))
        return None if count is None else int(count)

    def _require_batches(self) -> None:
        """Refuses to pass over batches that cannot be."""
        step = self.model.steps_per_execution
        if self._batches % step:
            raise ValueError(
                f"`steps_per_execution` must divide {self._batches}, the batches of an epoch that "
                f"the checkpoint in {self.folder} has seen. Received: steps_per_execution={step}"
            )
        known = self.params.get("steps")
        # The last execution of an epoch counts as a whole one.
        if known is not None and -(-known // step) * step < self._batches:
            raise self._too_few(f"{known} batches")

    def _too_few(self, received: str) -> ValueError:
        return ValueError(
            f"An epoch must have at least the {self._batches} batches that the checkpoint in "
            f"{self.folder} has seen. Received: {received}"
        )

    def _restore_within(self) -> None:
        """Goes on where the checkpoint was written."""
        if self._within is not None:
            restore_state_of_step(self.model, self._within["arrays"])
            _assign(rate_variable(self.model), self._within["rate"])
            _assign(batches_variable(self.model), self._within["count"])
            keep_in_training(self.model)
            self._within = None

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


def _value(variable: keras.Variable | None) -> Any:
    return None if variable is None else _listed(variable.value)


def _assign(variable: keras.Variable | None, value: Any) -> None:
    if variable is not None and value is not None:
        variable.assign(value)


def _plain(value: Any) -> Any:
    """A number of Python."""
    return value if value is None or isinstance(value, int) else float(value)


def _storable(weight: Any) -> np.ndarray:
    # NumPy's files have no bfloat16.
    array = np.asarray(weight)
    return array if array.dtype.kind in "biuf" else array.astype(np.float32)


def _numbered(name: str, arrays: Sequence[Any]) -> dict[str, np.ndarray]:
    return {_array_name(name, n): _storable(each) for n, each in enumerate(arrays)}


def _array_name(name: str, number: int) -> str:
    return f"{name}-{number}"
