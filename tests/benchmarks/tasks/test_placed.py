"""Prototypes that a run keeps."""

from pathlib import Path

import numpy as np
import pytest

from mhe.harness.errors import BadInput
from mhe.harness.run import Run

pytestmark = pytest.mark.one_backend


def test_prototypes_that_have_changed_are_refused(load_task, tmp_path):
    placed = load_task("placed")
    run = Run(Path(tmp_path), {}, resumed=False)
    rows = np.random.default_rng(0).normal(size=(40, 8))
    assert placed.read_or_place(run, lambda: rows) is rows
    placed.keep(run, rows)
    path = tmp_path / "prototypes.npy"
    np.testing.assert_array_equal(placed.read_or_place(run, None), rows)
    data = path.read_bytes()
    path.write_bytes(data[:1024] + bytes(512) + data[1536:])
    # It is an array of the right shape: nothing else would tell.
    assert placed.read(path).shape == rows.shape
    with pytest.raises(BadInput, match=r"prototypes\.npy is not the file whose checksum .* holds"):
        placed.read_or_place(run, None)
    path.unlink()
    assert placed.read_or_place(run, lambda: rows) is rows
    placed.keep(run, rows)
    np.testing.assert_array_equal(placed.read_or_place(run, None), rows)
    # Of a run of an earlier version.
    (tmp_path / "prototypes.npy.sha256").unlink()
    np.testing.assert_array_equal(placed.read_or_place(run, None), rows)
