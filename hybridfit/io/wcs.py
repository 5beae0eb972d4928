"""What a FITS header knows of where an image is: pixel scale, WCS.

A manifest's row goes before the option for all rows, and both before the header.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Iterable
from typing import Any

from astropy.io import fits
from astropy.wcs import WCS
from astropy.wcs.utils import proj_plane_pixel_area, proj_plane_pixel_scales

from hybridfit.io.image_header import text_in

# what a WCS is made of: parsing the hundreds of other cards of a survey's header costs more than
# the rest of reading
WCS_KEYS = re.compile(
    r"NAXIS|WCS|CTYPE|CRPIX|CRVAL|CDELT|CUNIT|CROTA|CD\d|PC\d|PV\d|PS\d|LONPOLE|LATPOLE|RADE|"
    r"EQUINOX|EPOCH|MJD|DATE-OBS|[AB]P?_|[DC][PQ]"
)

# axes and orders of polynomials, for which memory and time grow by powers, as the standards have
# them at most
WCS_LIMITS = ((re.compile(r"WCSAXES[A-Z]?"), 99), (re.compile(r"[AB]P?_ORDER"), 9))

SKY_AXIS = re.compile(r"RA\b|DEC\b|[A-Z]?[A-Z]?L(ON|AT)\b|RA-|DEC-", re.IGNORECASE)


def first_number(*values: Any) -> float | None:
    """The first finite number of what may be missing or, in a header, anything."""
    for value in values:
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            return float(value)
    return None


def pixel_scale(row: float, option: float | None, wcs: WCS | None) -> float:
    """Return arcsec per pixel, the geometric mean of both axes; NaN where it is unknown."""
    known = first_number(row, option)
    if known is None and wcs is not None:
        sides = proj_plane_pixel_scales(wcs)  # degrees
        known = 3600.0 * math.sqrt(abs(float(sides[0]) * float(sides[1])))
    return known if known is not None and known > 0 else math.nan


def celestial_wcs(header: fits.Header, origin: tuple[int, int]) -> tuple[WCS | None, str]:
    """Return the WCS of the cutout that begins at ``origin``, None where there is none; a note."""
    kinds = [text_in(header, f"CTYPE{axis}") for axis in (1, 2)]
    if not all(kind[4:5] == "-" for kind in kinds):  # nothing celestial: spare the parsing
        is_meant = any(SKY_AXIS.match(kind) for kind in kinds)
        return None, f"no ra, dec: CTYPE {', '.join(kinds)} has no projection" if is_meant else ""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            chosen = [card for card in header.cards if WCS_KEYS.match(card.keyword)]
            if absurd := _beyond_limits(chosen):
                return None, f"the WCS in the header cannot be read: {absurd}"
            wcs = WCS(fits.Header(chosen), naxis=2)
    except Exception:  # wcslib's errors are many, and positions in pixels do without
        return None, "the WCS in the header cannot be read"
    if not wcs.has_celestial:
        return None, f"no ra, dec: the WCS has the axes {' and '.join(wcs.wcs.ctype)}"
    return moved_wcs(wcs, origin), ""


def _beyond_limits(cards: Iterable[fits.Card]) -> str:
    """Say what a WCS claims that would take minutes or gigabytes to set up; "" for others."""
    for card in cards:
        for name, limit in WCS_LIMITS:
            # what is no number is wcslib's to refuse
            if name.fullmatch(card.keyword) and (first_number(card.value) or 0) > limit:
                return f"{card.keyword} = {card.value}, expected {limit} at most"
    return ""


def moved_wcs(wcs: WCS | None, origin: tuple[int, int]) -> WCS | None:
    """Return the WCS of the part of an image that begins at x, y = ``origin``."""
    x, y = origin
    return wcs.slice((slice(y, None), slice(x, None))) if wcs is not None and (x or y) else wcs


def pixel_area(scale: float | None, wcs: WCS | None) -> float | None:
    """Return the steradian of a pixel of ``scale`` arcsec, or of a WCS; None where unknown."""
    if scale is not None and math.isfinite(scale) and scale > 0:
        side = math.radians(scale / 3600)
        area = side * side  # infinite of 1e200 arcsec, where ** would raise
    elif wcs is None:
        return None
    else:
        area = abs(float(proj_plane_pixel_area(wcs))) * math.radians(1.0) ** 2
    return area if math.isfinite(area) and area > 0 else None
