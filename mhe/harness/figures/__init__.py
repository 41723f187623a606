"""PNG figures of runs, of the angles between neurons, of prototypes, and of mistakes."""

from mhe.harness.figures.canvas import require_matplotlib
from mhe.harness.figures.cosines import draw_cosines
from mhe.harness.figures.mistakes import draw_confusion, draw_coverage, draw_mistakes
from mhe.harness.figures.pictures import Explanation, draw_explanations, draw_input_prototypes
from mhe.harness.figures.prototypes import draw_circle, draw_plane, draw_sphere
from mhe.harness.figures.training import (
    draw_angles,
    draw_comparison,
    draw_curves,
    draw_metrics,
    draw_named,
    draw_series,
)

__all__ = [
    "Explanation",
    "draw_angles",
    "draw_circle",
    "draw_comparison",
    "draw_confusion",
    "draw_cosines",
    "draw_coverage",
    "draw_curves",
    "draw_explanations",
    "draw_input_prototypes",
    "draw_metrics",
    "draw_mistakes",
    "draw_named",
    "draw_plane",
    "draw_series",
    "draw_sphere",
    "require_matplotlib",
]
