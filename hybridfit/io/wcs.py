"""Pixel scale and WCS from a FITS header.

A manifest's row takes precedence over the option for all rows, and both over the header.
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

# cards that define a WCS: parsing the hundreds of others in a survey's header costs more than the
# rest of reading
WCS_KEYS = re.compile(
    r"NAXIS|WCS|CTYPE|CRPIX|CRVAL|CDELT|CUNIT|CROTA|CD\d|PC\d|PV\d|PS\d|LONPOLE|LATPOLE|RADE|"
    r"EQUINOX|EPOCH|MJD|DATE-OBS|[AB]P?_|[DC][PQ]"
)

# largest numbers of axes and polynomial orders in the standards: memory and time grow as their
# powers
WCS_LIMITS = ((re.compile(r"WCSAXES[A-Z]?"), 99), (re.compile(r"[AB]P?_ORDER"), 9))

SKY_AXIS = re.compile(r"RA\b|DEC\b|[A-Z]?[A-Z]?L(ON|AT)\b|RA-|DEC-", re.IGNORECASE)


def first_number(*values: Any) -> float | None:
    """Return the first finite number of values that may be missing or of any type."""
    for value in values:
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            return float(value)
    return None


def pixel_scale(row: float, option: float | None, wcs: WCS | None) -> float:
    """Return arcsec per pixel, the geometric mean of both axes; NaN if unknown."""
    known = first_number(row, option)
    if known is None and wcs is not None:
        sides = proj_plane_pixel_scales(wcs)  # degrees
        known = 3600.0 * math.sqrt(abs(float(sides[0]) * float(sides[1])))
    return known if known is not None and known > 0 else math.nan


def celestial_wcs(header: fits.Header, origin: tuple[int, int]) -> tuple[WCS | None, str]:
    """Return the WCS of the cutout that begins at ``origin``, or None, and a note."""
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
    except Exception:  # wcslib raises many types, and positions in pixels need no WCS
        return None, "the WCS in the header cannot be read"
    if not wcs.has_celestial:
        return None, f"no ra, dec: the WCS has the axes {' and '.join(wcs.wcs.ctype)}"
    return moved_wcs(wcs, origin), ""


def _beyond_limits(cards: Iterable[fits.Card]) -> str:
    """Describe a WCS that would take minutes or gigabytes to set up; "" for others."""
    for card in cards:
        for name, limit in WCS_LIMITS:
            # wcslib refuses anything but numbers
            if name.fullmatch(card.keyword) and (first_number(card.value) or 0) > limit:
                return f"{card.keyword} = {card.value}, expected {limit} at most"
    return ""


def moved_wcs(wcs: WCS | None, origin: tuple[int, int]) -> WCS | None:
    """Return the WCS of the part of an image that begins at x, y = ``origin``."""
    x, y = origin
    return wcs.slice((slice(y, None), slice(x, None))) if wcs is not None and (x or y) else wcs


def pixel_area(scale: float | None, wcs: WCS | None) -> float | None:
    """Return the solid angle of a pixel in steradian from ``scale`` [arcsec] or a WCS, or None."""
    if scale is not None and math.isfinite(scale) and scale > 0:
        side = math.radians(scale / 3600)
        area = side * side  # infinite for 1e200 arcsec, where ** would raise
    elif wcs is None:
        return None
    else:
        area = abs(float(proj_plane_pixel_area(wcs))) * math.radians(1.0) ** 2
    return area if math.isfinite(area) and area > 0 else None
