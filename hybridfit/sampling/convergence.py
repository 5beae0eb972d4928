"""Have chains converged? Rank-normalised split R-hat and effective sample size of a batch.

Vehtari, Gelman, Simpson, Carpenter & Buerkner (2021, arXiv:1903.08008).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

MIN_STEPS = 8  # below it a half of a chain says nothing of itself


def split_rhat(chains: Tensor) -> Tensor:
    """Return R-hat (B, P) of chains (B, W, T, P): near 1 where all tell of one distribution.

    Each chain is cut into halves, values become the normal scores of their ranks, and the larger
    is taken of that for the values and for their distances from the median. NaN for chains of
    fewer than 8 steps.
    """
    _check(chains)
    if chains.shape[2] < MIN_STEPS:
        return chains.new_full((chains.shape[0], chains.shape[3]), torch.nan)
    halves = _split(chains)
    median = _median(halves)
    return torch.maximum(_rhat(_scores(halves)), _rhat(_scores((halves - median).abs())))


def bulk_ess(chains: Tensor) -> Tensor:
    """Return the effective number of draws (B, P) of chains (B, W, T, P), for means and bodies.

    By Geyer's initial monotone sequence of the autocorrelations of all half chains together, at
    most W T log10(W T). NaN for chains of fewer than 8 steps, or that never moved.
    """
    _check(chains)
    if chains.shape[2] < MIN_STEPS:
        return chains.new_full((chains.shape[0], chains.shape[3]), torch.nan)
    scores = _scores(_split(chains))  # (B, P, C, T)
    n = scores.shape[3]
    covariance = _autocovariance(scores).mean(dim=2)  # (B, P, T)
    within = covariance[..., 0] * n / (n - 1)
    total = covariance[..., 0] + scores.mean(dim=3).var(dim=2)
    rho = 1 - (within[..., None] - covariance) / total[..., None]
    rho[..., 0] = 1.0
    lags = 2 * ((n - 3) // 2 + 1)  # beyond them too few steps are left to say anything
    even, odd = rho[..., 0:lags:2], rho[..., 1:lags:2]
    pair = even + odd
    positive = (pair > 0).to(torch.int8).cumprod(dim=-1)
    last = positive.sum(dim=-1, keepdim=True).clamp_max(pair.shape[-1] - 1)
    monotone = pair.cummin(dim=-1).values
    before = torch.arange(pair.shape[-1], device=pair.device) < last
    tau = 2 * torch.where(before, monotone, 0.0).sum(dim=-1) - 1
    rest = even.gather(-1, last)
    tau = tau + torch.where(pair.gather(-1, last) >= 0, rest, rest.clamp_min(0.0))[..., 0]
    count = scores.shape[2] * n
    ess = count / tau.clamp_min(1 / math.log10(count))
    return torch.where(total > 0, ess, torch.nan)


def _check(chains: Tensor) -> None:
    if chains.ndim != 4:
        raise ValueError(f"chains have shape {tuple(chains.shape)}, expected (B, W, T, P)")


def _split(chains: Tensor) -> Tensor:
    """Halves (B, P, 2 W, T // 2); the middle step of an odd number is left out."""
    half = chains.shape[2] // 2
    halves = torch.cat([chains[:, :, :half], chains[:, :, -half:]], dim=1)
    return halves.permute(0, 3, 1, 2).double()


def _median(halves: Tensor) -> Tensor:
    """(B, P, 1, 1), the mean of the middle two of an even number."""
    return halves.flatten(2).quantile(0.5, dim=2)[..., None, None]


def _scores(values: Tensor) -> Tensor:
    """Normal scores of the ranks over all chains, of values (B, P, C, T); ties share a rank."""
    flat = values.flatten(2).contiguous()
    ordered = flat.sort(dim=2).values.contiguous()
    low = torch.searchsorted(ordered, flat)
    high = torch.searchsorted(ordered, flat, right=True)
    rank = 0.5 * (low + high + 1).double()
    return torch.special.ndtri((rank - 0.375) / (flat.shape[2] + 0.25)).view_as(values)


def _rhat(values: Tensor) -> Tensor:
    """R-hat (B, P) of values (B, P, C, T)."""
    n = values.shape[3]
    between = n * values.mean(dim=3).var(dim=2)
    within = values.var(dim=3).mean(dim=2)
    return ((between / within + n - 1) / n).sqrt()


def _autocovariance(values: Tensor) -> Tensor:
    """Of each chain (..., T), at lags 0 ... T - 1, over T."""
    n = values.shape[-1]
    centred = values - values.mean(dim=-1, keepdim=True)
    power = torch.fft.rfft(centred, 2 * n).abs() ** 2
    return torch.fft.irfft(power, 2 * n)[..., :n] / n
