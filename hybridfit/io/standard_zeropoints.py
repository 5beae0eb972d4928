"""Zero points that a unit or a standard keyword tells: nobody has to guess."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from hybridfit.data.units import Kind, ab_zeropoint, image_unit
from hybridfit.io.image_header import RATES, ImageHeader

STANDARD_KEYS = (
    *("FLUXMAG0", "PHOTFLAM", "PHOTPLAM", "PHOTFNU", "PHOTMJSR", "FPA.ZP", "FLUX20"),
    *("PHOT_C", "PHOT_K", "AIRMASS"),
)
# what a zero point can be: that of Jy is 8.9, that of femto-Jy 46.4
BELIEVED = (5.0, 50.0)  # mag
POSSIBLE = (-60.0, 60.0)  # of any unit: that of W/m2/Hz is -56.1
LIGHT = 2.99792458e18  # Angstrom / s


@dataclass(frozen=True)
class Found:
    """A zero point.

    Args:
        value: mag of one unit of the image as it is.
        origin: what it is taken from.
        notes: what the user should know of it.
        kind: of the pixels' unit, where that is not told and had to be supposed.
    """

    value: float
    origin: str
    notes: tuple[str, ...] = ()
    kind: Kind = Kind.UNKNOWN


def is_believed(value: float | None) -> bool:
    """Whether a number can be a zero point."""
    return value is not None and BELIEVED[0] <= value <= BELIEVED[1]


def standard_zeropoint(image: ImageHeader) -> Found | None:
    """Return the AB zero point of an image by its unit or a standard keyword, if it has any."""
    return next(filter(None, (method(image) for method in METHODS)), None)


def _by_unit(image: ImageHeader) -> Found | None:
    """A flux density: the unit is all that is needed, but for a pixel's area or a wavelength."""
    unit, size = image.unit, image.unit.size
    notes: tuple[str, ...] = ()
    if unit.kind == Kind.SURFACE:
        area, notes = image.pixel_area()
        size = size * area if area is not None else math.nan
    elif unit.kind == Kind.BEAM:
        beam, area = image.beam_area(), image.pixel_area()[0]
        size = size * area / beam if beam is not None and area is not None else math.nan
    elif unit.kind == Kind.WAVELENGTH:
        wavelength = image.positive("PHOTPLAM")
        size = 10 ** (-0.4 * _ab_of_flam(size, wavelength)) if wavelength else math.nan
    elif unit.kind != Kind.FLUX:
        return None
    if not 0 < size < math.inf:
        return None
    return Found(ab_zeropoint(size), f"BUNIT {unit.name}", notes)


def _ab_of_flam(flam: float, wavelength: float) -> float:
    """AB magnitude of erg/s/cm2/Angstrom at a wavelength in Angstrom."""
    return -2.5 * math.log10(flam * wavelength**2 / LIGHT) - 48.6


def _by_fluxmag0(image: ImageHeader) -> Found | None:
    """Counts of a source of magnitude 0 (LSST's pipelines, HSC)."""
    flux = image.positive("FLUXMAG0")
    if flux is None or not POSSIBLE[0] < 2.5 * math.log10(flux) < POSSIBLE[1]:
        return None
    return Found(2.5 * math.log10(flux), "FLUXMAG0")


def _by_photflam(image: ImageHeader) -> Found | None:
    """HST's inverse sensitivity, of one electron (or count) per second."""
    flam, wavelength = image.positive("PHOTFLAM"), image.positive("PHOTPLAM")
    fnu = image.positive("PHOTFNU")
    if flam is not None and wavelength is not None:
        rate, origin = _ab_of_flam(flam, wavelength), "PHOTFLAM"
    elif fnu is not None:
        rate, origin = ab_zeropoint(fnu * image_unit("Jy").size), "PHOTFNU"
    else:
        return None
    if not is_believed(rate):  # keywords not filled in
        return None
    if image.unit.kind in RATES:
        return Found(rate, origin)
    if image.unit.kind not in (Kind.COUNTS, Kind.ELECTRONS):
        note = f"pixels taken as electrons per second, as {origin} has it: no BUNIT says so"
        return Found(rate, origin, (note,), Kind.ELECTRON_RATE)
    return _of_rate(image, rate, origin)


def _of_rate(image: ImageHeader, rate: float, origin: str) -> Found:
    """The zero point of counts by one that is per second."""
    total = image.per_exposure(rate)
    if total is None:
        return Found(rate, origin, (f"{origin} is per second, and EXPTIME is not known: 1 s",))
    return Found(total, origin if total == rate else f"{origin}, EXPTIME")


def _by_photmjsr(image: ImageHeader) -> Found | None:
    """JWST's images before calibration: MJy/sr of one count per second."""
    surface = image.positive("PHOTMJSR")
    if surface is None or image.unit.kind not in (*RATES, Kind.COUNTS, Kind.ELECTRONS):
        return None
    area, notes = image.pixel_area()
    if area is None:
        return None
    found = _of_rate(image, ab_zeropoint(surface * image_unit("MJy/sr").size * area), "PHOTMJSR")
    return Found(found.value, found.origin, (*notes, *found.notes))


def _by_panstarrs(image: ImageHeader) -> Found | None:
    """Pan-STARRS: FPA.ZP + 2.5 log10(EXPTIME), where FPA.ZP is 25 in stacks."""
    rate = image.number("FPA.ZP")
    if rate is None and not ("BSOFTEN" in image.header and "BOFFSET" in image.header):
        return None
    rate = 25.0 if rate is None else rate
    return _of_rate(image, rate, "FPA.ZP") if is_believed(rate) else None


def _by_flux20(image: ImageHeader) -> Found | None:
    """SDSS up to DR7: counts of a source of 20 mag."""
    flux = image.positive("FLUX20")
    if flux is None or image.unit.kind in RATES:
        return None
    return Found(20 + 2.5 * math.log10(flux), "FLUX20")


def detrended_zeropoint(image: ImageHeader) -> Found | None:
    """CFHT: PHOT_C + PHOT_K (AIRMASS - 1) for counts per second.

    It is of a detrended exposure. Stacks inherit these keywords and have another for themselves.
    """
    rate = image.number("PHOT_C")
    if rate is None or not is_believed(rate):
        return None
    slope, airmass = image.number("PHOT_K"), image.number("AIRMASS")
    if slope is not None and airmass is not None:
        rate += slope * (airmass - 1)
    return _of_rate(image, rate, "PHOT_C")


METHODS: tuple[Callable[[ImageHeader], Found | None], ...] = (
    _by_unit,
    _by_fluxmag0,
    _by_photflam,
    _by_photmjsr,
    _by_panstarrs,
    _by_flux20,
)
