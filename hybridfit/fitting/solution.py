"""From where the optimiser stopped to physical parameters and their covariance."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from hybridfit.data.batch import Batch
from hybridfit.data.cutouts import Cutouts
from hybridfit.data.fit import Fit
from hybridfit.fitting.cholesky import scaled_cholesky
from hybridfit.fitting.lm import Minimum
from hybridfit.fitting.problem import Problem
from hybridfit.rendering.sky import sky_units

DARK = 1e9  # what a component without light costs: any fit with light in all of them is better


@dataclass(frozen=True)
class Solution(Batch):
    """The minimum of B galaxies in the problem's own terms.

    Args:
        whitened: (B, P).
        linear: (B, L) fluxes and sky terms in units of the noise.
        information: (B, P + L, P + L) J^T W J by whitened and linear parameters, no prior.
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
    linear, joint, data_cost = minimum.normal.carry
    n_nonlinear = problem.space.n_nonlinear
    whitened, last_step = problem.to_whitened(minimum.point), minimum.last_step
    if problem.surface is not None:
        tangent = problem.surface.to_whitened(minimum.point)[1]
        last_step = (tangent @ last_step[:, :, None])[:, :, 0]
    chain = problem.space.from_whitened(whitened, problem.box)[1]
    full = torch.zeros_like(joint)
    full[:, :n_nonlinear, :n_nonlinear] = chain
    index = torch.arange(n_nonlinear, joint.shape[1], device=joint.device)
    full[:, index, index] = 1.0
    information = full.transpose(1, 2) @ joint @ full
    step = last_step[:, :, None]
    cross, inner = (
        information[:, n_nonlinear:, :n_nonlinear],
        information[:, n_nonlinear:, n_nonlinear:],
    )
    response = -_within(inner, cross @ step, problem)[:, :, 0]
    normal, step = minimum.normal, minimum.last_step[:, :, None]
    fall = (normal.gradient[:, None] @ step)[:, 0, 0]
    fall = fall + 0.5 * (step.transpose(1, 2) @ normal.hessian @ step)[:, 0, 0]
    flux = (linear + response)[:, : len(problem.space.shapes)]
    dark = (flux <= 0).any(dim=1) & (flux.shape[1] > 1)
    return Solution(
        whitened,
        linear + response,
        information,
        2 * (data_cost + fall),
        normal.cost + fall + dark * DARK,
        minimum.n_iter,
        minimum.converged,
    )


def to_fit(solution: Solution, problem: Problem, cutouts: Cutouts, sky_value: float) -> Fit:
    """Return parameters in cutout pixels, their covariance, chi2; no flags of its own yet."""
    space, pixels = problem.space, problem.pixels
    n_nonlinear, n_flux = space.n_nonlinear, len(space.shapes)
    coords, chain = space.from_whitened(solution.whitened, problem.box)
    covariance = joint_covariance(solution, problem)
    unit = flux_units(problem, cutouts)
    linear = (unit @ solution.linear[:, :, None])[:, :, 0]
    if space.n_sky == 0:
        linear = torch.cat([linear, torch.full_like(linear[:, :1], sky_value)], dim=1)
    else:
        linear[:, n_flux] += pixels.background
    linear[:, :n_flux] = torch.where(linear[:, :n_flux] > 0, linear[:, :n_flux], torch.nan)
    theta, slope = space.to_physical(coords, linear, cutouts.zeropoint)
    # whitened and linear -> render and flux units -> physical; a fixed sky has no column
    total = n_nonlinear + space.n_linear
    inner = torch.zeros(len(coords), total, total, dtype=coords.dtype, device=coords.device)
    inner[:, :n_nonlinear, :n_nonlinear] = chain
    inner[:, n_nonlinear:, n_nonlinear:] = unit
    jacobian = slope[:, :, :total] @ inner
    covariance = jacobian @ covariance @ jacobian.transpose(1, 2)
    used = (pixels.weight > 0).flatten(1).sum(dim=1)
    n_fixed = 0 if problem.surface is None else problem.surface.count
    bad = ~torch.isfinite(solution.cost) | (used <= total)
    theta = torch.where(bad[:, None], torch.nan, theta)
    return Fit(
        space,
        theta,
        torch.where(bad[:, None, None], torch.nan, covariance),
        torch.where(bad, torch.nan, solution.chi2),
        used - total + n_fixed,
        solution.n_iter,
        cutouts.flags,
    )


def physical_points(points: Tensor, problem: Problem, cutouts: Cutouts) -> Tensor:
    """Physical parameters of many points of each galaxy.

    Args:
        points: (B, S, C) whitened coordinates, then fluxes and sky terms in units of the noise.
        problem: of the B galaxies.
        cutouts: the same galaxies.

    Returns:
        (B, S, Q) in cutout pixels; NaN for a magnitude without flux.
    """
    space, (batch, count, _) = problem.space, points.shape
    n_flux = len(space.shapes)
    linear = points[..., space.n_nonlinear :] @ flux_units(problem, cutouts).mT
    if space.n_sky == 0:
        linear = torch.cat([linear, torch.zeros_like(linear[..., :1])], dim=2)
    linear[..., n_flux] += problem.pixels.background[:, None]
    linear[..., :n_flux] = torch.where(linear[..., :n_flux] > 0, linear[..., :n_flux], torch.nan)
    each = torch.arange(batch, device=points.device).repeat_interleave(count)
    coords, _ = space.from_whitened(
        points[..., : space.n_nonlinear].flatten(0, 1), problem.box[each]
    )
    theta, _ = space.to_physical(coords, linear.flatten(0, 1), cutouts.zeropoint[each])
    return theta.view(batch, count, -1)


def flux_units(problem: Problem, cutouts: Cutouts) -> Tensor:
    """(B, L, L) that turns linear parameters into flux, sky at the cutout's centre, sky slopes."""
    space, grid = problem.space, problem.grid
    unit = torch.diag_embed(problem.pixels.scale[:, None].expand(-1, space.n_linear)).clone()
    if space.n_sky:
        sky = slice(len(space.shapes), None)
        unit[:, sky, sky] @= sky_units(space.n_sky, cutouts.size, grid.height, grid.width)
    return unit


def joint_covariance(solution: Solution, problem: Problem) -> Tensor:
    """(B, P + L, P + L) covariance of whitened and linear parameters, 0 for what is fixed.

    It is the inverse of the information, with the prior's unit precision on the whitened ones.
    """
    n_nonlinear, device = problem.space.n_nonlinear, solution.whitened.device
    precision = torch.zeros(solution.information.shape[1], dtype=torch.float64)
    # maximum likelihood: next to nothing, so that a flat direction gives a huge error, not none
    precision[:n_nonlinear] = problem.prior_weight or 1e-6
    matrix = solution.information + torch.diag(precision).to(device)
    eye = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=device).expand_as(matrix)
    return _within(matrix, eye, problem, joint=solution.whitened)


def _within(matrix: Tensor, right: Tensor, problem: Problem, joint: Tensor | None = None) -> Tensor:
    """Solve systems of linear parameters, or with ``joint`` (B, P) of whitened and linear ones.

    Where parameters are fixed it is solved for those directions that are free.
    """
    surface = problem.surface
    if surface is None:
        return solve(matrix, right)
    span = surface.span
    if joint is not None:
        n_nonlinear = joint.shape[1]
        span = torch.zeros_like(matrix)
        span[:, :n_nonlinear, :n_nonlinear] = surface.to_whitened(surface.coordinates(joint))[1]
        span[:, n_nonlinear:, n_nonlinear:] = surface.span
    return span @ solve(span.mT @ matrix @ span, span.mT @ right)


def solve(matrix: Tensor, right: Tensor) -> Tensor:
    """Solve symmetric positive systems; entries that are not finite count as 0."""
    finite = torch.where(torch.isfinite(matrix), matrix, 0.0)
    factor, scale = scaled_cholesky(finite, 1e-10)
    scale = scale[:, :, None]
    return scale * torch.cholesky_solve(scale * right, factor)
