"""Convert arrays with astropy units to one unit, or refuse them, before dropping the units."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from astropy import units as u
from astropy.wcs.utils import proj_plane_pixel_area
from numpy.typing import NDArray

from hybridfit.data.units import Kind, ab_zeropoint, classify

# powers of the image's unit that a noise map is in
NOISE_POWERS = {"sigma": 1, "variance": 2, "ivar": -2}
# electrons per unit of an image of counts, of counts per second, of electrons per second
GAIN_UNITS = (u.electron / u.adu, u.electron / (u.adu / u.s), u.s)
PLAIN = ("psf", "mask", "segmap")  # their scale does not matter


def without_units(image: Any, given: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Return an image and its other fields as plain numbers, all in the image's unit.

    Args:
        image: (..., H, W) array; one with a unit is an astropy Quantity or Column.
        given: by name, fields of `hybridfit.Cutouts` or other noise maps; those without a unit
            are unchanged if the image has no unit.

    Returns:
        The image's numbers; and ``given`` with noise maps converted, and with "zeropoint" and
        "zeropoint_from" if the image's unit has an AB zero point and none was given.

    Raises:
        ValueError: if only one of image and noise has a unit, if one cannot be converted to the
            other, or if the image is in magnitudes.
    """
    image, unit = _split(image)
    plain = {name: value for name, value in given.items() if value is not None}
    for name in plain:
        value, own = _split(plain[name])
        if name in NOISE_POWERS:
            value = in_unit_of(unit, name, value, own)
        elif own is not None:
            value = _field(name, value, own)
        plain[name] = value
    if unit is not None and plain.get("zeropoint") is None:
        plain |= _zeropoint(unit, plain.get("pixel_scale"), plain.get("wcs"))
    return image, {**given, **plain}


def _split(value: Any) -> tuple[Any, Any]:
    """Return numbers and unit; the unit is None if missing or dimensionless."""
    if isinstance(value, list | tuple) and any(hasattr(v, "unit") for v in value):
        value = u.Quantity(value)
    unit = getattr(value, "unit", None) if isinstance(value, np.ndarray | np.number) else None
    if unit is None:
        return value, None
    if getattr(unit, "physical_type", "") == "dimensionless":
        return u.Quantity(value).to_value(u.one), None
    return np.asarray(getattr(value, "value", value)), unit


def in_unit_of(unit: Any, name: str, value: Any, own: Any) -> Any:
    """Return a noise map in the appropriate power of the image's unit.

    Args:
        unit: unit of the image, None without one.
        name: "sigma", "variance" or "ivar".
        value: the map.
        own: its unit, None without one.

    Raises:
        ValueError: if only one of them has a unit, or one cannot be converted to the other.
    """
    if unit is not None and classify(unit)[0] == Kind.MAGNITUDE:
        raise ValueError(f"image is in {unit}, expected a unit that is linear in flux")
    if own is None and unit is None:
        return value
    if own is None or unit is None:
        having, lacking = ("image", name) if own is None else (name, "image")
        raise ValueError(
            f"{having} is in {own if unit is None else unit} and {lacking} has no unit: expected "
            f"both with one, or neither; write {lacking} * astropy.units.Unit('...')"
        )
    wanted = unit ** NOISE_POWERS[name]
    try:
        return value * own.to(wanted)
    except u.UnitConversionError as error:
        raise ValueError(
            f"{name} is in {own}, expected {wanted} or what converts to it, as the image is in "
            f"{unit}"
        ) from error


def _field(name: str, value: Any, own: Any) -> Any:
    """Return another field of a cutout in its documented unit."""
    if name in PLAIN:
        return value
    if name == "pixel_scale" and own.is_equivalent(u.arcsec):
        return value * own.to(u.arcsec)
    if name == "pixel_scale" and own.is_equivalent(u.arcsec / u.pix):
        return value * own.to(u.arcsec / u.pix)
    if name == "zeropoint" and classify(own)[0] == Kind.MAGNITUDE:
        return value
    per_count = next((unit for unit in GAIN_UNITS if own.is_equivalent(unit)), None)
    if name == "gain" and per_count is not None:
        return value * own.to(per_count)
    units = {"pixel_scale": "arcsec", "zeropoint": "mag", "gain": "electron / adu"}
    expected = units.get(name, "plain numbers")
    raise ValueError(f"{name} is in {own}, expected {expected}")


def _zeropoint(unit: Any, pixel_scale: Any, wcs: Any) -> dict[str, Any]:
    """Return zero point and origin, if the unit has one and every pixel area is known."""
    kind, size = classify(unit)
    if kind == Kind.FLUX:
        return {"zeropoint": ab_zeropoint(size), "zeropoint_from": f"unit {unit}"}
    if kind != Kind.SURFACE:
        return {}
    area = _areas(pixel_scale, wcs)  # of one image or of all
    if area is None or not np.all(area > 0):
        return {}
    return {"zeropoint": -2.5 * np.log10(size * area), "zeropoint_from": f"unit {unit}"}


def _areas(pixel_scale: Any, wcs: Any) -> NDArray[np.float64] | None:
    """Return the solid angle of the pixels in steradian; NaN where unknown."""
    if pixel_scale is not None:
        return np.radians(np.asarray(pixel_scale, dtype=np.float64) / 3600) ** 2
    if wcs is None:
        return None
    several = list(wcs) if isinstance(wcs, Sequence) else [wcs]
    square = [np.nan if one is None else abs(float(proj_plane_pixel_area(one))) for one in several]
    return np.array(square) * np.radians(1.0) ** 2
