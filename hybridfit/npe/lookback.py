"""The network looks back at the pixels: one Gauss-Newton step from its own first guess.

Moments cannot give a bright galaxy's parameters to their last digit, its pixels can. A scout, a
network that reads the scalars alone, guesses t; the model is rendered there once, and its
residuals and derivatives give the Gaussian N(m, H^-1) that the posterior has about that point:

    H = J^T W J + P,    m = t + H^-1 (J^T W r - P (t - t_prior))

with J = d model / d t, W the pixels' weights, P the prior's precision (one for size, index and
ellipticity, which t has whitened). The flow then works in w = 3 asinh(L^T (t - m) / 3), H = L L^T,
in which the Gaussian limit is N(0, I) for every galaxy, and learns what that limit leaves out; how
the step went is told to the network in further scalars. The step is cut where it is long, and is
taken once: the network knows its length and the residuals, and widens the posterior.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from hybridfit.cutouts import Cutouts
from hybridfit.npe.frame import N_TARGETS, decode_with_slopes
from hybridfit.npe.inputs import Inputs, make_inputs, without_dead_pixels
from hybridfit.npe.laplace import FAR, Laplace
from hybridfit.npe.normal import normal_equations

if TYPE_CHECKING:
    from hybridfit.npe.network import Estimator

N_GUESSES = 64  # draws whose median is the first guess
# precision of the prior in t: x', y', flux and sky have none, and are tied loosely to the guess
PRECISION = (0.1, 0.1, 1.0, 1.0, 1.0, 1.0, 0.1, 0.1)
LONGEST = (3.0, 3.0, 1.0, 1.0, 1.0, 1.0, 1.0, 3.0)  # step in each coordinate
WIDEST = 5.0  # of a guess, as `FAR`: for size, index and ellipticity, in deviations of the prior
TINY = 1e-7  # added to a unit diagonal, so that rounding does not make H indefinite

_PAIRS = torch.tril_indices(N_TARGETS, N_TARGETS, -1)
# mean, ln width, correlations, step, its length, how much was cut, chi2 of all and of the galaxy
N_SCALARS = 3 * N_TARGETS + _PAIRS.shape[1] + 4


def look(cutouts: Cutouts, scout: Estimator | None, with_views: bool = True) -> Inputs:
    """Measure what a network reads of galaxies, and look back at them where it has a scout.

    Args:
        cutouts: B galaxies of any size; those without a pixel give numbers without meaning.
        scout: `Estimator.scout` of the network.
        with_views: whether the views are made.
    """
    inputs = make_inputs(cutouts, with_views)
    if scout is None:
        return inputs
    laplace, scalars = step_from(first_guess(scout, inputs), inputs, without_dead_pixels(cutouts))
    return replace(inputs, scalars=torch.cat([inputs.scalars, scalars], dim=1), laplace=laplace)


@torch.no_grad()
def first_guess(scout: Estimator, inputs: Inputs) -> Tensor:
    """Median t (B, 8) float64 of the scout's draws, from the same random numbers for all."""
    noise = torch.randn(N_GUESSES, N_TARGETS, generator=torch.Generator().manual_seed(7))
    context = scout.context(inputs.views, inputs.scalars, use_views=False).float()
    shared = noise.to(context.device).expand(len(context), -1, -1)
    z, _ = scout.flow.from_normal(shared, context)
    guess = scout.original(z).median(dim=1).values.double().nan_to_num(0.0)
    reach = guess.new_tensor([FAR, FAR, *[WIDEST] * 4, FAR, FAR])
    return torch.minimum(torch.maximum(guess, -reach), reach)


@torch.no_grad()
def step_from(guess: Tensor, inputs: Inputs, cutouts: Cutouts) -> tuple[Laplace, Tensor]:
    """One Gauss-Newton step from t.

    Args:
        guess: (B, 8) float64 t.
        inputs: what was measured of the galaxies: their frame and their noise.
        cutouts: the B galaxies.

    Returns:
        The Gaussians, and (B, `N_SCALARS`) float32 that tell how the step went.
    """
    raw, linear, slopes = decode_with_slopes(guess, inputs.frame)
    pixels = normal_equations(raw, linear, cutouts, inputs.noise)
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
    laplace = Laplace(guess + step, factor)
    covariance = torch.cholesky_inverse(factor)
    width = torch.diagonal(covariance, dim1=1, dim2=2).sqrt()
    i, j = _PAIRS.to(guess.device)
    columns = [
        laplace.mean,
        torch.log(width),
        covariance[:, i, j] / (width[:, i] * width[:, j]),
        torch.asinh((factor.mT @ step[:, :, None])[:, :, 0]),
        torch.log1p((gradient * whole).sum(dim=1).clamp_min(0).sqrt())[:, None],
        torch.log(cut)[:, None],
        torch.log(pixels.chi2.clamp_min(1e-6)),
    ]
    scalars = torch.cat(columns, dim=1).float()
    return laplace, torch.nan_to_num(scalars, 0.0, 0.0, 0.0).clamp(-1e3, 1e3)


def scalar_signs(signs: Tensor) -> Tensor:
    """What (K, `N_SCALARS`) the step's scalars are multiplied with where t is with (K, 8)."""
    i, j = _PAIRS
    one = torch.ones_like(signs)
    return torch.cat([signs, one, signs[:, i] * signs[:, j], signs, one[:, :4]], dim=1)
