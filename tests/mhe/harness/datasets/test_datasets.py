"""What does not depend on files: the embedded digits, missing packages, no name at all."""

import builtins
import sys

import numpy as np
import pytest

from mhe.harness.datasets import load
from mhe.harness.errors import BadInput

pytestmark = pytest.mark.one_backend


def test_digits_are_embedded_and_split_the_same_every_time():
    from sklearn.datasets import load_digits

    dataset, again = load("digits"), load("digits")
    images = np.concatenate([dataset.train[0], dataset.test[0]])
    labels = np.concatenate([dataset.train[1], dataset.test[1]])
    assert images.dtype == np.uint8
    assert labels.dtype == np.int64
    assert images.max() == 255

    def rows(arrays, targets):
        flat = np.column_stack([np.reshape(arrays, (len(targets), -1)), targets])
        return flat[np.lexsort(flat.T)]

    source = load_digits()
    np.testing.assert_array_equal(
        rows(images, labels), rows(np.rint(source.images * 255 / 16), source.target)
    )
    shares = np.bincount(dataset.test[1]) / np.bincount(labels)
    np.testing.assert_allclose(shares, 0.2, atol=0.01)
    np.testing.assert_array_equal(dataset.test[0], again.test[0])


def test_digits_have_their_size():
    with pytest.raises(BadInput, match=r"always 8 pixels wide\. Received: --image_size 16"):
        load("digits", size=16)


def test_missing_packages_name_the_extra(monkeypatch, tmp_path):
    missing = {"sklearn.datasets", "PIL", "tensorflow_datasets"}
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name in missing:
            raise ImportError(f"No module named {name}")
        return real(name, *args, **kwargs)

    for split in ("train", "test"):
        (tmp_path / split / "a").mkdir(parents=True)
        (tmp_path / split / "a" / "0.png").touch()
    monkeypatch.setattr(builtins, "__import__", without)
    for dataset in ("digits", str(tmp_path), "cifar100"):
        with pytest.raises(BadInput, match=r'pip install "\.\[train\]" from the checkout'):
            load(dataset)


@pytest.mark.parametrize("dataset", ["", " "])
def test_no_name_at_all_is_refused(dataset, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadInput, match=rf"--dataset must be .*\. Received: '{dataset}'"):
        load(dataset)


@pytest.mark.parametrize(
    "name", ["0", "1e99", "é", "_", "a" * 400, "a\0b", "cifar10:3", "~nobody/x"]
)
def test_what_cannot_be_a_name_loads_no_tensorflow_datasets(name, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(BadInput, match=r"nor the name of a dataset that TensorFlow Datasets knows"):
        load(name)


def test_an_unknown_name_loads_no_tensorflow(monkeypatch):
    pytest.importorskip("tensorflow_datasets")
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    with pytest.raises(BadInput, match=r"nor the name of a dataset that TensorFlow Datasets knows"):
        load("no_such_dataset")


def test_a_list_of_paths_may_be_longer_than_a_name(tmp_path):
    with pytest.raises(BadInput, match="one of the paths does not exist"):
        load(",".join(f"{place:03}.zip" for place in range(100)))
