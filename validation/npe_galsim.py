"""Is the network's posterior calibrated and sharp on galaxies made by GalSim?

    OMP_NUM_THREADS=1 python -m validation.npe_galsim --cache FOLDER [--weights FOLDER]
        [--n 4000] [--population prior | uniform] [--draws 512] [--seed 0] [--run NAME]

GalSim makes 4,000 galaxies (`galsim_galaxies.py`), which are kept in the folder. First the
package's renderer is compared with GalSim on 50 of them; then `predict_cutouts` runs over all,
timed. Coverage is that of the central intervals, per parameter, overall and in bins of S/N. For the
population "prior", draws outside the population's limits do not count, so that the posterior is
that of these galaxies; "raw" is without that cut, as the package returns it. The width is half of
p84 - p16 over the Cramer-Rao limit at the truth, prior included, its median over the galaxies of a
bin and then over the parameters.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from astropy.table import Table

from hybridfit.calibration.coverage import Calibration, CalibrationOptions, calibrate
from hybridfit.calibration.cramer_rao import cramer_rao
from hybridfit.calibration.sbc_samples import SbcSamples
from hybridfit.calibration.tarp import MissingLibrary, tarp
from hybridfit.npe.network import Estimator
from hybridfit.npe.posterior import load_estimator, predict_cutouts
from hybridfit.rendering.render import render
from validation.common import add_run
from validation.galsim_galaxies import NAMES, PSFS, Shard, galsim_image, inside, psf_image, shards

AGREE = 2e-3  # of the peak: the largest difference that the two codes may have
CHECKED = 50
LIMIT = "limit_{}{}.npz"
GPU_WIDTH = (1.08, 1.08, 1.08, 1.2, 1.6)  # required of networks that were trained on a GPU


def check_images(sets: list[Shard]) -> dict[str, float]:
    """Compare images with GalSim's: largest difference over the peak, and chi of all pixels."""
    peaks, noises = [], []
    for shard in sets[:4]:  # one of each side
        side = shard.cutouts.image.shape[-1]
        for i in range(CHECKED // 4 + 1):
            theta = shard.theta[i].copy()
            theta[7] = 0.0
            flux = 10 ** (0.4 * (25.0 - theta[2]))
            truth = flux * galsim_image(theta, psf_image(PSFS[shard.psf[i]]), side)
            ours = render(torch.from_numpy(theta)[None], shard.cutouts[[i]])[0].double().numpy()
            difference = np.abs(ours - truth)
            peaks.append(difference.max() / truth.max())
            sigma = shard.cutouts.sigma[i].double().numpy()
            noises.append(np.sqrt(((difference / sigma) ** 2).sum()))
    return {
        "galaxies": len(peaks),
        "median of max|d| / peak": float(np.median(peaks)),
        "worst max|d| / peak": float(np.max(peaks)),
        "worst chi of all pixels": float(np.max(noises)),
    }


def limits(sets: list[Shard], path: Path) -> np.ndarray:
    """Return (N, 8) standard deviations at the Cramer-Rao limit, kept beside the galaxies."""
    count = sum(len(shard.snr) for shard in sets)
    if path.exists() and len(saved := np.load(path)["sigma"]) >= count:
        return saved[:count]
    sigma = []
    for shard in sets:
        covariance = cramer_rao(torch.from_numpy(shard.theta), shard.cutouts)
        sigma.append(torch.diagonal(covariance, dim1=1, dim2=2).clamp_min(0).sqrt().numpy())
    np.savez(path, sigma=np.concatenate(sigma))
    return np.concatenate(sigma)


def predict(sets: list[Shard], estimator: Estimator, draws: int) -> tuple[np.ndarray, Any]:
    """Return draws (N, S, 8), and a report on their number and cost."""
    samples, rejected, flags = [], 0, []
    predict_cutouts(sets[0].cutouts[:8], estimator, draws)  # a warm-up, not timed
    before = time.process_time()
    for shard in sets:
        posterior = predict_cutouts(shard.cutouts, estimator, draws)
        samples.append(posterior.samples.numpy())
        rejected += int(posterior.rejected.sum())
        flags.append(posterior.flags.numpy())
    seconds = time.process_time() - before
    count = sum(map(len, samples))
    report = {
        "draws a galaxy": draws,
        "rejected draws": rejected,
        "share of rejected draws": rejected / (count * draws),
        "galaxies with a flag": int((np.concatenate(flags) != 0).sum()),
        "galaxies without a posterior": int(
            sum(int((~np.isfinite(s).all(axis=(1, 2))).sum()) for s in samples)
        ),
        "CPU seconds": seconds,
        "galaxies a CPU second": count / seconds,
    }
    return np.concatenate(samples), report


def by_parameter(table: Table, kind: str, low: float | None = None) -> dict[str, dict[str, float]]:
    """Return coverage, pull and width of each parameter in one bin."""
    rows = table[table["bin"] == kind]
    rows = rows if low is None else rows[rows["low"] == low]
    columns = ("cover_68", "cover_95", "pull_mean", "pull_std", "width")
    return {
        str(row["parameter"]): {name: round(float(row[name]), 4) for name in columns}
        for row in rows
    }


def verdicts(result: Calibration, options: CalibrationOptions) -> dict[str, dict[str, Any]]:
    """Compare coverage and widths with what is required of them."""
    table, required = result.table, {}
    parameters = table["parameter"] != "all"
    for quantity, text, tolerances in (
        ("all", "overall", (options.tolerance_68, options.tolerance_95)),
        ("snr", "in each S/N bin", (options.tolerance_bin,) * 2),
    ):
        some = table[(table["bin"] == quantity) & parameters]
        for level, tolerance in zip((68, 95), tolerances, strict=True):
            off = np.abs(np.asarray(some[f"cover_{level}"]) - level / 100)
            worst = some[int(off.argmax())]
            where = f" at S/N {worst['low']:g}-{worst['high']:g}" if quantity == "snr" else ""
            required[f"{level} % intervals cover {level} +- {100 * tolerance:g} % {text}"] = {
                "worst": f"{100 * worst[f'cover_{level}']:.1f} % ({worst['parameter']}{where})",
                "missed": int((off > tolerance).sum()),
                "pass": bool((off <= tolerance).all()),
            }
    rows = table[(table["bin"] == "snr") & ~parameters]
    for row, most, gpu in zip(rows, options.width, GPU_WIDTH, strict=True):
        required[f"width over the limit, S/N {row['low']:g}-{row['high']:g}: <= {most}"] = {
            "worst": f"{row['width']:.3f}",
            "pass": bool(row["width"] <= most),
            "pass as GPU-trained": bool(row["width"] <= gpu),
        }
    return required


def figures(
    samples: np.ndarray, weights: np.ndarray | None, sets: list[Shard], limit: np.ndarray
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return all figures of the draws with these weights, and the verdicts."""
    options = CalibrationOptions()
    sbc = SbcSamples(NAMES, samples, np.concatenate([shard.theta for shard in sets]), weights)
    snr = np.concatenate([shard.snr for shard in sets])
    groups = {
        f"{field} {k}": np.concatenate([getattr(shard, field) for shard in sets]) == k
        for field in ("psf", "exposure")
        for k in range(3)
    }
    groups |= {
        f"side {side}": np.concatenate(
            [np.full(len(s.snr), s.cutouts.image.shape[-1] == side) for s in sets]
        )
        for side in (64, 96, 128)
    }
    result = calibrate(sbc, snr, limit, options, groups)
    found: dict[str, Any] = {"left out": result.table.meta["left_out"]}
    found["overall"] = by_parameter(result.table, "all")
    for low, high in zip(options.snr_edges, options.snr_edges[1:], strict=False):
        found[f"S/N {low:g}-{high:g}"] = by_parameter(result.table, "snr", low)
    for name in groups:
        found[name] = by_parameter(result.table, name)
    found["p-values of the ranks"] = {
        str(r["parameter"]): [float(r["chi2_p"]), float(r["ks_p"])] for r in result.uniform
    }
    try:
        found["TARP"] = {k: float(v) for k, v in tarp(sbc).meta.items()}
    except MissingLibrary as error:
        found["TARP"] = str(error)
    return found, verdicts(result, options)


def show(name: str, found: dict[str, Any], required: dict[str, Any]) -> None:
    """Print coverage of 68 and 95 %, widths, and the verdicts."""
    print(f"\n{name}\n{'':>16}" + "".join(f"{p:>19}" for p in (*NAMES, "all")))
    for where, values in found.items():
        if isinstance(values, dict) and "mag" in values and isinstance(values["mag"], dict):
            cells = (
                f"{v['cover_68']:.3f} {v['cover_95']:.3f}{v['width']:6.2f}" for v in values.values()
            )
            print(f"{where:>16}" + "".join(f"{cell:>19}" for cell in cells))
    for text, row in required.items():
        print(f"{'pass' if row['pass'] else 'FAIL':>6}  {text}: {row['worst']}")


def main() -> None:
    given = parsed()
    torch.set_num_threads(1)
    estimator = load_estimator(given.weights)
    sets = list(shards(given.cache, given.n, given.population, given.seed))
    images = check_images(sets)
    for key, value in images.items():
        print(f"{key}: {value:.3g}")
    if images["worst max|d| / peak"] > AGREE:
        sys.exit(f"GalSim and the package differ by more than {AGREE} of the peak: stopping")
    samples, report = predict(sets, estimator, given.draws)
    kept = inside(samples) & np.isfinite(samples).all(axis=2)
    report["share of draws within the limits"] = float(kept.mean())
    report["galaxies with less than 50 draws within"] = int((kept.sum(axis=1) < 50).sum())
    for key, value in report.items():
        print(f"{key}: {value:.4g}")
    result: dict[str, Any] = {
        "galaxies": len(samples),
        "population": given.population,
        "seed": given.seed,
        "images against GalSim": images,
        "network": report,
    }
    other = f"_{given.seed}" if given.seed else ""
    limit = limits(sets, given.cache / LIMIT.format(given.population, other))
    readings = {"raw": None}
    if given.population == "prior":
        readings = {"within the limits": kept.astype(float), "raw": None}
    for name, weights in readings.items():
        found, required = figures(samples, weights, sets, limit)
        show(name, found, required)
        result[name] = {"required": required, **found}
    print(add_run("npe_galsim", given.run or f"seed {given.seed}", result))


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cache", type=Path, required=True, help="folder for the galaxies")
    parser.add_argument("--weights", type=Path, help="folder of the network; default the package's")
    parser.add_argument("--n", type=int, default=4000)
    parser.add_argument("--population", default="prior", choices=("prior", "uniform"))
    parser.add_argument("--draws", type=int, default=512)
    parser.add_argument("--seed", type=int, default=0, help="of the galaxies")
    parser.add_argument("--run", help='name of the run in the result file; default "seed <seed>"')
    return parser.parse_args()


if __name__ == "__main__":
    main()
