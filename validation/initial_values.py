"""Do fits that start from the network end in better minima, and sooner, than from moments?

    OMP_NUM_THREADS=1 python -m validation.initial_values [--weights FOLDER] [--fields 600]

The galaxies are those of ../shared/data/sims main.npz and hard.npz, and of fields of the package's
simulator without unmasked neighbours and artefacts. Each galaxy is fitted from the network's
posterior (the package's default), from the network's initial estimator (as for errors other than
the posterior's), from moments, and from eight sets of initial values (moments, the posterior's
median, five of its draws, the truth), of which the best counts. Compared is what the fit minimises,
chi2 plus the prior's u^2. Catastrophic means that the magnitude is off by more than 0.5 or the size
by a factor 2. "One start" leaves out the first fit on the middle of the cutout, retries and
further draws; evaluations are counted there.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
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
from hybridfit.npe.density import NetworkDraws
from hybridfit.npe.inputs import make_inputs
from hybridfit.npe.network import Estimator
from hybridfit.npe.posterior import load_estimator
from hybridfit.pipeline.measure import starting_part
from hybridfit.pipeline.network_start import expectation, starts_of_one
from hybridfit.simulation.options import FieldOptions, Kind
from hybridfit.simulation.simulate import simulate_fields
from validation.common import SIMS, is_catastrophic, load_sims, write_result

SPACE = ParameterSpace()
OPTIONS = FitOptions(compile="off")
# one fit on the whole cutout from one set of initial values: what these are worth by themselves
BARE = FitOptions(compile="off", coarse_fit=False, retry=False)
ONE = ("posterior", "initial", "moments")
WAYS = (*ONE, *(f"{name}, one start" for name in ONE), "eight")
AT_ONCE = 100
DRAWS = 5
WITHIN = 1.0  # of what is minimised: a second minimum matters from here on


def objective(fit: Fit, cutouts: hf.Cutouts) -> np.ndarray:
    """Return chi2 + u^2 (B,), which a MAP fit minimises."""
    box = make_inputs(cutouts, with_views=False).frame.position_bounds
    coords, _ = SPACE.from_physical(fit.theta, cutouts.zeropoint)
    whitened = SPACE.to_whitened(coords, SPACE.constants(box))
    return (fit.chi2 + whitened.square().sum(dim=1)).nan_to_num(np.inf).numpy()


def eight_starts(cutouts: hf.Cutouts, drawn: NetworkDraws, truth: torch.Tensor) -> Starts:
    """Return moments, the median, five draws and the truth as initial values, all to be tried."""
    reach = 0.25 * cutouts.size.amin(dim=1).double()
    moments = moment_start(cutouts, sky_level(cutouts), nominal_centre(cutouts), reach)
    true, _ = SPACE.from_physical(truth, cutouts.zeropoint)
    draws = [drawn.coords[:, 10 * k] for k in range(DRAWS)]
    median = starts_of_one(drawn.coords).coords[:, 0]
    coords = torch.stack([moments, median, *draws, true], dim=1)
    return Starts(coords, torch.ones(len(cutouts), dtype=torch.bool))


@dataclass
class Fits:
    """The fits of a set in the ways compared, part by part, and what they cost.

    Args:
        fits, costs: of each way, one entry a part; costs are what the fit minimises.
        seconds: CPU seconds of each network and of the fits from each kind of initial values.
        wide: galaxies whose posterior is so wide that its draws are tried too.
    """

    fits: dict[str, list[Fit]] = field(default_factory=lambda: {way: [] for way in WAYS})
    costs: dict[str, list[Any]] = field(default_factory=lambda: {way: [] for way in WAYS})
    seconds: Counter[str] = field(default_factory=Counter)
    wide: int = 0

    def add(self, part: hf.Cutouts, truth: torch.Tensor, networks: dict[str, Estimator]) -> None:
        """Fit some galaxies in all ways."""
        starts: dict[str, Starts | None] = {"moments": None}
        expected = {}
        for name, network in networks.items():
            with self.timed(name):
                expected[name] = expectation(part, network)
                starts[name] = starts_of_one(expected[name].coords)
        self.wide += int(starts["posterior"].wide.sum())
        fits = {}
        for name, given in starts.items():
            with self.timed(f"fit from {name}"):
                fits[name] = fit_cutouts(part, OPTIONS, starts=given)
            fits[f"{name}, one start"] = fit_cutouts(part, BARE, starts=given)
        eight = eight_starts(part, expected["posterior"], truth)
        fits["eight"] = fit_cutouts(part, OPTIONS, starts=eight)
        for name, fit in fits.items():
            self.fits[name].append(fit)
            self.costs[name].append(objective(fit, part))

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Add the CPU seconds of a block to those of ``name``."""
        begin = time.process_time()
        yield
        self.seconds[name] += time.process_time() - begin


def summary(fits: list[Fit], above: np.ndarray, truth: np.ndarray) -> dict[str, Any]:
    """Return failures, and how far fits end above the best known minimum.

    Args:
        fits: of one way, all parts.
        above: (B,) what is minimised, above the least of all ways.
        truth: (B, 8).
    """
    theta = np.concatenate([fit.theta.numpy()[:, :7] for fit in fits])
    flags = np.concatenate([fit.flags.numpy() for fit in fits])
    bad = is_catastrophic(theta[:, 2], theta[:, 3], truth)
    return {
        "catastrophic": int(bad.sum()),
        "of them without a flag of the fit": int((bad & (flags == 0)).sum()),
        "within 1 of the best": round(float((above < WITHIN).mean()), 4),
        "worst": round(float(above.max()), 2),
    }


def measure(cutouts: hf.Cutouts, truth: torch.Tensor, estimator: Estimator) -> dict[str, Any]:
    """Fit a set in the ways compared, and return the figures of each."""
    networks = {"posterior": estimator, "initial": starting_part(estimator, "covariance")}
    done = Fits()
    for low in range(0, len(cutouts), AT_ONCE):
        rows = slice(low, low + AT_ONCE)
        done.add(cutouts[rows], truth[rows], networks)
    cost = {name: np.concatenate(values) for name, values in done.costs.items()}
    best = np.minimum.reduce(list(cost.values()))
    result: dict[str, Any] = {"galaxies": len(cutouts), "wide": done.wide}
    for name, fits in done.fits.items():
        result[name] = summary(fits, cost[name] - best, truth.numpy())
        if "one start" in name:
            counts = np.concatenate([fit.n_iter.numpy() for fit in fits])
            result[name]["evaluations, mean"] = round(float(counts.mean()), 2)
            result[name]["evaluations, median"] = float(np.median(counts))
    seconds = done.seconds
    result["CPU ms a galaxy"] = {k: round(1e3 * v / len(cutouts), 2) for k, v in seconds.items()}
    for name in networks:
        total = seconds[name] + seconds[f"fit from {name}"]
        result[f"share of the network: {name}"] = round(seconds[name] / total, 3)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", type=Path, help="instead of the package's")
    parser.add_argument("--fields", type=int, default=600)
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
    simulated = simulate_fields(2 * given.fields, 4242, options)
    hidden = int(Kind.NEIGHBOUR | Kind.ARTEFACT | Kind.STRUCTURE)
    rows = ((simulated.kind & hidden) == 0).nonzero()[: given.fields, 0]
    simulated = simulated[rows.tolist()]
    sets["fields"] = (simulated.cutouts, simulated.theta)
    for name, (cutouts, truth) in sets.items():
        figures[name] = measure(cutouts, truth, estimator)
        print(name)
        for key, value in figures[name].items():
            print(f"    {key}: {value}")
    print(write_result("initial_values", figures))


if __name__ == "__main__":
    main()
