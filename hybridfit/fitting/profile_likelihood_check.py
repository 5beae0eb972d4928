"""How far the size may really reach: the likelihood looked at, not extrapolated.

At low signal the likelihood has a long side (large, peaked profiles hide their wings in the
sky), which the curvature at its maximum does not know of. Two evaluations, at twice the
quoted error to either side along the direction in which the size is worst known, show it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hybridfit.fitting.problem import Problem
from hybridfit.fitting.solution import Solution, joint_covariance

MAX_EXTENT = 0.5  # of ln r_eff where chi2 has risen by 4: a factor 1.65
CLEARLY_SMALL = 0.25  # extents below this would have to double; they were not seen to


def size_extent(solution: Solution, problem: Problem) -> Tensor:
    """(B,) largest change of ln r_eff, of any component, with chi2 up by 4 in a parabola
    through the evaluated point."""
    space = problem.space
    coords, chain = space.from_whitened(solution.whitened, problem.constants)
    covariance = joint_covariance(solution, problem)[:, : space.n_nonlinear, : space.n_nonlinear]
    extent = torch.zeros(len(coords), dtype=coords.dtype, device=coords.device)
    for columns, component in zip(space.slices(), space.components, strict=True):
        if not component.is_ellipse:
            continue
        by_coords = torch.zeros_like(coords)
        by_coords[:, columns.start + 2] = 1.0
        eta = coords[:, columns.stop - 2 : columns.stop]
        by_coords[:, columns.stop - 2 : columns.stop] = (
            eta / eta.norm(dim=1, keepdim=True).clamp_min(1e-9) / 2
        )
        slope = torch.einsum("bi,bij->bj", by_coords, chain)
        along = torch.einsum("bij,bj->bi", covariance, slope)
        sigma = (along * slope).sum(dim=1).clamp_min(1e-30).sqrt()
        gaussian = 2 * sigma
        extent = torch.maximum(extent, torch.nan_to_num(gaussian, nan=torch.inf))
        looked = (gaussian > CLEARLY_SMALL) & (extent < MAX_EXTENT)
        rows = (looked & torch.isfinite(solution.cost)).nonzero()[:, 0]
        if len(rows) == 0:
            continue
        step = 2 * along[rows] / sigma[rows, None]
        points = torch.cat([solution.whitened[rows] - step, solution.whitened[rows] + step])
        cost = problem.profile(points, rows.repeat(2)).cost
        cost = cost + 0.5 * problem.prior_weight * (points**2).sum(dim=1)
        rise = (cost.view(2, -1) - solution.cost[rows]).clamp_min(1e-3).amin(dim=0)
        reach = gaussian[rows] * torch.sqrt(2 / rise)  # a Gaussian rises by 2
        reach = torch.nan_to_num(reach, nan=torch.inf)
        extent[rows] = torch.maximum(extent[rows], reach)
    return extent
