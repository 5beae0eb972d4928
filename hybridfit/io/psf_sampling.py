"""How finely a PSF is sampled, by what its header says: OVERSAMP, PIXELSCL and their kin."""

from __future__ import annotations

import math
from dataclasses import dataclass

from astropy.io import fits

from hybridfit.io.header import celestial_wcs, first_number, pixel_scale
from hybridfit.results import Flag

# arcsec per PSF pixel; PIXELSCL is that of stpsf, WebbPSF and poppy
SCALE_KEYS = ("PIXELSCL", "PIXSCALE", "PIXSCAL1", "SECPIX")
# PSF pixels per detector pixel: DET_SAMP is what stpsf's arrays have, OVERSAMP of its Fourier plane
COUNT_KEYS = ("DET_SAMP", "OVERSAMP", "OVERSAMPL")
STRONG = ("PIXELSCL", "PSF_SAMP", "EXTNAME")  # are about the PSF; other keys may be the image's
UNITS = {"deg": 3600.0, "arcsec": 1.0}  # arcsec
BINNED = ("DET_SAMP", "DET_DIST")  # stpsf's extensions that are binned to detector pixels
# of stpsf's extensions the best first: OVERDIST has the optics' distortion and the charge diffusion
PSF_EXTENSIONS = ("OVERDIST", "OVERSAMP", "DET_DIST", "DET_SAMP")
ALIKE = 0.02  # of two samplings that are one: nominal pixel scales are off by 1 %
SANE = (0.1, 32.0)  # PSF pixels per image pixel


@dataclass(frozen=True)
class Stated:
    """What a PSF's header says of its sampling.

    Args:
        count: PSF pixels per detector pixel, NaN where it is not said, and
        counter: the key that says it.
        scale: arcsec per PSF pixel, NaN where it is not said, and
        scale_key: the key that says it.
        extension: EXTNAME in upper case.
    """

    count: float = math.nan
    counter: str = ""
    scale: float = math.nan
    scale_key: str = ""
    extension: str = ""


@dataclass(frozen=True)
class Sampling:
    """PSF pixels per image pixel, and what was found on the way.

    Args:
        value: need not be whole.
        flags: bits of `hybridfit.Flag`.
        notes: what the user should know.
    """

    value: float
    flags: Flag = Flag(0)
    notes: tuple[str, ...] = ()


def stated(header: fits.Header) -> Stated:
    """Return what a PSF's header says of its sampling."""
    count, counter = _count(header)
    scale, key = _scale(header)
    name = str(header.get("EXTNAME", "")).strip().upper()
    return Stated(count, counter, scale, key, name)


def sampling_of(said: Stated, image_scale: float, given: float | None) -> Sampling:
    """Return how finely a PSF is sampled.

    What is given goes before the header. In the header a pixel scale goes before the number of
    PSF pixels in one of the detector's, for images may be resampled; but a scale that is the
    image's own may have been copied from it, and says nothing against a number.

    Args:
        said: by the PSF's header.
        image_scale: arcsec per image pixel, NaN where it is not known.
        given: PSF pixels per image pixel as the user says, None where they do not.
    """
    found, source = _found(said, image_scale)
    notes = _binned(said)
    if given is not None:
        if not source or abs(given / found - 1) < ALIKE:
            return Sampling(given, notes=notes)
        text = f"psf_oversampling {given:g} is used, but the PSF's {source} says {found:.4g}"
        own = source in STRONG or source.startswith(COUNT_KEYS)
        return Sampling(given, Flag.BAD_PSF if own else Flag(0), (*notes, text))
    if not source:
        return Sampling(1.0, notes=notes)
    if not SANE[0] < found < SANE[1]:
        text = f"the PSF's {source} says {found:.4g} PSF pixels per image pixel: not believed"
        return Sampling(1.0, Flag.BAD_PSF, (*notes, text))
    nearest = max(1, round(found))
    if abs(found / nearest - 1) < ALIKE:
        if nearest > 1:
            notes += (f"psf_oversampling {nearest} is of the PSF's header ({source})",)
        return Sampling(float(nearest), notes=notes)
    text = f"the PSF has {found:.4g} pixels per image pixel ({source}): it was interpolated"
    return Sampling(found, notes=(*notes, text))


def _found(said: Stated, image_scale: float) -> tuple[float, str]:
    """PSF pixels per image pixel by the header, and the keys that say so; "" if none does."""
    scaled = image_scale / said.scale
    if math.isnan(scaled) or (abs(scaled - 1) < ALIKE and said.count > 0 and not _strong(said)):
        return said.count, said.counter
    if abs(scaled / said.count - 1) < ALIKE:
        return said.count, f"{said.counter}, {said.scale_key}"
    return scaled, said.scale_key


def _strong(said: Stated) -> bool:
    return said.scale_key in STRONG


def _count(header: fits.Header) -> tuple[float, str]:
    """PSF pixels per detector pixel and the key that says so."""
    if str(header.get("EXTNAME", "")).strip().upper() in BINNED:
        return 1.0, "EXTNAME"
    step = first_number(header.get("PSF_SAMP"))  # PSFEx: image pixels per PSF pixel
    if step is not None and step > 0:
        return 1 / step, "PSF_SAMP"
    if header.get("OVERSAMP") == 1 and "CALCSAMP" in header:
        return 1.0, "OVERSAMP"  # poppy: it was calculated finer and binned
    for key in COUNT_KEYS:
        value = first_number(header.get(key))
        if value is not None and value > 0:
            return value, key
    return math.nan, ""


def _scale(header: fits.Header) -> tuple[float, str]:
    """Arcsec per PSF pixel and the key that says so."""
    if str(header.get("PIXUNIT", "arcsec")).strip().lower().startswith("arcsec"):
        for key in SCALE_KEYS:
            value = first_number(header.get(key))
            if value is not None and value > 0:
                return value, key
    own = pixel_scale(math.nan, None, celestial_wcs(header, (0, 0))[0])
    if own > 0:
        return own, "WCS"
    unit = UNITS.get(str(header.get("CUNIT1", "")).strip().lower())
    step = first_number(header.get("CDELT1"), header.get("CD1_1"))
    return (abs(step) * unit, "CDELT1") if unit and step else (math.nan, "")


def _binned(said: Stated) -> tuple[str, ...]:
    if said.extension not in BINNED:
        return ()
    return (
        f"the PSF ({said.extension}) is binned to the detector's pixels and holds their response: "
        "say --psf-includes-pixel, or take OVERDIST",
    )
