"""The network looks back at the pixels: two Gauss-Newton steps from its own first guess.

Moments cannot give a bright galaxy's parameters to their last digit, its pixels can. A scout, a
network that reads the scalars alone, guesses t; the model is rendered there, and its residuals
and derivatives give the Gaussian N(m, H^-1) that the posterior has about that point:

    H = J^T W J + P,    m = t + H^-1 (J^T W r - P (t - t_prior))

with J = d model / d t, W the pixels' weights, P the prior's precision: one for size, index and
ellipticity, which t has whitened, so that t_prior is 0 there; position, flux and sky have none
and are tied loosely to the guess, their t_prior. The flow then works in
w = 3 asinh(L^T (t - m) / 3), H = L L^T, in which the Gaussian limit is N(0, I) for every galaxy,
and learns what that limit leaves out; how the steps went is told to the network in further
scalars. Steps are cut where they are long, and two are taken, converged or not: the network knows
their lengths and the residuals, and widens the posterior. Pixels that the model does not explain
weigh less, so that a neighbour does not drag it along; the first step, from a guess that is a
tenth off, forgives more than the second.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from hybridfit.data.cutouts import Cutouts
from hybridfit.npe.frame import N_TARGETS, decode_with_slopes
from hybridfit.npe.inputs import Inputs, make_inputs, without_dead_pixels
from hybridfit.npe.laplace import FAR, Laplace
from hybridfit.npe.normal_equations import normal_equations
from hybridfit.npe.refinement_scalars import Step, scalars_of

if TYPE_CHECKING:
    from hybridfit.npe.network import Estimator

N_GUESSES = 32  # draws whose median is the first guess
# precision of the prior in t: x', y', flux and sky have none, and are tied loosely to the guess
PRECISION = (0.1, 0.1, 1.0, 1.0, 1.0, 1.0, 0.1, 0.1)
LONGEST = (3.0, 3.0, 1.0, 1.0, 1.0, 1.0, 1.0, 3.0)  # step in each coordinate
WIDEST = 5.0  # of a guess, as `FAR`: for size, index and ellipticity, in deviations of the prior
DOUBTS = (0.2, 0.03)  # of the steps: share of its light by which the model may be wrong
TINY = 1e-7  # added to a unit diagonal, so that rounding does not make H indefinite


def look(cutouts: Cutouts, scout: Estimator | None, with_views: bool = True) -> Inputs:
    """Measure what a network reads of galaxies, and look back at them where it has a scout.

    Args:
        cutouts: B galaxies of any size; those without a pixel give numbers without meaning.
        scout: `Estimator.scout` of the network.
        with_views: whether the views are made.

    Returns:
        `Inputs` of the B galaxies; where there is a scout their scalars (B, F + `N_SCALARS`) tell
        of the steps too, and ``laplace`` is the Gaussian that the last one found.
    """
    inputs = make_inputs(cutouts, with_views)
    if scout is None:
        return inputs
    cutouts = without_dead_pixels(cutouts)
    guess = first_guess(scout, inputs)
    steps = []
    for doubt in DOUBTS:
        steps.append(step_from(guess, inputs, cutouts, doubt))
        guess = _within_reach(steps[-1].laplace.mean)
    scalars = torch.cat([inputs.scalars, scalars_of(steps)], dim=1)
    return replace(inputs, scalars=scalars, laplace=steps[-1].laplace)


@torch.no_grad()
def first_guess(scout: Estimator, inputs: Inputs) -> Tensor:
    """Median t (B, 8) float64 of the scout's draws, from the same random numbers for all."""
    noise = torch.randn(N_GUESSES, N_TARGETS, generator=torch.Generator().manual_seed(7))
    context = scout.context(inputs.views, inputs.scalars, use_views=False).float()
    shared = noise.to(context.device).expand(len(context), -1, -1)
    z, _ = scout.flow.from_normal(shared, context)
    return _within_reach(scout.original(z).median(dim=1).values.double())


def _within_reach(t: Tensor) -> Tensor:
    reach = t.new_tensor([FAR, FAR, *[WIDEST] * 4, FAR, FAR])
    return torch.minimum(torch.maximum(t.nan_to_num(0.0), -reach), reach)


@torch.no_grad()
def step_from(guess: Tensor, inputs: Inputs, cutouts: Cutouts, doubt: float | None) -> Step:
    """One Gauss-Newton step from t.

    Args:
        guess: (B, 8) float64 t.
        inputs: what was measured of the galaxies: their frame and their noise.
        cutouts: the B galaxies.
        doubt: see `normal_equations`.
    """
    coords, linear, slopes = decode_with_slopes(guess, inputs.frame)
    pixels = normal_equations(coords, linear, cutouts, inputs.noise, doubt)
    precision = guess.new_tensor(PRECISION)
    whitened = precision == 1.0
    gradient = (slopes.mT @ pixels.gradient[:, :, None])[:, :, 0] - whitened * guess
    matrix = slopes.mT @ pixels.information @ slopes + torch.diag(precision)
    scale = torch.diagonal(matrix, dim1=1, dim2=2).rsqrt()
    unit = matrix * scale[:, :, None] * scale[:, None, :]
    eye = torch.eye(N_TARGETS, dtype=guess.dtype, device=guess.device)
    factor = torch.linalg.cholesky_ex(unit + TINY * eye)[0] / scale[:, :, None]
    whole = torch.cholesky_solve(gradient[:, :, None], factor)[:, :, 0]
    cut = 1 / (whole.abs() / guess.new_tensor(LONGEST)).amax(dim=1).clamp_min(1.0)
    step = cut[:, None] * whole
    taken = (factor.mT @ step[:, :, None])[:, :, 0]
    length = (gradient * whole).sum(dim=1).clamp_min(0).sqrt()
    return Step(Laplace(guess + step, factor), taken, length, cut, pixels)
