"""Which devices a run is trained on: what `--distribute`, `--devices` and `--processes` mean.

The batches, their augmentation and the seeds are those of one device; a device gets its part of
each batch, or, with `classes`, its part of the class vectors. So the weights are those of one
device up to rounding: losses are means over the whole batch, energies and other regularizers count
once, and batch normalization takes its statistics from the whole batch.

JAX and TensorFlow drive all devices of a machine from one process. With several processes each
draws the same batches and trains on its share of them; the first one keeps the run's folder.
"""

import argparse
import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from mhe import keras_internals
from mhe.attach.outputs import head_layers
from mhe.harness import replicas
from mhe.harness.errors import BadInput

# Keras's own names: the addresses of all processes, or of the first, and which one this is.
ADDRESSES, PROCESS = "KERAS_DISTRIBUTION_JOB_ADDRESSES", "KERAS_DISTRIBUTION_PROCESS_ID"
# TensorFlow takes no such number from its environment.
CPU_DEVICES = "MHE_CPU_DEVICES"
# Layers whose classes are rows; those of other layers are the columns of a kernel.
_ROWS = ("prototypes", "representatives")


def check(args: argparse.Namespace, modes: Sequence[str], why: str) -> None:
    """Refuses flags about devices that cannot be used together, or with a program.

    Args:
        args: The flags.
        modes: The values of `--distribute` that the program has besides `none`.
        why: Why it does not have the others.

    Raises:
        BadInput: If they cannot be used.

    Example:

    >>> flags = argparse.Namespace(distribute="none", devices=4, processes=None)
    >>> check(flags, ["data"], "")
    Traceback (most recent call last):
        ...
    mhe.harness.errors.BadInput: --devices needs --distribute data or classes. Received: --devices 4
    """
    mode = args.distribute
    if mode == "none":
        for name in ("devices", "processes"):
            given = vars(args)[name]
            if given is not None:
                needed = "data or classes" if name == "devices" else "data"
                raise BadInput(f"--{name} needs --distribute {needed}. Received: --{name} {given}")
        return
    if mode not in modes:
        raise BadInput(f"--distribute {mode} does not suit this program: {why}")
    if mode == "classes" and args.processes is not None:
        raise BadInput(
            "--distribute classes is for the devices of one machine, without --processes. "
            f"Received: --processes {args.processes}"
        )
    backend = keras.backend.backend()
    if mode == "classes" and backend != "jax":
        raise BadInput(f"--distribute classes needs KERAS_BACKEND=jax. Received: {backend}")
    if backend == "tensorflow" and args.processes is not None:
        raise BadInput(
            "--processes needs KERAS_BACKEND=jax or torch; TensorFlow's replicas are the devices "
            f"of one machine. Received: --processes {args.processes}"
        )
    if backend == "torch" and args.devices is not None:
        raise BadInput(
            "--devices does not apply to PyTorch, which trains on a device per process: "
            f"torchrun --nproc_per_node {args.devices}. Received: --devices {args.devices}"
        )


@dataclass(frozen=True)
class Place:
    """Where a process is among those that train a run together.

    Attributes:
        process: Which it is, from 0.
        processes: How many there are.
        host: The machine of process 0.
        port: Its port, at which the backend meets; the next one is for `mhe.harness.peers`.
    """

    process: int = 0
    processes: int = 1
    host: str = "localhost"
    port: int = 0


_ALONE = Place()


def place(args: argparse.Namespace) -> Place:
    """Reads from the environment where this process is.

    torchrun tells PyTorch. For JAX it is in Keras's variables: `KERAS_DISTRIBUTION_JOB_ADDRESSES`,
    the `host:port` of process 0, and `KERAS_DISTRIBUTION_PROCESS_ID`.

    Args:
        args: The flags, which `check` has accepted.

    Raises:
        BadInput: If the environment does not say, or contradicts `--processes`.
    """
    is_torch = keras.backend.backend() == "torch"
    if args.distribute != "data" or not (is_torch or (args.processes or 1) > 1):
        return _ALONE
    number, count = ("RANK", "WORLD_SIZE") if is_torch else (PROCESS, "--processes")
    names = [number, count, "MASTER_ADDR", "MASTER_PORT"] if is_torch else [number, ADDRESSES]
    missing = [name for name in names if name not in os.environ]
    if missing and is_torch:
        raise BadInput(
            "--distribute data on PyTorch is started by torchrun, as in: torchrun "
            f"--nproc_per_node 2 benchmarks/train.py --distribute data. Received: no {missing[0]} "
            "in the environment"
        )
    if missing:
        raise BadInput(
            f"--processes needs {ADDRESSES}, the host:port of process 0, and {PROCESS}, from 0, in "
            f"the environment. Received: no {missing[0]}"
        )
    if is_torch:
        host, port = os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"]
        processes = os.environ["WORLD_SIZE"]
        if args.processes not in (None, int(processes)):
            raise BadInput(
                f"--processes must be what torchrun started, {processes}. "
                f"Received: {args.processes}"
            )
    else:
        host, _, port = os.environ[ADDRESSES].split(",")[0].rpartition(":")
        processes = str(args.processes)
    process = os.environ[number]
    if not host or not port.isdecimal() or not 0 < int(port) < 2**16 - 1:
        raise BadInput(f"{ADDRESSES} must be host:port. Received: {os.environ[ADDRESSES]}")
    if not process.isdecimal() or int(process) >= int(processes):
        raise BadInput(
            f"{number} must be an integer from 0 to {int(processes) - 1}. Received: {process}"
        )
    return Place(int(process), int(processes), host, int(port))


class Devices:
    """The devices of one run.

    Args:
        mode: `"none"`, `"data"` or `"classes"`.
        names: The devices that are used, of all processes.
        where: Where this process is among others.

    Example:

    >>> one = Devices("none", [])
    >>> with one.placed():
    ...     model = one.build(lambda: keras.Sequential([keras.layers.Dense(2)]), seed=0)
    >>> one.in_words(), one.callbacks(None)
    ('', [])
    """

    def __init__(self, mode: str, names: Sequence[str], where: Place = _ALONE):
        self.mode = mode
        self.names = list(names)
        self.where = where
        self._strategy: Any = None
        self._distribution: Any = None
        if mode == "data" and keras.backend.backend() == "tensorflow":
            # The one spot that needs TensorFlow itself: Keras has no distribution for it.
            import tensorflow as tf

            self._strategy = tf.distribute.MirroredStrategy(self.names)
        elif mode == "data" and keras.backend.backend() == "jax":
            self._distribution = keras.distribution.DataParallel(
                devices=self.names, auto_shard_dataset=False
            )

    @property
    def _is_replica(self) -> bool:
        return self.mode == "data" and keras.backend.backend() == "torch"

    @property
    def parts(self) -> int:
        """Into how many parts a batch is split."""
        return len(self.names) if self.mode == "data" else 1

    def in_words(self) -> str:
        """A line about the devices, empty for a run on one."""
        if self.mode == "none":
            return ""
        kind = self.names[0].replace("/device:", "").split(":")[0].lower()
        what = "batches" if self.mode == "data" else "class vectors"
        among = f" of {self.where.processes} processes" if self.where.processes > 1 else ""
        return f"{what} split among {len(self.names)} devices ({kind}){among}"

    def require_divisible(self, sizes: Sequence[int], backends: Sequence[str]) -> None:
        """Refuses batches that cannot be split into equal parts.

        Args:
            sizes: The numbers of images of the batches that an epoch has.
            backends: Those that can split them: what is computed of whole batches needs JAX.

        Raises:
            BadInput: If one cannot.
        """
        backend = keras.backend.backend()
        if backend not in backends:
            raise BadInput(
                f"--distribute data needs KERAS_BACKEND={' or '.join(backends)} here, as what "
                f"is trained looks at whole batches. Received: {backend}"
            )
        for size in sizes:
            if size % self.parts:
                raise BadInput(
                    f"--distribute data splits batches into {self.parts} equal parts, the last one "
                    "of an epoch too: change --batch_size, --train_images or --devices. "
                    f"Received: a batch of {size}"
                )

    @contextlib.contextmanager
    def placed(self) -> Iterator[None]:
        """What is built, restored and fitted inside is on the devices."""
        with contextlib.ExitStack() as stack:
            if self._strategy is not None:
                stack.enter_context(self._strategy.scope())
            elif self._distribution is not None:
                stack.enter_context(self._distribution.scope())
            yield

    def build(self, build: Callable[[], keras.Model], seed: int) -> keras.Model:
        """Builds a model on the devices.

        Args:
            build: Builds and compiles it.
            seed: Keras is seeded with it before.

        Raises:
            BadInput: If the model has no class vectors to split, their number cannot be divided, or
                a loss is of a kind that the backend cannot split.
        """
        keras.utils.set_random_seed(seed)
        if self.mode == "classes":
            # Layouts go by the names of variables, which only a model has.
            axes = class_axes(build())
            self._distribution = self._by_class(axes)
            # The names of layers, and what is drawn, begin anew.
            keras.backend.clear_session()
            keras.utils.set_random_seed(seed)
        with self.placed():
            model = build()
        if self._strategy is not None:
            keras_internals.build_once(model)
        if self._is_replica:
            replicas.require_means(model)
        return model

    def _by_class(self, axes: dict[str, tuple[int, int]]) -> Any:
        count = len(self.names)
        if not axes:
            raise BadInput("--distribute classes needs class vectors. Received: a model without")
        mesh = keras.distribution.DeviceMesh((1, count), ["batch", "classes"], self.names)
        layouts = keras.distribution.LayoutMap(mesh)
        for path, (axis, classes) in axes.items():
            if classes % count:
                raise BadInput(
                    f"--distribute classes splits class vectors into {count} equal parts. "
                    f"Received: {classes} in {path}; choose --devices accordingly"
                )
            layouts[path] = (*[None] * axis, "classes")
        return keras.distribution.ModelParallel(layout_map=layouts, batch_dim_name="batch")

    @contextlib.contextmanager
    def synchronized(self, model: keras.Model) -> Iterator[None]:
        """Inside, batch normalization takes its statistics from all parts of a batch.

        JAX's program is that of one device, and does so anyway.

        Args:
            model: The model.
        """
        if self._is_replica:
            with replicas.synchronized(model):
                yield
            return
        layers = []
        if self._strategy is not None:
            layers = [
                each
                for each in keras_internals.flat_layers(model)
                if isinstance(each, keras.layers.BatchNormalization) and not each.synchronized
            ]
        for each in layers:
            each.synchronized = True
        try:
            yield
        finally:
            for each in layers:
                each.synchronized = False

    def share(self, batches: keras.utils.PyDataset) -> keras.utils.PyDataset:
        """This process's part of each batch to train on."""
        return (
            Share(batches, self.where.process, self.where.processes)
            if self.where.processes > 1
            else batches
        )

    def validation(self, batches: keras.utils.PyDataset | None) -> keras.utils.PyDataset | None:
        """Batches to evaluate on, such that each device has a part of each.

        Args:
            batches: All of them, or None.

        Raises:
            BadInput: If there are too few images.
        """
        if batches is None or self._strategy is None or self.parts == 1:
            return batches
        whole = Merged(batches, at_least=self.parts * self.parts)
        if whole.rows < self.parts * self.parts:
            raise BadInput(
                f"--distribute data over {self.parts} devices needs at least "
                f"{self.parts * self.parts} images to evaluate on. Received: {whole.rows}"
            )
        return whole

    def callbacks(self, validation: keras.utils.PyDataset | None) -> list[keras.callbacks.Callback]:
        """What `fit` needs before all other callbacks.

        Args:
            validation: What it evaluates on, or None.
        """
        if self._is_replica:
            return [replicas.Alike()]
        if self._distribution is None:
            return []
        divisible = False
        if self.where.processes == 1 and validation is not None:
            ends = validation[0], validation[len(validation) - 1]
            divisible = all(_rows(batch) % self.parts == 0 for batch in ends)
        return [OnlyTraining(self._distribution, evaluates=divisible)]


class OnlyTraining(keras.callbacks.Callback):
    """Lets Keras split among devices what `fit` trains on, and nothing else.

    Keras splits every batch as the first, and fails at one that cannot be split. Other batches, in
    evaluation and in callbacks, are computed on all devices alike, with the weights as they are.

    Args:
        distribution: The distribution of the `fit`.
        evaluates: Whether batches to evaluate on can all be split.
    """

    def __init__(self, distribution: Any, evaluates: bool):
        super().__init__()
        self.distribution = distribution
        self.evaluates = evaluates

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        keras.distribution.set_distribution(self.distribution)

    def on_test_begin(self, logs: dict[str, float] | None = None) -> None:
        if not self.evaluates:
            keras.distribution.set_distribution(None)

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        keras.distribution.set_distribution(None)


class Share(keras.utils.PyDataset):
    """One of several equal parts of each batch of a dataset.

    Args:
        batches: The dataset.
        part: Which part, from 0.
        parts: The number of parts, which divides every batch.

    Example:

    >>> from mhe.harness.batches import Batches
    >>> batches = Batches(np.zeros((8, 2, 2, 1), "uint8"), np.arange(8), 4, shuffle=False)
    >>> [y.tolist() for x, y in Share(batches, 1, 2)]
    [[2, 3], [6, 7]]
    """

    def __init__(self, batches: keras.utils.PyDataset, part: int, parts: int):
        super().__init__(workers=1, use_multiprocessing=False)
        self.batches, self.part, self.parts = batches, part, parts

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> Any:
        def part(array: np.ndarray) -> np.ndarray:
            size, rest = divmod(len(array), self.parts)
            if rest:
                raise ValueError(
                    f"A batch must have {self.parts} equal parts. Received: {len(array)} rows"
                )
            return array[self.part * size : (self.part + 1) * size]

        return keras.tree.map_structure(part, self.batches[index])

    def on_epoch_begin(self) -> None:
        self.batches.on_epoch_begin()

    def on_epoch_end(self) -> None:
        self.batches.on_epoch_end()


class Merged(keras.utils.PyDataset):
    """The batches of a dataset, the last two as one if the last is small.

    Args:
        batches: The dataset, in its order.
        at_least: A last batch of fewer rows is merged with the one before.

    Example:

    >>> from mhe.harness.batches import Batches
    >>> batches = Batches(np.zeros((9, 2, 2, 1), "uint8"), np.arange(9), 4, shuffle=False)
    >>> [y.tolist() for x, y in Merged(batches, at_least=3)]
    [[0, 1, 2, 3], [4, 5, 6, 7, 8]]
    """

    def __init__(self, batches: keras.utils.PyDataset, at_least: int):
        super().__init__(workers=1, use_multiprocessing=False)
        self.batches = batches
        self.rows = _rows(batches[len(batches) - 1])
        self.merges = self.rows < at_least and len(batches) > 1
        if self.merges:
            self.rows += _rows(batches[len(batches) - 2])

    def __len__(self) -> int:
        return len(self.batches) - self.merges

    def __getitem__(self, index: int) -> Any:
        if not 0 <= index < len(self):
            raise IndexError(f"There are {len(self)} batches. Received: index={index}")
        batch = self.batches[index]
        if self.merges and index == len(self) - 1:
            batch = keras.tree.map_structure(
                lambda *arrays: np.concatenate(arrays), batch, self.batches[index + 1]
            )
        return batch

    def on_epoch_begin(self) -> None:
        self.batches.on_epoch_begin()

    def on_epoch_end(self) -> None:
        self.batches.on_epoch_end()


@contextlib.contextmanager
def of(args: argparse.Namespace, where: Place) -> Iterator[Devices]:
    """The devices that the flags ask for, while the block runs.

    Args:
        args: The flags, which `check` has accepted.
        where: Where this process is among others.

    Raises:
        BadInput: If there are fewer than `--devices`, or only one.
    """
    if args.distribute == "none":
        yield Devices("none", [])
        return
    backend = keras.backend.backend()
    if backend == "torch":
        with replicas.started() as kind:
            names = [f"{kind}:{process}" for process in range(where.processes)]
            yield Devices(args.distribute, names, where)
        return
    if backend == "jax" and where.processes > 1:
        address = f"{where.host}:{where.port}"
        keras.distribution.initialize(address, where.processes, where.process)
    names = _devices()
    wanted = len(names) if args.devices is None else args.devices
    if wanted > len(names):
        raise BadInput(
            f"--devices must be at most the {len(names)} that {backend} has. Received: {wanted}"
        )
    if where.processes > 1 and wanted < len(names):
        raise BadInput(
            f"--devices must be all {len(names)} devices of several processes. Received: {wanted}"
        )
    yield Devices(args.distribute, names[:wanted], where)


def class_axes(model: keras.Model) -> dict[str, tuple[int, int]]:
    """Finds the class vectors of a model.

    Args:
        model: The model.

    Returns:
        By the path of the variable, the axis of the classes and how many there are. Prototypes and
        representatives are class vectors; without any, the kernel of the model's head, or of the
        last layer before each output.

    Example:

    >>> inputs = keras.Input((4,))
    >>> hidden = keras.layers.Dense(8, name="hidden")(inputs)
    >>> class_axes(keras.Model(inputs, keras.layers.Dense(3, name="logits")(hidden)))
    {'logits/kernel': (1, 3)}
    """
    rows = {
        variable.path: (0, int(variable.shape[0]))
        for layer in keras_internals.flat_layers(model)
        for variable in (getattr(layer, name, None) for name in _ROWS)
        if isinstance(variable, keras.Variable)
    }
    if rows:
        return rows
    head = getattr(model, "head", None)
    layers = head_layers(model) if head is None else [head]
    kernels = [getattr(layer, "kernel", None) for layer in layers]
    return {
        kernel.path: (len(kernel.shape) - 1, int(kernel.shape[-1]))
        for kernel in kernels
        if isinstance(kernel, keras.Variable)
    }


def _devices() -> list[str]:
    """The devices of this backend: its accelerators if it has any, else its CPUs."""
    if keras.backend.backend() != "tensorflow":
        return keras.distribution.list_devices()
    import tensorflow as tf

    # Logical devices can be listed only once TensorFlow has started.
    if tf.config.list_physical_devices("GPU"):
        return [each.name for each in tf.config.list_logical_devices("GPU")]
    wanted = os.environ.get(CPU_DEVICES, "1")
    if not wanted.isdecimal() or not 1 <= int(wanted) <= 1024:
        raise BadInput(f"{CPU_DEVICES} must be an integer from 1 to 1024. Received: {wanted}")
    if int(wanted) > 1:
        (cpu,) = tf.config.list_physical_devices("CPU")
        logical = [tf.config.LogicalDeviceConfiguration()] * int(wanted)
        # Too late if TensorFlow has started, as in the second run of several.
        with contextlib.suppress(RuntimeError):
            tf.config.set_logical_device_configuration(cpu, logical)
    names = [each.name for each in tf.config.list_logical_devices("CPU")]
    if len(names) < int(wanted):
        raise BadInput(
            f"{CPU_DEVICES}={wanted} comes too late for TensorFlow, which has started. "
            f"Received: {len(names)} CPU devices"
        )
    return names


def _rows(batch: Any) -> int:
    return len(keras.tree.flatten(batch)[0])
