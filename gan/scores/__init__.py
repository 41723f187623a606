"""How good generated images are, from the outputs and features of a classifier.

All scores are computed with NumPy in float64 from what `gan.classifiers.Classifier.score` returns.
Scores by different classifiers are not comparable.
"""

from gan.scores.frechet import frechet_distance
from gan.scores.inception import inception_score
from gan.scores.kernel import kernel_inception_distance
from gan.scores.manifold import precision_recall
from gan.scores.reference import Reference
from gan.scores.statistics import Statistics

__all__ = [
    "Reference",
    "Statistics",
    "frechet_distance",
    "inception_score",
    "kernel_inception_distance",
    "precision_recall",
]
