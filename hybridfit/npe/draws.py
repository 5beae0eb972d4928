"""Plausible draws from the flow.

The inverse of an affine flow throws some draws far away. Draws outside the range of the parameters
and lone draws many widths beyond all others are rejected, counted and drawn again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import sha256

import torch
from torch import Tensor

from hybridfit.batch import Batch
from hybridfit.model.prior import MAX_U
from hybridfit.npe.density import FlowDensity
from hybridfit.npe.frame import Frame, decode, position

# standard deviations: the flow's coordinates have longer tails than a normal's, and draws that
# explode lie far beyond
MAX_WHITENED = 10.0
# half-widths of the 68 % interval from the median, in each of the flow's coordinates. Where more
# than a hundredth of the draws, and more than one, lie farther away the posterior has a tail
# there; fewer come from the inverse of the flow
LONE, TAIL = 15.0, 0.01
ENOUGH = 32  # draws that distinguish such a tail from a lone draw
ROUNDS = 4  # of drawing: a galaxy that lacks draws after them has a third plausible at most


@dataclass(frozen=True)
class PlausibleDraws(Batch):
    """Plausible draws of B galaxies.

    Args:
        t: (B, S, P) float64, the flow's coordinates; repeated where there are fewer than S.
        log_prob: (B, S) float64, log density of t.
        count: (B,) plausible draws, at most S.
        rejected: (B,) draws.
    """

    t: Tensor
    log_prob: Tensor
    count: Tensor
    rejected: Tensor

    def with_more(self, drawn: Tensor, log_prob: Tensor, good: Tensor) -> PlausibleDraws:
        """Return these with more draws: the good ones, until all are there; others are rejected.

        Args:
            drawn, log_prob: (B, S, P) and (B, S) as ``t`` and ``log_prob``.
            good: (B, S) whether a draw is plausible.
        """
        n_samples = self.t.shape[1]
        place = self.count[:, None] + good.cumsum(dim=1) - 1
        used = place < n_samples  # draws behind the last one that is needed do not count
        galaxy, draw = (good & used).nonzero(as_tuple=True)
        there = galaxy, place[galaxy, draw]
        return PlausibleDraws(
            self.t.index_put(there, drawn[galaxy, draw].to(self.t)),
            self.log_prob.index_put(there, log_prob[galaxy, draw].to(self.t)),
            (self.count + good.sum(dim=1)).clamp_max(n_samples),
            self.rejected + (~good & used).sum(dim=1),
        )


def draw_plausible(
    density: FlowDensity, ids: Sequence[str], n_samples: int, seed: int
) -> PlausibleDraws:
    """Draw until each galaxy has its plausible draws, or after `ROUNDS` rounds.

    Args:
        density: of B galaxies.
        ids: (B,) their names, which with ``seed`` determine the random numbers.
        n_samples: S, draws of each.
        seed: of the random numbers.
    """
    context, frame, n = density.context, density.frame, density.estimator.n_targets
    b = len(context)
    found = _empty(frame, n_samples, n)
    rows = torch.arange(b, device=context.device)
    middle, limit = frame.centre.new_zeros(b, 1, n), frame.centre.new_full((b, 1, n), torch.inf)
    for attempt in range(ROUNDS):
        some = density[rows]
        noise = own_noise([ids[i] for i in rows.tolist()], n_samples, n, seed, attempt)
        z, log_q = density.estimator.flow.from_normal(noise.to(context), some.context)
        drawn, log_slope = some.from_flow(z)
        good = _is_plausible(z, drawn, some)
        if attempt == 0 and n_samples >= ENOUGH:
            middle, limit = usual_range(drawn, good)
        good &= ((drawn - middle[rows]).abs() <= limit[rows]).all(dim=2)
        found = found.put(rows, found[rows].with_more(drawn, log_q + log_slope, good))
        rows = (found.count < n_samples).nonzero()[:, 0]
        if not len(rows):
            break
    again = torch.arange(n_samples, device=context.device) % found.count.clamp_min(1)[:, None]
    t = found.t.gather(1, again[:, :, None].expand_as(found.t))
    return replace(found, t=t, log_prob=found.log_prob.gather(1, again))


def _empty(frame: Frame, n_samples: int, n: int) -> PlausibleDraws:
    """Room for the draws of the galaxies of ``frame``."""
    t = frame.centre.new_zeros(len(frame), n_samples, n)
    count = torch.zeros(len(frame), dtype=torch.int64, device=t.device)
    return PlausibleDraws(t, torch.zeros_like(t[..., 0]), count, torch.zeros_like(count))


def own_noise(ids: Sequence[str], n_samples: int, n: int, seed: int, attempt: int) -> Tensor:
    """Return standard normal (B, S, n): a galaxy's own, the same in any batch on any device."""
    noise = torch.empty(len(ids), n_samples, n)
    generator = torch.Generator()
    for i, name in enumerate(ids):
        digest = sha256(f"{seed} {attempt} {name}".encode()).digest()
        generator.manual_seed(int.from_bytes(digest[:7], "big"))
        noise[i].normal_(generator=generator)
    return noise


def _is_plausible(z: Tensor, t: Tensor, density: FlowDensity) -> Tensor:
    """(B, S) whether draws lie within the range of the parameters; NaN does not."""
    coordinates = density.coordinates
    inside = (z.abs() < MAX_WHITENED).all(dim=2)
    inside &= (t[..., coordinates.shapes].abs() < MAX_U).all(dim=2)
    for column, largest in coordinates.largest.items():
        inside &= t[..., column] < largest
    box = density.frame.position_bounds_of(density.space)[:, None]
    for place in coordinates.positions:
        x, y = position(t, density.frame, place.column)
        inside &= (x - box[..., 0]).abs() < box[..., 2]
        inside &= (y - box[..., 1]).abs() < box[..., 3]
    return inside


def usual_range(t: Tensor, good: Tensor) -> tuple[Tensor, Tensor]:
    """Return the median (B, 1, P) of good draws and the farthest plausible distance from it.

    The distance is infinite where the posterior has a tail.
    """
    count = good.sum(dim=1)[:, None, None]
    ordered = torch.where(good[..., None], t, torch.inf).sort(dim=1).values
    ranks = [
        (level * (count - 1).clamp_min(0)).round().long().expand(-1, 1, t.shape[2])
        for level in (0.16, 0.5, 0.84)
    ]
    low, middle, high = (ordered.gather(1, rank) for rank in ranks)
    limit = LONE * (high - low) / 2
    far = ((t - middle).abs() > limit).any(dim=2) & good
    most = (TAIL * count[:, 0, 0]).clamp_min(1.0)
    alone = (far.sum(dim=1) <= most) & torch.isfinite(limit).all(dim=2)[:, 0]
    limit = torch.where(alone[:, None, None], limit, torch.inf)
    return torch.where(torch.isfinite(middle), middle, 0.0), limit


def decoded_draws(t: Tensor, density: FlowDensity) -> tuple[Tensor, Tensor, Tensor]:
    """Return draws t (B, S, T) of a density in render coordinates.

    Returns:
        Render coordinates (B, S, C), fluxes and sky (B, S, L) in image units, and the log Jacobian
        (B, S) that leads from a density of t to one of whitened coordinates, ln fluxes and sky.
    """
    b, s, _ = t.shape
    flat = t.reshape(b * s, -1)
    frames = density.frame[torch.arange(b, device=t.device).repeat_interleave(s)]
    coords, linear = decode(flat, frames, density.coordinates)
    jacobian = density.log_jacobian(flat, coords, s)
    return coords.view(b, s, -1), linear.view(b, s, -1), jacobian.view(b, s)
