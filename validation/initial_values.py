"""Do fits that start from the posterior end where they should, and sooner than from moments?

    OMP_NUM_THREADS=1 python -m validation.initial_values [--weights FOLDER] [--scenes 600]

On ../shared/data/sims main.npz and hard.npz, and on scenes of the package's simulator without
unmasked neighbours and artefacts. Each galaxy is fitted from the network's posterior, as the
package does by default, from its initial estimator's, as it does for other errors than the
posterior's, from moments, and from eight starts (moments, the posterior's median, five of its
draws, the truth), of which the best counts. Compared is what the fit minimises, chi2 plus the
prior's u^2. Catastrophic:
magnitude off by more than 0.5 or size by a factor 2. "One start" is without a first fit on the
middle of the stamp, second tries and further draws; iterations are counted there.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

import hybridfit as hf
from hybridfit.data.fit import Fit
from hybridfit.detection.background import nominal_centre, sky_level
from hybridfit.fitting.fit import fit_cutouts
from hybridfit.fitting.moments import Starts, moment_start
from hybridfit.fitting.options import FitOptions
from hybridfit.model.parameters import ParameterSpace
from hybridfit.npe.inputs import make_inputs
from hybridfit.npe.network import Estimator
from hybridfit.npe.posterior import load_estimator
from hybridfit.pipeline.measure import starting_part
from hybridfit.pipeline.network_start import expectation, starts_from
from hybridfit.simulation.options import FieldOptions, Kind
from hybridfit.simulation.simulate import simulate_fields
from validation.common import SIMS, load_sims, quality, write_result

SPACE = ParameterSpace()
OPTIONS = FitOptions(compile="off")
# one start on the whole stamp and nothing else: what a start is worth by itself
BARE = FitOptions(compile="off", coarse_fit=False, retry=False)
ONE = ("posterior", "scout", "moments")
WAYS = (*ONE, *(f"{name}, one start" for name in ONE), "eight")
AT_ONCE = 100
DRAWS = 5
WITHIN = 1.0  # of what is minimised: where a second minimum begins to matter


def objective(fit: Fit, cutouts: hf.Cutouts) -> np.ndarray:
    """chi2 + u^2 (B,), what a MAP fit minimises."""
    box = make_inputs(cutouts, with_views=False).frame.box
    coords, _ = SPACE.from_physical(fit.theta, cutouts.zeropoint)
    whitened = SPACE.to_whitened(coords, box)
    return (fit.chi2 + whitened.square().sum(dim=1)).nan_to_num(np.inf).numpy()


def eight_starts(cutouts: hf.Cutouts, posterior: Any, truth: torch.Tensor) -> Starts:
    """Moments, the median, five draws and the truth; all of them tried."""
    reach = 0.25 * cutouts.size.amin(dim=1).double()
    moments = moment_start(cutouts, sky_level(cutouts), nominal_centre(cutouts), reach)
    zeropoint = cutouts.zeropoint
    true, _ = SPACE.from_physical(truth, zeropoint)
    draws = [SPACE.from_physical(posterior.samples[:, 10 * k], zeropoint)[0] for k in range(DRAWS)]
    median = starts_from(posterior, cutouts).coords[:, 0]
    coords = torch.stack([moments, median, *draws, true], dim=1)
    return Starts(coords, torch.ones(len(cutouts), dtype=torch.bool))


def measure(cutouts: hf.Cutouts, truth: torch.Tensor, estimator: Estimator) -> dict[str, Any]:
    """Fit a set in the ways compared."""
    ways: dict[str, list[Any]] = {name: [] for name in WAYS}
    costs: dict[str, list[Any]] = {name: [] for name in ways}
    parts = {"posterior": estimator, "scout": starting_part(estimator, "covariance")}
    seconds = dict.fromkeys([*parts, *(f"fit from {name}" for name in ONE)], 0.0)
    wide = 0
    for low in range(0, len(cutouts), AT_ONCE):
        part = cutouts[low : low + AT_ONCE]
        true = truth[low : low + AT_ONCE]
        starts: dict[str, Starts | None] = {"moments": None}
        expected = {}
        for name, network in parts.items():
            clock = time.process_time()
            expected[name] = expectation(part, network).posterior
            starts[name] = starts_from(expected[name], part)
            seconds[name] += time.process_time() - clock
        wide += int(starts["posterior"].wide.sum())
        fits = {}
        for name, given in starts.items():
            clock = time.process_time()
            fits[name] = fit_cutouts(part, OPTIONS, starts=given)
            seconds[f"fit from {name}"] += time.process_time() - clock
            fits[f"{name}, one start"] = fit_cutouts(part, BARE, starts=given)
        fits["eight"] = fit_cutouts(
            part, OPTIONS, starts=eight_starts(part, expected["posterior"], true)
        )
        for name, fit in fits.items():
            ways[name].append(fit)
            costs[name].append(objective(fit, part))
    cost = {name: np.concatenate(values) for name, values in costs.items()}
    best = np.minimum.reduce(list(cost.values()))
    result: dict[str, Any] = {"galaxies": len(cutouts), "wide": wide}
    for name, found in ways.items():
        theta = np.concatenate([fit.theta.numpy()[:, :7] for fit in found])
        error = np.concatenate([fit.error.numpy()[:, :7] for fit in found])
        flags = np.concatenate([fit.flags.numpy() for fit in found])
        with np.errstate(invalid="ignore"):
            near = np.abs(theta[:, 2] - truth[:, 2].numpy()) <= 0.5
            near &= np.abs(np.log(theta[:, 3] / truth[:, 3].numpy())) < np.log(2)
        result[name] = {
            "catastrophic": quality(theta, error, truth[:, :7].numpy())["catastrophic"],
            "of them without a flag of the fit": int((~near & (flags == 0)).sum()),
            "within 1 of the best": round(float((cost[name] < best + WITHIN).mean()), 4),
            "worst": round(float((cost[name] - best).max()), 2),
        }
        if "one start" in name:
            counts = np.concatenate([fit.n_iter.numpy() for fit in found])
            result[name]["evaluations, mean"] = round(float(counts.mean()), 2)
            result[name]["evaluations, median"] = float(np.median(counts))
    result["CPU ms a galaxy"] = {k: round(1e3 * v / len(cutouts), 2) for k, v in seconds.items()}
    for name in parts:
        total = seconds[name] + seconds[f"fit from {name}"]
        result[f"share of the network: {name}"] = round(seconds[name] / total, 3)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", type=Path, help="instead of the package's")
    parser.add_argument("--scenes", type=int, default=600)
    given = parser.parse_args()
    torch.set_num_threads(1)
    estimator = load_estimator(given.weights)
    figures: dict[str, Any] = {}
    sets: dict[str, tuple[hf.Cutouts, torch.Tensor]] = {}
    for name in ("main", "hard") if SIMS.is_dir() else ():
        cutouts, truth, _ = load_sims(name)
        sky = np.zeros((len(truth), 1))
        sets[name] = (cutouts, torch.from_numpy(np.concatenate([truth, sky], axis=1)))
    options = replace(FieldOptions(), reuse=1, sides=(64,))
    scenes = simulate_fields(2 * given.scenes, 4242, options)
    hidden = int(Kind.NEIGHBOUR | Kind.ARTEFACT | Kind.STRUCTURE)
    rows = ((scenes.kind & hidden) == 0).nonzero()[: given.scenes, 0]
    scenes = scenes[rows.tolist()]
    sets["scenes"] = (scenes.cutouts, scenes.theta)
    for name, (cutouts, truth) in sets.items():
        figures[name] = measure(cutouts, truth, estimator)
        print(name)
        for key, value in figures[name].items():
            print(f"    {key}: {value}")
    print(write_result("starts", figures))


if __name__ == "__main__":
    main()
