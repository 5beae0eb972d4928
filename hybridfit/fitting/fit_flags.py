"""What is wrong with a fit: the flags that follow from the numbers themselves."""

from __future__ import annotations

import torch
from torch import Tensor

from hybridfit.data.cutouts import Cutouts
from hybridfit.data.fit import Fit
from hybridfit.data.flags import Flag
from hybridfit.fitting.fixed import column_of
from hybridfit.fitting.moments import psf_moments
from hybridfit.fitting.point_source import point_rise
from hybridfit.fitting.problem import Problem
from hybridfit.fitting.profile_likelihood_check import MAX_EXTENT, size_extent
from hybridfit.fitting.solution import Solution
from hybridfit.model.parameters import ParameterSpace

AT_LIMIT_U = 2.5  # |u| beyond which 99 % of the prior lies nearer to its middle
POOR_CHI2 = 1.5  # reduced chi2, where its chance scatter is a few per cent
UNRESOLVED = 0.1  # circularised r_eff over the PSF's Gaussian width, with the pixel
# chi2 by which a point source is worse than the fit, below which the pixels know of no size: of 600
# stars none reaches it; looked at where the radius is below the PSF's FWHM
POINT_RISE, FWHM = 12.0, 2.355
# Gaussian width over half-light radius, half of a Gaussian's own; and how many times POINT_RISE
# makes a look needless
CORE, SURE = 0.42, 20.0
# flux over its error at the fitted shape: noise alone reaches 4 somewhere in a cutout
MIN_SIGNAL = 5.0
MAX_MAG_ERROR = 0.25  # mag


def fit_flags(fit: Fit, solution: Solution, problem: Problem, cutouts: Cutouts) -> Tensor:
    """Return (B,) flag bits: those of the cutouts, and those that the fit adds."""
    space = fit.space
    flags = cutouts.flags.clone()

    def raise_flag(where: Tensor, flag: Flag) -> None:
        flags.bitwise_or_(where * int(flag))

    used = (problem.pixels.weight > 0).flatten(1).sum(dim=1)
    empty = (fit.dof <= 0) | (used == 0)
    raise_flag(empty, Flag.NO_DATA)
    raise_flag(~empty & ~(solution.converged & torch.isfinite(fit.chi2)), Flag.NOT_CONVERGED)
    reduced = fit.chi2 / fit.dof.clamp_min(1)
    expected = 1 + 5 * torch.sqrt(2 / fit.dof.clamp_min(1).double())
    raise_flag((reduced > POOR_CHI2) & (reduced > expected), Flag.POOR_FIT)
    flags |= _prior_flags(solution, space)
    raise_flag(~empty & (size_extent(solution, problem) > MAX_EXTENT), Flag.UNCERTAIN)
    signal = signal_to_noise(solution, space.n_nonlinear)
    psf_xx, _, psf_yy = psf_moments(cutouts).unbind(1)
    psf_width = torch.sqrt((psf_xx + psf_yy) / 2).clamp_min(0.3)
    longest = cutouts.size.amax(dim=1).double()
    for k in range(len(space.shapes)):
        mag, r_eff, q = (column_of(space, k, name) for name in ("mag", "r_eff", "q"))
        raise_flag(~empty & ~(fit.error[:, mag] < MAX_MAG_ERROR), Flag.UNCERTAIN)
        raise_flag(~empty & ~(signal[:, k] > MIN_SIGNAL), Flag.NO_SIGNAL)
        radius = fit.theta[:, r_eff] * torch.sqrt(fit.theta[:, q])
        raise_flag(radius < UNRESOLVED * psf_width, Flag.UNRESOLVED)
        if len(space.shapes) == 1 and problem.surface is None:
            looked_at = ~empty & (radius < FWHM * psf_width)
            looked_at &= ~_surely_wide(radius, psf_width, signal[:, k])
            raise_flag(_is_a_point(solution, problem, looked_at), Flag.UNRESOLVED)
        raise_flag(fit.theta[:, r_eff] > longest / 2, Flag.LARGER_THAN_CUTOUT)
        raise_flag(fit.theta[:, q] < 2 * space.prior.q_min, Flag.AT_LIMIT)
    return flags


def _prior_flags(solution: Solution, space: ParameterSpace) -> Tensor:
    """(B,) flag bits of fits that lie far out in the prior."""
    # the ellipticity's prior is not bounded in u, so q speaks for itself
    position = torch.zeros(space.n_nonlinear, dtype=torch.bool, device=solution.whitened.device)
    bounded = torch.zeros_like(position)
    for columns in space.slices():
        bounded[columns.start : columns.stop - 2] = True
        position[columns.start : columns.start + 2] = True
    outside = solution.whitened.abs() > AT_LIMIT_U
    at_limit = (outside & bounded).any(dim=1)
    off_centre = (solution.whitened.abs()[:, position] > 1.5).any(dim=1)
    return at_limit * int(Flag.AT_LIMIT) | off_centre * int(Flag.OFF_CENTRE)


def _is_a_point(solution: Solution, problem: Problem, looked_at: Tensor) -> Tensor:
    """(B,) whether a point source does as well, among the galaxies that are ``looked_at`` (B,)."""
    rows = looked_at.nonzero()[:, 0]
    rise = torch.full_like(solution.chi2, torch.inf)
    rise[rows] = point_rise(solution, problem, rows)
    return rise < POINT_RISE


def _surely_wide(radius: Tensor, psf_width: Tensor, signal: Tensor) -> Tensor:
    """(B,) whether a source is so bright and wide that no point source can come near its fit.

    By Gaussians a point's chi2 is signal^2 (1 - overlap^2) above the fit's. Peaked profiles are
    nearer to points than a Gaussian of their half-light radius, so half of its width is taken.

    Args:
        radius: (B,) circularised half-light radius, pix.
        psf_width: (B,) of a Gaussian, pix.
        signal: (B,) flux over its error at the fitted shape.
    """
    width = torch.hypot(psf_width, CORE * radius)
    overlap = 2 * psf_width * width / (psf_width**2 + width**2)
    return signal.square() * (1 - overlap.square()) > SURE * POINT_RISE


def signal_to_noise(solution: Solution, n_nonlinear: int) -> Tensor:
    """(B, L) linear parameters over their errors with everything else but the sky fixed."""
    inner = solution.information[:, n_nonlinear:, n_nonlinear:]
    diagonal = torch.diagonal(inner, dim1=1, dim2=2)
    floor = torch.where(diagonal > 0, 1e-9 * diagonal, 1.0)
    variance = torch.linalg.inv(inner + torch.diag_embed(floor)).diagonal(dim1=1, dim2=2)
    return solution.linear / variance.sqrt()
