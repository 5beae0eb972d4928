"""Combine the data-quality, weight and mask planes of a file into one plane of bad pixels."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from hybridfit.data.errors import BadInput
from hybridfit.data.flags import Flag
from hybridfit.data.names import NOISE_ROLES
from hybridfit.io.bit_masks import chosen_bits, named_planes
from hybridfit.io.bit_tables import BitTable
from hybridfit.io.image_header import text_in


def merged_quality(
    planes: Mapping[str, NDArray],
    headers: Mapping[str, fits.Header],
    telescope: str = "",
    mask_bits: str = "",
    table: BitTable | None = None,
) -> tuple[dict[str, NDArray], tuple[str, ...]]:
    """Combine "dq", "weight" and bit planes given as "mask" into one plane "bad".

    A mask of bit planes marks bad pixels: unlike a mask of objects it does not cover neighbours.

    Args:
        planes, headers: (H, W) by role; the headers of those that have one.
        telescope: TELESCOP of the image, "" if unknown.
        mask_bits, table: the user's choice, and the survey's bits, see `chosen_bits`.

    Returns:
        The planes, with "bad" (bool) if there were any of these; and notes on what was done.

    Raises:
        BadInput: if the mask lacks a requested bit name, or every pixel is masked.
    """
    kept = {role: plane for role, plane in planes.items() if role not in ("dq", "weight")}
    bad = np.zeros(planes["image"].shape, bool)
    notes: list[str] = []
    for role in ("dq", "mask"):
        header = headers.get(role, fits.Header())
        are_bits = table is not None or bool(named_planes(header))
        if role not in planes or (role == "mask" and not (mask_bits or are_bits)):
            continue
        found, meaning = _of_bits(planes[role], header, telescope, mask_bits, table)
        if role == "mask" and not are_bits:
            kept["mask"] = found
            continue
        kept.pop(role, None)
        bad |= found
        notes.append(_note(text_in(header, "EXTNAME") or role, found, meaning))
    found, more = _of_weight(planes, headers.get("weight", fits.Header()))
    bad, notes = bad | found, [*notes, *more]
    if bad.any() or "bad" in planes:
        kept["bad"] = bad | planes.get("bad", False)
    return kept, tuple(filter(None, notes))


def bad_pixels(
    planes: Mapping[str, NDArray],
    headers: Mapping[str, fits.Header],
    telescope: str = "",
    mask_bits: str = "",
    table: BitTable | None = None,
) -> tuple[NDArray[np.bool_], tuple[str, ...]]:
    """Return the bad pixels (H, W) by "dq", "mask" and "weight", and notes; all may be bad.

    In an image of many sources every mask is one of bad pixels. For the arguments see
    `merged_quality`.

    Raises:
        BadInput: if the mask lacks a requested bit name.
    """
    bad = np.zeros(planes["image"].shape, bool)
    notes = []
    for role in ("dq", "mask"):
        if role in planes:
            header = headers.get(role, fits.Header())
            found, meaning = _of_bits(planes[role], header, telescope, mask_bits, table)
            bad |= found
            notes.append(_described(text_in(header, "EXTNAME") or role, found, meaning))
    if "weight" in planes:
        found = ~(planes["weight"] > 0)  # NaN too
        bad |= found
        notes.append(_described("weight", found, "0"))
    return bad, tuple(filter(None, notes))


def _of_bits(
    plane: NDArray,
    header: fits.Header,
    telescope: str,
    mask_bits: str,
    table: BitTable | None,
) -> tuple[NDArray[np.bool_], str]:
    """Return the bad pixels (H, W) of a plane of bits, and what the harmful bits mean."""
    try:
        bits = chosen_bits(header, telescope, mask_bits, table)
    except ValueError as error:
        raise BadInput(str(error)) from error
    return bits.bad(plane), bits.meaning


def _of_weight(
    planes: Mapping[str, NDArray], header: fits.Header
) -> tuple[NDArray[np.bool_], list[str]]:
    """Return the pixels (H, W) without weight, and notes; none where there is no such plane."""
    if "weight" not in planes:
        return np.zeros(planes["image"].shape, bool), []
    name = text_in(header, "EXTNAME") or "weight"
    found = ~(planes["weight"] > 0)  # NaN too
    notes = [_note(name, found, "0")]
    if not set(NOISE_ROLES) & set(planes):
        notes.append(f"{name} is not used as noise: say --hdu-ivar {name} if it is 1 / sigma^2")
    return found, notes


def _note(name: str, found: NDArray[np.bool_], meaning: str) -> str:
    if found.all():
        raise BadInput(
            f"every pixel is masked by {name} ({meaning}): choose bits by mask_bits, or pass over "
            "it by --hdu-dq '', --hdu-mask '' or --hdu-weight ''",
            int(Flag.NO_DATA),
        )
    return _described(name, found, meaning)


def _described(name: str, found: NDArray[np.bool_], meaning: str) -> str:
    return f"{name} masks {int(found.sum())} pixels ({meaning})" if found.any() else ""
