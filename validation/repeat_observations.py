"""Compare five galaxies observed by two surveys, in units of the quoted errors.

KiDS (0.2 arcsec, deep) and SDSS (0.339 arcsec) have different pixels, PSFs, depths and noise, so
that the difference shows what the errors leave out. The KiDS PSF files are unphysical and are
replaced by round Moffat profiles; masks hide the other segments. GALFIT fitted the same files.
Magnitudes are as calibrated by the surveys and include the difference of their filters.
"""

from __future__ import annotations

import csv
import math
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray

from validation.real_galaxies import DATA, fit_cases, read_cases

Array = NDArray[np.float64]

GALAXIES = (265911, 266033, 266662, 267489, 278109)
SURVEYS = {"kids": 0.2, "sdss": 0.339}  # arcsec a pixel
COMPARED = ("mag", "ln r_eff", "ln n", "q")
GALFIT = {"mag": "mag", "ln r_eff": "re_pix", "ln n": "n", "q": "q"}


def repeat_differences(uncertainty: str, data: Path = DATA) -> dict[str, Any] | str:
    """Return differences between the surveys over the quoted errors, ours and GALFIT's."""
    if not data.is_dir():
        return f"the real cases are not there: {data}"
    with tempfile.TemporaryDirectory() as folder:
        table = fit_cases(
            data, Path(folder), ["--uncertainty", uncertainty], rows=manifest_rows(data)
        )
    report: dict[str, Any] = {}
    for kind, values in {"ours": our_values(table), "GALFIT": galfit_values(data)}.items():
        difference = values[:, 0, :, 0] - values[:, 1, :, 0]  # (galaxies, parameters)
        over = difference / np.sqrt((values[:, :, :, 1] ** 2).sum(axis=1))
        report[kind] = {name: scatter(over[:, j]) for j, name in enumerate(COMPARED)}
        report[f"{kind}, KiDS minus SDSS"] = {
            name: difference[:, j].round(4).tolist() for j, name in enumerate(COMPARED)
        }
        report[f"{kind}, errors of KiDS and SDSS"] = {
            name: values[:, :, j, 1].round(4).tolist() for j, name in enumerate(COMPARED)
        }
    if "quality" in table.colnames:
        report["quality"] = {str(r["id"]): str(r["quality"]) for r in table}
    return report


def manifest_rows(data: Path) -> list[dict[str, Any]]:
    """Return the cases with the masks and PSFs that GALFIT used."""
    wanted = {f"gama{n}_{survey}" for n in GALAXIES for survey in SURVEYS}
    rows = [row for row in read_cases(data) if row["id"] in wanted]
    for row in rows:
        inputs = data / "galfit3" / row["id"] / "inputs"
        (mask,) = inputs.glob("mask.fits*")  # some are gzipped
        row["mask"], row["segmap"] = str(mask.resolve()), ""
        if row["id"].endswith("kids"):
            row["psf"] = str((inputs / "psf_moffat.fits").resolve())
    return rows


def our_values(table: Table) -> Array:
    """Return (galaxies, surveys, parameters, value and error) of a table of fits."""
    rows = {str(row["id"]): row for row in table}
    out = np.full((len(GALAXIES), len(SURVEYS), len(COMPARED), 2), np.nan)
    for i, number in enumerate(GALAXIES):
        for s, (survey, scale) in enumerate(SURVEYS.items()):
            row = rows[f"gama{number}_{survey}"]
            for j, name in enumerate(COMPARED):
                column = name.removeprefix("ln ")
                value, error = float(row[column]), float(row[f"{column}_err"])
                out[i, s, j] = _scaled(name, value, error, scale)
    return out


def galfit_values(data: Path) -> Array:
    """Return the same of GALFIT's saved fits of one Sersic profile."""
    with (data / "galfit3" / "galfit3.csv").open(newline="") as file:
        rows = {(row["id"], row["mode"]): row for row in csv.DictReader(file)}
    out = np.full((len(GALAXIES), len(SURVEYS), len(COMPARED), 2), np.nan)
    for i, number in enumerate(GALAXIES):
        for s, (survey, scale) in enumerate(SURVEYS.items()):
            mode = "single_moffatpsf" if survey == "kids" else "single"
            row = rows[f"gama{number}_{survey}", mode]
            for j, name in enumerate(COMPARED):
                value, error = (float(row[GALFIT[name] + end]) for end in ("", "_err"))
                out[i, s, j] = _scaled(name, value, error, scale)
    return out


def _scaled(name: str, value: float, error: float, scale: float) -> tuple[float, float]:
    """Return value and error as they are compared: logarithms, sizes in arcsec."""
    if not name.startswith("ln "):
        return value, error
    return math.log(value * (scale if name == "ln r_eff" else 1.0)), error / value


def scatter(over: Array) -> dict[str, Any]:
    """Return rms, standard deviation and robust deviation of differences over their errors."""
    return {
        "rms": round(float(np.sqrt(np.mean(over**2))), 2),
        "std": round(float(np.std(over, ddof=1)), 2),
        "1.48 MAD": round(float(1.4826 * np.median(np.abs(over - np.median(over)))), 2),
        "median |.|": round(float(np.median(np.abs(over))), 2),
        "each": over.round(1).tolist(),
    }
