"""Distance of a fit from the network's posterior: if large, one of them is wrong.

    d^2 = (theta - mean)^T (C_flow + C_fit)^-1 (theta - mean) / P

in (x, y, ln flux, ln r_circ, ln n, eta), with mean and C_flow of the flow's draws. It would be
about 1 for two independent measurements; as both use the same pixels it is about 0.3. The network
was trained on simulated galaxies, so a neighbour, a wrong sky or wrong noise, which bias the fit,
make d large.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hybridfit.data.fit import Fit
from hybridfit.data.flags import Flag
from hybridfit.model.parameters import ParameterSpace

# exceeded by 1 in 200 clean simulated galaxies of S/N 3-1500 for a network without refinement; for
# the shipped network, which refines, 1 in 200 exceed 1.1
MAX_DISAGREEMENT = 1.4


def disagreement(fit: Fit, coords: Tensor, linear: Tensor, zeropoint: Tensor) -> Tensor:
    """Return the distance (B,) of fit and flow in their joint standard deviations.

    Args:
        fit: of one Sersic component; its sky is ignored.
        coords: (B, S, 6) render coordinates of the flow's draws for the same galaxies.
        linear: (B, S, 2) their flux and sky.
        zeropoint: (B,) mag.

    Returns:
        (B,) float64, NaN where either is missing.
    """
    draws, n_draws = comparison_coordinates(coords, linear), coords.shape[1]
    here = ParameterSpace().from_physical(fit.theta[:, :8].double(), zeropoint.double())
    point = comparison_coordinates(*here)
    offset = point - draws.mean(dim=1)
    spread = draws - draws.mean(dim=1, keepdim=True)
    covariance = spread.transpose(1, 2) @ spread / (n_draws - 1)
    own = comparison_slopes(fit.theta[:, :8].double())
    covariance = covariance + own @ fit.covariance[:, :8, :8] @ own.transpose(1, 2)
    usable = torch.isfinite(covariance).flatten(1).all(dim=1) & torch.isfinite(offset).all(dim=1)
    n = offset.shape[1]
    eye = torch.eye(n, dtype=offset.dtype)
    diagonal = torch.diagonal(covariance, dim1=1, dim2=2).mean(dim=1)
    safe = torch.where(usable[:, None, None], covariance, eye)
    safe = safe + 1e-9 * torch.where(usable, diagonal, 1.0)[:, None, None] * eye
    solved = torch.linalg.solve(safe, offset.nan_to_num()[:, :, None])[:, :, 0]
    distance = ((solved * offset.nan_to_num()).sum(dim=1) / n).clamp_min(0).sqrt()
    return torch.where(usable, distance, torch.nan)


def disagreement_flags(distance: Tensor) -> Tensor:
    """Return (B,) bits of `Flag`."""
    return (distance > MAX_DISAGREEMENT) * int(Flag.DISAGREES)


def comparison_coordinates(coords: Tensor, linear: Tensor) -> Tensor:
    """Return x, y, ln r_circ, ln n, eta1, eta2, ln flux (..., 7) of render coordinates."""
    return torch.cat([coords, torch.log(linear[..., :1])], dim=-1)


def comparison_slopes(theta: Tensor) -> Tensor:
    """Return (B, 7, 8) derivatives of `comparison_coordinates` by physical parameters (B, 8)."""
    _, _, _, r_eff, n, q, pa, _ = theta.unbind(1)
    angle, g, radians = torch.deg2rad(2 * pa), -torch.log(q), math.pi / 90
    slopes = torch.zeros(len(theta), 7, 8, dtype=theta.dtype)
    slopes[:, 0, 0] = slopes[:, 1, 1] = 1.0
    slopes[:, 2, 3], slopes[:, 2, 5] = 1 / r_eff, 0.5 / q
    slopes[:, 3, 4] = 1 / n
    slopes[:, 4, 5], slopes[:, 5, 5] = -torch.cos(angle) / q, -torch.sin(angle) / q
    slopes[:, 4, 6] = -radians * g * torch.sin(angle)
    slopes[:, 5, 6] = radians * g * torch.cos(angle)
    slopes[:, 6, 2] = -0.4 * math.log(10)
    return slopes
