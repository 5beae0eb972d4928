"""pysersic: the maximum of its posterior ("MAP") or its Laplace posterior ("laplace").

Priors are those of its ``autoprior`` with a flat sky; a given start goes in as its guesses of
position, flux, size and angle, with the widths that it chooses for them. That is also all that a
start can be to it: the search begins at the prior's median. Every galaxy compiles its model anew,
as each is a new object to JAX; that is part of what a galaxy costs, and so in the seconds.
"""

from __future__ import annotations

import contextlib
import io
import math
import warnings
from importlib.metadata import version

import jax
import numpy as np
from exchange import NAMES, UNKNOWN, Array, Fitted, Galaxy, serve
from pysersic import FitSingle, loss
from pysersic.priors import SourceProperties
from pysersic.rendering import HybridRenderer

KEYS = ("xc", "yc", "flux", "r_eff", "n", "ellip", "theta", "sky_back")


class Pysersic:
    """See the module."""

    version = version("pysersic")
    batched = False
    warms_up = True

    def render(self, theta: Array, psf: Array, zeropoint: float, shape: tuple[int, int]) -> Array:
        x, y, mag, r_eff, n, q, pa, sky = theta
        known = {
            "xc": x,
            "yc": y,
            "flux": 10 ** (-0.4 * (mag - zeropoint)),
            "r_eff": r_eff,
            "n": n,
            "ellip": 1 - q,
            "theta": math.radians(pa),
        }
        renderer = HybridRenderer(shape, psf.astype(np.float32))
        return np.asarray(renderer.render_source(known, "sersic"), float) + sky

    def fit(self, galaxies: list[Galaxy], variant: str) -> list[Fitted]:
        return [_fit(galaxy, variant) for galaxy in galaxies]


def _fit(galaxy: Galaxy, variant: str) -> Fitted:
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        guesses = SourceProperties(galaxy.image)
        if galaxy.start is not None:
            x, y, mag, r_eff, _, _, pa, _ = galaxy.start
            guesses.set_position_guess((x, y))
            guesses.set_flux_guess(10 ** (-0.4 * (mag - galaxy.zeropoint)))
            guesses.set_r_eff_guess(r_eff)
            guesses.set_theta_guess(math.radians(pa))
        prior = guesses.generate_prior("sersic", sky_type="flat")
        fitter = FitSingle(
            data=galaxy.image,
            rms=galaxy.sigma,
            psf=galaxy.psf,
            prior=prior,
            loss_func=loss.gaussian_loss,
        )
        key = jax.random.PRNGKey(1)
        if variant == "MAP":
            found = fitter.find_MAP(rkey=key)
            best = np.array([float(found[k]) for k in KEYS])
            return Fitted(_ours(best, galaxy.zeropoint), np.full(len(NAMES), np.nan), UNKNOWN)
        draws = fitter.estimate_posterior(rkey=key, method="laplace").idata.posterior
    samples = np.array([np.asarray(draws[k]).ravel() for k in KEYS])  # (8, S)
    about = np.angle(np.exp(2j * samples[6]).mean()) / 2
    samples[6] = about + (samples[6] - about + np.pi / 2) % np.pi - np.pi / 2
    each = np.stack([_ours(s, galaxy.zeropoint, wrap=False) for s in samples.T])
    low, values, high = np.nanpercentile(each, (16, 50, 84), axis=0)
    values[6] %= 180
    return Fitted(values, np.nanstd(each, axis=0), UNKNOWN, low, high)


def _ours(best: Array, zeropoint: float, wrap: bool = True) -> Array:
    x, y, flux, r_eff, n, ell, theta, sky = best
    mag = zeropoint - 2.5 * math.log10(flux) if flux > 0 else math.nan
    pa = math.degrees(theta)
    return np.array([x, y, mag, r_eff, n, 1 - ell, pa % 180 if wrap else pa, sky])


if __name__ == "__main__":
    serve(Pysersic())
