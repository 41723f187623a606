"""The published energy against its formula as it is computed in the published code."""

import keras
import numpy as np
import pytest

import mhe
from gan import energies, networks

pytestmark = pytest.mark.one_backend


def published(kernel, magnitude):
    """In float64, without what does not depend on the kernel."""
    points = np.asarray(kernel, "float64").reshape(-1, kernel.shape[-1])
    points = points / np.linalg.norm(points, axis=0)
    entries = np.triu(-np.log(np.maximum(2 - 2 * points.T @ points, 1e-300) + 1e-4), k=1)
    return magnitude * entries.mean()


def test_attached_energy_is_the_published_one():
    network = networks.discriminator(0.1, (8, 8, 3), spectral_norm=True)
    table = energies.attach_published(network, energies.PUBLISHED_MAGNITUDES[True])
    assert [row.weight.count for row in table] == [6, 13, 13, 26, 26, 51, 51]
    expected = [published(np.asarray(row.weight.variable), 1e-7) for row in table]
    found = [float(keras.ops.convert_to_numpy(loss)) for loss in network.losses]
    np.testing.assert_allclose(found, expected, rtol=1e-3)
    assert energies.PUBLISHED_MAGNITUDES == {False: 1e-6, True: 1e-7}


def test_what_has_no_energy():
    one = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    with pytest.raises(ValueError, match=r"at least two neurons. Received: 'sequential"):
        energies.attach_published(one, 1e-6)
    with pytest.raises(ValueError, match="magnitude=-1"):
        energies.published_strength(-1, 4)
    with pytest.raises(ValueError, match=r"at least one neuron. Received: 0"):
        energies.published_strength(1e-6, 0)
    assert not mhe.attached(one)
