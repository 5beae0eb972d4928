"""Nuisances omitted from a fit: their posterior, and the shift they cause.

If omitted, a nuisance v with model derivatives D shifts the fit by -T v, T = A^-1 J^T W D. The
pixels constrain v themselves: with A the information of the fit and

    I = D^T W D - D^T W J A^-1 J^T W D,    s = D^T W r,

v is normal about S s with covariance S = (I + Sigma^-1)^-1, for a prior N(0, Sigma). Around the
uncorrected fit the truth then scatters by T (S + m m^T) T^T, m = S s: set by the pixels where they
constrain v, by the prior where they do not. With a prior that v is 0 except in a fraction of the
galaxies, the evidence weights it: w (S + m m^T).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hybridfit.fitting.cholesky import scaled_cholesky


@dataclass(frozen=True)
class Whitened:
    """A fit's derivatives in coordinates in which its information, including the prior, is 1.

    Args:
        columns: (B, C, H, W) float32, L^-1 J with A = L L^T.
        inverse: (B, C, C) float64 L^-1; a covariance M here is L^-T M L^-1 in those of the fit.
        pull: (B, C) L^-1 times the prior's gradient: equal to the fit's derivatives times the
            residual at the minimum.
    """

    columns: Tensor
    inverse: Tensor
    pull: Tensor


@dataclass(frozen=True)
class Nuisance:
    """The likelihood of K nuisances.

    Args:
        response: (B, C, K) L^T T, the shift of the fit for each.
        information: (B, K, K) I, for the actual noise.
        score: (B, K) s, likewise.
    """

    response: Tensor
    information: Tensor
    score: Tensor


@dataclass(frozen=True)
class Moment:
    """The posterior of K nuisances: second moment (B, K, K), mean (B, K), probability (B,)."""

    second: Tensor
    mean: Tensor
    probability: Tensor


def whiten(columns: Tensor, information: Tensor, prior: Tensor, whitened: Tensor) -> Whitened:
    """Whiten a fit's derivatives.

    Args:
        columns: (B, C, H, W) over sigma.
        information, prior: (B, C, C) float64.
        whitened: (B, P) whitened coordinates, with a prior centred on 0; the others have none.
    """
    matrix = information + prior
    factor, scale = scaled_cholesky(matrix, 1e-10)
    eye = torch.eye(matrix.shape[1], dtype=matrix.dtype, device=matrix.device)
    inverse = torch.linalg.solve_triangular(factor, eye.expand_as(matrix), upper=False)
    inverse = inverse * scale[:, None, :]
    flat = inverse.to(columns.dtype) @ columns.flatten(2)
    gradient = (prior[:, :, : whitened.shape[1]] @ whitened[:, :, None])[:, :, 0]
    pull = (inverse @ gradient[:, :, None])[:, :, 0]
    return Whitened(flat.view_as(columns), inverse, pull)


def nuisance(fit: Whitened, modes: Tensor, residual: Tensor, excess: Tensor) -> Nuisance:
    """Remove the part of nuisances that the fit follows, and weight the rest by the noise.

    For correlated noise, of covariance 1 + X, the estimate I^-1 s scatters by
    I^-1 (I + D_perp^T X D_perp) I^-1: its inverse replaces the information.

    Args:
        fit: of B galaxies.
        modes: (B, K, H, W) derivatives of the model over sigma.
        residual: (B, H, W) over sigma.
        excess: (B, C + K, C + K) columns and modes with X between them.
    """
    flat, other = fit.columns.flatten(2), modes.flatten(2)
    response = (flat @ other.transpose(1, 2)).double()
    information = (other @ other.transpose(1, 2)).double() - response.mT @ response
    data = residual.flatten(1)[:, :, None]
    gradient = (flat @ data)[:, :, 0].double() - fit.pull  # 0 at the minimum
    score = (other @ data)[:, :, 0].double() - (response.mT @ gradient[:, :, None])[:, :, 0]
    count = modes.shape[1]
    eye = torch.eye(count, dtype=response.dtype, device=response.device)
    outside = torch.cat([-response.mT, eye.expand(len(modes), count, count)], dim=2)
    # a mode that the fit follows, or that is 0, has no information; avoid dividing by 0
    floor = 1e-9 * torch.diag_embed(torch.diagonal(information, dim1=1, dim2=2).abs()) + 1e-30 * eye
    scatter = information + positive(outside @ excess @ outside.mT) + floor
    weight = torch.linalg.solve(scatter, information)  # (I + X)^-1 I
    return Nuisance(response, information @ weight, (weight.mT @ score[:, :, None])[:, :, 0])


def moment(found: Nuisance, sigma: Tensor, share: float = 1.0) -> Moment:
    """Return the posterior of nuisances with a prior N(0, sigma^2) in a fraction of the galaxies.

    Args:
        found: of K nuisances.
        sigma: (K,) float64 > 0, standard deviations of the prior.
        share: fraction of galaxies that have the nuisances at all; in the others they are 0.
    """
    eye = torch.eye(len(sigma), dtype=sigma.dtype, device=sigma.device)
    scaled = found.information * sigma[:, None] * sigma  # in units of the prior
    precision = scaled + eye
    mean = torch.linalg.solve(precision, (sigma * found.score)[:, :, None])[:, :, 0]
    # ln of the evidence ratio with and without the nuisances
    gain = 0.5 * (mean * sigma * found.score).sum(dim=1) - 0.5 * torch.logdet(precision)
    odds = torch.logit(torch.tensor(share, dtype=gain.dtype, device=gain.device))
    probability = torch.sigmoid(gain + odds)
    second = torch.linalg.inv(precision) + mean[:, :, None] * mean[:, None]
    second = probability[:, None, None] * second * sigma[:, None] * sigma
    return Moment(second, mean * sigma, probability)


def positive(matrix: Tensor) -> Tensor:
    """Return the matrix (B, C, C) with negative eigenvalues set to 0."""
    value, vector = torch.linalg.eigh((matrix + matrix.mT) / 2)
    return (vector * value.clamp_min(0.0)[:, None]) @ vector.mT
