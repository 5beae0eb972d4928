"""GALFIT's conventions: the only code that counts pixels from 1.

Peng et al. 2010, AJ 139, 2097; keywords as GALFIT 3.0.5 writes them into its image blocks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from astropy.io import fits

from hybridfit.results import Flag

NAMES = {"x": "XC", "y": "YC", "mag": "MAG", "r_eff": "RE", "n": "N", "q": "AR", "pa": "PA"}
COMMENTS = {
    "XC": "X center [pixel]",
    "YC": "Y center [pixel]",
    "MAG": "Integrated magnitude [mag]",
    "RE": "Effective radius Re [pixels]",
    "N": "Sersic index",
    "AR": "Axis ratio (b/a)",
    "PA": "Position Angle [deg: Up=0, Left=90]",
    "SKY": "Sky background [flux/pix]",
    "DSDX": "x sky gradient",
    "DSDY": "y sky gradient",
}


def model_header(
    components: Sequence[Mapping[str, tuple[float, float]]],
    sky: Mapping[str, tuple[float, float]],
    origin: tuple[int, int],
    size: tuple[int, int],
    zeropoint: float,
    chi2: float,
    dof: int,
    n_free: int,
    flags: int,
) -> fits.Header:
    """Return the header that GALFIT gives the model HDU of an image block.

    Args:
        components: for each one name -> (value, error), x and y counted from 0 in the image.
        sky: name -> (value, error), of ``sky``, ``sky_dx``, ``sky_dy`` as far as they are there;
            without an error (NaN) it was held.
        origin: x and y of the stamp's first pixel in the image, counted from 0.
        size: height and width of the stamp.
        zeropoint: magnitudes.
        chi2, dof, n_free: of the fit.
        flags: bits of `hybridfit.Flag`; GALFIT's stars stand around values of a fit that did
            not converge or lies at a limit.
    """
    header = fits.Header()
    doubtful = bool(flags & (Flag.NOT_CONVERGED | Flag.AT_LIMIT))
    (x0, y0), (height, width) = origin, size
    header["OBJECT"] = ("model", "Component type")
    header["FITSECT"] = (
        f"[{x0 + 1}:{x0 + width},{y0 + 1}:{y0 + height}]",
        "Image section fitted",
    )
    header["MAGZPT"] = (_finite(zeropoint), "Magnitude zeropoint")
    for k, values in enumerate(components, start=1):
        header[f"COMP_{k}"] = ("sersic" if "n" in values else "other", "Component type")
        for name, (value, error) in values.items():
            key = NAMES.get(name, name.upper()[:6])
            value = value + 1 if name in ("x", "y") else value
            if name == "pa" and value > 90:
                value -= 180
            text = _pair(value, error, ".4f", doubtful)
            header[f"{k}_{key}"] = (text, COMMENTS.get(key, ""))
    k = len(components) + 1
    header[f"COMP_{k}"] = ("sky", "Component type")
    middle = {"XC": x0 + (width + 1) / 2, "YC": y0 + (height + 1) / 2}
    for key, value in middle.items():
        header[f"{k}_{key}"] = (f"[{value:.4f}]", COMMENTS[key])
    for key, name in (("SKY", "sky"), ("DSDX", "sky_dx"), ("DSDY", "sky_dy")):
        value, error = sky.get(name, (0.0, math.nan))
        text = _pair(value, error, ".4e", False) if error > 0 else f"[{value:.4e}]"
        header[f"{k}_{key}"] = (text, COMMENTS[key])
    header["FLAGS"] = (" ".join(f.name or "" for f in Flag if flags & f), "of hybridfit")
    header["CHISQ"] = (_finite(chi2), "Chi^2 of fit")
    header["NDOF"] = (int(dof), "Degrees of freedom")
    header["NFREE"] = (int(n_free), "Number of free parameters")
    header["CHI2NU"] = (_finite(chi2 / dof if dof > 0 else math.nan), "Reduced Chi^2")
    return header


def _pair(value: float, error: float, format: str, doubtful: bool) -> str:
    texts = [f"{number:{format}}" for number in (value, error)]
    return " +/- ".join(f"*{text}*" if doubtful else text for text in texts)


def _finite(value: float) -> Any:
    """A FITS header has no NaN: such a value stays undefined."""
    return float(value) if math.isfinite(value) else None
