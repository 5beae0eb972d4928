"""Cutouts: a batch of images with their noise, masks and PSFs, checked once at creation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from hybridfit.batch import Batch
from hybridfit.data.cutout_checks import checked_cutouts
from hybridfit.data.exposure import Exposure, checked_exposures


@dataclass(frozen=True, init=False)
class Cutouts(Batch):
    """A batch of B galaxy cutouts of one padded shape.

    Everything but ``image``, ``sigma`` and ``psf`` may be omitted. Arrays may be numpy or
    torch; they are converted, checked and never changed afterwards. Masked pixels are filled
    with image 0 and sigma 1, so that no NaN enters arithmetic.

    Args:
        image: (B, H, W), flux units; an astropy Quantity keeps its unit, to which ``sigma`` is
            converted; masked pixels of a masked array are masked.
        sigma: (B, H, W), standard deviation of each pixel in the same unit. Pixels with
            sigma <= 0 or not finite, or with an image that is not finite, are masked, and so
            are those found by `absurd_pixels`.
        psf: (B, h, w) or (h, w) for all, odd sides, centred on the middle pixel, sum 1; or
            None to fit without one.
        mask: (B, H, W) bool, True = leave out. Padding of smaller cutouts is masked too.
        id: (B,) names; default the row numbers.
        psf_oversampling: (B,) PSF pixels per image pixel, an integer >= 1; default 1.
        psf_includes_pixel: (B,) True where the PSF already includes the pixel response (an
            effective PSF, a star); default False, GALFIT's convention.
        zeropoint: (B,) mag = zeropoint - 2.5 log10(flux); default that of the image's unit if it
            has one, else 0 with `Flag.NO_ZEROPOINT`.
        zeropoint_from: (B,) its origin, "" where unknown.
        pixel_scale: (B,) arcsec per pixel, NaN where unknown.
        origin: (B, 2) x and y of the first pixel in the parent image, in pixels; default 0.
        start: (B, 7) initial values x, y, mag, r_eff, n, q, pa in cutout pixels, NaN where
            the fit chooses them.
        parameters: (B,) arrays of initial and fixed values of a model's parameters by name,
            in cutout pixels, NaN where there are none: ``{"bulge_n": ..., "disk_r_eff_fixed":
            ...}``, see `hybridfit.model.value_columns`.
        exposures: further images of the same galaxies, see `hybridfit.Exposure`; all are fitted
            jointly. The network and starting values use the first image, whose pixels positions,
            sizes and angles refer to.
        flags: (B,) int64 bits of `hybridfit.Flag` raised while reading.
        size: (B, 2) true height and width before padding; default H, W.
        wcs: B astropy WCS objects (or None) of the cutouts.
        messages: B notes for the user, or empty strings.

    Raises:
        ValueError: if shapes or units disagree, or a PSF is not normalised, with the galaxy's name.
    """

    image: Tensor
    sigma: Tensor
    psf: Tensor | None
    mask: Tensor
    id: Sequence[str]
    psf_oversampling: Tensor
    psf_includes_pixel: Tensor
    zeropoint: Tensor
    pixel_scale: Tensor
    origin: Tensor
    start: Tensor
    flags: Tensor
    size: Tensor
    wcs: Sequence[Any]
    messages: Sequence[str]
    zeropoint_from: Sequence[str]
    parameters: Mapping[str, Tensor]
    exposures: tuple[Exposure, ...]

    def __init__(
        self,
        image: Any,
        sigma: Any,
        psf: Any,
        mask: Any = None,
        id: Any = None,
        psf_oversampling: Any = None,
        psf_includes_pixel: Any = None,
        zeropoint: Any = None,
        pixel_scale: Any = None,
        origin: Any = None,
        start: Any = None,
        flags: Any = None,
        size: Any = None,
        wcs: Any = None,
        messages: Any = None,
        zeropoint_from: Any = None,
        parameters: Any = None,
        exposures: Any = None,
    ) -> None:
        given = {k: v for k, v in locals().items() if k not in ("self", "exposures")}
        values = checked_cutouts(given)
        values["exposures"] = checked_exposures(exposures, values)
        for name, value in values.items():
            object.__setattr__(self, name, value)

    def __repr__(self) -> str:
        """Return one line: number of galaxies, shape of their cutouts, and ids."""
        height, width = self.image.shape[-2:]
        psf = "no PSF" if self.psf is None else "PSFs {} x {}".format(*self.psf.shape[-2:])
        ids = ", ".join(repr(i) for i in self.id[:3]) + (", ..." if len(self) > 3 else "")
        more = f", {1 + len(self.exposures)} images" if self.exposures else ""
        return f"Cutouts({len(self)} of {height} x {width} pixels, {psf}{more}, id: {ids})"

    @property
    def all_flags(self) -> Tensor:
        """(B,) int64 ``flags``, and those of the exposures that have data."""
        flags = self.flags
        for exposure in self.exposures:
            flags = flags | exposure.flags * exposure.has_data
        return flags

    def single_images(self) -> tuple[Cutouts, ...]:
        """Return the first image, then each exposure, as cutouts of their own.

        Those of exposures have the target's expected position as their initial one, their own zero
        points and flags, and no other values of the galaxies.
        """
        if not self.exposures:
            return (self,)
        first = self._with({"exposures": ()})
        return (first, *(self._exposure(exposure) for exposure in self.exposures))

    def _exposure(self, exposure: Exposure) -> Cutouts:
        """Return an exposure as cutouts, see `single_images`."""
        own = {f.name: getattr(exposure, f.name) for f in fields(Exposure) if f.name != "to_pixels"}
        middle = (self.size.flip(1).double() - 1) / 2
        target = torch.where(torch.isfinite(self.start[:, :2]), self.start[:, :2], middle)
        start = torch.full_like(self.start, torch.nan)
        start[:, :2] = exposure.positions(target)
        scale = torch.linalg.det(exposure.to_pixels[:, :, :2]).abs().sqrt()
        own["zeropoint"] = torch.where(
            torch.isnan(exposure.zeropoint), self.zeropoint, exposure.zeropoint
        )
        values = {"start": start, "pixel_scale": self.pixel_scale / scale, "exposures": ()}
        nothing = {"origin": torch.zeros_like(self.origin), "wcs": (None,) * len(self)}
        return self._with({**own, **values, **nothing, "parameters": {}})
