"""The likelihood at a temperature: what white noise would have to be to blur as this noise does.

Correlated noise of autocorrelation R blurs what is wider than a few pixels by more than its sigma
says. Widening a posterior afterwards is right where all is linear; a faint galaxy's posterior has
the shape of its prior and its degeneracies, and these are those of a fainter galaxy. So it is
sampled with sigma sqrt(T),

    T = tr J^T W^1/2 R W^1/2 J C / tr J^T W J C,

the mean over the parameters of how much the noise's variance exceeds white noise, with the fit's
covariance C. What then remains, more in some directions and less in others, is the error budget's.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from hybridfit.fitting.linearised import Linearised
from hybridfit.fitting.problem import Problem
from hybridfit.uncertainty.noise import Autocorrelation, excess_gram
from hybridfit.uncertainty.nuisance import whitened


def temperature(about: Linearised, problem: Problem, noise: Autocorrelation) -> Tensor:
    """(B,) float64 >= 1; 1 where the noise is white, or there is no fit.

    Args:
        about: the fits' derivatives.
        problem: of the same galaxies.
        noise: of the same galaxies.
    """
    result = torch.ones(len(about), dtype=torch.float64, device=about.free.device)
    fitted = torch.isfinite(about.columns.flatten(1).sum(dim=1))
    rows = (fitted & ~noise.is_white).nonzero()[:, 0]
    if len(rows) == 0:
        return result
    fit = whitened(
        about.columns[rows], about.information[rows], about.prior[rows], about.free[rows]
    )
    # the sky feels the longest waves alone, and nobody asks for it
    count = problem.space.n_free + len(problem.space.shapes)
    flat = fit.columns.flatten(2)
    own = torch.diagonal((flat @ flat.mT).double(), dim1=1, dim2=2)[:, :count].sum(dim=1)
    excess = torch.diagonal(excess_gram(fit.columns, noise[rows]), dim1=1, dim2=2)
    result[rows] = (1 + excess[:, :count].sum(dim=1) / own.clamp_min(1e-12)).clamp_min(1.0)
    return result


def tempered(
    problem: Problem, about: Linearised, noise: Autocorrelation, factor: Tensor
) -> tuple[Problem, Linearised, Autocorrelation]:
    """Return the same galaxies with sigma sqrt(factor), and the noise in units of that.

    Args:
        problem, about, noise: of B galaxies.
        factor: (B,) see `temperature`.
    """
    shrink = factor.rsqrt()[:, None, None]
    pixels = problem.pixels
    narrow = shrink.to(pixels.weight.dtype)
    return (
        replace(problem, pixels=replace(pixels, weight=pixels.weight * narrow)),
        replace(
            about,
            columns=about.columns * narrow[:, None],
            residual=about.residual * narrow,
            information=about.information * shrink**2,
        ),
        Autocorrelation(noise.values * shrink**2, noise.pixels),
    )
