"""The figures of a comparison's page."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hybridfit import plots
from hybridfit.comparison import html as report
from hybridfit.comparison.differences import LOGARITHMIC, PARAMETERS, Pairs, shared_parameters
from hybridfit.comparison.pixels import model_images
from hybridfit.comparison.result import Comparison
from hybridfit.comparison.statistics import coverage_curve
from hybridfit.data.positions import to_cutout
from hybridfit.io.read import stack
from hybridfit.io.read_cutout import Cutout
from hybridfit.pipeline.run_cutouts import CutoutReader
from hybridfit.rendering.convolution import Convolution

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI = 90
LEAST_SIDE = 8  # pixels: smaller cutouts are not drawn


def overview(c: Comparison) -> list[str]:
    """Draw differences, pulls and coverage of every parameter."""
    names = shared_parameters(c.pairs)
    labels = [f"ln {name}" if name in LOGARITHMIC else name for name in names]
    columns = [PARAMETERS.index(name) for name in names]
    quoted, error = c.pairs.quoted, _errors(c.pairs)
    mag = magnitudes(c.pairs)
    kinds = [c.ours.quality[m] for m in c.pairs.galaxy]
    drawn = plots.plot_differences(
        mag,
        {label: quoted[:, k] for label, k in zip(labels, columns, strict=True)},
        {label: error[:, k] for label, k in zip(labels, columns, strict=True)},
        kinds if any(kinds) else (),
        other_side(c),
    )
    text = (
        "Difference of each parameter against magnitude. Grey bars: combined errors of both sides; "
        "dark line: running median; triangles: points beyond the panel."
    )
    parts = [report.figure(_png(drawn), text)]
    pull = c.pairs.pull_both
    pulls = {n: pull[:, k] for n, k in zip(names, columns, strict=True) if _any(pull[:, k])}
    if pulls:
        over = "our error" if c.theirs.exact else "both errors"
        drawn = plots.plot_pulls(pulls, f"(ours - {other_side(c)}) / {over}")
        text = "Histograms: pulls (difference over error); curve: normal distribution of width 1."
        parts.append(report.figure(_png(drawn), text))
        curve = coverage_curve(c.pairs)
        inside = "truths" if c.theirs.exact else "theirs"
        drawn = plots.plot_methods({f"within {over}": curve}, inside=inside)
        text = "Fraction of galaxies within Gaussian intervals; grey: two binomial errors."
        parts.append(report.figure(_png(drawn), text))
    return parts


def galaxy_picture(
    c: Comparison, m: int, read_cutout: CutoutReader, convolution: Convolution
) -> bytes | None:
    """Draw data, both models and residuals of one galaxy as PNG; None without pixels or models.

    Args:
        c: the comparison.
        m: index of the galaxy.
        read_cutout: reads the pixels of one of our rows.
        convolution: how models are convolved.
    """
    cutout = read_cutout(int(c.matches.ours[m]))
    if cutout is None or min(cutout.image.shape) < LEAST_SIDE:
        return None
    cutouts = stack([cutout])
    ours, theirs = (model_images(cutouts, side, [m], convolution)[0] for side in (c.ours, c.theirs))
    if ours is None and theirs is None:
        return None
    height, width = cutout.image.shape
    empty = np.full((height, width), np.nan)
    models = [empty if s is None else s.solved[:height, :width] for s in (theirs, ours)]
    drawn = plots.plot_rivals(
        cutout.image,
        models[0],
        models[1],
        cutout.sigma,
        cutout.mask,
        (other_side(c), "ours"),
        cutout.pixel_scale,
        cutout.wcs,
        _zoom(c, m, cutout),
        cutout.origin,
    )
    return _png(drawn)


def _zoom(c: Comparison, m: int, cutout: Cutout) -> plots.Box | None:
    """Return the part of a cutout around a small galaxy; None for the entire cutout."""
    rows = c.pairs.galaxy == m
    x, y, r_eff = (
        np.concatenate([c.pairs.ours[rows, k], c.pairs.theirs[rows, k]])
        for k in map(PARAMETERS.index, ("x", "y", "r_eff"))
    )
    known = np.isfinite(x + y + r_eff)
    if not known.any():
        return None
    x, y = to_cutout(x[known], y[known], cutout.origin)
    r_eff = r_eff[known]
    # wide enough for all components of both sides
    reach = float(r_eff.max() + max(np.ptp(x), np.ptp(y)))
    return plots.zoom_box(cutout.image.shape, (float(x.mean()), float(y.mean())), reach)


def chi2_picture(c: Comparison) -> str:
    """Draw the chi2 of theirs minus that of ours against magnitude."""
    mag = magnitudes(c.pairs)[first_rows(c.pairs)]
    drawn = plots.plot_chi2(mag, c.chi2.excess, c.verdicts.verdict)
    text = (
        "Chi2 of their parameters minus that of ours, on the same pixels and with the same "
        "renderer, after solving for fluxes and sky. Above 0, ours describe the pixels better."
    )
    return report.figure(_png(drawn), text)


def other_side(c: Comparison) -> str:
    """Return the name of the other side."""
    return "truth" if c.theirs.exact else "theirs"


def first_rows(pairs: Pairs) -> NDArray[np.int64]:
    """Return the first row of each galaxy (M,)."""
    return np.unique(pairs.galaxy, return_index=True)[1]


def magnitudes(pairs: Pairs) -> NDArray[np.float64]:
    """Return magnitudes (P,): theirs, or ours where theirs is unknown."""
    k = PARAMETERS.index("mag")
    theirs, ours = pairs.theirs[:, k], pairs.ours[:, k]
    return np.where(np.isfinite(theirs), theirs, ours)


def _any(values: NDArray[np.float64]) -> bool:
    return bool(np.isfinite(values).any())


def _errors(pairs: Pairs) -> NDArray[np.float64]:
    """Return the combined known errors (P, 8) of the quoted differences."""
    parts = [np.nan_to_num(v) for v in (pairs.ours_err, pairs.theirs_err)]
    sides = (pairs.ours, pairs.theirs)
    out = np.hypot(*parts)
    for name in LOGARITHMIC:
        k = PARAMETERS.index(name)
        with np.errstate(invalid="ignore", divide="ignore"):
            relative = [part[:, k] / side[:, k] for part, side in zip(parts, sides, strict=True)]
        out[:, k] = np.hypot(*relative)
    return np.where(out > 0, out, np.nan)


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI)
    return buffer.getvalue()
