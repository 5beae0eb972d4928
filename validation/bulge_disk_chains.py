"""Is the posterior of bulge + disk that of long MCMC chains, also where it has several modes?

    OMP_NUM_THREADS=1 python -m validation.bulge_disk_chains --cache FOLDER [--galaxies N]

Eight galaxies of ../shared/data/scenes/bd.npz, the middle 48 x 48 pixels of each. The chains share
the likelihood and the prior with what is tested, but neither proposal nor starts: their walkers
start at minima that many random draws of the prior lead to, in proportion to their integrals, and
move by emcee's differential evolution. Each galaxy is sampled many times under different ids, and
means and widths are averaged, for the noise of single runs would hide a bias.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import hybridfit as hf
from hybridfit.calibration.sbc_samples import circular_median
from hybridfit.fitting.fit import fit_parts
from hybridfit.fitting.lm import LMOptions, minimise
from hybridfit.fitting.options import FitOptions
from hybridfit.fitting.problem import Problem
from hybridfit.fitting.solution import joint_covariance, physical_points, solution_of
from validation.bulge_disk import MODEL, load
from validation.common import write_result
from validation.measured_draws import measured
from validation.posterior_checks import moments
from validation.reference_chains import log_posterior

Array = NDArray[np.float64]

ROWS = (9, 23, 8, 36, 5, 26, 6, 76)  # S/N 125-979, with one mode and with several
SIDE = 48  # pix
STARTS = 32  # draws of the prior whose minima the walkers start from
WALKERS, STEPS, BURN = 32, 1600, 300
REPEATS = 8
MEAN, WIDTH = 0.15, 0.10  # required agreement: in sigma, and relative


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cache", type=Path, required=True, help="folder of chains")
    parser.add_argument("--galaxies", type=int, default=len(ROWS), help="first so many")
    given = parser.parse_args()
    torch.set_num_threads(1)
    given.cache.mkdir(parents=True, exist_ok=True)
    sims = load("scenes", max(ROWS) + 1)
    rows = {}
    for row in ROWS[: given.galaxies]:
        rows[str(row)] = compared(cut(sims, row), row, given.cache)
        print(row, rows[str(row)], flush=True)
    print(write_result("bulge_disk_chains", {**summary(rows), "rows": rows}))


def cut(sims: dict[str, NDArray[Any]], row: int) -> hf.Cutouts:
    """Return the middle of one galaxy."""
    first = (sims["data"].shape[1] - SIDE) // 2
    middle = slice(first, first + SIDE)
    psf = sims["psf"][[row]]
    return hf.Cutouts(
        image=sims["data"][[row], middle, middle],
        sigma=sims["sigma"][[row], middle, middle],
        psf=psf / psf.sum(axis=(1, 2), keepdims=True),
        zeropoint=np.full(1, 22.5),
        id=[f"bd-{row}"],
    )


def compared(cutouts: hf.Cutouts, row: int, cache: Path) -> dict[str, Any]:
    """Return differences of mean, half of p84 - p16 and deviation, of each parameter."""
    path = cache / f"chain_{row}.npz"
    if not path.exists():
        temporary = path.with_suffix(f".{os.getpid()}.tmp.npz")
        with torch.inference_mode():
            np.savez(temporary, **sampled(cutouts))
        temporary.replace(path)
    with np.load(path) as data:
        chain, tau = data["samples"], float(data["tau"])
    copies = hf.Cutouts(
        image=cutouts.image.expand(REPEATS, -1, -1),
        sigma=cutouts.sigma.expand(REPEATS, -1, -1),
        psf=cutouts.psf,
        zeropoint=cutouts.zeropoint.expand(REPEATS),
        id=[f"bd-{row}-{k}" for k in range(REPEATS)],
    )
    found = measured(copies, "budget-free", FitOptions(MODEL))
    names = FitOptions(MODEL).space.roles
    theirs, ours = np.empty((3, len(names))), np.empty((3, REPEATS, len(names)))
    for j, role in enumerate(names):
        kind = role if role != "shape" else "n"
        about = circular_median(chain[None, :, j], 180.0) if role == "pa" else np.zeros(1)
        theirs[:, j] = moments(chain[None, :, [j]], None, about, (kind,))[:, 0, 0]
        ours[:, :, j] = moments(found.samples[..., [j]], found.weights, about, (kind,))[..., 0]
    off = np.stack([(ours[0] - theirs[0]) / theirs[2], *(ours[1:] / theirs[1:, None] - 1)])
    return {
        "ess": round(float(np.mean(found.table["ess"])), 1),
        "tau": round(tau, 1),
        "independent": round(WALKERS * (STEPS - BURN) / tau),
        "B/T of the chain, 2.5 16 50 84 97.5 %": shares(chain, None),
        "B/T, the same": shares(found.samples.reshape(-1, len(names)), found.weights.ravel()),
        **{
            kind: dict(zip(found.names, values.mean(axis=0).round(3).tolist(), strict=True))
            for kind, values in zip(("mean", "half of p84 - p16", "deviation"), off, strict=True)
        },
    }


def shares(samples: Array, weights: Array | None) -> list[float]:
    """Return quantiles of the bulge's share of the light of draws (S, Q)."""
    names = FitOptions(MODEL).space.names
    mags = [samples[:, names.index(f"{part}_mag")] for part in ("bulge", "disk")]
    share = 1 / (1 + 10 ** (0.4 * (mags[0] - mags[1])))
    weight = np.ones(len(share)) if weights is None else weights
    good = np.isfinite(share) & (weight > 0)
    order = np.argsort(share[good])
    total = np.cumsum(weight[good][order])
    levels = np.array([0.025, 0.16, 0.5, 0.84, 0.975])
    return np.interp(levels, total / total[-1], share[good][order]).round(3).tolist()


def sampled(cutouts: hf.Cutouts) -> dict[str, NDArray[Any]]:
    """Return samples (S, Q) of an emcee chain of one galaxy."""
    import emcee

    fitted = next(fit_parts(cutouts, FitOptions(MODEL)))
    problem = fitted.problem
    before = time.process_time()

    def density(points: Array) -> Array:
        return log_posterior(problem, torch.from_numpy(points)).numpy()

    first = walkers(problem)
    sampler = emcee.EnsembleSampler(
        WALKERS,
        first.shape[1],
        density,
        moves=[(emcee.moves.DEMove(), 0.9), (emcee.moves.StretchMove(), 0.1)],
        vectorize=True,
    )
    sampler.random_state = np.random.RandomState(1).get_state()
    sampler.run_mcmc(first.numpy(), STEPS, skip_initial_state_check=True)
    tau = float(np.max(sampler.get_autocorr_time(tol=0, discard=BURN)))
    flat = torch.from_numpy(sampler.get_chain(discard=BURN, thin=10, flat=True))
    return {
        "samples": conditional(problem, cutouts, flat).numpy(),
        "tau": np.array(tau),
        "seconds": np.array(time.process_time() - before),
    }


def walkers(problem: Problem) -> Tensor:
    """Return first points (W, P) at minima that draws of the prior lead to."""
    random = torch.Generator().manual_seed(0)
    size = (STARTS, problem.space.n_nonlinear)
    starts = 0.7 * torch.randn(size, generator=random, dtype=torch.float64)
    row = torch.zeros(STARTS, dtype=torch.int64)
    minimum = minimise(lambda u, some: problem(u, row[some]), starts, LMOptions())
    solution = solution_of(minimum, problem[row])
    covariance = joint_covariance(solution, problem)
    evidence = 0.5 * torch.linalg.slogdet(covariance)[1] - solution.cost
    # of each minimum once, however many starts lead to it
    order = evidence.argsort(descending=True)
    kept: list[int] = []
    for k in order.tolist():
        offset = solution.whitened[kept] - solution.whitened[k]
        if not kept or float(offset.norm(dim=1).min()) > 0.1:
            kept.append(k)
    pick = torch.multinomial(torch.softmax(evidence[kept], 0), WALKERS, True, generator=random)
    chosen = torch.tensor(kept)[pick]
    p = size[1]
    factor = torch.linalg.cholesky(covariance[chosen, :p, :p])
    noise = torch.randn(WALKERS, p, 1, generator=random, dtype=torch.float64)
    return solution.whitened[chosen] + (factor @ noise)[:, :, 0]


def conditional(problem: Problem, cutouts: hf.Cutouts, whitened: Tensor) -> Tensor:
    """Return physical parameters (S, Q), fluxes and sky drawn given the others."""
    row = torch.zeros(len(whitened), dtype=torch.int64)
    found = problem.profile(whitened, row)
    random = torch.Generator().manual_seed(1)
    noise = torch.randn(found.linear.shape, generator=random, dtype=torch.float64)
    step = torch.linalg.solve_triangular(found.factor.mT, noise[:, :, None], upper=True)
    linear = found.linear + step[:, :, 0]
    values = physical_points(torch.cat([whitened, linear], dim=1)[None], problem, cutouts)[0]
    return values[torch.isfinite(values).all(dim=1)]


def summary(rows: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return how many means and widths agree."""
    report: dict[str, Any] = {"galaxies": len(rows)}
    for kind, required in (("mean", MEAN), ("half of p84 - p16", WIDTH), ("deviation", WIDTH)):
        off = np.abs([list(row[kind].values()) for row in rows.values()])
        report[kind] = {
            "required": required,
            "median": round(float(np.median(off)), 3),
            "worst": round(float(off.max()), 3),
            "beyond": int((off > required).sum()),
            "of": int(off.size),
        }
    return report


if __name__ == "__main__":
    main()
