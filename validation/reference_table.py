"""Compare published results of other tools on real galaxies with ours on the same files.

Part of `accuracy_galfit.py`, on single-Sersic rows of ../shared/data/real/reference.csv (GALFIT 2,
3 and M, GALFITS, imfit, pysersic, statmorph, run by others). Their set-ups differ from ours (their
own sigma and masks, part of the frame, several bands at once, no PSF), so this shows how far
results of several tools on one galaxy differ, and whether ours has the lower chi2 on our pixels.
"""

from __future__ import annotations

import csv
import math
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import hybridfit as hf
from hybridfit.rendering.convolution import CONTINUOUS
from validation.common import NAMES
from validation.galfit_real import chi2_here, names_of
from validation.real_galaxies import read_cases, write_manifest

Array = NDArray[np.float64]
COLUMNS = ("x", "y", "mag", "re_pix", "n", "q", "pa_deg")  # of the table, for NAMES
ERRORS = ("x_err", "y_err", "mag_err", "re_err", "n_err", "q_err", "pa_err")
SHAPE = (3, 4, 5, 6)  # r_eff, n, q, pa; magnitudes have different zero points


def references(data: Path) -> dict[str, dict[str, str]]:
    """Return the rows of reference.csv with the fit of one Sersic profile, by id."""
    with (data / "reference.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["target"] == "1"]
    return {
        row["id"]: row
        for row in rows
        if row["n_components"] == "1"
        and all(row[name] for name in ("re_pix", "n", "q"))
        and row["class"] != "galfit_rendering"  # rendered from the parameters, not fitted
    }


def result_of(row: Mapping[str, str]) -> tuple[Array, Array]:
    """Return values and errors (7,) in the project's conventions, NaN where they are missing."""
    values, errors = (
        np.array([float(row[name]) if row[name] else math.nan for name in names])
        for names in (COLUMNS, ERRORS)
    )
    values[:2] -= 1  # the table counts from 1
    return values, errors


def difference(theirs: Array, ours: Array) -> dict[str, float]:
    """Return ours minus theirs: sizes and indices in ln, axis ratio, angle within 90 deg."""
    turn = (ours[6] - theirs[6] + 90) % 180 - 90
    logs = [math.log(ours[k] / theirs[k]) for k in (3, 4)]
    found = dict(
        zip(("ln r_eff", "ln n", "q", "pa"), (*logs, ours[5] - theirs[5], turn), strict=True)
    )
    return {name: round(float(value), 4) for name, value in found.items()}


def read(rows: Sequence[Mapping[str, Any]], with_psf: bool) -> list[hf.Cutouts]:
    """Read the galaxies of manifest rows one by one, as each has its own shape."""
    found = []
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # old headers
        for row in rows:
            manifest = write_manifest(Path(folder) / "one.csv", [row])
            found.append(hf.read(manifest, no_psf=not with_psf))
    return found


def run(data: Path) -> list[dict[str, Any]]:
    """Fit all galaxies, compare and print them."""
    known = references(data)
    cases = [case for case in read_cases(data) if case["id"] in known]
    rows = []
    for with_psf in (True, False):
        part = [case for case in cases if bool(case["psf"]) == with_psf]
        for case, cutouts in zip(part, read(part, with_psf), strict=True):
            rows.append(compare(known[case["id"]], cutouts))
            print_row(rows[-1])
    return rows


def compare(row: Mapping[str, str], cutouts: hf.Cutouts) -> dict[str, Any]:
    """Compare our fit of one galaxy with a tool's result; values it lacks are taken from ours."""
    fit = hf.fit_cutouts(cutouts, hf.FitOptions(compile="off"))
    ours = fit.theta[0, :7].numpy().copy()
    ours[:2] += cutouts.origin[0].numpy()
    theirs, errors = result_of(row)
    missing = ~np.isfinite(theirs)
    filled = np.where(missing, ours, theirs)
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = np.abs((ours - filled) / errors)[list(SHAPE[:3])]
    lowest = chi2_here(cutouts, ours[None], CONTINUOUS)
    return {
        "id": row["id"],
        "tool": row["tool"],
        "use": row["recommended_use"].split(" ")[0].strip("("),
        "difference": difference(filled, ours),
        "in their errors": round(float(np.nanmax(ratio)), 2) if np.isfinite(ratio).any() else None,
        "missing": [name for name, gone in zip(NAMES, missing, strict=True) if gone],
        "chi2": lowest,
        "theirs above ours %": 100 * (chi2_here(cutouts, filled[None], CONTINUOUS) / lowest - 1),
        "flags": names_of(int(fit.flags[0]) | int(cutouts.flags[0])),
    }


def print_row(row: Mapping[str, Any]) -> None:
    values = "".join(f"{value:9.3f}" for value in row["difference"].values())
    apart = "" if row["in their errors"] is None else f"{row['in their errors']:.1f} errors"
    print(
        f"{row['id']:22}{row['tool'][:20]:22}{values}  {apart:14} chi2 theirs "
        f"{row['theirs above ours %']:+8.2f} %  {row['use']}; {' '.join(row['flags'])}",
        flush=True,
    )
