"""Decisions of least expected cost beside those of the largest score, from one training.

The temperature that turns scores into probabilities is fitted on one half of the held-out images
and used on the other, and the other way around: none is decided on with its own label.

Reference: Karthik et al., No cost likelihood manipulation at test time for making better mistakes
in deep networks, ICLR 2021 (arXiv 2104.00795).
"""

import numpy as np
from keras.ops import convert_to_numpy

import mhe
from mhe.harness.datasets import halves
from mhe.harness.tables import text_table

# The first answers that are judged together, where there are so many classes.
_BEST = 5
_TITLES = {
    "": "largest score",
    "decided_": "least expected cost",
    "nodes_": "the same, of all nodes",
}


def compare(scores: np.ndarray, labels: np.ndarray, tree: mhe.ClassTree) -> dict[str, float]:
    """Measures the decisions that scores lead to.

    Args:
        scores: The logits `(N, classes)` of held-out images.
        labels: Their labels `(N,)`.
        tree: The classes.

    Returns:
        Metrics by name: those of the largest score; with the prefix `decided_`, those of the class
        of least expected cost; with `nodes_`, those of the node of least expected cost.
        `cost_at_5` is the mean cost of the first five classes in either order. A node is right if
        it is the class or above it, and its specificity is the information that it gives about the
        class, as a share: 1 for a class, 0 for the root.

    Example:

    >>> tree = mhe.ClassTree.from_paths(["animal/dog", "animal/cat", "oak"])
    >>> scores = np.array([[9.0, 8.0, 0.0], [8.0, 9.0, 0.0], [0.0, 0.0, 9.0], [9.0, 0.0, 8.0]])
    >>> compare(scores, np.array([0, 1, 2, 2]), tree)["mistake_severity"]
    3.0
    """
    calibrated, temperatures = _calibrated(scores, labels)
    metrics: dict[str, float] = {"temperature": float(np.mean(temperatures))}
    for name, logits in (("", scores), ("calibrated_", calibrated)):
        measure = mhe.metrics.CalibrationError(from_logits=True)
        measure.update_state(labels, logits)
        metrics[f"{name}calibration_error"] = float(measure.result())
    costs = tree.cost_matrix()
    expected = convert_to_numpy(mhe.layers.expected_costs(calibrated, costs))
    for name, answers in (("", scores.argmax(axis=1)), ("decided_", expected.argmin(axis=1))):
        paid, wrong = costs[labels, answers], answers != labels
        metrics[f"{name}error"] = float(wrong.mean())
        metrics[f"{name}average_cost"] = float(paid.mean())
        metrics[f"{name}mistake_severity"] = float(paid[wrong].mean()) if wrong.any() else 0.0
    for name, ranked in (("", scores), ("decided_", -expected)):
        first = mhe.metrics.TopKCost(costs, k=min(_BEST, len(costs)))
        first.update_state(labels, ranked)
        metrics[f"{name}cost_at_{_BEST}"] = float(first.result())
    costs = tree.cost_matrix(inner=True)
    answers = convert_to_numpy(mhe.layers.expected_costs(calibrated, costs)).argmin(axis=1)
    below = tree.classes_below()
    metrics["nodes_error"] = float(1 - below[labels, answers].mean())
    metrics["nodes_average_cost"] = float(costs[labels, answers].mean())
    metrics["nodes_specificity"] = float(specificity(below)[answers].mean())
    return metrics


def specificity(below: np.ndarray) -> np.ndarray:
    """The share of the information about the class that each node gives, `(nodes,)`.

    Args:
        below: What `ClassTree.classes_below` returned.

    Example:

    >>> tree = mhe.ClassTree.from_paths(["a/b", "a/c", "d/e", "d/f"])
    >>> specificity(tree.classes_below())  # of the root, a, b, c, d, e, f
    array([0. , 0.5, 1. , 1. , 0.5, 1. , 1. ])

    Reference:
        Deng et al., Hedging your bets: optimizing accuracy-specificity trade-offs in large scale
        visual recognition, CVPR 2012.
    """
    return 1 - np.log(below.sum(axis=0)) / np.log(len(below))


def coverage_curves(
    scores: np.ndarray, labels: np.ndarray, tree: mhe.ClassTree
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Returns the average cost of the answers if only the surest are given.

    Args:
        scores: The logits `(N, classes)` of held-out images.
        labels: Their labels `(N,)`.
        tree: The classes.

    Returns:
        For each way to decide, the shares of the images that are answered, which increase to 1, and
        the average cost of these answers. The class of the largest score is as sure as its
        probability; that of least expected cost is the surer the less it is expected to cost.

    Example:

    >>> tree = mhe.ClassTree.from_paths(["animal/dog", "animal/cat", "oak"])
    >>> scores = np.array([[9.0, 8.0, 0.0], [0.0, 9.0, 0.0], [0.0, 0.0, 9.0], [8.0, 0.0, 7.0]])
    >>> shares, costs = coverage_curves(scores, np.array([0, 1, 2, 2]), tree)["largest score"]
    >>> shares.tolist(), costs.tolist()
    ([0.25, 0.5, 0.75, 1.0], [0.0, 0.0, 1.0, 0.75])

    Reference:
        Geifman and El-Yaniv, Selective classification for deep neural networks, NeurIPS 2017
        ([arXiv:1705.08500](https://arxiv.org/abs/1705.08500)), on risk and coverage.
    """
    calibrated, _ = _calibrated(scores, labels)
    costs = tree.cost_matrix()
    expected = convert_to_numpy(mhe.layers.expected_costs(calibrated, costs))
    likeliest = convert_to_numpy(mhe.layers.expected_costs(calibrated, 1 - np.eye(len(costs))))
    answers = {"": (scores.argmax(axis=1), likeliest), "decided_": (expected.argmin(1), expected)}
    return {
        _TITLES[name]: _by_coverage(costs[labels, chosen], risks.min(axis=1))
        for name, (chosen, risks) in answers.items()
    }


def _by_coverage(paid: np.ndarray, risks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The average cost `paid` of the images of the least risks, for every number of them."""
    order = np.argsort(risks, kind="stable")
    count = np.arange(1, len(paid) + 1)
    # Images of equal risk are answered together.
    ends = np.r_[np.diff(risks[order]) > 0, True]
    return (count / len(paid))[ends], (np.cumsum(paid[order]) / count)[ends]


def table(metrics: dict[str, float]) -> str:
    """Formats what `compare` returned, a decision a line."""
    rows = []
    for prefix, title in _TITLES.items():
        cells = [title, f"{100 * metrics[f'{prefix}error']:.2f}"]
        for name in ("average_cost", "mistake_severity", f"cost_at_{_BEST}", "specificity"):
            value = metrics.get(prefix + name)
            cells.append("" if value is None else f"{value:.3f}")
        rows.append(cells)
    columns = ["average cost", "severity", f"cost at {_BEST}", "specificity"]
    return text_table(rows, ["decision", "error (%)", *columns])


def _calibrated(scores: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, list[float]]:
    """Divides the scores of each half by the temperature of the other; and the temperatures."""
    half = halves(labels)
    calibrated, temperatures = scores.astype("float64"), []
    for own in (0, 1):
        try:
            temperature = mhe.calibrate(scores[half != own], labels[half != own])
        except ValueError:
            # Without a mistake, or without anything learnt, none is best.
            temperature = 1.0
        calibrated[half == own] /= temperature
        temperatures.append(temperature)
    return calibrated, temperatures
