"""Modules that have moved can be imported by their old names, in a process of their own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import mhe

PROGRAM = """
import mhe.neurons
import mhe.heads as heads
from mhe.attach import Attached, attach
from mhe.image_regularizers import NearestImagePull, PixelRange, nearest_images, total_variation
from mhe.prototype_regularizers import Distortion, Rank, prototype_distances, rank_loss
from mhe.prototype_regularizers import squared_distortion
from mhe.selection import select
from mhe.energy import fresh_seed, sampled_energy

import mhe
from mhe.attach.neurons import NeuronWeight
from mhe.attach.outputs import head_layers
from mhe.regularizers import MHE, Sum, describe

assert mhe.attach is attach and callable(attach)
assert mhe.neurons.NeuronWeight is NeuronWeight
assert heads.head_layers is head_layers
assert mhe.PixelRange is PixelRange and mhe.MHE is MHE and mhe.Rank is Rank
assert mhe.prototype_regularizers.Distortion is mhe.Distortion is Distortion
"""


@pytest.mark.one_backend
def test_old_names_in_a_fresh_process():
    environment = {**os.environ, "PYTHONPATH": str(Path(mhe.__file__).parents[1])}
    subprocess.run([sys.executable, "-c", PROGRAM], env=environment, check=True, timeout=300)
