"""petrofit: astropy's TRF fitter on its PSF-convolved Sersic with a window of finer pixels.

The window is that of its documentation: around the centre, moving with it, here 21 pixels a side
at 5 x 5 points. Errors are those of astropy's fitter, from the fit's own Jacobian.
"""

from __future__ import annotations

import math
import warnings
from importlib.metadata import version

import numpy as np
import petrofit
from astropy.modeling import models
from astropy.modeling.fitting import TRFLSQFitter
from exchange import (
    CONVERGED,
    FAILED,
    Array,
    Fitted,
    Galaxy,
    amplitude,
    magnitude,
    magnitude_gradient,
    serve,
)

WINDOW = (21, 5)  # pixels a side, points a side of a pixel
# the model's order is amplitude, r_eff, n, x_0, y_0, ellip, theta of the galaxy, amplitude of the
# sky, psf_pa, which is fixed
FREE = ("amplitude_0", "r_eff_0", "n_0", "x_0_0", "y_0_0", "ellip_0", "theta_0", "amplitude_1")


def _model(theta: Array, psf: Array, zeropoint: float) -> petrofit.PSFConvolvedModel2D:
    x, y, _, r_eff, n, q, pa, sky = theta
    light = models.Sersic2D(
        amplitude=amplitude(theta, zeropoint),
        r_eff=r_eff,
        n=n,
        x_0=x,
        y_0=y,
        ellip=min(max(1 - q, 0.0), 0.98),
        theta=math.radians((pa + 90) % 180),  # from +x
        bounds=petrofit.get_default_sersic_bounds(
            {"x_0": (x - 15, x + 15), "y_0": (y - 15, y + 15)}
        ),
    )
    both = light + models.Const2D(amplitude=sky)
    window = ("x_0_0", "y_0_0", *WINDOW)
    model = petrofit.PSFConvolvedModel2D(both, psf=psf, oversample=window)
    model.fixed["psf_pa"] = True
    return model


class Petrofit:
    """See the module."""

    version = version("petrofit")
    batched = False
    warms_up = True

    def render(self, theta: Array, psf: Array, zeropoint: float, shape: tuple[int, int]) -> Array:
        model = _model(theta, psf, zeropoint)
        y, x = np.mgrid[: shape[0], : shape[1]]
        return model(x.ravel(), y.ravel()).reshape(shape)

    def fit(self, galaxies: list[Galaxy], variant: str) -> list[Fitted]:
        return [_fit(galaxy) for galaxy in galaxies]


def _fit(galaxy: Galaxy) -> Fitted:
    if galaxy.start is None:
        raise ValueError("the starts of petrofit's tutorials need its catalogue: not driven here")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fitter = TRFLSQFitter(calc_uncertainties=True)
        y, x = np.mgrid[: galaxy.image.shape[0], : galaxy.image.shape[1]]
        best = fitter(
            _model(galaxy.start, galaxy.psf, galaxy.zeropoint),
            x.ravel(),
            y.ravel(),
            galaxy.image.ravel(),
            weights=1 / galaxy.sigma.ravel(),
            maxiter=5000,
        )
    covariance = np.full((8, 8), np.nan)
    if fitter.fit_info.param_cov is not None:
        covariance = fitter.fit_info.param_cov
    values, errors = _ours(best, covariance, galaxy.zeropoint)
    said = CONVERGED if fitter.fit_info.success else FAILED
    return Fitted(values, errors, said, message=str(fitter.fit_info.message))


def _ours(best: petrofit.PSFConvolvedModel2D, covariance: Array, zeropoint: float) -> tuple:
    """Values and errors (8,) in hybridfit's conventions."""
    level, r_eff, n, x0, y0, ell, theta, sky = (getattr(best, name).value for name in FREE)
    q = 1 - ell
    gradient = magnitude_gradient(r_eff, n, q) / np.array([level, r_eff, n, -q])
    light = np.ix_((0, 1, 2, 5), (0, 1, 2, 5))
    mag_error = np.sqrt(gradient @ covariance[light] @ gradient)
    mag, pa = magnitude(level, r_eff, n, q, zeropoint), (math.degrees(theta) - 90) % 180
    error = np.sqrt(np.diag(covariance))
    shape = (error[1], error[2], error[5], np.rad2deg(error[6]))
    return (
        np.array([x0, y0, mag, r_eff, n, q, pa, sky]),
        np.array([error[3], error[4], mag_error, *shape, error[7]]),
    )


if __name__ == "__main__":
    serve(Petrofit())
