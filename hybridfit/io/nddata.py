"""Images in memory: arrays, tensors, masked arrays, Quantity, NDData, CCDData."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from os import PathLike
from typing import Any

import numpy as np
from astropy import units as u
from astropy.io import fits
from astropy.nddata import Cutout2D, NDData
from numpy.typing import NDArray

from hybridfit.data.quantities import in_unit_of
from hybridfit.options.checks import described

NOISE_OF = {"std": "sigma", "var": "variance", "ivar": "ivar"}  # astropy's names of uncertainty
REAL = "fiub"


@dataclass(frozen=True, eq=False)
class Plain:
    """An image and its attachments, as plain arrays.

    Args:
        data: (..., H, W) real numbers.
        unit: unit of the data, None without one.
        noise: by role, "sigma", "variance" or "ivar", one at most, in powers of ``unit``.
        bad: (..., H, W) True where the data are invalid; None without a mask.
        psf: (..., h, w), None without one.
        wcs: None without one.
        header: further keywords of the image.
    """

    data: NDArray
    unit: Any = None
    noise: Mapping[str, NDArray] = field(default_factory=dict)
    bad: NDArray[np.bool_] | None = None
    psf: NDArray | None = None
    wcs: Any = None
    header: fits.Header = field(default_factory=fits.Header)

    @property
    def described(self) -> fits.Header:
        """The header with the unit of the data, as in a file."""
        header = self.header.copy()
        if self.unit is not None:
            try:
                header["BUNIT"] = self.unit.to_string("fits")
            except ValueError:  # a unit that FITS cannot express
                header["BUNIT"] = str(self.unit)
        return header

    def __getitem__(self, row: int) -> Plain:
        """Return one image of (B, H, W), with its attachments."""

        def pick(plane: NDArray | None) -> NDArray | None:
            return plane[row] if plane is not None and plane.ndim == 3 else plane

        noise = {
            role: plane[row] if plane.ndim == 3 else plane for role, plane in self.noise.items()
        }
        return replace(
            self, data=self.data[row], noise=noise, bad=pick(self.bad), psf=pick(self.psf)
        )


def plain_image(value: Any, name: str = "image") -> Plain:
    """Return an image as plain arrays, with its mask, noise, PSF, WCS and unit.

    Args:
        value: array, tensor, `numpy.ma.MaskedArray`, Quantity, `NDData`, `CCDData` or
            `Cutout2D`.
        name: name of the argument, for the error.

    Raises:
        ValueError: if it does not hold real numbers, or its uncertainty is of no known kind.
    """
    if isinstance(value, Cutout2D):
        return replace(plain_image(value.data, name), wcs=value.wcs)
    if not isinstance(value, NDData):
        data, bad, unit = plain_array(value, name)
        return Plain(data, unit, bad=bad)
    data, bad, _ = plain_array(value.data, name)
    if value.mask is not None:
        given = np.broadcast_to(np.asarray(value.mask).astype(bool), data.shape)
        bad = given if bad is None else bad | given
    psf = None if value.psf is None else plain_image(value.psf, f"psf of {name}").data
    return Plain(data, value.unit, _noise(value, name), bad, psf, value.wcs, _header(value.meta))


def plain_array(value: Any, name: str) -> tuple[NDArray, NDArray[np.bool_] | None, Any]:
    """Return real numbers, where they are masked (None without a mask), and their unit.

    Raises:
        ValueError: for anything else.
    """
    if hasattr(value, "detach"):
        value = value.detach().cpu().numpy()
    unit = getattr(value, "unit", None) if isinstance(value, np.ndarray) else None
    bad = getattr(value, "mask", None) if isinstance(value, np.ndarray) else None
    if isinstance(value, list | tuple):
        value = [v.detach().cpu().numpy() if hasattr(v, "detach") else v for v in value]
    try:
        if isinstance(value, np.ma.MaskedArray):
            array = np.asarray(value.data)
        elif bad is not None:  # astropy's masked arrays
            array = np.asarray(u.Quantity(value.unmasked).value if unit else value.unmasked)
        else:
            array = np.asarray(getattr(value, "value", value) if unit is not None else value)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{name} is {described(value)}, expected an array of real numbers: {error}"
        ) from error
    if array.dtype.kind not in REAL:
        hint = ": files are read by hybridfit.read" if isinstance(value, str | PathLike) else ""
        raise ValueError(f"{name} is {described(value)}, expected an array of real numbers{hint}")
    array = np.asarray(array, array.dtype.newbyteorder("="), order="C")
    if bad is not None:
        bad = np.broadcast_to(np.asarray(bad, bool), array.shape)
        bad = bad if bad.any() else None
    return array, bad, unit


def _noise(value: NDData, name: str) -> dict[str, NDArray]:
    if value.uncertainty is None or value.uncertainty.array is None:
        return {}
    kind = value.uncertainty.uncertainty_type
    if kind not in NOISE_OF:
        known = "StdDevUncertainty, VarianceUncertainty or InverseVariance"
        raise ValueError(f"the uncertainty of {name} is of type '{kind}', expected {known}")
    role = NOISE_OF[kind]
    plane, bad, _ = plain_array(value.uncertainty.array, f"uncertainty of {name}")
    if bad is not None:
        plane = np.where(bad, np.nan, plane)
    plane = np.broadcast_to(plane, np.shape(value.data))
    return {role: in_unit_of(value.unit, role, plane, value.uncertainty.unit)}


def _header(meta: Any) -> fits.Header:
    """Return the header of a `CCDData`, or the entries of a mapping that fit in one."""
    if isinstance(meta, fits.Header):
        return meta
    header = fits.Header()
    for key, item in (meta or {}).items():
        if isinstance(key, str) and isinstance(item, str | int | float | bool):
            try:
                header[key] = item
            except ValueError:  # a string with a newline, or NaN
                continue
    return header
