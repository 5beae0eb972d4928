"""From fits to what is quoted of them: the posterior's numbers, and the error budget in them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from fit_helpers import observe, population
from tolerances import SINGLE

import hybridfit as hf
from hybridfit.data.cutouts import Cutouts
from hybridfit.data.result import QUALITY_COLUMNS
from hybridfit.fitting import build_problem, fitted, linearised
from hybridfit.fitting.pixels import Pixels

NAMES = ("x", "y", "mag", "r_eff", "n", "q", "sky")


@pytest.fixture(scope="module")
def bright() -> tuple[Cutouts, np.ndarray]:
    return observe(population(8, 1), 60.0, seed=3)


def correlated(cutouts: Cutouts) -> Cutouts:
    """The same galaxies with twice the sky's noise more, each pixel's like its neighbours'."""
    rng = np.random.default_rng(4)
    white = rng.standard_normal((len(cutouts), 50, 50))
    rows = white[:, 1:-1] + white[:, :-2] + white[:, 2:]
    both = (rows[..., 1:-1] + rows[..., :-2] + rows[..., 2:]) / 3
    image = cutouts.image + 2 * torch.tensor(both, dtype=torch.float32)
    return replace(cutouts, image=image, sigma=cutouts.sigma * np.sqrt(5.0))


def test_the_table_has_what_the_draws_say(bright):
    """Quantiles, deviations and covariance are those of the weighted draws."""
    table = hf.fit(bright[0], save_samples=True)
    assert set(table["quality"]) <= {"certified", "usable", "suspect"}
    for name in NAMES:
        value, weight = np.asarray(table[f"{name}_samples"]), np.asarray(table["weight"])
        value = np.where(weight > 0, value, 0.0)
        mean = (weight * value).sum(axis=1)
        spread = np.sqrt((weight * (value - mean[:, None]) ** 2).sum(axis=1))
        # n / (n - 1) of some 120 effective draws
        np.testing.assert_allclose(table[f"{name}_err"], spread, rtol=0.01, atol=SINGLE)
        below = (weight * (value < np.asarray(table[f"{name}_p16"])[:, None])).sum(axis=1)
        assert np.abs(below - 0.16).max() < 0.03  # one draw of a few per cent
    for name in QUALITY_COLUMNS:
        assert np.isfinite(table[name]).all(), name
    assert (table["pareto_k"] < 0.7).all()
    assert (table["ess"] > 50).all()
    assert (table["missed_mass"] < 0.5).all()
    # a network with refinement has the fit near its middle (.12 to .21 here), but is not the fit
    assert ((table["flow_distance"] > 0.05) & (table["flow_distance"] < 1)).all()


@pytest.mark.parametrize("uncertainty", ["covariance", "posterior", "bootstrap"])
def test_a_problem_is_built_once(bright, monkeypatch, uncertainty: str):
    """What follows the fit takes its problem and optimum, and inverts no physical parameters."""
    built: list[int] = []
    make = build_problem.make_pixels

    def counted(cutouts: Cutouts, *rest) -> Pixels:
        built.append(len(cutouts))
        return make(cutouts, *rest)

    def inverted(*arguments) -> None:
        raise AssertionError("the optimum was computed again")

    monkeypatch.setattr(build_problem, "make_pixels", counted)
    monkeypatch.setattr(linearised, "whitened_point", inverted)
    monkeypatch.setattr(fitted, "whitened_point", inverted)
    hf.fit(
        bright[0][:2],
        uncertainty=uncertainty,
        bootstrap=hf.BootstrapOptions(replicas=4, refit=False),
        budget=hf.BudgetOptions(correlated_noise="off"),  # else a temperature has its own problem
    )
    assert built == [2]


def test_intervals_hold_the_truth(bright):
    cutouts, truth = observe(population(60, 8), 30.0, seed=9)
    table = hf.fit(cutouts, budget=hf.BudgetOptions(correlated_noise="off", misfit=False))
    held = []
    for k, name in enumerate(("x", "y", "mag", "r_eff", "n", "q")):
        low, high = (np.asarray(table[f"{name}_{end}"]) for end in ("p16", "p84"))
        held.append(((truth[:, k] > low) & (truth[:, k] < high)).mean())
    # 60 galaxies by 6 parameters, correlated: 3 %
    assert abs(np.mean(held) - 0.68) < 0.09


@pytest.mark.parametrize("uncertainty", ["covariance", "posterior"])
def test_correlated_noise_widens(uncertainty: str):
    """Noise with neighbours alike makes errors larger, where the budget is asked to look."""
    # so bright that errors grow as the noise does, and not as the prior lets them
    clear = observe(population(8, 1), 500.0, seed=3)[0]
    cutouts = correlated(clear)
    looked = hf.BudgetOptions(covariance=True, psf_wrong_fraction=0.0, misfit=False)
    blind = hf.BudgetOptions("off", covariance=True, psf_wrong_fraction=0.0, misfit=False)
    wide, plain = (
        hf.fit(cutouts, uncertainty=uncertainty, budget=budget) for budget in (looked, blind)
    )
    ratio = [np.median(wide[f"{name}_err"] / plain[f"{name}_err"]) for name in NAMES]
    # 4 / 5 of the variance has an autocorrelation that sums to 9: a factor 2.7 for what is smooth
    assert min(ratio) > 1.3
    assert max(ratio) < 3.2
    clean = [hf.fit(clear, uncertainty=uncertainty, budget=budget) for budget in (looked, blind)]
    ratio = [np.median(clean[0][f"{name}_err"] / clean[1][f"{name}_err"]) for name in NAMES]
    assert max(ratio) < 1.05


def test_the_same_alone_in_parts_and_again(bright):
    """A galaxy's posterior depends on its pixels, id and the seed alone."""
    cutouts = bright[0]
    whole, again = hf.fit(cutouts), hf.fit(cutouts)
    alone = hf.fit(cutouts[[5]])
    other = hf.fit(cutouts[[5]], sampling=hf.SamplingOptions(seed=1))
    for name in ("mag_err", "r_eff_p84", "n_p50"):
        np.testing.assert_array_equal(whole[name], again[name])
        # float32 sums in another order
        np.testing.assert_allclose(alone[name][0], whole[name][5], rtol=2e-3, atol=SINGLE)
    assert other["n_p50"][0] != alone["n_p50"][0]


def test_a_galaxy_without_a_fit_is_a_suspect_row(bright):
    cutouts = bright[0]
    mask = cutouts.mask.clone()
    mask[2] = True
    table = hf.fit(replace(cutouts, mask=mask))
    assert table["quality"][2] == "suspect"
    assert np.isnan(table["mag_p50"][2])
    assert np.isnan(table["ess"][2])
    assert np.isfinite(np.delete(np.asarray(table["mag_p50"]), 2)).all()
    nothing = hf.fit(replace(cutouts, mask=torch.ones_like(mask)))
    assert set(nothing["quality"]) == {"suspect"}
