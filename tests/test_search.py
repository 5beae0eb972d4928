"""The search for minima on small images: binned pixels, starts, components that are alike."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from fit_helpers import observe
from torch import Tensor

from hybridfit.fitting.binned import Binned, binned_problem
from hybridfit.fitting.fit import fit_parts
from hybridfit.fitting.fitted import Fitted
from hybridfit.fitting.options import FitOptions
from hybridfit.fitting.problem import Problem
from hybridfit.fitting.search import distinct
from hybridfit.fitting.structured_starts import exchanged_starts, nearest_order
from hybridfit.fitting.window import window_problem

TWO = FitOptions(model="sersic+sersic", compile="off")
# x, y, mag, r_eff, n, q, pa of each, sky
GALAXY = [31.2, 32.4, 20.2, 3.5, 2.5, 0.8, 40, 31.2, 32.4, 20.0, 8.0, 0.8, 0.5, 70, 0.0]


@pytest.fixture(scope="module")
def two() -> Fitted:
    """A galaxy of two Sersic profiles, fitted with as many."""
    cutouts, _ = observe([GALAXY], 200.0, (64, 64), space=TWO.space, profiles=TWO.profiles)
    return next(fit_parts(cutouts, TWO))


def rises(problem: Problem | Binned, points: Tensor, known: Tensor) -> Tensor:
    """The cost of points (N, P) of one galaxy above that of the known one (1, P)."""
    first = torch.zeros(len(points), dtype=torch.int64)
    return problem(points, first).cost - problem(known, first[:1]).cost


def test_binned_pixels_tell_models_apart(two: Fitted):
    """About a known model the cost rises as on the window itself, where light is resolved.

    Steps are of three standard deviations to both sides along each direction, where the mean of the
    rise is 4.5 or more. Bins of 2 pixels lose up to a fifth of it to a PSF of 3 pixels. The noise
    that they lose leans the two sides, by a standard deviation of the lost part's root, about 1.
    """
    with torch.inference_mode():
        window, _ = window_problem(two.problem, two.cutouts, two.problem.constants.centre, (48, 48))
        binned = binned_problem(window, two.cutouts, two.whitened, two.linear)
        data = binned.problem.pixels.data
        assert data.shape == (1, 24, 24)
        here = window(two.whitened, torch.zeros(1, dtype=torch.int64))
        root = torch.linalg.cholesky(torch.linalg.inv(here.hessian[0])).T
        points = two.whitened + torch.cat([3 * root, -3 * root])
        exact, cheap = (rises(p, points, two.whitened).view(2, -1) for p in (window, binned))
        assert float(exact.mean(dim=0).min()) > 4
        torch.testing.assert_close(cheap.mean(dim=0), exact.mean(dim=0), rtol=0.25, atol=0)
        assert ((cheap - exact) - (cheap - exact).mean(dim=0)).abs().max() < 4
        # a wrong twin: each bin has what is beside it
        pixels = replace(binned.problem.pixels, data=data.roll(1, dims=2))
        shifted = replace(binned, problem=replace(binned.problem, pixels=pixels))
        wrong = rises(shifted, points, two.whitened).view(2, -1)
        assert ((wrong - exact) - (wrong - exact).mean(dim=0)).abs().max() > 8


def test_alike_components_have_one_order(two: Fitted):
    """A model with both components exchanged is the same minimum, and not another mode."""
    space, constants = two.problem.space, two.problem.constants
    half = two.whitened.shape[1] // 2
    exchanged = two.whitened.roll(half, dims=1)
    eye = torch.eye(2 * half).double()[None]
    back = nearest_order(exchanged, two.whitened, eye, space, constants)
    assert torch.equal(back, two.whitened)
    assert exchanged_starts(space, constants, two.whitened).shape[1] == 0
    rows = torch.zeros(1, dtype=torch.int64)
    costs = [two.problem(point, rows).cost for point in (two.whitened, exchanged)]
    torch.testing.assert_close(costs[0], costs[1], rtol=1e-5, atol=0)
    assert two.modes is not None
    others = two.modes.whitened[0, 1:][two.modes.exist[0, 1:]]
    offset = others - exchanged
    precision = torch.linalg.inv(two.modes.covariance[0, 0])
    assert (torch.einsum("mi,ij,mj->m", offset, precision, offset) > 4).all()


def test_components_with_own_priors_are_not_alike(two: Fitted):
    """With another prior of a position the order stays, and there is a start with both sizes."""
    space = two.problem.space
    numbers = two.problem.constants.numbers.clone()
    numbers[:, 0, 0] += 1.0
    constants = replace(two.problem.constants, numbers=numbers)
    exchanged = two.whitened.roll(two.whitened.shape[1] // 2, dims=1)
    eye = torch.eye(exchanged.shape[1]).double()[None]
    assert torch.equal(nearest_order(exchanged, two.whitened, eye, space, constants), exchanged)
    assert exchanged_starts(space, constants, two.whitened).shape[1] == 1


def test_distinct_minima():
    """Of two that are near the first stays; one of far less evidence goes, the first never."""
    points = torch.tensor([[[0.0], [0.1], [3.0], [-3.0]]]).double()
    precision = torch.ones(1, 4, 1, 1).double()
    evidence = torch.tensor([[-9.0, 0.0, -1.0, -20.0]]).double()
    assert distinct(points, precision, evidence, 6.0).tolist() == [[True, False, True, False]]
