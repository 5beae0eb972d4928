"""AstroPhot: its Levenberg-Marquardt on a Sersic galaxy and a flat sky, midpoints and its adaptive
integration of bright pixels, as is its default. Its own starts are those of ``initialize``."""

from __future__ import annotations

import math

import astrophot as ap
import numpy as np
import torch
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


def _model(galaxy: Galaxy) -> ap.models.Model:
    psf = ap.PSFImage(data=galaxy.psf)
    target = ap.TargetImage(
        data=galaxy.image,
        variance=galaxy.sigma**2,
        psf=psf,
        pixelscale=1.0,
        zeropoint=galaxy.zeropoint,
    )
    known, level = {}, {}
    if galaxy.start is not None:
        x, y, _, r_eff, n, q, pa, sky = galaxy.start
        known = {
            "center": (x, y),
            "q": min(q, 0.99),
            "PA": math.radians(pa % 180),
            "n": n,
            "Re": r_eff,
            "Ie": amplitude(galaxy.start, galaxy.zeropoint),
        }
        level = {"I0": sky}
    light = ap.Model(model_type="sersic galaxy model", target=target, psf_convolve=True, **known)
    flat = ap.Model(model_type="flat sky model", target=target, **level)
    both = ap.Model(model_type="group model", models=[light, flat], target=target)
    both.initialize()
    return both


class Astrophot:
    """See the module."""

    version = ap.__version__
    batched = False
    warms_up = True

    def render(self, theta: Array, psf: Array, zeropoint: float, shape: tuple[int, int]) -> Array:
        blank = Galaxy(np.zeros(shape), np.ones(shape), psf, zeropoint, theta)
        return _model(blank)().data.detach().cpu().numpy()

    def fit(self, galaxies: list[Galaxy], variant: str) -> list[Fitted]:
        torch.set_num_threads(1)
        return [_fit(galaxy) for galaxy in galaxies]


# of the covariance's axes, which are center (2), q, PA, n, Re, Ie, I0
BY_NAME = (0, 1, 5, 4, 2, 3, 7)  # x, y, r_eff, n, q, pa, sky
LIGHT = (6, 5, 4, 2)  # amplitude, r_eff, n, q


def _fit(galaxy: Galaxy) -> Fitted:
    model = _model(galaxy)
    fitted = ap.fit.LM(model, verbose=0).fit()
    covariance = fitted.covariance_matrix.detach().cpu().double().numpy()
    best = np.asarray(model.get_values().detach().cpu(), float)
    x, y, r_eff, n, q, pa, sky = best[list(BY_NAME)]
    level = best[LIGHT[0]]
    error = np.sqrt(np.abs(np.diag(covariance)))[list(BY_NAME)]
    gradient = magnitude_gradient(r_eff, n, q) / best[list(LIGHT)]
    mag_error = math.sqrt(abs(gradient @ covariance[np.ix_(LIGHT, LIGHT)] @ gradient))
    sure = fitted.message.startswith("success") and "not guaranteed" not in fitted.message
    mag = magnitude(level, r_eff, n, q, galaxy.zeropoint)
    return Fitted(
        np.array([x, y, mag, r_eff, n, q, np.rad2deg(pa) % 180, sky]),
        np.array([*error[:2], mag_error, *error[2:5], np.rad2deg(error[5]), error[6]]),
        CONVERGED if sure else FAILED,
        message=fitted.message,
    )


if __name__ == "__main__":
    serve(Astrophot())
