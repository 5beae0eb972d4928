"""What is wrong with a fit: the flags that follow from the numbers themselves."""

from __future__ import annotations

import torch
from torch import Tensor

from hybridfit.data.cutouts import Cutouts
from hybridfit.data.fit import Fit
from hybridfit.data.flags import Flag
from hybridfit.fitting.moments import psf_moments
from hybridfit.fitting.point_source import point_rise
from hybridfit.fitting.problem import Problem
from hybridfit.fitting.profile_likelihood_check import MAX_EXTENT, size_extent
from hybridfit.fitting.solution import Solution
from hybridfit.model.combined import combined, combined_errors, combined_names
from hybridfit.model.distributions import Family
from hybridfit.model.parameters import ParameterSpace
from hybridfit.model.scene_values import SceneValues

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
# how near a bound is reached: a share of the range between bounds, or of the error
NEAR, NEAR_ERRORS = 0.02, 0.5
MAX_MAG_ERROR = 0.25  # mag


def fit_flags(fit: Fit, solution: Solution, problem: Problem, cutouts: Cutouts) -> Tensor:
    """Return (B,) flag bits: those of the cutouts, and those that the fit adds."""
    space = fit.space
    flags = cutouts.all_flags.clone()

    def raise_flag(where: Tensor, flag: Flag) -> None:
        flags.bitwise_or_(where * int(flag))

    empty = (fit.dof <= 0) | (problem.n_pixels == 0)
    raise_flag(empty, Flag.NO_DATA)
    raise_flag(~empty & ~(solution.converged & torch.isfinite(fit.chi2)), Flag.NOT_CONVERGED)
    dof = fit.dof.clamp_min(1).double()
    reduced, expected = fit.chi2 / dof, 1 + 5 * torch.sqrt(2 / dof)
    raise_flag((reduced > POOR_CHI2) & (reduced > expected), Flag.POOR_FIT)
    flags |= _prior_flags(solution, space)
    whole = bool(combined_names(space))  # a galaxy of several components
    unsure = Flag.COMPONENT_UNCERTAIN if whole else Flag.UNCERTAIN
    raise_flag(~empty & (size_extent(solution, problem) > MAX_EXTENT), unsure)
    signal = signal_to_noise(solution, problem)
    psf_width = _psf_width(cutouts)
    if whole:
        flags |= _flags_of_sum(fit, solution, problem) * ~empty
    longest = cutouts.size.amax(dim=1).double()
    for k, (component, prior) in enumerate(zip(space.components, space.priors, strict=True)):
        raise_flag(~empty & ~(fit.error[:, space.column(k, "mag")] < MAX_MAG_ERROR), unsure)
        dark = Flag.COMPONENT_UNCERTAIN if whole else Flag.NO_SIGNAL
        raise_flag(~empty & ~(signal[:, k] > MIN_SIGNAL), dark)
        if not component.is_ellipse:
            continue
        r_eff, q = (fit.theta[:, space.column(k, name)] for name in ("r_eff", "q"))
        radius = r_eff * torch.sqrt(q)
        raise_flag(radius < UNRESOLVED * psf_width, Flag.UNRESOLVED)
        if space.n_components == 1 and space.links is None:
            looked_at = ~empty & (radius < FWHM * psf_width)
            looked_at &= ~_surely_wide(radius, psf_width, signal[:, k])
            raise_flag(_is_a_point(solution, problem, looked_at), Flag.UNRESOLVED)
        raise_flag(r_eff > longest / 2, Flag.LARGER_THAN_CUTOUT)
        raise_flag(q < 2 * prior.q_min, Flag.AT_LIMIT)
    return flags


def _psf_width(cutouts: Cutouts) -> Tensor:
    """(B,) Gaussian width of the sharpest PSF of each galaxy, in pixels of its first image."""
    psf_xx, _, psf_yy = psf_moments(cutouts).unbind(1)
    width = torch.sqrt((psf_xx + psf_yy) / 2).clamp_min(0.3)
    images = cutouts.single_images()[1:]
    for image, exposure in zip(images, cutouts.exposures, strict=True):
        scale = torch.linalg.det(exposure.to_pixels[:, :, :2]).abs().sqrt()
        own = _psf_width(image) / scale
        width = torch.where(exposure.has_data, torch.minimum(width, own), width)
    return width


def _flags_of_sum(fit: Fit, solution: Solution, problem: Problem) -> Tensor:
    """(B,) flag bits of magnitude, size and signal of sums of components."""
    names = combined_names(fit.space)
    errors, values = (
        combined_errors(fit.theta, fit.covariance, fit.space),
        combined(fit.theta, fit.space),
    )
    size = names.index("r_eff")
    known = errors[:, names.index("mag")] < MAX_MAG_ERROR
    # of a point source there is no size
    known &= ~(2 * errors[:, size] / values[:, size] > MAX_EXTENT)
    lit = signal_of_sum(solution, problem) > MIN_SIGNAL
    return ~known * int(Flag.UNCERTAIN) | ~lit * int(Flag.NO_SIGNAL)


def _prior_flags(solution: Solution, space: ParameterSpace) -> Tensor:
    """(B,) flag bits of fits that lie far out in the prior."""
    # the ellipticity's prior is not bounded in u, so q speaks for itself
    families = space.whitening.families
    bounded = [family is not None and family is not Family.AXIS for family in families]
    position = [space.slot(j)[0] in ("x", "y") for j in space.whitening.owners]
    outside = solution.whitened.abs()
    at_limit = (outside[:, bounded] > AT_LIMIT_U).any(dim=1)
    off_centre = (outside[:, position] > 1.5).any(dim=1)
    return at_limit * int(Flag.AT_LIMIT) | off_centre * int(Flag.OFF_CENTRE)


def bound_flags(fit: Fit, scene: SceneValues) -> Tensor:
    """Return (B,) AT_LIMIT where a value lies at a bound that the user gave.

    The prior, which ends at the bound, keeps it off by some of its error.
    """
    low, high = scene.low.to(fit.theta), scene.high.to(fit.theta)
    width = torch.where(torch.isfinite(high - low), high - low, fit.theta.abs())
    near = torch.maximum(NEAR * width, NEAR_ERRORS * fit.error.nan_to_num(0.0))
    at = (fit.theta - low < near) | (high - fit.theta < near)
    return at.any(dim=1) * int(Flag.AT_LIMIT)


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


def signal_to_noise(solution: Solution, problem: Problem) -> Tensor:
    """(B, K) fluxes over their errors with everything else but the sky fixed.

    A fixed flux has an infinite ratio; of tied ones and of those that are not linear the error is
    that of what they follow.
    """
    flux, covariance = _fluxes(solution, problem)
    return flux / torch.diagonal(covariance, dim1=1, dim2=2).sqrt()


def signal_of_sum(solution: Solution, problem: Problem) -> Tensor:
    """(B,) flux of all components over its error with everything else but the sky fixed."""
    flux, covariance = _fluxes(solution, problem)
    return flux.sum(dim=1) / covariance.sum(dim=(1, 2)).sqrt()


def _fluxes(solution: Solution, problem: Problem) -> tuple[Tensor, Tensor]:
    """Return fluxes (B, K) and their covariance (B, K, K), see `signal_to_noise`."""
    n_nonlinear, n_flux = problem.space.n_nonlinear, problem.space.n_components
    inner = solution.information[:, n_nonlinear:, n_nonlinear:]
    diagonal = torch.diagonal(inner, dim1=1, dim2=2)
    floor = torch.where(diagonal > 0, 1e-9 * diagonal, 1.0)
    covariance = torch.linalg.inv(inner + torch.diag_embed(floor))
    if problem.terms is None:
        return solution.linear[:, :n_flux], covariance[:, :n_flux, :n_flux]
    rows = torch.arange(len(inner), device=inner.device)
    here = problem.expand(solution.whitened, solution.linear, rows)
    by_all = here.jacobian[:, problem.space.n_coords :][:, :n_flux]
    by_linear, by_whitened = by_all[:, :, n_nonlinear:], by_all[:, :, :n_nonlinear]
    own = torch.linalg.inv(
        torch.diagonal(solution.information, dim1=1, dim2=2).clamp_min(1e-30).diag_embed()
    )[:, :n_nonlinear, :n_nonlinear]
    covariance = by_linear @ covariance @ by_linear.mT + by_whitened @ own @ by_whitened.mT
    return here.terms[:, :n_flux], covariance
