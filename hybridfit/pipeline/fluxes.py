"""Fluxes for the table: the model's, and a limit where no galaxy was found."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from hybridfit.data.cutouts import Cutouts
from hybridfit.data.fit import Fit
from hybridfit.data.flags import Flag
from hybridfit.data.result import Result
from hybridfit.fitting.build_problem import build_problems
from hybridfit.fitting.options import FitOptions
from hybridfit.fitting.problem import Problem
from hybridfit.uncertainty.error_budget import NONE, BudgetOptions, noise_of
from hybridfit.uncertainty.forced_photometry import ForcedFlux, forced_flux
from hybridfit.uncertainty.tempering import temperatures

SEEN = 5.0  # standard deviations of the flux of several components together
PER_MAG = math.log(10) / 2.5  # of ln flux


def with_fluxes(
    result: Result,
    cutouts: Cutouts,
    options: FitOptions = FitOptions(),
    budget: BudgetOptions = BudgetOptions(),
    device: torch.device | str = "cpu",
    problem: Problem | None = None,
    heat: Tensor | None = None,
) -> Result:
    """Return results with fluxes: of the model, or forced at the target where there is no signal.

    Args:
        result: of B galaxies.
        cutouts: the same galaxies.
        options: of the fits; sky and prior are used where there is no signal.
        budget: whether the noise is correlated.
        device: where to compute.
        problem: of the same galaxies and one Sersic profile, where there is one already.
        heat: (B,) temperatures of the noise of galaxies without signal, where these are known
            already; default measured.
    """
    flux, error = model_flux(result.fit, cutouts.zeropoint.cpu())
    limit = torch.full_like(flux, torch.nan)
    rows = _unseen(result.fit, flux, error).nonzero()[:, 0]
    if len(rows):
        known = None if heat is None else heat[rows]
        if problem is None:
            forced = flux_limits(cutouts[rows], options, budget, device, known)
        else:
            forced = _forced(problem[rows], cutouts[rows].to(device), budget, known)
        flux[rows], error[rows], limit[rows] = forced.flux, forced.error, forced.limit
    return replace(result, flux=flux, flux_err=error, flux_limit=limit)


def model_flux(fit: Fit, zeropoint: Tensor) -> tuple[Tensor, Tensor]:
    """(B,) flux of all components together and its standard deviation, flux units; NaN without."""
    mags = [k for k, role in enumerate(fit.space.roles) if role == "mag"]
    each = torch.exp(PER_MAG * (zeropoint[:, None] - fit.theta[:, mags]))
    slope = PER_MAG * each
    covariance = fit.covariance[:, mags][:, :, mags]
    variance = torch.einsum("bi,bij,bj->b", slope, covariance, slope)
    return each.sum(dim=1), torch.where(variance >= 0, variance, torch.nan).sqrt()


def _unseen(fit: Fit, flux: Tensor, error: Tensor) -> Tensor:
    """(B,) galaxies without signal, of several components without signal in all together."""
    none = (fit.flags & int(Flag.NO_SIGNAL)) != 0
    return none if fit.space.n_components == 1 else none & ~(flux > SEEN * error)


@torch.inference_mode()
def flux_limits(
    cutouts: Cutouts,
    options: FitOptions = FitOptions(),
    budget: BudgetOptions = BudgetOptions(),
    device: torch.device | str = "cpu",
    heat: Tensor | None = None,
) -> ForcedFlux:
    """Return the forced fluxes of B galaxies on the CPU: a point's if the model is one point,
    else one Sersic profile's, whatever was fitted.

    Args:
        cutouts: B galaxies.
        options: sky, precision and prior are used.
        budget: whether the noise is correlated.
        device: where to compute.
        heat: (B,) temperatures of the noise; default measured.
    """
    is_point = [c.is_ellipse for c in options.space.components] == [False]
    model = "point" if is_point else "sersic"
    single = replace(options, model=model, convolution="continuous")
    values = torch.full((3, len(cutouts)), torch.nan, dtype=torch.float64)
    for rows, part, problem in build_problems(cutouts, single, device):
        found = _forced(problem, part, budget, None if heat is None else heat[rows])
        values[:, rows] = torch.stack([found.flux, found.error, found.limit])
    return ForcedFlux(*values.unbind(0))


@torch.inference_mode()
def _forced(
    problem: Problem, cutouts: Cutouts, budget: BudgetOptions, heat: Tensor | None
) -> ForcedFlux:
    """The forced fluxes, on the CPU, of galaxies whose problem has one Sersic profile."""
    if heat is None:
        heat = temperature_of(cutouts, budget)
    found = forced_flux(problem, cutouts, heat)
    return ForcedFlux(found.flux.cpu(), found.error.cpu(), found.limit.cpu())


def temperature_of(cutouts: Cutouts, budget: BudgetOptions) -> Tensor:
    """Return the temperatures (B,) of the noise of galaxies; 1 where it counts as white.

    Of several images the highest counts for all of them.
    """
    if budget == NONE:
        return torch.ones(len(cutouts), dtype=torch.float64)
    return temperatures(cutouts, noise_of(cutouts, budget)).amax(dim=1)
