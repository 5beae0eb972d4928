"""Where importance sampling looks: draws of several densities, weighed as those of their mixture.

With counts N_k of densities q_k every draw, whatever it came from, has the weight

    w = p / sum_k (N_k / N) q_k

the balance heuristic (Veach & Guibas 1995; "deterministic mixture" in adaptive importance sampling,
Cornuet et al. 2012, arXiv:0907.1254). A density that is good somewhere bounds the weights there.

All densities are of the whitened coordinates u with flux and sky given u, which are drawn from
their own Gaussian and so drop out of p / q; only the network has a joint density of its own, and
that is divided by this Gaussian.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Protocol

import torch
from torch import Tensor

from hybridfit.batch import Batch
from hybridfit.data.draws_batch import DrawsBatch, per_draw
from hybridfit.fitting.problem import Problem, Profiled
from hybridfit.model.constants import Constants
from hybridfit.npe.density import FlowDensity, NetworkDraws
from hybridfit.sampling.ridge import Ridge
from hybridfit.sampling.student_t import StudentT

LOG_2PI = math.log(2 * math.pi)


@dataclass(frozen=True)
class EvaluatedDraws(DrawsBatch):
    """Evaluated draws of b galaxies.

    Args:
        whitened: (b, S, P) u.
        linear: (b, S, L) flux and sky terms, units of the noise.
        target: (b, S) ln of likelihood times prior at u, flux and sky integrated over.
        conditional: (b, S) ln of the Gaussian density of ``linear`` given u.
    """

    whitened: Tensor = field(metadata=per_draw())
    linear: Tensor = field(metadata=per_draw())
    target: Tensor = field(metadata=per_draw())
    conditional: Tensor = field(metadata=per_draw())

    @classmethod
    def joined(cls, rounds: Sequence[EvaluatedDraws]) -> EvaluatedDraws:
        """Return the draws of several rounds, of the same galaxies, as those of one."""
        columns = {f.name: [getattr(part, f.name) for part in rounds] for f in fields(cls)}
        return cls(**{name: torch.cat(values, dim=1) for name, values in columns.items()})


def evaluated(
    whitened: Tensor, profiled: Profiled, normal: Tensor, given: Tensor | None
) -> EvaluatedDraws:
    """Draw flux and sky, integrate over them, and weigh by the prior.

    Args:
        whitened: (b, S, P).
        profiled: the likelihood at the b S points, in their order.
        normal: (b, S, L) standard normal numbers that flux and sky are made of.
        given: (b, S, L) flux and sky that were drawn already; NaN where they were not.
    """
    b, s, p = whitened.shape
    factor = profiled.factor.view(b, s, *profiled.factor.shape[1:])
    best = profiled.linear.view(b, s, -1)
    size = best.shape[2]
    # S^-1 = factor^-T factor^-1
    step = torch.linalg.solve_triangular(factor.mT, normal[..., None], upper=True)[..., 0]
    linear = best + step
    if given is not None:
        linear = torch.where(torch.isfinite(given), given, linear)
        normal = (factor.mT @ (linear - best)[..., None])[..., 0]
    volume = torch.diagonal(factor, dim1=2, dim2=3).log().sum(dim=2)
    conditional = volume - 0.5 * (normal**2).sum(dim=2) - 0.5 * size * LOG_2PI
    prior = -0.5 * (whitened**2).sum(dim=2) - 0.5 * p * LOG_2PI
    target = -profiled.cost.view(b, s) + prior - volume + 0.5 * size * LOG_2PI
    target = torch.where(torch.isfinite(target), target, -torch.inf)
    return EvaluatedDraws(whitened, linear, target, conditional)


class Proposal(Protocol):
    """A density that draws may come from, of b galaxies; each is a `Batch`."""

    def log_density(self, points: EvaluatedDraws) -> Tensor:
        """(b, S) ln of it at the draws, over the Gaussian of flux and sky given u."""


@dataclass(frozen=True)
class NonlinearProposal(Batch):
    """A density of u alone: a t distribution or a ridge of them."""

    density: StudentT | Ridge

    def log_density(self, points: EvaluatedDraws) -> Tensor:
        """(b, S), see `Proposal`."""
        return self.density.log_density(points.whitened)


@dataclass(frozen=True)
class PriorProposal(Batch):
    """The prior, N(0, I) in u, of all galaxies alike."""

    def log_density(self, points: EvaluatedDraws) -> Tensor:
        """(b, S), see `Proposal`."""
        whitened = points.whitened
        return -0.5 * (whitened**2).sum(dim=2) - 0.5 * whitened.shape[2] * LOG_2PI


@dataclass(frozen=True)
class FlowProposal(Batch):
    """The network's posterior, in the terms of a problem.

    Args:
        density: of B galaxies.
        whitened, linear: (B, N, P) and (B, N, L) its draws; NaN where one cannot be used.
        floor: (B,) the least ln density of its own draws, in its own variables.
        constants: of the prior.
        scale, background: (B,) unit and zero of ``linear``, see `Pixels`.
    """

    density: FlowDensity
    whitened: Tensor
    linear: Tensor
    floor: Tensor
    constants: Constants
    scale: Tensor
    background: Tensor

    def log_density(self, points: EvaluatedDraws) -> Tensor:
        """(b, S), see `Proposal`."""
        value = self.log_prob(points) + self._change(points)
        return torch.nan_to_num(value, nan=-torch.inf, posinf=-torch.inf)

    def below_floor(self, log_density: Tensor, points: EvaluatedDraws) -> Tensor:
        """(b, S) whether draws lie where the network has next to none of its own.

        Args:
            log_density: (b, S) of this at ``points``, so that it need not be evaluated again.
            points: the draws.
        """
        return ~(log_density - self._change(points) >= self.floor[:, None])

    def _change(self, points: EvaluatedDraws) -> Tensor:
        """(b, S) log-Jacobian from (ln fluxes, sky) in image units to proposal coordinates."""
        flux = points.linear[..., : self.density.space.n_components]
        unit = torch.log(self.scale)[:, None] - torch.log(flux).sum(dim=2)  # the scale is the sky's
        return unit - points.conditional

    def log_prob(self, points: EvaluatedDraws) -> Tensor:
        """(b, S) ln density in (u, ln fluxes, sky), the network's own variables."""
        b, s, _ = points.whitened.shape
        each = torch.arange(b, device=points.whitened.device).repeat_interleave(s)
        coords, _ = self.density.space.from_whitened(
            points.whitened.flatten(0, 1), self.constants[each]
        )
        linear = points.linear * self.scale[:, None, None]
        linear[..., -1] += self.background[:, None]
        return self.density.log_prob(coords.view(b, s, -1), linear)


def flow_proposal(draws: NetworkDraws, floor: Tensor, problem: Problem) -> FlowProposal:
    """Return the network's posterior as a proposal.

    Args:
        draws: of the B galaxies of ``problem``.
        floor: (B,) the least ln density that draws of it have.
        problem: of the network's model and a constant sky.
    """
    b, n, _ = draws.coords.shape
    coords = draws.coords.flatten(0, 1)
    each = torch.arange(b, device=coords.device).repeat_interleave(n)
    constants = problem.constants[each]
    whitened = problem.space.to_whitened(coords, constants)
    # beyond the edge of what can be represented a draw is put on it: it stands for no density
    back, _ = problem.space.from_whitened(whitened, constants)
    same = torch.isclose(back, coords, rtol=1e-6, atol=1e-6).all(dim=1)
    pixels, linear = problem.pixels, draws.linear.clone()
    linear[..., -1] -= pixels.background[:, None]
    linear = linear / pixels.scale[:, None, None]
    good = same.view(b, n) & torch.isfinite(linear).all(dim=2)
    whitened = torch.where(good[..., None], whitened.view(b, n, -1), torch.nan)
    linear = torch.where(good[..., None], linear, torch.nan)
    floor, scale = floor.to(pixels.scale), pixels.scale
    return FlowProposal(
        draws.density, whitened, linear, floor, problem.constants, scale, pixels.background
    )


@dataclass(frozen=True)
class Mixture(Batch):
    """The densities that S draws of b galaxies came from.

    Args:
        counts: (b, K) draws that each gave.
        log_density: (b, K, S) of each at every draw.
        proposals: K of them.
    """

    counts: Tensor
    log_density: Tensor
    proposals: tuple[Proposal, ...]

    @classmethod
    def of(cls, proposals: Sequence[Proposal], counts: Tensor, points: EvaluatedDraws) -> Mixture:
        """Return the mixture of ``counts`` (b, K) draws of each."""
        values = torch.stack([p.log_density(points) for p in proposals], dim=1)
        return cls(counts, values, tuple(proposals))

    @property
    def log_q(self) -> Tensor:
        """(b, S) ln of the mixture's density."""
        share = self.counts / self.counts.sum(dim=1, keepdim=True).clamp_min(1)
        return torch.logsumexp(torch.log(share)[:, :, None] + self.log_density, dim=1)

    def extended(
        self,
        proposals: Sequence[Proposal],
        counts: Sequence[Tensor],
        points: EvaluatedDraws,
        new: EvaluatedDraws,
    ) -> Mixture:
        """Return the mixture with draws ``new`` behind ``points``.

        Args:
            proposals: more densities.
            counts: (b,) draws of each of these among the new; the others are of those it has.
            points, new: all draws but the new, and the new.
        """
        added = torch.stack([p.log_density(new) for p in self.proposals], dim=1)
        both = EvaluatedDraws.joined([points, new])
        own = torch.stack([p.log_density(both) for p in proposals], dim=1)
        values = torch.cat([torch.cat([self.log_density, added], dim=2), own], dim=1)
        count = torch.cat([self.counts, *(c[:, None] for c in counts)], dim=1)
        return Mixture(count, values, (*self.proposals, *proposals))
