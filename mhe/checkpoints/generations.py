"""The newest checkpoints of a training: weights and optimizer, what goes with them, checksums."""

import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import keras

from mhe.checkpoints import checksums
from mhe.checkpoints.files import PARTIAL, replacing
from mhe.memory import is_out_of_memory
from mhe.text import brief

_WEIGHTS = ".weights.h5"
# Characters of an error of Keras, which may list hundreds of layers.
_QUOTED = 300


@dataclass(frozen=True)
class Checkpoints:
    """A folder with the checkpoints of the last epochs.

    A checkpoint is `epoch-000007.weights.h5`, with all that Keras tracks in a model, a companion of
    the same name, and the checksums of both. The weights are written last and moved into place in
    one step, so a checkpoint that has them is complete. One within the next epoch is
    `epoch-000007_batch-000500.weights.h5`. Other files in the folder are left alone.

    Attributes:
        folder: The folder.
        companion: The suffix of the companion, such as `".csv"`.
        kept: How many checkpoints are kept.

    Example:

    >>> import tempfile
    >>> from mhe.keras_internals import weights_file
    >>> kept = Checkpoints(Path(tempfile.mkdtemp()), ".txt")
    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    >>> for epoch in (1, 2, 3):
    ...     kept.write(weights_file(model), epoch, lambda path: path.write_text("notes"))
    >>> [path.name for path in kept.weights]
    ['epoch-000002.weights.h5', 'epoch-000003.weights.h5']
    >>> _ = kept.weights[-1].write_bytes(b"damaged")
    >>> path, unreadable = kept.restore(model)
    >>> path.name, len(unreadable)
    ('epoch-000002.weights.h5', 1)
    """

    folder: Path
    companion: str
    kept: int = 2

    @property
    def weights(self) -> list[Path]:
        """The weights of the checkpoints, the newest last."""
        return [path for path in self.files() if path.name.endswith(_WEIGHTS)]

    def files(self, partial: bool = False) -> list[Path]:
        """The files of all checkpoints, or what a kill left of some."""
        suffixes = "|".join(map(re.escape, (_WEIGHTS, self.companion, checksums.SUFFIX)))
        own = re.compile(rf"(?:{PARTIAL})?epoch-\d{{6,}}(?:_batch-\d{{6,}})?(?:{suffixes})")
        return sorted(
            (
                path
                for path in self.folder.glob("*")
                if own.fullmatch(path.name)
                and path.name.startswith(PARTIAL) == partial
                and path.is_file()
            ),
            key=lambda path: (position_of(path), path.name),
        )

    def companion_of(self, weights: Path) -> Path:
        """The companion of a checkpoint."""
        return _sibling(weights, self.companion)

    def write(
        self,
        content: memoryview,
        epoch: int,
        write_companion: Callable[[Path], object],
        batch: int = 0,
    ) -> None:
        """Writes a checkpoint, and deletes those that are no longer kept.

        Args:
            content: What `weights_file` returned for the model.
            epoch: The number of completed epochs.
            write_companion: Writes the companion in one step, given its path.
            batch: The number of completed batches of the next epoch.

        Raises:
            CannotWriteError: If the operating system refuses to write. Earlier checkpoints stay.
        """
        within = f"_batch-{batch:06d}" if batch else ""
        weights = self.folder / f"epoch-{epoch:06d}{within}{_WEIGHTS}"
        companion = self.companion_of(weights)
        with replacing(weights) as partial:
            partial.write_bytes(content)
            write_companion(companion)
            checksums.write_checksums(
                _sibling(weights, checksums.SUFFIX),
                {weights.name: partial, companion.name: companion},
            )
        self.delete_old()

    def delete_partial(self) -> None:
        """Deletes what a kill left of checkpoints."""
        for partial in self.files(partial=True):
            partial.unlink()

    def delete_old(self) -> None:
        """Deletes the checkpoints that are no longer kept."""
        kept = {position_of(path) for path in self.weights[-self.kept :]}
        # Weights first, which would be taken for those of an earlier version without checksums.
        for path in sorted(self.files(), key=lambda path: path.suffix != ".h5"):
            if position_of(path) not in kept:
                path.unlink()

    def require_intact(self, weights: Path) -> None:
        """Refuses a checkpoint that has changed; those of earlier versions have no checksums.

        Args:
            weights: Its weights.

        Raises:
            Damaged: If its weights or its companion have changed.
            OSError: If they cannot be read.
        """
        sums = _sibling(weights, checksums.SUFFIX)
        if sums.exists():
            checksums.require_intact(sums, [weights.name, self.companion_of(weights).name])

    def restore(self, model: keras.Model) -> tuple[Path, list[str]]:
        """Puts the newest checkpoint that is intact into a model.

        Args:
            model: The model, built and compiled as when the training started. Everything that Keras
                tracks in it is restored: weights, optimizers, metrics.

        Returns:
            The weights of the checkpoint, and what is wrong with each newer one.

        Raises:
            ValueError: If no checkpoint can be read, or it belongs to another model.
        """
        optimizer = getattr(model, "optimizer", None)
        if optimizer is not None and not optimizer.built:
            optimizer.build(model.trainable_variables)
        unreadable: list[str] = []
        for path in reversed(self.weights):
            try:
                self.require_intact(path)
                with warnings.catch_warnings(record=True) as caught:
                    warnings.simplefilter("always", UserWarning)
                    model.load_weights(path)
            except checksums.Damaged as error:
                unreadable.append(f"{path} cannot be read: {error}")
            except ValueError as error:
                raise ValueError(f"{path} belongs to another model: {error}") from error
            # Damage without a checksum, as in runs of earlier versions, surfaces anywhere in HDF5.
            except Exception as error:
                if is_out_of_memory(error):
                    raise
                if _sibling(path, checksums.SUFFIX).exists():
                    raise ValueError(
                        f"{path} is intact but cannot be loaded: {brief(error, _QUOTED)}"
                    ) from error
                unreadable.append(f"{path} cannot be read: {brief(error, _QUOTED)}")
            else:
                # Keras only warns when it leaves an optimizer unrestored.
                doubts = [each for each in caught if issubclass(each.category, UserWarning)]
                if doubts:
                    raise ValueError(f"{path} belongs to another model: {doubts[0].message}")
                return path, unreadable
        raise ValueError(f"No checkpoint can be read, start a new run: {'; '.join(unreadable)}")


def epoch_of(path: Path) -> int:
    """The number of completed epochs of a checkpoint.

    Example:

    >>> epoch_of(Path("checkpoints/epoch-000012.weights.h5"))
    12
    """
    return position_of(path)[0]


def position_of(path: Path) -> tuple[int, int]:
    """The numbers of completed epochs, and of completed batches of the next one.

    Example:

    >>> position_of(Path("checkpoints/epoch-000012_batch-000500.weights.h5"))
    (12, 500)
    >>> position_of(Path("checkpoints/epoch-000012.weights.h5"))
    (12, 0)
    """
    stem = path.name.removeprefix(PARTIAL).removeprefix("epoch-").split(".")[0]
    epoch, _, batch = stem.partition("_batch-")
    return int(epoch), int(batch or 0)


def _sibling(weights: Path, suffix: str) -> Path:
    return weights.with_name(weights.name.removesuffix(_WEIGHTS) + suffix)
