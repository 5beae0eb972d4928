"""From where the optimiser stopped to physical parameters and their covariance."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from hybridfit.cutouts import Cutouts
from hybridfit.fitting.lm import Minimum
from hybridfit.fitting.problem import Problem
from hybridfit.results import Fit


@dataclass(frozen=True)
class Solution:
    """The minimum of B galaxies in the problem's own terms.

    Args:
        free: (B, P).
        linear: (B, L) fluxes and sky terms in units of the noise.
        information: (B, P + L, P + L) J^T W J by free and linear parameters, no prior.
        chi2: (B,) at the minimum.
        cost: (B,) half of chi2 and the prior, what is compared between tries.
        n_iter, converged: (B,).
    """

    free: Tensor
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
    n_free = problem.space.n_free
    chain = problem.space.to_raw(minimum.point, problem.box)[1]
    full = torch.zeros_like(joint)
    full[:, :n_free, :n_free] = chain
    index = torch.arange(n_free, joint.shape[1], device=joint.device)
    full[:, index, index] = 1.0
    information = full.transpose(1, 2) @ joint @ full
    step = minimum.last_step[:, :, None]
    cross, inner = information[:, n_free:, :n_free], information[:, n_free:, n_free:]
    response = -solve(inner, cross @ step)[:, :, 0]
    normal = minimum.normal
    fall = (normal.gradient[:, None] @ step)[:, 0, 0]
    fall = fall + 0.5 * (step.transpose(1, 2) @ normal.hessian @ step)[:, 0, 0]
    return Solution(
        minimum.point,
        linear + response,
        information,
        2 * (data_cost + fall),
        normal.cost + fall,
        minimum.n_iter,
        minimum.converged,
    )


def to_fit(solution: Solution, problem: Problem, cutouts: Cutouts, sky_value: float) -> Fit:
    """Return parameters in stamp pixels, their covariance, chi2; no flags of its own yet."""
    space, pixels = problem.space, problem.pixels
    n_free, n_flux = space.n_free, len(space.shapes)
    raw, chain = space.to_raw(solution.free, problem.box)
    covariance = _covariance(solution.information, n_free, problem.prior_weight)
    unit = flux_units(problem, cutouts)
    linear = (unit @ solution.linear[:, :, None])[:, :, 0]
    if space.sky == "fixed":
        linear = torch.cat([linear, torch.full_like(linear[:, :1], sky_value)], dim=1)
    else:
        linear[:, n_flux] += pixels.pedestal
    linear[:, :n_flux] = torch.where(linear[:, :n_flux] > 0, linear[:, :n_flux], torch.nan)
    theta, slope = space.to_physical(raw, linear, cutouts.zeropoint)
    # free and linear -> raw and flux units -> physical; a fixed sky has no column of its own
    total = n_free + space.n_linear
    inner = torch.zeros(len(raw), total, total, dtype=raw.dtype, device=raw.device)
    inner[:, :n_free, :n_free] = chain
    inner[:, n_free:, n_free:] = unit
    jacobian = slope[:, :, :total] @ inner
    covariance = jacobian @ covariance @ jacobian.transpose(1, 2)
    used = (pixels.weight > 0).flatten(1).sum(dim=1)
    bad = ~torch.isfinite(solution.cost) | (used <= total)
    theta = torch.where(bad[:, None], torch.nan, theta)
    return Fit(
        space,
        theta,
        torch.where(bad[:, None, None], torch.nan, covariance),
        torch.where(bad, torch.nan, solution.chi2),
        used - total,
        solution.n_iter,
        cutouts.flags,
    )


def physical_points(points: Tensor, problem: Problem, cutouts: Cutouts) -> Tensor:
    """Physical parameters of many points of each galaxy.

    Args:
        points: (B, S, C) free parameters, then fluxes and sky terms in units of the noise.
        problem: of the B galaxies.
        cutouts: the same galaxies.

    Returns:
        (B, S, Q) in stamp pixels; NaN for a magnitude without flux.
    """
    space, (batch, count, _) = problem.space, points.shape
    n_flux = len(space.shapes)
    linear = points[..., space.n_free :] @ flux_units(problem, cutouts).mT
    if space.sky == "fixed":
        linear = torch.cat([linear, torch.zeros_like(linear[..., :1])], dim=2)
    linear[..., n_flux] += problem.pixels.pedestal[:, None]
    linear[..., :n_flux] = torch.where(linear[..., :n_flux] > 0, linear[..., :n_flux], torch.nan)
    each = torch.arange(batch, device=points.device).repeat_interleave(count)
    raw, _ = space.to_raw(points[..., : space.n_free].flatten(0, 1), problem.box[each])
    theta, _ = space.to_physical(raw, linear.flatten(0, 1), cutouts.zeropoint[each])
    return theta.view(batch, count, -1)


def flux_units(problem: Problem, cutouts: Cutouts) -> Tensor:
    """(B, L, L) that turns linear parameters into flux, sky at the stamp's centre, sky slopes.

    The problem's sky slopes are over the sides of the padded stamp and about its middle.
    """
    space, grid = problem.space, problem.grid
    unit = torch.diag_embed(problem.pixels.scale[:, None].expand(-1, space.n_linear)).clone()
    if space.sky == "plane":
        level = len(space.shapes)
        padded = torch.tensor([grid.height, grid.width], device=unit.device)
        offset = (cutouts.size - padded).double() / 2  # y, x
        for column, axis, side in ((level + 1, 1, grid.width), (level + 2, 0, grid.height)):
            unit[:, column, column] /= side
            unit[:, level, column] = unit[:, column, column] * offset[:, axis]
    return unit


def free_covariance(solution: Solution, n_free: int, prior_weight: float) -> Tensor:
    """(B, P, P) covariance of the free parameters, the linear ones marginalised."""
    return _covariance(solution.information, n_free, prior_weight)[:, :n_free, :n_free]


def _covariance(information: Tensor, n_free: int, prior_weight: float) -> Tensor:
    """Inverse of the information, with the prior's unit precision on the free parameters."""
    precision = torch.zeros(information.shape[1], dtype=information.dtype)
    # maximum likelihood: next to nothing, so that a flat direction gives a huge error, not none
    precision[:n_free] = prior_weight or 1e-6
    matrix = information + torch.diag(precision).to(information.device)
    eye = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
    return solve(matrix, eye.expand_as(matrix))


def solve(matrix: Tensor, right: Tensor) -> Tensor:
    """Solve symmetric positive systems, scaled to a unit diagonal."""
    diagonal = torch.diagonal(matrix, dim1=1, dim2=2)
    scale = torch.where(diagonal > 0, diagonal, 1.0).rsqrt()[:, :, None]
    unit = matrix * scale * scale.transpose(1, 2)
    unit = torch.where(torch.isfinite(unit), unit, 0.0)
    eye = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
    factor, _ = torch.linalg.cholesky_ex(unit + 1e-10 * eye)
    return scale * torch.cholesky_solve(scale * right, factor)
