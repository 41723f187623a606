"""Datasets on which classification makes no sense."""

import numpy as np
import pytest

from mhe.harness.datasets import Dataset
from mhe.harness.errors import BadInput

pytestmark = pytest.mark.one_backend


def test_classes_to_test_on_must_be_trained_on():
    """As in TensorFlow Datasets' Omniglot, which is for few shots."""
    images = np.zeros((2, 4, 4, 1), "uint8")
    trained, others, both = ((images, np.array(y)) for y in ([0, 1], [2, 3], [1, 2]))
    names = ("a", "b", "c", "d")
    Dataset("omniglot", trained, both, names).require_classes()
    with pytest.raises(BadInput, match="Received: 2 classes to train on, 2 others to test on"):
        Dataset("omniglot", trained, others, names).require_classes()
