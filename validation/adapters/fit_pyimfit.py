"""imfit through pyimfit: its default Levenberg-Marquardt at its default tolerance."""

from __future__ import annotations

from importlib.metadata import version

import numpy as np
import pyimfit
from exchange import (
    CONVERGED,
    FAILED,
    Array,
    Fitted,
    Galaxy,
    amplitude,
    magnitude,
    serve,
)


def _model(theta: Array, zeropoint: float) -> pyimfit.SimpleModelDescription:
    """A Sersic profile and a flat sky with the limits that a user would set."""
    x, y, _, r_eff, n, q, pa, level = theta
    model = pyimfit.SimpleModelDescription()
    model.x0.setValue(x + 1, [x - 15, x + 17])  # imfit counts from 1
    model.y0.setValue(y + 1, [y - 15, y + 17])
    sersic = pyimfit.make_imfit_function("Sersic")
    sersic.PA.setValue(pa, [-180, 360])
    sersic.ell.setValue(1 - q, [0, 0.98])
    sersic.n.setValue(n, [0.2, 10])
    sersic.r_e.setValue(r_eff, [0.05, 100])
    sersic.I_e.setValue(amplitude(theta, zeropoint), [0, 1e9])
    sky = pyimfit.make_imfit_function("FlatSky")
    sky.I_sky.setValue(level, [-1e6, 1e6])
    model.addFunction(sersic)
    model.addFunction(sky)
    return model


class Pyimfit:
    """See the module."""

    version = version("pyimfit")
    batched = False
    warms_up = True

    def render(self, theta: Array, psf: Array, zeropoint: float, shape: tuple[int, int]) -> Array:
        fitter = pyimfit.Imfit(_model(theta, zeropoint), psf=psf, maxThreads=1)
        return np.asarray(fitter.getModelImage(shape=shape))

    def fit(self, galaxies: list[Galaxy], variant: str) -> list[Fitted]:
        return [_fit(galaxy) for galaxy in galaxies]


def _fit(galaxy: Galaxy) -> Fitted:
    if galaxy.start is None:
        raise ValueError("imfit has no starting values of its own")
    fitter = pyimfit.Imfit(_model(galaxy.start, galaxy.zeropoint), psf=galaxy.psf, maxThreads=1)
    fitter.fit(galaxy.image, error=galaxy.sigma, error_type="sigma", verbose=-1)
    x, y, pa, ell, n, level, r_eff, sky = fitter.getRawParameters()
    found = fitter.parameterErrors
    error = np.full(8, np.nan) if found is None else np.asarray(found, float)
    error[error == 0] = np.nan  # imfit's word for "none": at a limit
    mag = magnitude(level, r_eff, n, 1 - ell, galaxy.zeropoint)
    # there is no covariance of level, size and index, so no error of the magnitude
    ordered = [error[0], error[1], np.nan, error[6], error[4], error[3], error[2], error[7]]
    return Fitted(
        np.array([x - 1, y - 1, mag, r_eff, n, 1 - ell, pa % 180, sky]),
        np.array(ordered),
        CONVERGED if fitter.fitConverged else FAILED,
        message=f"{fitter.nIter} iterations, {fitter.nFuncEvals} evaluations",
    )


if __name__ == "__main__":
    serve(Pyimfit())
