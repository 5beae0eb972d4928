"""Pictures of fits: data, model and residual of some galaxies, and truth against fit."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from astropy.table import Table
from numpy.typing import ArrayLike, NDArray

from hybridfit.options.checks import checked, described
from hybridfit.plots.style import CLEAN, FAINT, FLAGGED, INK, LABELS, MUTED, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

IMAGE_MAP, RESIDUAL_MAP = "viridis", "RdBu_r"
RESIDUAL_LIMIT = 5.0  # sigma
LARGEST = 1e30  # of what is drawn: axes overflow beyond
TITLE_WIDTH = 110  # characters of a line: as wide as the figure


def plot_residuals(
    image: ArrayLike,
    model: ArrayLike,
    sigma: ArrayLike,
    mask: ArrayLike | None = None,
    titles: Sequence[str] = (),
) -> Figure:
    """Draw data, model and residual, one row a galaxy.

    Args:
        image, model, sigma: (B, H, W) in one flux unit.
        mask: (B, H, W) bool, True where a pixel was left out; drawn grey.
        titles: B lines above the rows.

    Returns:
        The figure. Data and model share an asinh stretch that is linear at the noise; the
        residual is in units of sigma, from -5 to 5.
    """
    from matplotlib.figure import Figure

    image, model, sigma = (
        _planes(name, v) for name, v in (("image", image), ("model", model), ("sigma", sigma))
    )
    hidden = np.zeros(image.shape, bool) if mask is None else _planes("mask", mask).astype(bool)
    for name, plane in (("model", model), ("sigma", sigma), ("mask", hidden)):
        if plane.shape != image.shape:
            raise ValueError(f"{name} has shape {plane.shape}, expected {image.shape} as the image")
    count = len(image)
    figure = Figure(figsize=(7.2, 2.3 * count + 0.3), layout="constrained")
    # data, model and their scale; residual and its scale
    grid = figure.add_gridspec(count, 5, width_ratios=(1, 1, 0.045, 1, 0.045))
    for i in range(count):
        axes = [figure.add_subplot(grid[i, k]) for k in range(5)]
        keep = ~hidden[i]
        panels = stretched(image[i], model[i], sigma[i], keep)
        residual = np.where(keep, _over(image[i] - model[i], sigma[i]), np.nan)
        limits = limits_of(panels[1], panels[0])
        for axis, values in zip(axes[:2], panels, strict=True):
            drawn = draw_plane(axis, values, IMAGE_MAP, *limits)
        draw_colourbar(figure, drawn, axes[2], "asinh(flux / 3 sigma)")
        drawn = draw_plane(axes[3], residual, RESIDUAL_MAP, -RESIDUAL_LIMIT, RESIDUAL_LIMIT)
        draw_colourbar(figure, drawn, axes[4], "residual / sigma")
        if i < len(titles):
            title = textwrap.fill(titles[i], TITLE_WIDTH)
            if count == 1:  # over all panels: above the first a long one would push them apart
                figure.suptitle(title, x=0.01, ha="left", fontsize=8, color=INK)
            else:
                axes[0].set_title(title, loc="left", fontsize=8, color=INK, pad=4)
        if i == count - 1:
            for axis, name in ((axes[0], "data"), (axes[1], "model"), (axes[3], "data - model")):
                axis.set_xlabel(name, fontsize=9, color=MUTED)
    return figure


def _planes(name: str, value: ArrayLike) -> NDArray[np.float64]:
    """Numbers (B, H, W) with at least one pixel."""
    try:
        planes = np.asarray(value, dtype=float)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} is {described(value)}, expected numbers (B, H, W)") from error
    if planes.ndim != 3 or planes.size == 0:
        raise ValueError(f"{name} has shape {planes.shape}, expected pixels (B, H, W)")
    return planes


def plot_truth(table: Table, truth: Table) -> Figure:
    """Draw fit against truth for each parameter, and the offsets in units of their errors.

    Args:
        table: from `hybridfit.fit`.
        truth: with the columns ``id`` and the parameters; rows are found by their id.

    Returns:
        The figure: fits against truth with their errors and the line of equality, and a
        histogram of (fit - truth) / error beside the normal distribution it should follow.
    """
    from matplotlib.figure import Figure

    errors = [f"{name}_err" for name in LABELS]
    for what, given, columns in (
        ("table", table, ["id", "flags", *LABELS, *errors]),
        ("truth", truth, ["id", *LABELS]),
    ):
        names = checked(what, given, Table).colnames
        if missing := [name for name in columns if name not in names]:
            raise ValueError(f"{what} lacks the column '{missing[0]}', expected {columns}")
    table, truth = matched(table, truth)
    flagged = np.asarray(table["flags"]) != 0
    figure = Figure(figsize=(12.5, 6.4), layout="constrained")
    axes = figure.subplots(2, 4).ravel()
    for axis, name in zip(axes, LABELS, strict=False):
        fit, error = (_numbers(table, c) for c in (name, f"{name}_err"))
        true = fit - offsets(table, truth, name)  # an angle's truth on the fit's own turn
        for some, colour in ((~flagged, CLEAN), (flagged, FLAGGED)):
            some = some & (np.abs(true) < LARGEST) & (np.abs(fit) < LARGEST)
            if some.any():
                _against(axis, true[some], fit[some], error[some], colour)
        _equality(axis, _numbers(truth, name), name in ("r_eff", "n"))
        axis.set_xlabel(f"true {LABELS[name]}", fontsize=9, color=INK)
        axis.set_ylabel(f"fitted {LABELS[name]}", fontsize=9, color=INK)
    _pull_panel(axes[-1], table, truth)
    for axis in axes:
        plain(axis)
    handles = [
        axes[0].plot([], [], "o", ms=5, color=colour, label=f"{label} ({int(some.sum())})")[0]
        for some, colour, label in ((~flagged, CLEAN, "no flags"), (flagged, FLAGGED, "flagged"))
    ]
    figure.legend(handles=handles, loc="outside upper left", ncols=2, frameon=False, fontsize=10)
    return figure


def matched(table: Table, truth: Table) -> tuple[Table, Table]:
    """Return the rows of both tables whose ids are in both, in the same order."""
    number = {str(id): i for i, id in enumerate(truth["id"])}
    rows = [i for i, id in enumerate(table["id"]) if str(id) in number]
    return table[rows], truth[[number[str(table["id"][i])] for i in rows]]


def offsets(table: Table, truth: Table, name: str) -> NDArray[np.float64]:
    """Return fit - truth (N,) of matched tables; an angle's the short way round."""
    with np.errstate(invalid="ignore"):  # a truth may be infinite
        off = _numbers(table, name) - _numbers(truth, name)
        return (off + 90) % 180 - 90 if name == "pa" else off


def _numbers(table: Table, name: str) -> NDArray[np.float64]:
    """A column as numbers, NaN where it is masked."""
    return np.ma.filled(np.ma.asarray(table[name]).astype(float), np.nan)


def stretched(
    image: NDArray, model: NDArray, sigma: NDArray, keep: NDArray
) -> list[NDArray[np.float64]]:
    """Data and model (H, W) in one asinh stretch that is linear at the noise; NaN if not kept."""
    noise = float(np.median(sigma[keep])) if keep.any() else 1.0
    noise = noise if 0 < noise < np.inf else 1.0
    level = float(np.nanmedian(model)) if np.isfinite(model).any() else 0.0
    return [
        np.arcsinh((np.where(keep, image, np.nan) - level) / (3 * noise)),
        np.arcsinh((model - level) / (3 * noise)),
    ]


def _over(residual: NDArray, sigma: NDArray) -> NDArray[np.float64]:
    """Residuals in units of sigma, NaN where there is none."""
    good = sigma > 0
    return np.where(good, residual / np.where(good, sigma, 1.0), np.nan)


def limits_of(model: NDArray, image: NDArray) -> tuple[float, float]:
    """Range of a stretched image and its model."""
    finite = image[np.isfinite(image)]
    if finite.size == 0 or not np.isfinite(model).any():
        return -1.0, 1.0
    return float(np.percentile(finite, 1)), float(max(np.nanmax(model), finite.max()))


def draw_plane(axis: Axes, values: NDArray, colours: str, low: float, high: float) -> AxesImage:
    """Draw pixels without ticks or frame; NaN stays grey."""
    drawn = axis.imshow(
        values, origin="lower", cmap=colours, vmin=low, vmax=high, interpolation="nearest"
    )
    axis.set_facecolor(FAINT)
    axis.set_xticks([])
    axis.set_yticks([])
    for spine in axis.spines.values():
        spine.set_visible(False)
    return drawn


def draw_colourbar(figure: Figure, drawn: AxesImage, axis: Axes, label: str) -> None:
    """Draw the scale of an image into an axis of its own."""
    bar = figure.colorbar(drawn, cax=axis)
    bar.outline.set_visible(False)  # type: ignore[operator]
    bar.set_label(label, fontsize=8, color=MUTED)
    bar.ax.tick_params(labelsize=7, colors=MUTED, length=2)


def _against(axis: Axes, true: NDArray, fit: NDArray, error: NDArray, colour: str) -> None:
    axis.errorbar(
        true,
        fit,
        yerr=np.where(np.isfinite(error), error, 0),
        fmt="o",
        ms=3.5,
        mew=0,
        lw=0.8,
        color=colour,
        alpha=0.75,
        zorder=2,
    )


def _equality(axis: Axes, true: NDArray, logarithmic: bool) -> None:
    true = true[(np.abs(true) < LARGEST) & ((true > 1 / LARGEST) | (not logarithmic))]
    if not len(true):
        return
    if logarithmic:
        from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

        axis.set_xscale("log")
        axis.set_yscale("log")
        for line in (axis.xaxis, axis.yaxis):
            line.set_major_locator(LogLocator(subs=(1, 2, 5)))
            line.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            line.set_minor_formatter(NullFormatter())
        low, high = true.min() / 1.3, true.max() * 1.3
    else:
        margin = 0.06 * float(np.ptp(true)) + 1e-9
        low, high = true.min() - margin, true.max() + margin
    axis.plot([low, high], [low, high], color=MUTED, lw=1, zorder=1)
    axis.set_xlim(low, high)
    axis.set_ylim(low, high)


def _pull_panel(axis: Axes, table: Table, truth: Table) -> None:
    """Histogram of all offsets over their errors, beside the normal distribution."""
    with np.errstate(invalid="ignore", divide="ignore"):
        pulls = [offsets(table, truth, name) / _numbers(table, f"{name}_err") for name in LABELS]
    values = np.concatenate(pulls)
    values = values[np.isfinite(values)]
    bins = np.linspace(-5, 5, 41).tolist()
    if len(values):  # the density of nothing is NaN
        axis.hist(np.clip(values, -5, 5), bins, density=True, color=CLEAN, alpha=0.55, lw=0)
    grid = np.linspace(-5, 5, 201)
    axis.plot(grid, np.exp(-(grid**2) / 2) / np.sqrt(2 * np.pi), color=INK, lw=1.2)
    axis.set_xlabel("(fit - truth) / error, all parameters", fontsize=9, color=INK)
    axis.set_ylabel("density", fontsize=9, color=INK)
    axis.set_xlim(-5, 5)
    spread = 1.4826 * float(np.median(np.abs(values - np.median(values)))) if values.size else 0.0
    axis.text(
        0.97,
        0.95,
        f"width {spread:.2f}\n(1 is right)",
        transform=axis.transAxes,
        ha="right",
        va="top",
        fontsize=8,
        color=MUTED,
    )
