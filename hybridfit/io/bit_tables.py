"""Names of the bits in the masks of surveys whose files do not name them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class BitTable:
    """The bits of a survey's mask.

    Args:
        names: values by name.
        bad: names of those that exclude pixels.
    """

    names: Mapping[str, int]
    bad: tuple[str, ...]


def _in_order(names: str) -> dict[str, int]:
    """Return 1, 2, 4... for names separated by spaces; "-" skips a bit."""
    return {name: 1 << k for k, name in enumerate(names.split()) if name != "-"}


# lsst.afw.image: planes of every mask; further ones differ between files, which name them
LSST_PLANES = BitTable(
    _in_order("BAD SAT INTRP CR EDGE DETECTED DETECTED_NEGATIVE SUSPECT NO_DATA"),
    ("BAD", "SAT", "CR", "EDGE", "NO_DATA"),
)
# Morganson et al. 2018, PASP 130, 074501, and pixcorrect
DES = BitTable(
    _in_order("BPM SATURATE INTERP LOW CRAY STAR TRAIL EDGEBLEED SSXTALK EDGE STREAK FIX"),
    ("BPM", "SATURATE", "CRAY", "TRAIL", "EDGEBLEED", "EDGE", "STREAK"),
)
# de Jong et al. 2015, A&A 582, A62; halos only change the background
KIDS = BitTable(
    _in_order(
        "READOUT_SPIKE SATURATION_CORE DIFFRACTION_SPIKE PRIMARY_HALO SECONDARY_HALO "
        "TERTIARY_HALO BAD_PIXEL MANUAL"
    ),
    ("READOUT_SPIKE", "SATURATION_CORE", "DIFFRACTION_SPIKE", "BAD_PIXEL", "MANUAL"),
)
# Euclid data product description, flag map of VIS; INVALID combines all unusable pixels
EUCLID = BitTable(
    _in_order(
        "INVALID HOT COLD SAT COSMIC GHOST QUADEDGE BAD_COLUMN BAD_CLUSTER CR_REGION - - OVRCOL "
        "EXTOBJ SCATLIGHT CHARINJ - SATXTALKGHOST STARSIGNAL SATURATEDSTAR CTICORRECTION ADCMAX "
        "NO_DATA STITCHBLOCK OBJECTS"
    ),
    ("INVALID", "SAT", "NO_DATA"),
)
# Waters et al. 2020, ApJS 251, 4; bad are those of the pipeline's own MASK.VALUE
PANSTARRS = BitTable(
    _in_order(
        "DETECTOR FLAT DARK BLANK CTE SAT LOW SUSPECT CR SPIKE GHOST STREAK STARCORE CONV.BAD "
        "CONV.POOR MARK.VALUE"
    ),
    ("DETECTOR", "FLAT", "DARK", "BLANK", "CTE", "SAT", "LOW", "CR", "CONV.BAD"),
)
LEGACY_NAMES = (
    "NPRIMARY BRIGHT SATUR_G SATUR_R SATUR_Z ALLMASK_G ALLMASK_R ALLMASK_Z WISEM1 WISEM2 BAILOUT "
    "MEDIUM GALAXY CLUSTER SATUR_I ALLMASK_I SUB_BLOB"
)


def legacy_bits(band: str) -> BitTable:
    """Return the bits of the Legacy Surveys' ``maskbits`` (Dey et al. 2019, AJ 157, 168).

    Saturated pixels, and those that are bad in all exposures, of one band are bad; of every band
    if it is not one of g, r, i, z. Bright stars, galaxies and duplicate area are not bad pixels.

    Args:
        band: "g", "r", "i" or "z".
    """
    names = _in_order(LEGACY_NAMES)
    own = tuple(f"{kind}_{band.upper()}" for kind in ("SATUR", "ALLMASK"))
    every = tuple(name for name in names if name.startswith(("SATUR_", "ALLMASK_")))
    return BitTable(names, own if set(own) <= set(names) else every)
