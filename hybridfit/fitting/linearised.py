"""The model about a point: its derivatives in every pixel, for what looks beyond chi2.

    model(c + d) = model(c) + J d,   c = (whitened u of each component, fluxes, sky terms)

Error terms and one-step refits are algebra with J, the residuals and the prior.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hybridfit.data.batch import Batch
from hybridfit.data.cutouts import Cutouts
from hybridfit.data.fit import Fit
from hybridfit.fitting.problem import Problem
from hybridfit.fitting.solution import flux_units, solve
from hybridfit.rendering.design_matrix import linear_columns, shape_columns


@dataclass(frozen=True)
class Linearised(Batch):
    """The model of B galaxies about their fits, in units of each pixel's noise.

    Args:
        columns: (B, C, H, W) d model / d c over sigma, 0 where masked.
        residual: (B, H, W) (data - model) over sigma, 0 where masked.
        information: (B, C, C) float64 J^T W J, without the prior.
        prior: (B, C, C) float64 precision of the prior.
        whitened: (B, P) float64, where the derivatives are taken; NaN for a galaxy without a fit.
        linear: (B, L) float64 fluxes and sky terms, units of the noise.
        to_physical: (B, Q, C) float64 derivatives of the physical parameters by c.
    """

    columns: Tensor
    residual: Tensor
    information: Tensor
    prior: Tensor
    whitened: Tensor
    linear: Tensor
    to_physical: Tensor

    @property
    def covariance(self) -> Tensor:
        """(B, C, C) inverse of information and prior."""
        matrix = self.information + self.prior
        eye = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
        return solve(matrix, eye.expand_as(matrix))


def whitened_point(fit: Fit, problem: Problem, cutouts: Cutouts) -> tuple[Tensor, Tensor]:
    """Free (B, P) and linear (B, L) parameters, in the problem's terms, of a fit.

    Args:
        fit: of the B galaxies of ``problem``.
        problem: see `hybridfit.fitting.build_problem.prepared`.
        cutouts: the same galaxies.
    """
    space = problem.space
    theta = fit.theta.to(problem.box)
    coords, linear = space.from_physical(theta, cutouts.zeropoint)
    if space.n_sky == 0:
        linear = linear[:, : len(space.shapes)]
    else:
        linear = linear.clone()
        linear[:, len(space.shapes)] -= problem.pixels.background
    unit = flux_units(problem, cutouts)
    return space.to_whitened(coords, problem.box), torch.linalg.solve(unit, linear[:, :, None])[
        :, :, 0
    ]


def linearise(
    problem: Problem, cutouts: Cutouts, whitened: Tensor, linear: Tensor | None = None
) -> Linearised:
    """Return the model's derivatives about points, one for each galaxy.

    Args:
        problem: of B galaxies.
        cutouts: the same galaxies.
        whitened: (B, P) float64; NaN gives NaN.
        linear: (B, L) units of the noise; default the best at ``whitened``.
    """
    space, pixels = problem.space, problem.pixels
    coords, chain = space.from_whitened(whitened, problem.box)
    rows = torch.arange(len(whitened), device=whitened.device)
    best = problem.profile(whitened, rows).linear if linear is None else linear
    columns, residuals = [], []
    for pick, used, images in problem.images(coords, rows, jacobian=True):
        images = [image[:used] for image in images]
        level = best[pick[:used]].to(images[0].dtype)
        one, other = _columns(images, level, pixels.sky, chain[pick[:used]])
        weight = pixels.weight[pick[:used]]
        columns.append(one * weight[:, None])
        residuals.append((pixels.data[pick[:used]] - other) * weight)
    column, residual = torch.cat(columns), torch.cat(residuals)
    flat = column.flatten(2)
    information = (flat @ flat.transpose(1, 2)).double()
    n_nonlinear, total = space.n_nonlinear, column.shape[1]
    precision = torch.zeros(total, dtype=whitened.dtype, device=whitened.device)
    precision[:n_nonlinear] = problem.prior_weight or 1e-6
    return Linearised(
        column,
        residual,
        information,
        torch.diag(precision).expand_as(information),
        whitened,
        best,
        physical_slopes(problem, cutouts, coords, chain, best),
    )


def _columns(
    images: list[Tensor], linear: Tensor, sky: Tensor, chain: Tensor
) -> tuple[Tensor, Tensor]:
    """Derivatives (b, C, H, W) by whitened and linear parameters, and the model (b, H, W)."""
    coords = torch.cat(shape_columns(images, linear[:, : len(images)]), dim=1)
    whitened = torch.einsum("bphw,bpf->bfhw", coords, chain.to(coords.dtype))
    terms = torch.cat(linear_columns(images, sky), dim=1)
    model = torch.einsum("bl,blhw->bhw", linear, terms)
    return torch.cat([whitened, terms], dim=1), model


def physical_slopes(
    problem: Problem, cutouts: Cutouts, coords: Tensor, chain: Tensor, linear: Tensor
) -> Tensor:
    """(B, Q, C) derivatives of the physical parameters by whitened coordinates and linear ones."""
    space = problem.space
    unit = flux_units(problem, cutouts)
    value = (unit @ linear[:, :, None])[:, :, 0]
    if space.n_sky == 0:
        value = torch.cat([value, torch.zeros_like(value[:, :1])], dim=1)
    _, slope = space.to_physical(coords, value, cutouts.zeropoint)
    n_nonlinear, total = space.n_nonlinear, space.n_nonlinear + space.n_linear
    inner = torch.zeros(len(coords), total, total, dtype=coords.dtype, device=coords.device)
    inner[:, :n_nonlinear, :n_nonlinear] = chain
    inner[:, n_nonlinear:, n_nonlinear:] = unit
    return slope[:, :, :total] @ inner
