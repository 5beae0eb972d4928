"""What a header says of an image's brightness: its zero point, and electrons per unit.

A unit says it all where it is one of flux density. Then come keywords that are standards: FLUXMAG0
(LSST, HSC), PHOTFLAM and PHOTPLAM (HST), PHOTMJSR and PIXAR_SR (JWST), FPA.ZP (Pan-STARRS), FLUX20
(SDSS), PHOT_C (CFHT). Zero points under other names are taken for the pixels as they are, but for
those of known pipelines; what may be meant otherwise is told.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from astropy.io import fits
from numpy.typing import NDArray

from hybridfit.data.errors import BadInput
from hybridfit.data.units import Kind
from hybridfit.detection.gain_check import Doubt
from hybridfit.io.image_header import EXPOSURE_KEYS, SOLID_ANGLE_KEYS, UNIT_KEYS, ImageHeader
from hybridfit.io.named_zeropoints import (
    SURVEY_KEYS,
    SYSTEM_KEYS,
    ZEROPOINT_KEYS,
    disagreements,
    named_zeropoint,
    refused_zeropoints,
)
from hybridfit.io.standard_zeropoints import (
    STANDARD_KEYS,
    Found,
    detrended_zeropoint,
    standard_zeropoint,
)

GAIN_KEYS = ("GAIN", "EGAIN", "CCDGAIN", "ATODGAIN")
PHOTOMETRIC_KEYS = (
    *UNIT_KEYS,
    *EXPOSURE_KEYS,
    *SOLID_ANGLE_KEYS,
    *STANDARD_KEYS,
    *ZEROPOINT_KEYS,
    *SYSTEM_KEYS,
    *SURVEY_KEYS,
    *GAIN_KEYS,
)
CALIBRATED = (Kind.FLUX, Kind.SURFACE, Kind.BEAM, Kind.WAVELENGTH)


@dataclass(frozen=True)
class Calibration:
    """How bright one unit of an image is.

    Args:
        zeropoint: mag of one unit; 0 where nothing is known.
        origin: what it is taken from, "" where nothing is known.
        gain: electrons per unit, None where unknown.
        notes: what the user should know of the zero point.
        gain_notes: the same of the gain, where a noise map has to be made.
        gain_doubt: how sure the gain is.
    """

    zeropoint: float
    origin: str
    gain: float | None
    notes: tuple[str, ...] = ()
    gain_notes: tuple[str, ...] = ()
    gain_doubt: Doubt = Doubt.NONE


def calibrate(
    header: fits.Header,
    *,
    zeropoint: float | None = None,
    gain: float | None = None,
    area: float | None = None,
    pixels: NDArray | None = None,
) -> Calibration:
    """Return the calibration of an image.

    Args:
        header: of the image, with what it inherits.
        zeropoint: mag, as the user gives it: goes before the header.
        gain: electrons per unit, likewise.
        area: of a pixel in steradian, as the WCS or the user has it, None where unknown.
        pixels: (H, W) of the image, by which a zero point of 0 is believed or not.

    Raises:
        BadInput: if the image is of magnitudes, which cannot be fitted.
    """
    image = ImageHeader.of(header, area, pixels)
    if image.unit.kind == Kind.MAGNITUDE:
        raise BadInput(
            f"the image is in '{image.unit.name}', expected a unit that is linear in flux: "
            "convert it, or correct BUNIT"
        )
    found = _zeropoint(image)
    electrons, gain_notes = _gain(image, gain, found.kind)
    doubt = Doubt.MUCH if image.unit.kind == Kind.UNKNOWN else Doubt.SOME
    doubt = doubt if gain is None else Doubt.NONE
    if zeropoint is not None:
        return Calibration(zeropoint, "given", electrons, (), gain_notes, doubt)
    return Calibration(found.value, found.origin, electrons, found.notes, gain_notes, doubt)


def _zeropoint(image: ImageHeader) -> Found:
    """The zero point that a header tells, and what else it says."""
    found = standard_zeropoint(image)
    if found is not None:
        notes = (*found.notes, *disagreements(image, found.value))
        return Found(found.value, found.origin, notes, found.kind)
    named, refused = named_zeropoint(image) or detrended_zeropoint(image), refused_zeropoints(image)
    if named is not None:
        return Found(named.value, named.origin, (*named.notes, *refused))
    name = image.unit.name
    missing = {
        Kind.SURFACE: f"{name} needs PIXAR_SR, a WCS or a pixel scale",
        Kind.BEAM: f"{name} needs BMAJ and BMIN, and a WCS or a pixel scale",
        Kind.WAVELENGTH: f"{name} needs PHOTPLAM",
        Kind.UNKNOWN: f"BUNIT '{name}' is not understood" if name else "",
    }.get(image.unit.kind, "")
    nothing = "no zero point known: mag = -2.5 log10(flux)"
    return Found(0.0, "", tuple(filter(None, (nothing, missing, *refused))))


def _gain(
    image: ImageHeader, given: float | None, kind: Kind
) -> tuple[float | None, tuple[str, ...]]:
    """Electrons per unit of the image: a header's GAIN is electrons per count."""
    if given is not None:
        return given, ()
    unit, seconds = image.unit, image.exposure
    known = ((key, image.positive(key)) for key in GAIN_KEYS)
    key, own = next(((key, value) for key, value in known if value is not None), ("", None))
    kind = kind if unit.kind == Kind.UNKNOWN else unit.kind
    size = unit.size if math.isfinite(unit.size) else 1.0
    if kind == Kind.ELECTRONS:
        return size, ()
    if kind == Kind.ELECTRON_RATE:
        return (None, ("EXPTIME is not known",)) if seconds is None else (size * seconds, ())
    if own is None:
        return None, ()
    told = f"{key} = {own:g}"
    if kind in CALIBRATED or (kind == Kind.UNKNOWN and unit.name):
        return None, (f"{told} is not used, the image is in {unit.name}",)
    if kind == Kind.COUNT_RATE:
        if seconds is None:
            return None, (f"{told} is not used, EXPTIME is not known",)
        return own * size * seconds, ()
    if kind == Kind.UNKNOWN:
        return own, (f"{told} taken as electrons per unit, no BUNIT says what the unit is",)
    return own * size, ()
