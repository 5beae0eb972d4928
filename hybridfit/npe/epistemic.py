"""What the network does not know about itself: how far the members of an ensemble disagree."""

from __future__ import annotations

import torch
from torch import Tensor

from hybridfit.data.samples import Draws, Named
from hybridfit.model.combined import CombinedParameters, combined, combined_names
from hybridfit.npe.density import FlowDensity
from hybridfit.npe.ensemble import EnsembleFlow
from hybridfit.npe.frame import decode

N_DRAWS = 128  # of each member
SEED = 11


@torch.inference_mode()
def epistemic_error(density: FlowDensity, zeropoint: Tensor) -> tuple[Tensor, Tensor]:
    """Return the standard deviation of the members' medians.

    All members use the same random numbers, so that those that agree differ by nothing.

    Args:
        density: of B galaxies, from a network of several members.
        zeropoint: (B,) mag.

    Returns:
        (B, Q) of the physical parameters, cutout pixels, and (B, D) of what the components are
        together, in the order of `combined_names`; NaN without pixels, or where a member has no
        median.

    Raises:
        ValueError: for a network of one member.
    """
    flow, coordinates = density.estimator.flow, density.coordinates
    if not isinstance(flow, EnsembleFlow):
        raise ValueError(
            "epistemic needs a network of several members, and these weights hold one: expected "
            "weights trained with network.members of 2 or more"
        )
    generator = torch.Generator().manual_seed(SEED)
    noise = torch.randn(N_DRAWS, coordinates.n, generator=generator).to(density.context)
    context = torch.where(density.seen[:, None], density.context, 0.0)
    whole, parts = CombinedParameters(combined_names(density.space)), []
    for z in flow.each_from_normal(noise.expand(len(context), -1, -1), context):
        theta = _physical(z, density, zeropoint)
        sums = _sums(theta, density)
        parts.append((_middle(density.space, theta), _middle(whole, sums)))
    each, sums = (torch.stack(column, dim=1) for column in zip(*parts, strict=True))
    return _spread(density.space, each, density), _spread(whole, sums, density)


def _physical(z: Tensor, density: FlowDensity, zeropoint: Tensor) -> Tensor:
    """Return physical parameters (B, S, Q) of the flow's own variable z (B, S, T)."""
    b, s, _ = z.shape
    each = torch.arange(b, device=z.device).repeat_interleave(s)
    t, _ = density.from_flow(z)
    coords, linear = decode(t.flatten(0, 1), density.frame[each], density.coordinates)
    theta, _ = density.space.to_physical(coords, linear, zeropoint.to(z.device).double()[each])
    return theta.view(b, s, -1)


def _sums(theta: Tensor, density: FlowDensity) -> Tensor:
    """Return what components are together, (B, S, D)."""
    if not combined_names(density.space):
        return theta[..., :0]
    return combined(theta.flatten(0, 1), density.space).view(*theta.shape[:2], -1)


def _middle(space: Named, samples: Tensor) -> Tensor:
    """Return medians (B, Q) of draws (B, S, Q)."""
    return Draws(space, samples).quantiles([0.5])[:, 0]


def _spread(space: Named, medians: Tensor, density: FlowDensity) -> Tensor:
    """Return standard deviations (B, Q) of the members' medians (B, M, Q), on the CPU."""
    known = torch.isfinite(medians).flatten(1).all(dim=1) & density.seen
    return torch.where(known[:, None], Draws(space, medians).std, torch.nan).cpu()
