"""The tempered likelihood: white noise with the same effect on parameters as correlated noise.

Correlated noise of autocorrelation R affects structures wider than a few pixels more than its sigma
suggests. Widening a posterior afterwards is right if the model is linear; a faint galaxy's
posterior has the shape of its prior and its degeneracies, which are those of a fainter galaxy. So
it is sampled with sigma sqrt(T),

    T = tr J^T W^1/2 R W^1/2 J C / tr J^T W J C,

the variance of the parameters over that for white noise, averaged with a fit's covariance C. The
error budget covers the remainder, more in some directions and less in others.

T belongs to the image, not the model, otherwise each model would have its own likelihood: J and C
are those of one Sersic profile at the image's moments, see `hybridfit.uncertainty.image_noise`.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from hybridfit.data.cutouts import Cutouts
from hybridfit.fitting.linearised import Linearised, sum_of_squares
from hybridfit.fitting.pixels import Pixels
from hybridfit.fitting.problem import Problem
from hybridfit.uncertainty.correlated_noise import Autocorrelation, excess_gram
from hybridfit.uncertainty.image_noise import reference
from hybridfit.uncertainty.nuisance import whiten


def temperature(cutouts: Cutouts, noise: Autocorrelation) -> Tensor:
    """Return (B,) float64 >= 1, independent of the fitted model; 1 where the noise is white.

    Args:
        cutouts: B galaxies that share a Fourier grid; their first images count.
        noise: of the same galaxies.
    """
    cutouts = cutouts.single_images()[0]
    result = torch.ones(len(cutouts), dtype=torch.float64, device=cutouts.image.device)
    rows = (~noise.is_white).nonzero()[:, 0]
    if len(rows):
        result[rows] = mean_excess(*reference(cutouts[rows]), noise[rows])
    return result


def temperatures(cutouts: Cutouts, noise: Autocorrelation) -> Tensor:
    """Return (B, I) `temperature` of each image of B galaxies that share Fourier grids."""
    images = zip(cutouts.single_images(), noise.images, strict=True)
    return torch.stack([temperature(*image) for image in images], dim=1)


def mean_excess(about: Linearised, problem: Problem, noise: Autocorrelation) -> Tensor:
    """Return (B,) float64 >= 1: the mean variance of parameters over that for white noise.

    Args:
        about: derivatives of B models.
        problem: of the same galaxies.
        noise: of the same galaxies.
    """
    fit = whiten(about.columns, about.information, about.prior, about.whitened)
    # only the largest scales affect the sky, which is a nuisance here
    count = problem.space.n_nonlinear + problem.space.n_fluxes
    flat = fit.columns.flatten(2)
    own = torch.diagonal((flat @ flat.mT).double(), dim1=1, dim2=2)[:, :count].sum(dim=1)
    excess = torch.diagonal(excess_gram(fit.columns, noise), dim1=1, dim2=2)
    value = 1 + excess[:, :count].sum(dim=1) / own.clamp_min(1e-12)
    return value.nan_to_num(1.0).clamp_min(1.0)


def tempered(
    problem: Problem, about: Linearised, noise: Autocorrelation, factor: Tensor
) -> tuple[Problem, Linearised, Autocorrelation]:
    """Return the same galaxies with sigma sqrt(factor), and the noise in units of that.

    Args:
        problem, about, noise: of B galaxies.
        factor: (B, I) of each image, see `temperatures`, or (B,) of the only one.
    """
    narrow = factor.view(len(factor), -1).rsqrt()
    images = [one.scaled(by) for one, by in zip(about.images, narrow.unbind(1), strict=True)]
    first, exposures = images[0], tuple(images[1:])
    information = about.information * narrow[:, :1, None] ** 2
    if exposures:
        information = sum_of_squares([image.columns for image in images])
    pairs = zip(problem.exposures, narrow.unbind(1)[1:], strict=True)
    terms = tuple(replace(term, pixels=_narrowed(term.pixels, by)) for term, by in pairs)
    found = [
        Autocorrelation(one.values * by[:, None, None] ** 2, one.pixels)
        for one, by in zip(noise.images, narrow.unbind(1), strict=True)
    ]
    return (
        replace(problem, pixels=_narrowed(problem.pixels, narrow[:, 0]), exposures=terms),
        replace(
            about,
            columns=first.columns,
            residual=first.residual,
            light=first.light,
            information=information,
            exposures=exposures,
        ),
        replace(found[0], exposures=tuple(found[1:])),
    )


def _narrowed(pixels: Pixels, by: Tensor) -> Pixels:
    """Return pixels with their weights times ``by`` (B,)."""
    return replace(pixels, weight=pixels.weight * by[:, None, None].to(pixels.weight.dtype))
