"""What the tests of the face programs share."""

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def people(tmp_path):
    """A folder of six people with four images each: everyone a pattern, every image some noise."""
    folder = tmp_path / "people"
    rng = np.random.default_rng(0)
    for person in range(6):
        pattern = rng.integers(40, 216, size=(4, 4))
        for image in range(1, 5):
            pixels = np.kron(pattern, np.ones((4, 4))) + rng.normal(scale=12, size=(16, 16))
            path = folder / f"p{person}" / f"p{person}_{image:04d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.clip(0, 255).astype("uint8")).save(path)
    return folder
