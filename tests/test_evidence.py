"""Evidences of two models of one cutout compare, whatever the noise and the options."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from budget_helpers import OPTIONS, about, smoothed
from fit_helpers import load_sims, observe, population
from numpy.typing import NDArray
from torch import Tensor

import hybridfit as hf
from hybridfit.data.cutouts import Cutouts
from hybridfit.data.diagnostics import SamplingDiagnostics
from hybridfit.fitting.fit import fit_cutouts
from hybridfit.fitting.options import FitOptions
from hybridfit.pipeline.measure import measure
from hybridfit.pipeline.uncertainty_options import ErrorOptions
from hybridfit.sampling.importance_sampling import WeightedDraws
from hybridfit.sampling.proposal import EvaluatedDraws
from hybridfit.uncertainty.error_budget import NONE
from hybridfit.uncertainty.evidence import LEAST_DRAWS, log_flux_prior, with_evidence
from hybridfit.uncertainty.image_noise import measure_noise
from hybridfit.uncertainty.options import BudgetOptions
from hybridfit.uncertainty.tempering import temperature

ONE, TWO = ("sersic",), ("sersic", "exponential")
OFF = BudgetOptions(correlated_noise="off")


def ln_evidence(
    cutouts: Cutouts, components: tuple[str, ...], budget: BudgetOptions = BudgetOptions(), **more
) -> NDArray[np.float64]:
    options = FitOptions(model=components, compile="off", **more)
    return np.array(
        hf.fit(cutouts, fit=options, initial_values="moments", budget=budget)["log_evidence"]
    )


def gain(cutouts: Cutouts, budget: BudgetOptions = BudgetOptions()) -> NDArray[np.float64]:
    """ln of how much more a bulge and a disk are believed than one profile."""
    return ln_evidence(cutouts, TWO, budget) - ln_evidence(cutouts, ONE, budget)


def galaxies(kind: str, snr: float, count: int = 4, side: int = 48) -> Cutouts:
    one = population(count, 3, side)
    if kind == "one":
        return observe(one, snr, (side, side), 3)[0]
    bulge, options = one[:, :7].copy(), FitOptions(model=TWO)
    bulge[:, 3:6] = 1.5, 3.0, 0.9
    disk = np.delete(one[:, :7], 4, axis=1)
    disk[:, 3:5] = side / 8, 0.4
    theta = np.concatenate([bulge, disk, np.zeros((count, 1))], axis=1)
    return observe(theta, snr, (side, side), 3, options.space, options.profiles)[0]


def correlated(cutouts: Cutouts) -> Cutouts:
    """The same with as much more noise that 3 x 3 pixels share, 2.67 times white in large areas."""
    shape = tuple(cutouts.image.shape)
    rough = smoothed(np.random.default_rng(5).standard_normal(shape), (1, 2, 1))
    return replace(
        cutouts,
        image=(cutouts.image + 20 * torch.tensor(rough)).float(),
        sigma=cutouts.sigma * 20,
    )


# --- simulated galaxies ---------------------------------------------------------------------


@pytest.mark.parametrize("noise", ["white", "correlated"])
def test_two_components_are_believed_where_there_are_two(noise: str) -> None:
    """White noise, where chi2 / 2 falls by tens, and 20 times the light in as much other noise."""
    cutouts = galaxies("two", 600.0) if noise == "white" else correlated(galaxies("two", 3e4))
    found = gain(cutouts)
    known = np.isfinite(found)
    assert known.sum() >= 3
    assert (found[known] > 5).all()


@pytest.mark.parametrize("noise", ["white", "correlated"])
def test_one_component_is_believed_where_there_is_one(noise: str) -> None:
    """A second component is never believed: its flux is there by chance, and its prior is spent.

    ln E is known to a third; in favour of the wrong model stands one nat at most.
    """
    cutouts = galaxies("one", 200.0) if noise == "white" else correlated(galaxies("one", 1e4))
    found = gain(cutouts)
    known = np.isfinite(found)
    assert known.sum() >= 2
    assert (found[known] < 1).all()
    assert np.median(found[known]) < 0


@pytest.mark.slow
def test_white_noise_measured_or_told_gives_the_same() -> None:
    """5 % for a temperature that chance takes from 1, and 1 nat for draws of their own."""
    cutouts = galaxies("two", 600.0)
    measured, told = gain(cutouts), gain(cutouts, OFF)
    known = np.isfinite(measured + told)
    assert known.sum() >= 3
    assert (np.abs(measured - told)[known] < 1 + 0.05 * np.abs(told[known])).all()


def test_a_bad_model_is_not_forgiven() -> None:
    """One exponential on bulge and disk: ln E falls by chi2 / 2 over the image's temperature."""
    cutouts = galaxies("two", 2000.0, 2)
    rows = {}
    for name in ("sersic", "exponential"):
        options = FitOptions(model=(name,), compile="off")
        rows[name] = hf.fit(cutouts, fit=options, initial_values="moments")
    heat = temperature(cutouts, measure_noise(cutouts)).numpy()
    worse = np.array(rows["exponential"]["chi2"] - rows["sersic"]["chi2"]) / 2 / heat
    found = np.array(rows["sersic"]["log_evidence"] - rows["exponential"]["log_evidence"])
    assert (worse > 100).all()
    # the volumes of posteriors and prior differ by a few nats
    assert (np.abs(found - worse) < 8).all()


# --- bd.npz ---------------------------------------------------------------------------------


@pytest.mark.slow
def test_bulges_and_disks_of_the_simulated_set(shared_data: Path) -> None:
    """bd041 and bd056: chi2 / 2 falls by 2,421 and 61, ln E rises by 2,404 and 51 with fluxes flat.

    Uniform shares take ln(flux / noise) more from the second, 8 to 10. A temperature that chance
    takes from 1 may take 5 %.
    """
    cutouts, _, _ = load_sims(shared_data, "bd", np.array([41, 56]))
    first, second = gain(cutouts)
    assert first == pytest.approx(2404, rel=0.05)
    assert second == pytest.approx(51, abs=12)


# --- units ----------------------------------------------------------------------------------


def sampled_with(linear: Tensor, pareto_k: float = 0.1, ess: float = 100.0) -> WeightedDraws:
    """Equally weighted draws of one galaxy, with ln Z = 0."""
    count = linear.shape[1]
    one = torch.ones(1, dtype=torch.float64)
    weights = torch.full((1, count), -math.log(count), dtype=torch.float64)
    whitened = torch.zeros(1, count, 6, dtype=torch.float64)
    points = EvaluatedDraws(whitened, linear, 0 * weights, 0 * weights)
    n_draws = torch.tensor([count])
    about = SamplingDiagnostics(ess * one, pareto_k * one, 0 * one, one, n_draws)
    return WeightedDraws(points, weights, about)


def test_shares_of_the_flux_are_uniform() -> None:
    """Two fluxes of total F: the prior's density is 1 / F, three have 2 / F^2; none is below 0."""
    linear = torch.tensor([[[300.0, 700.0, 0.1], [900.0, 100.0, 0.1]]], dtype=torch.float64)
    two = sampled_with(linear)
    assert float(log_flux_prior(two, 1)) == pytest.approx(0.0, abs=1e-12)
    assert float(log_flux_prior(two, 2)) == pytest.approx(-math.log(1000.0))
    three = sampled_with(torch.cat([linear, linear.new_full((1, 2, 1), 999.9)], dim=2))
    assert float(log_flux_prior(three, 3)) == pytest.approx(
        math.log(2) - 2 * math.log(1000.1), 1e-6
    )
    linear[0, 1, 1] = -100.0
    assert float(log_flux_prior(two, 2)) == pytest.approx(math.log(0.5 / 1000.0))


def test_evidence_at_a_temperature_is_that_of_a_larger_sigma() -> None:
    """N pixels of variance T sigma^2 have the density T^(-N/2) exp(-chi2 / 2 T)."""
    cutouts = galaxies("one", 200.0, 2)
    fitted, problem, part = about(cutouts, fit_cutouts(cutouts, OPTIONS))
    one = sampled_with(torch.tensor([[[300.0, 0.1]] * 50], dtype=torch.float64))
    both = WeightedDraws.cat([one, one])
    heat = torch.tensor([1.0, 4.0], dtype=torch.float64)
    found = with_evidence(both, problem, fitted, part, heat).diagnostics.log_evidence
    assert found.tolist() == pytest.approx([0.0, -0.5 * 48 * 48 * math.log(4.0)])


def test_padding_does_not_change_a_sloping_sky() -> None:
    """Alone, and in a batch with a larger cutout: slopes are counted over the cutout itself.

    Draws are the same numbers: float32 sums in another order remain.
    """
    small, large = galaxies("one", 100.0, 1), galaxies("one", 100.0, 1, 72)
    alone = ln_evidence(small, ONE, NONE, sky="plane")
    wider = torch.nn.functional.pad(small.image, (0, 24, 0, 24))
    mask = torch.zeros(2, 72, 72, dtype=torch.bool)
    mask[0, 48:], mask[0, :, 48:] = True, True
    padded = Cutouts(
        mask=mask,
        image=torch.cat([wider, large.image]),
        sigma=torch.ones(2, 72, 72),
        psf=small.psf.expand(2, -1, -1),
        zeropoint=small.zeropoint.expand(2),
        size=torch.tensor([[48, 48], [72, 72]]),
        id=[small.id[0], "large"],
    )
    both = ln_evidence(padded, ONE, NONE, sky="plane")
    assert both[0] == pytest.approx(alone[0], abs=0.3)


def test_what_is_not_known_is_nan() -> None:
    cutouts = galaxies("one", 200.0, 1)
    fitted, problem, part = about(cutouts, fit_cutouts(cutouts, OPTIONS))
    linear = torch.tensor([[[300.0, 0.1]] * 50], dtype=torch.float64)
    for known in ({}, {"pareto_k": 0.9}, {"pareto_k": math.nan}, {"ess": LEAST_DRAWS / 2}):
        one = sampled_with(linear, **known)
        found = with_evidence(one, problem, fitted, part).diagnostics.log_evidence
        assert bool(torch.isfinite(found)) == (known == {})
    mask = torch.ones_like(cutouts.mask)
    mask[:, 19:28, 19:28] = False
    blind = replace(cutouts, mask=mask)
    for budget, known in ((BudgetOptions(), False), (OFF, True)):
        errors = ErrorOptions("posterior", budget=budget)
        result = measure(blind, FitOptions(compile="off"), torch.device("cpu"), False, errors)
        assert bool(torch.isfinite(result.log_evidence)) == known
