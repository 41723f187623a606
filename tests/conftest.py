"""What every test starts from: the same seed, no state left by the test before, a quiet backend."""

import os

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("MPLBACKEND", "Agg")

import keras
import pytest


@pytest.fixture(autouse=True)
def fresh_keras():
    """Seed Keras, NumPy and Python, and drop the names and graphs of the test before."""
    keras.backend.clear_session()
    keras.utils.set_random_seed(1)
