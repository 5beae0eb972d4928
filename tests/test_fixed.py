"""Parameters that are fixed: the surface's derivatives, and fits on it."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
import torch
from fit_helpers import ZEROPOINT, observe, population
from scipy.optimize import least_squares
from tolerances import SINGLE

from hybridfit.data.flags import Flag
from hybridfit.data.samples import Draws
from hybridfit.fitting.build_problem import build_problem
from hybridfit.fitting.fit import fit_cutouts
from hybridfit.fitting.fixed import InitialValues, surface_of, unreachable
from hybridfit.fitting.options import FitOptions
from hybridfit.fitting.solution import flux_units
from hybridfit.model.parameters import ParameterSpace
from hybridfit.model.prior import LogNormal, Prior
from hybridfit.model.profiles import Sersic
from hybridfit.rendering.render import render

PLANE = ParameterSpace((("n",),), "plane")
NAMES = PLANE.names
OPTIONS = FitOptions(sky="plane", compile="off", objective="ml", precision="float64")
# all that can be fixed of size, axis ratio and angle, alone and together, and others beside
PATTERNS = [
    (),
    ("x", "y"),
    ("n",),
    ("mag",),
    ("sky", "sky_dx", "sky_dy"),
    ("sky", "sky_dy"),
    *(c for k in (1, 2, 3) for c in combinations(("r_eff", "q", "pa"), k)),
    ("x", "mag", "r_eff", "n", "pa", "sky"),
]


def galaxies(n: int, seed: int = 3):
    """Galaxies with a sloping sky in stamps that are smaller than their padding."""
    theta = np.concatenate([population(n, seed), np.zeros((n, 2))], axis=1)
    theta[:, 8:] = 0.02, -0.01
    theta[:, 5] = theta[:, 5].clip(0.3, 0.9)  # pa is worth holding
    return observe(theta, 80.0, space=PLANE)


def fixed_as(pattern: tuple[str, ...], n: int) -> torch.Tensor:
    return torch.tensor([[name in pattern for name in NAMES]]).expand(n, -1)


@pytest.mark.parametrize("pattern", PATTERNS, ids="-".join)
def test_derivatives_on_the_surface(pattern):
    """Gradient by central differences; fixed values stay, whatever the point."""
    cutouts, truth = galaxies(2)
    problem = build_problem(cutouts, OPTIONS)
    given = InitialValues(torch.tensor(truth), fixed_as(pattern, 2))
    coords, _ = PLANE.from_physical(given.theta, torch.full((2,), ZEROPOINT, dtype=torch.float64))
    box = torch.cat([coords[:, :2], torch.full((2, 2), 24.0)], dim=1)
    problem = replace(problem, box=box)
    unit = flux_units(problem, cutouts)
    level = problem.pixels.background
    problem = replace(
        problem, surface=surface_of(given, PLANE, box, unit, cutouts.zeropoint, level)
    )
    rows = torch.arange(2)
    point = problem.coordinates(PLANE.to_whitened(coords, box))
    point = point + 0.03 * torch.tensor(np.random.default_rng(0).standard_normal(point.shape))
    normal = problem(point, rows)
    for j in range(point.shape[1]):
        step = torch.zeros_like(point)
        step[:, j] = 1e-5
        slope = (problem(point + step, rows).cost - problem(point - step, rows).cost) / 2e-5
        # the renderer holds its split radius constant in its derivatives: some 2e-4 of them
        assert torch.allclose(normal.gradient[:, j], slope, rtol=1e-3, atol=1.0)
    coords, _ = PLANE.from_whitened(problem.to_whitened(point), box)
    linear = (unit @ normal.carry[0][:, :, None])[:, :, 0]
    linear[:, 1] += level
    theta, _ = PLANE.to_physical(coords, linear, cutouts.zeropoint)
    for name in pattern:
        j = NAMES.index(name)
        assert torch.allclose(theta[:, j], given.theta[:, j], atol=1e-6), name
    moved = [j for j, name in enumerate(NAMES) if name not in pattern]
    assert not torch.isclose(theta[:, moved], given.theta[:, moved], rtol=1e-9, atol=0).any()


@pytest.mark.parametrize("pattern", [("n",), ("x", "y", "q"), ("mag", "pa"), ("r_eff", "sky")])
def test_fit_agrees_with_scipy(pattern):
    """The minimum on the surface, in parameters where it is plain: scipy's over those that move."""
    cutouts, truth = galaxies(1, seed=5)
    theta = truth.copy()
    theta[:, [NAMES.index(name) for name in pattern]] *= 1.02  # fixed off the truth
    fixed = fixed_as(pattern, 1)
    fit = fit_cutouts(cutouts, OPTIONS, given=InitialValues(torch.tensor(theta), fixed))
    whitened = [j for j in range(len(NAMES)) if not fixed[0, j]]
    image = cutouts.image[0].double().numpy()

    def residual(values):
        point = theta[0].copy()
        point[whitened] = values
        model = render(torch.tensor(point)[None], cutouts, PLANE, (Sersic(),), torch.float64)
        return (image - model[0].numpy()).ravel()

    scale = np.array([0.1, 0.1, 0.01, 0.1, 0.1, 0.01, 1.0, 0.01, 1e-3, 1e-3])
    best = least_squares(residual, truth[0, whitened], x_scale=scale[whitened])
    assert float(fit.chi2[0]) == pytest.approx(2 * best.cost, abs=5e-3)
    covariance = np.linalg.inv(best.jac.T @ best.jac)
    errors = np.sqrt(np.diag(covariance))
    # both stop within a tenth of an error of each other, where the curvature is another
    assert (np.abs(fit.theta[0, whitened].numpy() - best.x) < 0.1 * errors).all()
    assert np.allclose(fit.error[0, whitened].numpy(), errors, rtol=0.04, atol=SINGLE)
    assert (fit.error[0, fixed[0]] == 0).all()
    assert torch.equal(fit.theta[0, fixed[0]], torch.tensor(theta)[0, fixed[0]])
    assert int(fit.dof[0]) == 48 * 48 - len(whitened)


def test_holding_nothing_is_the_free_fit():
    cutouts, truth = galaxies(4)
    given = InitialValues(torch.tensor(truth), fixed_as((), 4))
    ours, plain = fit_cutouts(cutouts, OPTIONS, given=given), fit_cutouts(cutouts, OPTIONS)
    assert torch.allclose(ours.chi2, plain.chi2, atol=1e-2)
    # they stop up to a tenth of an error apart, where the curvature is another
    assert torch.allclose(ours.error, plain.error, rtol=5e-2, atol=SINGLE)


def test_a_galaxy_and_its_neighbour_far_from_the_middle():
    """Two components whose places are given, one with n fixed at 1; a batch of mixed patterns."""
    space = ParameterSpace((("n",), ("n",)), "plane")
    one = [20.0, 22.0, 20.0, 4.0, 2.5, 0.7, 30.0]
    two = [41.0, 38.0, 20.5, 3.0, 1.0, 0.5, 120.0]
    theta = np.array([[*one, *two, 0.3, 0.0, 0.0]] * 2)
    cutouts, truth = observe(
        theta, 100.0, space=space, profiles=(Sersic(), Sersic()), shape=(56, 60)
    )
    fixed = torch.zeros(2, len(space.names), dtype=torch.bool)
    fixed[:, [space.names.index("sky_dx"), space.names.index("sky_dy")]] = True
    fixed[0, space.names.index("n_2")] = True
    start = torch.tensor(truth)
    start[:, [0, 1]] += 0.7
    start[:, [3, 10]] *= 1.3
    options = FitOptions(("sersic", "sersic"), sky="plane", compile="off")
    fit = fit_cutouts(cutouts, options, given=InitialValues(start, fixed))
    pull = (fit.theta - torch.tensor(truth)) / fit.error
    assert (pull[~fixed].abs() < 4).all()
    assert float(fit.theta[0, space.names.index("n_2")]) == 1.0
    assert int(fit.dof[1]) == int(fit.dof[0]) - 1
    assert not (fit.flags & int(Flag.OFF_CENTRE | Flag.NOT_CONVERGED)).any()


def test_values_that_are_missing_are_chosen():
    cutouts, truth = galaxies(2)
    theta = torch.tensor(truth)
    theta[:, 3:7] = math.nan
    fit = fit_cutouts(cutouts, OPTIONS, given=InitialValues(theta, fixed_as(("x",), 2)))
    assert (((fit.theta - torch.tensor(truth)) / fit.error)[:, 1:].abs() < 5).all()


def test_what_the_prior_does_not_reach_is_refused():
    cutouts, truth = galaxies(2)
    theta = torch.tensor(truth)
    theta[1, NAMES.index("n")] = 15.0
    fit = fit_cutouts(cutouts, OPTIONS, given=InitialValues(theta, fixed_as(("n",), 2)))
    assert (fit.flags & int(Flag.NOT_MODELLED) > 0).tolist() == [False, True]
    assert torch.isnan(fit.theta).any(dim=1).tolist() == [False, True]


def test_a_position_may_be_held_at_zero():
    """The first pixel's centre: nothing is relative to it."""
    cutouts, truth = galaxies(1)
    theta = torch.tensor(truth)
    theta[:, 0] = 0.0
    fit = fit_cutouts(cutouts, OPTIONS, given=InitialValues(theta, fixed_as(("x",), 1)))
    assert float(fit.theta[0, 0]) == 0.0
    assert not int(fit.flags[0]) & Flag.NOT_MODELLED


def test_misuse():
    with pytest.raises(ValueError, match="expected both to be"):
        InitialValues(torch.zeros(2, 8), torch.zeros(2, 7, dtype=torch.bool))
    with pytest.raises(ValueError, match="without a finite value"):
        InitialValues(torch.full((1, 8), math.nan), torch.ones(1, 8, dtype=torch.bool))


def test_a_shape_whose_name_begins_like_an_angles_is_no_angle():
    """A user's "pattern" has a logarithm and a prior that ends, as no position angle has."""
    prior = Prior(shapes={"pattern": LogNormal(3.0, 0.5, 1.5, 8.0)})
    space = ParameterSpace((("pattern",),), prior=prior)
    assert space.roles == ("x", "y", "mag", "r_eff", "shape", "q", "pa", "sky")
    one = torch.ones(1, dtype=torch.float64)
    values = [20.0, 20.0, 20.0, 3.0, torch.nan, 0.5, 30.0, 0.0]
    theta = torch.tensor([values, values], dtype=torch.float64)
    theta[1, 4] = 20.0  # beyond the prior's end at 8
    fixed = torch.zeros(2, 8, dtype=torch.bool)
    fixed[1, 4] = True
    box = torch.tensor([[20.0, 20.0, 9.0, 9.0]], dtype=torch.float64).expand(2, 4)
    unit = torch.eye(2, dtype=torch.float64).expand(2, 2, 2)
    given = InitialValues(theta, fixed)
    surface = surface_of(given, space, box, unit, 25 * one.expand(2), 0 * one.expand(2))
    assert torch.isfinite(surface.value).all()
    free, beyond = unreachable(given, surface)
    assert free == ""
    assert beyond.startswith("pattern is")
    # and it is neither an angle nor a magnitude of the draws
    draws = Draws(space, theta[:, None].nan_to_num(2.0))
    assert draws.mean[1, 4] == pytest.approx(20.0)
