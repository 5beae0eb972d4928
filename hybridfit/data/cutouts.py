"""Cutouts: a batch of images with their noise, masks and PSFs, checked once when made."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hybridfit.data.quantities import without_units
from hybridfit.data.results import Flag
from hybridfit.options.checks import described

# what may be given with a unit, beside the image, or follows from it
WITH_UNITS = ("sigma", "psf", "mask", "zeropoint", "zeropoint_from", "pixel_scale", "wcs")
NO_ZEROPOINT = int(Flag.NO_ZEROPOINT)
MOST_OVERSAMPLING = 32  # memory grows by its square
OVERSAMPLINGS = f"a whole number from 1 to {MOST_OVERSAMPLING}"
LARGEST, SMALLEST = 1e37, 2e-38  # flux units: their squares and inverses are finite in float32
# |image| over the noise, and noise over the usual one, beyond which sums of squares are not: what
# no camera measures, for instance 1e36 where a program has no data
MOST_SIGNAL, LEAST_NOISE = 1e15, 1e-12
ORDINARY = 1e9  # |image| over the least noise up to which there is nothing to look at
NOISE_ROLES = ("sigma", "variance", "ivar")  # what a noise map may hold
START_NAMES = ("x", "y", "mag", "r_eff", "n", "q", "pa")


@dataclass(frozen=True)
class Cutouts:
    """A batch of B galaxy cutouts of one padded shape.

    Everything but ``image``, ``sigma`` and ``psf`` may be left out. Arrays may be numpy or
    torch; they are converted, checked and never changed afterwards. Masked pixels are filled
    with image 0 and sigma 1, so that no NaN meets arithmetic.

    Args:
        image: (B, H, W), flux units; an astropy Quantity's own unit, in which ``sigma`` then is
            too, converted if it has another; masked pixels of a masked array are masked.
        sigma: (B, H, W), standard deviation of each pixel in the same unit. Pixels with
            sigma <= 0 or not finite, or with an image that is not finite, are masked, and so
            are those that `absurd_pixels` names.
        psf: (B, h, w) or (h, w) for all, odd sides, centred on the middle pixel, sum 1; or
            None to fit without one.
        mask: (B, H, W) bool, True = leave out. Padding of smaller stamps is masked too.
        id: (B,) names; default the row numbers.
        psf_oversampling: (B,) PSF pixels per image pixel, an integer >= 1; default 1.
        psf_includes_pixel: (B,) True where the PSF already holds the pixel's response (an
            effective PSF, a star); default False, GALFIT's convention.
        zeropoint: (B,) mag = zeropoint - 2.5 log10(flux); default that of the image's unit if it
            has one, else 0 with `Flag.NO_ZEROPOINT`.
        zeropoint_from: (B,) what it is taken from, "" where none is known.
        pixel_scale: (B,) arcsec per pixel, NaN where unknown.
        origin: (B, 2) x and y of the first pixel in the parent image, in pixels; default 0.
        start: (B, 7) starting values x, y, mag, r_eff, n, q, pa in stamp pixels, NaN where
            the fitter shall choose.
        flags: (B,) int64 bits of `hybridfit.Flag` raised while reading.
        size: (B, 2) true height and width before padding; default H, W.
        wcs: B astropy WCS objects (or None) of the stamps.
        messages: B texts for the user, empty where there is nothing to say.

    Raises:
        ValueError: if shapes or units disagree, or a PSF is not normalised, with the galaxy's name.
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
    zeropoint_from: Sequence[str] = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        hidden = [masked_pixels(plane) for plane in (self.image, self.sigma)]
        image, plain = without_units(self.image, {n: getattr(self, n) for n in WITH_UNITS})
        for name, value in plain.items():
            object.__setattr__(self, name, value)
        image = as_tensor(image, torch.float32, "image")
        if image.ndim != 3:
            raise ValueError(
                f"image has {image.ndim} dimensions, expected 3 (B, H, W): for one galaxy pass "
                "image[None]"
            )
        batch, height, width = image.shape
        if height == 0 or width == 0:
            raise ValueError(f"image has shape {tuple(image.shape)}, expected stamps with pixels")
        given = range(batch) if self.id is None else entries("id", self.id, batch)
        names = tuple(i.decode() if isinstance(i, bytes) else str(i) for i in given)
        sigma = _like(self.sigma, image, "sigma", torch.float32)
        mask = _whole_mask(self.mask, hidden, image, sigma)
        device = image.device

        def column(name: str, default: float, dtype: torch.dtype, *shape: int) -> Tensor:
            value = getattr(self, name)
            value = as_tensor(default if value is None else value, dtype, name).to(device)
            return expanded(value, (batch, *shape), name).contiguous()

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
            "wcs": entries("wcs", self.wcs, batch) if self.wcs is not None else (None,) * batch,
            "messages": (
                tuple(str(m) for m in entries("messages", self.messages, batch))
                if self.messages is not None
                else ("",) * batch
            ),
        }
        whole = torch.tensor([height, width])
        size = as_tensor(whole if self.size is None else self.size, torch.int64, "size")
        values["size"] = expanded(size.to(device), (batch, 2), "size")
        _check_values(values)
        values |= self._zeropoints(values)
        for name, value in values.items():
            object.__setattr__(self, name, value)

    def _zeropoints(self, values: dict[str, Any]) -> dict[str, Any]:
        """Zero points, what each is from, and flags; one that was set since is not missing."""
        batch, origin = len(values["id"]), self.zeropoint_from
        if origin is None:
            origin = "" if self.zeropoint is None else "given"
        origin = (origin,) * batch if isinstance(origin, str) else origin
        zeropoint, flags = values["zeropoint"], values["flags"]
        unknown = torch.isnan(zeropoint) | (self.zeropoint is None)
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

    def __len__(self) -> int:
        return self.image.shape[0]

    def __getitem__(self, index: int | slice | Sequence[int] | Sequence[bool]) -> Cutouts:
        rows = _rows(index, len(self))
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


def absurd_pixels(image: Tensor, sigma: Tensor, mask: Tensor) -> Tensor:
    """Return which pixels float32 cannot weigh against the others of their galaxy.

    Args:
        image, sigma: (B, H, W) flux units.
        mask: (B, H, W) bool, pixels that are left out already.

    Returns:
        (B, H, W) bool: those brighter than 1e15 times the noise, their own or the median one, and
        those with 1e-12 of the median noise or less.
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


def as_tensor(value: Any, dtype: torch.dtype, name: str = "value") -> Tensor:
    """Return a tensor of what NumPy, torch or astropy give, whatever its byte order or memory.

    Args:
        value: numbers: a tensor, an array, a list of either, or one number.
        dtype: of the tensor.
        name: of the argument, for the error.

    Raises:
        ValueError: for what is no array of real numbers, and for fractions as integers.
    """
    if isinstance(value, Tensor):
        if value.is_complex():
            raise ValueError(f"{name} is {described(value)}, expected real numbers")
        tensor = value.detach()
    else:
        tensor = torch.from_numpy(_as_array(value, name))
    fractions = dtype == torch.int64 and tensor.is_floating_point()
    if fractions and not torch.equal(tensor, tensor.round()):  # NaN too is no integer
        raise ValueError(f"{name} is {described(value)}, expected whole numbers")
    return tensor.to(dtype)


def _as_array(value: Any, name: str) -> np.ndarray:
    """Real numbers as an array that torch can share: native, contiguous and writeable."""
    wanted = "an array of real numbers"
    if isinstance(value, str | os.PathLike):
        raise ValueError(
            f"{name} is {described(value)}, expected {wanted}: files are read by hybridfit.read"
        )
    if hasattr(value, "uncertainty"):
        raise ValueError(f"{name} is {type(value).__name__}: pass it through hybridfit.prepare")
    if isinstance(value, list | tuple) and any(isinstance(v, Tensor) for v in value):
        value = [v.detach().cpu().numpy() if isinstance(v, Tensor) else v for v in value]
    if (unit := getattr(value, "unit", None)) is not None and str(unit):
        raise ValueError(f"{name} is in {unit}, expected plain numbers")
    try:
        array = np.asarray(value)
    except (TypeError, ValueError) as error:  # parts of several shapes
        text = str(error).splitlines()[0]
        raise ValueError(f"{name} is {described(value)}, expected {wanted}: {text}") from error
    if array.dtype.kind not in "biuf":
        raise ValueError(f"{name} is {described(value)}, expected {wanted}")
    double = array.dtype.kind == "f" and array.dtype.itemsize > 8
    array = array.astype("f8" if double else array.dtype.newbyteorder("="), "C", copy=False)
    return array if array.flags.writeable else array.copy()


def masked_pixels(value: Any) -> np.ndarray | None:
    """Where a masked array (numpy's or astropy's) is masked; None if it is no such array."""
    mask = getattr(value, "mask", None) if isinstance(value, np.ndarray) else None
    return None if mask is None else np.broadcast_to(np.asarray(mask, bool), value.shape)


def expanded(value: Tensor, shape: tuple[int, ...], name: str) -> Tensor:
    """Return a view of ``value`` expanded to ``shape``; ValueError where it does not fit."""
    try:
        return value.expand(shape)
    except RuntimeError:
        raise ValueError(f"{name} has shape {tuple(value.shape)}, expected {shape}") from None


def _rows(index: Any, count: int) -> Sequence[int]:
    """Row numbers of a slice, one number, a list of numbers, or a mask (B,)."""
    if isinstance(index, slice):
        return range(count)[index]
    chosen = np.asarray(index.cpu() if isinstance(index, Tensor) else index)
    if chosen.dtype == bool:
        if chosen.shape != (count,):
            raise IndexError(f"a mask of shape {chosen.shape} came for {count} cutouts")
        return np.flatnonzero(chosen).tolist()
    if chosen.size and (chosen.dtype.kind not in "iu" or chosen.ndim > 1):
        raise TypeError(f"index is {described(index)}, expected row numbers, a slice or a mask")
    rows = [int(i) for i in np.atleast_1d(chosen)]
    for i in rows:
        if not -count <= i < count:
            raise IndexError(f"row {i} is not there: {count} cutouts have rows 0 to {count - 1}")
    return rows


def entries(name: str, value: Any, batch: int) -> tuple[Any, ...]:
    """One entry for each galaxy; a single one may come as it is for a single galaxy."""
    single = isinstance(value, str | bytes | type) or not hasattr(value, "__len__")
    entries = (value,) if single else tuple(value)
    if len(entries) != batch:
        raise ValueError(f"{name} has {len(entries)} entries, expected {batch}, one for each image")
    return entries


def _whole_mask(
    given: Any, hidden: Sequence[np.ndarray | None], image: Tensor, sigma: Tensor
) -> Tensor:
    """(B, H, W) True on pixels masked by the user, by masked arrays, or without usable values."""
    mask = torch.zeros_like(image, dtype=torch.bool)
    for masked in (given, *hidden):
        if masked is not None:
            mask = mask | _like(masked, image, "mask", torch.bool)
    # comparisons are several times quicker than isfinite, and false for NaN
    mask = mask | ~(image.abs() < LARGEST) | ~((sigma > SMALLEST) & (sigma < LARGEST))
    return mask | absurd_pixels(image, sigma, mask)


def _check_values(values: Mapping[str, Any]) -> None:
    """Raise ValueError for the first galaxy with a value that cannot be."""
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


def is_oversampling(value: float) -> bool:
    """Whether a PSF can have so many pixels per image pixel."""
    return 1 <= value <= MOST_OVERSAMPLING and value == int(value)


def _can_start(start: Tensor) -> Tensor:
    """Whether rows (B, 7) hold values that a galaxy can have, or NaN."""
    shape = start[:, [START_NAMES.index(name) for name in ("r_eff", "n", "q")]]
    wrong = torch.isinf(start).any(dim=1) | (shape <= 0).any(dim=1) | (shape[:, 2] > 1)
    return ~wrong


def _check_rows(names: tuple[str, ...], **checks: tuple[Tensor, str]) -> None:
    """Raise ValueError for the first galaxy of which a value is wrong."""
    for name, (good, wanted) in checks.items():
        if not good.all():
            first = int((~good).nonzero()[0])
            raise ValueError(f"{name} of galaxy '{names[first]}' is wrong: expected {wanted}")


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
