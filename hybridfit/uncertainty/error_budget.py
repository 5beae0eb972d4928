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

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import torch
from torch import Tensor

from hybridfit.batch import Batch
from hybridfit.data.cutouts import Cutouts
from hybridfit.files.fits import open_fits
from hybridfit.fitting.linearised import ImageColumns, Linearised, sum_of_squares
from hybridfit.fitting.problem import Problem
from hybridfit.model.parameters import ParameterSpace
from hybridfit.uncertainty import correlated_noise as noise
from hybridfit.uncertainty.correlated_noise import Autocorrelation
from hybridfit.uncertainty.image_evidence import Evidence, evidence_of, is_truncated, with_wings
from hybridfit.uncertainty.image_noise import measure_noise
from hybridfit.uncertainty.image_view import image_views
from hybridfit.uncertainty.misfit import (
    Lit,
    Misfit,
    OwnChi2,
    joined_chi2,
    own_chi2,
    shared_misfit,
    shared_structure,
    symmetric,
)
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
from hybridfit.uncertainty.sky_error import sloping

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

    Noise, PSF and sky of several images are independent of each other: their terms add up.
    Structure is the galaxy's own, the same in all of them: its term is the largest that the images'
    terms allow, as if it moved the fit in the same direction in each, and its amplitude is the mean
    of what each image shows alone, which finds less than one image as deep as all of them would.
    Of the PSFs' measures those of the worst image are given.

    Args:
        linearised: the fits' derivatives and residuals.
        problem: of the same galaxies.
        part: the same galaxies.
        options: see `BudgetOptions`.
        found: autocorrelation of the noise; default according to ``options.correlated_noise``,
            see `noise_of`.
    """
    found = found or noise_of(part, options)
    fitted = torch.isfinite(linearised.columns.flatten(1).sum(dim=1))
    about = _finite(linearised, fitted)
    views = image_views(problem, part, about)
    images = [evidence_of(view, options) for view in views]
    curved = _Curvature(about.information, about.prior, about.whitened, fitted)
    size = max(1, AT_ONCE // sum(image.residual[0].numel() for image in images))
    # separately, so that a galaxy's terms do not depend on its batch
    truncated = torch.stack([is_truncated(view.cutouts, options) for view in views], dim=1)
    pieces, order = [], []
    for pattern in truncated.unique(dim=0):
        for some in (truncated == pattern).all(dim=1).nonzero()[:, 0].split(size):
            here = [
                with_wings(image, view, some) if lost else image[some]
                for image, view, lost in zip(images, views, pattern.tolist(), strict=True)
            ]
            noises = [image[some] for image in found.images]
            pieces.append(_budget(curved[some], here, problem.space, options, noises))
            order.append(some)
    return Budget.cat(pieces)[torch.cat(order).argsort()]


@dataclass(frozen=True)
class _Curvature(Batch):
    """What of `Linearised` belongs to no image, and whether there is a fit (B,)."""

    information: Tensor
    prior: Tensor
    whitened: Tensor
    fitted: Tensor


def noise_of(cutouts: Cutouts, options: BudgetOptions = BudgetOptions()) -> Autocorrelation:
    """Return the noise's autocorrelation of B galaxies: measured, read from a file, or white.

    It is a property of the image, independent of any fit, and each exposure has its own.

    Args:
        cutouts: the B galaxies.
        options: only ``correlated_noise`` is used.

    Raises:
        ValueError: if the file does not hold an autocorrelation.
        FileNotFoundError: if it does not exist.
    """
    if cutouts.exposures:
        first, *others = (noise_of(image, options) for image in cutouts.single_images())
        return replace(first, exposures=tuple(others))
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
class Doubt:
    """Nuisances, their prior and their posterior."""

    known: Nuisance
    moment: Moment

    @property
    def term(self) -> Tensor:
        """(B, C, C) covariance that they add, in whitened coordinates."""
        response = self.known.response
        return response @ self.moment.second @ response.mT


def grave(term: Tensor) -> Tensor:
    """Return a term (B, C, C), reduced where it is small compared to the noise, see `GRAVE`."""
    size = torch.diagonal(term, dim1=1, dim2=2).sum(dim=1)
    return term * (size / (size + GRAVE**2))[:, None, None]


def _budget(
    about: _Curvature,
    images: Sequence[Evidence],
    space: ParameterSpace,
    options: BudgetOptions,
    noises: Sequence[Autocorrelation],
) -> Budget:
    """Return the terms of the error budget and the measures behind them.

    Args:
        about: of B galaxies, zeros where there is no fit.
        images, noises: each image's evidence and noise.
        space, options: of all galaxies.
    """
    fits = _whitened(about, images)
    count = fits[0].columns.shape[1]
    excesses = [
        noise.excess_gram(torch.cat([fit.columns, image.modes], dim=1), own)
        for fit, image, own in zip(fits, images, noises, strict=True)
    ]
    structures = shared_misfit(
        [
            Lit(fit, image.modes, image.residual, image.light, image.length, own, alone)
            for fit, image, own, alone in zip(
                fits, images, noises, _alone(about, images), strict=True
            )
        ]
    )
    misfit = shared_structure([s.gram[:, :count, :count] for s in structures], fits)
    noisy = torch.stack([excess[:, :count, :count] for excess in excesses]).sum(dim=0)
    terms = {
        "noise": positive(noisy),
        "misfit": symmetric(misfit, fits[0], space) * options.misfit,
    }
    doubts = []
    for fit, image, excess, structure in zip(fits, images, excesses, structures, strict=True):
        # structure makes the nuisances it resembles less certain
        both = excess + structure.gram * options.misfit
        both[:, :count, :count] = noisy + misfit * options.misfit
        doubts.append(_doubts(fit, image, both, sloping(space.sky), options))
    psf, sky, wings = (_sum([d[k].term for d in doubts]) for k in range(3))
    # wings are known to be wrong, not just possibly
    terms |= {"psf": grave(psf) + wings, "sky": sky}
    own = [
        own_chi2(fit, image.residual, image.light, found)
        for fit, image, found in zip(fits, images, noises, strict=True)
    ]
    values = _measures(structures, [d[0] for d in doubts], own, noises)
    inverse, missing = fits[0].inverse, ~about.fitted
    terms = {name: inverse.mT @ term @ inverse for name, term in terms.items()}
    return Budget(
        {name: t.masked_fill(missing[:, None, None], torch.nan) for name, t in terms.items()},
        **{name: value.masked_fill(missing, torch.nan) for name, value in values.items()},
    )


def _sum(terms: Sequence[Tensor]) -> Tensor:
    """Return the sum of terms (B, C, C)."""
    return torch.stack(list(terms)).sum(dim=0)


def _whitened(about: _Curvature, images: Sequence[Evidence]) -> list[Whitened]:
    """Return each image's derivatives in coordinates in which the fit's information is 1.

    The prior and the other images pull against an image's residuals at the minimum.
    """
    fits = [
        whiten(image.columns, about.information, about.prior, about.whitened) for image in images
    ]
    if len(fits) == 1:
        return fits
    pulls = [
        (fit.columns.flatten(2) @ image.residual.flatten(1)[:, :, None])[:, :, 0]
        for fit, image in zip(fits, images, strict=True)
    ]
    whole = torch.stack(pulls).double().sum(dim=0)
    return [
        replace(fit, pull=fit.pull - (whole - own.double()))
        for fit, own in zip(fits, pulls, strict=True)
    ]


def _alone(about: _Curvature, images: Sequence[Evidence]) -> list[Whitened | None]:
    """Return a fit to each image alone; None for the only image."""
    if len(images) == 1:
        return [None]
    return [
        whiten(image.columns, sum_of_squares([image.columns]), about.prior, about.whitened)
        for image in images
    ]


def _measures(
    structures: Sequence[Misfit],
    psfs: Sequence[Doubt],
    own: Sequence[OwnChi2],
    noises: Sequence[Autocorrelation],
) -> dict[str, Tensor]:
    """Return the measures behind the terms, (B,) each: of several PSFs those of the worst."""
    psf = {k: torch.stack([_psf_values(p)[k] for p in psfs]) for k in _psf_values(psfs[0])}
    worst = psf["psf_wrong"].nan_to_num(nan=-1.0).argmax(dim=0, keepdim=True)
    all_own = joined_chi2(own)
    return {
        "noise_inflation": torch.stack([one.inflation for one in noises]).amax(dim=0),
        "misfit_amplitude": structures[0].amplitude,
        "misfit_significance": structures[0].significance,
        **{name: value.gather(0, worst)[0] for name, value in psf.items()},
        "own_chi2": all_own.chi2,
        "own_pixels": all_own.pixels,
        "own_scatter": all_own.scatter,
    }


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
    residual = evidence.residual

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

    names = [f.name for f in fields(Linearised) if f.name != "exposures"]
    values = {name: safe(getattr(linearised, name)) for name in names}
    eye = torch.eye(values["prior"].shape[1], dtype=torch.float64, device=fitted.device)
    values["prior"] = torch.where(fitted[:, None, None], values["prior"], eye)
    exposures = [
        ImageColumns(safe(one.columns), safe(one.residual), safe(one.light))
        for one in linearised.exposures
    ]
    return Linearised(**values, exposures=tuple(exposures))
