"""What do blank cutouts, faint galaxies and companions cost, and are their limits right?

    OMP_NUM_THREADS=1 taskset -c 0 python -m benchmarks.blank [--side 96]

Simulated cutouts are fitted by `hybridfit.fit` with its defaults, without compiled kernels, on one
core: 50 blank ones (noise alone), 25 galaxies of S/N 3, 25 ordinary ones (S/N 15-500), and 25 with
an unmasked companion of 0.3 to 1 of the flux, 1-2 r_eff or 14 pixels away. CPU seconds a cutout are
the least of three runs; the ordinary ones are measured first and last. For each group it counts
galaxies without signal, posteriors that could not be drawn (`UNSAMPLED`), and true fluxes below the
upper limit. Point sources and small galaxies show from which size on a source is not called
`UNRESOLVED`.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from astropy.table import Table
from numpy.typing import NDArray

import hybridfit as hf
from hybridfit.model.parameters import ParameterSpace
from hybridfit.rendering.render import render
from hybridfit.simulation.simulate import SimulateOptions, simulate
from validation.common import BENCHMARK_RESULTS, write_result

Array = NDArray[np.float64]
COUNTS = {"blank": 50, "S/N 3": 25, "ordinary": 25, "companion": 25}
RUNS = 3  # the least of their seconds counts, as the machine may be shared
LIMIT = 3.0  # largest allowed cost, in units of an ordinary galaxy's
EAGER = hf.FitOptions(compile="off")
N_SOURCES = 40  # stars, or galaxies of one size, of each S/N
POINT = 1e-3  # pix, r_eff of a star for the renderer
SIZES, SNRS = (0.0, 0.3, 0.5, 0.8, 1.2, 2.0), (20.0, 50.0, 200.0, 800.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--side", type=int, default=96, help="of the cutouts, pixels")
    given = parser.parse_args()
    torch.set_num_threads(1)
    figures: dict[str, Any] = {"side": given.side, **costs(given.side)}
    for key, value in figures.items():
        print(f"{key}: {value}", flush=True)
    figures["flagged UNRESOLVED, by r_eff [pix] and S/N"] = unresolved()
    print(figures["flagged UNRESOLVED, by r_eff [pix] and S/N"])
    print(write_result("blank", figures, BENCHMARK_RESULTS))


def costs(side: int, counts: dict[str, int] = COUNTS, runs: int = RUNS) -> dict[str, Any]:
    """Return CPU seconds a cutout of each group, and a summary of their rows."""
    sets = groups(side, counts)
    hf.fit(sets["ordinary"][0], fit=EAGER)  # a warm-up
    order = ("ordinary", *(name for name in sets if name != "ordinary"), "ordinary")
    seconds: dict[str, list[float]] = {name: [] for name in sets}
    report: dict[str, Any] = {}
    for _ in range(runs):
        for name in order:
            cutouts, flux = sets[name]
            before = time.process_time()
            table = hf.fit(cutouts, fit=EAGER)
            seconds[name].append((time.process_time() - before) / len(cutouts))
            report[name] = rows_of(table, flux)
    ordinary = min(seconds["ordinary"])
    for name, row in report.items():
        row["CPU seconds"] = round(min(seconds[name]), 4)
        row["over an ordinary one"] = round(min(seconds[name]) / ordinary, 2)
    costly = [name for name, row in report.items() if row["over an ordinary one"] > LIMIT]
    return {**report, f"costlier than {LIMIT:g} ordinary ones": costly}


def rows_of(table: Table, flux: Array) -> dict[str, Any]:
    """Summarise the rows of one group whose true fluxes are known."""
    flags = np.asarray(table["flags"])
    dark = flags & int(hf.Flag.NO_SIGNAL) > 0
    failed = flags & int(hf.Flag.UNSAMPLED) > 0
    drawn = (np.asarray(table["ess"]) >= 50) & ~failed
    suspect = np.asarray(table["quality"]).astype(str) == "suspect"
    limit = np.asarray(table["flux_limit"])
    return {
        "galaxies": len(table),
        "NO_SIGNAL": int(dark.sum()),
        "UNSAMPLED": int(failed.sum()),
        "not drawn and not suspect": int((~drawn & ~suspect).sum()),
        "with a limit, above the true flux": [
            int(np.isfinite(limit).sum()), int((limit > flux).sum())
        ],
    }  # fmt: skip


def groups(side: int, counts: dict[str, int] = COUNTS) -> dict[str, tuple[hf.Cutouts, Array]]:
    """Return cutouts and true fluxes of each group."""
    shape = (side, side)
    usual, faint = SimulateOptions(shape=shape), SimulateOptions(shape=shape, snr=(3.0, 3.0))
    made = {
        "ordinary": simulate(counts["ordinary"], 1, usual),
        "S/N 3": simulate(counts["S/N 3"], 2, faint),
        "blank": simulate(counts["blank"], 3, usual),
        "companion": simulate(counts["companion"], 5, usual),
    }
    sets = {name: (cutouts, _flux(truth)) for name, (cutouts, truth) in made.items()}
    empty = sets["blank"][0]
    noise = np.random.default_rng(4).standard_normal(empty.image.shape) * usual.sky_sigma
    sets["blank"] = (_with_image(empty, noise), np.zeros(len(empty)))
    cutouts, truth = made["companion"]
    image = cutouts.image.numpy() + companions(cutouts, truth)
    sets["companion"] = (_with_image(cutouts, image), sets["companion"][1])
    return sets


def _flux(truth: Table) -> Array:
    return 10 ** (0.4 * (SimulateOptions().zeropoint - np.asarray(truth["mag"], float)))


def _with_image(cutouts: hf.Cutouts, image: Array) -> hf.Cutouts:
    return replace(cutouts, image=torch.from_numpy(image.astype(np.float32)))


def companions(cutouts: hf.Cutouts, truth: Table) -> Array:
    """Return images (B, H, W) of a companion near each galaxy."""
    rng, n, space = np.random.default_rng(6), len(truth), ParameterSpace()
    theta = np.stack([np.asarray(truth[name], float) for name in space.names], axis=1)
    near = np.arange(n) % 2 == 0
    distance = np.where(near, rng.uniform(1, 2, n) * theta[:, 3], 14.0)
    angle = rng.uniform(0, 2 * np.pi, n)
    theta[:, 0] += distance * np.cos(angle)
    theta[:, 1] += distance * np.sin(angle)
    theta[:, 2] -= 2.5 * np.log10(rng.uniform(0.3, 1.0, n))
    for column, (low, high) in ((3, (1.5, 6.0)), (4, (0.7, 4.0))):
        theta[:, column] = np.exp(rng.uniform(np.log(low), np.log(high), n))
    theta[:, 5], theta[:, 6] = rng.uniform(0.4, 1, n), rng.uniform(0, 180, n)
    return np.asarray(render(torch.from_numpy(theta), cutouts, space).double())


def sources(r_eff: float, snr: float, n: int = N_SOURCES, seed: int = 11) -> hf.Cutouts:
    """Return galaxies of one size and S/N, or stars for a size of 0, in cutouts of 48 pixels."""
    options = SimulateOptions(
        shape=(48, 48), r_eff=(max(r_eff, 0.1),) * 2, n=(0.7, 4.0), fwhm=(2.0, 4.0)
    )
    cutouts, truth = simulate(n, seed, options)
    if r_eff == 0:
        truth["r_eff"], truth["n"], truth["q"] = POINT, 1.0, 1.0
    space = ParameterSpace()
    theta = np.stack([np.asarray(truth[name], float) for name in space.names], axis=1)
    unit = np.asarray(render(torch.from_numpy(theta), cutouts, space).double())
    norm = np.sqrt((unit**2).sum(axis=(1, 2)))[:, None, None]
    noise = np.random.default_rng(seed).standard_normal(unit.shape)
    return _with_image(cutouts, options.sky_sigma * (snr * unit / norm + noise))


def unresolved() -> dict[str, dict[str, float]]:
    """Return the fraction of sources of each size and S/N that are flagged UNRESOLVED."""
    return {
        f"{size:g}" if size else "star": {
            f"{snr:g}": _share(sources(size, snr, 3 * N_SOURCES if size == 0 else N_SOURCES))
            for snr in SNRS
        }
        for size in SIZES
    }


def _share(cutouts: hf.Cutouts) -> float:
    table = hf.fit(cutouts, fit=EAGER, uncertainty="covariance")
    return float(((np.asarray(table["flags"]) & int(hf.Flag.UNRESOLVED)) > 0).mean())


if __name__ == "__main__":
    main()
