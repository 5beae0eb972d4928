"""Units of fluxes and sky levels in a table, if all images have the same unit.

A table does not see the headers of the images, but the origin of each zero point names the unit
that it was derived from. Fluxes are sums over pixels: only units of flux density are assigned, not
those of surface brightness, and not counts, whose zero points have other origins.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Collection
from dataclasses import replace

from astropy import units as u

from hybridfit.data.units import Kind, classify, parse_unit
from hybridfit.io.table import Column

ORIGIN_WIDTH = 32  # bytes
ORIGINS = ("BUNIT ", "unit ")  # of a header, and of a Quantity
FLUXES = re.compile(r"flux(_err|_limit)?")
SKIES = re.compile(r"sky(_dx|_dy)?(_err|_p\d+|_samples)?")


def shared_unit(origins: Collection[str]) -> str:
    """Return the flux unit from which all zero points were derived, in astropy's spelling.

    Args:
        origins: distinct entries of the column ``zeropoint_from``.

    Returns:
        The unit of a flux, without "per pixel"; "" if the zero points have other origins or
        different units, or if FITS and VOTable cannot express the unit.
    """
    units = {_flux_unit(origin) for origin in origins}
    return units.pop() if len(units) == 1 else ""


def with_flux_unit(column: Column, unit: str) -> Column:
    """Return the column with its unit, if it contains fluxes or sky levels.

    Args:
        column: any column.
        unit: unit of a flux, see `shared_unit`; "" leaves all columns as they are.
    """
    if not unit:
        return column
    if FLUXES.fullmatch(column.name):
        return replace(column, unit=unit)
    sky = SKIES.fullmatch(column.name)
    if sky is None:
        return column
    area = u.pix**2 if sky[1] else u.pix  # a gradient is per pixel and pixel
    return replace(column, unit=(u.Unit(unit) / area).to_string())


def _flux_unit(origin: str) -> str:
    """Return the flux unit that the origin of a zero point names, "" for none."""
    prefix = next((p for p in ORIGINS if origin.startswith(p)), None)
    if prefix is None or len(origin.encode()) >= ORIGIN_WIDTH:  # it may have been cut
        return ""
    unit = parse_unit(origin.removeprefix(prefix))
    if unit is None or classify(unit)[0] != Kind.FLUX:
        return ""
    if u.pix in getattr(unit, "bases", ()):
        unit = unit * u.pix
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # deprecated units
            for format in ("fits", "vounit"):
                unit.to_string(format)
            return str(u.Unit(unit).to_string())
    except ValueError:
        return ""
