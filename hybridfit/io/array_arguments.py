"""Check the arguments of `prepare` and split them by galaxy: images, planes, PSFs, numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from astropy.nddata import Cutout2D, NDData
from numpy.typing import ArrayLike, NDArray

from hybridfit.data.names import NOISE_ROLES, OVERSAMPLINGS, START_NAMES, is_oversampling
from hybridfit.data.quantities import in_unit_of, without_units
from hybridfit.io.nddata import Plain, plain_array, plain_image
from hybridfit.io.options import start_problem
from hybridfit.options.checks import described

MISSING: Any = object()


def images_of(image: Any) -> list[Plain]:
    """Return one image for each galaxy."""
    if isinstance(image, list | tuple) and image and all(_is_image(one) for one in image):
        images = [plain_image(one, f"image {i}") for i, one in enumerate(image)]
    else:
        whole = plain_image(image)
        if whole.data.ndim not in (2, 3):
            raise ValueError(
                f"image has shape {whole.data.shape}, expected (B, H, W) or (H, W), or a list"
            )
        images = [whole] if whole.data.ndim == 2 else [whole[i] for i in range(len(whole.data))]
    for i, one in enumerate(images):
        if one.data.ndim != 2 or min(one.data.shape) < 5:
            raise ValueError(
                f"image {i} has shape {one.data.shape}, expected (H, W) of 5 pixels a side or more"
            )
    if not images:
        raise ValueError("image is empty, expected at least one (H, W)")
    return images


def planes_of(given: Mapping[str, Any], images: Sequence[Plain]) -> dict[str, list[NDArray]]:
    """Return the planes of every image by role; at most one kind of noise."""
    planes = {
        role: _planes(role, value, images) for role, value in given.items() if value is not None
    }
    kinds = [role for role in NOISE_ROLES if role in planes]
    if len(kinds) > 1:
        raise ValueError(f"noise is given as {' and as '.join(kinds)}: expected one of them")
    return planes


def numbers_of(given: Mapping[str, Any], count: int) -> dict[str, NDArray[np.float64]]:
    """Return (B,) numbers by name, without units, NaN where not given."""
    _, plain = without_units(np.zeros(0), given)
    values = {name: spread_numbers(name, value, count) for name, value in plain.items()}
    finer = values["psf_oversampling"]
    wrong = [value for value in finer.tolist() if not (math.isnan(value) or is_oversampling(value))]
    if wrong:
        raise ValueError(f"psf_oversampling is {wrong[0]:g}, expected {OVERSAMPLINGS}")
    for name in ("pixel_scale", "gain"):
        if (values[name] <= 0).any() or np.isinf(values[name]).any():
            raise ValueError(f"{name} is {described(plain[name])}, expected numbers above 0")
    if np.isinf(values["zeropoint"]).any():
        raise ValueError(f"zeropoint is {described(plain['zeropoint'])}, expected finite numbers")
    return values


def psfs_of(psf: Any, images: Sequence[Plain]) -> list[NDArray | None]:
    """Return the PSF of each image, None without one."""
    count = len(images)
    if psf is None:
        return [None] * count
    if psf is MISSING:
        own = [image.psf for image in images]
        if any(one is None for one in own):
            raise ValueError(
                "psf is missing: expected psf=..., (h, w) or (B, h, w), or psf=None to fit "
                "without one"
            )
        return own
    if isinstance(psf, list | tuple) and len(psf) == count and all(map(_is_image, psf)):
        return [plain_image(one, "psf").data for one in psf]
    whole = plain_image(psf, "psf").data
    if whole.ndim == 2:
        return [whole] * count
    if whole.ndim != 3 or len(whole) not in (1, count):
        raise ValueError(f"psf has shape {whole.shape}, expected (h, w) for all or ({count}, h, w)")
    return [whole[0 if len(whole) == 1 else i] for i in range(count)]


def spread_numbers(
    name: str, value: ArrayLike | None, count: int, *shape: int
) -> NDArray[np.float64]:
    """Return (B, ...) numbers, NaN where not given."""
    if value is None:
        return np.full((count, *shape), math.nan)
    array = plain_array(value, name)[0].astype(np.float64)
    if array.shape not in ((), (1,), shape, (count, *shape)):
        raise ValueError(f"{name} has shape {array.shape}, expected {(count, *shape)}")
    return np.broadcast_to(array, (count, *shape))


def initial_values_of(
    start: ArrayLike | None, x: ArrayLike | None, y: ArrayLike | None, count: int
) -> NDArray[np.float64]:
    """Return (B, 7) checked initial values."""
    starts = spread_numbers("start", start, count, len(START_NAMES)).copy()
    for column, name, value in ((0, "x", x), (1, "y", y)):
        if value is not None:
            starts[:, column] = spread_numbers(name, value, count)
    for row in starts:
        problem = start_problem(tuple(row))
        if problem:
            raise ValueError(problem)
    return starts


def _planes(role: str, value: Any, images: Sequence[Plain]) -> list[NDArray]:
    """Return a plane for each image from a number, (H, W) for all, (B, H, W) or a list."""
    return [
        _plane_of(image, role, *one)
        for one, image in zip(_spread(role, value, len(images)), images, strict=True)
    ]


def _spread(role: str, value: Any, count: int) -> list[tuple[NDArray, NDArray | None, Any]]:
    """Return values, bad pixels and unit for each of the images."""
    if isinstance(value, list | tuple) and len(value) == count and all(map(_is_image, value)):
        return [plain_array(one, role) for one in value]
    whole, bad, unit = plain_array(value, role)
    single = whole.ndim < 3
    if not single and len(whole) not in (1, count):
        raise ValueError(f"{role} has {len(whole)} planes, expected {count}, one for each image")
    rows = [() if single else (0 if len(whole) == 1 else i) for i in range(count)]
    return [(whole[row], None if bad is None else bad[row], unit) for row in rows]


def _plane_of(
    image: Plain, role: str, plane: NDArray, masked: NDArray | None, unit: Any
) -> NDArray:
    """Return a plane (H, W) in the image's unit, excluding its masked pixels."""
    if plane.ndim == 0:
        plane = np.full(image.data.shape, plane)
    if plane.shape != image.data.shape:
        raise ValueError(
            f"{role} has shape {plane.shape}, expected {image.data.shape} as the image"
        )
    if role in NOISE_ROLES:
        plane = in_unit_of(image.unit, role, plane, unit)
    if masked is not None:  # noise unknown there; or left out
        plane = np.where(masked, np.nan if role in NOISE_ROLES else 1, plane)
    return plane


def _is_image(value: Any) -> bool:
    return isinstance(value, NDData | Cutout2D) or getattr(value, "ndim", 0) == 2
