"""Student-t proposals of a batch, drawn from quasi-random points; no astronomy in it.

A t distribution has heavier tails than the posteriors it proposes for, which bounds their
importance weights. Its draws come from scrambled Sobol points (Owen 1998; Joe & Kuo 2008), whose
means and quantiles settle almost as 1 / S instead of 1 / sqrt S: what 256 of them say of a
Gaussian takes thousands of random ones.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from hybridfit.batch import Batch

FLOOR = 1e-10  # least eigenvalue that is left of a correlation matrix
SOBOL_BITS = 30  # of torch's Sobol points


@dataclass(frozen=True)
class StudentT(Batch):
    """Multivariate t distributions of a batch.

    Args:
        mean: (B, P) float64.
        factor: (B, P, P) lower Cholesky factor of the scale matrix; that of a covariance C is
            ``factor_of(C * (dof - 2) / dof)``.
        dof: degrees of freedom, above 0; infinity for the normal distribution.
    """

    mean: Tensor
    factor: Tensor
    dof: float

    def __post_init__(self) -> None:
        expected = (*self.mean.shape, self.mean.shape[-1])
        if self.mean.ndim != 2 or tuple(self.factor.shape) != expected:
            raise ValueError(
                f"mean and factor have shapes {tuple(self.mean.shape)} and "
                f"{tuple(self.factor.shape)}, expected (B, P) and (B, P, P)"
            )
        if not self.dof > 0:
            raise ValueError(f"dof is {self.dof}, expected more than 0")

    def draw(self, uniform: Tensor) -> Tensor:
        """Return draws (B, S, P) made of uniform numbers, as those of `sobol_points`.

        Args:
            uniform: (S, P + 1), shared by the batch, or (B, S, P + 1), in (0, 1): P of them
                become the direction, the last the radius' share that is not normal.
        """
        size = self.mean.shape[1]
        if uniform.ndim not in (2, 3) or uniform.shape[-1] != size + 1:
            raise ValueError(
                f"uniform numbers have shape {tuple(uniform.shape)}, expected ([B,] S, {size + 1})"
            )
        standard = standard_t(uniform, self.dof).to(self.mean)
        return self.mean[:, None] + standard @ self.factor.mT

    def log_density(self, points: Tensor) -> Tensor:
        """Return the log density (B, S) at ``points`` (B, S, P); NaN where a point is NaN."""
        size = points.shape[-1]
        offset = (points - self.mean[:, None]).mT  # (B, P, S)
        white = torch.linalg.solve_triangular(self.factor, offset, upper=False)
        square = (white**2).sum(dim=1)
        volume = torch.diagonal(self.factor, dim1=1, dim2=2).log().sum(dim=1)[:, None]
        if math.isinf(self.dof):
            return -0.5 * square - volume - 0.5 * size * math.log(2 * math.pi)
        half = 0.5 * (self.dof + size)
        norm = math.lgamma(half) - math.lgamma(0.5 * self.dof)
        norm -= 0.5 * size * math.log(self.dof * math.pi)
        return norm - volume - half * torch.log1p(square / self.dof)


@lru_cache(maxsize=32)
def _sobol(count: int, size: int, seed: int, skip: int) -> Tensor:
    engine = torch.quasirandom.SobolEngine(size, scramble=True, seed=seed)
    points = engine.fast_forward(skip).draw(count, dtype=torch.float64)
    return points + 0.5 ** (SOBOL_BITS + 1)  # the middle of each cell: never 0, never 1


def sobol_points(count: int, size: int, seed: int = 0, skip: int = 0) -> Tensor:
    """Return scrambled Sobol points (count, size) in (0, 1), float64, always the same.

    Args:
        count: of points; powers of two are the most even.
        size: of the space: P + 1 for a t distribution of P parameters.
        seed: of the scrambling.
        skip: how many points of the sequence other rounds have used; multiples of ``count``, so
            that all rounds together are as even as one.
    """
    return _sobol(count, size, seed, skip).clone()


def shifted(points: Tensor, batch: int, seed: int) -> Tensor:
    """Return points (batch, S, P + 1): each problem's own turn of the same (S, P + 1).

    Every column but the last is shifted around [0, 1) (Cranley & Patterson 1976): what evenness
    the points have is kept, and no two problems have the same errors.
    """
    shift = torch.rand(
        batch, 1, points.shape[1] - 1, dtype=points.dtype, generator=_generator(seed)
    ).to(points.device)
    turned = (points[None, :, :-1] + shift) % 1.0
    last = points[None, :, -1:].expand(batch, -1, -1)
    return torch.cat([turned, last], dim=2).clamp(0.5 ** (SOBOL_BITS + 1), 1 - 1e-15)


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def standard_t(uniform: Tensor, dof: float) -> Tensor:
    """Return draws (..., P) of the standard t distribution for uniform numbers (..., P + 1).

    t = z / sqrt(c / dof), with z normal and c of the chi-square distribution.
    """
    normal = torch.special.ndtri(uniform[..., :-1])
    if math.isinf(dof):
        return normal
    radial = uniform[..., -1]
    if radial.ndim == 2 and len(radial) > 1 and (radial == radial[:1]).all():
        radial = radial[0]  # the slow part, once for a batch that shares its points
    chi2 = torch.from_numpy(np.asarray(stats.chi2.ppf(radial.cpu().numpy(), dof)))
    return normal * (dof / chi2.to(normal)).sqrt()[..., None]


def factor_of(covariance: Tensor, fallback: float = 1.0) -> Tensor:
    """Return a lower Cholesky factor (B, P, P) for any covariance: finite, of full rank.

    A positive definite matrix gives its own factor. Else, in this order: a parameter whose
    variance is not finite or not positive gets the variance ``fallback`` and no correlation;
    correlations that are not finite become 0; the matrix is made symmetric and, where it is not
    positive definite, the eigenvalues of its correlation matrix are raised to at least 1e-10 and
    its variances restored.

    Args:
        covariance: (B, P, P).
        fallback: variance of what is not known; 1 is the prior's in whitened coordinates.
    """
    covariance = covariance.double()
    variance = torch.diagonal(covariance, dim1=1, dim2=2)
    known = torch.isfinite(variance) & (variance > 0)
    scale = torch.where(known, variance, fallback).sqrt()  # (B, P)
    correlation = covariance / scale[:, :, None] / scale[:, None, :]
    both = known[:, :, None] & known[:, None, :] & torch.isfinite(correlation)
    correlation = torch.where(both, correlation, 0.0)
    correlation = 0.5 * (correlation + correlation.mT)
    eye = torch.eye(covariance.shape[-1], dtype=covariance.dtype, device=covariance.device)
    correlation = torch.where(eye > 0, 1.0, correlation)
    factor, info = torch.linalg.cholesky_ex(correlation)
    smallest = torch.diagonal(factor, dim1=1, dim2=2).amin(dim=1)
    bad = ((info > 0) | ~(smallest > math.sqrt(FLOOR))).nonzero()[:, 0]
    if len(bad):
        factor[bad] = _positive(correlation[bad])
    return scale[:, :, None] * factor


def _positive(correlation: Tensor) -> Tensor:
    """Factors (b, P, P) of the nearest correlation matrices whose eigenvalues are positive."""
    value, vector = torch.linalg.eigh(correlation)
    root = vector * value.clamp_min(FLOOR).sqrt()[:, None, :]  # root root^T is the matrix
    root = root / root.norm(dim=2, keepdim=True)  # its diagonal is 1 again
    upper = torch.linalg.qr(root.mT).R  # without squaring what is nearly singular
    sign = torch.diagonal(upper, dim1=1, dim2=2).sign()
    sign = torch.where(sign == 0, 1.0, sign)
    return (sign[:, :, None] * upper).mT


def weighted_moments(
    points: Tensor,
    weights: Tensor,
    mean: Tensor,
    covariance: Tensor,
    strength: float | None = None,
) -> tuple[Tensor, Tensor]:
    """Mean and covariance of weighted draws, held to given ones where the draws are few.

        C = (n S + v C0) / (n - 1 + v),   S = sum w (x - m) (x - m)^T,   n = 1 / sum w^2

    which is the mean of an inverse-Wishart posterior about C0 and unbiased where C0 is right. Two
    draws that count give C0 in all directions but one; many give their own covariance.

    Args:
        points: (B, S, P); where the weight is 0 they may be NaN.
        weights: (B, S), not negative, sum 1; all 0 where there are none.
        mean: (B, P) for galaxies without a draw that counts.
        covariance: (B, P, P), C0.
        strength: v, how many draws C0 is worth; default P.

    Returns:
        (B, P) and (B, P, P) float64.
    """
    strength = float(points.shape[2]) if strength is None else strength
    weights = weights.double()
    counts = (weights > 0) & torch.isfinite(points).all(dim=2)
    points = torch.where(counts[:, :, None], points.double(), 0.0)
    weights = torch.where(counts, weights, 0.0)
    total = weights.sum(dim=1, keepdim=True)
    weights = weights / torch.where(total > 0, total, 1.0)
    none = total == 0  # (B, 1)
    own = torch.where(none, mean.double(), torch.einsum("bs,bsp->bp", weights, points))
    offset = points - own[:, None]
    scatter = torch.einsum("bs,bsp,bsq->bpq", weights, offset, offset)
    n = 1 / torch.where(none[:, 0], 1.0, (weights**2).sum(dim=1))[:, None, None]
    joined = (n * scatter + strength * covariance) / (n - 1 + strength)
    return own, torch.where(none[:, :, None], covariance.double(), joined)
