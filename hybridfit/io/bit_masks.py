"""Bit masks: which bits of a data-quality plane mark pixels that must be left out.

The meaning of a bit depends on the pipeline. Many bits are harmless (an interpolated pixel, or a
pixel of a detected object, which would be the target itself), so only some are left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from hybridfit.io.bit_tables import BitTable
from hybridfit.io.image_header import number_in, text_in
from hybridfit.options.checks import comma_list

# LSST and HSC name their planes in the header; DETECTED marks every object, also the target
LSST_BAD = ("BAD", "SAT", "CR", "NO_DATA", "EDGE", "SENSOR_EDGE", "UNMASKEDNAN")
# jwst.datamodels.dqflags: every unusable pixel has this bit
JWST = {
    "DO_NOT_USE": 1,
    "SATURATED": 2,
    "JUMP_DET": 4,
    "DROPOUT": 8,
    "OUTLIER": 16,
    "NON_SCIENCE": 512,
    "DEAD": 1024,
    "HOT": 2048,
}
# ACS and WFC3 data handbooks: bits of pixels that the calibration has corrected (hot 16, warm or
# CTE tail 32 and 64, charge traps 1024); all others count
HST_MENDED = 16 | 32 | 64 | 1024
ANY = -1  # every bit


@dataclass(frozen=True)
class Bits:
    """The bits of a plane that exclude pixels.

    Args:
        value: their sum; `ANY` for all.
        meaning: in words.
    """

    value: int
    meaning: str

    def bad(self, plane: NDArray) -> NDArray[np.bool_]:
        """Return (H, W) True where any of the bits is set, or the value is not finite."""
        whole = np.isfinite(plane)
        if self.value == ANY:
            return ~whole | (plane != 0)
        return ~whole | ((np.where(whole, plane, 0).astype(np.int64) & self.value) != 0)


def named_planes(header: fits.Header) -> dict[str, int]:
    """Return bit values by name from LSST's keywords MP_*; empty without such keywords."""
    planes = {}
    for key in header:
        bit = number_in(header, key) if key.startswith("MP_") else None
        if bit is not None and bit.is_integer() and 0 <= bit < 63:
            planes[key[3:]] = 1 << int(bit)
    return planes


def bit_names(
    header: fits.Header, telescope: str = "", table: BitTable | None = None
) -> dict[str, int]:
    """Return bit values by name: from the header, else of the survey, else of the telescope."""
    names = named_planes(header) or _listed_names(header)
    if names:
        return names
    return dict(table.names) if table is not None else dict(JWST) if telescope == "JWST" else {}


def _listed_names(header: fits.Header) -> dict[str, int]:
    """Return bit values by name from Pan-STARRS' keywords MSKNAM00, MSKVAL00..."""
    names = {}
    for key in header:
        value = number_in(header, f"MSKVAL{key[6:]}") if key.startswith("MSKNAM") else None
        if value is not None and value.is_integer() and 0 < value < 1 << 62:
            names[text_in(header, key).upper()] = int(value)
    return names


def chosen_bits(
    header: fits.Header, telescope: str, chosen: str = "", table: BitTable | None = None
) -> Bits:
    """Return the bits to leave out of a plane of data quality.

    Args:
        header: header of the plane.
        telescope: that took the image, "" where unknown.
        chosen: names or bit values given by the user, "SAT,CR" or "1,4096"; "" for those that
            the telescope's documentation calls harmful, or for all bits where it is unknown.
        table: bits of the survey, for a header that does not name them.

    Raises:
        ValueError: if a name is not one of the plane's.
    """
    names = named_planes(header)
    if chosen:
        return _by_user(bit_names(header, telescope, table), chosen)
    if table is not None and not names:
        known = bit_names(header, telescope, table)
        used = [name for name in table.bad if name in known]
        return Bits(sum(known[name] for name in used), ", ".join(used))
    if names:
        used = [name for name in LSST_BAD if name in names]
        return Bits(sum(names[name] for name in used), ", ".join(used))
    if telescope == "JWST":
        return Bits(JWST["DO_NOT_USE"], "DO_NOT_USE")
    if telescope == "HST":
        return Bits(~HST_MENDED & 0xFFFFFFFF, f"all bits but {HST_MENDED} (hot, warm, traps)")
    return Bits(ANY, "all bits")


def _by_user(names: Mapping[str, int], chosen: str) -> Bits:
    value = 0
    for part in comma_list(chosen):
        if part.isdecimal():
            value |= int(part)
        elif part.upper() in names:
            value |= names[part.upper()]
        else:
            known = f"its planes are {', '.join(names)}" if names else "its bits have no names"
            raise ValueError(f"mask_bits has '{part}', which the mask does not: {known}")
    return Bits(value, chosen)
