"""Fits of scenes whose parameters are fixed or tied: derivatives, fits, errors."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
import torch
from fit_helpers import observe, population
from scipy.optimize import least_squares
from tolerances import SINGLE

from benchmarks.scaling_jobs import composed
from hybridfit.data.cutouts import Cutouts
from hybridfit.data.flags import Flag
from hybridfit.data.samples import Draws
from hybridfit.fitting.build_problem import build_problem
from hybridfit.fitting.fit import fit_cutouts, initial_values
from hybridfit.fitting.options import FitOptions
from hybridfit.fitting.problem import Problem
from hybridfit.fitting.solution import physical
from hybridfit.model.parameters import ParameterSpace
from hybridfit.model.prior import LogNormal, Normal, Prior, Uniform
from hybridfit.model.profiles import Sersic
from hybridfit.model.scene import (
    Component,
    Parameter,
    Scene,
    Sky,
    Source,
    Tie,
    equal,
    offset,
    ratio,
)
from hybridfit.model.scene_values import SceneValues, scene_values
from hybridfit.rendering.render import render

PLANE = ParameterSpace.of_shapes((("n",),), "plane")
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


def scene_of(theta: np.ndarray, pattern: tuple[str, ...] = ()) -> SceneValues:
    """Scenes of one Sersic profile on a sloping sky that start at ``theta``, partly fixed."""
    scenes = []
    for row in theta:
        values = {
            name: Parameter(float(v) if math.isfinite(v) else None, fixed=name in pattern)
            for name, v in zip(NAMES, row, strict=True)
        }
        sky = {name: values.pop(name) for name in ("sky", "sky_dx", "sky_dy")}
        source = Source((Component(parameters=values),))
        scenes.append(Scene((source,), Sky("plane", sky)))
    return scene_values(scenes)


def problem_of(
    cutouts: Cutouts, scene: SceneValues, options: FitOptions = OPTIONS
) -> tuple[Problem, torch.Tensor]:
    """The problem of scenes, and whitened initial values."""
    theta = initial_values(cutouts, scene, options)
    problem = build_problem(cutouts, options, scene=scene, theta=theta)
    coords, _ = scene.space.from_physical(theta, cutouts.zeropoint)
    return problem, scene.space.to_whitened(coords, problem.constants)


def check_gradient(problem: Problem, whitened: torch.Tensor) -> None:
    """Gradient by central differences at and near a point."""
    rows = torch.arange(len(whitened))
    step = 0.03 * torch.tensor(np.random.default_rng(0).standard_normal(whitened.shape))
    point = whitened + step
    normal = problem(point, rows)
    for j in range(point.shape[1]):
        step = torch.zeros_like(point)
        step[:, j] = 1e-5
        slope = (problem(point + step, rows).cost - problem(point - step, rows).cost) / 2e-5
        # the renderer holds its split radius constant in its derivatives: some 2e-4 of them
        assert torch.allclose(normal.gradient[:, j], slope, rtol=1e-3, atol=1.0)


@pytest.mark.parametrize("pattern", PATTERNS, ids="-".join)
def test_derivatives_of_a_scene(pattern):
    """Gradient by central differences; fixed values stay, whatever the point."""
    cutouts, truth = galaxies(2)
    scene = scene_of(truth, pattern)
    problem, whitened = problem_of(cutouts, scene)
    n_fixed = len([name for name in pattern if name not in ("mag", "sky", "sky_dx", "sky_dy")])
    assert whitened.shape[1] == 6 - n_fixed
    check_gradient(problem, whitened)
    point = whitened + 0.03
    normal = problem(point, torch.arange(2))
    theta, slope = physical(point, normal.carry[0], problem, cutouts)
    for name in pattern:
        j = NAMES.index(name)
        assert torch.allclose(theta[:, j], scene.start[:, j], rtol=0, atol=1e-6), name
        assert (slope[:, j].abs() < 1e-12).all(), name
    moved = [j for j, name in enumerate(NAMES) if name not in pattern]
    assert not torch.isclose(theta[:, moved], scene.start[:, moved], rtol=1e-9, atol=0).any()


@pytest.mark.parametrize("pattern", [("n",), ("x", "y", "q"), ("mag", "pa"), ("r_eff", "sky")])
def test_fit_agrees_with_scipy(pattern):
    """The minimum on the surface, in parameters where it is plain: scipy's over those that move."""
    cutouts, truth = galaxies(1, seed=5)
    theta = truth.copy()
    theta[:, [NAMES.index(name) for name in pattern]] *= 1.02  # fixed off the truth
    fixed = torch.tensor([[name in pattern for name in NAMES]])
    fit = fit_cutouts(cutouts, OPTIONS, scene=scene_of(theta, pattern))
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


def test_a_scene_without_fixed_values_is_the_free_fit():
    cutouts, truth = galaxies(4)
    ours, plain = (
        fit_cutouts(cutouts, OPTIONS, scene=scene_of(truth)),
        fit_cutouts(cutouts, OPTIONS),
    )
    assert torch.allclose(ours.chi2, plain.chi2, atol=1e-2)
    # they stop up to a tenth of an error apart, where the curvature is another
    assert torch.allclose(ours.error, plain.error, rtol=5e-2, atol=SINGLE)


ONE = [20.0, 22.0, 20.0, 4.0, 2.5, 0.7, 30.0]
TWO = [41.0, 38.0, 20.5, 3.0, 1.0, 0.5, 120.0]
KEYS = ("x", "y", "mag", "r_eff", "n", "q", "pa")


def two_of(
    first: list[float],
    second: list[float],
    one: dict[str, Parameter] | None = None,
    two: dict[str, Parameter] | None = None,
) -> Scene:
    """A scene of two named Sersic profiles with these initial values, some parameters special."""
    start = [
        {key: Parameter(value) for key, value in zip(KEYS, values, strict=True)}
        for values in (first, second)
    ]
    components = (
        Component("one", "sersic", start[0] | (one or {})),
        Component("two", "sersic", start[1] | (two or {})),
    )
    return Scene((Source(components),))


def pair(n: int = 1, second: list[float] = TWO):
    """Two galaxies in each of ``n`` cutouts, of the magnitudes above."""
    space = ParameterSpace.of_shapes((("n",), ("n",)))
    theta = torch.tensor([[*ONE, *second, 0.3]] * n, dtype=torch.float64)
    blank, _ = observe(
        theta.numpy(), 100.0, space=space, profiles=(Sersic(), Sersic()), shape=(56, 60)
    )
    model = render(theta, blank, space, (Sersic(), Sersic()))
    sigma = model.amax(dim=(1, 2), keepdim=True) / 100.0
    noise = torch.randn(model.shape, generator=torch.Generator().manual_seed(2))
    sigma = sigma.expand_as(model).contiguous()
    cutouts = replace(blank, image=model + noise * sigma, sigma=sigma)
    return cutouts, theta.numpy()


def test_a_galaxy_and_its_neighbour_far_from_the_middle():
    """Two components whose places are given, one with n fixed at 1."""
    cutouts, truth = pair()
    start = [
        v * 1.3 if k == "r_eff" else v + 0.7 * (k in "xy") for k, v in zip(KEYS, ONE, strict=True)
    ]
    scene = two_of(start, TWO, two={"n": Parameter(1.0, fixed=True)})
    fit = fit_cutouts(cutouts, OPTIONS, scene=scene_values([scene]))
    names = fit.space.names
    assert names[:2] == ("one_x", "one_y")
    pull = ((fit.theta - torch.tensor(truth)) / fit.error)[0]
    free = [j for j, name in enumerate(names) if name != "two_n"]
    assert (pull[free].abs() < 4).all()
    assert float(fit.theta[0, names.index("two_n")]) == pytest.approx(1.0, abs=1e-12)
    assert int(fit.dof[0]) == 56 * 60 - 14
    assert not (fit.flags & int(Flag.OFF_CENTRE | Flag.NOT_CONVERGED)).any()


def tied_by(other: str, prior: Normal | Uniform) -> Tie:
    """The tie whose offset has a prior."""
    return Tie({other: 1.0}, prior=prior)


TIES = {
    "equal": ({"x": Parameter(tied=equal("one.x")), "y": Parameter(tied=equal("one.y"))}, 13),
    "offset": ({"x": Parameter(41.0, tied=offset("one.x", 21.0))}, 14),
    "start": ({"x": Parameter(41.5, tied=offset("one.x"))}, 14),
    "ratio": ({"r_eff": Parameter(3.0, tied=ratio("one.r_eff", 0.75))}, 14),
    "n": ({"n": Parameter(1.0, tied=ratio("one.n", 0.4))}, 14),
    "q": ({"q": Parameter(0.5, tied=ratio("one.q", 5 / 7))}, 14),
    "pa": ({"pa": Parameter(120.0, tied=offset("one.pa", 90.0))}, 14),
    "mag": ({"mag": Parameter(20.5, tied=offset("one.mag", 0.5))}, 14),
    "all": (
        {
            "x": Parameter(41.0, tied=offset("one.x", 21.0)),
            "r_eff": Parameter(3.0, tied=ratio("one.r_eff", 0.75)),
            "q": Parameter(0.5, tied=ratio("one.q", 5 / 7)),
            "pa": Parameter(120.0, tied=offset("one.pa", 90.0)),
            "mag": Parameter(20.5, tied=offset("one.mag", 0.5)),
        },
        10,
    ),
    "crossed": ({"n": Parameter(tied=ratio("one.r_eff", 0.25))}, 14),
    "bounded mag": ({"mag": Parameter(20.5, bounds=(20.0, 21.0))}, 15),
    "mag within": ({"mag": Parameter(20.5, tied=Tie({"one.mag": 1.0}, bounds=(0.2, 0.9)))}, 15),
    "r_eff within": (
        {"r_eff": Parameter(3.0, tied=Tie({"one.r_eff": 1.0}, bounds=(0.5, 1.0)))},
        15,
    ),
    "r_eff prior": (
        {"r_eff": Parameter(3.0, tied=ratio("one.r_eff", prior=LogNormal(0.7, 0.5, 0.1, 2.0)))},
        15,
    ),
    "n prior": ({"n": Parameter(1.0, tied=ratio("one.n", prior=Uniform(0.1, 1.0)))}, 15),
    "q prior": ({"q": Parameter(0.5, tied=ratio("one.q", prior=LogNormal(0.7, 0.3, 0.2, 1)))}, 15),
    "mag prior": ({"mag": Parameter(20.5, tied=tied_by("one.mag", Normal(0.4, 0.3)))}, 15),
    "place prior": (
        {
            "x": Parameter(41.0, tied=tied_by("one.x", Normal(20.0, 2.0))),
            "pa": Parameter(120.0, tied=tied_by("one.pa", Uniform(60.0, 110.0))),
        },
        15,
    ),
    "prior": (
        {
            "mag": Parameter(20.5, prior=Normal(20.5, 0.3)),
            "q": Parameter(0.5, prior=Uniform(0.2, 0.9)),
        },
        15,
    ),
    "bounds": (
        {
            "x": Parameter(41.0, bounds=(40, 42)),
            "q": Parameter(0.5, bounds=(0.2, 0.8)),
            "pa": Parameter(120.0, bounds=(100, 140)),
            "n": Parameter(1.0, bounds=(0.5, 2.0)),
            "r_eff": Parameter(3.0, bounds=(1.0, 5.0)),
        },
        15,
    ),
}


@pytest.mark.parametrize("case", TIES)
def test_ties_and_bounds(case):
    """Derivatives are right, the tie holds in the fit, and errors follow."""
    special, free = TIES[case]
    second = list(TWO)
    if case == "equal":
        second[:2] = ONE[:2]
    if case == "crossed":
        special = {"n": Parameter(1.0, tied=ratio("one.r_eff", 0.25))}
    cutouts, truth = pair(2, second=second)
    scene = scene_values([two_of(ONE, second, two=special)] * 2)
    problem, whitened = problem_of(cutouts, scene)
    assert whitened.shape[1] + scene.space.n_linear == free
    check_gradient(problem, whitened)
    back = scene.space.from_whitened(whitened, problem.constants)[0]
    expected, _ = scene.space.from_physical(scene.start.nan_to_num(0.3), cutouts.zeropoint)
    if case != "start":
        known = [j for j in range(12) if case != "equal" or j not in (6, 7)]
        assert torch.allclose(back[:, known], expected[:, known], rtol=0, atol=1e-6)
    fit = fit_cutouts(cutouts, OPTIONS, scene=scene)
    one, two = fit.theta[:, :7], fit.theta[:, 7:14]
    checks = {
        "equal": (two[:, :2] - one[:, :2], 0.0),
        "offset": (two[:, 0] - one[:, 0], 21.0),
        "start": (two[:, 0] - one[:, 0], 21.5),
        "ratio": (two[:, 3] / one[:, 3], 0.75),
        "n": (two[:, 4] / one[:, 4], 0.4),
        "q": (two[:, 5] / one[:, 5], 5 / 7),
        "pa": (two[:, 6] - one[:, 6], 90.0),
        "mag": (two[:, 2] - one[:, 2], 0.5),
        "crossed": (two[:, 4] / one[:, 3], 0.25),
    }
    if case in checks:
        value, wanted = checks[case]
        assert torch.allclose(value, torch.full_like(value, wanted), rtol=0, atol=1e-9)
    if case != "start":
        pull = (fit.theta - torch.tensor(truth)) / fit.error
        assert (pull.abs() < 4.5).all()
    assert int(fit.dof[0]) == 56 * 60 - free


def test_a_first_fit_of_the_middle_changes_the_start_alone():
    """Bulges and disks end at the same chi2 without it, in more evaluations of whole cutouts."""
    options = FitOptions("bulge+disk", compile="off")
    cutouts, _ = composed(4, 64, options)
    fits = [fit_cutouts(cutouts, replace(options, coarse_fit=coarse)) for coarse in (True, False)]
    # each stops where chi2 could fall by some 0.04
    assert torch.allclose(fits[0].chi2, fits[1].chi2, rtol=0, atol=0.1)
    assert fits[0].n_iter.sum() < fits[1].n_iter.sum()


def test_a_value_at_its_bound_is_flagged():
    """It lies just within the bound, where the whitened prior ends."""
    cutouts, truth = galaxies(1)
    values = {name: Parameter(float(v)) for name, v in zip(NAMES, truth[0], strict=True)}
    limit = 0.4 * float(truth[0, 4])
    values["n"] = Parameter(0.9 * limit, bounds=(0.2, limit))
    sky = {name: values.pop(name) for name in ("sky", "sky_dx", "sky_dy")}
    bounded = scene_values([Scene((Source((Component(parameters=values),)),), Sky("plane", sky))])
    fit = fit_cutouts(cutouts, FitOptions(sky="plane", compile="off"), scene=bounded)
    assert 0.97 * limit < float(fit.theta[0, 4]) <= limit
    assert int(fit.flags[0]) & Flag.AT_LIMIT


@pytest.mark.parametrize(
    ("special", "text"),
    [
        ({"r_ef": Parameter(3.0)}, "did you mean 'r_eff'"),
        ({"x": Parameter(tied=equal("one.z"))}, "'two.x' is tied to 'one.z'"),
        ({"x": Parameter(tied=equal("on.x"))}, "did you mean 'one.x'"),
        ({"x": Parameter(tied=equal("two.x"))}, "in a circle: two.x -> two.x"),
        ({"mag": Parameter(tied=offset("two.mag"))}, "in a circle"),
        ({"x": Parameter(tied=equal("one.n"))}, "adds offsets"),
        ({"q": Parameter(prior=Normal(0.5, 0.1))}, "normal, expected a log-normal or uniform"),
        ({"n": Parameter(fixed=True)}, "'two.n' is fixed without a value"),
        ({"x": Parameter(tied=Tie({"one.x": 1}, prior=LogNormal(2, 1, 1, 3)))}, "log-normal, exp"),
        ({"n": Parameter(tied=Tie({"one.n": 1}, prior=Normal(2, 1)))}, "expected a log-normal"),
    ],
)
def test_misuse_is_a_clear_error(special, text):
    with pytest.raises(ValueError, match=text):
        scene_values([two_of(ONE, TWO, two=special)])


def test_misuse_of_one_parameter():
    with pytest.raises(ValueError, match="fixed and tied"):
        Parameter(1.0, fixed=True, tied=equal("one.x"))
    with pytest.raises(ValueError, match="outside of its prior or bounds"):
        Parameter(3.0, bounds=(1.0, 2.0))
    with pytest.raises(ValueError, match="lower one first"):
        Parameter(bounds=(2.0, 1.0))
    with pytest.raises(ValueError, match="bounds and a prior"):
        Tie({"one.x": 1.0}, bounds=(1.0, 2.0), prior=Uniform(1.0, 2.0))
    with pytest.raises(ValueError, match="two components are called 'one'"):
        Scene((Source((Component("one"), Component("one"))),))


def test_values_that_are_missing_are_chosen():
    cutouts, truth = galaxies(2)
    theta = torch.tensor(truth)
    theta[:, 3:7] = math.nan
    fit = fit_cutouts(cutouts, OPTIONS, scene=scene_of(theta.numpy(), ("x",)))
    assert (((fit.theta - torch.tensor(truth)) / fit.error)[:, 1:].abs() < 5).all()


def test_a_fixed_value_needs_no_prior():
    """n is fixed beyond the prior's end at 12, and x at the first pixel's centre."""
    cutouts, truth = galaxies(1)
    truth[0, NAMES.index("n")] = 15.0
    truth[0, 0] = 0.0
    fit = fit_cutouts(cutouts, OPTIONS, scene=scene_of(truth, ("n", "x")))
    assert fit.theta[0, [0, 4]].tolist() == pytest.approx([0.0, 15.0], abs=1e-9)


def test_a_shape_whose_name_begins_like_an_angles_is_no_angle():
    """A user's "pattern" has a logarithm and a prior that ends, as no position angle has."""
    prior = Prior(shapes={"pattern": LogNormal(3.0, 0.5, 1.5, 8.0)})
    space = ParameterSpace.of_shapes((("pattern",),), prior=prior)
    assert space.roles == ("x", "y", "mag", "r_eff", "shape", "q", "pa", "sky")
    theta = torch.full((2, 8), 20.0, dtype=torch.float64)
    # and it is neither an angle nor a magnitude of the draws
    draws = Draws(space, theta[:, None])
    assert draws.mean[1, 4] == pytest.approx(20.0)
