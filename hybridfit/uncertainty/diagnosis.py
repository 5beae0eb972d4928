"""Diagnose in one sentence why a galaxy's numbers cannot be trusted.

Pure functions of residuals, numbers and the sources detected in a cutout; each returns "" if its
problem is not found. None changes a number.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from hybridfit.data.positions import to_parent
from hybridfit.detection.detect import Detection

SURELY = 40.0  # by which chi2 must fall, in units of chi2 per degree of freedom
AS_GOOD = 10.0  # of chi2 in the same units, that distinguishes two PSFs
CURED = 0.6  # of the excess of chi2 over its expectation that must disappear
SHARE = 0.05  # of the target's flux, above which a source matters
SEEN = 12.0  # standard deviations of that flux: fainter sources may be noise
RIGHT = (0.67, 1.5)  # scatter of the blank sky over sigma that counts as correct
ALIKE = 1.25  # factor within which a noise map's numbers match those of another kind
SENSIBLE = (3.0, 34.0)  # mag of plausible galaxies
ABSURD_MAG = 1000.0  # mag without any meaning
FAR_MAG = 4.0  # mag from the initial value that no catalogue error explains
STRONG = 9.0  # standard deviations of a smoothed residual that is a source or structure
SMOOTH = 1.5  # pix


def sampling_cause(now: int, chi2_now: float, dof: int, chi2: Mapping[int, float]) -> str:
    """Diagnose a PSF with another sampling than stated.

    Args:
        now: PSF pixels per image pixel used.
        chi2_now: of the fit with it.
        dof: degrees of freedom.
        chi2: of fits with other samplings, by sampling.
    """
    # a pixel of absurd sigma makes float32 sums that are not chi2
    known = {k: value for k, value in chi2.items() if math.isfinite(value) and value > 0}
    if not known or not math.isfinite(chi2_now):
        return ""
    best = min(known, key=lambda k: known[k])
    fall = chi2_now - known[best]
    unit = max(known[best] / max(dof, 1), 1.0)
    if fall < SURELY * unit or fall < CURED * (chi2_now - dof):
        return ""
    # the profile makes up for too narrow a PSF: of equally good ones take the nearest
    good = [k for k, value in known.items() if value <= known[best] + AS_GOOD * unit]
    best = min(good, key=lambda k: abs(math.log(k / now)))
    how = "too wide" if best > now else "too narrow"
    what = f"to be oversampled {best} times" if best > 1 else "not to be oversampled"
    return f"the PSF is {how}: it seems {what}; give --psf-oversampling {best}"


def neighbour_cause(
    image: NDArray[np.float32],
    scene: Detection,
    mask: NDArray[np.bool_],
    origin: tuple[float, float],
) -> str:
    """Locate an unmasked source, if one is bright enough to matter.

    Args:
        image: (H, W) flux.
        scene: sources detected in it.
        mask: (H, W) of excluded pixels.
        origin: x, y of the first pixel in the user's image.
    """
    labels = np.where(mask, 0, scene.labels)
    flux = np.bincount(labels.ravel(), np.where(mask, 0.0, image - scene.sky).ravel())
    flux[0] = 0.0
    target = scene.target if 0 < scene.target < len(flux) else 0
    own, flux[target] = flux[target], 0.0
    brightest = int(flux.argmax())
    error = scene.rms * math.sqrt(float((labels == brightest).sum()))
    if not flux[brightest] > max(SHARE * own, SEEN * error):
        return ""
    x, y = _centre(image - scene.sky, labels == brightest)
    place = _place(x, y, origin)
    if not target:
        return f"nothing is detected at the target's position, but a source at {place}"
    x0, y0 = _centre(image - scene.sky, scene.labels == target)
    away = math.hypot(x - x0, y - y0)
    share = flux[brightest] / own
    return f"an unmasked source at {place} ({away:.0f} pix away, {share:.2g} of the flux): mask it"


def noise_cause(typical: float, ratio: float | None) -> str:
    """Diagnose a noise map that is off, and guess which other quantity it may hold.

    Args:
        typical: median sigma used.
        ratio: scatter of the blank sky over sigma, None if unknown.
    """
    if ratio is None or not ratio > 0 or not typical > 0 or RIGHT[0] <= ratio <= RIGHT[1]:
        return ""
    true = ratio * typical
    # sigma if the numbers were another quantity, and the mistake behind it
    kinds = {
        "a variance given as sigma": math.sqrt(typical),
        "an inverse variance given as sigma": 1 / math.sqrt(typical),
        "sigma given as a variance": typical**2,
        "an inverse variance given as a variance": 1 / typical,
        "sigma given as an inverse variance": 1 / typical**2,
    }
    off = {kind: abs(math.log(true / value)) for kind, value in kinds.items()}
    kind = min(off, key=lambda k: off[k])
    how = "low" if ratio > 1 else "high"
    factor = ratio if ratio > 1 else 1 / ratio
    hint = f": is it {kind}?" if off[kind] < math.log(ALIKE) else ""
    return f"the noise map is {factor:.2g} times too {how}{hint}"


def zeropoint_cause(mag: float, start: float, zeropoint: float) -> str:
    """Diagnose a magnitude that contradicts the zero point.

    Args:
        mag: as fitted.
        start: initial value, NaN if not given.
        zeropoint: used; 0 means none.
    """
    if not math.isfinite(mag):
        return ""
    if abs(mag - start) > FAR_MAG:  # False for NaN
        far = f"{_magnitude(mag)} is far from the start's {_magnitude(start)}"
        return f"mag {far}: is the zero point right?"
    if zeropoint and not SENSIBLE[0] < mag < SENSIBLE[1]:
        unlikely = f"mag {_magnitude(mag)} is unlikely for a galaxy"
        return f"{unlikely}: is the zero point of {zeropoint:g} right?"
    return ""


def residual_cause(
    residual: NDArray[np.float64],
    mask: NDArray[np.bool_],
    centre: tuple[float, float],
    origin: tuple[float, float],
) -> str:
    """Locate the light that the model lacks.

    Args:
        residual: (H, W) (data - model) over sigma.
        mask: (H, W) of excluded pixels.
        centre: x, y of the fit.
        origin: see `neighbour_cause`.
    """
    used = ~mask & np.isfinite(residual)
    smooth = ndimage.gaussian_filter(np.where(used, residual, 0.0), SMOOTH, truncate=3.0)
    scatter = 1.4826 * float(np.median(np.abs(smooth[used]))) if used.any() else 0.0
    # explained neither by white noise nor by the sky's actual noise
    level = max(scatter, 1 / (2 * math.sqrt(math.pi) * SMOOTH))
    smooth[~used] = 0.0
    y, x = np.unravel_index(int(smooth.argmax()), smooth.shape)
    if not smooth[y, x] > STRONG * level:
        return ""
    away = math.hypot(x - centre[0], y - centre[1])
    place = _place(float(x), float(y), origin)
    return f"the strongest residual is at {place} ({away:.0f} pix away)"


def _magnitude(value: float) -> str:
    """Return a magnitude as text, an absurd one with an exponent."""
    return f"{value:.1f}" if abs(value) < ABSURD_MAG else f"{value:.3g}"


def _place(x: float, y: float, origin: tuple[float, float]) -> str:
    """Return a place of the cutout as text, in pixels of the user's image."""
    x, y = to_parent(x, y, origin)
    return f"x, y = {x:.0f}, {y:.0f}"


def _centre(light: NDArray[np.floating], where: NDArray[np.bool_]) -> tuple[float, float]:
    """Return the x, y centroid of the light in some pixels."""
    y, x = where.nonzero()
    weight = np.maximum(light[where], 0.0).astype(np.float64)
    if not weight.sum() > 0:
        weight = np.ones_like(weight)
    return float(np.average(x, weights=weight)), float(np.average(y, weights=weight))
