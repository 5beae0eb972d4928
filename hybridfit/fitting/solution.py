"""From where the optimiser stopped to physical parameters and their covariance."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from hybridfit.batch import Batch
from hybridfit.data.cutouts import Cutouts
from hybridfit.data.fit import Fit
from hybridfit.fitting.cholesky import scaled_cholesky
from hybridfit.fitting.lm import Minimum
from hybridfit.fitting.problem import Problem
from hybridfit.model.parameters import ParameterSpace
from hybridfit.rendering.grid import Grid
from hybridfit.rendering.sky import sky_units

DARK = 1e9  # what a component without light costs: any fit with light in all of them is better


@dataclass(frozen=True)
class Solution(Batch):
    """The minimum of B galaxies in the problem's own terms.

    Args:
        whitened: (B, P).
        linear: (B, F) free fluxes and sky terms in units of the noise.
        information: (B, P + F, P + F) J^T W J by whitened and linear parameters, no prior.
        chi2: (B,) at the minimum.
        cost: (B,) half of chi2 and the prior, what is compared between tries; of several
            components far more where one of them has no light, or takes some away.
        n_iter, converged: (B,).
    """

    whitened: Tensor
    linear: Tensor
    information: Tensor
    chi2: Tensor
    cost: Tensor
    n_iter: Tensor
    converged: Tensor

    def improved(self, rows: Tensor, other: Solution) -> Solution:
        """Take ``other`` in those of ``rows`` where its cost is lower; count all iterations."""
        lower = other.cost < self.cost[rows] - 1e-3
        # a try that did converge beats one that did not at the same cost
        lower |= other.converged & ~self.converged[rows] & (other.cost < self.cost[rows] + 0.05)
        where, chosen = rows[lower], lower.nonzero()[:, 0]
        values = {
            f.name: getattr(self, f.name).index_copy(0, where, getattr(other, f.name)[chosen])
            for f in fields(self)
        }
        values["n_iter"] = self.n_iter.index_add(0, rows, other.n_iter)
        return replace(self, **values)


def solution_of(minimum: Minimum, problem: Problem) -> Solution:
    """Collect a minimum; the last small step is taken along in the linear parameters too."""
    linear, information, data_cost = minimum.normal.carry
    whitened, normal = minimum.point, minimum.normal
    rows = torch.arange(len(whitened), device=whitened.device)
    n_nonlinear = whitened.shape[1]
    jacobian = problem.expand(whitened, linear, rows).jacobian
    information = jacobian.mT @ information @ jacobian
    step = minimum.last_step[:, :, None]
    cross = information[:, n_nonlinear:, :n_nonlinear]
    linear = linear - solve(information[:, n_nonlinear:, n_nonlinear:], cross @ step)[:, :, 0]
    fall = (normal.gradient[:, None] @ step)[:, 0, 0]
    fall = fall + 0.5 * (step.mT @ normal.hessian @ step)[:, 0, 0]
    flux = problem.fluxes(whitened, linear, rows)
    dark = (flux <= 0).any(dim=1) & (flux.shape[1] > 1)
    return Solution(
        whitened,
        linear,
        information,
        2 * (data_cost + fall),
        normal.cost + fall + dark * DARK,
        minimum.n_iter,
        minimum.converged,
    )


def to_fit(solution: Solution, problem: Problem, cutouts: Cutouts) -> Fit:
    """Return parameters in cutout pixels, their covariance, chi2; no flags of its own yet."""
    space = problem.space
    theta, jacobian = physical(solution.whitened, solution.linear, problem, cutouts)
    covariance = jacobian @ joint_covariance(solution, problem) @ jacobian.mT
    used, total = problem.n_pixels, problem.n_parameters
    bad = ~torch.isfinite(solution.cost) | (used <= total)
    return Fit(
        space,
        torch.where(bad[:, None], torch.nan, theta),
        torch.where(bad[:, None, None], torch.nan, covariance),
        torch.where(bad, torch.nan, solution.chi2),
        used - total,
        solution.n_iter,
        cutouts.flags,
    )


def physical(
    whitened: Tensor, linear: Tensor, problem: Problem, cutouts: Cutouts
) -> tuple[Tensor, Tensor]:
    """Return physical parameters (B, Q) of points, and their derivatives (B, Q, P + F).

    Args:
        whitened, linear: (B, P) and (B, F) the points, one for each galaxy; ``linear`` in units of
            the noise.
        problem: of the B galaxies.
        cutouts: the same galaxies.
    """
    space = problem.space
    here = problem.expand(whitened, linear, torch.arange(len(whitened), device=whitened.device))
    unit = flux_units(problem, cutouts)
    value = _flux_and_sky(here.terms[:, None], unit, problem)[:, 0]
    theta, slope = space.to_physical(here.coords, value, cutouts.zeropoint)
    by_free = here.jacobian.clone()
    by_free[:, space.n_coords :] = unit @ here.jacobian[:, space.n_coords :]
    return theta, slope[:, :, : by_free.shape[1]] @ by_free


def physical_points(points: Tensor, problem: Problem, cutouts: Cutouts) -> Tensor:
    """Physical parameters of many points of each galaxy.

    Args:
        points: (B, S, P + F) whitened coordinates, then free fluxes and sky terms in units of the
            noise.
        problem: of the B galaxies.
        cutouts: the same galaxies.

    Returns:
        (B, S, Q) in cutout pixels; NaN for a magnitude without flux.
    """
    space, (batch, count, _) = problem.space, points.shape
    each = torch.arange(batch, device=points.device).repeat_interleave(count)
    whitened, linear = points.flatten(0, 1).split([space.n_nonlinear, space.n_linear], dim=1)
    coords, terms = problem.located(whitened, linear, each)
    terms = terms.view(batch, count, -1)
    value = _flux_and_sky(terms, flux_units(problem, cutouts), problem).flatten(0, 1)
    theta, _ = space.to_physical(coords, value, cutouts.zeropoint[each])
    return theta.view(batch, count, -1)


def _flux_and_sky(terms: Tensor, unit: Tensor, problem: Problem) -> Tensor:
    """Return fluxes, NaN where there is none, and the sky, also where it is fixed (B, S, L).

    Args:
        terms: (B, S, L) of the problem, units of the noise.
        unit: (B, L, L) of `flux_units`.
        problem: of the B galaxies.
    """
    n_flux = problem.space.n_components
    value = terms @ unit.mT
    if problem.space.n_sky == 0:
        value = torch.cat([value, torch.zeros_like(value[..., :1])], dim=2)
    value[..., n_flux] += problem.pixels.background[:, None]
    value[..., :n_flux] = torch.where(value[..., :n_flux] > 0, value[..., :n_flux], torch.nan)
    return value


def flux_units(problem: Problem, cutouts: Cutouts) -> Tensor:
    """(B, L, L) that turns linear parameters into flux, sky at the cutout's centre, sky slopes."""
    space, grid = problem.space, problem.grid
    return term_units(space, grid, cutouts, problem.pixels.scale)


def term_units(space: ParameterSpace, grid: Grid, cutouts: Cutouts, scale: Tensor) -> Tensor:
    """Return `flux_units` of a problem that is not built yet.

    Args:
        space, grid: of the problem.
        cutouts: B galaxies.
        scale: (B,) flux unit of the problem.
    """
    unit = torch.diag_embed(scale[:, None].expand(-1, space.n_terms)).clone()
    if space.n_sky:
        sky = slice(space.n_components, None)
        unit[:, sky, sky] @= sky_units(space.n_sky, cutouts.size, grid.height, grid.width)
    return unit


def joint_covariance(solution: Solution, problem: Problem) -> Tensor:
    """(B, P + F, P + F) covariance of whitened and free linear parameters.

    It is the inverse of the information, with the prior's unit precision on the whitened ones.
    """
    n_nonlinear, device = problem.space.n_nonlinear, solution.whitened.device
    precision = torch.zeros(solution.information.shape[1], dtype=torch.float64)
    # maximum likelihood: next to nothing, so that a flat direction gives a huge error, not none
    precision[:n_nonlinear] = problem.prior_weight or 1e-6
    matrix = solution.information + torch.diag(precision).to(device)
    eye = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=device).expand_as(matrix)
    return solve(matrix, eye)


def solve(matrix: Tensor, right: Tensor) -> Tensor:
    """Solve symmetric positive systems; entries that are not finite count as 0."""
    finite = torch.where(torch.isfinite(matrix), matrix, 0.0)
    factor, scale = scaled_cholesky(finite, 1e-10)
    scale = scale[:, :, None]
    return scale * torch.cholesky_solve(scale * right, factor)
