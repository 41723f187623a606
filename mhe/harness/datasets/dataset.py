"""A dataset in memory."""

from dataclasses import dataclass

import numpy as np

from mhe.harness.errors import BadInput

Split = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Dataset:
    """A training and a test set of images with class labels and, optionally, values to regress.

    Attributes:
        name: The name or path it was loaded from.
        train: Images, uint8 `(N, H, W, C)`, and labels, int64 `(N,)`.
        test: The same for the test set.
        class_names: The names of the classes; label i is `class_names[i]`.
        values: Regression targets, float32 `(N,)`, of the training and of the test set, or `None`.
    """

    name: str
    train: Split
    test: Split
    class_names: tuple[str, ...]
    values: Split | None = None

    def require_classes(self) -> None:
        """Refuses a dataset on which classification makes no sense.

        Raises:
            BadInput: If it has fewer than two classes, or if no class of the test set is in the
                training set, as in TensorFlow Datasets' `omniglot`.
        """
        if len(self.class_names) < 2:
            raise BadInput(
                f"{self.name} must have at least two classes. "
                f"Received: {', '.join(self.class_names)}"
            )
        if not np.isin(self.test[1], self.train[1]).any():
            raise BadInput(
                f"{self.name} must have test images of the classes to train on; only "
                "benchmarks/fewshot.py does without. Received: "
                f"{np.unique(self.train[1]).size} classes to train on, "
                f"{np.unique(self.test[1]).size} others to test on"
            )
