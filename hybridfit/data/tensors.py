"""Convert input from NumPy, torch or astropy to tensors, or refuse it with an explanation."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hybridfit.options.checks import described


def as_tensor(value: Any, dtype: torch.dtype, name: str = "value") -> Tensor:
    """Return input from NumPy, torch or astropy as a tensor, in any byte order or memory layout.

    Args:
        value: numbers: a tensor, an array, a list of either, or one number.
        dtype: of the tensor.
        name: name of the argument, for the error.

    Raises:
        ValueError: for anything but real numbers, and for fractions as integers.
    """
    if isinstance(value, Tensor):
        if value.is_complex():
            raise ValueError(f"{name} is {described(value)}, expected real numbers")
        tensor = value.detach()
    else:
        tensor = torch.from_numpy(_as_array(value, name))
    fractions = dtype == torch.int64 and tensor.is_floating_point()
    if fractions and not torch.equal(tensor, tensor.round()):  # NaN is not an integer either
        raise ValueError(f"{name} is {described(value)}, expected whole numbers")
    return tensor.to(dtype)


def _as_array(value: Any, name: str) -> np.ndarray:
    """Return real numbers as an array that torch can share: native, contiguous and writeable."""
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
    except (TypeError, ValueError) as error:  # parts of different shapes
        text = str(error).splitlines()[0]
        raise ValueError(f"{name} is {described(value)}, expected {wanted}: {text}") from error
    if array.dtype.kind not in "biuf":
        raise ValueError(f"{name} is {described(value)}, expected {wanted}")
    double = array.dtype.kind == "f" and array.dtype.itemsize > 8
    array = array.astype("f8" if double else array.dtype.newbyteorder("="), "C", copy=False)
    return array if array.flags.writeable else array.copy()


def masked_pixels(value: Any) -> np.ndarray | None:
    """Return where a masked array (numpy's or astropy's) is masked; None for other arrays."""
    mask = getattr(value, "mask", None) if isinstance(value, np.ndarray) else None
    return None if mask is None else np.broadcast_to(np.asarray(mask, bool), value.shape)


def expanded(value: Tensor, shape: tuple[int, ...], name: str) -> Tensor:
    """Return a view of ``value`` expanded to ``shape``; raise ValueError if it does not fit."""
    try:
        return value.expand(shape)
    except RuntimeError:
        raise ValueError(f"{name} has shape {tuple(value.shape)}, expected {shape}") from None


def entries(name: str, value: Any, batch: int) -> tuple[Any, ...]:
    """Return one entry for each galaxy; a single galaxy needs no list."""
    single = isinstance(value, str | bytes | type) or not hasattr(value, "__len__")
    entries = (value,) if single else tuple(value)
    if len(entries) != batch:
        raise ValueError(f"{name} has {len(entries)} entries, expected {batch}, one for each image")
    return entries
