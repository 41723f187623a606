"""The flags that the programs share, and the images, schedules and optimizers they stand for."""

import argparse

import keras
import numpy as np
import pytest

from mhe.harness import datasets, recipes
from mhe.harness.errors import BadInput
from mhe.harness.flags import Parser


def parse(add, *argv, **own):
    parser = Parser("benchmarks/x.py", "Trains.")
    add(parser, **own)
    return parser.parse(argv)[0]


def test_network_flags_have_the_defaults_of_the_program():
    args = parse(recipes.add_network_flags, arch="conv4", base_lr=0.1, drops="0.5", epochs=9)
    assert (args.arch, args.width, args.epochs, args.batch_size) == ("conv4", 1.0, 9, 128)
    assert (args.base_lr, args.drops, args.weight_decay, args.augment) == (0.1, "0.5", None, None)
    args = parse(
        recipes.add_network_flags,
        *("--arch", "cnn9", "--augment", "affine", "--weight_decay", "0"),
        arch="conv4",
        base_lr=None,
        drops="0.5",
        batch_size=5,
        width=0.5,
    )
    assert (args.arch, args.width, args.batch_size) == ("cnn9", 0.5, 5)
    assert (args.base_lr, args.augment, args.weight_decay) == (None, "affine", 0.0)
    assert "epochs" not in args


def test_step_flags_may_lack_epochs_and_drops():
    args = parse(recipes.add_step_flags, batch_size=7, base_lr=0.1)
    assert (args.batch_size, args.base_lr) == (7, 0.1)
    assert not {"epochs", "drops"} & vars(args).keys()


def test_comparison_flags():
    args = parse(recipes.add_comparison_flags)
    assert (args.validation, args.seeds) == (0.0, 1)
    args = parse(recipes.add_comparison_flags, "--validation", "0.25", "--seeds", "3")
    assert (args.validation, args.seeds) == (0.25, 3)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--arch", "vgg"], "--arch: invalid choice: 'vgg'"),
        (["--augment", "mixup"], "--augment: invalid choice: 'mixup'"),
        (["--width", "0"], "--width: must be a number above 0"),
        (["--epochs", "0"], "--epochs: must be an integer from 1 to"),
        (["--batch_size", "0"], "--batch_size: must be an integer from 1 to"),
        (["--base_lr", "0"], "--base_lr: must be a number above 0"),
        (["--weight_decay", "-1"], "--weight_decay: must be a number from 0 to"),
    ],
)
def test_bad_network_flags_are_named(argv, message):
    with pytest.raises(BadInput, match=message):
        parse(recipes.add_network_flags, *argv, arch="conv4", base_lr=1, drops="0.5", epochs=9)


def test_digits_are_not_augmented_unless_asked():
    for dataset, asked, resolved in (
        ("digits", None, "none"),
        ("digits", "crop_flip", "crop_flip"),
        ("cifar100", None, "crop_flip"),
        ("cifar100", "none", "none"),
    ):
        args = argparse.Namespace(dataset=dataset, augment=asked)
        recipes.resolve_augment(args)
        assert args.augment == resolved
        assert args.augment in recipes.AUGMENTATIONS


@pytest.mark.parametrize(
    ("drops", "numbers"),
    [
        ("0.5", [0.5]),
        ("0.5,0.75", [0.5, 0.75]),
        (" 0.25 , 1/2", [0.25, 0.5]),
        ("20/42.5,30/42.5,37.5/42.5", [20_000 / 42_500, 30_000 / 42_500, 37_500 / 42_500]),
    ],
)
def test_fractions_are_exact(drops, numbers):
    assert recipes.fractions(drops) == numbers


@pytest.mark.parametrize(
    "drops",
    ["", "half", "0", "1", "0.5,0.5", "0.75,0.5", "-0.5", "nan", "inf", "1/0", "0.5,", "/2"],
)
def test_bad_fractions_are_refused(drops):
    message = rf"--drops must be increasing numbers .* comma-separated\. Received: ?{drops}$"
    with pytest.raises(BadInput, match=message):
        recipes.fractions(drops)
    with pytest.raises(BadInput, match=message):
        recipes.check(argparse.Namespace(drops=drops, validation=0.0))


def test_a_validation_share_is_less_than_one():
    recipes.check(argparse.Namespace(drops="0.5", validation=0.99))
    with pytest.raises(BadInput, match=r"--validation must be less than 1\. Received: 1$"):
        recipes.check(argparse.Namespace(drops="0.5", validation=1.0))


@pytest.mark.parametrize("steps", [42_500, 850])
def test_rates_drop_after_their_share_of_the_steps(steps):
    drops = recipes.fractions("20/42.5,30/42.5,37.5/42.5")
    rate = recipes.stepped(0.5, steps, drops)
    expected = [
        0.5 * 0.1 ** sum(step >= round(steps * drop) for drop in drops) for step in range(steps)
    ]
    for drop in drops:
        at = round(steps * drop)
        for step in (at - 1, at):
            assert float(rate(step)) == pytest.approx(expected[step], rel=1e-6)
    assert float(rate(0)) == 0.5
    assert float(rate(steps - 1)) == pytest.approx(0.5e-3, rel=1e-6)


def test_the_rate_of_the_optimizer_is_that_of_each_iteration():
    """The first step is iteration 0, and a drop after half of 4 steps acts on the third."""
    args = argparse.Namespace(base_lr=0.5, drops="0.5")
    optimizer = recipes.optimizer(args, 4)
    assert isinstance(optimizer, keras.optimizers.SGD)
    assert optimizer.momentum == 0.9
    optimizer.momentum = 0
    weight = keras.Variable(np.zeros(1, "float32"))
    optimizer.build([weight])
    values = [0.0]
    for _ in range(4):
        optimizer.apply([keras.ops.ones(1)])
        values.append(float(keras.ops.convert_to_numpy(weight)[0]))
    assert -np.diff(values) == pytest.approx([0.5, 0.5, 0.05, 0.05], rel=1e-5)


def test_batches_to_evaluate_on_are_in_order():
    images = np.arange(1201, dtype=np.uint8).reshape(-1, 1, 1, 1)
    labels = np.arange(1201)
    batches = recipes.in_order(images, labels)
    assert [len(batches[i][1]) for i in range(len(batches))] == [500, 500, 201]
    assert np.concatenate([batches[i][1] for i in range(len(batches))]).tolist() == labels.tolist()


def test_tensorflow_uses_its_own_convolutions_without_a_gpu(monkeypatch):
    for backend, gpus, expected in (
        ("tensorflow", [], False),
        ("tensorflow", ["gpu:0"], "auto"),
        ("jax", [], "auto"),
        ("torch", [], "auto"),
    ):
        monkeypatch.setattr(keras.backend, "backend", lambda backend=backend: backend)
        monkeypatch.setattr(keras.distribution, "list_devices", lambda kind, gpus=gpus: gpus)
        assert recipes.jit_compile() == expected


def load(**own):
    flags = {"dataset": "digits", "data_dir": None, "image_size": None, "label": "school"}
    return recipes.load(argparse.Namespace(**{**flags, "train_images": None, "seed": 0, **own}))


def test_all_images_are_loaded_by_default():
    data, whole = load(), datasets.load("digits")
    for part, expected in ((data.train, whole.train), (data.test, whole.test)):
        assert all(np.array_equal(a, b) for a, b in zip(part, expected, strict=True))
    assert load(validation=0.0).train[1].size == whole.train[1].size


def rows(part):
    """Images as bytes with their labels, to compare sets of them."""
    return sorted((image.tobytes(), int(label)) for image, label in zip(*part, strict=True))


def test_validation_images_are_held_out_of_the_training_set():
    whole = datasets.load("digits")
    data = load(validation=0.25)
    assert sorted(rows(data.train) + rows(data.test)) == rows(whole.train)
    held, every = np.bincount(data.test[1]), np.bincount(whole.train[1])
    assert np.all(np.abs(held - every / 4) <= 1)
    assert rows(load(validation=0.25).test) == rows(data.test)
    assert rows(load(validation=0.25, seed=1).test) != rows(data.test)


def test_fewer_training_images_are_balanced_and_leave_the_test_set():
    whole = datasets.load("digits")
    data = load(train_images=50)
    assert np.bincount(data.train[1]).tolist() == [5] * 10
    assert rows(data.test) == rows(whole.test)
    # With --validation, of those that are left.
    data, left = load(train_images=50, validation=0.25), load(validation=0.25)
    assert np.bincount(data.train[1]).tolist() == [5] * 10
    assert set(rows(data.train)) <= set(rows(left.train))
    assert rows(data.test) == rows(left.test)


def test_values_follow_their_images(monkeypatch):
    images = np.arange(40, dtype=np.uint8).reshape(40, 1, 1, 1)
    labels = np.arange(40) % 4
    test = (images[:8] + 100, labels[:8])
    values = (images[:, 0, 0, 0] * 10.0, test[0][:, 0, 0, 0] * 10.0)
    whole = datasets.Dataset("art", (images, labels), test, tuple("abcd"), values)
    monkeypatch.setattr(datasets, "load", lambda *_: whole)
    for flags in (
        {},
        {"train_images": 12},
        {"validation": 0.25},
        {"validation": 0.25, "train_images": 8},
    ):
        data = load(**flags)
        for part, own in zip((data.train, data.test), data.values, strict=True):
            assert own.tolist() == (part[0][:, 0, 0, 0] * 10.0).tolist()


@pytest.mark.parametrize("share", [1e-9, 0.999999])
def test_a_share_that_leaves_no_images_is_refused(share):
    with pytest.raises(BadInput, match=r"--validation must leave images to train on and to valid"):
        load(validation=share)
