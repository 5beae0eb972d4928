"""Zero points under non-standard keywords: use them, and note where they are ambiguous."""

from __future__ import annotations

import math
import re

from hybridfit.io.image_header import RATES, ImageHeader
from hybridfit.io.standard_zeropoints import BELIEVED, Found, is_believed

# for the image as stored, the more specific names first
ZEROPOINT_KEYS = (
    *("ABZP", "ZPAB", "ZP_AB", "MZP_AB", "ABMAGZP", "ABMAG_ZP", "MAGZP_AB", "AB_ZP"),
    *("MAGZERO", "MAGZPT", "MAGZP", "ZEROPT", "MAGZEROP", "MAG_ZERO", "MAGZERPT", "MAG_ZP"),
    *("MAG0", "ZEROPOIN", "ZEROPNT", "ZPTMAG", "PHOTZP", "PHOT_ZP", "PHOTZERO", "ZPOINT"),
    *("ZP", "ZPT", "ZPMAG", "MAGZPOIN", "IMAGEZPT", "ZEROPOINT", "PHOTZPT"),
)
SYSTEM_KEYS = ("MAGSYS", "PHOTSYS", "ZPSYS", "PHOTSYST", "MAGTYPE")
SURVEY_KEYS = ("TELESCOP", "INSTRUME", "SURVEY", "ORIGIN")
VEGA_SURVEYS = ("WISE", "NEOWISE", "2MASS", "VIRCAM", "WFCAM", "UKIDSS")
# in a keyword's comment
PER_SECOND = re.compile(
    r"/ ?s(ec|econd)?\b|\bper s(ec|econd)?\b|\bs(\^|\*\*)?-1\b|\b1 ?s(ec)?\b|\bcps\b"
)
FAINT = 15.0  # mag of the pixels' scatter, from which a zero point near 0 is credible: KiDS has 0
ALIKE = 0.005  # mag, within which two keywords agree


def believed_zeropoints(image: ImageHeader) -> list[tuple[str, float]]:
    """Return keyword and value of each credible zero point."""
    found = [(key, image.number(key)) for key in ZEROPOINT_KEYS if key in image.keywords]
    return [(key, value) for key, value in found if value is not None and _can_be(image, value)]


def refused_zeropoints(image: ImageHeader) -> tuple[str, ...]:
    """Return notes on the values that cannot be zero points: 'abc', 0, 999."""
    return tuple(
        f"{key} = {image.text(key)[:20] or 'nothing'} is not a zero point"
        for key in ZEROPOINT_KEYS
        if key in image.keywords and not _can_be(image, image.number(key))
    )[:2]


def _can_be(image: ImageHeader, value: float | None) -> bool:
    """Return whether a number can be the zero point; near 0 only if the pixels are that faint."""
    if value is None or is_believed(value):
        return value is not None
    scatter = image.scatter() if 0 <= value < BELIEVED[0] else None
    return scatter is not None and 0 < scatter < 10 ** (0.4 * (value - FAINT))


def named_zeropoint(image: ImageHeader) -> Found | None:
    """Return the zero point of the stored pixels from a non-standard keyword."""
    given = believed_zeropoints(image)
    if not given:
        return None
    key, value = given[0]
    others = [
        f"zero point {value:g} of {key} used, {other} = {number:g} ignored"
        for other, number in given[1:]
        if _differ(image, value, number)
    ]
    system = _system(image, key)
    foreign = (f"{key} is in the {system} system: mag is not AB",) if system else ()
    value, note = _of_pixels(image, key, value)
    if not is_believed(given[0][1]):
        note = (
            f"zero point {given[0][1]:g} of {key} accepted because the pixels are that faint",
            *note,
        )
    origin = f"{key} ({system})" if system else key
    return Found(value, origin, (*note, *foreign, *others[:1]))


def disagreements(image: ImageHeader, value: float) -> tuple[str, ...]:
    """Return notes on non-standard keywords that disagree with a zero point."""
    return tuple(
        f"{key} = {other:g} disagrees"
        for key, other in believed_zeropoints(image)
        if _differ(image, value, other)
    )[:1]


def _differ(image: ImageHeader, value: float, other: float) -> bool:
    """Return whether zero points differ, also if one is per second and the other is not."""
    term = 0.0 if image.exposure is None else abs(2.5 * math.log10(image.exposure))
    return min(abs(value - other), abs(abs(value - other) - term)) > ALIKE


def _of_pixels(image: ImageHeader, key: str, value: float) -> tuple[float, tuple[str, ...]]:
    """Return the zero point of the pixels, with a note where it may be per second."""
    seconds = image.exposure
    if image.unit.kind in RATES or seconds is None or abs(seconds - 1) < 1e-6:
        return value, ()
    term = 2.5 * math.log10(seconds)
    if PER_SECOND.search(_comment(image, key)) or _is_of_casu(image, key):
        note = f"zero point {value:g} of {key} is per second: {term:+.3f} for EXPTIME {seconds:g}"
        return value + term, (note,)
    note = (
        f"zero point {value:g} of {key} applied to the stored pixels; if it is per second, "
        f"add {term:.3f} (EXPTIME {seconds:g})"
    )
    return value, (note,)


def _is_of_casu(image: ImageHeader, key: str) -> bool:
    """Return whether the Cambridge pipeline (VISTA, UKIRT) wrote it: zero points per second."""
    camera = image.text("INSTRUME").upper()
    return key == "MAGZPT" and (camera in ("VIRCAM", "WFCAM") or "NIGHTZPT" in image.header)


def _system(image: ImageHeader, key: str) -> str:
    """Return "Vega" or "ST" from the header or the survey, else ""."""
    named = [image.text(name).upper() for name in SYSTEM_KEYS]
    comment = _comment(image, key)
    if "vega" in comment or any(text.startswith("VEGA") for text in named):
        return "Vega"
    if re.search(r"\bst ?mag", comment) or {"ST", "STMAG"} & set(named):
        return "ST"
    is_ab = re.search(r"\bab\b", comment) or any(text.startswith("AB") for text in named)
    surveys = {image.text(name).upper() for name in SURVEY_KEYS}
    return "Vega" if surveys & set(VEGA_SURVEYS) and not is_ab else ""


def _comment(image: ImageHeader, key: str) -> str:
    try:
        return str(image.header.comments[key]).lower()
    except (KeyError, ValueError):
        return ""
