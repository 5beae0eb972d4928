"""Pictures of fits and of calibrations.

The functions return matplotlib figures and leave its global state alone; save them with
``figure.savefig(path)``.
"""

from hybridfit.plots.calibration import (
    plot_coverage,
    plot_methods,
    plot_ranks,
    plot_tarp,
    plot_widths,
)
from hybridfit.plots.comparison import plot_chi2, plot_differences, plot_pulls, plot_rivals
from hybridfit.plots.corner import plot_corner
from hybridfit.plots.fits import matched, offsets, plot_residuals, plot_truth
from hybridfit.plots.layers import DrawsLayer, GaussianLayer
from hybridfit.plots.style import LABELS

__all__ = [
    "LABELS",
    "DrawsLayer",
    "GaussianLayer",
    "matched",
    "offsets",
    "plot_chi2",
    "plot_corner",
    "plot_coverage",
    "plot_differences",
    "plot_methods",
    "plot_pulls",
    "plot_ranks",
    "plot_residuals",
    "plot_rivals",
    "plot_tarp",
    "plot_truth",
    "plot_widths",
]
