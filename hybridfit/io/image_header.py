"""The photometric content of a header: numbers (also written as strings), unit, exposure time."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from hybridfit.data.units import ImageUnit, Kind, image_unit

EXPOSURE_KEYS = ("EXPTIME", "EXPOSURE", "XPOSURE", "TEXPTIME", "ITIME", "EXP_TIME")
SOLID_ANGLE_KEYS = ("PIXAR_SR", "PIXAR_A2", "PIXELAREA", "BMAJ", "BMIN")
UNIT_KEYS = ("BUNIT", "D001OUUN")
RATES = (Kind.COUNT_RATE, Kind.ELECTRON_RATE)
ALIKE = 0.005  # mag, within which two areas of a pixel agree
ARCSEC2 = math.radians(1 / 3600) ** 2  # steradian


@dataclass(frozen=True)
class ImageHeader:
    """A header, with the values that photometry needs repeatedly.

    Args:
        header: header of the image, with inherited keywords.
        keywords: those present; asking astropy for a missing one is slow.
        unit: unit of its pixels.
        exposure: seconds, None where unknown.
        known_area: of a pixel in steradian, from the WCS or the user; None where unknown.
        pixels: (H, W) of the image, None where they are not available.
    """

    header: fits.Header
    keywords: frozenset[str]
    unit: ImageUnit
    exposure: float | None
    known_area: float | None
    pixels: NDArray | None = None

    @classmethod
    def of(
        cls,
        header: fits.Header,
        known_area: float | None = None,
        pixels: NDArray | None = None,
    ) -> ImageHeader:
        """Read unit and exposure."""
        keywords = frozenset(header.keys())
        exposures = (number_in(header, key) for key in EXPOSURE_KEYS if key in keywords)
        seconds = next(filter(_is_positive, exposures), None)
        return cls(header, keywords, _unit_of(header, keywords), seconds, known_area, pixels)

    def number(self, key: str) -> float | None:
        """Return the finite number of a keyword, or None."""
        return number_in(self.header, key) if key in self.keywords else None

    def positive(self, key: str) -> float | None:
        """Return the number of a keyword if it is finite and positive, or None."""
        value = self.number(key)
        return value if _is_positive(value) else None

    def text(self, key: str) -> str:
        """Return the value of a keyword as a string, "" where it is missing."""
        return text_in(self.header, key) if key in self.keywords else ""

    def scatter(self) -> float | None:
        """Return the median absolute deviation of the pixels; None without pixels."""
        some = np.zeros(0) if self.pixels is None else self.pixels[::3, ::3].astype(np.float64)
        some = some[np.isfinite(some) & (some != 0)]
        return float(np.median(np.abs(some - np.median(some)))) if some.size else None

    def per_exposure(self, rate: float) -> float | None:
        """Return the zero point of counts from that of counts per second; None without EXPTIME."""
        if self.unit.kind in RATES:
            return rate
        return None if self.exposure is None else rate + 2.5 * math.log10(self.exposure)

    def pixel_area(self) -> tuple[float | None, tuple[str, ...]]:
        """Return a pixel's area in steradian, and notes; the header's value takes precedence."""
        key, area = next(self._own_areas(), ("", None))
        if area is None:
            return self.known_area, ()
        factor = 1.0 if self.known_area is None else area / self.known_area
        if abs(2.5 * math.log10(factor)) > ALIKE:
            note = f"{key} used, which is {factor:.4g} times the area from the WCS or pixel scale"
            return area, (note,)
        return area, ()

    def _own_areas(self) -> Iterator[tuple[str, float]]:
        for key, size in (("PIXAR_SR", 1.0), ("PIXAR_A2", ARCSEC2)):
            value = self.positive(key)
            if value is not None:
                yield key, value * size
        value = self.positive("PIXELAREA")
        if value is not None:  # in either unit; a pixel of 1e-6 sr would be 200 arcsec wide
            yield "PIXELAREA", value if value < 1e-6 else value * ARCSEC2

    def beam_area(self) -> float | None:
        """Return the solid angle of a Gaussian beam in steradian, None where unknown."""
        major, minor = self.positive("BMAJ"), self.positive("BMIN")  # degrees
        if major is None or minor is None:
            return None
        return math.pi / (4 * math.log(2)) * math.radians(major) * math.radians(minor)


def value_in(header: fits.Header, key: str) -> Any:
    """Return a keyword's value, None where it is missing, undefined or unreadable."""
    try:
        value = header.get(key)
    except (ValueError, fits.VerifyError):  # only this card is broken
        return None
    return None if isinstance(value, fits.card.Undefined) else value


def number_in(header: fits.Header, key: str) -> float | None:
    """Return a keyword's finite number, also if written as a string; else None."""
    value = value_in(header, key)
    if value is None or isinstance(value, bool):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def text_in(header: fits.Header, key: str) -> str:
    """Return a keyword's value as a string, "" where it is missing or unreadable."""
    value = value_in(header, key)
    return "" if value is None else str(value).strip()


def _is_positive(value: float | None) -> bool:
    return value is not None and value > 0


def _unit_of(header: fits.Header, keywords: frozenset[str]) -> ImageUnit:
    """BUNIT, or the unit recorded by drizzle."""
    units = (image_unit(text_in(header, key)) for key in UNIT_KEYS if key in keywords)
    return next((unit for unit in units if unit.name), ImageUnit(""))
