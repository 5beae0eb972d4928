"""How many of 256 draws are effective when network or fit propose them?

    OMP_NUM_THREADS=1 python -m validation.npe_proposal --cache FOLDER [--weights FOLDER]
        [--n 1000] [--seed 1]

On GalSim galaxies (`galsim_galaxies.py`), one round of importance sampling takes 256 draws from a
mixture: flow and the t distribution about the fit in equal parts, the flow with a little of the t,
or the t alone, each with 8 draws of the prior. There are no further rounds and no chains. The
effective sample size is (sum w)^2 / sum w^2 over 256. Also counted are draws of the network that
were rejected as implausible, and implausible ones that were not.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import hybridfit as hf
from hybridfit.fitting.fit import fit_cutouts
from hybridfit.fitting.fitted import rebuilt
from hybridfit.fitting.options import FitOptions
from hybridfit.npe.network import Estimator
from hybridfit.npe.posterior import draw, load_estimator, predict_cutouts
from hybridfit.pipeline.network_start import expectation, starts_of_one
from hybridfit.pipeline.posterior import sample_fitted
from hybridfit.sampling.options import SamplingOptions
from hybridfit.uncertainty.error_budget import NONE
from validation.common import write_result
from validation.galsim_galaxies import LIMITS, NAMES, Shard, shards

Array = NDArray[np.float64]

DRAWS = 256
MIXTURES = {  # draws of the t about the fit, and of the flow
    "flow and fit": (124, 124),
    "flow": (16, 232),
    "fit": (248, 0),
}
EDGES = (3.0, 10.0, 30.0, 100.0, 300.0, np.inf)
OPTIONS = FitOptions(compile="off")


def options_of(fit: int, flow: int) -> SamplingOptions:
    """Return options for one round only, whatever its effective sample size."""
    return SamplingOptions(
        fit_draws=fit, network_draws=flow, prior_draws=8, target_ess=1.0, max_draws=DRAWS
    )


def line(share: Array) -> dict[str, float]:
    """Return figures of effective sample sizes over the number of draws."""
    return {
        "galaxies": len(share),
        "median": round(float(np.median(share)), 3),
        "1st percentile": round(float(np.percentile(share, 1)), 4),
        "share of galaxies >= .01": round(float((share >= 0.01).mean()), 4),
        "share of galaxies >= .3": round(float((share >= 0.3).mean()), 4),
    }


@dataclass
class Tally:
    """What the draws of all shards add up to."""

    snr: list[Array] = field(default_factory=list)
    shares: dict[str, list[Array]] = field(default_factory=lambda: {name: [] for name in MIXTURES})
    rejected: int = 0
    outside: int = 0
    drawn: int = 0
    missing: int = 0

    def add_mixtures(self, shard: Shard, estimator: Estimator) -> None:
        """Draw one round from each mixture and keep the effective sample sizes."""
        cutouts = shard.cutouts
        network = expectation(cutouts, estimator)
        fit = fit_cutouts(cutouts, OPTIONS, starts=starts_of_one(network.coords))
        floor = network.log_prob.amin(dim=1)
        parts = list(rebuilt(fit, cutouts, OPTIONS))
        for name, (of_fit, of_flow) in MIXTURES.items():
            options = options_of(of_fit, of_flow)
            count = options.network_draws
            proposed = draw(network.density, cutouts, count, options.seed) if count else None
            share = np.full(len(cutouts), np.nan)
            for part in parts:
                own = None if proposed is None else proposed[part.rows]
                result = sample_fitted(part, own, floor[part.rows], options, NONE)
                assert (result.diagnostics.n_draws <= DRAWS).all(), "a further round was drawn"
                share[part.rows.numpy()] = result.diagnostics.ess.numpy() / DRAWS
            self.shares[name].append(share)
        self.snr.append(shard.snr)

    def add_draws(self, cutouts: hf.Cutouts, estimator: Estimator) -> None:
        """Count the network's draws that were rejected, and implausible ones that were not."""
        posterior = predict_cutouts(cutouts, estimator, DRAWS)
        self.rejected += int(posterior.rejected.sum())
        theta = posterior.samples.numpy()
        self.missing += int((~np.isfinite(theta).all(axis=(1, 2))).sum())
        side = cutouts.image.shape[-1]
        r_eff, x = theta[..., NAMES.index("r_eff")], theta[..., :2]
        beyond = (np.abs(x - side / 2) > side / 2).any(axis=2)
        self.outside += int(((r_eff > 1000) | beyond).sum())
        self.drawn += r_eff.size


def tables(tally: Tally) -> dict[str, dict[str, Any]]:
    """Return the figures of each mixture, of all galaxies and in bins of S/N."""
    snr = np.concatenate(tally.snr)
    found = {}
    for name, pieces in tally.shares.items():
        share = np.nan_to_num(np.concatenate(pieces))
        found[name] = {"all": line(share)}
        for low, high in pairwise(EDGES):
            rows = (snr >= low) & (snr < high)
            if rows.any():
                found[name][f"S/N {low:g}-{high:g}"] = line(share[rows])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cache", type=Path, required=True, help="folder for the galaxies")
    parser.add_argument("--weights", type=Path, help="folder of the network; default the package's")
    parser.add_argument("--n", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1, help="of the galaxies")
    parser.add_argument("--name", default="npe_proposal", help="of the result file")
    given = parser.parse_args()
    torch.set_num_threads(1)
    estimator, tally = load_estimator(given.weights), Tally()
    for shard in shards(given.cache, given.n, "prior", given.seed):
        tally.add_mixtures(shard, estimator)
        tally.add_draws(shard.cutouts, estimator)
    figures: dict[str, Any] = {
        "draws a galaxy": DRAWS,
        "population": {k: list(v) for k, v in LIMITS.items()},
        "rejected draws": tally.rejected,
        "draws of the flow": tally.drawn,
        "draws returned beyond the cutout or larger than 1000 pixels": tally.outside,
        "galaxies without a posterior": tally.missing,
    }
    print(figures)
    for name, lines in tables(tally).items():
        figures[name] = lines
        print(f"\n{name}")
        for label, values in lines.items():
            print(f"{label:>14s}  " + "  ".join(f"{k} {v}" for k, v in values.items()))
    print(write_result(given.name, figures))


if __name__ == "__main__":
    main()
