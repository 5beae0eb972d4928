"""Weighted draws of a batch of posteriors, and their summaries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from hybridfit.data.diagnostics import NetworkDiagnostics
from hybridfit.data.draws_batch import DrawsBatch, per_draw
from hybridfit.deprecations import warn


class Named(Protocol):
    """Names of parameters, and the kind of each: "pa" for position angles."""

    @property
    def names(self) -> tuple[str, ...]:
        """Name of each column."""

    @property
    def roles(self) -> tuple[str, ...]:
        """Kind of each column."""


@dataclass(frozen=True)
class Draws(DrawsBatch):
    """Weighted draws of the physical parameters of B galaxies.

    Position angles are circular: their quantiles, deviations and covariances are taken
    around the circular mean of each galaxy, so that draws of 179 and 1 degree are neighbours.

    Args:
        space: names and kinds of the Q parameters.
        samples: (B, S, Q) float64, in the order of ``space.names``, cutout pixels.
        weights: (B, S) float64, not negative; normalised to sum to 1. Draws that are not finite
            get weight 0; a galaxy whose weights are all 0 has no draws, and its summaries are NaN.

    Raises:
        ValueError: if shapes disagree.
    """

    space: Named
    samples: Tensor = field(metadata=per_draw())
    weights: Tensor = field(
        default_factory=lambda: torch.tensor(1.0, dtype=torch.float64), metadata=per_draw(0.0)
    )

    def __post_init__(self) -> None:
        shape, q = tuple(self.samples.shape), len(self.space.names)
        if len(shape) != 3 or shape[2] != q:
            raise ValueError(
                f"samples have shape {shape}, expected (B, S, {q}): one column for each of "
                f"{', '.join(self.space.names)}"
            )
        weights = self.weights
        if weights.ndim == 0:
            weights = weights.to(self.samples).expand(shape[:2])
        if tuple(weights.shape) != shape[:2]:
            raise ValueError(
                f"weights have shape {tuple(weights.shape)}, expected {shape[:2]} as the samples"
            )
        fine = torch.isfinite(self.samples).all(dim=2) & (weights > 0)
        weights = torch.where(fine, weights, 0.0)
        total = weights.sum(dim=1, keepdim=True)
        object.__setattr__(self, "weights", weights / torch.where(total > 0, total, 1.0))

    @property
    def exist(self) -> Tensor:
        """(B,) whether a galaxy has draws."""
        return (self.weights > 0).any(dim=1)

    @property
    def effective(self) -> Tensor:
        """(B,) effective number of draws, 1 / sum w^2; 0 where there are none."""
        square = (self.weights**2).sum(dim=1)
        return torch.where(square > 0, 1 / square.clamp_min(1e-300), 0.0)

    @property
    def mean(self) -> Tensor:
        """(B, Q) means; of position angles the circular one, in [0, 180)."""
        mean = torch.where(self._angular, self._direction, self._average(self._safe))
        return self._where(mean)

    @property
    def std(self) -> Tensor:
        """(B, Q) standard deviations; about 52 for an unconstrained position angle."""
        return torch.diagonal(self.covariance, dim1=1, dim2=2).clamp_min(0).sqrt()

    @property
    def covariance(self) -> Tensor:
        """(B, Q, Q) covariance of the draws, times n / (n - 1) of their effective number."""
        offset = self.unwrapped - self._average(self.unwrapped)[:, None]
        value = offset.mT @ (offset * self.weights[..., None])
        n = self.effective
        value = value * torch.where(n > 1, n / (n - 1).clamp_min(1e-9), 1.0)[:, None, None]
        return torch.where(self.exist[:, None, None], value, torch.nan)

    def quantiles(self, levels: Sequence[float]) -> Tensor:
        """Return the quantiles of each parameter on its own, (B, L, Q).

        They are linear between the draws' mid-ranks. Those of a position angle lie within 90
        degrees of its circular mean, in order, and so may leave [0, 180): 5 with p16 = -8.

        Args:
            levels: L numbers in [0, 1].
        """
        # draws without weight go to the end, where no quantile falls
        counts = (self.weights > 0)[..., None]
        last = torch.where(counts, self.unwrapped, -torch.inf).amax(dim=1, keepdim=True)
        values, order = torch.where(counts, self.unwrapped, last).sort(dim=1)  # (B, S, Q)
        weights = self.weights[..., None].expand_as(values).gather(1, order)
        middle = weights.cumsum(dim=1) - weights / 2
        at = torch.tensor(levels, dtype=values.dtype, device=values.device)
        found = _interpolate(at, middle.mT.contiguous(), values.mT.contiguous())
        return self._where(found).movedim(2, 1)

    @cached_property
    def unwrapped(self) -> Tensor:
        """(B, S, Q) samples, position angles within 90 degrees of their circular mean."""
        middle = self._direction[:, None]
        turned = middle + (self._safe - middle + 90.0) % 180.0 - 90.0
        return torch.where(self._angular, turned, self._safe)

    @property
    def _safe(self) -> Tensor:
        return torch.where((self.weights > 0)[..., None], self.samples, 0.0)

    def _average(self, values: Tensor) -> Tensor:
        return (values * self.weights[..., None]).sum(dim=1)

    def _where(self, values: Tensor) -> Tensor:
        some = self.exist.reshape(-1, *(1,) * (values.ndim - 1))
        return torch.where(some, values, torch.nan)

    @property
    def _angular(self) -> Tensor:
        angles = [role == "pa" for role in self.space.roles]
        return torch.tensor(angles, device=self.samples.device)

    @property
    def _direction(self) -> Tensor:
        """(B, Q) circular mean of all columns; meaningful for position angles only."""
        twice = torch.deg2rad(2 * self._safe)
        mean = torch.atan2(self._average(torch.sin(twice)), self._average(torch.cos(twice)))
        return torch.rad2deg(mean) / 2 % 180.0 % 180.0


@dataclass(frozen=True, kw_only=True)
class Posterior(Draws):
    """Draws of the network's posterior, of equal weight, with their density.

    Args:
        space, samples, weights: see `Draws`; NaN for a galaxy without draws.
        log_prob: (B, S) float64, log density of each draw in (whitened u, ln flux, sky).
        diagnostics: how well the network knows the galaxies.

    Raises:
        ValueError: if shapes disagree.
    """

    log_prob: Tensor = field(metadata=per_draw())
    diagnostics: NetworkDiagnostics

    def __post_init__(self) -> None:
        super().__post_init__()
        batch, count, _ = self.samples.shape
        columns = {f.name: getattr(self.diagnostics, f.name) for f in fields(self.diagnostics)}
        for name, value in {"log_prob": self.log_prob, **columns}.items():
            expected = (batch, count) if name == "log_prob" else (batch,)
            if (came := tuple(value.shape)) != expected:
                raise ValueError(f"{name} has shape {came}, expected {expected} as the samples")

    @property
    def rejected(self) -> Tensor:
        """(B,) int64, number of implausible draws that were redrawn."""
        return self.diagnostics.rejected

    @property
    def distance(self) -> Tensor:
        """(B,) float64, distance of the network's context from those in training."""
        return self.diagnostics.distance

    @property
    def flags(self) -> Tensor:
        """(B,) int64, bits of `Flag`."""
        return self.diagnostics.flags

    @property
    def draws(self) -> Draws:
        """The posterior itself, by the name of an earlier version."""
        warn("Posterior.draws", "Posterior")
        return self


def _interpolate(at: Tensor, middle: Tensor, values: Tensor) -> Tensor:
    """Interpolate to (B, Q, L) at ``at`` (L,) in the cumulative weights ``middle`` (B, Q, S)."""
    wanted = at.expand(*middle.shape[:2], len(at)).contiguous()
    last = middle.shape[2] - 1
    low = (torch.searchsorted(middle, wanted) - 1).clamp(0, max(last - 1, 0))
    high = (low + 1).clamp_max(last)  # for a single draw both are the same
    x0, x1 = middle.gather(2, low), middle.gather(2, high)
    y0, y1 = values.gather(2, low), values.gather(2, high)
    share = ((wanted - x0) / (x1 - x0).clamp_min(1e-300)).clamp(0, 1)
    return y0 + share * (y1 - y0)
