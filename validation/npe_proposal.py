"""How good a proposal is the network: effective draws of 256, with the fit's Gaussian and without.

    OMP_NUM_THREADS=1 python -m validation.npe_proposal --cache FOLDER [--weights FOLDER]
        [--n 1000] [--seed 1]

GalSim galaxies (`galsim_galaxies.py`). One round of importance sampling with 256 draws from a
mixture, no further rounds and no chains: the flow and the t about the fit in equal parts, the flow
with next to nothing of the t, the t alone; 8 draws are the prior's in each. The effective sample
size is (sum w)^2 / sum w^2 over 256. The share of draws that the flow's inverse throws
out of the space of parameters is printed too, and how many of these remain: none may reach a user.
"""

from __future__ import annotations

import argparse
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hybridfit.fitting.fit import fit_cutouts
from hybridfit.fitting.options import FitOptions
from hybridfit.npe.posterior import load_estimator, predict_cutouts
from hybridfit.pipeline.network_start import expectation, starts_from
from hybridfit.pipeline.posterior import reconcile
from hybridfit.sampling.options import SamplingOptions
from hybridfit.uncertainty.error_budget import NONE
from validation.common import write_result
from validation.galsim_galaxies import LIMITS, NAMES, shards

DRAWS = 256
MIXTURES = {  # draws of the t about the fit, and of the flow
    "flow and fit": (124, 124),
    "flow": (16, 232),
    "fit": (248, 0),
}
EDGES = (3.0, 10.0, 30.0, 100.0, 300.0, np.inf)
OPTIONS = FitOptions(compile="off")


def options_of(fit: int, flow: int) -> SamplingOptions:
    """One round, whatever it gives: no room is left for another."""
    return SamplingOptions(
        fit_draws=fit, network_draws=flow, prior_draws=8, target_ess=1.0, max_draws=DRAWS
    )


def line(share: np.ndarray) -> dict[str, float]:
    """Figures of effective sample sizes over the draws."""
    return {
        "galaxies": len(share),
        "median": round(float(np.median(share)), 3),
        "1st percentile": round(float(np.percentile(share, 1)), 4),
        "share of galaxies >= .01": round(float((share >= 0.01).mean()), 4),
        "share of galaxies >= .3": round(float((share >= 0.3).mean()), 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cache", type=Path, required=True, help="folder for the galaxies")
    parser.add_argument("--weights", type=Path, help="folder of the network; else the package's")
    parser.add_argument("--n", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1, help="of the galaxies")
    parser.add_argument("--name", default="npe_proposal", help="of the result file")
    given = parser.parse_args()
    torch.set_num_threads(1)
    estimator = load_estimator(given.weights)
    snr: list[np.ndarray] = []
    found: dict[str, list[np.ndarray]] = {name: [] for name in MIXTURES}
    rejected = outside = drawn = missing = 0
    for shard in shards(given.cache, given.n, "prior", given.seed):
        cutouts = shard.cutouts
        expected = expectation(cutouts, estimator)
        fit = fit_cutouts(cutouts, OPTIONS, starts=starts_from(expected.posterior, cutouts))
        for name, (of_fit, of_flow) in MIXTURES.items():
            options = options_of(of_fit, of_flow)
            result = reconcile(cutouts, fit, expected, OPTIONS, options, NONE)
            assert (result.n_draws <= DRAWS).all(), "a further round was drawn"
            found[name].append(result.ess.numpy() / DRAWS)
        snr.append(shard.snr)
        posterior = predict_cutouts(cutouts, estimator, DRAWS)
        rejected += int(posterior.rejected.sum())
        theta = posterior.samples.numpy()
        missing += int((~np.isfinite(theta).all(axis=(1, 2))).sum())
        side = cutouts.image.shape[-1]
        r_eff, x = theta[..., NAMES.index("r_eff")], theta[..., :2]
        outside += int(((r_eff > 1000) | (np.abs(x - side / 2) > side / 2).any(axis=2)).sum())
        drawn += r_eff.size
    figures: dict[str, Any] = {
        "draws a galaxy": DRAWS,
        "population": {k: list(v) for k, v in LIMITS.items()},
        "rejected draws": rejected,
        "draws of the flow": drawn,
        "draws beyond the stamp or 1000 pixels large that a user sees": outside,
        "galaxies without a posterior": missing,
    }
    where = np.concatenate(snr)
    for name, pieces in found.items():
        share = np.nan_to_num(np.concatenate(pieces))
        lines = {"all": line(share)}
        for low, high in pairwise(EDGES):
            rows = (where >= low) & (where < high)
            if rows.any():
                lines[f"S/N {low:g}-{high:g}"] = line(share[rows])
        figures[name] = lines
        print(f"\n{name}")
        for label, values in lines.items():
            print(f"{label:>14s}  " + "  ".join(f"{k} {v}" for k, v in values.items()))
    print({k: v for k, v in figures.items() if k not in MIXTURES})
    print(write_result(given.name, figures))


if __name__ == "__main__":
    main()
