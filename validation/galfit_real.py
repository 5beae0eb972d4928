"""Are GALFIT 3.0.5's results on real galaxies reproduced from its own input files?

Part of `accuracy_galfit.py`. Every run saved in ../shared/data/real/galfit3 is repeated from its
input file as `hybridfit fit --galfit` does, once with continuous convolution and once with
GALFIT's. Compared are chi2 on the same pixels, parameters in units of GALFIT's errors, chi2 of
GALFIT's parameters in our renderer (flux and sky solved for; a negative difference means that our
fit missed the minimum), and our flags where GALFIT's run was poor or failed.

GALFIT multiplies its errors by sqrt(chi2 / dof), and prints nothing beyond the fourth digit.
"""

from __future__ import annotations

import csv
import math
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from astropy.table import Row, Table
from numpy.typing import NDArray

import hybridfit as hf
from hybridfit.io.galfit import read_feedme, read_feedme_cutout
from hybridfit.io.read import stack
from hybridfit.pipeline.config import galfit_config
from hybridfit.pipeline.galfit.run import fit_feedmes
from hybridfit.rendering.convolution import Convolution, convolution_of
from hybridfit.rendering.render import render
from validation.common import NAMES, ROOT
from validation.galfit_plots import draw_real

Array = NDArray[np.float64]
DATA = ROOT.parent / "shared" / "data" / "real"
COLUMNS = ("x", "y", "mag", "re_pix", "n", "q", "pa_deg")  # GALFIT's names for NAMES
CENTRE = 0.05  # pixels
PRINTED = 5e-5  # half of the last digit in GALFIT's block headers
ABOVE = 1e-3  # largest relative chi2 of a single-component fit above GALFIT's
FAR = 3.0  # GALFIT's errors
CONTINUOUS, GRID, GRID_ML = "continuous", "galfit", "galfit, no prior"
WAYS: dict[str, tuple[dict[str, Any], str]] = {
    CONTINUOUS: ({}, "posterior"),
    GRID: ({"convolution": "galfit"}, "covariance"),
    GRID_ML: ({"convolution": "galfit", "objective": "ml"}, "covariance"),
}


@dataclass(frozen=True)
class Case:
    """One saved GALFIT run: its input file, and what it found (x, y counted from 0).

    ``found`` and ``error`` are (K, 7) of the K Sersic-like components in the file's order.
    ``sigma_made`` says that GALFIT made the sigma image itself, by an unpublished algorithm.
    """

    id: str
    mode: str
    verdict: str
    feedme: Path
    found: Array
    error: Array
    chi2: float
    dof: int
    sigma_made: bool

    @property
    def cutouts(self) -> hf.Cutouts:
        """The pixels that the input file selects."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # old headers
            return stack([read_feedme_cutout(read_feedme(self.feedme), id=self.id)])


def read_cases(data: Path, mode: str = "", verdict: str = "") -> list[Case]:
    """Return the saved runs, or those of one mode or verdict."""
    runs: dict[tuple[str, str], list[dict[str, str]]] = {}
    with (data / "galfit3" / "galfit3.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            if row["mode"] == (mode or row["mode"]) and row["verdict"] == (
                verdict or row["verdict"]
            ):
                runs.setdefault((row["id"], row["mode"]), []).append(row)
    return [_case(data, rows) for rows in runs.values()]


def _case(data: Path, rows: Sequence[Mapping[str, str]]) -> Case:
    first = rows[0]
    found = np.array([[_number(row[name]) for name in COLUMNS] for row in rows])
    found[:, :2] -= 1  # GALFIT counts from 1
    error = np.array([[_number(row[f"{name}_err"]) for name in COLUMNS] for row in rows])
    return Case(
        first["id"],
        first["mode"],
        first["verdict"],
        data / "galfit3" / first["id"] / first["mode"] / "galfit.feedme",
        found,
        np.maximum(error, PRINTED),
        _number(first["chi2"]),
        int(_number(first["ndof"]) if first["ndof"] else 0),
        first["sigma"] == "made by GALFIT",
    )


def _number(text: str) -> float:
    return float(text) if text else math.nan


def fitted(cases: Sequence[Case], way: str, uncertainty: str = "") -> dict[Path, Row]:
    """Fit the runs, and return the rows of our table by input file."""
    changes, usual = WAYS[way]
    run = hf.RunOptions(uncertainty=uncertainty or usual)
    fit = replace(galfit_config().fit, compile="off", **{"convolution": CONTINUOUS, **changes})
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        summary = fit_feedmes(
            [case.feedme for case in cases],
            folder,
            fit=fit,
            run=run,
        )
        table = Table.read(summary.results, mask_invalid=False)
    return {Path(str(row["feedme"])): row for row in table}


def values_of(row: Row, count: int) -> Array:
    """Return our values (count, 7) of a row, whose columns may name components."""
    named = "comp1_mag" in row.colnames
    heads = [f"comp{k + 1}_" if named else "" for k in range(count)]
    return np.array([[float(row[head + name]) for name in NAMES] for head in heads])


def compare(case: Case, row: Row, way: str) -> dict[str, Any]:
    """Compare one of our fits with GALFIT's."""
    ours = values_of(row, len(case.found))
    off = ours - case.found
    off[:, 6] = (off[:, 6] + 90) % 180 - 90
    ratio = off / case.error
    chi2 = float(row["chi2"])
    convolution = convolution_of(WAYS[way][0].get("convolution", CONTINUOUS))
    cutouts = case.cutouts
    above = chi2_here(cutouts, case.found, convolution) - chi2_here(cutouts, ours, convolution)
    # where GALFIT made its own sigma, chi2 compares on ours alone
    theirs = chi2 + above if case.sigma_made else case.chi2
    close = bool((abs(ratio[:, 2:]) <= 1).all() and (abs(off[:, :2]) <= CENTRE).all())
    return {
        "id": case.id,
        "mode": case.mode,
        "verdict": case.verdict,
        "components": len(case.found),
        "offsets_in_errors": [
            dict(zip(NAMES, part, strict=True)) for part in ratio.round(3).tolist()
        ],
        "apart": float(np.abs(ratio[:, 2:]).max()),
        # without the factor of sqrt(chi2 / dof) that GALFIT has put on its errors
        "apart_unscaled": float(np.abs(ratio[:, 2:]).max())
        * math.sqrt(case.chi2 / max(case.dof, 1)),
        "centre": float(np.abs(off[:, :2]).max()),
        "chi2": chi2,
        "chi2_galfit": theirs,
        "sigma_made": case.sigma_made,
        "beyond_prior": beyond_prior(case.found),
        "dof_less_galfit": int(row["dof"]) - case.dof,
        "above_minimum": above,
        "close": close,
        "reproduced": close or chi2 < theirs,
        "passes": chi2 <= (1 + ABOVE) * theirs,
        "flags": names_of(int(row["flags"])),
        "quality": str(row["quality"]),
        "message": str(row["notes"]),
        "fixed": str(row["fixed"]),
    }


def beyond_prior(values: Array) -> bool:
    """Return whether any of the values (K, 7) lies beyond our prior's limits of size, index, q."""
    prior = galfit_config().fit.prior
    size, index, ratio = values[:, 3] * np.sqrt(values[:, 5]), values[:, 4], values[:, 5]
    inside = (size > prior.r_circ.low) & (size < prior.r_circ.high) & (ratio > prior.q_min)
    return not bool((inside & (index > prior.n.low) & (index < prior.n.high)).all())


def names_of(flags: int) -> list[str]:
    return [str(flag.name) for flag in hf.Flag if flags & flag]


def chi2_here(cutouts: hf.Cutouts, values: Array, convolution: Convolution) -> float:
    """Return chi2 of parameters (K, 7) in our renderer; fluxes and a constant sky solved for.

    GALFIT prints flux to 1e-4 mag, which alone would cost a bright galaxy some chi2. NaN without
    parameters.
    """
    if not np.isfinite(values).all():
        return math.nan
    theta = torch.from_numpy(np.concatenate([values, np.zeros((len(values), 1))], axis=1))
    theta[:, :2] -= cutouts.origin
    models = [
        render(one[None], cutouts, dtype=torch.float64, convolution=convolution)[0].numpy()
        for one in theta
    ]
    used = ~cutouts.mask[0].numpy()
    image, sigma = (v[0].double().numpy()[used] for v in (cutouts.image, cutouts.sigma))
    columns = [model[used] / np.abs(model).max() / sigma for model in models]
    design = np.stack([*columns, 1 / sigma], axis=1)
    solution, *_ = np.linalg.lstsq(design, image / sigma, rcond=None)
    return float((((image / sigma) - design @ solution) ** 2).sum())


def cause(ways: Mapping[str, Mapping[str, Any]]) -> str:
    """Explain why a run lies more than FAR of GALFIT's errors away; "" where it does not.

    Args:
        ways: our fits of it by way: with GALFIT's convolution, and then without the prior too.
    """
    if ways[CONTINUOUS]["apart"] <= FAR:
        return ""
    if ways[GRID]["apart"] <= FAR:
        return "convolution on the image's grid"
    if GRID_ML not in ways:
        return "not looked for"
    last = ways[GRID_ML]
    if last["apart"] <= FAR:
        return "the prior"
    if last["sigma_made"]:
        return "the sigma that GALFIT made itself"
    if last["dof_less_galfit"]:
        return "other pixels"
    if last["beyond_prior"]:
        return "GALFIT's values lie beyond the limits of the prior"
    gain = last["chi2_galfit"] - last["chi2"]
    if not math.isfinite(last["apart"]):
        return "a component of negative flux here"
    if gain > 1:
        return "a lower minimum here"
    if gain < -1:
        return "a lower minimum there"
    return "two parameter sets of one chi2"


def run(out: Path, only: Sequence[str] = (), data: Path = DATA) -> dict[str, Any]:
    """Fit, print and draw; return the figures."""
    cases = [case for case in read_cases(data) if not only or case.id in only]
    rows: dict[str, list[dict[str, Any]]] = {}
    for way in (CONTINUOUS, GRID):
        rows[way] = compared(cases, way)
    # without the prior only where the convolution does not explain the difference
    far = [r["id"] + r["mode"] for way in rows for r in rows[way] if not r["apart"] <= FAR]
    rows[GRID_ML] = compared([c for c in cases if far.count(c.id + c.mode) == 2], GRID_ML)
    return drawn_up(rows, out)


def compared(cases: Sequence[Case], way: str) -> list[dict[str, Any]]:
    """Fit and print runs in one way."""
    found = fitted(cases, way) if cases else {}
    rows = [compare(case, found[case.feedme], way) for case in cases]
    print_rows(way, rows)
    return rows


def drawn_up(rows: dict[str, list[dict[str, Any]]], out: Path) -> dict[str, Any]:
    """Print and draw the figures of runs by way, and return them."""
    by_run: dict[str, dict[str, dict[str, Any]]] = {}
    for way, part in rows.items():
        for row in part:
            by_run.setdefault(f"{row['id']} {row['mode']}", {})[way] = row
    causes = {name: text for name, ways in by_run.items() if (text := cause(ways))}
    for name, text in causes.items():
        report = [f"{way} {r['apart']:.1f}" for way, r in by_run[name].items()]
        causes[name] = f"{text} ({', '.join(report)})"
    figures = {
        "summary": {way: summary(rows[way]) for way in (CONTINUOUS, GRID)},
        "flags": flags_by_verdict(rows[CONTINUOUS]),
        "more than 3 errors apart": causes,
        "rows": rows,
    }
    for key in ("summary", "flags", "more than 3 errors apart"):
        print(key)
        for name, value in figures[key].items():
            print(f"    {name}: {value}")
    draw_real({f"convolution {w}": rows[w] for w in (CONTINUOUS, GRID)}, out / "accuracy_real.png")
    return figures


def summary(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Count reproduced runs, by components and verdict."""
    report: dict[str, Any] = {}
    for count in (1, 2):
        part = [r for r in rows if r["components"] == count]
        for verdict in ("good", "poor", "failed"):
            of = [r for r in part if r["verdict"] == verdict]
            known = [r for r in of if math.isfinite(r["chi2_galfit"])]
            report[f"{'single' if count == 1 else 'two'}, {verdict}"] = {
                "runs": len(of),
                "chi2 at most .1 % above": sum(r["passes"] for r in known),
                "chi2 lower": sum(r["chi2"] < r["chi2_galfit"] for r in known),
                "within 1 error": sum(r["close"] for r in of),
                "that or a lower chi2": sum(r["reproduced"] for r in of),
                "within 3 errors": sum(r["apart"] <= FAR for r in of),
                "no fit": sum(not math.isfinite(r["chi2"]) for r in of),
            }
    return report


def flags_by_verdict(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Count our flags of single-component runs, by the verdict on GALFIT's."""
    report: dict[str, Any] = {}
    for verdict in ("good", "poor", "failed"):
        of = [r for r in rows if r["components"] == 1 and r["verdict"] == verdict]
        counts: dict[str, int] = {}
        for row in of:
            for flag in row["flags"]:
                counts[flag] = counts.get(flag, 0) + 1
        grades = [row["quality"] for row in of]
        report[verdict] = {
            "runs": len(of),
            "quality": {name: grades.count(name) for name in sorted(set(grades))},
            "flags": counts,
        }
    return report


def print_rows(way: str, rows: Sequence[Mapping[str, Any]]) -> None:
    print(f"\nconvolution {way}: (ours - GALFIT) / GALFIT's error, of each component")
    columns = "".join(f"{name:>8}" for name in NAMES[2:])
    print(f"{'':42}{columns}{'centre':>8}{'chi2 GALFIT':>13}{'ours %':>9}{'its here - ours':>17}")
    for row in rows:
        name = f"{row['id']} {row['mode']} ({row['verdict']})"
        higher = 100 * (row["chi2"] / row["chi2_galfit"] - 1)
        for k, part in enumerate(row["offsets_in_errors"]):
            line = f"{name if k == 0 else '':50}" + "".join(f"{part[n]:8.2f}" for n in NAMES[2:])
            if k == 0:
                verdict = "close" if row["close"] else "" if row["passes"] else "ABOVE"
                line += (
                    f"{row['centre']:8.3f}{row['chi2_galfit']:13.2f}{higher:9.3f}"
                    f"{row['above_minimum']:17.2f} {verdict} {' '.join(row['flags'])}"
                )
            print(line, flush=True)
