"""Sampling of a PSF from its header: OVERSAMP, PIXELSCL and related keywords."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from astropy.io import fits

from hybridfit.data.flags import Flag
from hybridfit.io.image_header import ImageHeader
from hybridfit.io.wcs import celestial_wcs, first_number, pixel_scale

# arcsec per PSF pixel; PIXELSCL is written by stpsf, WebbPSF and poppy
SCALE_KEYS = ("PIXELSCL", "PIXSCALE", "PIXSCAL1", "SECPIX")
# PSF pixels per detector pixel: DET_SAMP is for stpsf's arrays, OVERSAMP for its Fourier plane
COUNT_KEYS = ("DET_SAMP", "OVERSAMP", "OVERSAMPL")
STRONG = ("PIXELSCL", "PSF_SAMP", "EXTNAME")  # describe the PSF; other keys may be the image's
UNITS = {"deg": 3600.0, "arcsec": 1.0, "mas": 1e-3}  # arcsec
LEAST_SCALE = 5e-4  # arcsec: a smaller number is in degrees
BINNED = ("DET_SAMP", "DET_DIST")  # stpsf's extensions that are binned to detector pixels
# stpsf's extensions, the best first: OVERDIST includes optical distortion and charge diffusion
PSF_EXTENSIONS = ("OVERDIST", "OVERSAMP", "DET_DIST", "DET_SAMP")
ALIKE = 0.02  # within which two samplings agree: nominal pixel scales are off by 1 %
SANE = (0.1, 32.0)  # PSF pixels per image pixel


@dataclass(frozen=True)
class Stated:
    """The sampling according to a PSF's header.

    Args:
        count: PSF pixels per detector pixel, NaN if missing, and
        counter: its keyword.
        scale: arcsec per PSF pixel, NaN if missing, and
        scale_key: its keyword.
        extension: EXTNAME in upper case.
    """

    count: float = math.nan
    counter: str = ""
    scale: float = math.nan
    scale_key: str = ""
    extension: str = ""


@dataclass(frozen=True)
class Sampling:
    """PSF pixels per image pixel, with flags and notes.

    Args:
        value: need not be an integer.
        flags: bits of `hybridfit.Flag`.
        notes: what the user should know.
    """

    value: float
    flags: Flag = Flag(0)
    notes: tuple[str, ...] = ()


def stated(header: fits.Header) -> Stated:
    """Return the sampling according to a PSF's header."""
    psf = ImageHeader.of(header)
    name = psf.text("EXTNAME").upper()
    count, counter = _count(psf, name)
    scale, key = _scale(psf)
    return Stated(count, counter, scale, key, name)


def sampling_of(keys: Stated, image_scale: float, given: float | None) -> Sampling:
    """Return the sampling of a PSF.

    The user's value takes precedence over the header. In the header a pixel scale takes precedence
    over the number of PSF pixels per detector pixel, as images may be resampled; but a scale equal
    to the image's may have been copied from it, and does not contradict a number.

    Args:
        keys: according to the PSF's header.
        image_scale: arcsec per image pixel, NaN if unknown.
        given: PSF pixels per image pixel given by the user, or None.
    """
    found, source = _found(keys, image_scale)
    notes = _binned(keys)
    if given is not None:
        if not source or abs(given / found - 1) < ALIKE:
            return Sampling(given, notes=notes)
        text = f"psf_oversampling {given:g} is used, but the PSF's {source} says {found:.4g}"
        own = source in STRONG or source.startswith(COUNT_KEYS)
        return Sampling(given, Flag.BAD_PSF if own else Flag(0), (*notes, text))
    if not source:
        return Sampling(1.0, notes=notes)
    if not SANE[0] < found < SANE[1]:
        text = (
            f"the PSF's {source} says {found:.4g} PSF pixels per image pixel, which is implausible"
        )
        return Sampling(1.0, Flag.BAD_PSF, (*notes, text))
    nearest = max(1, round(found))
    if abs(found / nearest - 1) < ALIKE:
        if nearest > 1:
            notes += (f"psf_oversampling {nearest} is from the PSF's header ({source})",)
        return Sampling(float(nearest), notes=notes)
    text = f"the PSF has {found:.4g} pixels per image pixel ({source}): it was interpolated"
    return Sampling(found, notes=(*notes, text))


def _found(keys: Stated, image_scale: float) -> tuple[float, str]:
    """Return PSF pixels per image pixel from the header and their keywords; "" if none."""
    scaled = image_scale / keys.scale
    if math.isnan(scaled) or (abs(scaled - 1) < ALIKE and keys.count > 0 and not _strong(keys)):
        return keys.count, keys.counter
    if abs(scaled / keys.count - 1) < ALIKE:
        return keys.count, f"{keys.counter}, {keys.scale_key}"
    return scaled, keys.scale_key


def _strong(keys: Stated) -> bool:
    return keys.scale_key in STRONG


def _count(psf: ImageHeader, name: str) -> tuple[float, str]:
    """Return PSF pixels per detector pixel and their keyword."""
    if name in BINNED:
        return 1.0, "EXTNAME"
    step = psf.positive("PSF_SAMP")  # PSFEx: image pixels per PSF pixel
    if step is not None:
        return 1 / step, "PSF_SAMP"
    if psf.number("OVERSAMP") == 1 and "CALCSAMP" in psf.keywords:
        return 1.0, "OVERSAMP"  # poppy: it was calculated finer and binned
    return _first(psf, COUNT_KEYS)


def _scale(psf: ImageHeader) -> tuple[float, str]:
    """Return arcsec per PSF pixel and their keyword."""
    text = psf.text("PIXUNIT").lower() or "arcsec"
    size = next((size for unit, size in UNITS.items() if text.startswith(unit)), 0.0)
    value, key = _first(psf, SCALE_KEYS)
    if key and size:
        return value * (UNITS["deg"] if value < LEAST_SCALE and size == 1.0 else size), key
    if "CTYPE1" in psf.keywords:
        own = pixel_scale(math.nan, None, celestial_wcs(psf.header, (0, 0))[0])
        if own > 0:
            return own, "WCS"
    unit = UNITS.get(psf.text("CUNIT1").lower())
    step = first_number(psf.number("CDELT1"), psf.number("CD1_1"))
    return (abs(step) * unit, "CDELT1") if unit and step else (math.nan, "")


def _first(psf: ImageHeader, keys: Sequence[str]) -> tuple[float, str]:
    """Return the first positive number and its keyword; NaN and "" if there is none."""
    found = ((psf.positive(key), key) for key in keys)
    return next(((value, key) for value, key in found if value is not None), (math.nan, ""))


def _binned(keys: Stated) -> tuple[str, ...]:
    if keys.extension not in BINNED:
        return ()
    return (
        f"the PSF ({keys.extension}) is binned to the detector's pixels and holds their response: "
        "say --psf-includes-pixel, or take OVERDIST",
    )
