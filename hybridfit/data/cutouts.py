"""Cutouts: a batch of images with their noise, masks and PSFs, checked once at creation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from hybridfit.batch import Batch
from hybridfit.data.cutout_checks import checked_cutouts


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
    ) -> None:
        given = {name: value for name, value in locals().items() if name != "self"}
        for name, value in checked_cutouts(given).items():
            object.__setattr__(self, name, value)

    def __repr__(self) -> str:
        """Return one line: number of galaxies, shape of their cutouts, and ids."""
        height, width = self.image.shape[-2:]
        psf = "no PSF" if self.psf is None else "PSFs {} x {}".format(*self.psf.shape[-2:])
        ids = ", ".join(repr(i) for i in self.id[:3]) + (", ..." if len(self) > 3 else "")
        return f"Cutouts({len(self)} of {height} x {width} pixels, {psf}, id: {ids})"
