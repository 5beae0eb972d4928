"""The layouts of surveys that are known."""

from __future__ import annotations

import re
from collections.abc import Callable

from hybridfit.io.bit_tables import (
    DES,
    EUCLID,
    KIDS,
    LSST_PLANES,
    PANSTARRS,
    BitTable,
    legacy_bits,
)
from hybridfit.io.survey.layout import Companion, Facts, Layout


def _one_table(table: BitTable) -> Callable[[Facts], BitTable]:
    return lambda facts: table


def _legacy_bits(facts: Facts) -> BitTable:
    """Return the bits for the band of a brick: by the name of its file, else its header."""
    name = re.search(r"-image-([a-z]+)\.", facts.name)
    return legacy_bits(name[1] if name else facts.band[:1])


# files beside an image: image.fits and sigma.fits, a_image_g.fits and a_sigma_g.fits
BESIDE = tuple(
    Companion(role, r"(?i)(?<![a-z])(image|img|sci)(?![a-z])", name)
    for role, name in (
        *(("sigma", "sigma"), ("sigma", "rms"), ("sigma", "err"), ("variance", "variance")),
        *(("variance", "var"), ("ivar", "ivar"), ("ivar", "invvar"), ("weight", "weight")),
        *(("weight", "wht"), ("mask", "mask"), ("mask", "msk")),
    )
)


def _is_jwst(facts: Facts) -> bool:
    return facts.text("TELESCOP") == "JWST" or (
        "SCI" in facts.hdus and facts.has("PIXAR_SR", "PHOTMJSR")
    )


def _is_hst(facts: Facts) -> bool:
    drizzled = re.search(r"_dr[zc](_sci|_wht)?\.fits?", facts.name) is not None
    return facts.text("TELESCOP") == "HST" or (drizzled and facts.has("PHOTFLAM"))


def _is_lsst(facts: Facts) -> bool:
    planes = {"IMAGE", "MASK", "VARIANCE"} <= set(facts.hdus)
    return planes or facts.has("FLUXMAG0")


def _is_legacy(facts: Facts) -> bool:
    name = re.match(r"legacysurvey-.*-image-[a-z]+\.fits", facts.name)
    return name is not None or facts.has("BRICKNAM", "LEGPIPEV")


def _is_des(facts: Facts) -> bool:
    planes = {"SCI", "WGT"} <= set(facts.hdus)
    return planes and (facts.has("MAGZERO") or "DES" in facts.text("SURVEY"))


def _is_kids(facts: Facts) -> bool:
    return re.match(r"KiDS_.*_sci\.fits", facts.name) is not None


def _is_euclid(facts: Facts) -> bool:
    return re.match(r"EUC_MER_BGSUB-MOSAIC-", facts.name) is not None


def _is_panstarrs(facts: Facts) -> bool:
    stack = re.search(r"skycell\.\d+\.\d+\.(stk|wrp)\.", facts.name)
    return facts.has("BSOFTEN", "BOFFSET") or (stack is not None and facts.has("FPA.ZP"))


def _is_sdss(facts: Facts) -> bool:
    frame = re.match(r"frame-[ugriz]-\d{6}-[1-6]-\d{4}", facts.name)
    return frame is not None or facts.has("CAMCOL", "RUN", "NMGY")


# files of one drizzled mosaic, as CANDELS, HLF, COSMOS-Web and DJA name them
DRIZZLED_FILES = tuple(
    Companion(role, pattern, name)
    for role, ending in (("sigma", "rms"), ("sigma", "err"), ("weight", "wht"))
    for pattern, name in (
        (r"(_dr[zc])?_sci\.", rf"\1_{ending}."),
        (r"_dr[zc]\.", rf"_{ending}."),
    )
)
LEGACY_FILES = (
    Companion("ivar", r"-image-([a-z]+)\.", r"-invvar-\1."),
    Companion("mask", r"-image-[a-z]+\.", r"-maskbits."),
)
KIDS_FILES = (
    Companion("ivar", r"_sci\.", r"_wei."),
    Companion("mask", r"_sci\.", r"_msk."),
)
TILE = r"EUC_MER_BGSUB-MOSAIC-(.+?)_TILE(\w+?)(-.*)?(\.fits.*)"  # hashes and dates differ
EUCLID_FILES = (
    Companion("sigma", TILE, r"EUC_MER_MOSAIC-\1-RMS_TILE\2*\4"),
    Companion("mask", TILE, r"EUC_MER_MOSAIC-\1-FLAG_TILE\2*\4"),
)
PANSTARRS_FILES = (
    Companion("variance", r"\.fits", r".wt.fits"),
    Companion("mask", r"\.fits", r".mask.fits"),
)

# the more specific ones first
LAYOUTS: tuple[Layout, ...] = (
    Layout("sdss", "SDSS frame", _is_sdss, zeropoint=22.5),
    Layout(
        "legacy",
        "Legacy Surveys brick",
        _is_legacy,
        companions=LEGACY_FILES,
        bits=_legacy_bits,
        zeropoint=22.5,
    ),
    Layout(
        "panstarrs",
        "Pan-STARRS stack",
        _is_panstarrs,
        companions=PANSTARRS_FILES,
        bits=_one_table(PANSTARRS),
    ),
    Layout(
        "euclid",
        "Euclid MER tile",
        _is_euclid,
        companions=EUCLID_FILES,
        bits=_one_table(EUCLID),
    ),
    Layout(
        "kids",
        "KiDS coadd",
        _is_kids,
        companions=KIDS_FILES,
        bits=_one_table(KIDS),
        zeropoint=0.0,
    ),
    Layout(
        "des",
        "DES coadd",
        _is_des,
        hdus={"ivar": ("WGT",), "weight": ()},
        bits=_one_table(DES),
    ),
    Layout("jwst", "JWST image", _is_jwst, companions=DRIZZLED_FILES),
    Layout("hst", "HST drizzled image", _is_hst, companions=DRIZZLED_FILES),
    Layout("lsst", "LSST or HSC exposure", _is_lsst, bits=_one_table(LSST_PLANES)),
    Layout("plain", "image", lambda facts: True, companions=BESIDE),
)
