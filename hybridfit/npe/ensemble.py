"""Several flows with a context each: their mixture is the posterior, their spread epistemic.

Members share the backbone, the initial estimator and the blocks that read the scalars. Behind these
each has blocks and a flow of its own, which began elsewhere, so that they agree where the training
constrains them and differ elsewhere (Lakshminarayanan et al. 2017, arXiv:1612.01474).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from hybridfit.npe.flow import MaskedFlow


class EnsembleFlow(nn.Module):
    """The mixture of M flows with equal weights.

    It is evaluated as a `MaskedFlow`; a context is those of all members in a row.

    Args:
        flows: M of them, of the same coordinates.
    """

    def __init__(self, flows: Sequence[MaskedFlow]) -> None:
        super().__init__()
        self.flows = nn.ModuleList(flows)

    @property
    def n(self) -> int:
        """How many coordinates there are."""
        return self.members[0].n

    @property
    def members(self) -> list[MaskedFlow]:
        """The flows."""
        return [flow for flow in self.flows if isinstance(flow, MaskedFlow)]

    def of_members(self, t: Tensor, context: Tensor) -> Tensor:
        """Return ln q_m(t | context), (M, B), for t (B, n) and context (B, M c): for training."""
        parts = context.chunk(len(self.flows), dim=1)
        pairs = zip(self.members, parts, strict=True)
        return torch.stack([flow.log_prob(t, own) for flow, own in pairs])

    def log_prob(self, t: Tensor, context: Tensor) -> Tensor:
        """Return ln q(t | context), (B,), see `MaskedFlow.log_prob`."""
        return _mixed(self.of_members(t, context))

    @torch.no_grad()
    def log_prob_of(self, t: Tensor, context: Tensor) -> Tensor:
        """Return ln q(t | context), (B, S), see `MaskedFlow.log_prob_of`."""
        parts = context.chunk(len(self.flows), dim=1)
        pairs = zip(self.members, parts, strict=True)
        return _mixed(torch.stack([flow.log_prob_of(t, own) for flow, own in pairs]))

    @torch.no_grad()
    def to_normal(self, t: Tensor, context: Tensor) -> Tensor:
        """Return the points (B, S, n) that t come from, by the member in which they are nearest."""
        parts = context.chunk(len(self.flows), dim=1)
        pairs = zip(self.members, parts, strict=True)
        points = torch.stack([flow.to_normal(t, own) for flow, own in pairs])  # (M, B, S, n)
        nearest = points.square().sum(dim=3).nan_to_num(torch.inf).argmin(dim=0)  # (B, S)
        return points.gather(0, nearest[None, :, :, None].expand(1, *points.shape[1:]))[0]

    @torch.no_grad()
    def from_normal(self, z: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """Map z (B, S, n) to t with ln q(t | context) (B, S); draw s is of member s modulo M."""
        t = torch.empty_like(z, dtype=torch.float32)
        for m, points in enumerate(self.each_from_normal(z, context)):
            t[:, m :: len(self.flows)] = points[:, m :: len(self.flows)]
        return t, self.log_prob_of(t, context)

    @torch.no_grad()
    def each_from_normal(self, z: Tensor, context: Tensor) -> list[Tensor]:
        """Map z (B, S, n) to t (B, S, n) by each of the M members."""
        parts = context.chunk(len(self.flows), dim=1)
        return [flow.from_normal(z, own)[0] for flow, own in zip(self.members, parts, strict=True)]


def _mixed(log_density: Tensor) -> Tensor:
    """Return ln of the mean of densities (M, ...)."""
    return torch.logsumexp(log_density, dim=0) - math.log(len(log_density))
