"""Figures of a comparison: differences, pulls, chi2, and galaxies that disagree."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hybridfit.plots.orientation import compass, scale_bar
from hybridfit.plots.panels import (
    IMAGE_MAP,
    RESIDUAL_MAP,
    draw_compass,
    draw_flux_bar,
    draw_pixels,
    draw_residual_bar,
    draw_scale_bar,
    residual_norm,
    settle,
    stretch_of,
)
from hybridfit.plots.residuals import over_sigma
from hybridfit.plots.style import CLEAN, FAINT, INK, MUTED, QUALITY_COLOURS, SERIES, drawable, plain
from hybridfit.plots.zoom import Box

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Array = NDArray[np.float64]

UNITS = {"x": "pix", "y": "pix", "mag": "mag", "pa": "deg", "sky": "flux/pix"}
SHOWN = 0.98  # fraction of the points inside a panel's range
PULL_LIMIT = 5.0
PAGE = 11.5  # inches: width of a row of five panels
RUNNING = 15  # number of points in each running median


def plot_differences(
    mag: ArrayLike,
    differences: Mapping[str, ArrayLike],
    errors: Mapping[str, ArrayLike],
    kinds: Sequence[str] = (),
    theirs: str = "theirs",
) -> Figure:
    """Draw the difference of each parameter against magnitude.

    Args:
        mag: (P,) magnitudes.
        differences: (P,) differences of each parameter, by label.
        errors: (P,) their errors, of both sides combined; NaN draws none.
        kinds: (P,) names, each drawn in its own colour; default: a single colour.
        theirs: name of the other side.

    Returns:
        The figure: grey bars are errors, the dark line is a running median; points beyond a
        panel are drawn as triangles at its edge.
    """
    from matplotlib.figure import Figure

    mag = np.asarray(mag, dtype=float)
    columns = min(4, max(len(differences), 1))
    rows = max(1, math.ceil(len(differences) / columns))
    figure = Figure(figsize=(3.2 * columns, 2.5 * rows + 0.5), layout="constrained")
    axes = np.atleast_1d(figure.subplots(rows, columns)).ravel()
    named = np.array([str(kind) for kind in kinds] or [""] * len(mag))
    order = _ordered(named.tolist())
    for axis, (name, values) in zip(axes, differences.items(), strict=False):
        value, error = np.asarray(values, float), np.asarray(errors[name], float)
        _difference_panel(axis, mag, value, error, named, order)
        _label_difference(axis, name, theirs)
    for axis in axes[len(differences) :]:
        axis.set_visible(False)
    if len(order) > 1:
        _kind_legend(figure, axes[0], named, order)
    return figure


def _kind_legend(figure: Figure, axis: Axes, named: NDArray, order: Sequence[str]) -> None:
    """Draw the legend of kinds, with the number of points of each."""
    handles = [
        axis.plot([], [], "o", ms=5, mew=0, color=colour_of(order, kind))[0] for kind in order
    ]
    labels = [f"{kind or 'not graded'} ({int((named == kind).sum())})" for kind in order]
    figure.legend(
        handles, labels, loc="outside upper left", ncols=len(order), frameon=False, fontsize=9
    )


def plot_pulls(pulls: Mapping[str, ArrayLike], title: str = "difference / error") -> Figure:
    """Draw a histogram of each parameter's pulls with the normal distribution.

    Args:
        pulls: (P,) pulls of each parameter.
        title: label of the axis, which defines the pull.

    Returns:
        The figure; pulls beyond 5 are counted in the outermost bins.
    """
    from matplotlib.figure import Figure

    columns = min(4, max(len(pulls), 1))
    rows = max(1, math.ceil(len(pulls) / columns))
    figure = Figure(figsize=(3.2 * columns, 2.3 * rows + 0.3), layout="constrained")
    axes = np.atleast_1d(figure.subplots(rows, columns)).ravel()
    grid = np.linspace(-PULL_LIMIT, PULL_LIMIT, 201)
    normal = np.exp(-(grid**2) / 2) / math.sqrt(2 * math.pi)
    for axis, (name, values) in zip(axes, pulls.items(), strict=False):
        finite = np.asarray(values, dtype=float)
        finite = finite[np.isfinite(finite)]
        bins = np.linspace(-PULL_LIMIT, PULL_LIMIT, 31 if len(finite) > 60 else 16).tolist()
        inside = np.clip(finite, -PULL_LIMIT, PULL_LIMIT)
        if len(finite):
            axis.hist(inside, bins, density=True, color=CLEAN, alpha=0.55, lw=0)
        axis.plot(grid, normal, color=INK, lw=1.2)
        axis.set_xlim(-PULL_LIMIT, PULL_LIMIT)
        axis.set_title(name, loc="left", fontsize=9, color=INK)
        if len(finite):
            text = f"{len(finite)}: mean {finite.mean():.2f}, std {finite.std():.2f}"
            axis.set_title(text, loc="right", fontsize=7, color=MUTED)
        axis.set_xlabel(title, fontsize=8, color=INK)
        axis.set_ylabel("probability density", fontsize=8, color=INK)
        plain(axis)
    for axis in axes[len(pulls) :]:
        axis.set_visible(False)
    return figure


def plot_chi2(mag: ArrayLike, excess: ArrayLike, verdicts: Sequence[str]) -> Figure:
    """Draw theirs - ours in chi2 against magnitude, coloured by verdict.

    Args:
        mag: (M,) magnitudes.
        excess: (M,) chi2 of theirs minus that of ours, on the same pixels.
        verdicts: (M,) names.

    Returns:
        The figure: above the line, ours describe the pixels better, below it theirs; the scale
        is linear within 1 and logarithmic beyond.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 3.6), layout="constrained")
    axis = figure.subplots()
    mag, excess = np.asarray(mag, float), np.asarray(excess, float)
    named = np.array([str(v) for v in verdicts])
    order = list(dict.fromkeys(named.tolist()))
    axis.axhline(0, color=MUTED, lw=1, zorder=1)
    for kind in order:
        members = (named == kind) & np.isfinite(excess)
        if members.any():
            axis.plot(
                mag[members],
                excess[members],
                "o",
                ms=4.5,
                mew=0,
                alpha=0.8,
                color=colour_of(order, kind),
                label=f"{kind} ({int(members.sum())})",
            )
    axis.set_yscale("symlog", linthresh=1.0)
    axis.set_xlabel("magnitude [mag]", fontsize=9, color=INK)
    axis.set_ylabel("chi2 of theirs - chi2 of ours", fontsize=9, color=INK)
    plain(axis)
    if axis.get_legend_handles_labels()[0]:
        figure.legend(loc="outside right upper", frameon=False, fontsize=8)
    return figure


def plot_rivals(
    image: ArrayLike,
    theirs: ArrayLike,
    ours: ArrayLike,
    sigma: ArrayLike,
    mask: ArrayLike,
    names: tuple[str, str] = ("theirs", "ours"),
    pixel_scale: float = math.nan,
    wcs: Any = None,
    box: Box | None = None,
    origin: tuple[float, float] = (0.0, 0.0),
) -> Figure:
    """Draw one galaxy: data, both models, and both residuals.

    Args:
        image, theirs, ours, sigma: (H, W) in the same flux unit; NaN models are left empty.
        mask: (H, W) bool, True for masked pixels, which are hatched.
        names: names of the two models.
        pixel_scale: arcsec; without one the scale bar is in pixels.
        wcs: WCS of the cutout, for arrows to North and East.
        box: the part to show; default: the entire cutout.
        origin: x, y of the first pixel in the parent image.

    Returns:
        The figure: data | theirs | ours in the same asinh stretch, then residuals over sigma,
        from -5 to 5.
    """
    image, theirs, ours, sigma = (np.asarray(v, float) for v in (image, theirs, ours, sigma))
    keep = ~np.asarray(mask, dtype=bool)
    box = box or Box.of_whole(image.shape)
    image, theirs, ours, sigma = (box.of(v) for v in (image, theirs, ours, sigma))
    keep, first = box.of(keep), box.first_pixel(origin)
    figure, axes = _row_of_panels(*image.shape)
    _draw_fluxes(axes[:3], image, (theirs, ours), sigma, keep, first)
    _draw_residuals(axes[3:], image, (theirs, ours), sigma, keep, first)
    _label_panels(axes, ("data", *names, *(f"data - {name}" for name in names)))
    draw_scale_bar(axes[0], scale_bar(image.shape[1], pixel_scale))
    _draw_directions(axes[0], wcs, box, image.shape)
    settle(figure)
    return figure


def _row_of_panels(height: int, width: int) -> tuple[Figure, Sequence[Axes]]:
    """Return a page with five panels for images of this shape."""
    from matplotlib.figure import Figure

    ratio = min(max(height / width, 0.5), 2.0)
    figure = Figure(figsize=(PAGE, 1.2 + 2.05 * ratio), layout="constrained")
    return figure, figure.subplots(1, 5)


def _draw_directions(axis: Axes, wcs: Any, box: Box, shape: tuple[int, ...]) -> None:
    """Draw arrows to North and East, as at the middle of a box, if they are known."""
    height, width = shape
    directions = compass(wcs, box.left + (width - 1) / 2, box.low + (height - 1) / 2)
    if directions is not None:
        draw_compass(axis, directions)


def _draw_fluxes(
    axes: Sequence[Axes],
    image: Array,
    models: tuple[Array, Array],
    sigma: Array,
    keep: NDArray[np.bool_],
    first: tuple[float, float],
) -> None:
    """Draw data and two models (H, W) in the stretch of the last model that is not empty."""
    theirs, ours = models
    stretch = stretch_of(image, ours if np.isfinite(ours).any() else theirs, sigma, keep)
    panels = (np.where(keep, image, np.nan), *models)
    for axis, values in zip(axes, panels, strict=True):
        drawn = draw_pixels(axis, values, stretch.norm, IMAGE_MAP, first)
        draw_flux_bar(axis.figure, drawn, stretch, axis)


def _draw_residuals(
    axes: Sequence[Axes],
    image: Array,
    models: tuple[Array, Array],
    sigma: Array,
    keep: NDArray[np.bool_],
    first: tuple[float, float],
) -> None:
    """Draw the residuals of both models (H, W), over sigma."""
    for axis, model in zip(axes, models, strict=True):
        residual = over_sigma(image - model, sigma, keep)
        drawn = draw_pixels(axis, residual, residual_norm(), RESIDUAL_MAP, first)
        draw_residual_bar(axis.figure, drawn, axis)


def _label_panels(axes: Sequence[Axes], titles: Sequence[str]) -> None:
    for axis, title in zip(axes, titles, strict=True):
        axis.set_title(drawable(title), loc="left", fontsize=9, color=INK, parse_math=False)
        axis.set_xlabel("x [pix]", fontsize=8, color=INK, labelpad=1)
    axes[0].set_ylabel("y [pix]", fontsize=8, color=INK, labelpad=1)


def colour_of(order: Sequence[str], kind: str) -> str:
    """Return the colour of a kind: that of a quality, else by order."""
    return QUALITY_COLOURS.get(kind) or SERIES[order.index(kind) % len(SERIES)]


def _ordered(kinds: Sequence[str]) -> list[str]:
    """Return each kind once: first qualities, from the best."""
    known = set(kinds)
    return [k for k in QUALITY_COLOURS if k in known] + [
        k for k in dict.fromkeys(kinds) if k not in QUALITY_COLOURS
    ]


def _difference_panel(
    axis: Axes,
    mag: Array,
    value: Array,
    error: Array,
    named: NDArray,
    order: Sequence[str],
) -> None:
    known = np.isfinite(value) & np.isfinite(mag)
    axis.axhline(0, color=MUTED, lw=1, zorder=1)
    if not known.any():
        return
    reach = float(np.quantile(np.abs(value[known]), SHOWN)) * 1.25 or 1e-9
    shown = np.clip(value, -reach, reach)
    bars = known & np.isfinite(error) & (np.abs(value) <= reach)
    axis.errorbar(
        mag[bars], value[bars], yerr=error[bars], fmt="none", ecolor=FAINT, lw=0.7, zorder=1
    )
    for kind in order:
        members = known & (named == kind)
        for part, marker in (
            (members & (np.abs(value) <= reach), "o"),
            (members & (value > reach), "^"),
            (members & (value < -reach), "v"),
        ):
            axis.plot(
                mag[part],
                shown[part],
                marker,
                ms=3.2,
                mew=0,
                alpha=0.75,
                color=colour_of(order, kind),
                zorder=2,
            )
    axis.set_ylim(-1.08 * reach, 1.08 * reach)
    _running_median(axis, mag[known], value[known])


def _label_difference(axis: Axes, name: str, theirs: str) -> None:
    unit = f" [{UNITS[name]}]" if name in UNITS else ""
    axis.set_title(f"{name}, ours - {theirs}", loc="left", fontsize=9, color=INK)
    axis.set_ylabel(f"difference{unit}", fontsize=8, color=INK)
    axis.set_xlabel("magnitude [mag]", fontsize=8, color=INK)
    plain(axis)


def _running_median(axis: Axes, mag: Array, value: Array) -> None:
    count = len(mag) // RUNNING
    if count < 3:
        return
    rows = np.array_split(np.argsort(mag), count)
    middle = [np.median(mag[nearby]) for nearby in rows]
    axis.plot(middle, [np.median(value[nearby]) for nearby in rows], color=INK, lw=1.4, zorder=3)
