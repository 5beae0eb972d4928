"""The error budget: terms missing from a fit's covariance if noise, sky, PSF or profile are wrong.

The covariance of a fit is right if the noise is white with standard deviation sigma, the PSF is
exact, the sky is flat and the galaxy follows its profile. Each of these gets a named term, a
covariance that is added in the coordinates c of the fit. No term is negative: quoted errors are
never smaller than the fit's own.

noise: the sandwich of `hybridfit.uncertainty.correlated_noise`, with the autocorrelation of the
image's noise.
misfit: structure in the residuals under the galaxy's light, `hybridfit.uncertainty.misfit`.
psf: width and shape of the PSF, and its wings where it is flagged PSF_TRUNCATED,
`hybridfit.uncertainty.psf_error`.
sky: slopes and a bowl that a constant sky does not follow.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path

import torch
from torch import Tensor

from hybridfit.batch import Batch
from hybridfit.data.cutouts import Cutouts
from hybridfit.data.flags import Flag
from hybridfit.files.fits import open_fits
from hybridfit.fitting.linearised import Linearised
from hybridfit.fitting.moments import psf_moments
from hybridfit.fitting.problem import Problem
from hybridfit.model.parameters import ParameterSpace
from hybridfit.uncertainty import correlated_noise as noise
from hybridfit.uncertainty.correlated_noise import Autocorrelation
from hybridfit.uncertainty.image_noise import measure_noise
from hybridfit.uncertainty.misfit import SCALE, find_misfit, own_chi2, symmetric
from hybridfit.uncertainty.nuisance import (
    Moment,
    Nuisance,
    Whitened,
    moment,
    nuisance,
    positive,
    whiten,
)
from hybridfit.uncertainty.options import BudgetOptions
from hybridfit.uncertainty.psf_error import N_MODES, psf_derivatives, wing_derivatives
from hybridfit.uncertainty.sky_error import sky_derivatives, sloping

TERMS = ("noise", "misfit", "psf", "sky")
AT_ONCE = 2**16  # pixels of galaxies processed together: more exceed a CPU's caches


# Combined errors of a fit at which a wrong PSF has half weight. A bias that is small against the
# noise reduces coverage in second order only, but widening for it costs in first: with this weight,
# galaxies with the right PSF pay two thirds for the same coverage of those with a wrong one.
GRAVE = 4.0

NONE = BudgetOptions("off", 0.0, 0.0, 0.0, 0.0, 0.0, False)  # white noise, and no other error


@dataclass(frozen=True)
class Budget(Batch):
    """Terms added to the covariance of B galaxies, and the measurements behind them.

    Args:
        terms: by name (B, C, C) float64, in the coordinates of `Linearised`; NaN for a galaxy
            without a fit.
        noise_inflation: (B,) noise of a large aperture relative to white noise of the given sigma.
        misfit_amplitude: (B,) structure as a fraction of the light; 0 where there is none.
        misfit_significance: (B,) in standard deviations.
        psf_offset: (B,) ln of the width preferred by the pixels over the PSF's, and
        psf_offset_error: (B,) its standard deviation, both without the prior; NaN without a PSF.
        psf_wrong: (B,) probability that the PSF is wrong.
        own_chi2: (B,) reduced chi2 of the pixels under the galaxy's own light, in units of the
            variance of the blank sky,
        own_pixels: (B,) the number of these pixels, and
        own_scatter: (B,) the standard deviation of `own_chi2` about 1 if all is right.
    """

    terms: dict[str, Tensor]
    noise_inflation: Tensor
    misfit_amplitude: Tensor
    misfit_significance: Tensor
    psf_offset: Tensor
    psf_offset_error: Tensor
    psf_wrong: Tensor
    own_chi2: Tensor
    own_pixels: Tensor
    own_scatter: Tensor

    @property
    def total(self) -> Tensor:
        """(B, C, C) the sum of all terms."""
        return torch.stack(list(self.terms.values())).sum(dim=0)


def error_budget(
    linearised: Linearised,
    problem: Problem,
    part: Cutouts,
    options: BudgetOptions = BudgetOptions(),
    found: Autocorrelation | None = None,
) -> Budget:
    """Return the terms of the error budget of B galaxies; each depends on its own pixels only.

    Args:
        linearised: the fits' derivatives and residuals.
        problem: of the same galaxies.
        part: the same galaxies.
        options: see `BudgetOptions`.
        found: autocorrelation of the noise; default according to ``options.correlated_noise``,
            see `noise_of`.
    """
    found = found or noise_of(part, options)
    evidence = _evidence(linearised, problem, part, options)
    size = max(1, AT_ONCE // linearised.residual[0].numel())
    # separately, so that a galaxy's terms do not depend on its batch
    truncated = _truncated(part, options)
    groups = [group for group in ((~truncated).nonzero(), truncated.nonzero()) if len(group)]
    pieces, order = [], torch.cat([group[:, 0] for group in groups])
    for group in groups:
        for some in group[:, 0].split(size):
            here = evidence[some]
            if truncated[some[0]]:
                wings = wing_derivatives(
                    problem[some], part[some], here.about.whitened, here.about.linear
                )
                here = replace(here, wings=wings)
            pieces.append(_budget(here, problem.space, options, found[some]))
    return Budget.cat(pieces)[order.argsort()]


def _truncated(part: Cutouts, options: BudgetOptions) -> Tensor:
    """Return (B,) whether the wings of a galaxy's PSF are in doubt."""
    if part.psf is None or not (options.psf_width_error or options.psf_shape_error):
        return torch.zeros_like(part.flags, dtype=torch.bool)
    return (part.flags & int(Flag.PSF_TRUNCATED)) != 0


def noise_of(cutouts: Cutouts, options: BudgetOptions = BudgetOptions()) -> Autocorrelation:
    """Return the noise's autocorrelation of B galaxies: measured, read from a file, or white.

    It is a property of the image, independent of any fit.

    Args:
        cutouts: the B galaxies.
        options: only ``correlated_noise`` is used.

    Raises:
        ValueError: if the file does not hold an autocorrelation.
        FileNotFoundError: if it does not exist.
    """
    if options.correlated_noise == "off":
        return noise.white(len(cutouts), cutouts.image.device)
    if options.correlated_noise != "measure":
        image = read_autocorrelation(options.correlated_noise).to(cutouts.image.device)
        return noise.given(image, len(cutouts))
    return measure_noise(cutouts)


def read_autocorrelation(path: str | Path) -> Tensor:
    """Return the image (h, w) of a FITS file of the noise's autocorrelation."""
    with open_fits(path) as hdus:
        images = [h.data for h in hdus if getattr(h, "data", None) is not None and h.is_image]
        if not images or images[0].ndim != 2:
            raise ValueError(f"{path} holds no two-dimensional image, expected an autocorrelation")
        return torch.tensor(images[0].astype(float))


@dataclass(frozen=True)
class Evidence(Batch):
    """The inputs of the terms, for B galaxies.

    Args:
        about: the fits' derivatives and residuals, zeros where there is no fit.
        fitted: (B,) bool.
        light: (B, H, W) the galaxy's model over sigma, without the sky.
        length: (B,) correlation length of structure, pixels.
        psf: (B, 3, H, W),
        sky: (B, K, H, W) and
        wings: (B, 2 or 0, H, W) derivatives of the model by possible errors.
    """

    about: Linearised
    fitted: Tensor
    light: Tensor
    length: Tensor
    psf: Tensor
    sky: Tensor
    wings: Tensor


@dataclass(frozen=True)
class Doubt:
    """Nuisances, their prior and their posterior."""

    known: Nuisance
    moment: Moment

    @property
    def term(self) -> Tensor:
        """(B, C, C) covariance that they add, in whitened coordinates."""
        response = self.known.response
        return response @ self.moment.second @ response.mT

    @property
    def grave_term(self) -> Tensor:
        """`term`, reduced where it is small compared to the noise, see `GRAVE`."""
        size = torch.diagonal(self.term, dim1=1, dim2=2).sum(dim=1)
        return self.term * (size / (size + GRAVE**2))[:, None, None]


def _evidence(
    linearised: Linearised, problem: Problem, part: Cutouts, options: BudgetOptions
) -> Evidence:
    fitted = torch.isfinite(linearised.columns.flatten(1).sum(dim=1))
    about = _finite(linearised, fitted)
    light = about.light
    if options.psf_width_error or options.psf_shape_error:
        psf = psf_derivatives(problem, part, about.whitened, about.linear)
    else:
        psf = light.new_zeros(len(light), N_MODES, *light.shape[1:])
    length = _structure_length(about, problem, part)
    sky = sky_derivatives(problem)
    return Evidence(about, fitted, light, length, psf, sky, psf[:, :0])


def _budget(
    evidence: Evidence,
    space: ParameterSpace,
    options: BudgetOptions,
    found: Autocorrelation,
) -> Budget:
    """Return the terms of the error budget and the measures behind them."""
    about, light, residual = evidence.about, evidence.light, evidence.about.residual
    fit = whiten(about.columns, about.information, about.prior, about.whitened)
    modes = torch.cat([evidence.psf, evidence.sky, evidence.wings], dim=1)
    count = fit.columns.shape[1]
    excess = noise.excess_gram(torch.cat([fit.columns, modes], dim=1), found)
    structure = find_misfit(fit, modes, residual, light, evidence.length, found)
    terms = {
        "noise": positive(excess[:, :count, :count]),
        "misfit": symmetric(structure.gram[:, :count, :count], fit, space) * options.misfit,
    }
    # structure makes the nuisances it resembles less certain
    excess = excess + structure.gram * options.misfit
    psf, sky, wings = _doubts(fit, evidence, excess, sloping(space.sky), options)
    # wings are known to be wrong, not just possibly
    terms |= {"psf": psf.grave_term + wings.term, "sky": sky.term}
    own = own_chi2(fit, residual, light, found)
    values = {
        "noise_inflation": found.inflation,
        "misfit_amplitude": structure.amplitude,
        "misfit_significance": structure.significance,
        **_psf_values(psf),
        "own_chi2": own.chi2,
        "own_pixels": own.pixels,
        "own_scatter": own.scatter,
    }
    missing = ~evidence.fitted
    terms = {name: fit.inverse.mT @ term @ fit.inverse for name, term in terms.items()}
    return Budget(
        {name: t.masked_fill(missing[:, None, None], torch.nan) for name, t in terms.items()},
        **{name: value.masked_fill(missing, torch.nan) for name, value in values.items()},
    )


def _psf_values(psf: Doubt) -> dict[str, Tensor]:
    """Return what the pixels say of the PSF's width, (B,) each; NaN where they say nothing."""
    information, score = psf.known.information[:, 0, 0], psf.known.score[:, 0]
    known = information > 0
    return {
        "psf_offset": torch.where(known, score / information, torch.nan),
        "psf_offset_error": torch.where(known, information.rsqrt(), torch.nan),
        "psf_wrong": torch.where(known, psf.moment.probability, torch.nan),
    }


def _doubts(
    fit: Whitened,
    evidence: Evidence,
    excess: Tensor,
    slopes: tuple[bool, ...],
    options: BudgetOptions,
) -> tuple[Doubt, Doubt, Doubt]:
    """Return PSF, sky, and the PSF's wings, each separately."""
    width, stretch = options.psf_width_error, options.psf_shape_error
    count, n_psf = fit.columns.shape[1], evidence.psf.shape[1]
    sky_sigma = [options.sky_slope_error if slope else options.sky_error for slope in slopes]
    residual = evidence.about.residual

    def doubt(modes: Tensor, first: int, sigma: list[float], share: float) -> Doubt:
        index = [*range(count), *range(first, first + len(sigma))]
        known = nuisance(fit, modes, residual, excess[:, index][:, :, index])
        return Doubt(known, moment(known, fit.inverse.new_tensor(sigma), share))

    return (
        doubt(evidence.psf, count, [width, stretch, stretch], options.psf_wrong_fraction),
        doubt(evidence.sky, count + n_psf, sky_sigma, 1.0),
        doubt(evidence.wings, count + n_psf + len(sky_sigma), [1.0] * evidence.wings.shape[1], 1.0),
    )


def _finite(linearised: Linearised, fitted: Tensor) -> Linearised:
    """Give galaxies without a fit zeros, and an invertible unit prior."""

    def safe(value: Tensor) -> Tensor:
        return torch.where(fitted.view(-1, *(1,) * (value.ndim - 1)), value, 0.0)

    values = {f.name: safe(getattr(linearised, f.name)) for f in fields(Linearised)}
    eye = torch.eye(values["prior"].shape[1], dtype=torch.float64, device=fitted.device)
    values["prior"] = torch.where(fitted[:, None, None], values["prior"], eye)
    return Linearised(**values)


def _structure_length(linearised: Linearised, problem: Problem, part: Cutouts) -> Tensor:
    """Return (B,) the correlation length of structure [pix], from the galaxy's size and the PSF.

    With several components the size is their mean, weighted by light.
    """
    space = problem.space
    coords, _ = space.from_whitened(linearised.whitened, problem.constants)
    point = torch.zeros_like(coords[:, 0])
    sizes = [
        coords[:, columns.start + 2].exp() if component.is_ellipse else point
        for columns, component in zip(space.slices(), space.components, strict=True)
    ]
    size, flux = torch.stack(sizes, dim=1), linearised.flux.abs().clamp_min(1e-30)
    radius = (size * flux).sum(dim=1) / flux.sum(dim=1)
    xx, _, yy = psf_moments(part).unbind(1)
    return torch.sqrt((SCALE * radius) ** 2 + xx + yy)
