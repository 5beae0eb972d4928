"""Cutouts: a batch of images with their noise, masks and PSFs, checked once when made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

START_NAMES = ("x", "y", "mag", "r_eff", "n", "q", "pa")


@dataclass(frozen=True)
class Cutouts:
    """A batch of B galaxy cutouts of one padded shape.

    Everything but ``image``, ``sigma`` and ``psf`` may be left out. Arrays may be numpy or
    torch; they are converted, checked and never changed afterwards. Masked pixels are filled
    with image 0 and sigma 1, so that no NaN meets arithmetic.

    Args:
        image: (B, H, W), flux units.
        sigma: (B, H, W), standard deviation of each pixel in the same unit. Pixels with
            sigma <= 0 or not finite, or with an image that is not finite, are masked.
        psf: (B, h, w) or (h, w) for all, odd sides, centred on the middle pixel, sum 1; or
            None to fit without one.
        mask: (B, H, W) bool, True = leave out. Padding of smaller stamps is masked too.
        id: (B,) names; default the row numbers.
        psf_oversampling: (B,) PSF pixels per image pixel, an integer >= 1; default 1.
        psf_includes_pixel: (B,) True where the PSF already holds the pixel's response (an
            effective PSF, a star); default False, GALFIT's convention.
        zeropoint: (B,) mag = zeropoint - 2.5 log10(flux); default 0.
        pixel_scale: (B,) arcsec per pixel, NaN where unknown.
        origin: (B, 2) x and y of the first pixel in the parent image, in pixels; default 0.
        start: (B, 7) starting values x, y, mag, r_eff, n, q, pa in stamp pixels, NaN where
            the fitter shall choose.
        flags: (B,) int64 bits of `hybridfit.Flag` raised while reading.
        size: (B, 2) true height and width before padding; default H, W.
        wcs: B astropy WCS objects (or None) of the stamps.
        messages: B texts for the user, empty where there is nothing to say.

    Raises:
        ValueError: if shapes disagree or a PSF is not normalised, with the galaxy's name.
    """

    image: Tensor
    sigma: Tensor
    psf: Tensor | None
    mask: Tensor = None  # type: ignore[assignment]
    id: Sequence[str] = None  # type: ignore[assignment]
    psf_oversampling: Tensor = None  # type: ignore[assignment]
    psf_includes_pixel: Tensor = None  # type: ignore[assignment]
    zeropoint: Tensor = None  # type: ignore[assignment]
    pixel_scale: Tensor = None  # type: ignore[assignment]
    origin: Tensor = None  # type: ignore[assignment]
    start: Tensor = None  # type: ignore[assignment]
    flags: Tensor = None  # type: ignore[assignment]
    size: Tensor = None  # type: ignore[assignment]
    wcs: Sequence[Any] = None  # type: ignore[assignment]
    messages: Sequence[str] = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        image = as_tensor(self.image, torch.float32)
        if image.ndim != 3:
            raise ValueError(
                f"image has {image.ndim} dimensions, expected 3 (B, H, W): for one galaxy pass "
                "image[None]"
            )
        batch, height, width = image.shape
        names = tuple(str(i) for i in (self.id if self.id is not None else range(batch)))
        if len(names) != batch:
            raise ValueError(f"id has {len(names)} names, expected {batch}, one for each image")
        sigma = _like(self.sigma, image, "sigma", torch.float32)
        mask = (
            torch.zeros_like(image, dtype=torch.bool)
            if self.mask is None
            else _like(self.mask, image, "mask", torch.bool)
        )
        # comparisons are several times quicker than isfinite, and false for NaN
        mask = mask | ~(image.abs() < torch.inf) | ~((sigma > 0) & (sigma < torch.inf))
        device = image.device

        def column(name: str, default: float, dtype: torch.dtype, *shape: int) -> Tensor:
            value = getattr(self, name)
            value = as_tensor(default if value is None else value, dtype).to(device)
            try:
                return value.expand(batch, *shape).contiguous()
            except RuntimeError as error:
                raise ValueError(
                    f"{name} has shape {tuple(value.shape)}, expected {(batch, *shape)}"
                ) from error

        values: dict[str, Any] = {
            "image": torch.where(mask, 0.0, image),
            "sigma": torch.where(mask, 1.0, sigma),
            "mask": mask,
            "id": names,
            "psf": _checked_psf(self.psf, names, device),
            "psf_oversampling": column("psf_oversampling", 1, torch.int64),
            "psf_includes_pixel": column("psf_includes_pixel", False, torch.bool),
            "zeropoint": column("zeropoint", 0.0, torch.float64),
            "pixel_scale": column("pixel_scale", torch.nan, torch.float64),
            "origin": column("origin", 0.0, torch.float64, 2),
            "start": column("start", torch.nan, torch.float64, len(START_NAMES)),
            "flags": column("flags", 0, torch.int64),
            "wcs": tuple(self.wcs) if self.wcs is not None else (None,) * batch,
            "messages": tuple(self.messages) if self.messages is not None else ("",) * batch,
        }
        default_size = torch.tensor([height, width])
        size = as_tensor(default_size if self.size is None else self.size, torch.int64)
        values["size"] = size.to(device).expand(batch, 2)
        for name in ("wcs", "messages"):
            if len(values[name]) != batch:
                raise ValueError(f"{name} has {len(values[name])} entries, expected {batch}")
        for name, value in values.items():
            object.__setattr__(self, name, value)

    def __len__(self) -> int:
        return self.image.shape[0]

    def __getitem__(self, index: slice | Sequence[int]) -> Cutouts:
        rows = range(len(self))[index] if isinstance(index, slice) else [int(i) for i in index]
        select = torch.as_tensor(list(rows), dtype=torch.int64, device=self.image.device)

        def pick(value: Any) -> Any:
            if isinstance(value, Tensor):
                return value[select]
            return value if value is None else tuple(value[i] for i in rows)

        return replace(self, **{f.name: pick(getattr(self, f.name)) for f in fields(self)})

    def to(self, device: torch.device | str) -> Cutouts:
        """Return the same cutouts with their tensors on ``device``."""
        moved: dict[str, Any] = {
            f.name: value.to(device)
            for f in fields(self)
            if isinstance(value := getattr(self, f.name), Tensor)
        }
        return replace(self, **moved)


def as_tensor(value: Any, dtype: torch.dtype) -> Tensor:
    """``torch.as_tensor`` that takes what astropy gives: big-endian arrays, and flipped views."""
    if isinstance(value, np.ndarray):
        value = np.ascontiguousarray(value, value.dtype.newbyteorder("="))
    return torch.as_tensor(value, dtype=dtype)


def _like(value: Any, image: Tensor, name: str, dtype: torch.dtype) -> Tensor:
    value = as_tensor(value, dtype).to(image.device)
    if value.shape != image.shape:
        raise ValueError(
            f"{name} has shape {tuple(value.shape)}, expected {tuple(image.shape)} as the image"
        )
    return value


def _checked_psf(psf: Any, names: tuple[str, ...], device: torch.device) -> Tensor | None:
    if psf is None:
        return None
    psf = as_tensor(psf, torch.float32).to(device)
    psf = psf.expand(len(names), *psf.shape[-2:])
    if psf.shape[-1] % 2 == 0 or psf.shape[-2] % 2 == 0:
        raise ValueError(
            f"psf has sides {tuple(psf.shape[-2:])}, expected odd ones: pass it through "
            "hybridfit.prepare_psf"
        )
    total = psf.double().sum(dim=(-2, -1))
    wrong = ~((total - 1).abs() < 1e-3)
    if wrong.any():
        first = int(wrong.nonzero()[0])
        raise ValueError(
            f"psf of galaxy '{names[first]}' sums to {float(total[first]):.4g}, expected 1: pass "
            "it through hybridfit.prepare_psf"
        )
    return psf
