"""Long emcee chains of the posterior that the package samples, kept as npz.

The target is the fit's own, with pixels and arithmetic in float64: the stated prior, N(0, I) in
whitened coordinates, times the Gaussian likelihood, with flux and sky (flat priors) integrated out.
Nothing else is shared with what is tested: no proposal, no weights, no network. A chain of 64
walkers moves by differential evolution; flux and sky of its samples are drawn from their
conditional Gaussian.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import hybridfit as hf
from hybridfit.fitting.build_problem import build_problem
from hybridfit.fitting.fit import fit_cutouts
from hybridfit.fitting.linearised import whitened_point
from hybridfit.fitting.options import FitOptions
from hybridfit.fitting.problem import Problem
from hybridfit.fitting.solution import flux_units
from validation.calibration_sets import observe, truths
from validation.common import SIMS, load_sims

Array = NDArray[np.float64]

WALKERS = 64
WANTED = 2000  # independent samples: means to .022 sigma, widths to 1.6 %
STRIDE = 100  # steps between looks at the autocorrelation time
MOST = 12_000  # steps
KEPT = 8192  # samples written, after thinning
SNR = (10.0, 300.0)
COUNT = {
    64: 15,
    96: 3,
    128: 2,
}  # galaxies by side; those of 128 are of main.npz


def galaxies(cache: Path) -> Iterator[tuple[str, hf.Cutouts]]:
    """Yield twenty galaxies, spread evenly over the logarithm of S/N, small cutouts first."""
    left = dict(COUNT)
    if SIMS.is_dir():
        cutouts, _, snr = load_sims("main")
        rows = _spread(snr, left.pop(128))
        main = [(f"main-{i}", cutouts[[int(i)]]) for i in rows]
    else:
        main = []
    shards = {truth.side: truth for truth in truths(cache, 1000)}
    for side, count in left.items():
        cutouts, _ = observe(shards[side], "clean")
        for i in _spread(shards[side].snr, count):
            yield f"prior-{side}-{i}", cutouts[[int(i)]]
    yield from main


def _spread(snr: Array, count: int) -> list[int]:
    """Return the rows nearest to ``count`` values of S/N."""
    wanted = np.linspace(*np.log(SNR), count + 2)[1:-1]
    return [int(np.abs(np.log(snr) - value).argmin()) for value in wanted]


def chain(name: str, cutouts: hf.Cutouts, cache: Path) -> dict[str, NDArray]:
    """Return one galaxy's chain, from the cache or sampled: samples (S, Q), tau, acceptance."""
    path = cache / f"chain_{name}.npz"
    if not path.exists():
        temporary = path.with_suffix(f".{os.getpid()}.tmp.npz")
        with torch.inference_mode():
            np.savez(temporary, **_sample(cutouts))
        temporary.replace(path)
    with np.load(path) as data:
        return {key: data[key] for key in data.files}


def log_posterior(problem: Problem, whitened: Tensor) -> Tensor:
    """Return (b,) log densities of points (b, P) of the problem's one galaxy, up to a constant."""
    found = problem.profile(whitened, torch.zeros(len(whitened), dtype=torch.int64))
    volume = torch.diagonal(found.factor, dim1=1, dim2=2).log().sum(dim=1)
    value = -found.cost - volume - 0.5 * (whitened**2).sum(dim=1)
    return torch.where(torch.isfinite(value), value, -torch.inf)


def _sample(cutouts: hf.Cutouts) -> dict[str, NDArray]:
    import emcee

    options = FitOptions(precision="float64")
    problem = build_problem(cutouts, options, compile=True)
    fit = fit_cutouts(cutouts, options)
    centre, _ = whitened_point(fit, problem, cutouts)
    normal = problem(centre, torch.zeros(1, dtype=torch.int64))
    spread = torch.linalg.cholesky(torch.linalg.inv(normal.hessian[0]))
    rng = np.random.default_rng(0)
    noise = torch.from_numpy(rng.standard_normal((WALKERS, centre.shape[1])))
    before = time.process_time()
    sampler, burn, tau = _run(emcee, problem, (centre + noise @ spread.T).numpy())
    flat = torch.from_numpy(sampler.get_chain(discard=burn, flat=True))
    pick = torch.linspace(0, len(flat) - 1, min(KEPT, len(flat))).long()
    return {
        "samples": _physical(problem, cutouts, flat[pick], rng),
        "whitened": flat[pick].numpy(),
        "tau": np.array(tau),
        "independent": np.array((sampler.iteration - burn) * WALKERS / tau),
        "acceptance": np.array(sampler.acceptance_fraction.mean()),
        "seconds": np.array(time.process_time() - before),
    }


def _run(emcee: Any, problem: Problem, first: Array) -> tuple[Any, int, float]:
    """Run the walkers until enough samples are independent.

    Returns:
        The sampler, the steps to discard, and the autocorrelation time in steps.
    """
    # not DESnookerMove: emcee 3.1 gives it a direction that is not a unit vector and half the power
    # of its factor, so that it does not keep the target: a Gaussian comes out 2 % too narrow
    sampler = emcee.EnsembleSampler(
        WALKERS,
        first.shape[1],
        lambda x: log_posterior(problem, torch.from_numpy(x)).numpy(),
        moves=[(emcee.moves.DEMove(), 0.9), (emcee.moves.StretchMove(), 0.1)],
        vectorize=True,
    )
    sampler.random_state = np.random.RandomState(1).get_state()
    state = first
    while True:
        state = sampler.run_mcmc(state, STRIDE, skip_initial_state_check=True)
        tau = float(np.max(sampler.get_autocorr_time(tol=0)))
        steps = sampler.iteration
        burn = int(min(10 * tau, steps / 3))
        enough = steps > 30 * tau and (steps - burn) * WALKERS / tau > WANTED
        if enough or steps >= MOST:
            return sampler, burn, tau


def _physical(
    problem: Problem, cutouts: hf.Cutouts, whitened: Tensor, rng: np.random.Generator
) -> Array:
    """Return physical parameters (S, Q), flux and sky drawn from their conditional Gaussian."""
    found = problem.profile(whitened, torch.zeros(len(whitened), dtype=torch.int64))
    noise = torch.from_numpy(rng.standard_normal(tuple(found.linear.shape)))
    step = torch.linalg.solve_triangular(found.factor.mT, noise[:, :, None], upper=True)
    linear = found.linear[:, :, None] + step
    linear = (flux_units(problem, cutouts) @ linear)[:, :, 0]
    linear[:, problem.space.n_components] += problem.pixels.background
    coords, _ = problem.space.from_whitened(whitened, problem.constants)
    zeropoint = cutouts.zeropoint.expand(len(whitened))
    return problem.space.to_physical(coords, linear, zeropoint)[0].numpy()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cache", type=Path, required=True, help="folder of galaxies and chains")
    torch.set_num_threads(1)
    cache = parser.parse_args().cache
    for name, cutouts in galaxies(cache):
        found = chain(name, cutouts, cache)
        figures = {k: float(found[k]) for k in ("tau", "independent", "acceptance", "seconds")}
        print(name, {k: round(v, 3) for k, v in figures.items()}, flush=True)


if __name__ == "__main__":
    main()
