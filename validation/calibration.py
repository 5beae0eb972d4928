"""Are the errors right, both where all assumptions hold and where one is wrong?

    OMP_NUM_THREADS=1 python -m validation.calibration --cache FOLDER [--n 1000] [--out FOLDER]
        [--scenario clean sky ...] [--uncertainty posterior covariance sky-fixed]

GalSim galaxies drawn from a stated prior, in the scenarios of `calibration_sets.py`, are measured
by `hybridfit.fit` with every way to errors. Coverage, pulls and ranks are those of
`hybridfit.calibration.coverage`, by parameter for S/N of at least 10, and by S/N, size and index;
TARP tests all parameters together. "sky-fixed" is the covariance of a fit that assumes a sky of
zero, "budget-free" the posterior with the pixels' noise alone. GALFIT's intervals on main.npz of
the simulated sets are compared with ours on the same galaxies.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hybridfit.calibration.coverage import Calibration, CalibrationOptions, calibrate
from hybridfit.calibration.sbc_samples import SbcSamples
from hybridfit.calibration.tarp import MissingLibrary, tarp
from hybridfit.fitting.options import FitOptions
from validation.calibration_sets import (
    NOISE_FACTOR,
    SCENARIOS,
    observe,
    population_weights,
    prior_of,
    truths,
)
from validation.common import (
    NAMES,
    RESULTS,
    SIMS,
    environment,
    interval_coverage,
    is_catastrophic,
    load_galfit,
    load_sims,
    write_result,
)
from validation.measured_draws import Measured, joined, measured

Array = NDArray[np.float64]

METHODS = ("posterior", "budget-free", "bootstrap", "covariance", "sky-fixed")
SKY_SCENARIOS = ("clean", "sky", "gradient")  # in which a fixed sky is of interest
COMMIT = environment()["commit"]  # at the start, as a run takes long and the checkout may change
BRIGHT = 10.0  # S/N from which on errors must be right
OPTIONS = CalibrationOptions(snr_edges=(3.0, 10.0, 30.0, 100.0, 300.0, np.inf))
REQUIRED = {  # limits of the 68 and 95 % intervals' coverage of every parameter
    "clean": ((0.66, 0.70), (0.94, 0.96)),
    **dict.fromkeys(("sky", "psf", "drizzle"), ((0.60, 0.76), None)),
}
ESS, KHAT, CERTAIN = 0.3, 0.7, 0.99  # median of ess over draws; k below, in a share of galaxies


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cache", type=Path, required=True, help="folder of the galaxies")
    parser.add_argument("--n", type=int, default=1000, help="galaxies of each scenario")
    parser.add_argument("--n-clean", type=int, help="of the scenario clean; default as the others")
    parser.add_argument("--scenario", nargs="+", default=SCENARIOS, choices=SCENARIOS)
    parser.add_argument(
        "--uncertainty", nargs="+", default=("posterior", "covariance", "sky-fixed"),
        choices=METHODS,
    )  # fmt: skip
    parser.add_argument("--out", type=Path, help="for pictures")
    parser.add_argument("--name", default="calibration", help="of the file in results/")
    parser.add_argument(
        "--add", action="store_true", help="keep the file's other scenarios and ways"
    )
    parser.add_argument("--compile", default="off", choices=("auto", "on", "off"))
    return parser.parse_args()


def main() -> None:
    given = parsed()
    torch.set_num_threads(1)
    result: dict[str, Any] = {"noise factor of drizzle": NOISE_FACTOR}
    earlier = RESULTS / f"{given.name}.json"
    if given.add and earlier.exists():
        result |= json.loads(earlier.read_text())["figures"]
    for scenario in given.scenario:
        n = given.n_clean if scenario == "clean" and given.n_clean else given.n
        seen: dict[str, Calibration] = {}
        for method in given.uncertainty:
            if method == "sky-fixed" and scenario not in SKY_SCENARIOS:
                continue
            found, seen[method] = measure(given.cache, n, scenario, method, given.compile)
            result.setdefault(scenario, {})[method] = found
            write_result(given.name, result)  # now, so that an interrupted run loses nothing
            show(f"{scenario}, {method}", found)
        if given.out:
            draw(seen, scenario, given.out)
    if SIMS.is_dir():
        result["main.npz"] = result.get("main.npz", {}) | against_galfit(given.uncertainty)
        for name, rows in result["main.npz"].items():
            print(f"main.npz, {name}: {rows}")
    print(write_result(given.name, result))


def measure(
    cache: Path, n: int, scenario: str, method: str, compile: str = "off"
) -> tuple[dict[str, Any], Calibration]:
    """Return the figures of one scenario and one way to errors, and the tables for pictures."""
    parts, theta, snr = [], [], []
    for truth in truths(cache, n):
        cutouts, expected = observe(truth, scenario)
        options = options_of(method, truth.side, compile)
        parts.append(measured(cutouts, uncertainty_of(method), options))
        theta.append(expected)
        snr.append(truth.snr)
    return figures(joined(parts), np.concatenate(theta), np.concatenate(snr), scenario)


def uncertainty_of(method: str) -> str:
    """Return the name of the method in `hybridfit.fit`."""
    return "covariance" if method == "sky-fixed" else method


def options_of(method: str, side: int, compile: str = "off") -> FitOptions:
    """Return options with the prior that the galaxies are drawn from."""
    sky = "fixed" if method == "sky-fixed" else "constant"
    return FitOptions(prior=prior_of(side), sky=sky, compile=compile)


def figures(
    found: Measured, theta: Array, snr: Array, scenario: str
) -> tuple[dict[str, Any], Calibration]:
    """Compare draws with the truth: coverage, pulls, ranks, TARP, and verdicts."""
    truth = theta[:, : len(found.names)]  # the sky comes last, and a fixed one has no draws
    trials = SbcSamples(found.names, found.samples, truth, found.weights)
    bright = snr >= BRIGHT
    main = calibrate(trials[bright], snr[bright], options=OPTIONS)
    every = calibrate(trials, snr, options=OPTIONS)
    report: dict[str, Any] = {
        "commit": COMMIT,
        "galaxies": len(snr),
        "S/N >= 10": int(bright.sum()),
        "without draws": every.table.meta["left_out"],
        "CPU s a galaxy": round(found.seconds / len(snr), 4),
        "by parameter": by_parameter(main),
        "catastrophic": catastrophic(found, theta),
        "bins": bins(every),
        "tarp": tarp_figures(trials[bright]),
        **draw_quality(found, bright),
    }
    mag = found.samples[:, :, found.names.index("mag")]
    weights = found.weights * population_weights(np.where(np.isfinite(mag), mag, np.nan))
    as_drawn = SbcSamples(found.names, found.samples, truth, np.nan_to_num(weights))[bright]
    report["by parameter, flux log-uniform as drawn"] = {
        name: {key: row[key] for key in ("cover_68", "cover_95")}
        for name, row in by_parameter(calibrate(as_drawn, snr[bright], options=OPTIONS)).items()
    }
    report["required"] = verdicts(report, scenario)
    return report, every


def by_parameter(calibration: Calibration) -> dict[str, dict[str, float]]:
    """Return coverage, pulls and the ranks' p-value of each parameter, all galaxies."""
    rows = calibration.table[calibration.table["bin"] == "all"]
    tests = {str(row["parameter"]): row for row in calibration.uniform}
    columns = ("cover_68", "cover_68_err", "cover_95", "cover_95_err", "pull_mean", "pull_std")
    out = {}
    for row in rows:
        name = str(row["parameter"])
        out[name] = {c: round(float(row[c]), 4) for c in columns}
        if name in tests:
            out[name] |= {f"sbc_{k}": float(f"{tests[name][k]:.3g}") for k in ("chi2_p", "ks_p")}
    return out


def bins(calibration: Calibration) -> dict[str, dict[str, list[float]]]:
    """Return galaxies and 68 and 95 % coverage by parameter, in bins of S/N, size and index."""
    table = calibration.table[calibration.table["bin"] != "all"]
    out: dict[str, dict[str, list[float]]] = {}
    for row in table:
        key = f"{row['bin']} {row['low']:g}-{row['high']:g}"
        values = [round(float(row[c]), 3) for c in ("cover_68", "cover_95")]
        out.setdefault(key, {"galaxies": [int(row["n"])]})[str(row["parameter"])] = values
    return out


def tarp_figures(trials: SbcSamples) -> dict[str, float] | str:
    """Return area (positive: too wide), largest distance and p-value of TARP."""
    try:
        meta = tarp(trials).meta
    except MissingLibrary as error:
        return str(error)
    return {key: float(f"{meta[key]:.3g}") for key in ("area", "distance", "p_value")}


def catastrophic(found: Measured, theta: Array) -> dict[str, int]:
    """Count galaxies off by .5 mag or a factor 2 in size, by quality."""
    mag, r_eff = (np.asarray(found.table[name], float) for name in ("mag", "r_eff"))
    good = ~is_catastrophic(mag, r_eff, theta)
    out = {"all": int((~good).sum())}
    if "quality" in found.table.colnames:
        suspect = np.asarray(found.table["quality"]).astype(str) == "suspect"
        out |= {"of them suspect": int((~good & suspect).sum())}
        out |= {"good": int(good.sum()), "of them suspect too": int((good & suspect).sum())}
    return out


def draw_quality(found: Measured, bright: NDArray[np.bool_]) -> dict[str, Any]:
    """Return effective draws, Pareto k and quality, where the table has them; S/N >= 10."""
    table = found.table[bright]
    report: dict[str, Any] = {}
    if "ess" in table.colnames and np.isfinite(table["ess"]).any():
        share = np.asarray(table["ess"], float) / (found.weights[bright] > 0).sum(axis=1)
        report["ess over draws, median and 1 %"] = np.nanpercentile(share, (50, 1)).tolist()
        report["draws, median"] = float(np.median((found.weights[bright] > 0).sum(axis=1)))
        khat = np.asarray(table["pareto_k"], float)
        report["share of khat < .7"] = float((khat < KHAT).mean())
    if "quality" in table.colnames:
        kinds, count = np.unique(np.asarray(table["quality"]).astype(str), return_counts=True)
        report["quality"] = dict(zip(kinds.tolist(), count.tolist(), strict=True))
    return report


def verdicts(report: dict[str, Any], scenario: str) -> dict[str, Any]:
    """Compare coverage with what is required.

    "pass" takes the numbers as they are; "within noise" is whether the worst is within two
    binomial errors of the limits, for a sample of this size.
    """
    rows = {name: row for name, row in report["by parameter"].items() if name != "all"}
    out: dict[str, Any] = {}
    for level, limits in zip((68, 95), REQUIRED.get(scenario, ()), strict=False):
        if limits is None:
            continue
        off = {
            name: max(limits[0] - row[f"cover_{level}"], row[f"cover_{level}"] - limits[1])
            for name, row in rows.items()
        }
        worst = max(off, key=lambda name: off[name])
        slack = 2 * rows[worst][f"cover_{level}_err"]
        out[f"{level} % intervals cover {100 * limits[0]:g}-{100 * limits[1]:g} %"] = {
            "worst": f"{100 * rows[worst][f'cover_{level}']:.1f} % ({worst})",
            "missed": sum(value > 0 for value in off.values()),
            "pass": all(value <= 0 for value in off.values()),
            "within noise": off[worst] <= slack,
        }
    if scenario == "clean" and "share of khat < .7" in report:
        median = report["ess over draws, median and 1 %"][0]
        share = report["share of khat < .7"]
        out[f"median ess over draws >= {ESS}"] = {"came": median, "pass": median >= ESS}
        out[f"khat < {KHAT} for >= {CERTAIN}"] = {"came": share, "pass": share >= CERTAIN}
    return out


def against_galfit(methods: tuple[str, ...]) -> dict[str, Any]:
    """Return coverage on main.npz: of GALFIT's saved values and errors, and of ours."""
    cutouts, truth, _ = load_sims("main")
    values, errors, _ = load_galfit("main")
    out = {"GALFIT": interval_coverage(values, errors, truth)}
    for method in methods:
        found = measured(cutouts, uncertainty_of(method), FitOptions(
            sky="fixed" if method == "sky-fixed" else "constant"
        ))  # fmt: skip
        trials = SbcSamples(NAMES, found.samples[:, :, :7], truth, found.weights)
        rows = by_parameter(calibrate(trials, np.full(len(truth), 100.0), options=OPTIONS))
        out[method] = {k: [round(v["cover_68"], 3), round(v["cover_95"], 3)]
                       for k, v in rows.items()}  # fmt: skip
    return out


def show(title: str, report: dict[str, Any]) -> None:
    print(f"\n{title}: {report['galaxies']} galaxies, {report['CPU s a galaxy']} CPU s each")
    names = list(report["by parameter"])
    print(" " * 22 + "".join(f"{name:>8}" for name in names))
    for key in ("cover_68", "cover_95", "pull_mean", "pull_std", "sbc_ks_p"):
        row = "".join(f"{report['by parameter'][n].get(key, np.nan):8.3f}" for n in names)
        print(f"    {key:18}{row}")
    for level, i in ((68, 0), (95, 1)):
        for bin_, row in report["bins"].items():
            if bin_.startswith("snr"):
                values = "".join(f"{row[n][i]:8.3f}" for n in names)
                print(f"    {level} % {bin_:13}{values}  ({row['galaxies'][0]})")
    for key in ("catastrophic", "tarp", "quality", "ess over draws, median and 1 %",
                "share of khat < .7", "without draws"):  # fmt: skip
        if key in report:
            print(f"    {key}: {report[key]}")
    for text, row in report["required"].items():
        print(f"    {text}: {row}")
    sys.stdout.flush()


def draw(seen: dict[str, Calibration], scenario: str, out: Path) -> None:
    """Draw coverage curves of all ways together, and bins and ranks of each, as PNG."""
    from hybridfit.plots.calibration import plot_coverage, plot_methods, plot_ranks

    out.mkdir(parents=True, exist_ok=True)
    curves = {method: calibration.curve for method, calibration in seen.items()}
    plot_methods(curves, scenario).savefig(out / f"{scenario}.png", dpi=80)
    for method, calibration in seen.items():
        figure = plot_coverage(calibration.curve, calibration.table)
        figure.savefig(out / f"{scenario}_{method}_bins.png", dpi=80)
        plot_ranks(calibration.uniform).savefig(out / f"{scenario}_{method}_ranks.png", dpi=80)


if __name__ == "__main__":
    main()
