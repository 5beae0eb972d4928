"""Flux at a target's position if no galaxy was detected: value, error and upper limit.

For a given profile, flux and sky are one linear solve: F_k and its standard deviation s_k. The
pixels do not constrain the shape of an undetected galaxy, so it is a point if a point was fitted,
that of the initial values if given, e.g. from another band, otherwise several draws of the prior,
none too wide for the cutout. The density of the flux is the mixture

    p(F) = sum_k w_k N(F; F_k, s_k^2),   w_k ~ max_F L_k(F),

the likelihood times a prior that is uniform in signal-to-noise. A flat prior in flux would favour
the widest, and so least constrained, profiles. The flux is the median, which may be negative, the
error half of p84 - p16, and the limit the 95 % quantile of the positive part.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hybridfit.data.cutouts import Cutouts
from hybridfit.fitting.moments import starting_values
from hybridfit.fitting.problem import Problem
from hybridfit.sampling.student_t import sobol_points

N_SHAPES = 16  # profiles; all the same if the shape is known
WIDEST = 0.25  # of the cutout's shorter side: largest half-light radius drawn
CONFIDENCE = 0.95  # of the upper limit
BISECTIONS = 40  # for a quantile: to 1e-9 of the bracket


@dataclass(frozen=True)
class ForcedFlux:
    """Fluxes of B galaxies at their targets' positions, flux units; NaN where missing.

    Args:
        flux: (B,) may be negative.
        error: (B,) standard deviation.
        limit: (B,) upper limit of 95 %.
    """

    flux: Tensor
    error: Tensor
    limit: Tensor

    @classmethod
    def unknown(cls, batch: int) -> ForcedFlux:
        """Return that of B galaxies without a measurement."""
        return cls(*torch.full((3, batch), torch.nan, dtype=torch.float64).unbind(0))


def forced_flux(problem: Problem, cutouts: Cutouts, temperature: Tensor) -> ForcedFlux:
    """Measure the flux of one Sersic profile, or one point, at each target's position.

    Args:
        problem: of B galaxies and one Sersic component, or one point.
        cutouts: the same galaxies; finite values in their ``start`` count as known.
        temperature: (B,) the noise's variance over that of white noise.
    """
    whitened = _shapes(problem, cutouts)
    b, k = whitened.shape[:2]
    rows = torch.arange(b, device=whitened.device).repeat_interleave(k)
    found = problem.profile(whitened.flatten(0, 1), rows)
    eye = torch.eye(problem.space.n_linear, dtype=whitened.dtype, device=whitened.device)
    inverse = torch.linalg.solve_triangular(found.factor, eye.expand_as(found.factor), upper=False)
    heat = temperature.to(whitened)[:, None]
    scale = problem.pixels.scale.to(whitened)[:, None]
    flux = found.linear[:, 0].view(b, k) * scale
    error = inverse[:, :, 0].norm(dim=1).view(b, k) * scale * heat.sqrt()
    log_weight = -found.cost.view(b, k) / heat
    fine = torch.isfinite(flux) & torch.isfinite(error) & (error > 0) & torch.isfinite(log_weight)
    share = torch.softmax(torch.where(fine, log_weight, -torch.inf), dim=1)
    known = fine.any(dim=1)
    mixture = _Mixture(
        torch.where(known[:, None], share, 1.0 / k),
        torch.where(fine, flux, 0.0),
        torch.where(fine, error, 1.0),
    )
    low, middle, high = (mixture.quantile(level) for level in (0.15866, 0.5, 0.84134))
    below = mixture.cumulative(torch.zeros_like(middle))
    limit = mixture.quantile(below + CONFIDENCE * (1 - below))
    values = (middle, (high - low) / 2, limit)
    return ForcedFlux(*(torch.where(known, value, torch.nan) for value in values))


def _shapes(problem: Problem, cutouts: Cutouts) -> Tensor:
    """Return whitened parameters (B, K, P): the prior's shapes at the target, or those given."""
    space, b = problem.space, len(cutouts)
    if not space.components[0].is_ellipse:
        single = problem.constants.centre.new_zeros(b, 6)
        single[:, :2] = problem.constants.centre
        start = starting_values(cutouts, single, space)
        return space.to_whitened(start, problem.constants)[:, None]
    shorter = cutouts.size.amin(dim=1).double()
    # a cutout is larger than its target
    widest = torch.special.ndtr(space.priors[0].r_circ.whitened(torch.log(WIDEST * shorter)))
    uniform = (
        sobol_points(N_SHAPES, space.n_nonlinear - 2)
        .to(problem.pixels.scale)
        .expand(b, -1, -1)
        .clone()
    )
    uniform[..., 0] *= widest.clamp_min(1e-3)[:, None]
    drawn = torch.cat([torch.zeros_like(uniform[..., :2]), torch.special.ndtri(uniform)], dim=2)
    shapes = []
    for whitened in drawn.unbind(1):
        coords, _ = space.from_whitened(whitened, problem.constants)
        shapes.append(space.to_whitened(starting_values(cutouts, coords, space), problem.constants))
    return torch.stack(shapes, dim=1)


@dataclass(frozen=True)
class _Mixture:
    """Mixtures of normal distributions of b galaxies: weights, means and deviations (b, K)."""

    share: Tensor
    mean: Tensor
    deviation: Tensor

    def cumulative(self, value: Tensor) -> Tensor:
        """Return the (b,) probability below ``value`` (b,)."""
        z = (value[:, None] - self.mean) / self.deviation
        return (self.share * torch.special.ndtr(z)).sum(dim=1)

    def quantile(self, level: Tensor | float) -> Tensor:
        """Return the (b,) quantile of probability ``level``, by bisection."""
        low = (self.mean - 8 * self.deviation).amin(dim=1)
        high = (self.mean + 8 * self.deviation).amax(dim=1)
        for _ in range(BISECTIONS):
            middle = (low + high) / 2
            above = self.cumulative(middle) > level
            low, high = torch.where(above, low, middle), torch.where(above, middle, high)
        return (low + high) / 2
