"""How far to trust a galaxy's numbers: certified, usable or suspect."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hybridfit.data.flags import Flag
from hybridfit.data.result import Quality
from hybridfit.data.samples import Draws

# off by so much is what surveys call a catastrophic failure
FAR_MAG, FAR_SIZE = 0.5, math.log(2.0)  # mag, ln(r_eff)
MAX_PROBABILITY = 0.025  # probability of that, beyond which a galaxy is UNCERTAIN
SIGNIFICANT = 4.0  # standard deviations of structure in the residuals
SURELY, MIN_OFFSET = 0.95, 0.01  # probability, and ln of the width, of a PSF that is wrong
ENOUGH = 50.0  # effective draws: quantiles are good to a fifth of sigma

# the numbers may be wrong by far more than their errors
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
# something that the errors rest on was not given, or not as it should be
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
)


def catastrophic_probability(draws: Draws, theta: Tensor) -> Tensor:
    """(B,) probability that magnitude or size of any component are catastrophically off.

    Args:
        draws: of B galaxies.
        theta: (B, Q) what is quoted of them; NaN is off.
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


def uncertain_flags(flags: Tensor, chance: Tensor) -> Tensor:
    """Flags (B,) with UNCERTAIN as the draws have it, in place of the fit's own estimate.

    Args:
        flags: (B,) of the fit.
        chance: (B,) from `catastrophic_probability`; galaxies without, NaN, keep the fit's flag.
    """
    bit = int(Flag.UNCERTAIN)
    return torch.where(
        torch.isnan(chance), flags, (flags & ~bit) | (chance > MAX_PROBABILITY) * bit
    )


def budget_flags(structure: Tensor, own: Tensor, offset: Tensor, wrong: Tensor) -> Tensor:
    """(B,) MISFIT and PSF_DOUBTFUL; NaN is no sign.

    Args:
        structure: (B,) significance of structure in the residuals, in standard deviations.
        own: (B,) that of the excess of chi2 under the galaxy's own light.
        offset: (B,) ln of the width that the pixels ask for over the PSF's.
        wrong: (B,) probability that the PSF is not right.
    """
    misfit = (structure > SIGNIFICANT) | (own > SIGNIFICANT)
    doubtful = (wrong > SURELY) & (offset.abs() > MIN_OFFSET)
    return misfit * int(Flag.MISFIT) | doubtful * int(Flag.PSF_DOUBTFUL)


def sampling_flags(ess: Tensor, pareto_k: Tensor, limit: Tensor) -> Tensor:
    """(B,) UNSAMPLED where draws are too few, or their weights too uneven.

    Args:
        ess: (B,) effective number of draws; NaN where there are none.
        pareto_k: (B,) Pareto k, NaN where it does not apply.
        limit: (B,) of k.
    """
    poor = ~(ess >= ENOUGH) | (pareto_k >= limit)
    return poor * int(Flag.UNSAMPLED)


def quality(flags: Tensor, sampled: bool) -> Tensor:
    """(B,) of `Quality`.

    Args:
        flags: (B,) all that is known.
        sampled: whether the errors come from the posterior itself. Those from a curvature or
            from replicas have not been checked against it: usable at best.
    """
    value = torch.full_like(flags, int(Quality.CERTIFIED if sampled else Quality.USABLE))
    value = torch.where((flags & int(LESS)) != 0, int(Quality.USABLE), value)
    return torch.where((flags & int(SUSPECT)) != 0, int(Quality.SUSPECT), value)
