"""An image of a survey: its calibration, and its pixels read part by part."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from hybridfit.data.errors import BadInput
from hybridfit.data.names import NOISE_ROLES
from hybridfit.detection.noise import to_sigma
from hybridfit.io.bit_tables import BitTable
from hybridfit.io.image_header import text_in
from hybridfit.io.noise_units import in_unit_of_image
from hybridfit.io.planes import read_section
from hybridfit.io.quality_planes import bad_pixels
from hybridfit.io.view import MAX_PIXELS, PartOf
from hybridfit.io.wcs import moved_wcs

Noise = Callable[[NDArray[np.floating], tuple[int, int]], NDArray[np.floating]]


@dataclass(frozen=True, eq=False)
class SurveyTile:
    """A part of an image.

    Args:
        image: (h, w) flux, 0 where there are no data.
        sigma: (h, w) noise in the same unit, NaN where unknown; None without a noise map.
        mask: (h, w) True for pixels without usable data or noise.
        weight: (h, w) coverage or weight as given, None without one.
        origin: x, y of the first pixel in the image.
        wcs: astropy WCS of the tile, None without one.
        notes: what was masked.
    """

    image: NDArray[np.floating]
    sigma: NDArray[np.floating] | None
    mask: NDArray[np.bool_]
    weight: NDArray[np.floating] | None
    origin: tuple[int, int]
    wcs: Any
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class SurveyImage:
    """An image that may be too large for memory, with its noise, mask and calibration.

    `tile` reads any part of it; the attributes `image`, `sigma` and `mask` read all of it.

    Args:
        path: address of the image.
        layout: name of the layout, see `hybridfit.io.survey.layouts`.
        shape: H, W.
        addresses: files and HDUs of the planes by role.
        headers: of the planes.
        wcs: astropy WCS, None without one.
        zeropoint: magnitude of one flux unit; 0 where unknown.
        zeropoint_from: keyword or unit that it comes from, "" where unknown.
        unit: of the pixels as the header spells it, "" where unknown.
        pixel_scale: arcsec, NaN where unknown.
        gain: electrons per flux unit, None where unknown.
        exposure: seconds, None where unknown.
        band: filter as the header names it, "" where unknown.
        bits: values of the mask's bits by name.
        notes: what the user should know.
        mask_bits: the user's choice of bits.
        part: of the image in its file.
        table: bits of the survey.
        noise: of surveys whose noise is computed, from image and origin of a tile.
    """

    path: str
    layout: str
    shape: tuple[int, int]
    addresses: Mapping[str, str]
    headers: Mapping[str, fits.Header]
    wcs: Any
    zeropoint: float
    zeropoint_from: str
    unit: str
    pixel_scale: float
    gain: float | None
    exposure: float | None
    band: str
    bits: Mapping[str, int]
    notes: tuple[str, ...]
    part: PartOf
    mask_bits: str = ""
    table: BitTable | None = None
    noise: Noise | None = field(default=None, repr=False)

    @property
    def has_noise(self) -> bool:
        """Whether there is a noise map."""
        return self.noise is not None or bool(set(NOISE_ROLES) & set(self.addresses))

    @property
    def image(self) -> NDArray[np.floating]:
        """All pixels (H, W)."""
        return self._whole().image

    @property
    def sigma(self) -> NDArray[np.floating] | None:
        """The noise of all pixels (H, W), None without a noise map."""
        return self._whole().sigma

    @property
    def mask(self) -> NDArray[np.bool_]:
        """(H, W) True for pixels without usable data or noise."""
        return self._whole().mask

    def tile(self, x0: int, x1: int, y0: int, y1: int) -> SurveyTile:
        """Return the part with x0 <= x < x1, y0 <= y < y1; only its pixels are read.

        Args:
            x0, x1, y0, y1: pixels of the image from 0; clipped to the image.

        Raises:
            BadInput: if nothing of the image is there, or a plane does not have its shape.
        """
        region = max(x0, 0), min(x1, self.shape[1]), max(y0, 0), min(y1, self.shape[0])
        planes = {
            role: self._plane(role, address, region) for role, address in self.addresses.items()
        }
        origin = region[0], region[2]
        bad, notes = bad_pixels(
            planes,
            self.headers,
            text_in(self.headers["image"], "TELESCOP"),
            self.mask_bits,
            self.table,
        )
        image = planes["image"]
        bad = bad | ~np.isfinite(image)
        sigma = self._sigma(planes, np.where(bad, 0, image), origin)
        if sigma is not None:
            bad = bad | ~(sigma > 0) | ~np.isfinite(sigma)
            sigma = np.where(bad, np.nan, sigma).astype(image.dtype)
        image = np.where(bad, 0, image).astype(image.dtype)
        wcs = moved_wcs(self.wcs, origin)
        return SurveyTile(image, sigma, bad, planes.get("weight"), origin, wcs, notes)

    def _plane(
        self, role: str, address: str, region: tuple[int, int, int, int]
    ) -> NDArray[np.floating]:
        parent = None if role == "image" else self.part
        plane, header, part = read_section(address, region, parent)
        if part.shape != self.shape:
            raise BadInput(
                f"{role} of '{self.path}' ({address}) has shape {part.shape}, expected "
                f"{self.shape} as the image"
            )
        return in_unit_of_image(plane, role, header, self.headers["image"])

    def _sigma(
        self,
        planes: Mapping[str, NDArray[np.floating]],
        image: NDArray[np.floating],
        origin: tuple[int, int],
    ) -> NDArray[np.floating] | None:
        role = next((name for name in NOISE_ROLES if name in planes), None)
        if role is not None:
            return to_sigma(planes[role], role)
        return None if self.noise is None else self.noise(image, origin)

    def _whole(self) -> SurveyTile:
        h, w = self.shape
        if h * w > MAX_PIXELS:
            raise BadInput(
                f"'{self.path}' has {h} x {w} pixels, expected at most {MAX_PIXELS:.0e} to be read "
                "at once: read it by tile(x0, x1, y0, y1)"
            )
        return self.tile(0, w, 0, h)
