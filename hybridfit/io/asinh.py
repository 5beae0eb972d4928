"""Pan-STARRS images: convert pixels from their asinh scale to linear fluxes.

Stacks, warps and their variance images (``.wt``) are stored as v = a asinh((f - BOFFSET) /
(2 BSOFTEN)) with a = 2.5 log10(e), each with its own keywords (Waters et al. 2020, ApJS 251, 4).
"""

from __future__ import annotations

import math

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from hybridfit.data.errors import BadInput
from hybridfit.io.image_header import number_in, text_in

LINEAR = "made linear from the asinh scale of Pan-STARRS"
KEYS = ("BSOFTEN", "BOFFSET")
SCALE = 2.5 * math.log10(math.e)
MAX_VALUE = 60.0  # a factor of 10^24 in flux: larger values are not on that scale


def is_asinh(header: fits.Header) -> bool:
    """Return whether the header declares an asinh scale of the pixels."""
    return any(key in header for key in KEYS)


def linear_pixels(
    data: NDArray[np.floating], header: fits.Header, where: str
) -> NDArray[np.floating]:
    """Return pixels as linear fluxes: f = BOFFSET + 2 BSOFTEN sinh(v / a).

    Args:
        data: (H, W) as they are stored.
        header: header of their own HDU; without the keywords the pixels are returned as they are.
        where: file and HDU, for errors.

    Raises:
        BadInput: if one of the keywords is missing or not a number, or if the pixels cannot be
            on that scale, as in a linearised image that kept the keywords.
    """
    if not is_asinh(header):
        return data
    softening, offset = (number_in(header, key) for key in KEYS)
    if softening is None or offset is None or softening <= 0:
        found = ", ".join(f"{key} = {text_in(header, key) or 'missing'}" for key in KEYS)
        raise BadInput(
            f"{where} is on the asinh scale of Pan-STARRS, but has {found}: expected two numbers, "
            "BSOFTEN above 0; make it linear first and remove both"
        )
    finite = data[np.isfinite(data)]
    if finite.size and float(np.abs(finite).max()) > MAX_VALUE:
        raise BadInput(
            f"{where} has BSOFTEN and BOFFSET of the asinh scale of Pan-STARRS, but pixels up to "
            f"{float(np.abs(finite).max()):.3g}, expected at most {MAX_VALUE:g}: remove both "
            "keywords if it is linear"
        )
    return offset + 2 * softening * np.sinh(np.asarray(data, np.float64) / SCALE)
