"""The header of an image block's model as GALFIT 3.0.5 writes it, for scripts that read it.

Values have four decimals, as GALFIT's do, or more if the error needs them to show two digits:
a script that splits at " +/- " reads any number of decimals, and bright galaxies have magnitudes
to 1e-5. A sky below 0.01 is written with an exponent.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from astropy.io import fits

from hybridfit.io.galfit import shapes
from hybridfit.io.galfit.block import OWN_KEYS, ROTATION
from hybridfit.io.galfit.conventions import bounds_of, raw_values, signed
from hybridfit.io.galfit.entries import Component, Outcome, Value

DECIMALS, MOST = 4, 10
SMALL_SKY = 0.01
RULE = "-" * 72
COMMENTS = {
    "XC": "X center [pixel]",
    "YC": "Y center [pixel]",
    "MAG": "Integrated magnitude [mag]",
    "MU": "Central surface brightness [mag/arcsec^2]",
    "RE": "Effective radius Re [pixels]",
    "RS": "Scalelength Rs [pixels]",
    "FWHM": "FWHM [pixels]",
    "N": "Sersic index",
    "AR": "Axis ratio (b/a)",
    "PA": "Position Angle (PA) [degrees: Up=0, Left=90]",
    "SKY": "Sky background [ADUs]",
    "DSDX": "x sky gradient [ADUs]",
    "DSDY": "y sky gradient [ADUs]",
}
ROWS = {"x": "XC", "y": "YC", "3": "MAG", "4": "RE", "5": "N", "9": "AR", "10": "PA"}
ROOM = 65  # characters available in a card for a text and its comment
OTHERS = {"r_eff": "RE", "q": "AR", "pa": "PA"}  # profiles that GALFIT does not have
SIZES = {"expdisk": "RS", "gaussian": "FWHM", "moffat": "FWHM"}
SKY_ROWS = {"1": "SKY", "2": "DSDX", "3": "DSDY"}


def model_header(
    outcome: Outcome,
    convolution_box: tuple[int, int] = (0, 0),
    constraints: str = "",
    kernel: str = "",
) -> fits.Header:
    """Return the header of an image block's model HDU, as GALFIT writes it.

    ``[v]`` is fixed, ``{v} +/- e`` coupled, ``*v* +/- *e*`` suspect. Results are in GALFIT's
    terms: pixels from 1, scale lengths of discs, angles in (-90, 90].

    Args:
        outcome: must have a ``region``, and components without extras.
        convolution_box: x and y, pixels.
        constraints, kernel: file names, "" for none.

    Raises:
        ValueError: if the region is unknown, or a component has extras.
    """
    if outcome.region is None:
        raise ValueError("the outcome has no region, expected x0, x1, y0, y1")
    x0, x1, y0, y1 = bounds_of(outcome.region)
    header = fits.Header()
    header["OBJECT"] = ("model", "Component type")
    header.add_comment("========== GALFIT Input Parameters ==========")
    names = {
        "INITFILE": (outcome.feedme, "GALFIT input file"),
        "DATAIN": (outcome.image, "Input data image"),
        "SIGMA": (outcome.sigma, "Input sigma image"),
        "PSF": (f"{outcome.psf} {kernel}".strip(), "Convolution PSF and kernel"),
        "CONSTRNT": (constraints, "Parameter constraint file"),
        "MASK": (outcome.mask, "Input mask image"),
        "FITSECT": (f"[{x0}:{x1},{y0}:{y1}]", "Image section fitted"),
        "CONVBOX": ("{}, {}".format(*convolution_box), "Convolution box size"),
    }
    for key, (name, comment) in names.items():
        _put(header, key, _ascii(name) or "none", comment)
    _put(header, "MAGZPT", _finite(outcome.zeropoint), "Magnitude zeropoint")
    _put_results(header, outcome)
    return header


def _put_results(header: fits.Header, outcome: Outcome) -> None:
    """Append the components' parameters and the statistics of the fit."""
    region = outcome.region or (0, 0, 0, 0)
    header.add_comment("========== GALFIT Final Parameters ==========")
    for k, part in enumerate(outcome.components, start=1):
        _put(header, f"COMP_{k}", part.kind, "Component type")
        for key, text in _texts(part, region).items():
            _put(header, f"{k}_{key}", text, COMMENTS.get(key, ""))
        header.add_comment(RULE)
    _put(header, "FLAGS", " ".join(outcome.flags), "See `galfit -help' for details.")
    header.add_comment(RULE)
    fixed = sum(v.fixed for c in outcome.components for v in c.values.values())
    numbers = {
        "CHISQ": (_finite(outcome.chi2), "Chi^2 of fit"),
        "NDOF": (outcome.dof, "Degrees of freedom"),
        "NFREE": (outcome.n_free, "Number of free parameters"),
        "NFIX": (fixed, "Number of fixed parameters"),
        "CHI2NU": (_finite(outcome.chi2nu), "Reduced Chi^2"),
    }
    for key, (number, comment) in numbers.items():
        _put(header, key, number, comment)
    _put(header, "LOGFILE", _ascii(outcome.restart) or "none", "Output logfile")
    header.add_comment("=" * 45)


def _texts(part: Component, region: tuple[int, int, int, int]) -> dict[str, str]:
    """Return a component's values as text, by GALFIT's keywords."""
    raw = raw_values(part)
    if part.kind == "sky":
        x0, x1, y0, y1 = bounds_of(region)
        centre = {"XC": f"[{(x0 + x1) / 2:.4f}]", "YC": f"[{(y0 + y1) / 2:.4f}]"}
        return centre | {key: sky_text(raw[row], key != "SKY") for row, key in SKY_ROWS.items()}
    if part.extras:
        raise ValueError(
            f"a '{part.kind}' has terms {', '.join(part.extras)}, whose values were not kept"
        )
    own = {row: key for key, row in OWN_KEYS.get(part.kind, {}).items()}
    brightness = {"3": "MU"} if "mu" in part.values else {}
    keys = ROWS | {"4": SIZES.get(part.kind, "RE")} | own | OTHERS | brightness
    keys |= {row: key for key, row in ROTATION.items()}
    if "pa" in raw:
        raw["pa"] = replace(raw["pa"], value=signed(raw["pa"].value))
    rotation = shapes.rotation_of(part.values)
    kind = {"ROTF": rotation} if rotation else {}
    texts = {keys.get(row, row.upper()[:6]): value_text(value) for row, value in raw.items()}
    plain = {key: text for key, text in texts.items() if key not in ROTATION}
    return plain | kind | {key: text for key, text in texts.items() if key in ROTATION}


def value_text(value: Value) -> str:
    """Return ``v +/- e`` with marks; four decimals, more for errors below 0.001."""
    decimals = DECIMALS
    if 0 < value.error < math.inf:
        decimals = min(max(DECIMALS, 1 - math.floor(math.log10(value.error))), MOST)
    return _marked(value, f"{value.value:.{decimals}f}", f"{value.error:.{decimals}f}")


def sky_text(value: Value, exponent: bool = False) -> str:
    """Return the same for a sky; small values have an exponent, as fluxes can have any unit."""
    error = value.error if 0 < value.error < math.inf else 0.0
    if not (exponent or abs(value.value) < SMALL_SKY):
        return value_text(value)
    digits = 3
    if error and value.value:
        more = math.floor(math.log10(abs(value.value))) - math.floor(math.log10(error)) + 1
        digits = min(max(digits, more), MOST)
    return _marked(value, f"{value.value:.{digits}e}", f"{value.error:.3e}")


def _marked(value: Value, number: str, error: str) -> str:
    if value.fixed:
        return f"[{number}]"
    if value.coupled:
        return f"{{{number}}} +/- {{{error}}}"
    return f"*{number}* +/- *{error}*" if value.suspect else f"{number} +/- {error}"


def _put(header: fits.Header, key: str, value: Any, comment: str) -> None:
    """Set a card; as in GALFIT, the comment is cut to leave room for a long value."""
    room = ROOM - max(len(value), 8) if isinstance(value, str) else len(comment)
    header[key] = (value, comment[: max(room, 0)])


def _ascii(text: str) -> str:
    return text.encode("ascii", "replace").decode()


def _finite(value: float) -> Any:
    """Return None for NaN, which FITS headers cannot hold: the card is undefined."""
    return float(value) if math.isfinite(value) else None
