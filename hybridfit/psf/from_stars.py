"""A PSF by position from the stars of an image, with its error."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from photutils.psf import EPSFBuilder, EPSFStar, EPSFStars
from scipy.optimize import least_squares

from hybridfit.data.flags import Flag
from hybridfit.psf.model import PolynomialPSF, PSFError, polynomial, powers_up_to
from hybridfit.psf.options import StarOptions
from hybridfit.psf.star_error import psf_error
from hybridfit.psf.star_fit import Problem, basis_of, predicted
from hybridfit.psf.star_stamps import StarStamps, cut_stamps
from hybridfit.psf.stars import Pixels, Stars, candidates, choose_stars
from hybridfit.rendering.psf_images import examine_psf

TAUS = (0.003, 0.02, 0.1)  # prior widths of the pixels, tried by cross-validation,
MEAN_TAUS = (0.1, 0.5)  # and those of the mean PSF
FOLDS = 3
ROUNDS = 2  # of fitting the PSF and the stars' positions in turn
STARS_A_TERM = 3  # stars needed for each term of the polynomial
BRIGHT = 50  # stars of the mean PSF, the brightest ones
SAMPLES = 4.0  # PSF pixels per FWHM
SIDES = (31, 101)  # image pixels
MISFIT = 0.15  # largest misfit of a star, in root power of the PSF,
SIGNIFICANT = 0.3  # if chi2 per pixel is higher than usual by this
FEWEST = 3
BUILDER_ROUNDS = 4


@dataclass(frozen=True, eq=False, kw_only=True)
class StarPSF(PolynomialPSF):
    """A PSF made from stars.

    Args:
        stars: (S, 2) x, y of the stars, pixels of the image.
    """

    stars: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class ImagePixels:
    """A whole image in memory, as `hybridfit.psf.stars.Pixels`."""

    image: NDArray[np.floating]
    sigma: NDArray[np.floating]
    mask: NDArray[np.bool_]
    origin: tuple[int, int] = (0, 0)


def psf_from_stars(
    image: NDArray[np.floating],
    sigma: NDArray[np.floating],
    mask: NDArray[np.bool_] | None = None,
    options: StarOptions = StarOptions(),
) -> StarPSF:
    """Return the PSF of an image, made from its own stars.

    photutils' ePSF of the brightest stars is the mean; a polynomial in x, y is fitted to all
    stars, see `hybridfit.psf.star_fit`. Its smoothness and the PSF's error are from
    cross-validation: stars that had no part in the PSF are predicted.

    Args:
        image: (H, W) flux per pixel.
        sigma: (H, W) noise.
        mask: (H, W) True for pixels to ignore.
        options: see `StarOptions`; `hybridfit.psf.stars` describes the selection.

    Raises:
        BadInput: if there are fewer than three stars.
    """
    bad = np.zeros(image.shape, bool) if mask is None else np.asarray(mask, bool)
    whole = ImagePixels(np.asarray(image), np.asarray(sigma), bad)
    return psf_from_tiles(lambda: [whole], image.shape, options)


def psf_from_tiles(
    tiles: Callable[[], Iterable[Pixels]],
    shape: tuple[int, ...],
    options: StarOptions = StarOptions(),
) -> StarPSF:
    """Return the PSF of an image that is read part by part, see `psf_from_stars`.

    The parts are read twice: stars are chosen among the sources of all of them, then cut out.

    Args:
        tiles: returns the parts, the same each time; they may overlap, so that no star is lost at
            an edge.
        shape: H, W of the image.
        options: see `StarOptions`.

    Raises:
        BadInput: if there are fewer than three stars.
    """
    parts = [candidates(tile, options, k) for k, tile in enumerate(tiles())]
    stars = choose_stars(Stars.joined(parts), shape, options)
    side = options.side or int(np.clip(10 * stars.fwhm, *SIDES))
    side += 1 - side % 2
    stamps = StarStamps.joined(
        [
            cut_stamps(tile, stars.take(stars.tile == k), side)
            for k, tile in enumerate(tiles())
            if (stars.tile == k).any()
        ]
    )
    return _psf_of_stamps(stamps, stars.fwhm, shape, options)


def _psf_of_stamps(
    stamps: StarStamps, fwhm: float, shape: tuple[int, ...], options: StarOptions
) -> StarPSF:
    samples = options.oversampling or max(1, math.ceil(SAMPLES / fwhm))
    degree = _degree(len(stamps), options.degree)
    fit = _Fit(_mean(stamps, samples), fwhm, samples, degree, shape)
    for _ in range(ROUNDS):
        terms = fit.terms(stamps)
        stamps = fit.without_outliers(fit.recentred(stamps, terms), terms)
        degree = _degree(len(stamps), options.degree)  # there may be fewer stars now
        fit = replace(fit, degree=degree)
    fit = fit.tuned(stamps)
    terms = fit.terms(stamps)
    stamps = fit.recentred(stamps, terms)
    terms = fit.terms(stamps)
    error = psf_error(stamps, fit.held_out(stamps))
    return StarPSF(
        samples,
        True,
        int(Flag.BAD_PSF & examine_psf(terms[0], sampling=samples).flags),
        _notes(stamps, fwhm, degree, error),
        error,
        terms=(terms / samples**2).astype(np.float32),
        powers=fit.powers,
        zero=fit.middle,
        scale=fit.middle,
        reach=1.0,
        stars=np.column_stack([stamps.x, stamps.y]),
    )


def _notes(stamps: StarStamps, fwhm: float, degree: int, error: PSFError) -> tuple[str, ...]:
    return (
        f"the PSF is made of {len(stamps)} stars, FWHM {fwhm:.2f} pix, polynomial of degree "
        f"{degree}; width known to {100 * error.size:.2g} %, ellipticity to {error.shape:.2g}",
    )


def _degree(count: int, given: int | None) -> int:
    """Return the degree of the polynomial: 2, or as high as the number of stars allows."""
    if given is not None:
        return given
    allowed = [d for d in (0, 1, 2) if STARS_A_TERM * len(powers_up_to(d)) <= count]
    return max(allowed, default=0)


def _mean(stamps: StarStamps, oversampling: int) -> NDArray[np.float64]:
    """Return photutils' ePSF of the brightest stars, (g, g), its sum is oversampling^2."""
    side = stamps.images.shape[1]
    grid, whole = oversampling * (side - 1) + 1, (oversampling * side + 1) | 1
    chosen = range(min(len(stamps), BRIGHT))
    middle = side // 2
    stars = EPSFStars(
        [
            EPSFStar(
                stamps.images[k],
                weights=stamps.weight[k],
                cutout_center=(middle + stamps.dx[k], middle + stamps.dy[k]),
            )
            for k in chosen
        ]
    )
    builder = EPSFBuilder(
        oversampling=oversampling,
        shape=(whole, whole),
        maxiters=BUILDER_ROUNDS,
        progress_bar=False,
        smoothing_kernel="quartic" if oversampling > 1 else None,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # on stars that cannot be fitted: they are left out
        epsf, _ = builder(stars)
    mean = np.nan_to_num(np.asarray(epsf.data, dtype=np.float64))
    rim = (whole - grid) // 2
    mean = mean[rim : rim + grid, rim : rim + grid]
    return _smooth(mean) * oversampling**2


def _smooth(epsf: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the Moffat profile, of sum 1, that fits an ePSF best: without its noise."""
    y, x = np.indices(epsf.shape) - epsf.shape[0] // 2
    start = [1.0, math.sqrt(max((epsf > epsf.max() / 2).sum(), 1) / math.pi), 3.0, 0.0, 0.0]

    def profile(p: NDArray[np.float64]) -> NDArray[np.float64]:
        radius2 = (1 + p[3]) * x**2 + (1 - p[3]) * y**2 + 2 * p[4] * x * y
        return epsf.max() * p[0] * (1 + np.maximum(radius2, 0) / p[1] ** 2) ** -p[2]

    low, high = [0.1, 0.1, 1.2, -0.8, -0.8], [10, max(epsf.shape), 8, 0.8, 0.8]
    best = least_squares(lambda p: (profile(p) - epsf).ravel(), start, bounds=(low, high)).x
    image = profile(best)
    return image / image.sum()


@dataclass(frozen=True, eq=False)
class _Fit:
    """What all fits of one image share.

    Args:
        mean: (g, g) pixel values of the mean PSF.
        fwhm: image pixels.
        samples: PSF pixels per image pixel.
        degree: of the polynomial.
        shape: H, W of the image.
        tau, mean_tau: prior widths of the pixels of all terms, and of the mean PSF.
    """

    mean: NDArray[np.float64]
    fwhm: float
    samples: int
    degree: int
    shape: tuple[int, ...]
    tau: float = 0.01
    mean_tau: float = 0.3

    @property
    def middle(self) -> tuple[float, float]:
        """x, y of the middle of the image, also its half-widths."""
        return (self.shape[1] - 1) / 2, (self.shape[0] - 1) / 2

    @property
    def powers(self) -> NDArray[np.integer]:
        """Exponents (K, 2) of the terms."""
        return powers_up_to(self.degree)

    def design(self, stamps: StarStamps) -> NDArray[np.float64]:
        """Return P_k (S, K) at the stars."""
        return polynomial(stamps.x, stamps.y, self.powers, self.middle, self.middle, reach=1.0)

    def terms(self, stamps: StarStamps) -> NDArray[np.float64]:
        """Return the terms (K, g, g) that fit stars best."""
        fwhm, design = self.fwhm * self.samples, self.design(stamps)
        first = basis_of(self.mean, fwhm, self.samples)
        mean = Problem(stamps, design[:, :1], first, self.mean_tau).solve()[0]
        return Problem(stamps, design, basis_of(mean, fwhm, self.samples), self.tau).solve()

    def model(self, stamps: StarStamps, terms: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the PSF (S, h, h) on the stars' pixels."""
        return predicted(terms, self.design(stamps), stamps, self.samples)

    def held_out(self, stamps: StarStamps) -> NDArray[np.float64]:
        """Return predictions (S, h, h) of each star from a PSF without it."""
        fold = np.arange(len(stamps)) % min(FOLDS, len(stamps))
        images = np.zeros(stamps.images.shape)
        for number in range(fold.max() + 1):
            out = fold == number
            terms = self.terms(stamps.take(~out))
            images[out] = self.model(stamps.take(out), terms)
        return images

    def tuned(self, stamps: StarStamps) -> _Fit:
        """Return the fit with the prior widths that predict left-out stars best."""
        best = min((replace(self, tau=value) for value in TAUS), key=lambda f: f.loss(stamps))
        tried = [replace(best, mean_tau=value) for value in MEAN_TAUS]
        return min(tried, key=lambda f: f.loss(stamps))

    def loss(self, stamps: StarStamps) -> float:
        """Return the mean chi2 per pixel of stars that are left out in turn."""
        return float(_chi2(stamps, _rescaled(stamps, self.held_out(stamps))).mean())

    def recentred(self, stamps: StarStamps, terms: NDArray[np.float64]) -> StarStamps:
        """Return stamps with flux and position of each star fitted with the PSF."""
        model = self.model(stamps, terms)
        down, right = np.gradient(model, axis=(1, 2))
        columns = np.stack([model, -right, -down], axis=-1)
        weighted = columns * stamps.weight[..., None]
        normal = np.einsum("sijp,sijq->spq", weighted, columns)
        right_side = np.einsum("sijp,sij->sp", weighted, stamps.images)
        flux, x, y = np.linalg.solve(normal, right_side[..., None])[..., 0].T
        flux = np.maximum(flux, 0.1)
        moved = replace(
            stamps,
            dx=stamps.dx + np.clip(x / flux, -0.5, 0.5),
            dy=stamps.dy + np.clip(y / flux, -0.5, 0.5),
        )
        return moved.scaled(flux)

    def without_outliers(self, stamps: StarStamps, terms: NDArray[np.float64]) -> StarStamps:
        """Return the stars whose misfit is small: galaxies and blends are left out.

        Brighter stars show errors of the PSF more clearly, so that chi2 is compared with the
        star's own power.
        """
        model = self.model(stamps, terms)
        chi2, power = _chi2(stamps, model), _chi2(stamps, model, power=True)
        excess = chi2 - float(np.median(chi2))
        good = (excess < MISFIT**2 * power) | (excess < SIGNIFICANT)
        return stamps.take(good) if good.sum() >= FEWEST else stamps


def _chi2(
    stamps: StarStamps, model: NDArray[np.float64], power: bool = False
) -> NDArray[np.float64]:
    """Return chi2 (S,) per pixel; with ``power`` that of no model but 0."""
    used = np.maximum((stamps.weight > 0).sum(axis=(1, 2)), 1)
    residual = model if power else stamps.images - model
    return (stamps.weight * residual**2).sum(axis=(1, 2)) / used


def _rescaled(stamps: StarStamps, model: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return predictions with the flux that fits each star best."""
    norm = (stamps.weight * model**2).sum(axis=(1, 2))
    factor = (stamps.weight * model * stamps.images).sum(axis=(1, 2)) / norm
    return model * factor[:, None, None]
