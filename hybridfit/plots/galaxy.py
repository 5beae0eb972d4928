"""One galaxy on one page: pixels, model, residual, profile, parameters with errors, flags."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hybridfit.plots.annuli import Ellipse, annular_profile
from hybridfit.plots.brightness import Brightness, Marks, draw_profile
from hybridfit.plots.orientation import compass, scale_bar
from hybridfit.plots.panels import (
    IMAGE_MAP,
    RESIDUAL_MAP,
    AsinhStretch,
    draw_compass,
    draw_flux_bar,
    draw_pixels,
    draw_residual_bar,
    draw_scale_bar,
    outlined,
    residual_norm,
    settle,
    stretch_of,
)
from hybridfit.plots.residuals import over_sigma
from hybridfit.plots.style import INK, MUTED, SERIES, drawable, shortened, with_error
from hybridfit.plots.zoom import Box, zoom_box

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.gridspec import SubplotSpec

Array = NDArray[np.float64]

WIDTH, HEIGHT = 10.5, 8.0  # inches
PANEL_WIDTH = 3.1  # inches: a picture of a component
COMPONENT_WIDTH = 1.15  # inches: a column of parameters; more than two widen the page
LINE = 155  # characters per line of a page
MOST_PANELS = 3  # number of components with a picture of their own
MOST_COMPONENTS = 6  # number of components that fit on the page; the others are in the table
MOST_LINES = 4  # number of lines of notes


@dataclass(frozen=True)
class Measured:
    """One parameter as printed; ``error`` is NaN if it was fixed or is unknown."""

    name: str
    value: float
    error: float = math.nan
    unit: str = ""


@dataclass(frozen=True)
class GalaxyPicture:
    """The content of the page of one galaxy.

    Args:
        id: name of the galaxy.
        image: (H, W) flux per pixel, including the sky.
        sigma: (H, W) standard deviation of each pixel.
        mask: (H, W) True for masked pixels.
        model: (H, W) model including the sky; None without a fit.
        sky: (H, W) or a number, the sky of the model.
        components: (M, H, W) images of the components without the sky; several components get
            their own profiles.
        ellipses: M shapes of the components.
        names: M names of the components.
        main: index of the component that defines the annuli and the centre of the zoom.
        psf_fwhm: pixels; NaN without a PSF.
        pixel_scale: arcsec; NaN if unknown.
        zeropoint: magnitude of one flux unit; NaN if unknown.
        wcs: WCS of the cutout; None without one.
        origin: x, y of the first pixel in the parent image [pix].
        parameters: parameters under each heading (a component's name, or ``""``).
        summary: one line with quality, chi2 and so on.
        flags: names of all raised flags.
        notes: notes on the galaxy.
    """

    id: str
    image: Array
    sigma: Array
    mask: NDArray[np.bool_]
    model: Array | None = None
    sky: Array | float = 0.0
    components: Array | None = None
    ellipses: Sequence[Ellipse] = ()
    names: Sequence[str] = ()
    main: int = 0
    psf_fwhm: float = math.nan
    pixel_scale: float = math.nan
    zeropoint: float = math.nan
    wcs: Any = None
    origin: tuple[float, float] = (0.0, 0.0)
    parameters: dict[str, Sequence[Measured]] = field(default_factory=dict)
    summary: str = ""
    flags: Sequence[str] = ()
    notes: str = ""

    def __post_init__(self) -> None:
        shape = np.shape(self.image)
        if len(shape) != 2 or 0 in shape:
            raise ValueError(f"image has shape {shape}, expected pixels (H, W)")
        for name in ("sigma", "mask", "model"):
            value = getattr(self, name)
            if value is not None and np.shape(value) != shape:
                raise ValueError(f"{name} has shape {np.shape(value)}, expected {shape}")
        if self.components is not None and np.shape(self.components)[1:] != shape:
            raise ValueError(
                f"components have shape {np.shape(self.components)}, expected (M, *{shape})"
            )

    @property
    def ellipse(self) -> Ellipse | None:
        """Return the shape of the main component; None without a fit."""
        if self.model is None or not self.main < len(self.ellipses):
            return None
        found = self.ellipses[self.main]
        return found if found.exists else None


def plot_galaxy(picture: GalaxyPicture) -> Figure:
    """Draw one galaxy and its fit.

    The upper row shows data, model, up to three of several components, and residual, zoomed in on a
    small galaxy. Below are the
    entire cutout (for a zoom), the surface-brightness profile in elliptical annuli of the fitted
    shape, and the parameters with their errors; flags and notes are at the bottom. Masked pixels
    are hatched. The stretch is asinh, linear at the noise.
    """
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    columns = min(len(picture.parameters), MOST_COMPONENTS)
    parts = _shown_components(picture)
    extra = max(max(0, columns - 2) * COMPONENT_WIDTH, len(parts) * PANEL_WIDTH)
    engine = ConstrainedLayoutEngine(h_pad=0.06)
    figure = Figure(figsize=(WIDTH + extra, HEIGHT), layout=engine)
    whole = Box.of_whole(picture.image.shape)
    zoom = _zoom(picture)
    rows = figure.add_gridspec(2, 1, height_ratios=(1.1, 1))
    upper = rows[0].subgridspec(1, 3 + len(parts))
    above = [figure.add_subplot(upper[k]) for k in range(3 + len(parts))]
    stretch = _draw_row(figure, above, picture, zoom or whole)
    third = max(1.0, (COMPONENT_WIDTH * (columns + 1)) / (WIDTH / 3))
    lower = rows[1].subgridspec(1, 3, width_ratios=(1, 1, third))
    if zoom is not None:
        _draw_whole(figure.add_subplot(lower[0]), picture, zoom, stretch)
    _draw_profile(figure, lower[1] if zoom is not None else lower[:2], picture)
    _draw_parameters(figure.add_subplot(lower[2]), picture)
    _write_title(figure, picture)
    settle(figure)
    return figure


def _zoom(picture: GalaxyPicture) -> Box | None:
    middle = picture.ellipse
    if middle is None:
        return None
    largest = max(e.r_eff for e in picture.ellipses if e.exists)
    return zoom_box(picture.image.shape, (middle.x, middle.y), largest, picture.psf_fwhm)


def _shown_components(picture: GalaxyPicture) -> list[tuple[int, Array]]:
    """Return numbers and images of the components that get a picture of their own."""
    if picture.components is None or len(picture.components) < 2:
        return []
    return list(enumerate(picture.components[:MOST_PANELS]))


def _draw_row(
    figure: Figure, axes: Sequence[Axes], picture: GalaxyPicture, box: Box
) -> AsinhStretch:
    """Draw data, model and residual of a part of the cutout; return their stretch."""
    keep = ~picture.mask
    data = np.where(keep, picture.image - picture.sky, np.nan)
    model = np.full(data.shape, np.nan) if picture.model is None else picture.model - picture.sky
    stretch = stretch_of(box.of(data), box.of(model), box.of(picture.sigma), box.of(keep), 0.0)
    origin = box.first_pixel(picture.origin)
    residual = over_sigma(data - model, picture.sigma, keep)
    drawn = draw_pixels(axes[0], box.of(data), stretch.norm, IMAGE_MAP, origin)
    draw_flux_bar(figure, drawn, stretch, axes[0])
    drawn = draw_pixels(axes[1], box.of(model), stretch.norm, IMAGE_MAP, origin)
    draw_flux_bar(figure, drawn, stretch, axes[1])
    parts = _shown_components(picture)
    for axis, (k, part) in zip(axes[2:], parts, strict=False):
        drawn = draw_pixels(axis, box.of(part), stretch.norm, IMAGE_MAP, origin)
        draw_flux_bar(figure, drawn, stretch, axis)
        _draw_ellipses(axis, picture, only=k)
    drawn = draw_pixels(axes[-1], box.of(residual), residual_norm(), RESIDUAL_MAP, origin)
    draw_residual_bar(figure, drawn, axes[-1])
    _draw_ellipses(axes[1], picture)
    if parts:
        _draw_ellipses(axes[-1], picture)
    if not np.isfinite(model).any():
        for axis in axes[1:]:
            axis.text(0.5, 0.5, "no fit", transform=axis.transAxes, ha="center", va="center")
    titles = [picture.names[k] if k < len(picture.names) else str(k + 1) for k, _ in parts]
    for axis, name in zip(axes, ("data", "model", *titles, "residual"), strict=True):
        name = drawable(shortened(name, 28))
        axis.set_title(name, loc="left", fontsize=9, color=INK, pad=3)
        axis.set_xlabel("x [pix]", fontsize=8, color=INK, labelpad=1)
    axes[0].set_ylabel("y [pix]", fontsize=8, color=INK, labelpad=1)
    _draw_scale_and_north(axes[0], picture, box)
    return stretch


def _draw_scale_and_north(axis: Axes, picture: GalaxyPicture, box: Box) -> None:
    draw_scale_bar(axis, scale_bar(box.right - box.left, picture.pixel_scale))
    middle = (box.left + box.right - 1) / 2, (box.low + box.high - 1) / 2
    directions = compass(picture.wcs, *middle)
    if directions is not None:
        draw_compass(axis, directions)


def _draw_ellipses(axis: Axes, picture: GalaxyPicture, only: int | None = None) -> None:
    """Draw the half-light ellipses, and crosses for points, over a picture.

    Args:
        axis: of the picture.
        picture: with the shapes.
        only: number of the component; default all.
    """
    from matplotlib.patches import Ellipse as Patch

    several = len(picture.ellipses) > 1
    for k, e in enumerate(picture.ellipses):
        if not e.exists or e.r_eff > 10 * max(picture.image.shape) or only not in (None, k):
            continue
        place = (e.x + picture.origin[0], e.y + picture.origin[1])
        colour = SERIES[(k + 1) % len(SERIES)] if several else "white"
        if e.is_point:
            axis.plot(*place, marker="+", ms=9, mew=2.5, color="black", zorder=3)
            axis.plot(*place, marker="+", ms=8, mew=1.2, color=colour, zorder=4)
            continue
        shape = Patch(place, 2 * e.r_eff, 2 * e.r_eff * e.q, angle=math.degrees(e.theta))
        shape.set(fill=False, linestyle="--", linewidth=1.2, edgecolor=colour)
        if several:
            shape.set_path_effects(outlined(2.5))
        axis.add_patch(shape)


def _draw_whole(axis: Axes, picture: GalaxyPicture, zoom: Box, stretch: AsinhStretch) -> None:
    """Draw the entire cutout with the outline of the zoom."""
    from matplotlib.patches import Rectangle

    data = np.where(picture.mask, np.nan, picture.image - picture.sky)
    draw_pixels(axis, data, stretch.norm, IMAGE_MAP, picture.origin)
    x, y = zoom.first_pixel(picture.origin)
    sides = (zoom.right - zoom.left, zoom.high - zoom.low)
    axis.add_patch(Rectangle((x - 0.5, y - 0.5), *sides, fill=False, color="white", lw=1.0))
    axis.set_title("entire cutout", loc="left", fontsize=9, color=INK, pad=3)
    axis.set_xlabel("x [pix]", fontsize=8, color=INK, labelpad=1)
    axis.set_ylabel("y [pix]", fontsize=8, color=INK, labelpad=1)
    _draw_scale_and_north(axis, picture, Box.of_whole(picture.image.shape))


def _draw_profile(figure: Figure, place: SubplotSpec, picture: GalaxyPicture) -> None:
    """Draw the surface-brightness profile; nothing without a fit."""
    ellipse = picture.ellipse
    if picture.model is None or ellipse is None:
        return
    several = picture.components is not None and len(picture.components) > 1
    models = (picture.model - picture.sky)[None]
    if several and picture.components is not None:
        models = np.concatenate([models, picture.components])
    data = np.where(picture.mask, 0.0, picture.image - picture.sky)
    profile = annular_profile(data, models, picture.sigma, picture.mask, ellipse)
    inner = place.subgridspec(2, 1, height_ratios=(3, 1), hspace=0.03)
    upper = figure.add_subplot(inner[0])
    lower = figure.add_subplot(inner[1], sharex=upper)
    units = Brightness(picture.zeropoint, picture.pixel_scale)
    marks = Marks([e.r_eff for e in picture.ellipses], picture.psf_fwhm)
    draw_profile(upper, lower, profile, units, marks, picture.names if several else ())


def _draw_parameters(axis: Axes, picture: GalaxyPicture) -> None:
    """Draw parameters with errors as a small table, one column per component."""
    axis.set_axis_off()
    groups = dict(list(picture.parameters.items())[:MOST_COMPONENTS])
    rows = list(dict.fromkeys((m.name, m.unit) for group in groups.values() for m in group))
    if not rows:
        return
    heads = [drawable(shortened(name, 14)) for name in groups]
    top = 0.0 if any(heads) else 1.0
    step = 1.0 / max(len(rows) + 1, 13)
    first = 0.3 if len(groups) < 3 else 1 / (len(groups) + 1)
    columns = first + (1 - first) * np.arange(len(groups)) / max(len(groups), 1)
    size = 8.5 if len(groups) < 2 else 7.5
    write: dict[str, Any] = {
        "transform": axis.transAxes,
        "fontsize": size,
        "va": "top",
        "parse_math": False,
    }
    for x, head in zip(columns, heads, strict=True):
        axis.text(x, 1.0, head, color=INK, weight="bold", **write)
    for k, (name, unit) in enumerate(rows):
        y = 1.0 - (k + 1 - top) * step
        axis.text(0.0, y, f"{name} [{unit}]" if unit else name, color=MUTED, **write)
        for x, group in zip(columns, groups.values(), strict=True):
            found = [m for m in group if (m.name, m.unit) == (name, unit)]
            if found:
                axis.text(x, y, with_error(found[0].value, found[0].error), color=INK, **write)
    if more := len(picture.parameters) - len(groups):
        axis.text(0.0, y - step, f"{more} more components: see the table", color=MUTED, **write)


def _write_title(figure: Figure, picture: GalaxyPicture) -> None:
    """Draw the name and one line above the panels; flags and notes at the bottom."""
    lines = LINE * figure.get_figwidth() / WIDTH
    head = drawable(shortened(picture.id))
    if picture.summary:
        head += "\n" + textwrap.fill(drawable(picture.summary), int(lines))
    figure.suptitle(head, x=0.01, ha="left", fontsize=10, color=INK, parse_math=False)
    flags = ", ".join(picture.flags) or "none"
    foot = textwrap.wrap(f"flags: {flags}", int(lines))
    notes = drawable(picture.notes)
    foot += textwrap.wrap(notes, int(lines), max_lines=MOST_LINES, placeholder=" ...")
    figure.supxlabel("\n".join(foot), x=0.01, ha="left", fontsize=8, color=INK, parse_math=False)
