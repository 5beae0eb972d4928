"""One galaxy seen in several images: dithered, rotated, rescaled, with PSFs of their own."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from astropy.wcs import WCS
from numpy.typing import NDArray
from render_helpers import Galaxy, moffat_psf

from hybridfit.data.cutouts import Cutouts
from hybridfit.data.exposure import Exposure

Array = NDArray[np.float64]
SAME = ((1.0, 0.0), (0.0, 1.0))
ZEROPOINT = 25.0


@dataclass(frozen=True)
class View:
    """An image: its map from the first image's pixels, PSF, zero point, noise and sky."""

    matrix: tuple[tuple[float, float], tuple[float, float]] = SAME
    shift: tuple[float, float] = (0.0, 0.0)
    fwhm: float = 3.0
    zeropoint: float = ZEROPOINT
    sigma: float = 1.0
    sky: float = 0.0
    side: int = 64
    oversampling: int = 1

    @property
    def psf(self) -> Array:
        """Its PSF, 31 pixels wide."""
        edge = 5 * self.oversampling
        image = moffat_psf(self.fwhm, 3.0, 0.03, -0.02, self.oversampling)
        return _normalised(image[edge:-edge, edge:-edge])

    @property
    def affine(self) -> Array:
        """(2, 3) of its pixels by those of the first image."""
        return np.concatenate([np.array(self.matrix), np.array(self.shift)[:, None]], axis=1)


def rotated(
    degrees: float, scale: float, centre: tuple[float, float], to: tuple[float, float], **more
) -> View:
    """A view turned and rescaled, in which ``centre`` of the first image comes to lie at ``to``."""
    turn = np.deg2rad(degrees)
    matrix = scale * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    return moved(matrix, centre, to, **more)


def moved(matrix: Array, centre: tuple[float, float], to: tuple[float, float], **more) -> View:
    """A view of any matrix in which ``centre`` of the first image comes to lie at ``to``."""
    shift = np.array(to) - matrix @ np.array(centre)
    rows = tuple(tuple(float(v) for v in row) for row in matrix)
    return View(matrix=rows, shift=(float(shift[0]), float(shift[1])), **more)  # type: ignore[arg-type]


def seen_by_galsim(galaxy: Galaxy, mag: float, view: View) -> Array:
    """The galaxy in a view without noise, rendered by GalSim alone.

    The intrinsic profile is transformed by the view's matrix and convolved with the samples of the
    view's PSF, joined by Lanczos(30), and the view's pixel.
    """
    import galsim

    tight = galsim.GSParams(
        maximum_fft_size=32768, folding_threshold=1e-4, maxk_threshold=1e-4, kvalue_accuracy=1e-6
    )
    samples = galsim.Image(np.ascontiguousarray(view.psf), scale=1 / view.oversampling)
    point = galsim.InterpolatedImage(samples, x_interpolant=galsim.Lanczos(30), flux=1)
    size = galaxy.r_eff * np.sqrt(galaxy.q)
    profile = galsim.Sersic(n=galaxy.n, half_light_radius=size, gsparams=tight)
    profile = profile.shear(q=galaxy.q, beta=(galaxy.pa + 90) * galsim.degrees)
    (a, b), (c, d) = view.matrix
    profile = profile.transform(a, b, c, d).withFlux(10 ** (0.4 * (view.zeropoint - mag)))
    x, y = view.affine @ np.array([galaxy.x, galaxy.y, 1.0])
    middle = (view.side - 1) / 2
    image = galsim.Convolve(profile, point, gsparams=tight).shift(x - middle, y - middle)
    drawn = image.drawImage(nx=view.side, ny=view.side, scale=1.0, method="auto")
    return np.asarray(drawn.array, dtype=np.float64)


def observed(galaxy: Galaxy, mag: float, views: list[View], seed: int | None = 0) -> Cutouts:
    """Cutouts of one galaxy with an exposure for each further view; without a seed, no noise."""
    rng = None if seed is None else np.random.default_rng(seed)

    def noisy(view: View) -> Array:
        clean = seen_by_galsim(galaxy, mag, view) + view.sky
        return clean if rng is None else clean + view.sigma * rng.standard_normal(clean.shape)

    first, *others = ((view, noisy(view)) for view in views)
    exposures = [
        Exposure(
            image[None],
            np.full((1, *image.shape), view.sigma),
            view.psf,
            psf_oversampling=view.oversampling,
            zeropoint=view.zeropoint,
            to_pixels=view.affine,
        )
        for view, image in others
    ]
    view, image = first
    cutouts = Cutouts(
        image=image[None],
        sigma=np.full((1, *image.shape), view.sigma),
        psf=view.psf,
        psf_oversampling=view.oversampling,
        zeropoint=view.zeropoint,
    )
    return replace(cutouts, exposures=exposures)


def wcs_of(view: View, scale: float = 0.2) -> WCS:
    """The WCS of a view, the first image's being plain."""
    inverse = np.linalg.inv(np.array(view.matrix))
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval = [150.0, 2.0]
    wcs.wcs.cd = np.diag([-1.0, 1.0]) * scale / 3600 @ inverse
    x, y = view.affine @ [31.3, 30.6, 1.0]
    wcs.wcs.crpix = [x + 1, y + 1]
    return wcs


def _normalised(image: Array) -> Array:
    return image / image.sum()
