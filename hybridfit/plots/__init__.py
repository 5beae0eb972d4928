"""Pictures of fits and of calibrations.

The functions return matplotlib figures and leave its global state alone; save them with
``figure.savefig(path)``.
"""

from hybridfit.plots.calibration import plot_coverage, plot_ranks, plot_tarp, plot_widths
from hybridfit.plots.fits import LABELS, matched, offsets, plot_residuals, plot_truth

__all__ = [
    "LABELS",
    "matched",
    "offsets",
    "plot_coverage",
    "plot_ranks",
    "plot_residuals",
    "plot_tarp",
    "plot_truth",
    "plot_widths",
]
