"""The one-dimensional surface-brightness profile of data, model, components and residual."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hybridfit.plots.annuli import AnnularProfile
from hybridfit.plots.style import CLEAN, FAINT, FLAGGED, INK, MUTED, SERIES, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Array = NDArray[np.float64]

MAGNITUDES = 2.5 / math.log(10)  # magnitudes per relative change of flux
LIMIT = 3.0  # sigma: upper limits of annuli whose light is below one sigma
RESIDUAL_RANGE = (0.05, 1.5)  # smallest and largest half-width of the residual axis
WORST_SHOWN = 0.5  # annuli with larger relative errors do not widen the residual axis


@dataclass(frozen=True)
class Brightness:
    """The units of a profile.

    Args:
        zeropoint: magnitude of one flux unit; NaN if unknown.
        pixel_scale: arcsec per pixel; NaN if unknown.
    """

    zeropoint: float = math.nan
    pixel_scale: float = math.nan

    @property
    def in_magnitudes(self) -> bool:
        """Return whether surface brightness can be given in mag/arcsec^2."""
        return math.isfinite(self.zeropoint) and self.in_arcsec

    @property
    def in_arcsec(self) -> bool:
        """Return whether the pixel scale is known."""
        return math.isfinite(self.pixel_scale) and self.pixel_scale > 0

    def of(self, flux: Array) -> Array:
        """Return mag/arcsec^2, or the flux per pixel itself; NaN if it is not positive."""
        positive = np.where(flux > 0, flux, np.nan)
        if not self.in_magnitudes:
            return positive
        return self.zeropoint - 2.5 * np.log10(positive) + 5 * math.log10(self.pixel_scale)

    @property
    def unit_of_radius(self) -> float:
        """Return arcsec per pixel, or 1 if radii are in pixels."""
        return self.pixel_scale if self.in_arcsec else 1.0

    def radius(self, pixels: Array) -> Array:
        """Return arcsec, or pixels if the scale is unknown."""
        return pixels * self.unit_of_radius

    def residual(self, data: Array, model: Array) -> Array:
        """Return data - model in magnitudes, or (data - model) / model."""
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = np.where((data > 0) & (model > 0), data / model, np.nan)
            return -2.5 * np.log10(ratio) if self.in_magnitudes else ratio - 1

    def residual_error(self, data: Array, model: Array, error: Array) -> Array:
        """Return the errors of `residual`."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return MAGNITUDES * error / data if self.in_magnitudes else error / model


@dataclass(frozen=True)
class Marks:
    """Radii to mark in a profile [pix]; NaN if unknown.

    Args:
        r_eff: half-light radii of the components.
        psf_fwhm: full width of the PSF at half maximum.
    """

    r_eff: Sequence[float] = ()
    psf_fwhm: float = math.nan


def draw_profile(
    upper: Axes,
    lower: Axes,
    profile: AnnularProfile,
    units: Brightness,
    marks: Marks = Marks(),
    names: Sequence[str] = (),
) -> None:
    """Draw a profile and its residual; a note if no annulus has light.

    Args:
        upper: axis of the profile.
        lower: axis of the residual, which shares the radius.
        profile: its models are the full model, then M - 1 components.
        units: units of the axes.
        marks: radii to mark.
        names: names of the components.
    """
    for axis in (upper, lower):
        plain(axis)
    profile = _known(profile)
    detected = profile.data > profile.error
    _dress(upper, lower, units)
    if not detected.any():
        _note_no_light(upper, lower)
        return
    # the radius axis ends slightly beyond the last annulus with light
    last = profile.radius[detected][-1]
    profile = _part(profile, profile.radius <= 1.6 * last)
    detected = profile.data > profile.error
    radius = units.radius(profile.radius)
    upper.set_xlim(0.75 * radius[0], 1.15 * radius[-1])
    _label_radii(lower)
    _mark(upper, lower, units, marks, names)
    _draw_data(upper, profile, units, detected)
    _draw_models(upper, radius, profile, units, names)
    _limit_brightness(upper, profile, units, detected)
    _draw_residual(lower, profile, units, detected)
    _draw_legend(upper, names)


def _note_no_light(upper: Axes, lower: Axes) -> None:
    text = "no annulus with light\nabove its error"
    upper.text(0.5, 0.5, text, transform=upper.transAxes, ha="center", color=MUTED, fontsize=9)
    for axis in (upper, lower):
        axis.tick_params(which="both", left=False, bottom=False, labelleft=False)
        axis.tick_params(which="both", labelbottom=False)


def _draw_legend(axis: Axes, names: Sequence[str]) -> None:
    """Draw data, model and components."""
    handles, labels = axis.get_legend_handles_labels()
    first = ["data", "model", *names]
    order = sorted(range(len(labels)), key=lambda k: [*first, labels[k]].index(labels[k]))
    axis.legend(
        [handles[k] for k in order],
        [labels[k] for k in order],
        framealpha=0.8,
        edgecolor="none",
        fontsize=8,
        loc="lower left",
        handlelength=1.6,
        labelspacing=0.3,
    )


def _known(profile: AnnularProfile) -> AnnularProfile:
    return _part(profile, np.isfinite(profile.data) & np.isfinite(profile.models).all(axis=0))


def _part(profile: AnnularProfile, keep: NDArray[np.bool_]) -> AnnularProfile:
    """Return the annuli selected by ``keep`` (K,)."""
    return replace(
        profile,
        radius=profile.radius[keep],
        data=profile.data[keep],
        error=profile.error[keep],
        models=profile.models[:, keep],
        coverage=profile.coverage[keep],
    )


def _dress(upper: Axes, lower: Axes, units: Brightness) -> None:
    for axis in (upper, lower):
        axis.set_xscale("log")
    upper.tick_params(labelbottom=False)
    unit = "arcsec" if units.in_arcsec else "pix"
    lower.set_xlabel(f"semi-major axis [{unit}]", fontsize=9, color=INK)
    lower.axhline(0, color=MUTED, lw=1, zorder=1)
    if units.in_magnitudes:
        upper.set_ylabel("surface brightness\n[mag / arcsec$^2$]", fontsize=9, color=INK)
        lower.set_ylabel("data - model\n[mag]", fontsize=9, color=INK)
    else:
        upper.set_yscale("log")
        upper.set_ylabel("surface brightness\n[flux / pix]", fontsize=9, color=INK)
        lower.set_ylabel("(data - model)\n/ model", fontsize=9, color=INK)


def _label_radii(axis: Axes) -> None:
    """Return round radii for ticks, closer together if the axis spans less than a decade."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    low, high = axis.get_xlim()
    steps = (1, 2, 5) if high > 10 * low else (1, 1.5, 2, 3, 4, 5, 7)
    axis.xaxis.set_major_locator(LogLocator(subs=steps))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.xaxis.set_minor_formatter(NullFormatter())


def _mark(upper: Axes, lower: Axes, units: Brightness, marks: Marks, names: Sequence[str]) -> None:
    """Draw half-light radii as dashed lines, the PSF's half width as a grey band."""
    several = len(marks.r_eff) > 1
    for k, r_eff in enumerate(marks.r_eff):
        if not (math.isfinite(r_eff) and r_eff > 0):
            continue
        place = r_eff * units.unit_of_radius
        colour = SERIES[(k + 1) % len(SERIES)] if several else INK
        for axis in (upper, lower):
            axis.axvline(place, color=colour, ls="--", lw=0.9, zorder=1)
        low, high = upper.get_xlim()
        if low <= place <= high:
            upper.annotate(
                f"r_eff {_short(names, k)}" if several else "r_eff",
                (place, 1),
                (0, 2 + 8 * k),
                xycoords=("data", "axes fraction"),
                textcoords="offset points",
                ha="center",
                fontsize=8,
                color=colour,
            )
    half = units.unit_of_radius * marks.psf_fwhm / 2
    if half > upper.get_xlim()[0]:
        for axis, label in ((upper, "PSF FWHM / 2"), (lower, "")):
            axis.axvspan(axis.get_xlim()[0] / 10, half, color=FAINT, alpha=0.5, lw=0, label=label)


def _short(names: Sequence[str], k: int) -> str:
    """Return the name of a component without its profile."""
    return names[k].partition(":")[0] if k < len(names) else str(k + 1)


def _draw_data(
    axis: Axes, profile: AnnularProfile, units: Brightness, detected: NDArray[np.bool_]
) -> None:
    """Draw points with errors, and arrows at upper limits where there is no light."""
    radius = units.radius(profile.radius)
    data, error = profile.data[detected], profile.error[detected]
    value = units.of(data)
    ends = np.abs(np.stack([units.of(data - 0.999 * error), units.of(data + error)]) - value)
    ends = ends[::-1] if units.in_magnitudes else ends
    axis.errorbar(
        radius[detected],
        value,
        yerr=ends,
        fmt="o",
        ms=3.5,
        mew=0,
        lw=0.9,
        color=INK,
        zorder=3,
        label="data",
    )
    if (~detected).any():
        limit = np.maximum(profile.data, 0)[~detected] + LIMIT * profile.error[~detected]
        axis.plot(
            radius[~detected],
            units.of(limit),
            marker="v",
            ls="none",
            ms=4,
            mew=0,
            color=MUTED,
            zorder=2,
            label=f"{LIMIT:g} sigma limit",
        )


def _draw_models(
    axis: Axes, radius: Array, profile: AnnularProfile, units: Brightness, names: Sequence[str]
) -> None:
    axis.plot(radius, units.of(profile.models[0]), color=FLAGGED, lw=1.6, zorder=4, label="model")
    for k, (name, part) in enumerate(zip(names, profile.models[1:], strict=False)):
        colour = SERIES[(k + 1) % len(SERIES)]
        axis.plot(radius, units.of(part), color=colour, lw=1.1, ls="-.", zorder=3, label=name)


def _limit_brightness(
    axis: Axes, profile: AnnularProfile, units: Brightness, detected: NDArray[np.bool_]
) -> None:
    """Set the axis by data and upper limits alone: models go to 0."""
    shown = np.where(detected, profile.data, np.maximum(profile.data, 0) + LIMIT * profile.error)
    faint = np.where(detected, np.maximum(shown - profile.error, shown / 4), shown)
    model = profile.models[0]
    bright = max(float(shown.max()), float(model.max()))
    ends = units.of(np.array([float(faint[faint > 0].min()) / 1.5, bright * 1.6]))
    axis.set_ylim(*ends)


def _draw_residual(
    axis: Axes, profile: AnnularProfile, units: Brightness, detected: NDArray[np.bool_]
) -> None:
    data, model, error = profile.data, profile.models[0], profile.error
    value = units.residual(data, model)
    spread = units.residual_error(data, model, error)
    keep = detected & np.isfinite(value) & np.isfinite(spread)
    radius = units.radius(profile.radius)
    sure = keep & (spread < WORST_SHOWN)
    least, most = RESIDUAL_RANGE
    widest = float((np.abs(value) + spread)[sure].max(initial=0.0))
    reach = min(max(1.15 * widest, least), most)
    axis.errorbar(
        radius[keep], value[keep], yerr=spread[keep], fmt="o", ms=3, mew=0, lw=0.9, color=CLEAN
    )
    # an excess of light over the model points up in both units
    axis.set_ylim(*((reach, -reach) if units.in_magnitudes else (-reach, reach)))
