"""The Cramer-Rao limit: the smallest errors that pixels and prior allow."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from hybridfit.data.cutouts import Cutouts
from hybridfit.detection.background import nominal_centre
from hybridfit.fitting.lm import Minimum
from hybridfit.fitting.pixels import make_pixels
from hybridfit.fitting.problem import Problem
from hybridfit.fitting.solution import solution_of, to_fit
from hybridfit.model.parameters import ParameterSpace
from hybridfit.model.profiles import Profile, Sersic
from hybridfit.rendering.grid import grid_of
from hybridfit.rendering.render import render

AT_ONCE = 64  # galaxies per batch: limits memory
KERNEL = 8  # galaxies per compiled kernel


def cramer_rao(
    theta: Tensor,
    cutouts: Cutouts,
    space: ParameterSpace | None = None,
    profiles: tuple[Profile, ...] | None = None,
    prior_weight: float = 1.0,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Return the smallest covariance of the physical parameters of any unbiased estimator.

    C = J (F + w I)^-1 J^T, where F is the Fisher information of the pixels at the truth, in
    whitened coordinates, in which the prior's precision is the identity, and J the derivatives of
    the physical parameters. It is computed with the fitter's code, at the truth and without noise.

    At low signal-to-noise ratios the prior limits the posterior: hence w = 1 by default (van
    Trees' inequality at the truth). Posteriors are not Gaussian there: use medians of galaxies.

    Args:
        theta: (B, Q) true physical parameters in the order of ``space.names``.
        cutouts: B galaxies; their sigma, mask, PSF, size and zero point are used, not the image.
        space: default: one Sersic profile and a constant sky; the sky must be free.
        profiles: one for each component of ``space``.
        prior_weight: 1 for the limit with the prior, 0 for that of the pixels alone.
        dtype: precision of the pixel arithmetic.

    Returns:
        (B, Q, Q) float64 on the CPU; NaN for a non-finite truth.

    Raises:
        ValueError: if the sky is fixed, theta has another shape, or the cutouts have exposures.
    """
    space, profiles = space or ParameterSpace(), profiles or (Sersic(),)
    _check_arguments(theta, cutouts, space)
    limit = torch.full((*theta.shape, theta.shape[1]), torch.nan, dtype=torch.float64)
    known = torch.isfinite(theta).all(dim=1).cpu()
    with torch.inference_mode():
        for rows in _batches(cutouts.psf_oversampling.cpu(), known):
            given = (space, profiles, prior_weight, dtype)
            limit[rows] = _limit(theta[rows].double(), cutouts[rows], *given)
    return limit


def _batches(oversampling: Tensor, known: Tensor) -> Iterator[Tensor]:
    """Yield the indices of known galaxies, grouped by oversampling (B,)."""
    for value in oversampling.unique().tolist():
        same = (oversampling == value) & known
        yield from same.nonzero()[:, 0].split(AT_ONCE)


def _check_arguments(theta: Tensor, cutouts: Cutouts, space: ParameterSpace) -> None:
    """Raise ValueError for a fixed sky, several images, or theta of another shape."""
    if cutouts.exposures:
        raise ValueError(
            "cutouts have exposures, expected one image of each galaxy: the limit knows no others"
        )
    if space.n_sky == 0:
        raise ValueError("sky is 'fixed', expected 'constant' or 'plane': the limit frees the sky")
    if tuple(theta.shape) != (len(cutouts), len(space.names)):
        raise ValueError(
            f"theta has shape {tuple(theta.shape)}, expected {(len(cutouts), len(space.names))}: "
            f"{', '.join(space.names)} for each cutout"
        )


def _limit(
    theta: Tensor,
    cutouts: Cutouts,
    space: ParameterSpace,
    profiles: tuple[Profile, ...],
    prior_weight: float,
    dtype: torch.dtype,
) -> Tensor:
    theta = theta.to(cutouts.image.device)
    clean = replace(cutouts, image=render(theta, cutouts, space, profiles, dtype))
    coords, linear = space.from_physical(theta, cutouts.zeropoint)
    grid = grid_of(clean, dtype)
    pixels = make_pixels(clean, linear[:, space.n_components], space.n_sky, grid, dtype)
    half = space.prior.position * cutouts.size.amin(dim=1).double().clamp_min(8)
    centre = nominal_centre(cutouts)
    box = torch.cat([centre, half[:, None], half[:, None]], dim=1)
    constants = space.constants(box)
    problem = Problem(pixels, grid, space, constants, prior_weight, KERNEL, profiles)
    whitened = space.to_whitened(coords, constants)
    normal = problem(whitened, torch.arange(len(theta), device=theta.device))
    none = torch.zeros(len(theta), dtype=torch.int64, device=theta.device)
    minimum = Minimum(whitened, torch.zeros_like(whitened), normal, none, none == 0)
    return to_fit(solution_of(minimum, problem), problem, clean).covariance.cpu()
