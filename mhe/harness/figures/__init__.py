"""Figures as PNG: of runs, and of the angles between neurons."""

from mhe.harness.figures.canvas import require_matplotlib
from mhe.harness.figures.training import (
    draw_angles,
    draw_comparison,
    draw_curves,
    draw_metrics,
    draw_series,
)

__all__ = [
    "draw_angles",
    "draw_comparison",
    "draw_curves",
    "draw_metrics",
    "draw_series",
    "require_matplotlib",
]
