"""A header as photometry reads it: numbers that may be texts, the unit, the exposure."""

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
ARCSEC2 = math.radians(1 / 3600) ** 2  # steradian


@dataclass(frozen=True)
class ImageHeader:
    """A header, and what is asked of it time and again.

    Args:
        header: of the image, with what it inherits.
        keywords: those that it has; asking astropy for one that is missing is slow.
        unit: of its pixels.
        exposure: seconds, None where unknown.
        known_area: of a pixel in steradian, as the WCS or the user has it; None where unknown.
        pixels: (H, W) of the image, None where they are not at hand.
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
        """The finite number of a keyword, None where there is none."""
        return number_in(self.header, key) if key in self.keywords else None

    def positive(self, key: str) -> float | None:
        """The same where it is above 0."""
        value = self.number(key)
        return value if _is_positive(value) else None

    def text(self, key: str) -> str:
        """The value of a keyword as a text, "" where there is none."""
        return text_in(self.header, key) if key in self.keywords else ""

    def scatter(self) -> float | None:
        """Median deviation of the pixels from their median; None where that is not known."""
        some = np.zeros(0) if self.pixels is None else self.pixels[::3, ::3].astype(np.float64)
        some = some[np.isfinite(some) & (some != 0)]
        return float(np.median(np.abs(some - np.median(some)))) if some.size else None

    def per_exposure(self, rate: float) -> float | None:
        """The zero point of the pixels from that of counts per second; None without EXPTIME."""
        if self.unit.kind in RATES:
            return rate
        return None if self.exposure is None else rate + 2.5 * math.log10(self.exposure)

    def pixel_area(self) -> tuple[float | None, tuple[str, ...]]:
        """Steradian of a pixel, and a note; the header's number goes before the WCS's."""
        key, area = next(self._own_areas(), ("", None))
        if area is None:
            return self.known_area, ()
        if self.known_area is not None and not 0.9 < area / self.known_area < 1.1:
            factor = area / self.known_area
            note = f"{key} taken, which is {factor:.2g} times the area by WCS or pixel scale"
            return area, (note,)
        return area, ()

    def _own_areas(self) -> Iterator[tuple[str, float]]:
        for key, size in (("PIXAR_SR", 1.0), ("PIXAR_A2", ARCSEC2)):
            value = self.positive(key)
            if value is not None:
                yield key, value * size
        value = self.positive("PIXELAREA")
        if value is not None:  # written in either unit; a pixel of 1e-6 sr has 200 arcsec a side
            yield "PIXELAREA", value if value < 1e-6 else value * ARCSEC2

    def beam_area(self) -> float | None:
        """Steradian of a Gaussian beam, None where it is not known."""
        major, minor = self.positive("BMAJ"), self.positive("BMIN")  # degrees
        if major is None or minor is None:
            return None
        return math.pi / (4 * math.log(2)) * math.radians(major) * math.radians(minor)


def value_in(header: fits.Header, key: str) -> Any:
    """Return a keyword's value, None where it is missing, has none, or cannot be read."""
    try:
        value = header.get(key)
    except (ValueError, fits.VerifyError):  # the card is broken; others are not
        return None
    return None if isinstance(value, fits.card.Undefined) else value


def number_in(header: fits.Header, key: str) -> float | None:
    """Return a keyword's finite number, also where it is written as a text; else None."""
    value = value_in(header, key)
    if value is None or isinstance(value, bool):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def text_in(header: fits.Header, key: str) -> str:
    """Return a keyword's value as a text, "" where there is none that can be read."""
    value = value_in(header, key)
    return "" if value is None else str(value).strip()


def _is_positive(value: float | None) -> bool:
    return value is not None and value > 0


def _unit_of(header: fits.Header, keywords: frozenset[str]) -> ImageUnit:
    """BUNIT, else what drizzle says that it wrote."""
    units = (image_unit(text_in(header, key)) for key in UNIT_KEYS if key in keywords)
    return next((unit for unit in units if unit.name), ImageUnit(""))
