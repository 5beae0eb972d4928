"""The noise map: conversion to sigma, estimation, and a check against the sky."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from hybridfit.detection.detect import Detection, grown, middle
from hybridfit.detection.gain_check import Doubt, is_gain_credible
from hybridfit.detection.second_differences import all_usable, second_differences

LAG = 5  # pixels: resampled pixels are not correlated at this distance
NEAR = 3  # pixels: a second lag, at which most resampled pixels are also uncorrelated
CURVED = 1.2  # largest chance ratio of variances at both lags; 400 differences measure it to 10 %
MIN_TRIPLES = 400
THIN = 10_000  # pixels
MIN_BLANK = 0.15  # of the cutout
AROUND = 4  # pixels around objects that do not count as blank
# credible ratios of scatter to sigma: correlated noise lowers them, nothing raises them
CREDIBLE = (0.5, 1.5)
SMOOTHING = 1.0  # pixels, sigma of the Gaussian
REAL = 3.0  # sigmas: pixels that differ more from the smoothed light are not smoothed


def to_sigma(plane: NDArray[np.floating], role: str) -> NDArray[np.float64]:
    """Return standard deviations from a ``sigma``, ``variance`` or ``ivar`` plane.

    sigma = s, sqrt(v) or 1 / sqrt(w); NaN for values that are not positive numbers.
    """
    good = np.where(np.isfinite(plane) & (plane > 0), plane, np.nan).astype(np.float64)
    if role == "sigma":
        return good
    return np.sqrt(good) if role == "variance" else 1 / np.sqrt(good)


def blank_sky(detection: Detection, mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return (H, W) True on unmasked pixels at least a few pixels away from all objects."""
    return ~(mask | grown(detection.labels != 0, AROUND))


def object_light(
    image: NDArray[np.float32],
    detection: Detection,
    mask: NDArray[np.bool_],
    rms: float,
    gain: float,
) -> NDArray[np.float64]:
    """Return the flux (H, W) of the objects above the sky, smoothed against pixel noise.

    Poisson noise computed from a pixel's own value is smaller if the value fluctuates downwards,
    which gives such pixels more weight: each pixel is then fitted too low by one electron, the
    blank sky by half an electron, many standard errors of the sky level. The light is therefore
    smoothed (by 2 G - G * G, which preserves curvature), except for pixels that differ because of
    structure, and is 0 away from objects.
    """
    flux = np.where(mask, 0.0, image.astype(np.float64) - detection.sky)
    weight = _smoothed((~mask).astype(np.float64))
    light = np.maximum(_smoothed(flux) / np.maximum(weight, 0.1), 0.0)
    sharp = np.abs(flux - light) > REAL * np.sqrt(rms**2 + light / gain)
    light = np.where(sharp & ~mask, np.maximum(flux, 0.0), light)
    return np.where(grown(detection.labels != 0, AROUND), light, 0.0)


def _smoothed(plane: NDArray[np.float64]) -> NDArray[np.float64]:
    once = ndimage.gaussian_filter(plane, SMOOTHING)
    return 2 * once - ndimage.gaussian_filter(once, SMOOTHING)


def sky_scatter(
    image: NDArray[np.floating], blank: NDArray[np.bool_], lag: int = LAG
) -> float | None:
    """Return the scatter of a blank pixel from second differences; None if too few are blank.

    std(a(x - lag) - 2 a(x) + a(x + lag)) / sqrt 6, clipped at 4 sigma: insensitive to gradients,
    to the wings of the galaxy and to the short-range correlation of resampled pixels.
    """
    if blank.sum() < MIN_BLANK * blank.size:
        return None
    difference = second_differences(image, lag)[all_usable(blank, lag)]
    if difference.size < MIN_TRIPLES:
        return None
    width = 1.4826 * middle(np.abs(difference))
    if width > 0:
        difference = difference[np.abs(difference) < 4 * width]
    return float(np.sqrt(np.mean(np.square(difference, dtype=np.float64)) / 6))


def level_scatter(image: NDArray[np.floating], blank: NDArray[np.bool_]) -> float | None:
    """Return `sky_scatter` without the contribution of the curvature of faint light.

    Second differences of smooth light grow with lag^2 and their variance with lag^4, unlike those
    of noise: from two lags l and k, the variance of the noise is
    v_k - (v_l - v_k) k^4 / (l^4 - k^4). This correction is applied if the two variances differ by
    more than expected from chance and short-range correlations.
    """
    wide = sky_scatter(image, blank)
    near = sky_scatter(image, blank, lag=NEAR)
    if wide is None or near is None or wide**2 <= CURVED * near**2:
        return wide
    rest = (wide**2 - near**2) * NEAR**4 / (LAG**4 - NEAR**4)
    return math.sqrt(max(near**2 - rest, 0.25 * near**2))


def estimated_sigma(
    image: NDArray[np.float32],
    detection: Detection,
    mask: NDArray[np.bool_],
    gain: float | None,
    doubt: Doubt = Doubt.NONE,
) -> tuple[NDArray[np.float64], bool]:
    """Return a noise map from the background and, if the gain is known, Poisson noise.

    sigma^2 = rms^2 + light / gain, see `object_light`. Without a gain the noise is the same
    everywhere, which gives the centre of a bright galaxy too much weight.

    Args:
        image: (H, W) flux.
        detection: the objects detected in it.
        mask: (H, W), True for masked pixels.
        gain: electrons per unit of flux, or None.
        doubt: how doubtful the gain is; a gain that the pixels contradict is not used.

    Returns:
        The map (H, W), and whether it includes Poisson noise.

    Raises:
        ValueError: if the image has no measurable noise.
    """
    scatter = level_scatter(image, blank_sky(detection, mask))
    if scatter is None or not scatter > 0:  # the galaxy fills the cutout
        scatter = level_scatter(image, ~mask) or detection.rms
        scatter = min(scatter, detection.rms) if detection.rms > 0 else scatter
    rms = scatter
    if not rms > 0:
        raise ValueError("the image has no noise to estimate sigma from: give a sigma file")
    variance = np.full(image.shape, rms**2)
    if gain is None:
        return np.sqrt(variance), False
    light = object_light(image, detection, mask, rms, gain)
    if not is_gain_credible(image, mask, light, rms, gain, doubt):
        return np.sqrt(variance), False
    return np.sqrt(variance + light / gain), True


def sigma_ratio(
    image: NDArray[np.float32],
    sigma: NDArray[np.float32],
    detection: Detection,
    mask: NDArray[np.bool_],
) -> float | None:
    """Return the ratio of the blank sky's scatter to sigma, 1 if sigma is right; None if unknown.

    If a galaxy fills the cutout, its curvature adds scatter, but not between adjacent pixels:
    excess scatter counts only if neighbouring pixels show it as well.
    """
    thin = slice(None, None, 2 if image.size > THIN else 1)  # half of the rows are enough
    z = ((image - np.float32(detection.sky)) / sigma)[thin]
    blank = blank_sky(detection, mask)[thin]
    ratio = sky_scatter(z, blank)
    if ratio is not None and ratio > CREDIBLE[1]:
        ratio = min(ratio, sky_scatter(z, blank, lag=1) or ratio)
    return ratio
