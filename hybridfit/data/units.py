"""Units of images: what they measure, and the AB magnitude of one of them.

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

# words for units in headers, in small letters; what astropy knows in its own spelling need not
# stand here
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
# of 10 by four digits and more, which astropy works out in whole numbers: 10**9999999 takes minutes
POWER = re.compile(r"(\*\*|\^)[\s(+-]*\d{4}|\b10[\s(+-]+\d{4}")
NAMELESS = ("", "none", "unknown", "unitless", "dimensionless", "n/a", "null", "undef")
JANSKY = re.compile(r"(nano|micro|milli|mega|mu|n|u|m|)(?:jy|jansk(?:y|ys|ies))", re.IGNORECASE)


class Kind(Enum):
    """What a pixel's number measures."""

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


# what one unit of each kind is measured in
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
        name: as it is written, "" where there is none.
        kind: what it measures.
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
    """Return what a header's BUNIT says; of kind UNKNOWN where it is not understood."""
    name = " ".join(str(text).split())
    unit = parse_unit(name)
    if unit is None:
        return ImageUnit("" if name.lower() in NAMELESS else name)
    kind, size = classify(unit)
    return ImageUnit(name, kind, size)


def parse_unit(text: str) -> Any:
    """Return the astropy unit of a text in any common spelling, None if it is not understood."""
    if len(text) > LONGEST or POWER.search(text):
        return None
    text = text.strip().strip("[]'\" ").replace("\u00b5", "u").replace("\u03bc", "u")
    if text.lower() in NAMELESS:
        return None
    text = re.sub(r"(?<![A-Za-z0-9.])[eE]-(?![0-9])", "electron", text)
    text = re.sub(r"\b[Pp][Ee][Rr]\b", "/", text)
    if re.search(r"\bMJY\b", text):  # capitals alone: mega only where it is per solid angle
        text = text.replace("MJY", "MJy") if re.search(r"(?i)s(te)?r", text) else "unknown MJY"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return u.Unit(re.sub(r"(?<![0-9.])[A-Za-z]+", _spelled, text))
    except Exception:  # of what may stand in a header: overflows, divisions by 0, and more
        return None


def _spelled(match: re.Match[str]) -> str:
    """One word of a unit as astropy spells it."""
    word = match[0]
    if word == "A":  # in an image's unit never an ampere
        return "Angstrom"
    flux = JANSKY.fullmatch(word)
    if flux:
        prefix = flux[1]
        return ("M" if prefix == "M" else PREFIXES.get(prefix.lower(), prefix.lower())) + "Jy"
    return WORDS.get(word.lower(), word)


def classify(unit: Any) -> tuple[Kind, float]:
    """Return what an astropy unit measures, and its size in the kind's base (`ImageUnit`)."""
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
