"""The noise map that GALFIT makes if it gets none, as far as its method is known."""

from __future__ import annotations

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray
from scipy import ndimage

from hybridfit.io.image_header import number_in
from hybridfit.io.wcs import first_number

GAIN_KEYS = ("GAIN", "CCDGAIN", "ATODGAIN")
GAIN = 7.0  # electrons per ADU, GALFIT's default
CLIP = 3.0  # clipping limit about the mean, in sigma
ROUNDS = 6
SMOOTHING = 2.0  # pixels, smoothing sigma: a pixel's noise must not set its weight


def made_sigma(
    image: NDArray[np.floating], usable: NDArray[np.bool_], header: fits.Header
) -> tuple[NDArray[np.float64], str]:
    """Return sigma of each pixel as GALFIT makes it from the data, and a text on how.

    sigma^2 = rms^2 + max(object, 0) / (GAIN NCOMBINE): the scatter of the sky, which includes
    the detector's noise, and the object's Poisson noise (C. Peng's notes on versions and on
    sigma images). How GALFIT measures the sky and its scatter is not published. Here they are
    the mean and standard deviation after six clippings at 3 sigma, and the object is smoothed:
    of the many methods tried, this one best reproduces the chi2 that 21 runs of GALFIT report
    for their own models, to 10 % rms and 25 % at most. The chi2 of such a fit is comparable
    with GALFIT's only if both are computed with the same sigma.

    Args:
        image: (H, W), ADU.
        usable: (H, W) True on pixels from which the sky is measured.
        header: the image's header, for GAIN (CCDGAIN, ATODGAIN; else 7) and NCOMBINE (else 1).

    Raises:
        ValueError: if the image has no scatter.
    """
    known = first_number(*(number_in(header, key) for key in GAIN_KEYS))
    gain = known if known is not None and known > 0 else GAIN
    count = number_in(header, "NCOMBINE")
    electrons = gain * (count if count is not None and count > 0 else 1.0)
    values = image[usable].astype(np.float64)
    level, scatter = _clipped(values)
    if not scatter > 0:
        raise ValueError("the image has no scatter to make a sigma image from: give one in row C)")
    sky = np.where(usable, image, level).astype(np.float64) - level
    poisson = np.clip(ndimage.gaussian_filter(sky, SMOOTHING), 0, None) / electrons
    default = "" if known else ", GALFIT's default"
    text = f"gain {electrons:g}{default}, sky scatter {scatter:.3g}"
    return np.sqrt(poisson + scatter**2), text


def _clipped(values: NDArray[np.float64]) -> tuple[float, float]:
    """Return mean and scatter of the values within 3 sigma of the mean."""
    kept = values
    for _ in range(ROUNDS):
        if not kept.size:
            break
        kept = values[np.abs(values - kept.mean()) < CLIP * kept.std()]
    return (float(kept.mean()), float(kept.std())) if kept.size else (0.0, 0.0)
