"""Photometric calibration from a header: the zero point, and electrons per unit.

A unit of flux density determines the zero point. Then come standard keywords: FLUXMAG0
(LSST, HSC), PHOTFLAM and PHOTPLAM (HST), PHOTMJSR and PIXAR_SR (JWST), FPA.ZP (Pan-STARRS), FLUX20
(SDSS), PHOT_C (CFHT). Zero points under other names are taken to apply to the stored pixels,
except for known pipelines; ambiguous ones get a note.
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
    other_zeropoints,
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
    """The brightness of one unit of an image.

    Args:
        zeropoint: mag of one unit; 0 where nothing is known.
        origin: keyword or unit it comes from, "" where nothing is known.
        gain: electrons per unit, None where unknown.
        notes: on the zero point, for the user.
        gain_notes: on the gain, relevant where the noise map is estimated.
        gain_doubt: how uncertain the gain is.
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
        header: header of the image, with inherited keywords.
        zeropoint: mag, given by the user; takes precedence over the header.
        gain: electrons per unit, likewise.
        area: of a pixel in steradian, from the WCS or the user; None where unknown.
        pixels: (H, W) of the image; they decide whether a zero point of 0 is credible.

    Raises:
        BadInput: if the pixels are magnitudes, which cannot be fitted.
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
    """Return the zero point of a header, with notes."""
    found = standard_zeropoint(image)
    if found is not None:
        others = tuple(
            f"{other.origin} gives the zero point {other.value:.3f}, {found.origin} gives "
            f"{found.value:.3f}, which is used"
            for other in other_zeropoints(image, found)
        )
        notes = (*found.notes, *others[:1], *disagreements(image, found.value))
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
    """Return electrons per unit of the image; a header's GAIN is in electrons per count."""
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
    given_as = f"{key} = {own:g}"
    if kind in CALIBRATED or (kind == Kind.UNKNOWN and unit.name):
        return None, (f"{given_as} is not used, the image is in {unit.name}",)
    if kind == Kind.COUNT_RATE:
        if seconds is None:
            return None, (f"{given_as} is not used, EXPTIME is not known",)
        return own * size * seconds, ()
    if kind == Kind.UNKNOWN:
        return own, (f"{given_as} taken as electrons per unit, because there is no BUNIT",)
    return own * size, ()
