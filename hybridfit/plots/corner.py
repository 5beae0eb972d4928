"""Corner plot of one galaxy's parameters: overlaid layers of draws and Gaussians."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from hybridfit.plots.density import GRID, density, enclosing_levels
from hybridfit.plots.layers import Array, Layer, Mark, marks_of, true_values
from hybridfit.plots.style import CLEAN, FLAGGED, INK, SERIES, drawable, label_of, plain, shortened

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

SHARES = (0.68, 0.95)  # fractions of the mass within the contours
BINS = (10, 30)  # limits on the number of bins: 1.6 times the root of the effective number of draws
BOUNDS = {"r_eff": (0.0, math.inf), "n": (0.0, math.inf), "q": (0.0, 1.0)}  # limits of the axes
MARGIN = 1.25  # size of the axes relative to the 99 % interval of the main layer
REACH = 3.0  # times that interval: the limit to which other layers and the truth widen the axes


def plot_corner(
    names: Sequence[str],
    layers: Sequence[Layer],
    truth: Mapping[str, float] | None = None,
    show: Sequence[str] | None = None,
    title: str = "",
) -> Figure:
    """Draw the marginal posteriors of one galaxy, for each parameter and each pair.

    Contours contain 68 and 95 % of the mass. The last layer of draws is the main one (or the last
    layer, if there are no draws): it is filled, sets the axes, and its median and 16 and 84 %
    quantiles are written above the diagonal. Position angles (names ``pa``, ``pa_1``...) are drawn
    within 90 degrees of its mean direction.

    Args:
        names: names of the P parameters, in the order of the layers' columns.
        layers: from back to front.
        truth: values of some parameters, drawn as lines.
        show: names of the parameters to draw, in this order; default: all that vary.
        title: a line above the legend.

    Raises:
        ValueError: if a layer does not match the names, ``show`` has unknown names, or no layer
            has anything to draw.
    """
    names = list(names)
    chosen = names if show is None else list(show)
    if unknown := [name for name in chosen if name not in names]:
        raise ValueError(f"'{unknown[0]}' is not among the parameters: {', '.join(names)}")
    marks, main = marks_of(names, layers, [names.index(name) for name in chosen])
    if show is None:
        chosen, marks = _varying(chosen, marks, main)
    true = true_values(truth or {}, chosen, marks[main])
    styles = [_style(mark, k, k == main) for k, mark in enumerate(marks)]
    figure = _panels(chosen, marks, main, styles, true)
    _legend(figure, _handles(marks, styles, bool(np.isfinite(true).any())), title, len(chosen))
    return figure


def _panels(
    names: Sequence[str], marks: Sequence[Mark], main: int, styles: Sequence[_Style], true: Array
) -> Figure:
    """Draw the panels of P parameters: marginals on the diagonal, pairs below it."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    limits = _limits(names, marks, main, true)
    engine = ConstrainedLayoutEngine(w_pad=0.02, h_pad=0.02, wspace=0.02, hspace=0.02)
    figure = Figure(figsize=(1.45 * len(names) + 0.9,) * 2, layout=engine)
    axes = figure.subplots(len(names), len(names), sharex="col", squeeze=False)
    for (i, j), axis in np.ndenumerate(axes):
        if j > i:
            axis.set_axis_off()
            continue
        _panel(axis, (i, j), marks, styles, limits)
        _dress(axis, names, i, j, limits, true)
        if i == j:
            axis.set_title(_quoted(marks[main], i), fontsize=8, color=INK)
    figure.align_ylabels(axes[:, 0])
    return figure


def _legend(figure: Figure, handles: list[Line2D], title: str, count: int) -> None:
    """Draw the legend and its title in the empty corner above ``count`` parameters."""
    figure.legend(
        handles=handles,
        loc="upper right",
        bbox_to_anchor=(0.985, 0.985),
        frameon=False,
        fontsize=10 if count > 3 else 8,
        title=drawable(shortened(title, 60)) or None,
        alignment="left",
    )


def _varying(names: list[str], marks: Sequence[Mark], main: int) -> tuple[list[str], list[Mark]]:
    """Return the parameters that vary in the main layer, and all layers in these parameters."""
    low, high = marks[main].interval(0.16, 0.84)
    vary = (high > low).nonzero()[0].tolist()
    return [names[k] for k in vary], [mark.take(vary) for mark in marks]


@dataclass(frozen=True)
class _Style:
    colour: str
    filled: bool


def _style(mark: Mark, place: int, main: bool) -> _Style:
    drawn = mark.samples is not None
    usual = CLEAN if main and drawn else SERIES[1 + place % 3] if drawn else INK
    return _Style(mark.colour or usual, main and drawn)


def _limits(names: Sequence[str], marks: Sequence[Mark], main: int, true: Array) -> Array:
    """Return the limits of the axes (P, 2)."""
    low, middle, high = marks[main].interval(0.005, 0.5, 0.995)
    half = np.maximum(high - low, 1e-9 * np.maximum(np.abs(middle), 1e-9)) / 2
    centre = (low + high) / 2
    floor, ceiling = centre - REACH * half, centre + REACH * half
    wanted = [np.stack([centre - MARGIN * half, centre + MARGIN * half])]
    wanted += [np.clip(mark.interval(0.025, 0.975), floor, ceiling) for mark in marks]
    if np.isfinite(true).any():
        shown = np.where(np.isfinite(true), true, centre)
        wanted.append(np.clip(np.stack([shown - half / 8, shown + half / 8]), floor, ceiling))
    every = np.concatenate(wanted)
    ends = np.stack([every.min(axis=0), every.max(axis=0)], axis=1)
    for k, name in enumerate(names):
        least, most = BOUNDS.get(name.rstrip("_0123456789"), (-math.inf, math.inf))
        if least < ends[k, 1] and most > ends[k, 0]:  # a Gaussian may lie entirely outside
            ends[k] = max(ends[k, 0], least), min(ends[k, 1], most)
    return ends


def _panel(
    axis: Axes,
    place: tuple[int, int],
    marks: Sequence[Mark],
    styles: Sequence[_Style],
    limits: Array,
) -> None:
    """Draw all layers in one panel: curves on the diagonal, contours below it."""
    i, j = place
    for mark, style in zip(marks, styles, strict=True):
        if i == j:
            _curve(axis, mark, style, i, limits[i])
        else:
            _contours(axis, mark, style, (j, i), limits)


def _curve(axis: Axes, mark: Mark, style: _Style, k: int, limit: Array) -> None:
    """Draw the marginal density of one parameter."""
    if mark.samples is None:
        sigma = math.sqrt(mark.covariance[k, k])
        if sigma > 0:
            grid = np.linspace(limit[0], limit[1], 200)
            height = np.exp(-0.5 * ((grid - mark.mean[k]) / sigma) ** 2)
            height /= sigma * math.sqrt(2 * math.pi)
            axis.plot(grid, height, color=style.colour, lw=1.2, ls="--", zorder=3)
        return
    edges = np.linspace(limit[0], limit[1], _bins(mark) + 1)
    count, _ = np.histogram(mark.samples[:, k], edges, weights=mark.weights)
    height = count / (edges[1] - edges[0])
    if style.filled:
        axis.stairs(height, edges, color=style.colour, fill=True, alpha=0.35, lw=0, zorder=2)
    axis.stairs(height, edges, color=style.colour, lw=1.1, zorder=2)


def _bins(mark: Mark) -> int:
    effective = 1.0 if mark.weights is None else 1 / float((mark.weights**2).sum())
    return int(np.clip(round(1.6 * math.sqrt(effective)), *BINS))


def _contours(axis: Axes, mark: Mark, style: _Style, pair: tuple[int, int], limits: Array) -> None:
    """Draw the 68 and 95 % contours of a pair; contours that leave the axes stay open."""
    if mark.samples is None or mark.weights is None:
        block = mark.covariance[np.ix_(pair, pair)]
        if np.linalg.det(block) <= 0:
            return
        turn = np.linspace(0, 2 * math.pi, 200)
        circle = np.linalg.cholesky(block) @ np.stack([np.cos(turn), np.sin(turn)])
        for share in SHARES:
            ellipse = mark.mean[list(pair), None] + math.sqrt(-2 * math.log(1 - share)) * circle
            axis.plot(*ellipse, color=style.colour, lw=1.0, ls="--", zorder=4)
        return
    x, y = (np.linspace(limits[k, 0], limits[k, 1], GRID) for k in pair)
    samples = mark.samples[:, list(pair)]
    height = density(samples, mark.weights, x, y)
    levels = enclosing_levels(height, samples, mark.weights, x, y, SHARES)
    levels = sorted({level for level in levels if 0 < level < height.max()})
    for k, level in enumerate(levels):
        if style.filled:
            top = [level, float(height.max()) * 1.01]
            shade = 0.38 if k else 0.22
            axis.contourf(x, y, height, top, colors=[style.colour], alpha=shade, zorder=2)
        axis.contour(x, y, height, [level], colors=[style.colour], linewidths=1.0, zorder=3)


def _dress(axis: Axes, names: Sequence[str], i: int, j: int, limits: Array, true: Array) -> None:
    from matplotlib.ticker import MaxNLocator, ScalarFormatter

    plain(axis)
    axis.grid(visible=False)
    axis.set_xlim(*limits[j])
    if i != j:
        axis.set_ylim(*limits[i])
    for values, line in ((true[j], axis.axvline), (true[i], axis.axhline)):
        if np.isfinite(values) and not (i == j and line == axis.axhline):
            line(values, color=FLAGGED, lw=1.0, zorder=5)
    for scale in (axis.xaxis, axis.yaxis):
        scale.set_major_locator(MaxNLocator(3, prune="both"))
        scale.set_major_formatter(ScalarFormatter(useOffset=False))
    axis.tick_params(labelsize=7, length=2, labelbottom=i == len(names) - 1)
    axis.tick_params(axis="x", rotation=45)
    if i == j:
        axis.set_yticks([])
        axis.spines["left"].set_visible(False)
        axis.set_ylim(bottom=0)
    elif j > 0:
        axis.tick_params(labelleft=False)
    if i == len(names) - 1:
        axis.set_xlabel(label_of(names[j]), fontsize=9, color=INK)
    if j == 0 and i > 0:
        axis.set_ylabel(label_of(names[i]), fontsize=9, color=INK)


def _quoted(mark: Mark, k: int) -> str:
    """Format the median and the distances to the 16 and 84 % quantiles, to two digits."""
    low, middle, high = mark.interval(0.16, 0.5, 0.84)[:, k]
    down, up = middle - low, high - middle
    smaller = min((value for value in (down, up) if value > 0), default=0.01)
    digits = max(0, 1 - math.floor(math.log10(smaller)))
    return f"${middle:.{digits}f}_{{-{down:.{digits}f}}}^{{+{up:.{digits}f}}}$"


def _handles(marks: Sequence[Mark], styles: Sequence[_Style], truth: bool) -> list[Line2D]:
    from matplotlib.lines import Line2D

    handles = []
    for mark, style in zip(marks, styles, strict=True):
        dash = "--" if mark.samples is None else "-"
        line = Line2D([], [], color=style.colour, ls=dash, lw=1.4, label=mark.label)
        if style.filled:
            line.set(linewidth=6, alpha=0.5)
        handles.append(line)
    if truth:
        handles.append(Line2D([], [], color=FLAGGED, lw=1.2, label="truth"))
    return handles
