"""Check and convert the fields of cutouts: image, noise, PSF and a column for each other field."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hybridfit.data.flags import Flag
from hybridfit.data.names import MOST_OVERSAMPLING, OVERSAMPLINGS, START_NAMES
from hybridfit.data.quantities import without_units
from hybridfit.data.tensors import as_tensor, entries, expanded, masked_pixels
from hybridfit.options.checks import described

# fields besides the image that may have a unit, or follow from it
WITH_UNITS = ("sigma", "psf", "mask", "zeropoint", "zeropoint_from", "pixel_scale", "wcs")
NO_ZEROPOINT = int(Flag.NO_ZEROPOINT)
LARGEST, SMALLEST = 1e37, 2e-38  # flux units: their squares and inverses are finite in float32
# |image| over the noise, and noise over the usual one, beyond which sums of squares overflow: no
# camera measures these, but missing data may be given as, for instance, 1e36
MOST_SIGNAL, LEAST_NOISE = 1e15, 1e-12
ORDINARY = 1e9  # |image| over the smallest noise, up to which no check is needed
COLUMNS: dict[str, tuple[float, torch.dtype, tuple[int, ...]]] = {  # default, type, shape of a row
    "psf_oversampling": (1, torch.int64, ()),
    "psf_includes_pixel": (False, torch.bool, ()),
    "zeropoint": (torch.nan, torch.float64, ()),
    "pixel_scale": (torch.nan, torch.float64, ()),
    "origin": (0.0, torch.float64, (2,)),
    "start": (torch.nan, torch.float64, (len(START_NAMES),)),
    "flags": (0, torch.int64, ()),
}


def checked_cutouts(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of `hybridfit.Cutouts` from the user's input.

    Args:
        given: by name; None for omitted fields.

    Raises:
        ValueError: if shapes or units disagree, or a PSF is not normalised, with the galaxy's name.
    """
    hidden = [masked_pixels(given[name]) for name in ("image", "sigma")]
    plain_image, plain = without_units(given["image"], {name: given[name] for name in WITH_UNITS})
    given = {**given, **plain}
    image = _checked_image(plain_image)
    sigma = _like(given["sigma"], image, "sigma", torch.float32)
    mask = _whole_mask(given["mask"], hidden, image, sigma)
    values: dict[str, Any] = {
        "image": torch.where(mask, 0.0, image),
        "sigma": torch.where(mask, 1.0, sigma),
        "mask": mask,
        **_texts(given, len(image)),
        **_columns(given, image),
        "parameters": _parameters(given["parameters"], image),
    }
    values["psf"] = _checked_psf(given["psf"], values["id"], image.device)
    _check_values(values)
    return values | _zeropoints(given, values)


def _checked_image(value: Any) -> Tensor:
    """Return the image (B, H, W) float32."""
    image = as_tensor(value, torch.float32, "image")
    if image.ndim != 3:
        raise ValueError(
            f"image has {image.ndim} dimensions, expected 3 (B, H, W): for one galaxy pass "
            "image[None]"
        )
    if 0 in image.shape[1:]:
        raise ValueError(f"image has shape {tuple(image.shape)}, expected cutouts with pixels")
    return image


def _texts(given: Mapping[str, Any], batch: int) -> dict[str, tuple[Any, ...]]:
    """Return names, WCS and messages of each galaxy."""
    names = range(batch) if given["id"] is None else entries("id", given["id"], batch)
    wcs, messages = given["wcs"], given["messages"]
    if messages is not None:
        messages = tuple(str(text) for text in entries("messages", messages, batch))
    return {
        "id": tuple(i.decode() if isinstance(i, bytes) else str(i) for i in names),
        "wcs": (None,) * batch if wcs is None else entries("wcs", wcs, batch),
        "messages": ("",) * batch if messages is None else messages,
    }


def _columns(given: Mapping[str, Any], image: Tensor) -> dict[str, Tensor]:
    """Return the fields with one or several numbers per galaxy, on the image's device."""
    (batch, height, width), device = image.shape, image.device
    values = {}
    for name, (default, dtype, shape) in COLUMNS.items():
        value = default if given[name] is None else given[name]
        value = as_tensor(value, dtype, name).to(device)
        values[name] = expanded(value, (batch, *shape), name).contiguous()
    whole = torch.tensor([height, width])
    size = as_tensor(whole if given["size"] is None else given["size"], torch.int64, "size")
    values["size"] = expanded(size.to(device), (batch, 2), "size")
    return values


def _parameters(given: Any, image: Tensor) -> dict[str, Tensor]:
    """Return (B,) float64 values of parameters by name, on the image's device."""
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise ValueError(
            f"parameters are {described(given)}, expected arrays (B,) by name, such as "
            "{'bulge_n': [4.0, 2.5]}"
        )
    values = {}
    for name, value in given.items():
        value = as_tensor(value, torch.float64, f"parameters['{name}']").to(image.device)
        values[str(name)] = expanded(value, (len(image),), f"parameters['{name}']").contiguous()
    return values


def _zeropoints(given: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return zero points, their origins, and flags; a zero point set meanwhile is not missing."""
    batch, origin = len(values["id"]), given["zeropoint_from"]
    if origin is None:
        origin = "" if given["zeropoint"] is None else "given"
    origin = (origin,) * batch if isinstance(origin, str) else origin
    zeropoint, flags = values["zeropoint"], values["flags"]
    unknown = torch.isnan(zeropoint)
    flags = torch.where(unknown, flags | NO_ZEROPOINT, flags)
    zeropoint = torch.where(unknown, 0.0, zeropoint)
    pairs = zip(entries("zeropoint_from", origin, batch), zeropoint.tolist(), strict=True)
    named = [str(one) or ("given" if value else "") for one, value in pairs]
    known = zip(named, (~unknown).tolist(), strict=True)
    return {
        "zeropoint": zeropoint,
        "zeropoint_from": tuple(one if is_known else "" for one, is_known in known),
        "flags": torch.where(zeropoint == 0, flags, flags & ~NO_ZEROPOINT),
    }


def _whole_mask(
    given: Any, hidden: Sequence[np.ndarray | None], image: Tensor, sigma: Tensor
) -> Tensor:
    """Return (B, H, W) True on pixels masked by the user or masked arrays, or unusable."""
    mask = torch.zeros_like(image, dtype=torch.bool)
    for masked in (given, *hidden):
        if masked is not None:
            mask = mask | _like(masked, image, "mask", torch.bool)
    # comparisons are several times faster than isfinite, and false for NaN
    mask = mask | ~(image.abs() < LARGEST) | ~((sigma > SMALLEST) & (sigma < LARGEST))
    return mask | absurd_pixels(image, sigma, mask)


def absurd_pixels(image: Tensor, sigma: Tensor, mask: Tensor) -> Tensor:
    """Return which pixels float32 cannot combine with the others of their galaxy.

    Args:
        image, sigma: (B, H, W) flux units.
        mask: (B, H, W) bool, pixels already excluded.

    Returns:
        (B, H, W) bool: pixels brighter than 1e15 times their own or the median noise, and pixels
        with 1e-12 of the median noise or less.
    """
    absurd = torch.zeros_like(mask)
    if not image.numel():
        return absurd
    signal = torch.where(mask, 0.0, image).abs_()
    noise = torch.where(mask, torch.inf, sigma)
    suspect = signal.amax(dim=(1, 2)) > ORDINARY * noise.amin(dim=(1, 2))
    rows = suspect.nonzero()[:, 0]
    if len(rows):
        own = torch.where(mask[rows], torch.nan, sigma[rows]).double()
        usual = own.flatten(1).nanmedian(dim=1).values[:, None, None]
        bright = signal[rows].double() > MOST_SIGNAL * torch.minimum(own, usual)
        absurd[rows] = bright | (own < LEAST_NOISE * usual)
    return absurd


def _like(value: Any, image: Tensor, name: str, dtype: torch.dtype) -> Tensor:
    value = as_tensor(value, dtype, name).to(image.device)
    if value.shape != image.shape:
        raise ValueError(
            f"{name} has shape {tuple(value.shape)}, expected {tuple(image.shape)} as the image"
        )
    return value


def _checked_psf(psf: Any, names: tuple[str, ...], device: torch.device) -> Tensor | None:
    if psf is None:
        return None
    psf = as_tensor(psf, torch.float32, "psf").to(device)
    if psf.ndim not in (2, 3) or (psf.ndim == 3 and psf.shape[0] not in (1, len(names))):
        raise ValueError(
            f"psf has shape {tuple(psf.shape)}, expected (h, w) for all or ({len(names)}, h, w)"
        )
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


def _check_values(values: Mapping[str, Any]) -> None:
    """Raise ValueError for the first galaxy with an impossible value."""
    _check_rows(
        values["id"],
        psf_oversampling=(
            (values["psf_oversampling"] >= 1) & (values["psf_oversampling"] <= MOST_OVERSAMPLING),
            OVERSAMPLINGS,
        ),
        zeropoint=(~torch.isinf(values["zeropoint"]), "a finite number"),
        pixel_scale=(~(values["pixel_scale"] <= 0), "a number above 0, or NaN"),
        size=((values["size"] >= 1).all(dim=1), "a height and a width of 1 or more"),
        start=(
            _can_start(values["start"]),
            "finite numbers, r_eff and n above 0 and q in (0, 1], or NaN",
        ),
    )


def _check_rows(names: tuple[str, ...], **checks: tuple[Tensor, str]) -> None:
    """Raise ValueError for the first galaxy with a wrong value."""
    for name, (good, wanted) in checks.items():
        if not good.all():
            first = int((~good).nonzero()[0])
            raise ValueError(f"{name} of galaxy '{names[first]}' is wrong: expected {wanted}")


def _can_start(start: Tensor) -> Tensor:
    """Return whether rows (B, 7) hold possible values of a galaxy, or NaN."""
    shape = start[:, [START_NAMES.index(name) for name in ("r_eff", "n", "q")]]
    wrong = torch.isinf(start).any(dim=1) | (shape <= 0).any(dim=1) | (shape[:, 2] > 1)
    return ~wrong
