"""Measures parts of a session on one backend: `python -m gpu.worker` in `benchmarks/`.

It reads a job and answers like `timing.worker`, whose tasks it has, too.
"""

import json
import sys
from collections.abc import Callable

import distances
import face_heads
import numpy as np
from timing import worker
from timing.rounds import interleaved, paired
from timing.worker import Options, Rows

from gan import train as gan_program
from mhe.layers.distance import DISTANCES


def time_distances(case: Options, job: Options) -> Rows:
    """Times distances to prototypes; ratios are to the matrix product that they need."""
    flags = {**job, **case, "distances": DISTANCES}
    return distances.measure(flags, case["placed"], case["gradient"])


def time_heads(case: Options, job: Options) -> Rows:
    """Times a step with a face head beside one with the plain softmax, to which the ratio is."""
    flags = {**job, **case}
    features, labels = face_heads.draw(flags, case["batch_size"])
    calls = {
        name: worker.step(face_heads.build(flags, name), features, labels)
        for name in (face_heads.PLAIN, case["head"])
    }
    return _paired(calls, job)


def time_gan(case: Options, job: Options) -> Rows:
    """Times a step of a GAN with the published energy beside one without."""
    names = ("sn", "sn_mhe") if case["spectral_norm"] else ("baseline", "mhe")
    pixels = np.random.default_rng(job["seed"]).integers(256, size=(case["batch"], 32, 32, 3))
    calls = {}
    for name in names:
        flags = ["--width", str(job["width"]), "--seed", str(job["seed"])]
        args, _ = gan_program.make_parser().parse(flags)
        args.model_name = name
        model = gan_program.build(args, pixels.shape[1:])
        calls[name] = worker.step(model, pixels.astype("uint8"), None)
    return _paired(calls, job)


def _paired(calls: dict[str, Callable[[], None]], job: Options) -> Rows:
    times = interleaved(calls, job["rounds"], job["seconds"], seed=job["order"])
    ratios = paired(times, to=next(iter(calls)))
    return [{"method": name, **each} for name, each in ratios.items()]


TASKS: dict[str, Callable[[Options, Options], Rows]] = {
    **worker.TASKS,
    "distances": time_distances,
    "heads": time_heads,
    "gan": time_gan,
    "head_memory": lambda case, job: [face_heads.measure({**job, **case}, case["head"])],
}


if __name__ == "__main__":
    for answer in worker.answers(json.load(sys.stdin), TASKS):
        print(json.dumps(answer), flush=True)
