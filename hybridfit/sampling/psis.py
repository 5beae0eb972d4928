"""Pareto-smoothed importance sampling of a batch; it knows weights and nothing of galaxies.

The largest weights decide what importance sampling says, and they are the noisiest. Their tail is
fitted by a generalised Pareto distribution and replaced by the quantiles of that; its shape k says
whether the draws can be trusted at all (Vehtari, Simpson, Gelman, Yao & Gabry 2024,
arXiv:1507.02646). The fit is the empirical Bayes one of Zhang & Stephens (2009), with the
paper's weak prior on k for short tails.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from hybridfit.batch import Batch

MIN_TAIL = 5  # weights that a tail needs to be fitted
PRIOR_K, PRIOR_COUNT = 0.5, 10.0  # the prior on k counts as ten weights of the tail
PRIOR_B = 3.0  # Zhang & Stephens' scale of their prior
EQUAL = 1e-12  # of the largest weight: a tail that is narrower than this has rounding for a shape


@dataclass(frozen=True)
class Smoothed(Batch):
    """Weights of B importance samples of S draws.

    Args:
        log_weights: (B, S) float64, of weights that sum to 1; all -inf where none was finite.
        pareto_k: (B,) shape of the tail: below `pareto_k_limit` the draws can be trusted, above 1
            their weights have no mean. Infinite where too few weights count for a fit, 0 where
            the largest are all the same.
        ess: (B,) effective number of draws, 1 / sum of squared weights; 0 where there is none.
    """

    log_weights: Tensor
    pareto_k: Tensor
    ess: Tensor

    @property
    def weights(self) -> Tensor:
        """(B, S), sum 1, or all 0 where no weight was finite."""
        return torch.exp(self.log_weights)


def pareto_k_limit(n: int) -> float:
    """Return the k below which ``n`` draws are enough: min(1 - 1 / log10 n, 0.7)."""
    if n < 2:
        raise ValueError(f"n is {n}, expected 2 draws or more")
    return min(1 - 1 / math.log10(n), 0.7)


def pareto_k_limits(n_draws: Tensor) -> Tensor:
    """Return `pareto_k_limit` (B,) of numbers of draws (B,); of fewer than 2 it is that of 2."""
    limits = [pareto_k_limit(max(n, 2)) for n in n_draws.tolist()]
    return torch.tensor(limits, dtype=torch.float64, device=n_draws.device)


def tail_length(n: int) -> int:
    """Return how many of ``n`` weights make the tail: min(n / 5, 3 sqrt n), five at least."""
    return max(MIN_TAIL, int(min(n / 5, 3 * math.sqrt(n))))


def pareto_smooth(log_weights: Tensor) -> Smoothed:
    """Smooth the largest weights of each row, and measure how heavy their tail is.

    The tail's weights become the expected order statistics of the generalised Pareto distribution
    fitted to it, none larger than the largest raw one. Draws of weight 0 stay draws: they make the
    tail no longer, but they do not count in it.

    Args:
        log_weights: (B, S) any additive constant a row; -inf, NaN and +inf count as weight 0.

    Raises:
        ValueError: if ``log_weights`` has not two dimensions.
    """
    if log_weights.ndim != 2:
        raise ValueError(f"log_weights have shape {tuple(log_weights.shape)}, expected (B, S)")
    finite = torch.isfinite(log_weights)
    raw = torch.where(finite, log_weights.double(), -torch.inf)
    if raw.numel() == 0:
        return Smoothed(raw, raw.new_full((len(raw),), torch.inf), raw.new_zeros(len(raw)))
    any_finite = finite.any(dim=1)
    raw = raw - torch.where(any_finite, raw.amax(dim=1), 0.0)[:, None]
    length = min(tail_length(raw.shape[1]), raw.shape[1] - 1)
    pareto_k = raw.new_full((len(raw),), torch.inf)
    if length >= MIN_TAIL:
        top, place = raw.topk(length + 1, dim=1)  # from the largest down
        smooth, pareto_k = _smooth_tail(torch.exp(top.flip(1)))
        smooth = torch.where(torch.isfinite(smooth), smooth, top.flip(1)[:, 1:])
        raw = raw.scatter(1, place.flip(1)[:, 1:], smooth)
    total = torch.logsumexp(raw, dim=1)
    log = torch.where(any_finite[:, None], raw - total[:, None], -torch.inf)
    square = torch.exp(2 * log).sum(dim=1)
    return Smoothed(log, pareto_k, torch.where(any_finite, 1 / square.clamp_min(1e-300), 0.0))


def _smooth_tail(top: Tensor) -> tuple[Tensor, Tensor]:
    """Logarithms of the smoothed tail (B, M), NaN where not smoothed, and k (B,).

    Args:
        top: (B, M + 1) the largest weights in rising order over the largest of all; the first
            is where the tail begins.
    """
    length = top.shape[1] - 1
    count = ((top > 0).sum(dim=1) - 1).clamp(0, length)  # of the tail's weights that count
    start = top.gather(1, (length - count)[:, None])
    inside = torch.arange(length, device=top.device) >= (length - count)[:, None]
    excess = torch.where(inside, top[:, 1:] - start, 0.0)
    enough = count >= MIN_TAIL
    equal = enough & (top[:, -1] - start[:, 0] < EQUAL)
    fitted = enough & ~equal
    # rows that cannot be fitted go through the sums as some tail or other
    some = torch.arange(1, length + 1, device=top.device, dtype=top.dtype)
    excess = torch.where(fitted[:, None], excess, some)
    inside = inside | ~fitted[:, None]
    k, sigma = fit_pareto(excess, inside)
    k = torch.where(fitted, k, torch.where(equal, 0.0, torch.inf))
    return _quantiles(k, sigma, start, inside, fitted), k


def _quantiles(k: Tensor, sigma: Tensor, start: Tensor, inside: Tensor, usable: Tensor) -> Tensor:
    """Logarithms of start + quantiles of the fitted Pareto (B, M), 1 at most; NaN if not usable."""
    count = inside.sum(dim=1, keepdim=True)
    rank = inside.double().cumsum(dim=1) - 0.5
    minus_log = -torch.log1p(-(rank / count).clamp(0, 1))
    flat = k.abs() < 1e-9
    safe = torch.where(flat, 1.0, k)[:, None]
    rise = torch.where(flat[:, None], minus_log, torch.expm1(safe * minus_log) / safe)
    value = torch.log(start + sigma[:, None] * rise).clamp_max(0.0)
    usable = usable & torch.isfinite(k) & (sigma > 0)
    return torch.where(inside & usable[:, None], value, torch.nan)


def fit_pareto(excess: Tensor, inside: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Fit generalised Pareto distributions to rows of excesses over a threshold.

    With b = -k / sigma the profile likelihood has one dimension, over which the posterior mean
    is taken on a grid: Zhang & Stephens (2009), eq. 2-6. Then k (n k + 10 / 2) / (n + 10).

    Args:
        excess: (B, M) in rising order, not negative, the last above 0.
        inside: (B, M) bool, the last n of each row that count; default all.

    Returns:
        k (B,) with its prior, and sigma (B,) without.
    """
    inside = torch.ones_like(excess, dtype=torch.bool) if inside is None else inside
    length = excess.shape[1]
    n = inside.sum(dim=1)  # (B,)
    largest = excess[:, -1:]
    quartile = excess.gather(1, (length - n + ((n / 4 + 0.5).long() - 1).clamp_min(0))[:, None])
    quartile = torch.maximum(quartile, 1e-12 * largest)  # ties with the threshold
    size = 30 + n.double().sqrt().long()  # points of the grid
    j = torch.arange(1, int(size.max()) + 1, device=excess.device, dtype=excess.dtype)
    size = size[:, None]
    b = (1 - (size / (j - 0.5)).sqrt()) / (PRIOR_B * quartile) + 1 / largest  # (B, G)
    used = j <= size
    b = torch.where(used, b, b[:, :1])
    weight = inside.to(excess.dtype) / n[:, None]
    k = torch.einsum("bgm,bm->bg", torch.log1p(-b[:, :, None] * excess[:, None, :]), weight)
    log = n[:, None] * (torch.log(-b / k) - k - 1)
    log = torch.where(used & ~torch.isnan(log), log, -torch.inf)
    share = torch.softmax(log, dim=1)
    share = torch.where(share < 10 * torch.finfo(share.dtype).eps, 0.0, share)
    mean = (share * b).sum(dim=1) / share.sum(dim=1)
    shape = (torch.log1p(-mean[:, None] * excess) * weight).sum(dim=1)
    return (n * shape + PRIOR_COUNT * PRIOR_K) / (n + PRIOR_COUNT), -shape / mean
