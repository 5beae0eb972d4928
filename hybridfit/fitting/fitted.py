"""A fit with its problem and optimum, for sampling, errors and fluxes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from hybridfit.batch import Batch
from hybridfit.data.cutouts import Cutouts
from hybridfit.data.fit import Fit
from hybridfit.fitting.build_problem import build_problem, problem_rows
from hybridfit.fitting.galaxy_scenes import scenes_of
from hybridfit.fitting.linearised import Linearised, linearise, whitened_point
from hybridfit.fitting.modes import Modes, modes_of
from hybridfit.fitting.options import FitOptions
from hybridfit.fitting.problem import Problem
from hybridfit.fitting.solution import Solution


@dataclass(frozen=True)
class Fitted(Batch):
    """Galaxies that were fitted as one problem.

    Sampling, error budget, bootstrap and fluxes take the problem, PSF transfer included, and its
    optimum from here: nothing is built or inverted again.

    Args:
        rows: (b,) int64, which galaxies of the batch these are.
        cutouts: on the device that computes.
        problem: what was minimised.
        whitened, linear: (b, P) and (b, L) the optimum in the problem's own terms; NaN without a
            fit, ``linear`` also where a component has no light.
        fit: the same in physical parameters, on the CPU.
        candidates: (b, M, P) whitened points in or near other minima, NaN where there is none; None
            where only one was looked for.
    """

    rows: Tensor
    cutouts: Cutouts
    problem: Problem
    whitened: Tensor
    linear: Tensor
    fit: Fit
    candidates: Tensor | None = None

    @cached_property
    def modes(self) -> Modes | None:
        """All minima, the fit first; None where only one was looked for."""
        if self.candidates is None:
            return None
        with torch.inference_mode():
            return modes_of(self.problem, self.whitened, self.candidates)

    def linearise(self) -> Linearised:
        """Return the model's derivatives at the optimum."""
        return linearise(self.problem, self.cutouts, self.whitened, self.linear)


def fitted(
    rows: Tensor,
    cutouts: Cutouts,
    problem: Problem,
    solution: Solution,
    fit: Fit,
    candidates: Tensor | None = None,
) -> Fitted:
    """Return the galaxies ``rows`` with their problem, its solution, and the fit made of that."""
    known = torch.isfinite(fit.chi2)[:, None]
    each = torch.arange(len(known), device=known.device)
    lit = problem.fluxes(solution.whitened, solution.linear, each) > 0
    return Fitted(
        rows,
        cutouts,
        problem,
        torch.where(known, solution.whitened, torch.nan),
        torch.where(known & lit.all(dim=1)[:, None], solution.linear, torch.nan),
        fit.to("cpu"),
        candidates,
    )


def rebuilt(
    fit: Fit,
    cutouts: Cutouts,
    options: FitOptions = FitOptions(),
    device: torch.device | str = "cpu",
    compile: bool = False,
) -> Iterator[Fitted]:
    """Yield fits that come without their problems, as from a table, with these built again.

    Args:
        fit: of B galaxies, made with ``options``, on the CPU.
        cutouts: the same galaxies.
        options, device, compile: see `hybridfit.fitting.build_problem.build_problem`.

    Raises:
        ValueError: if there are not as many fits as galaxies.
    """
    if len(fit) != len(cutouts):
        raise ValueError(f"{len(fit)} fits came for {len(cutouts)} galaxies, expected one each")
    for rows in problem_rows(cutouts, options):
        yield _rebuilt_part(rows, cutouts[rows], fit[rows], options, device, compile)


@torch.inference_mode()
def _rebuilt_part(
    rows: Tensor,
    cutouts: Cutouts,
    fit: Fit,
    options: FitOptions,
    device: torch.device | str,
    compile: bool,
) -> Fitted:
    """Fits of galaxies that share a problem."""
    scene = scenes_of(cutouts, options)
    cutouts = cutouts.to(device)
    scene = None if scene is None else scene.to(device)
    theta = None if scene is None else fit.theta.to(device)
    problem = build_problem(cutouts, options, compile, scene, theta)
    whitened, linear = whitened_point(fit.to(device), problem, cutouts)
    return Fitted(rows, cutouts, problem, whitened, linear, fit)
