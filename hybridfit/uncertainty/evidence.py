"""The evidence, in units common to all models of one cutout.

The importance weights give

    Z = int exp(-chi2 / 2 T) p(u) du d(flux) d(sky),

with flux and sky in units of a typical pixel's noise and their prior 1. Models are compared by

    E = T^(-N/2) Z <1(fluxes > 0) (K - 1)! / F^(K - 1)>,    F = the sum of K fluxes,

the mean over the draws. Each factor removes a spurious difference between two models:

temperature: T^(-N/2) normalises N pixels of variance T sigma^2. T is measured from the image, so
    that it is the same for both models. If their noise differs (`BudgetOptions.correlated_noise`)
    they are hypotheses about the noise too, which outweigh the galaxy where it is correlated.
flux: a prior that is flat in each flux is unbounded, and a model of two components would gain a
    factor equal to the width of its prior. Here the total flux has density 1 per unit, as if known
    beforehand to one pixel's noise, for any number of components; their shares of it are uniform
    and not negative. The prior of the draws themselves is flat in each flux: if the total is well
    constrained, the two differ by a factor only.
sky: its level, and the rise of each slope over the cutout, have density 1 per unit too, a range of
    one pixel's noise. That is a guess of how well a subtracted sky is known, and matters when a
    free sky is compared with a fixed one.

The factor common to all models of a cutout, the product of 1 / (sigma sqrt(2 pi)), is omitted.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from hybridfit.data.cutouts import Cutouts
from hybridfit.data.diagnostics import SamplingDiagnostics
from hybridfit.fitting.linearised import Linearised
from hybridfit.fitting.problem import Problem
from hybridfit.sampling.importance_sampling import WeightedDraws
from hybridfit.sampling.psis import pareto_k_limits
from hybridfit.uncertainty.correlated_noise import Autocorrelation
from hybridfit.uncertainty.image_noise import LEAST_PIXELS

LEAST_DRAWS = 10.0  # effective draws: ln E is then known to a third


def with_evidence(
    sampled: WeightedDraws,
    problem: Problem,
    about: Linearised,
    cutouts: Cutouts,
    heat: Tensor | None = None,
    noise: Autocorrelation | None = None,
) -> WeightedDraws:
    """Return draws whose ``log_evidence`` can be compared between models of one cutout.

    It is NaN where the weights do not determine it (Pareto k, `LEAST_DRAWS`), where the image does
    not determine its noise (`LEAST_PIXELS` of sky), and where one of several components has no
    light in the fit: draws around such a fit miss solutions where it has.

    Args:
        sampled: importance draws of B galaxies.
        problem: of the same galaxies, at their temperature.
        about: the fits around which the draws were made.
        cutouts: the same galaxies.
        heat: (B,) their temperatures, or (B, I) those of each image; default 1.
        noise: on which the temperatures are based; default not measured.
    """
    count = problem.space.n_fluxes
    value = sampled.diagnostics.log_evidence + log_flux_prior(sampled, count)
    value = value + log_sky_unit(problem, cutouts)
    known = is_known(sampled.diagnostics)
    if problem.space.n_components > 1:
        known = known & (about.flux > 0).all(dim=1)
    used = [(problem.pixels.weight > 0).flatten(1).sum(dim=1)]
    used += [term.n_pixels for term in problem.exposures]
    if heat is not None:
        for pixels, own in zip(used, heat.view(len(heat), -1).unbind(1), strict=True):
            value = value - 0.5 * pixels * torch.log(own)
    if noise is not None:
        for pixels, image in zip(used, noise.images, strict=True):
            blank = (pixels == 0) & bool(problem.exposures)  # of several images, it does not count
            known = known & ((image.pixels >= LEAST_PIXELS) | blank)
    for term in problem.exposures:
        value = value + term.log_sky_volume
    value = torch.where(known, value, torch.nan)
    return replace(sampled, diagnostics=replace(sampled.diagnostics, log_evidence=value))


def is_known(about: SamplingDiagnostics) -> Tensor:
    """Return (B,) whether the importance weights determine the evidence."""
    return (about.pareto_k < pareto_k_limits(about.n_draws)) & (about.ess >= LEAST_DRAWS)


def log_flux_prior(sampled: WeightedDraws, count: int) -> Tensor:
    """Return (B,) ln of the mean density of shares over that of a flat prior in ``count`` fluxes.

    Draws with a negative flux count as 0.
    """
    if count == 0:
        return torch.zeros_like(sampled.diagnostics.ess)
    flux = sampled.points.linear[..., :count]
    total = flux.sum(dim=2)
    density = math.lgamma(count) - (count - 1) * torch.log(total.clamp_min(1e-30))
    there = torch.isfinite(sampled.log_weights) & (flux > 0).all(dim=2)
    return torch.logsumexp(torch.where(there, sampled.log_weights + density, -torch.inf), dim=1)


def log_sky_unit(problem: Problem, cutouts: Cutouts) -> Tensor:
    """Return (B,) ln of the change from slopes over the padded cutout to slopes over the cutout."""
    if problem.space.sky != "plane":
        return torch.zeros(len(cutouts), dtype=torch.float64, device=cutouts.image.device)
    padded = torch.tensor([problem.grid.height, problem.grid.width]).to(problem.pixels.scale)
    return torch.log(cutouts.size.to(problem.pixels.scale) / padded).sum(dim=1)
