"""Image panels: stretch, masks, colour bars, compass and scale bar."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hybridfit.plots.orientation import NICE, Compass, ScaleBar
from hybridfit.plots.style import INK, MUTED

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colorbar import Colorbar
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure, FigureBase
    from matplotlib.image import AxesImage
    from matplotlib.patheffects import AbstractPathEffect

Array = NDArray[np.float64]

# viridis is perceptually uniform; RdBu darkens evenly from white at 0 to both sides
IMAGE_MAP, RESIDUAL_MAP = "viridis", "RdBu_r"
RESIDUAL_LIMIT = 5.0  # sigma
MASKED, HATCH = "#e3e3e3", "#9a9a9a"
SOFTENING = 3.0  # sigma up to which the stretch is linear
LEAST_COMPASS = 0.4  # fraction of the longer side: narrower panels have no room for arrows
MOST_TICKS = 4  # number of intervals between ticks on the longer side of a panel
TICK_GAP = 0.13  # fraction of a colour bar: smallest distance between ticks
BAR_DROP = 0.48  # inches from a panel to the bottom of its colour bar
BAR_HEIGHT, LEAST_BAR = 0.03, 0.7  # fractions of a panel's height: thickness, smallest width
OUTLINE = "black"


@dataclass(frozen=True)
class AsinhStretch:
    """A stretch that is linear near ``level`` and logarithmic far above.

    Args:
        level: central flux, such as the sky level.
        width: flux range of the linear part, a few sigma.
        low, high: fluxes at the ends of the colour map.
    """

    level: float
    width: float
    low: float
    high: float

    def forward(self, flux: ArrayLike) -> Array:
        """Return the stretched flux."""
        return np.arcsinh((np.asarray(flux) - self.level) / self.width)

    def inverse(self, value: ArrayLike) -> Array:
        """Return the flux of a stretched value."""
        return self.level + self.width * np.sinh(np.asarray(value))

    @property
    def norm(self) -> Normalize:
        """Return the stretch as a matplotlib norm."""
        from matplotlib.colors import FuncNorm

        return FuncNorm((self.forward, self.inverse), vmin=self.low, vmax=self.high)

    @property
    def ticks(self) -> list[float]:
        """Return round fluxes for the labels of a colour bar, in increasing order."""
        low, high = (float(self.forward(v)) for v in (self.low, self.high))
        digits = -math.floor(math.log10(self.width))
        base = round(self.level, digits) if abs(self.level) > self.width else 0.0
        # higher ticks are more informative: they take precedence over ticks that are too close
        found: list[float] = []
        for offset in (0.0, *_round_numbers(self.low - base, self.high - base)):
            place = float(self.forward(base + offset))
            others = [float(self.forward(v)) for v in found]
            near = any(abs(place - other) < TICK_GAP * (high - low) for other in others)
            if low <= place <= high and not near:
                found.append(base + offset)
        return sorted(found)


def stretch_of(
    image: Array,
    model: Array,
    sigma: Array,
    keep: NDArray[np.bool_],
    level: float | None = None,
) -> AsinhStretch:
    """Return a common stretch for data and model, linear at the noise.

    Args:
        image, model, sigma: (H, W).
        keep: (H, W) False for pixels of the data that are not shown.
        level: sky level; default: the model's median.
    """
    noise = float(np.median(sigma[keep])) if keep.any() else 1.0
    noise = noise if 1e-300 < noise < 1e300 else 1.0
    finite = model[np.isfinite(model)]
    data = image[keep & np.isfinite(image)]
    if not finite.size and not data.size:
        return AsinhStretch(0.0, SOFTENING * noise, -noise, noise)
    if level is None:
        level = float(np.median(finite if finite.size else data))
    every = data if data.size else finite
    low = float(np.percentile(every, 1))
    high = max(float(np.percentile(every, 99.9)), float(finite.max(initial=-math.inf)))
    if not low < high - 1e-12 * max(abs(high), abs(low), noise):
        low, high = low - noise, high + noise
    return AsinhStretch(level, SOFTENING * noise, low, high)


def draw_pixels(
    axis: Axes, values: Array, norm: Normalize, colours: str, origin: Sequence[float] = (0, 0)
) -> AxesImage:
    """Draw pixels (H, W); NaN pixels show the hatching of masked pixels.

    Args:
        axis: the axis to draw on.
        values: fluxes.
        norm: maps flux to colour.
        colours: name of a colour map.
        origin: x, y of the first pixel [pix], for the ticks.
    """
    height, width = values.shape
    x, y = float(origin[0]), float(origin[1])
    drawn = axis.imshow(
        values,
        origin="lower",
        cmap=colours,
        norm=norm,
        interpolation="nearest",
        extent=(x - 0.5, x + width - 0.5, y - 0.5, y + height - 0.5),
    )
    axis.patch.set(facecolor=MASKED, edgecolor=HATCH, hatch="/////", linewidth=0)
    _pixel_ticks(axis)
    return drawn


def residual_norm() -> Normalize:
    """Return the colour norm of residuals over sigma, white at 0."""
    from matplotlib.colors import Normalize

    return Normalize(-RESIDUAL_LIMIT, RESIDUAL_LIMIT)


def draw_flux_bar(figure: FigureBase, drawn: AxesImage, stretch: AsinhStretch, axis: Axes) -> None:
    """Draw the colour bar of fluxes below a panel."""
    bar = figure.colorbar(drawn, cax=_below(axis), orientation="horizontal")
    bar.set_ticks(stretch.ticks, labels=[f"{value:g}" for value in stretch.ticks])
    _dress_bar(bar, "flux / pix (asinh stretch)")


def draw_residual_bar(figure: FigureBase, drawn: AxesImage, axis: Axes) -> None:
    """Draw the colour bar of residuals below a panel."""
    bar = figure.colorbar(drawn, cax=_below(axis), orientation="horizontal")
    bar.set_ticks([-4, -2, 0, 2, 4])
    _dress_bar(bar, "(data - model) / sigma")


def settle(figure: Figure) -> None:
    """Lay out a figure before drawing it.

    The layout computes the space for labels from the panels' last positions. Panels that a fixed
    aspect keeps smaller than their cells need several passes; drawing makes only two.
    """
    engine = figure.get_layout_engine()
    if engine is not None:
        engine.execute(figure)


def draw_scale_bar(axis: Axes, bar: ScaleBar) -> None:
    """Draw a scale bar in the lower left corner."""
    left, right = axis.get_xlim()
    low, high = axis.get_ylim()
    x, y = left + 0.06 * (right - left), low + 0.06 * (high - low)
    line = axis.plot([x, x + bar.length], [y, y], color="white", lw=2, solid_capstyle="butt")[0]
    line.set_path_effects(outlined(4))
    text = axis.annotate(
        bar.label,
        (x + bar.length / 2, y),
        (0, 3),
        textcoords="offset points",
        ha="center",
        fontsize=8,
        color="white",
    )
    text.set_path_effects(outlined(2.5))
    axis.set(xlim=(left, right), ylim=(low, high))


def draw_compass(axis: Axes, compass: Compass) -> None:
    """Draw arrows to North and East in the upper right corner."""
    (left, right), (low, high) = axis.get_xlim(), axis.get_ylim()
    sides = (right - left, high - low)
    side = max(min(sides), LEAST_COMPASS * max(sides))
    # placed so that the arrows stay inside for any direction
    arrows = [compass.north, compass.east]
    reach = 0.13 * side
    tips = np.array([[0, 0], *(1.45 * reach * arrow for arrow in arrows)])
    x = right - 0.04 * side - tips[:, 0].max()
    y = high - 0.04 * side - tips[:, 1].max()
    for arrow, name in zip(arrows, "NE", strict=True):
        tip = reach * arrow
        style = {"arrowstyle": "-|>", "color": "white", "lw": 1.2, "shrinkA": 0, "shrinkB": 0}
        drawn = axis.annotate(
            "", (x + tip[0], y + tip[1]), (x, y), arrowprops={**style, "mutation_scale": 8}
        )
        if drawn.arrow_patch is not None:
            drawn.arrow_patch.set_path_effects(outlined(3))
        text = axis.text(
            x + 1.4 * tip[0],
            y + 1.4 * tip[1],
            name,
            ha="center",
            va="center",
            fontsize=8,
            color="white",
        )
        text.set_path_effects(outlined(2.5))


def _below(axis: Axes) -> Axes:
    """Return an axis of the width of a panel, below its ticks and label."""
    from matplotlib.transforms import ScaledTranslation

    (left, right), (low, high) = axis.get_xlim(), axis.get_ylim()
    flat = max(1.0, (right - left) / (high - low))  # such a panel is lower than its cell
    width = max(1.0, LEAST_BAR * (high - low) / (right - left))
    drop = ScaledTranslation(0, -BAR_DROP, axis.figure.dpi_scale_trans)
    place = ((1 - width) / 2, 0.0, width, BAR_HEIGHT * flat)
    return axis.inset_axes(place, transform=axis.transAxes + drop)


def _pixel_ticks(axis: Axes) -> None:
    """Set ticks at a few whole pixels on the left and lower edge."""
    from matplotlib.ticker import MaxNLocator, ScalarFormatter

    (left, right), (low, high) = axis.get_xlim(), axis.get_ylim()
    longest = max(right - left, high - low)
    for scale, side in ((axis.xaxis, right - left), (axis.yaxis, high - low)):
        most = max(1, round(MOST_TICKS * side / longest))
        scale.set_major_locator(MaxNLocator(most, integer=True, min_n_ticks=1))
        scale.set_major_formatter(ScalarFormatter(useOffset=False))
    axis.tick_params(labelsize=7, colors=MUTED, length=2, pad=2)
    for spine in axis.spines.values():
        spine.set(color=MUTED, linewidth=0.6)


def _dress_bar(bar: Colorbar, label: str) -> None:
    bar.ax.spines["outline"].set_visible(False)
    bar.minorticks_off()
    bar.set_label(label, fontsize=8, color=INK)
    bar.ax.tick_params(labelsize=7, colors=MUTED, length=2, pad=2)


def _round_numbers(low: float, high: float) -> list[float]:
    """Return 1, 2 and 5 x 10^k of both signs between two fluxes, the largest first."""
    top = max(abs(low), abs(high))
    if not 0 < top < math.inf:
        return []
    power = math.floor(math.log10(top))
    sizes = [nice * 10.0**k for k in range(power, power - 7, -1) for nice in reversed(NICE)]
    return [sign * size for size in sizes for sign in (1, -1) if low <= sign * size <= high]


def outlined(width: float) -> list[AbstractPathEffect]:
    """Return path effects that give lines and texts a dark outline."""
    from matplotlib.patheffects import withStroke

    return [withStroke(linewidth=width, foreground=OUTLINE)]
