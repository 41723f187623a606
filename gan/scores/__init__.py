"""How good generated images are: scores of what a classifier makes of them.

All are NumPy in float64 on the class probabilities and features that `gan.classifiers` computes.
Scores by different classifiers do not compare.
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
