"""Units of images: the quantity they measure, and the AB magnitude of one unit.

>>> image_unit("10.0*nanoJansky").kind
<Kind.FLUX: 'flux density'>
>>> round(ab_zeropoint(image_unit("nJy").size), 3)
31.4
"""

from __future__ import annotations

import math
import re
import warnings
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from typing import Any

from astropy import units as u

# names of units in headers, in lower case; spellings that astropy knows are not listed
WORDS = {
    **dict.fromkeys(("counts", "count", "cts", "ct", "adus", "adu", "dn", "dns", "du"), "adu"),
    **dict.fromkeys(("electrons", "electron", "e", "el", "photons", "photon", "ph"), "electron"),
    **dict.fromkeys(("photoelectrons", "photoelectron"), "electron"),
    **dict.fromkeys(("cps", "cnts/s"), "adu/s"),
    **dict.fromkeys(("s", "sec", "secs", "second", "seconds"), "s"),
    **dict.fromkeys(("nanomaggies", "nanomaggy", "nmgys", "nmgy", "nmaggy", "nmaggies"), "nmgy"),
    **dict.fromkeys(("maggies", "maggy", "mgys", "mgy"), "mgy"),
    **dict.fromkeys(("micromaggies", "micromaggy", "umgy", "umaggy"), "umgy"),
    **dict.fromkeys(("sr", "ster", "steradian", "steradians"), "sr"),
    **dict.fromkeys(("arcsec", "asec", "arcsecs", "arcsecond", "arcseconds"), "arcsec"),
    **dict.fromkeys(("sqarcsec", "sqas", "arcsecsq"), "arcsec2"),
    **dict.fromkeys(("pixel", "pixels", "pix", "px"), "pix"),
    **dict.fromkeys(("angstrom", "angstroms", "ang"), "Angstrom"),
    **dict.fromkeys(("erg", "ergs"), "erg"),
    **dict.fromkeys(("hz", "hertz"), "Hz"),
    **dict.fromkeys(("cm", "centimeter", "centimetre"), "cm"),
    "beam": "beam",
    "mag": "mag",
    "mags": "mag",
}
PREFIXES = {
    **{"n": "n", "nano": "n", "u": "u", "mu": "u", "micro": "u", "milli": "m", "mega": "M"},
    "": "",
}
LONGEST = 80  # characters of a unit
# exponents of 10 with four or more digits: astropy computes integers, 10**9999999 takes minutes
POWER = re.compile(r"(\*\*|\^)[\s(+-]*\d{4}|\b10[\s(+-]+\d{4}")
NAMELESS = ("", "none", "unknown", "unitless", "dimensionless", "n/a", "null", "undef")
JANSKY = re.compile(r"(nano|micro|milli|mega|mu|n|u|m|)(?:jy|jansk(?:y|ys|ies))", re.IGNORECASE)


class Kind(Enum):
    """The quantity measured by a pixel value."""

    FLUX = "flux density"
    SURFACE = "flux density per solid angle"
    BEAM = "flux density per beam"
    WAVELENGTH = "flux density per wavelength"
    COUNTS = "counts"
    COUNT_RATE = "counts per second"
    ELECTRONS = "electrons"
    ELECTRON_RATE = "electrons per second"
    MAGNITUDE = "magnitudes"
    UNKNOWN = "unknown"


# base unit of each kind
BASES = {
    Kind.FLUX: u.AB,
    Kind.SURFACE: u.AB / u.sr,
    Kind.BEAM: u.AB / u.beam,
    Kind.WAVELENGTH: u.erg / u.s / u.cm**2 / u.AA,
    Kind.COUNTS: u.adu,
    Kind.COUNT_RATE: u.adu / u.s,
    Kind.ELECTRONS: u.electron,
    Kind.ELECTRON_RATE: u.electron / u.s,
}


@dataclass(frozen=True)
class ImageUnit:
    """A unit of pixels.

    Args:
        name: as written, "" if missing.
        kind: the quantity it measures.
        size: of one unit in the kind's base: flux densities in 3631 Jy (maggies), per steradian
            or beam; per wavelength in erg/s/cm2/Angstrom; counts, electrons, per second.
    """

    name: str
    kind: Kind = Kind.UNKNOWN
    size: float = math.nan


def ab_zeropoint(maggies: float) -> float:
    """Return the AB magnitude of a flux density in units of 3631 Jy."""
    return -2.5 * math.log10(maggies)


@lru_cache(maxsize=1024)
def image_unit(text: str) -> ImageUnit:
    """Return the unit of a header's BUNIT; of kind UNKNOWN if it cannot be parsed."""
    name = " ".join(str(text).split())
    unit = parse_unit(name)
    if unit is None:
        return ImageUnit("" if name.lower() in NAMELESS else name)
    kind, size = classify(unit)
    return ImageUnit(name, kind, size)


def parse_unit(text: str) -> Any:
    """Return the astropy unit of a text in any common spelling, None if it cannot be parsed."""
    if len(text) > LONGEST or POWER.search(text):
        return None
    text = text.strip().strip("[]'\" ").replace("\u00b5", "u").replace("\u03bc", "u")
    if text.lower() in NAMELESS:
        return None
    text = re.sub(r"(?<![A-Za-z0-9.])[eE]-(?![0-9])", "electron", text)
    text = re.sub(r"\b[Pp][Ee][Rr]\b", "/", text)
    if re.search(r"\bMJY\b", text):  # all capitals: mega only if per solid angle
        text = text.replace("MJY", "MJy") if re.search(r"(?i)s(te)?r", text) else "unknown MJY"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return u.Unit(re.sub(r"(?<![0-9.])[A-Za-z]+", _spelled, text))
    except Exception:  # anything may be in a header: overflows, divisions by 0, and more
        return None


def _spelled(match: re.Match[str]) -> str:
    """Return one word of a unit in astropy's spelling."""
    word = match[0]
    if word == "A":  # never an ampere in an image's unit
        return "Angstrom"
    flux = JANSKY.fullmatch(word)
    if flux:
        prefix = flux[1]
        return ("M" if prefix == "M" else PREFIXES.get(prefix.lower(), prefix.lower())) + "Jy"
    return WORDS.get(word.lower(), word)


def classify(unit: Any) -> tuple[Kind, float]:
    """Return the kind of an astropy unit, and its size in the kind's base (`ImageUnit`)."""
    if isinstance(unit, u.function.FunctionUnitBase):
        return Kind.MAGNITUDE, math.nan
    unit = plain_unit(unit)
    for kind, base in BASES.items():
        if unit.is_equivalent(base):
            return kind, float(unit.to(base))
    if any(unit.is_equivalent(base) for base in (u.mag, u.mag / u.sr)):
        return Kind.MAGNITUDE, math.nan
    return Kind.UNKNOWN, math.nan


def plain_unit(unit: Any) -> Any:
    """Return the unit with maggies as flux densities, and without "per pixel"."""
    found = u.dimensionless_unscaled * unit.scale if hasattr(unit, "scale") else unit
    if not hasattr(unit, "bases"):
        return unit
    for base, power in zip(unit.bases, unit.powers, strict=True):
        if base.is_equivalent(u.mgy):
            base = base.to(u.mgy) * u.AB
        if base != u.pix or power != -1:
            found = found * base**power
    return u.Unit(found)
