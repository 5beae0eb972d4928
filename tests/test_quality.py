"""The certificate: what risk is, what makes a galaxy suspect, and that every flag has a grade."""

from __future__ import annotations

import math

import torch

from hybridfit.data.flags import Flag
from hybridfit.data.result import Quality
from hybridfit.data.samples import Draws
from hybridfit.fitting.options import FitOptions
from hybridfit.model.parameters import ParameterSpace
from hybridfit.uncertainty.quality import (
    ENOUGH,
    LESS,
    MAX_PROBABILITY,
    SUSPECT,
    budget_flags,
    catastrophic_probability,
    component_probability,
    quality,
    sampling_flags,
    uncertain_flags,
)

SPACE = ParameterSpace()
# of these the user is told, and the numbers are as good as without
HARMLESS = (
    Flag.BLENDED
    | Flag.MASK_ESTIMATED
    | Flag.PSF_OFF_CENTRE
    | Flag.PSF_NORMALISED
    | Flag.BAD_PIXELS
    | Flag.CROPPED
    | Flag.NO_ZEROPOINT  # shapes do not rest on it, and magnitudes are named instrumental
)


def draws_of(mag: torch.Tensor, r_eff: torch.Tensor) -> Draws:
    samples = torch.ones(*mag.shape, 8, dtype=torch.float64)
    samples[..., 2], samples[..., 3] = mag, r_eff
    return Draws(SPACE, samples)


def quoted(mag: float, r_eff: float, batch: int = 1) -> torch.Tensor:
    theta = torch.ones(batch, 8, dtype=torch.float64)
    theta[:, 2], theta[:, 3] = mag, r_eff
    return theta


def test_risk_is_the_share_of_draws_far_away():
    """Normal draws of .25 mag and .3 in ln r_eff: what erf says, less what both share."""
    generator = torch.Generator().manual_seed(0)
    normal = torch.randn(2, 1, 40000, generator=generator, dtype=torch.float64)
    draws = draws_of(20 + 0.25 * normal[0], 5 * torch.exp(0.3 * normal[1]))
    p, r = (math.erfc(x / math.sqrt(2)) for x in (2.0, math.log(2) / 0.3))
    found = float(catastrophic_probability(draws, quoted(20.0, 5.0)))
    assert abs(found - (p + r - p * r)) < 0.004  # three times the binomial error
    assert float(catastrophic_probability(draws, quoted(20.6, 5.0))) > 0.5
    assert abs(float(catastrophic_probability(draws, quoted(20.0, math.nan))) - 1) < 1e-9
    nothing = Draws(SPACE, torch.full((1, 5, 8), torch.nan).double())
    assert torch.isnan(catastrophic_probability(nothing, quoted(20.0, 5.0))).all()


def test_risk_takes_the_place_of_the_fit_s_own_estimate():
    bit = int(Flag.UNCERTAIN)
    before = torch.tensor([bit | 1, 0, bit])
    after = uncertain_flags(before, torch.tensor([0.0, 2 * MAX_PROBABILITY, math.nan]).double())
    assert after.tolist() == [1, bit, bit]


def test_weights_that_cannot_be_trusted_are_flagged():
    ess = torch.tensor([2 * ENOUGH, 2 * ENOUGH, ENOUGH / 2, math.nan, 2 * ENOUGH])
    khat = torch.tensor([0.2, 0.8, 0.2, 0.2, math.nan])  # the last is a chain's
    flags = sampling_flags(ess, khat, torch.full((5,), 0.6))
    assert (flags > 0).tolist() == [False, True, True, True, False]


def test_signs_of_the_budget():
    nan = math.nan
    flags = budget_flags(
        torch.tensor([0.0, 9.0, nan, 0.0, 0.0]),
        torch.tensor([0.0, 0.0, nan, 9.0, 0.0]),
        torch.tensor([0.2, 0.0, nan, 0.001, -0.1]),
        torch.tensor([0.5, 0.0, nan, 0.99, 0.99]),
    )
    misfit = int(Flag.MISFIT)
    assert flags.tolist() == [0, misfit, 0, misfit, int(Flag.PSF_DOUBTFUL)]


def test_every_flag_has_its_grade():
    """A new flag must be put somewhere: it cannot be certified by oversight."""
    everything = int(SUSPECT | LESS | HARMLESS)
    assert everything == sum(int(flag) for flag in Flag)
    assert not SUSPECT & LESS
    assert not (SUSPECT | LESS) & HARMLESS
    for flag in Flag:
        grade = int(quality(torch.tensor([int(flag)]), sampled=True))
        expected = Quality.CERTIFIED
        if flag & SUSPECT:
            expected = Quality.SUSPECT
        elif flag & LESS:
            expected = Quality.USABLE
        assert grade == expected, flag.name


def test_errors_that_were_not_checked_are_usable_at_best():
    flags = torch.tensor([0, int(Flag.CROPPED), int(Flag.POOR_FIT)])
    assert quality(flags, sampled=False).tolist() == [1, 1, 0]
    assert quality(flags, sampled=True).tolist() == [2, 2, 0]


BULGE_AND_DISK = FitOptions(model="bulge+disk").space


def bulge_and_disk(share: torch.Tensor, mag: torch.Tensor) -> Draws:
    """Draws of galaxies whose bulges have these shares (B, S) of the light, and magnitudes."""
    theta = torch.ones(*share.shape, 14, dtype=torch.float64)
    theta[..., 2] = mag - 2.5 * torch.log10(share)
    theta[..., 9] = mag - 2.5 * torch.log10(1 - share)
    theta[..., 3], theta[..., 10] = 3.0, 4.0
    theta[..., 5] = theta[..., 11] = 0.8
    return Draws(BULGE_AND_DISK, theta)


def test_bulge_and_disk_are_judged_by_their_sum():
    """An unknown share is usable, an unknown sum, the wrong twin, is suspect."""
    generator = torch.Generator().manual_seed(0)
    share = torch.rand(1, 4000, generator=generator, dtype=torch.float64)
    noise = torch.randn(1, 4000, generator=generator, dtype=torch.float64)
    quoted_at = bulge_and_disk(torch.full((1, 1), 0.5).double(), torch.tensor(18.0)).samples[:, 0]
    for scatter, expected in ((0.05, Quality.USABLE), (0.5, Quality.SUSPECT)):
        draws = bulge_and_disk(share, 18 + scatter * noise)
        chance = catastrophic_probability(draws, quoted_at, BULGE_AND_DISK)
        parts = component_probability(draws, quoted_at)
        assert float(parts) > 0.5
        flags = uncertain_flags(torch.tensor([int(Flag.UNCERTAIN)]), chance, parts)
        assert int(flags) & Flag.COMPONENT_UNCERTAIN
        assert int(quality(flags, sampled=True)) == expected
