"""Galaxies with flaws of known size, and their error budgets."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from fit_helpers import observe, population
from numpy.typing import NDArray
from render_helpers import moffat_psf
from torch import Tensor

from hybridfit.data.cutouts import Cutouts
from hybridfit.data.fit import Fit
from hybridfit.data.samples import Draws
from hybridfit.fitting.fit import fit_cutouts
from hybridfit.fitting.fitted import rebuilt
from hybridfit.fitting.linearised import Linearised
from hybridfit.fitting.options import FitOptions
from hybridfit.fitting.problem import Problem
from hybridfit.rendering.render import render
from hybridfit.uncertainty.bootstrap import bootstrap
from hybridfit.uncertainty.error_budget import Budget, error_budget
from hybridfit.uncertainty.nuisance import Whitened, whiten
from hybridfit.uncertainty.options import BootstrapOptions, BudgetOptions

OPTIONS = FitOptions(compile="off")


def about(
    cutouts: Cutouts, fit: Fit, options: FitOptions = OPTIONS
) -> tuple[Linearised, Problem, Cutouts]:
    """The linearised model of galaxies that share a Fourier grid."""
    (fitted,) = rebuilt(fit, cutouts, options)
    return fitted.linearise(), fitted.problem, fitted.cutouts


def budget_of(
    cutouts: Cutouts,
    options: BudgetOptions = BudgetOptions(),
    fit_options: FitOptions = OPTIONS,
) -> tuple[Budget, Linearised, Fit]:
    fit = fit_cutouts(cutouts, fit_options)
    one = about(cutouts, fit, fit_options)
    return error_budget(*one, options), one[0], fit


def quoted(linearised: Linearised, added: Tensor | float = 0.0) -> NDArray[np.float64]:
    """Standard deviations (B, Q) of the physical parameters."""
    slope = linearised.to_physical
    covariance = slope @ (linearised.covariance + added) @ slope.mT
    return torch.diagonal(covariance, dim1=1, dim2=2).sqrt().numpy()


def smoothed(images: NDArray[np.float64], kernel: tuple[float, ...]) -> NDArray[np.float64]:
    """Unit-variance noise out of white noise, smoothed along both axes, periodic."""
    line = np.zeros(images.shape[-1])
    line[: len(kernel)] = np.array(kernel) / np.linalg.norm(kernel)
    transfer = np.fft.fft(line)
    return np.fft.ifft2(np.fft.fft2(images) * transfer * transfer[:, None]).real


def narrower(psf: NDArray[np.float64], by: float) -> Tensor:
    """The Moffat of `observe`, its width less by a fraction."""
    stretched = moffat_psf(3.0 * (1 - by), 3.0, 0.03, -0.02)[8:-8, 8:-8]
    return torch.tensor(stretched / stretched.sum(), dtype=torch.float32).expand(psf.shape)


def sample(count: int, snr: float, seed: int, side: int = 48) -> tuple[Cutouts, NDArray]:
    return observe(population(count, seed, side), snr, (side, side), seed)


def field_on(cutouts: Cutouts, truth: NDArray, amplitude: float, seed: int) -> Cutouts:
    """The galaxies' light times 1 + a smooth random field that is even about the centre."""
    dark = truth.copy()
    dark[:, 7] = 0
    light = render(torch.tensor(dark), cutouts, dtype=torch.float64)
    rng = np.random.default_rng(seed)
    side = light.shape[-1]
    rough = np.stack(
        [
            smoothed(rng.standard_normal((1, side, side)), tuple(bell))[0]
            for bell in (np.exp(-(np.arange(-12, 13) ** 2) / (0.5 * r) ** 2) for r in truth[:, 3])
        ]
    )
    return replace(cutouts, image=cutouts.image + amplitude * light * torch.tensor(rough))


def design(seed: int, columns: int, side: int = 24) -> Tensor:
    """Smooth random derivatives (1, columns, side, side)."""
    rng = np.random.default_rng(seed)
    images = smoothed(rng.standard_normal((columns, side, side)), (1, 2, 3, 2, 1))
    return torch.tensor(images[None], dtype=torch.float32)


def fitted(columns: Tensor) -> tuple[Whitened, Tensor]:
    flat = columns.flatten(2).double()
    none = torch.zeros(1, columns.shape[1], columns.shape[1], dtype=torch.float64)
    fit = whiten(columns, flat @ flat.mT, none, torch.zeros(1, 0, dtype=torch.float64))
    return fit, torch.linalg.inv(flat @ flat.mT)[0]


def replicas_of(
    cutouts: Cutouts,
    fit: Fit,
    options: BootstrapOptions = BootstrapOptions(),
    fit_options: FitOptions = FitOptions(),
    device: torch.device | str = "cpu",
) -> Draws:
    """The bootstrap of galaxies about any fits, not only their own."""
    samples = torch.full((len(fit), options.replicas, len(fit.space.names)), torch.nan).double()
    for fitted in rebuilt(fit, cutouts, fit_options, device):
        samples[fitted.rows] = bootstrap(fitted, options, fit_options).samples
    return Draws(fit.space, samples)
