"""Refinement: two Gauss-Newton steps on the pixels from an initial estimate.

Moments cannot give a bright galaxy's parameters to their last digit, its pixels can. The initial
estimator, a network that reads the scalars alone, gives t; the model is rendered there, and its
residuals and derivatives give the Gaussian N(m, H^-1) that the posterior has about that point:

    H = J^T W J + P,    m = t + H^-1 (J^T W r - P (t - t_prior))

with J = d model / d t, W the pixels' weights, P the prior's precision: one for size, index and
ellipticity, which t has whitened, so that t_prior is 0 there; position, flux and sky have none
and are tied loosely to the guess, their t_prior. The flow then works in
w = 3 asinh(L^T (t - m) / 3), H = L L^T, in which the Gaussian limit is N(0, I) for every galaxy,
and learns what that limit leaves out; further scalars describe the steps to the network. Steps
are cut where they are long, and two are taken, converged or not: the network knows their lengths
and the residuals, and widens the posterior. Pixels that the model does not explain get a smaller
weight, so that a neighbour does not drag the fit along; the first step, from an estimate that is
a tenth off, allows for a larger error of the model than the second.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from hybridfit.data.cutouts import Cutouts
from hybridfit.npe.coordinates import SERSIC, FlowCoordinates
from hybridfit.npe.frame import decode_with_slopes
from hybridfit.npe.inputs import Inputs, make_inputs, without_dead_pixels
from hybridfit.npe.laplace import FAR, Laplace
from hybridfit.npe.normal_equations import normal_equations
from hybridfit.npe.refinement_scalars import Step, scalars_of

if TYPE_CHECKING:
    from hybridfit.npe.network import Estimator

N_GUESSES = 32  # draws whose median is the initial estimate
# precision of the prior in t: x', y', fluxes and sky have none, and are tied loosely to the guess
LOOSE = 0.1
LONGEST, LONGEST_OFFSET = 1.0, 3.0  # step in each coordinate; of x', y' and sky
# of a guess, as `FAR`: for size, index and ellipticity, in deviations of the prior, and ratios
WIDEST = 5.0
MODEL_ERRORS = (0.2, 0.03)  # of each step: share of its light by which the model may be wrong
TINY = 1e-7  # added to a unit diagonal, so that rounding does not make H indefinite


def estimator_inputs(
    cutouts: Cutouts, initial_estimator: Estimator | None, with_views: bool = True
) -> Inputs:
    """Measure what a network reads of galaxies, and refine the estimate of ``initial_estimator``.

    Args:
        cutouts: B galaxies of any size; those without a pixel give numbers without meaning.
        initial_estimator: `Estimator.initial_estimator` of the network; None refines nothing.
        with_views: whether the views are made.

    Returns:
        `Inputs` of the B galaxies; with an initial estimator their scalars describe the steps
        too, and ``laplace`` is the Gaussian that the last step found.
    """
    inputs = make_inputs(cutouts, with_views)
    if initial_estimator is None:
        return inputs
    cutouts = without_dead_pixels(cutouts)
    coordinates = initial_estimator.coordinates
    guess = initial_guess(initial_estimator, inputs)
    steps = []
    for model_error in MODEL_ERRORS:
        steps.append(gauss_newton_step(guess, inputs, cutouts, model_error, coordinates))
        guess = _bounded(steps[-1].laplace.mean, coordinates)
    scalars = torch.cat([inputs.scalars, scalars_of(steps)], dim=1)
    return replace(inputs, scalars=scalars, laplace=steps[-1].laplace)


@torch.no_grad()
def initial_guess(initial_estimator: Estimator, inputs: Inputs) -> Tensor:
    """Median t (B, T) float64 of the initial estimator's draws, from one set of random numbers."""
    coordinates = initial_estimator.coordinates
    noise = torch.randn(N_GUESSES, coordinates.n, generator=torch.Generator().manual_seed(7))
    context = initial_estimator.context(inputs.views, inputs.scalars, use_views=False).float()
    shared = noise.to(context.device).expand(len(context), -1, -1)
    z, _ = initial_estimator.flow.from_normal(shared, context)
    return _bounded(initial_estimator.original(z).median(dim=1).values.double(), coordinates)


def _bounded(t: Tensor, coordinates: FlowCoordinates) -> Tensor:
    limit = coordinates.each(FAR, WIDEST, FAR, WIDEST, FAR).to(t)
    return torch.minimum(torch.maximum(t.nan_to_num(0.0), -limit), limit)


@torch.no_grad()
def gauss_newton_step(
    guess: Tensor,
    inputs: Inputs,
    cutouts: Cutouts,
    model_error: float | None,
    coordinates: FlowCoordinates = SERSIC,
) -> Step:
    """One Gauss-Newton step from t.

    Args:
        guess: (B, T) float64 t.
        inputs: what was measured of the galaxies: their frame and their noise.
        cutouts: the B galaxies.
        model_error: see `normal_equations`.
        coordinates: of the model.
    """
    coords, linear, slopes = decode_with_slopes(guess, inputs.frame, coordinates)
    space = coordinates.space
    pixels = normal_equations(coords, linear, cutouts, inputs.noise, model_error, space)
    precision = coordinates.each(LOOSE, 1.0, LOOSE, LOOSE, LOOSE).to(guess)
    whitened = precision == 1.0
    gradient = (slopes.mT @ pixels.gradient[:, :, None])[:, :, 0] - whitened * guess
    matrix = slopes.mT @ pixels.information @ slopes + torch.diag(precision)
    scale = torch.diagonal(matrix, dim1=1, dim2=2).rsqrt()
    unit = matrix * scale[:, :, None] * scale[:, None, :]
    eye = torch.eye(coordinates.n, dtype=guess.dtype, device=guess.device)
    factor = torch.linalg.cholesky_ex(unit + TINY * eye)[0] / scale[:, :, None]
    whole = torch.cholesky_solve(gradient[:, :, None], factor)[:, :, 0]
    offset, longest = LONGEST_OFFSET, LONGEST
    most = coordinates.each(offset, longest, longest, longest, offset).to(guess)
    cut = 1 / (whole.abs() / most).amax(dim=1).clamp_min(1.0)
    step = cut[:, None] * whole
    taken = (factor.mT @ step[:, :, None])[:, :, 0]
    length = (gradient * whole).sum(dim=1).clamp_min(0).sqrt()
    return Step(Laplace(guess + step, factor), taken, length, cut, pixels)
