"""Is the posterior right, fast and honest? Four questions, each chosen by name.

    OMP_NUM_THREADS=1 python -m validation.posterior_checks [hard] [speed] [repeats] [mcmc]
        [--uncertainty posterior | bootstrap | covariance] [--cache FOLDER]

hard: the command line fits hard.npz; how many of the galaxies that are off by .5 mag or a factor 2
    in size are suspect, and how many of the good ones are.
speed: CPU seconds a galaxy of main.npz, fit included, on one core: from Python after a warm-up, and
    of the command minus those of one galaxy; also effective draws and Pareto k.
repeats: five galaxies observed by KiDS and by SDSS (../shared/data/real, KiDS with the substitute
    PSFs): the difference over the quoted errors, and the same for GALFIT's saved fits.
mcmc: means and widths compared with long emcee chains of twenty galaxies (`reference_chains.py`;
    needs --cache). The Monte Carlo noise of few draws would hide a bias of a few per cent in width,
    so each galaxy is measured many times under different ids and the results are averaged.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from astropy.table import Table
from numpy.typing import NDArray

import hybridfit as hf
from hybridfit.calibration.diagnostics import LOGARITHMIC
from hybridfit.calibration.sbc_samples import (
    HALF_WIDTHS,
    circular_median,
    weighted_quantiles,
    wrapped,
)
from hybridfit.fitting.options import FitOptions
from validation.common import SIMS, is_catastrophic, load_sims, write_result
from validation.measured_draws import measured
from validation.reference_chains import chain, galaxies
from validation.repeat_observations import repeat_differences
from validation.sims import write_fits

Array = NDArray[np.float64]

COMMAND = [sys.executable, "-m", "hybridfit", "fit"]
REPEATS = 32  # of each galaxy under different ids
WARM_UP = 16  # galaxies
QUESTIONS = ("hard", "speed", "repeats", "mcmc")
KINDS = ("mean", "half of p84 - p16", "standard deviation")
MEAN, WIDTH = 0.1, 0.05  # required agreement: in sigma, and relative


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("question", nargs="*", default=QUESTIONS, help=", ".join(QUESTIONS))
    parser.add_argument("--uncertainty", default="posterior")
    parser.add_argument("--cache", type=Path, help="folder of galaxies and chains, for mcmc")
    parser.add_argument("--name", default="posterior_checks", help="of the file in results/")
    given = parser.parse_args()
    if unknown := set(given.question) - set(QUESTIONS):
        parser.error(f"unknown question {', '.join(unknown)}: expected {', '.join(QUESTIONS)}")
    torch.set_num_threads(1)
    figures: dict[str, Any] = {"uncertainty": given.uncertainty}
    for question in given.question:
        if question in ("hard", "speed") and not SIMS.is_dir():
            figures[question] = f"the simulated sets are missing: {SIMS}"
        elif question == "mcmc" and given.cache is None:
            figures[question] = "left out: it needs --cache"
        elif question == "hard":
            figures[question] = hard(given.uncertainty)
        elif question == "speed":
            figures[question] = speed(given.uncertainty)
        elif question == "repeats":
            figures[question] = repeat_differences(given.uncertainty)
        else:
            figures[question] = mcmc(given.uncertainty, given.cache)
        show(question, figures[question])
    print(write_result(given.name, figures))


def run_command(folder: Path, images: Path, *options: str) -> tuple[Table, float]:
    """Run the command; return its table and CPU seconds, start-up included."""
    out = folder / "out"
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [*COMMAND, str(images), "-o", str(out), "--zeropoint", "22.5", "--overwrite"]
    subprocess.run([*command, "--quiet", *options], check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Table.read(out / "results.fits", mask_invalid=False), seconds


def hard(uncertainty: str) -> dict[str, Any]:
    """Count catastrophic galaxies of hard.npz, by quality."""
    _, truth, _ = load_sims("hard")
    with np.load(SIMS / "hard.npz") as sims:
        regime = sims["t_regime"].astype(str)
    with tempfile.TemporaryDirectory() as folder:
        write_fits("hard", Path(folder) / "in")
        table, _ = run_command(
            Path(folder), Path(folder) / "in", "--uncertainty", uncertainty, "--compile", "off"
        )
    report: dict[str, Any] = {"galaxies": len(table)}
    suspect = has_quality(table, "suspect")
    bad = np.zeros(len(table), bool)
    for kind in ("", "_p50"):
        if f"mag{kind}" not in table.colnames:
            continue
        wrong = is_catastrophic(*fitted(table, kind), truth)
        bad |= wrong
        report[f"by {'the median' if kind else 'the value'}"] = {
            "catastrophic": int(wrong.sum()),
            "of them suspect": int((wrong & suspect).sum()),
            "rows not suspect": [
                f"{i} {regime[i]}" for i in np.flatnonzero(wrong & ~suspect).tolist()
            ],
        }
    report["catastrophic by either"] = int(bad.sum())
    report["of them suspect"] = int((bad & suspect).sum())
    report["good"] = int((~bad).sum())
    report["good, but suspect"] = int((~bad & suspect).sum())
    report["share of the good that is suspect"] = float((suspect & ~bad).sum() / (~bad).sum())
    report["by regime: galaxies, catastrophic, suspect"] = {
        kind: [int(((regime == kind) & k).sum()) for k in (regime == kind, bad, suspect)]
        for kind in np.unique(regime).tolist()
    }
    report["quality"] = qualities(table)
    return report


def fitted(table: Table, kind: str = "") -> tuple[Array, Array]:
    """Return magnitudes and sizes (B,) of a table, or another ``kind`` of them as "_p50"."""
    return np.asarray(table["mag" + kind], float), np.asarray(table["r_eff" + kind], float)


def has_quality(table: Table, kind: str) -> NDArray[np.bool_]:
    """Return (B,) whether rows have this quality; False where the table has no such column."""
    if "quality" not in table.colnames:
        return np.zeros(len(table), bool)
    return np.char.strip(np.asarray(table["quality"]).astype(str)) == kind


def qualities(table: Table) -> dict[str, int]:
    return {k: int(has_quality(table, k).sum()) for k in ("certified", "usable", "suspect")}


def speed(uncertainty: str) -> dict[str, Any]:
    """Return CPU seconds a galaxy of main.npz, and diagnostics of the draws."""
    cutouts, truth, _ = load_sims("main")
    report: dict[str, Any] = {}
    for compile in ("off", "on"):
        options = FitOptions(compile=compile)
        hf.fit(cutouts[:WARM_UP], fit=options, uncertainty=uncertainty)
        before = time.process_time()
        table = hf.fit(cutouts, fit=options, uncertainty=uncertainty)
        seconds = time.process_time() - before
        report[f"from Python, compile {compile}"] = round(seconds / len(cutouts), 4)
        if compile == "off":
            report["catastrophic"] = int(is_catastrophic(*fitted(table), truth).sum())
            report |= draw_diagnostics(table)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_fits("main", folder / "in")
        write_fits("main", folder / "one")
        for path in (folder / "one").glob("*.fits"):
            if not path.name.startswith("g000"):
                path.unlink()
        for compile in ("off", "on"):
            options = ("--uncertainty", uncertainty, "--compile", compile)
            # the first run fills the compiler's cache
            alone = min(run_command(folder, folder / "one", *options)[1] for _ in range(2))
            _, seconds = run_command(folder, folder / "in", *options)
            each = (seconds - alone) / (len(cutouts) - 1)
            report[f"command, compile {compile}"] = {
                "all": round(seconds, 2), "one galaxy": round(alone, 2), "each": round(each, 4)
            }  # fmt: skip
    return report


def draw_diagnostics(table: Table) -> dict[str, Any]:
    """Return percentiles of effective draws and Pareto k, where the table has them."""
    report: dict[str, Any] = {"quality": qualities(table)} if "quality" in table.colnames else {}
    for name in ("ess", "pareto_k"):
        if name in table.colnames:
            found = np.nanpercentile(np.asarray(table[name], float), (1, 16, 50, 84, 99))
            report[f"{name}, 1 16 50 84 99 %"] = found.round(3).tolist()
    if "pareto_k" in table.colnames:
        report["share of khat < .7"] = float((np.asarray(table["pareto_k"], float) < 0.7).mean())
    return report


def mcmc(uncertainty: str, cache: Path) -> dict[str, Any]:
    """Compare means and widths with those of the chains, galaxy by galaxy."""
    rows: dict[str, Any] = {}
    off, scatter, noise = [], [], []
    for name, cutouts in galaxies(cache):
        reference = chain(name, cutouts, cache)
        copies = hf.Cutouts(
            image=cutouts.image.expand(REPEATS, -1, -1),
            sigma=cutouts.sigma.expand(REPEATS, -1, -1),
            psf=cutouts.psf,
            zeropoint=cutouts.zeropoint.expand(REPEATS),
            id=[f"{name}-{k}" for k in range(REPEATS)],
        )
        found = measured(copies, "budget-free" if uncertainty == "posterior" else uncertainty)
        about = circular_median(reference["samples"][None, :, found.names.index("pa")], 180.0)
        theirs = moments(reference["samples"][None], None, about, found.names)[:, 0]
        ours = moments(found.samples, found.weights, about, found.names)
        # (kinds, repeats, parameters): the mean's distance in sigma, the widths' ratios less 1
        each = np.stack([(ours[0] - theirs[0]) / theirs[1], *(ours[1:] / theirs[1:, None] - 1)])
        off.append(each.mean(axis=1))
        scatter.append(each.std(axis=1, ddof=1))
        noise.append(np.sqrt(1 / reference["independent"] + scatter[-1][0] ** 2 / REPEATS))
        rows[name] = {
            kind: dict(zip(found.names, values.round(3).tolist(), strict=True))
            for kind, values in zip(KINDS, off[-1], strict=True)
        }
        print(name, rows[name], flush=True)
    report: dict[str, Any] = {"galaxies": len(rows), "parameters": off[0].shape[1]}
    return report | agreement(np.stack(off), np.stack(noise), np.stack(scatter)) | {"rows": rows}


def agreement(values: Array, error: Array, scatter: Array) -> dict[str, Any]:
    """Compare differences of means and widths with what is required.

    Args:
        values: (galaxies, kinds, parameters) mean differences.
        error: (galaxies, parameters) Monte Carlo noise of these.
        scatter: of single runs, as ``values``.
    """
    report = {}
    for k, (kind, required) in enumerate(zip(KINDS, (MEAN, WIDTH, WIDTH), strict=True)):
        distance = np.abs(values[:, k])
        report[kind] = {
            "required": required,
            "worst": round(float(distance.max()), 3),
            "median": round(float(np.median(distance)), 3),
            "beyond": int((distance > required).sum()),
            "beyond by 2 of its Monte Carlo noise": int((distance > required + 2 * error).sum()),
            "of": int(distance.size),
            "scatter of one run": round(float(np.median(scatter[:, k])), 3),
        }
    return report


def moments(samples: Array, weights: Array | None, about: Array, names: tuple[str, ...]) -> Array:
    """Return mean, half of p84 - p16 and standard deviation (3, N, P) of draws (N, S, P).

    Sizes and indices are taken as logarithms, angles as distances from ``about`` (1,).
    """
    values = samples.copy()
    for j, name in enumerate(names):
        if name in LOGARITHMIC:
            values[..., j] = np.log(np.maximum(values[..., j], 1e-300))
        if name == "pa":
            values[..., j] = wrapped(values[..., j] - about, 180.0)
    weights = np.ones(samples.shape[:2]) if weights is None else weights
    values = np.where((weights > 0)[..., None], values, 0.0)
    share = (weights / weights.sum(axis=1, keepdims=True))[..., None]
    mean = (share * values).sum(axis=1)
    deviation = np.sqrt((share * (values - mean[:, None]) ** 2).sum(axis=1))
    low, high = weighted_quantiles(values, HALF_WIDTHS, weights)
    return np.stack([mean, (high - low) / 2, deviation])


def show(question: str, report: Any) -> None:
    print(f"\n{question}")
    for key, value in report.items() if isinstance(report, dict) else [("", report)]:
        if key != "rows":
            print(f"    {key}: {value}")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
