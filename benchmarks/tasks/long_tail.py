"""The accuracy of classes with many, with some and with few training images."""

import numpy as np

from mhe.harness.tables import text_table

GROUPS = ("head", "middle", "tail")


def thirds(counts: np.ndarray) -> dict[str, np.ndarray]:
    """Splits the classes into thirds by how many training images they have.

    Args:
        counts: The number of training images of each class, `(classes,)`.

    Returns:
        The classes of the head, the middle and the tail, most images first. If they cannot be split
        evenly, the head gets one class more than the tail, and the second left over goes to the
        middle.

    Example:

    >>> {group: classes.tolist() for group, classes in thirds(np.array([9, 1, 5, 7])).items()}
    {'head': [0, 3], 'middle': [2], 'tail': [1]}
    """
    order = np.argsort(-counts, kind="stable")
    return dict(zip(GROUPS, np.array_split(order, len(GROUPS)), strict=True))


def accuracies(labels: np.ndarray, answers: np.ndarray, counts: np.ndarray) -> dict[str, float]:
    """Measures each third of the classes: the mean of the accuracies of its classes.

    Args:
        labels: The labels of held-out images, `(N,)`.
        answers: The predicted classes, `(N,)`.
        counts: The number of training images of each class, `(classes,)`.

    Returns:
        The accuracies by group; none for a group without held-out images.

    Example:

    >>> labels, answers = np.array([0, 0, 1, 1, 2, 2]), np.array([0, 0, 1, 0, 0, 1])
    >>> accuracies(labels, answers, counts=np.array([100, 10, 1]))
    {'head': 1.0, 'middle': 0.5, 'tail': 0.0}
    """
    found = {}
    for group, classes in thirds(counts).items():
        each = [np.mean(answers[labels == k] == k) for k in classes if np.any(labels == k)]
        if each:
            found[group] = float(np.mean(each))
    return found


def table(found: dict[str, float], counts: np.ndarray) -> str:
    """Formats what `accuracies` returned, a group a line.

    Example:

    >>> print(table({"head": 1.0, "middle": 0.5, "tail": 0.0}, np.array([100, 10, 1])))
    third   classes  training images  accuracy (%)
    head          1              100        100.00
    middle        1               10         50.00
    tail          1                1          0.00
    """
    rows = []
    for group, classes in thirds(counts).items():
        if group in found:
            own = counts[classes]
            span = f"{own.max()}" if own.max() == own.min() else f"{own.max()} to {own.min()}"
            rows.append([group, str(len(classes)), span, f"{100 * found[group]:.2f}"])
    return text_table(rows, ["third", "classes", "training images", "accuracy (%)"])
