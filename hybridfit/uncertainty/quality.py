"""Quality of a galaxy's numbers: certified, usable or suspect.

A galaxy of several named components, as bulge and disk, is judged by magnitude and size of their
sum. Where only the share of the components is uncertain, or one of them may be absent, its numbers
are COMPONENT_UNCERTAIN, and usable at best: the posterior tells what is known of the components.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hybridfit.data.flags import Flag
from hybridfit.data.result import Quality
from hybridfit.data.samples import Draws
from hybridfit.model.combined import CombinedParameters, combined, combined_names
from hybridfit.model.parameters import ParameterSpace

# errors that surveys call catastrophic failures
FAR_MAG, FAR_SIZE = 0.5, math.log(2.0)  # mag, ln(r_eff)
MAX_PROBABILITY = 0.025  # probability of these, beyond which a galaxy is UNCERTAIN
SIGNIFICANT = 4.0  # standard deviations of structure in the residuals
SURELY, MIN_OFFSET = 0.95, 0.01  # probability, and ln of the width, of a wrong PSF
ENOUGH = 50.0  # effective draws: quantiles are good to a fifth of sigma

# the numbers may be wrong by much more than their errors
SUSPECT = (
    Flag.NOT_CONVERGED
    | Flag.NO_SIGNAL
    | Flag.MASKED_CENTRE
    | Flag.NO_DATA
    | Flag.UNREADABLE
    | Flag.POOR_FIT
    | Flag.UNCERTAIN
    | Flag.LARGER_THAN_CUTOUT
    | Flag.OFF_CENTRE
    | Flag.BAD_SIGMA
    | Flag.SUSPECT_MASK
    | Flag.DISAGREES
    | Flag.UNSAMPLED
    | Flag.NOT_MODELLED
    | Flag.FAILED
)
# an input to the errors was missing or incorrect
LESS = (
    Flag.AT_LIMIT
    | Flag.SIGMA_ESTIMATED
    | Flag.BAD_PSF
    | Flag.NO_PSF
    | Flag.UNRESOLVED
    | Flag.FEW_DRAWS
    | Flag.UNFAMILIAR
    | Flag.MISFIT
    | Flag.PSF_DOUBTFUL
    | Flag.PSF_TRUNCATED
    | Flag.SEVERAL_SOURCES
    | Flag.COMPONENT_UNCERTAIN
)


def catastrophic_probability(
    draws: Draws, theta: Tensor, space: ParameterSpace | None = None
) -> Tensor:
    """Return the (B,) probability that magnitude or size are catastrophically off.

    They are those of the sum where there is one, else of any component.

    Args:
        draws: of B galaxies.
        theta: (B, Q) the quoted values; NaN counts as off.
        space: of the parameters; default components without a sum.
    """
    if space is None or not combined_names(space):
        return component_probability(draws, theta)
    batch, count, _ = draws.samples.shape
    drawn = combined(draws.samples.flatten(0, 1), space).view(batch, count, -1)
    about = CombinedParameters(combined_names(space))
    return component_probability(Draws(about, drawn, draws.weights), combined(theta, space))


def component_probability(draws: Draws, theta: Tensor) -> Tensor:
    """Return the (B,) probability that magnitude or size of any component are catastrophically off.

    Args:
        draws: of B galaxies.
        theta: (B, Q) the quoted values; NaN counts as off.
    """
    far = torch.zeros_like(draws.weights, dtype=torch.bool)
    for k, role in enumerate(draws.space.roles):
        quoted, drawn = theta[:, k, None], draws.samples[..., k]
        if role == "mag":
            far |= ~((drawn - quoted).abs() <= FAR_MAG)
        elif role == "r_eff":
            far |= ~(torch.log(drawn / quoted).abs() <= FAR_SIZE)
    chance = (draws.weights * far).sum(dim=1)
    return torch.where(draws.exist, chance, torch.nan)


def uncertain_flags(flags: Tensor, chance: Tensor, of_components: Tensor | None = None) -> Tensor:
    """Return flags (B,) with UNCERTAIN from the draws instead of the fit's estimate.

    Args:
        flags: (B,) of the fit.
        chance: (B,) from `catastrophic_probability`; where it is NaN, the fit's flag is kept.
        of_components: (B,) from `component_probability`, that raises COMPONENT_UNCERTAIN; None
            for galaxies without a sum of components.
    """
    bit = int(Flag.UNCERTAIN)
    flags = torch.where(
        torch.isnan(chance), flags, (flags & ~bit) | (chance > MAX_PROBABILITY) * bit
    )
    if of_components is None:
        return flags
    return flags | (of_components > MAX_PROBABILITY) * int(Flag.COMPONENT_UNCERTAIN)


def budget_flags(structure: Tensor, own: Tensor, offset: Tensor, wrong: Tensor) -> Tensor:
    """Return (B,) MISFIT and PSF_DOUBTFUL; NaN raises no flag.

    Args:
        structure: (B,) significance of structure in the residuals, in standard deviations.
        own: (B,) that of the excess of chi2 under the galaxy's own light.
        offset: (B,) ln of the width preferred by the pixels over the PSF's.
        wrong: (B,) probability that the PSF is wrong.
    """
    misfit = (structure > SIGNIFICANT) | (own > SIGNIFICANT)
    doubtful = (wrong > SURELY) & (offset.abs() > MIN_OFFSET)
    return misfit * int(Flag.MISFIT) | doubtful * int(Flag.PSF_DOUBTFUL)


def sampling_flags(ess: Tensor, pareto_k: Tensor, limit: Tensor) -> Tensor:
    """Return (B,) UNSAMPLED where draws are too few, or their weights too uneven.

    Args:
        ess: (B,) effective number of draws; NaN where there are none.
        pareto_k: (B,) Pareto k, NaN where it does not apply.
        limit: (B,) of k.
    """
    poor = ~(ess >= ENOUGH) | (pareto_k >= limit)
    return poor * int(Flag.UNSAMPLED)


def quality(flags: Tensor, sampled: bool) -> Tensor:
    """Return (B,) values of `Quality`.

    Args:
        flags: (B,) all flags of the galaxies.
        sampled: whether the errors come from the posterior itself. Errors from a curvature or
            from replicas have not been checked against it: usable at best.
    """
    value = torch.full_like(flags, int(Quality.CERTIFIED if sampled else Quality.USABLE))
    value = torch.where((flags & int(LESS)) != 0, int(Quality.USABLE), value)
    return torch.where((flags & int(SUSPECT)) != 0, int(Quality.SUSPECT), value)
