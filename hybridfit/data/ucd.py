"""Unified content descriptors (UCD1+) of the columns, which tell VO tools their contents.

Limits of an interval are the minimum and maximum of a quantity, as in the Gaia archive.

References:
    Preite Martinez et al. (2018), The UCD1+ controlled vocabulary, IVOA Recommendation 1.3.
"""

from __future__ import annotations

PARAMETERS = {
    "x": "pos.cartesian.x",
    "y": "pos.cartesian.y",
    "mag": "phot.mag",
    "r_eff": "phys.angSize.smajAxis",
    "r_eff_arcsec": "phys.angSize.smajAxis",
    "n": "src.morph.param",
    "q": "phys.size.axisRatio",
    "pa": "pos.posAng",
    "pa_sky": "pos.posAng",
    "sky": "instr.skyLevel",
    "sky_dx": "instr.skyLevel;arith.diff",
    "sky_dy": "instr.skyLevel;arith.diff",
    "flux": "phot.flux",
    "bulge_to_total": "phot.flux;arith.ratio",
}
OTHER = "src.morph.param"  # for parameters of user-defined profiles
ENDS = {
    "": "{}",
    "_err": "stat.error;{}",
    "_epistemic": "stat.error.sys;{}",
    "_p025": "{};stat.min",
    "_p16": "{};stat.min",
    "_p50": "{};stat.median",
    "_p84": "{};stat.max",
    "_p975": "{};stat.max",
}


def ucd_of(name: str, end: str = "") -> str:
    """Return the descriptor of a parameter's column.

    Args:
        name: name of the parameter, without its component.
        end: suffix of the column's name: "" for the value, or "_err", "_p16" and so on.
    """
    return ENDS[end].format(PARAMETERS.get(name, OTHER))
