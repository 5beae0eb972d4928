"""Figures of fits and of calibrations.

The functions return matplotlib figures and do not touch its global state; save them with
``figure.savefig(path)``.
"""

from hybridfit.plots.annuli import AnnularProfile, Ellipse, annular_profile
from hybridfit.plots.calibration import (
    plot_coverage,
    plot_methods,
    plot_ranks,
    plot_tarp,
    plot_widths,
)
from hybridfit.plots.comparison import plot_chi2, plot_differences, plot_pulls, plot_rivals
from hybridfit.plots.corner import plot_corner
from hybridfit.plots.galaxy import GalaxyPicture, Measured, plot_galaxy
from hybridfit.plots.layers import DrawsLayer, GaussianLayer
from hybridfit.plots.residuals import plot_residuals
from hybridfit.plots.style import LABELS
from hybridfit.plots.truth import matched, offsets, plot_truth
from hybridfit.plots.zoom import Box, zoom_box

__all__ = [
    "LABELS",
    "AnnularProfile",
    "Box",
    "DrawsLayer",
    "Ellipse",
    "GalaxyPicture",
    "GaussianLayer",
    "Measured",
    "annular_profile",
    "matched",
    "offsets",
    "plot_chi2",
    "plot_corner",
    "plot_coverage",
    "plot_differences",
    "plot_galaxy",
    "plot_methods",
    "plot_pulls",
    "plot_ranks",
    "plot_residuals",
    "plot_rivals",
    "plot_tarp",
    "plot_truth",
    "plot_widths",
    "zoom_box",
]
