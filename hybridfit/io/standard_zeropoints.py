"""Zero points from a unit or a standard keyword."""

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
# credible zero points: 8.9 for Jy, 46.4 for femto-Jy
ALIKE = 0.005  # mag, within which two zero points agree
BELIEVED = (5.0, 50.0)  # mag
POSSIBLE = (-60.0, 60.0)  # for any unit: -56.1 for W/m2/Hz
LIGHT = 2.99792458e18  # Angstrom / s


@dataclass(frozen=True)
class Found:
    """A zero point.

    Args:
        value: mag of one unit of the stored image.
        origin: keyword or unit it comes from.
        notes: for the user.
        kind: assumed kind of the pixels' unit, where the header does not give one.
    """

    value: float
    origin: str
    notes: tuple[str, ...] = ()
    kind: Kind = Kind.UNKNOWN


def is_believed(value: float | None) -> bool:
    """Return whether a number is a credible zero point."""
    return value is not None and BELIEVED[0] <= value <= BELIEVED[1]


def standard_zeropoint(image: ImageHeader) -> Found | None:
    """Return the AB zero point from an image's unit or a standard keyword, or None."""
    return next(filter(None, (method(image) for method in METHODS)), None)


def other_zeropoints(image: ImageHeader, found: Found) -> tuple[Found, ...]:
    """Return zero points from further standard keywords that differ from the one that is used."""
    others = filter(None, (method(image) for method in (*METHODS, _by_photfnu)))
    return tuple(
        other
        for other in others
        if other.origin != found.origin and abs(other.value - found.value) > ALIKE
    )


def _by_unit(image: ImageHeader) -> Found | None:
    """From a unit of flux density, with a pixel's area or a wavelength where needed."""
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
    """Return the AB magnitude of a flux in erg/s/cm2/Angstrom at a wavelength in Angstrom."""
    return -2.5 * math.log10(flam * wavelength**2 / LIGHT) - 48.6


def _by_fluxmag0(image: ImageHeader) -> Found | None:
    """From FLUXMAG0, the counts of a source of magnitude 0 (LSST, HSC)."""
    flux = image.positive("FLUXMAG0")
    if flux is None or not POSSIBLE[0] < 2.5 * math.log10(flux) < POSSIBLE[1]:
        return None
    return Found(2.5 * math.log10(flux), "FLUXMAG0")


def _by_photflam(image: ImageHeader) -> Found | None:
    """From HST's inverse sensitivity, per electron (or count) per second."""
    flam, wavelength = image.positive("PHOTFLAM"), image.positive("PHOTPLAM")
    fnu = image.positive("PHOTFNU")
    if flam is not None and wavelength is not None:
        rate, origin = _ab_of_flam(flam, wavelength), "PHOTFLAM"
    elif fnu is not None:
        rate, origin = ab_zeropoint(fnu * image_unit("Jy").size), "PHOTFNU"
    else:
        return None
    if not is_believed(rate):  # the keywords are placeholders
        return None
    if image.unit.kind in RATES:
        return Found(rate, origin)
    if image.unit.kind not in (Kind.COUNTS, Kind.ELECTRONS):
        note = (
            f"pixels taken as electrons per second, the unit of {origin}, because there is no BUNIT"
        )
        return Found(rate, origin, (note,), Kind.ELECTRON_RATE)
    return _of_rate(image, rate, origin)


def _by_photfnu(image: ImageHeader) -> Found | None:
    """From PHOTFNU, Jy per count per second, where PHOTFLAM takes precedence."""
    fnu = image.positive("PHOTFNU")
    if fnu is None or image.unit.kind not in (*RATES, Kind.COUNTS, Kind.ELECTRONS):
        return None
    rate = ab_zeropoint(fnu * image_unit("Jy").size)
    return _of_rate(image, rate, "PHOTFNU") if is_believed(rate) else None


def _of_rate(image: ImageHeader, rate: float, origin: str) -> Found:
    """Return the zero point of counts, given that of counts per second."""
    total = image.per_exposure(rate)
    if total is None:
        return Found(rate, origin, (f"{origin} is per second and EXPTIME is unknown: 1 s assumed",))
    return Found(total, origin if total == rate else f"{origin}, EXPTIME")


def _by_photmjsr(image: ImageHeader) -> Found | None:
    """From PHOTMJSR of JWST's uncalibrated images, MJy/sr per count per second."""
    surface = image.positive("PHOTMJSR")
    if surface is None or image.unit.kind not in (*RATES, Kind.COUNTS, Kind.ELECTRONS):
        return None
    area, notes = image.pixel_area()
    if area is None:
        return None
    found = _of_rate(image, ab_zeropoint(surface * image_unit("MJy/sr").size * area), "PHOTMJSR")
    return Found(found.value, found.origin, (*notes, *found.notes))


def _by_panstarrs(image: ImageHeader) -> Found | None:
    """From Pan-STARRS: FPA.ZP + 2.5 log10(EXPTIME), where FPA.ZP is 25 in stacks."""
    rate = image.number("FPA.ZP")
    if rate is None and not ("BSOFTEN" in image.header and "BOFFSET" in image.header):
        return None
    rate = 25.0 if rate is None else rate
    return _of_rate(image, rate, "FPA.ZP") if is_believed(rate) else None


def _by_flux20(image: ImageHeader) -> Found | None:
    """From FLUX20 of SDSS up to DR7, the counts of a source of magnitude 20."""
    flux = image.positive("FLUX20")
    if flux is None or image.unit.kind in RATES:
        return None
    return Found(20 + 2.5 * math.log10(flux), "FLUX20")


def detrended_zeropoint(image: ImageHeader) -> Found | None:
    """Return CFHT's PHOT_C + PHOT_K (AIRMASS - 1) for counts per second.

    It applies to detrended exposures. Stacks inherit these keywords but have their own zero point.
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
