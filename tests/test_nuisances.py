"""Nuisance parameters at their best: against solving for them beside the others."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from neighbour_helpers import scenes, source
from tolerances import SINGLE
from torch import Tensor

from hybridfit.fitting.build_problem import build_problem
from hybridfit.fitting.fit import fit_parts
from hybridfit.fitting.joint_scene import JointStart, joint_values
from hybridfit.fitting.nuisances import Nuisances
from hybridfit.fitting.options import FitOptions
from hybridfit.fitting.separate import neighbour_columns, separated

EXACT = FitOptions(compile="off", precision="float64")


def pieces(seed: int, flat: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Columns (2, 4, HW) with a residual, nuisance columns, precisions, offsets."""
    rng = torch.Generator().manual_seed(seed)
    columns = torch.randn(2, 4, 30, generator=rng, dtype=torch.float64)
    nuisance = torch.randn(2, 3, 5, 6, generator=rng, dtype=torch.float64)
    precision = torch.zeros(2, 3, dtype=torch.float64) if flat else torch.full((2, 3), 2.0).double()
    return columns, nuisance, precision, torch.randn(2, 3, generator=rng, dtype=torch.float64)


@pytest.mark.parametrize("flat", [True, False])
def test_gram_is_that_of_the_best_nuisances(flat: bool) -> None:
    columns, nuisance, precision, offset = pieces(0, flat)
    found = Nuisances.of(nuisance, precision, offset).gram(columns)
    # the prior is three more pixels, in which the nuisances alone are seen
    root = torch.diag_embed(precision.sqrt())
    n = torch.cat([nuisance.flatten(2), root], dim=2)
    seen = torch.zeros(2, 4, 3, dtype=torch.float64)
    seen[:, -1] = -(precision.sqrt() * offset)
    c = torch.cat([columns, seen], dim=2)
    best = torch.linalg.solve(n @ n.mT, n @ c.mT)
    expected = (c - best.mT @ n) @ (c - best.mT @ n).mT
    constant = (precision * offset**2).sum(dim=1)  # does not depend on the columns
    expected[:, -1, -1] -= constant
    assert torch.allclose(found, expected, rtol=1e-7, atol=1e-7)  # the jitter of the equations


def test_what_nuisances_take_up_is_orthogonal_to_them() -> None:
    columns, nuisance, precision, offset = pieces(1, True)
    rest = Nuisances.of(nuisance, precision, offset).without(columns.view(2, 4, 5, 6))
    assert float((rest.flatten(2) @ nuisance.flatten(2).mT).abs().max()) < 1e-6


@pytest.fixture(scope="module")
def pair():
    cutouts, truth = scenes(source(0, 0), source(8, 2, mag=20.4), snr=200, count=3, seed=4)
    starts = [
        JointStart(torch.tensor(t[:7]), torch.tensor(t[7:14])[None], ("sersic",)) for t in truth
    ]
    (fitted,) = fit_parts(cutouts, EXACT, compile=False, scene=joint_values(EXACT, starts))
    return cutouts, truth, fitted, separated(fitted, 1, ("sersic",))


def test_a_separated_target_has_the_errors_of_the_joint_fit(pair) -> None:
    _, _, joint, own = pair
    (alone,) = fit_parts(own.cutouts, EXACT, compile=False, near=own.near, nuisances=own.nuisances)
    # both are at the joint optimum, where the linearised neighbours are exact
    assert torch.allclose(alone.fit.theta[:, :7], joint.fit.theta[:, :7], rtol=2e-3, atol=2e-3)
    ratio = alone.fit.error[:, :7] / joint.fit.error[:, :7]
    assert float((ratio - 1).abs().max()) < 0.02
    (blind,) = fit_parts(own.cutouts, EXACT, compile=False, near=own.near)
    assert float((blind.fit.error[:, 2] / joint.fit.error[:, 2]).max()) < 0.97  # the wrong twin


def test_the_gradient_with_nuisances(pair) -> None:
    _, _, _, own = pair
    problem = build_problem(own.cutouts, EXACT, nuisances=own.nuisances)
    coords, _ = EXACT.space.from_physical(own.near, own.cutouts.zeropoint)
    point = EXACT.space.to_whitened(coords, problem.constants) + 0.05
    rows = torch.arange(len(point))
    gradient = problem(point, rows).gradient
    step = 1e-4
    for k in range(point.shape[1]):
        move = torch.zeros_like(point)
        move[:, k] = step
        rise = problem(point + move, rows).cost - problem(point - move, rows).cost
        # the core's table is interpolated: derivatives are those of the images to some 1e-5
        off = (rise / (2 * step) - gradient[:, k]).abs() / gradient.norm(dim=1)
        assert float(off.max()) < 1e-4


def test_the_likelihood_alone_is_that_of_the_fit(pair) -> None:
    _, _, _, own = pair
    problem = build_problem(own.cutouts, EXACT, nuisances=own.nuisances)
    coords, _ = EXACT.space.from_physical(own.near, own.cutouts.zeropoint)
    point = EXACT.space.to_whitened(coords, problem.constants) + 0.1
    rows = torch.arange(len(point))
    cost = problem(point, rows).carry[2]
    assert torch.allclose(problem.profile(point, rows).cost, cost, rtol=1e-9, atol=SINGLE)


def test_columns_of_neighbours() -> None:
    space = FitOptions("sersic+sersic+point").space
    columns, whitened = neighbour_columns(space, 1)
    # six coordinates of the second Sersic profile and two of the point; two fluxes
    assert columns == [*range(6, 14), space.n_nonlinear + 1, space.n_nonlinear + 2]
    assert whitened == 8


def test_neighbours_light_is_subtracted(pair) -> None:
    cutouts, truth, _, own = pair
    flux = 10 ** (0.4 * (25.0 - truth[:, 9]))
    taken = (cutouts.image - own.cutouts.image).sum(dim=(1, 2)).numpy()
    assert np.allclose(taken, flux, rtol=0.15, atol=SINGLE)  # a neighbour's wings leave the stamp
    assert torch.allclose(own.light.float(), cutouts.image - own.cutouts.image, atol=1e-3)
