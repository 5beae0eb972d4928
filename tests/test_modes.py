"""Several minima of scenes: found, told apart, proposed; and the likelihood near fits of scenes."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from fit_helpers import observe
from torch import Tensor

from hybridfit.data.cutouts import Cutouts
from hybridfit.fitting.approximate_likelihood import LinkedLikelihood, approximate_likelihood
from hybridfit.fitting.fit import fit_parts
from hybridfit.fitting.fitted import Fitted
from hybridfit.fitting.options import FitOptions
from hybridfit.fitting.structured_starts import concentric
from hybridfit.model.compile import SOFTENING
from hybridfit.model.scene import Component, Parameter, Scene, Source, equal
from hybridfit.sampling.importance_sampling import RIDGE_DOF, plane_of, sample_posterior
from hybridfit.sampling.options import SamplingOptions
from hybridfit.sampling.ridge import find_ridge, find_ridges

CENTRE = {axis: Parameter(tied=equal(f"bulge.{axis}")) for axis in ("x", "y")}
# without the priors of the preset, bulge and disk can exchange their roles
UNORDERED = Scene(
    (Source((Component("bulge", "sersic"), Component("disk", "exponential", CENTRE))),)
)
OPTIONS = FitOptions(model=UNORDERED, compile="off")
PRESET = FitOptions(model="bulge+disk", compile="off")
# renders with a centre for each; `observe` knows the columns of components without names
FREE = FitOptions(model=Scene((Source((Component(), Component(profile="exponential"))),)))
# bulge: x, y, mag, r_eff, n, q, pa; disk: x, y, mag, r_eff, q, pa; sky
ROUND_BULGE = [29.9, 30.3, 20.0, 6.0, 2.0, 0.95, 40, 29.9, 30.3, 20.1, 8.5, 0.27, 120, 0.0]
SMALL_DISK = [30.2, 29.8, 20.0, 3.5, 1.0, 0.7, 40, 30.2, 29.8, 21.5, 1.8, 0.6, 45, 0.0]


def cutouts_of(*theta: list[float], snr: float, side: int = 60) -> Cutouts:
    """Galaxies of bulge and disk, whose centres are moved along with the cutout's."""
    values = np.array(theta)
    values[:, [0, 1, 7, 8]] += (side - 60) / 2
    return observe(values, snr, (side, side), space=FREE.space, profiles=FREE.profiles)[0]


def fit_of(cutouts: Cutouts, options: FitOptions = OPTIONS) -> Fitted:
    return next(fit_parts(cutouts, options))


@pytest.fixture(scope="module")
def two_modes() -> Fitted:
    """A faint galaxy that may have a small bulge or a small disk, and a bright one."""
    return fit_of(cutouts_of(SMALL_DISK, ROUND_BULGE, snr=100.0))


def test_which_components_are_concentric():
    assert concentric(FitOptions().space) == ()
    assert concentric(OPTIONS.space) == concentric(PRESET.space) == (0, 1)
    assert concentric(FitOptions(model="sersic+sersic").space) == (0, 1)
    assert concentric(FitOptions(model="sersic+point").space) == (0, 1)
    bulge = Component("bulge", "sersic", {"n": Parameter(4.0, fixed=True)})
    disk = {axis: Parameter(tied=equal(f"bulge.{axis}")) for axis in ("x", "y")}
    galaxy = Source((bulge, Component("disk", "exponential", disk)))
    beside = Source((Component("other", "sersic"),))
    assert concentric(FitOptions(model=Scene((galaxy, beside))).space) == (0, 1)
    alone = Scene((Source((bulge,)), beside))
    assert concentric(FitOptions(model=alone).space) == ()


def test_a_round_bulge_in_a_thin_disk_is_found():
    """The first start gives the flat shape to the bulge, and ends far above the noise."""
    cutouts = cutouts_of(ROUND_BULGE, snr=400.0)
    found = fit_of(cutouts).fit
    names = found.space.names
    q = [float(found.theta[0, names.index(name)]) for name in ("bulge_q", "disk_q")]
    assert abs(q[0] - 0.95) < 0.1
    assert abs(q[1] - 0.27) < 0.03
    # chi2 of the truth lies about the number of pixels, with a scatter of sqrt(2 N)
    assert float(found.chi2[0]) < found.dof[0] + 3 * (2 * found.dof[0]) ** 0.5
    once = fit_of(cutouts, replace(OPTIONS, retry=False)).fit
    assert float(once.chi2[0] - found.chi2[0]) > 30


def test_the_bulge_of_the_preset_is_smaller_than_the_disk(two_modes: Fitted):
    """Where roles can be exchanged they are, in one mode; the preset's prior keeps their order."""

    def ratios(fitted: Fitted) -> Tensor:
        assert fitted.modes is not None
        space, points = fitted.problem.space, fitted.modes.whitened[fitted.modes.exist]
        rows = fitted.modes.exist.nonzero()[:, 0]
        coords, _ = space.from_whitened(points, fitted.problem.constants[rows])
        size = [
            coords[:, c.start + 2] + coords[:, c.stop - 2 : c.stop].norm(dim=1) / 2
            for c in space.slices()
        ]
        return torch.exp(size[0] - size[1])

    assert ratios(two_modes).max() > 1
    # r_eff of a round and of a thin component may differ by half of the softening
    assert ratios(fit_of(two_modes.cutouts, PRESET)).max() < math.exp(SOFTENING / 2)


def test_modes_are_minima_and_apart(two_modes: Fitted):
    """Each is a minimum of the whole problem, the first is the fit, and all differ."""
    modes, problem = two_modes.modes, two_modes.problem
    assert modes is not None
    assert int(modes.exist.sum(dim=1).max()) > 1
    assert torch.equal(modes.whitened[:, 0], two_modes.whitened)
    for row in range(len(modes)):
        points = modes.whitened[row][modes.exist[row]]
        there = problem(points, torch.full((len(points),), row))
        step = torch.linalg.solve(there.hessian, there.gradient[:, :, None])[:, :, 0]
        # what is left to fall is a hundredth of a standard deviation
        assert ((step * there.gradient).sum(dim=1).abs() < 0.02).all()
        offset = points[1:] - points[0]
        apart = torch.einsum("bi,bij,bj->b", offset, there.hessian[1:], offset)
        assert (apart > 1).all()


def test_ridges_of_one_mode_are_a_ridge(two_modes: Fitted):
    """A missing mode adds nothing, the same mode twice changes no density."""
    problem, fit = two_modes.problem, two_modes.whitened[:1]
    rows, plane = torch.zeros(1, dtype=torch.int64), plane_of(problem.space)
    with torch.inference_mode():
        p = fit.shape[1]
        covariance = two_modes.linearise().covariance[:1, :p, :p]
        one = find_ridge(problem, fit, covariance, plane, rows, RIDGE_DOF)
        spread = torch.linalg.cholesky(covariance)
        points = fit[:, None] + torch.randn(1, 9, p).double() @ spread.mT
        expected = one.log_density(points)
        for second in (torch.full_like(fit, torch.nan), fit):
            both = torch.stack([fit, second], dim=1)
            twice = covariance[:, None].expand(-1, 2, -1, -1)
            ridges = find_ridges(problem, both, twice, plane, rows, RIDGE_DOF)
            torch.testing.assert_close(ridges.log_density(points), expected, rtol=1e-6, atol=1e-6)
            torch.testing.assert_close(ridges.log_share.exp().sum(dim=1), torch.ones(1).double())


def shares(fitted: Fitted, modes: bool) -> tuple[Tensor, float]:
    """The share of draws nearer to each mode of the first galaxy, and their effective number."""
    one = fitted[[0]]
    options = SamplingOptions(target_ess=300.0, max_draws=2048)
    assert one.modes is not None
    with torch.inference_mode():
        sampled = sample_posterior(
            one.problem,
            one.linearise(),
            one.cutouts.id,
            options=options,
            modes=one.modes if modes else None,
        )
    points = one.modes.whitened[0][one.modes.exist[0]]
    offset = sampled.points.whitened[0][:, None] - points
    precision = torch.linalg.inv(one.modes.covariance[0][one.modes.exist[0]])
    nearest = torch.einsum("smp,mpq,smq->sm", offset, precision, offset).argmin(dim=1)
    weights = sampled.weights[0]
    return torch.stack([weights[nearest == k].sum() for k in range(len(points))]), float(
        sampled.diagnostics.ess[0]
    )


def test_all_modes_are_sampled(two_modes: Fitted):
    """Runs under different numbers agree on the share of each mode."""
    share, ess = shares(two_modes, modes=True)
    assert ess > 60
    other = replace(two_modes, cutouts=replace(two_modes.cutouts, id=["again", "and again"]))
    again, _ = shares(other, modes=True)
    # of 60 effective draws a share of a half is known to .065, twice
    assert (share - again).abs().max() < 0.2


@pytest.mark.parametrize("fixed", [None, "disk"], ids=["free", "fixed flux and sky"])
def test_the_likelihood_of_linked_scenes_near_their_fits(fixed: str | None):
    """In a window of 64 pixels the likelihood of 112 changes as the exact one does."""
    options = OPTIONS
    cutouts = cutouts_of(ROUND_BULGE, SMALL_DISK, snr=150.0, side=112)
    if fixed:
        disk = {axis: Parameter(tied=equal(f"bulge.{axis}")) for axis in ("x", "y")}
        disk["mag"] = Parameter(19.0, fixed=True)
        parts = (Component("bulge", "sersic"), Component("disk", "exponential", disk))
        options = replace(OPTIONS, model=Scene((Source(parts),)))
    fitted = fit_of(cutouts, options)
    with torch.inference_mode():
        about = fitted.linearise()
        near = approximate_likelihood(fitted.problem, cutouts, about)
        assert isinstance(near, LinkedLikelihood)
        p = about.whitened.shape[1]
        deviation = about.covariance[:, :p, :p].diagonal(dim1=1, dim2=2).sqrt()
        rows = torch.arange(2)
        step = torch.linalg.cholesky(about.covariance[:, :p, :p])[:, :, -1] + 0.2 * deviation
        # a wrong twin: what is outside of the window forgotten
        tiny = 1e-9 * torch.eye(near.gram.shape[1]).double()
        blind = replace(near, gram=torch.zeros_like(near.gram) + tiny)
        exact, good, bad = (
            f.profile(about.whitened + step, rows).cost - f.profile(about.whitened, rows).cost
            for f in (fitted.problem, near, blind)
        )
        assert ((good - exact).abs() < 0.05 + 0.1 * (bad - exact).abs()).all()
        there = [f.profile(about.whitened, rows) for f in (fitted.problem, near)]
    torch.testing.assert_close(there[1].linear, there[0].linear, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(there[1].factor, there[0].factor, rtol=1e-3, atol=1e-3)
