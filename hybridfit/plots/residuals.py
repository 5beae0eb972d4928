"""Data, model and residual of several galaxies, one row per galaxy."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hybridfit.options.checks import described
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
from hybridfit.plots.style import INK, drawable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

Array = NDArray[np.float64]

WIDTH, PANEL, REST = 7.6, 2.3, 1.3  # inches: the page, a square panel, the space around it
LINE = 0.16  # inches per additional line of a title
TITLE_WIDTH = 110  # characters per line, for the width of the figure
FLATTEST, TALLEST = 0.45, 1.6  # height over width of a row's panels


def plot_residuals(
    image: ArrayLike,
    model: ArrayLike,
    sigma: ArrayLike,
    mask: ArrayLike | None = None,
    titles: Sequence[str] = (),
    pixel_scale: ArrayLike = math.nan,
    wcs: Sequence[Any] = (),
) -> Figure:
    """Draw data, model and residual, one row per galaxy.

    Args:
        image, model, sigma: (B, H, W) in the same flux unit.
        mask: (B, H, W) bool, True for masked pixels, which are hatched.
        titles: B lines above the rows.
        pixel_scale: (B,) or one for all, arcsec; without one scale bars are in pixels.
        wcs: B WCS of the cutouts, or None, for arrows to North and East.

    Returns:
        The figure. Data and model share an asinh stretch that is linear at the noise; the
        residual is in units of sigma, from -5 to 5.
    """
    from matplotlib.figure import Figure

    image, model, sigma, hidden = _checked_planes(image, model, sigma, mask)
    count = len(image)
    scales = np.broadcast_to(np.asarray(pixel_scale, float), count)
    shape = min(max(image.shape[1] / image.shape[2], FLATTEST), TALLEST)
    wrapped = [textwrap.fill(drawable(title), TITLE_WIDTH) for title in titles[:count]]
    lines = max((text.count("\n") for text in wrapped), default=0)
    height = (REST + LINE * lines + PANEL * shape) * count
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    for i, row in enumerate(figure.subfigures(count, 1, squeeze=False)[:, 0]):
        if i < len(wrapped):
            row.suptitle(wrapped[i], x=0.01, ha="left", fontsize=8, color=INK, parse_math=False)
        _draw_row(row, image[i], model[i], sigma[i], ~hidden[i], float(scales[i]))
        if i < len(wcs) and (directions := compass(wcs[i], *_middle(image[i]))) is not None:
            draw_compass(row.axes[0], directions)
    settle(figure)
    return figure


def _planes(name: str, value: ArrayLike) -> Array:
    """Return numbers (B, H, W) with at least one pixel; raise ValueError for anything else."""
    try:
        planes = np.asarray(value, dtype=float)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} is {described(value)}, expected numbers (B, H, W)") from error
    if planes.ndim != 3 or planes.size == 0:
        raise ValueError(f"{name} has shape {planes.shape}, expected pixels (B, H, W)")
    return planes


def _checked_planes(
    image: ArrayLike, model: ArrayLike, sigma: ArrayLike, mask: ArrayLike | None
) -> tuple[Array, Array, Array, NDArray[np.bool_]]:
    """Return arrays (B, H, W); raise ValueError for other arrays, or different shapes."""
    pixels = _planes("image", image)
    others = {"model": _planes("model", model), "sigma": _planes("sigma", sigma)}
    hidden = np.zeros(pixels.shape, bool) if mask is None else _planes("mask", mask).astype(bool)
    for name, plane in (*others.items(), ("mask", hidden)):
        if plane.shape != pixels.shape:
            raise ValueError(
                f"{name} has shape {plane.shape}, expected {pixels.shape} as the image"
            )
    return pixels, others["model"], others["sigma"], hidden


def _draw_row(
    figure: SubFigure,
    image: Array,
    model: Array,
    sigma: Array,
    keep: NDArray[np.bool_],
    scale: float,
) -> None:
    axes: list[Axes] = [figure.add_subplot(1, 3, k) for k in (1, 2, 3)]
    stretch = stretch_of(image, model, sigma, keep)
    for axis, values in ((axes[0], np.where(keep, image, np.nan)), (axes[1], model)):
        draw_flux_bar(figure, draw_pixels(axis, values, stretch.norm, IMAGE_MAP), stretch, axis)
    residual = over_sigma(image - model, sigma, keep)
    drawn = draw_pixels(axes[2], residual, residual_norm(), RESIDUAL_MAP)
    draw_residual_bar(figure, drawn, axes[2])
    draw_scale_bar(axes[0], scale_bar(image.shape[1], scale))
    for axis, name in zip(axes, ("data", "model", "residual"), strict=True):
        axis.set_title(name, loc="left", fontsize=8, color=INK, pad=3)
        axis.set_xlabel("x [pix]", fontsize=8, color=INK, labelpad=1)
    axes[0].set_ylabel("y [pix]", fontsize=8, color=INK, labelpad=1)


def over_sigma(residual: Array, sigma: Array, keep: NDArray[np.bool_]) -> Array:
    """Return residuals (H, W) in units of sigma, NaN for masked pixels."""
    good = keep & (sigma > 0)
    return np.where(good, residual / np.where(good, sigma, 1.0), np.nan)


def _middle(image: Array) -> tuple[float, float]:
    height, width = image.shape
    return (width - 1) / 2, (height - 1) / 2
