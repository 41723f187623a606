"""Makes the picture of the README: python docs/picture.py

Left and middle: twelve neurons with three inputs, before and after their energy is minimized.
Right: the angles between the first-layer filters of a small network that was trained on
scikit-learn's digits, and again after `mhe.attach` and as many further epochs.
"""

from pathlib import Path

import keras
import matplotlib
import numpy as np
from keras import layers, ops
from sklearn.datasets import load_digits

import mhe

matplotlib.use("Agg")
import matplotlib.pyplot as plt

FILE = Path(__file__).parent / "_static" / "spread.png"
BEFORE, AFTER = "#b8475a", "#2b6ca3"
EPOCHS = 15
AZIMUTH = 0.6  # where the spheres are seen from, in radians


def sphere_neurons() -> tuple[np.ndarray, np.ndarray]:
    """Twelve unit vectors `(12, 3)` near one another, and after 2,000 steps down their energy."""
    layer = keras.layers.Dense(12, use_bias=False, kernel_regularizer=mhe.MHE(1.0, space="full"))
    layer.build((None, 3))
    start = np.random.default_rng(1).normal([[1.2], [0.9], [0.6]], 0.5, size=(3, 12))
    layer.kernel.assign(start)
    model = keras.Sequential([keras.Input((3,)), layer])
    # A loss that is 0 leaves the energy alone.
    model.compile(keras.optimizers.Adam(0.03), loss=lambda y, outputs: 0.0 * ops.sum(outputs))
    model.fit(np.zeros((2000, 3)), np.zeros((2000, 12)), batch_size=1, verbose=0)
    end = ops.convert_to_numpy(layer.kernel)
    return tuple((each / np.linalg.norm(each, axis=0)).T for each in (start, end))


def filter_angles() -> tuple[np.ndarray, np.ndarray]:
    """Angles in degrees between all pairs of filters, trained without and then with MHE."""
    images, labels = load_digits(return_X_y=True)
    images = (images / 8 - 1).reshape(-1, 8, 8, 1)
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(32, 3, activation="relu", name="conv"),
            layers.Flatten(),
            layers.Dense(10),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    angles = []
    for regularizer in (None, mhe.MHE(1.0, s=2, space="half")):
        if regularizer:
            mhe.attach(model, regularizer, layers="conv")
        model.compile(keras.optimizers.Adam(3e-3), loss)
        model.fit(images, labels, epochs=EPOCHS, verbose=0)
        units = mhe.metrics.unit_neurons(model.get_layer("conv").kernel)
        cosines = (units @ units.T)[np.triu_indices(len(units), k=1)]
        angles.append(np.degrees(np.arccos(np.clip(cosines, -1, 1))))
    return tuple(angles)


def draw_sphere(axes: plt.Axes, neurons: np.ndarray, color: str, title: str) -> None:
    """Draws unit vectors as arrows from the middle of a sphere; those behind it are paler."""
    turn, height = np.mgrid[0 : 2 * np.pi : 40j, 0 : np.pi : 20j]
    x, y, z = np.cos(turn) * np.sin(height), np.sin(turn) * np.sin(height), np.cos(height)
    axes.plot_surface(x, y, z, color="#dfe5ea", alpha=0.25, linewidth=0)
    axes.plot_wireframe(x, y, z, color="#aab4bd", linewidth=0.3, rstride=4, cstride=4)
    viewer = np.array([np.cos(AZIMUTH), np.sin(AZIMUTH), 0.3])
    for neuron in neurons:
        alpha = 1.0 if neuron @ viewer > 0 else 0.35
        ends = np.stack([np.zeros(3), neuron], axis=1)
        axes.plot(*ends, color=color, linewidth=1.8, alpha=alpha)
        axes.plot(*ends[:, 1:], "o", color=color, markersize=6, alpha=alpha)
    axes.set_box_aspect((1, 1, 1), zoom=1.42)
    axes.set_axis_off()
    axes.view_init(elev=18, azim=np.degrees(AZIMUTH))
    axes.set_title(title, fontsize=11, y=1.05)


def main() -> None:
    keras.utils.set_random_seed(0)
    before, after = sphere_neurons()
    without, spread = filter_angles()
    figure = plt.figure(figsize=(11, 3.5), dpi=160)
    smallest = [
        np.degrees(np.arccos(np.max((units @ units.T)[~np.eye(len(units), dtype=bool)])))
        for units in (before, after)
    ]
    draw_sphere(
        figure.add_subplot(1, 3, 1, projection="3d"),
        before,
        BEFORE,
        f"12 neurons: smallest angle {smallest[0]:.0f}°",
    )
    draw_sphere(
        figure.add_subplot(1, 3, 2, projection="3d"),
        after,
        AFTER,
        f"after minimizing their energy: {smallest[1]:.0f}°",
    )
    axes = figure.add_subplot(1, 3, 3)
    bins = np.arange(0, 181, 7.5)
    axes.hist(without, bins, color=BEFORE, alpha=0.6, label="trained")
    axes.hist(spread, bins, histtype="step", color=AFTER, linewidth=2, label="attach, train on")
    axes.set_title("angles between 32 filters of a network", fontsize=11)
    axes.set_xlabel("degrees")
    axes.set_ylabel("pairs of filters")
    axes.set_xticks(range(0, 181, 45))
    axes.set_ylim(0, 165)
    axes.legend(frameon=False, ncols=2, loc="upper center")
    axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    FILE.parent.mkdir(exist_ok=True)
    figure.savefig(FILE)
    print(f"{FILE}: {[float(np.min(each).round(1)) for each in (without, spread)]}")


if __name__ == "__main__":
    main()
