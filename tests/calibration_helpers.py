"""Exact posteriors, and wrong twins of them that calibration must find out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hybridfit.calibration.sbc_samples import SbcSamples

NAMES = ("x", "mag", "r_eff", "n", "pa")
PRIOR_SIGMA = 1.0


@dataclass(frozen=True)
class Experiment:
    """Truths from a prior, measured with noise, and the exact posteriors of that.

    x, mag, ln r_eff and ln n are N(0, 1) measured with Gaussian noise; pa is uniform on its
    circle, measured with wrapped Gaussian noise, for a tenth of the galaxies so large that
    nothing is known, as of a round galaxy.

    Args:
        truth: (N, 5) and samples (N, S, 5), in the order of `NAMES`.
        limit: (N, 5) standard deviations at the Cramer-Rao limit, prior included.
        snr: (N,) log-uniform, 3 to 1000; the noise is in proportion to its inverse.
    """

    truth: NDArray[np.float64]
    samples: NDArray[np.float64]
    limit: NDArray[np.float64]
    snr: NDArray[np.float64]

    @property
    def sbc(self) -> SbcSamples:
        return SbcSamples(NAMES, self.samples, self.truth)


def experiment(twin: str = "exact", n: int = 4000, draws: int = 200, seed: int = 5) -> Experiment:
    """The exact posterior, or a twin: wide, narrow, biased, mirrored or blind."""
    rng = np.random.default_rng(seed)
    snr = np.exp(rng.uniform(np.log(3), np.log(1000), n))
    noise = np.minimum(3 / snr, 1.0)[:, None]
    truth = PRIOR_SIGMA * rng.standard_normal((n, 4))
    data = truth + noise * rng.standard_normal((n, 4))
    shrink = PRIOR_SIGMA**2 / (PRIOR_SIGMA**2 + noise**2)
    sigma = np.sqrt(shrink) * noise
    mean = shrink * data
    unit = rng.standard_normal((n, draws, 5))
    scale = {"wide": 2.0, "narrow": 0.5}.get(twin, 1.0)
    shift = 0.5 if twin == "biased" else 0.0
    lines = mean[:, None] + sigma[:, None] * (shift + scale * unit[:, :, :4])
    if twin == "blind":  # the prior, whatever the data say
        lines = PRIOR_SIGMA * unit[:, :, :4]
    pa_sigma = np.where(rng.random(n) < 0.1, 400.0, 90 * noise[:, 0])
    pa = rng.uniform(0, 180, n)
    seen = pa + pa_sigma * rng.standard_normal(n)
    line = seen[:, None] + pa_sigma[:, None] * (shift + scale * unit[:, :, 4])
    angles = line % 180
    if twin == "blind":
        angles = rng.uniform(0, 180, (n, draws))
    if twin == "mirrored":  # what passes 0 or 180 comes back from there, not from the other end
        line = seen[:, None] % 180 + line - seen[:, None]
        angles = np.minimum(line % 360, -line % 360)
    truth = np.column_stack([truth, pa])
    samples = np.concatenate([lines, angles[:, :, None]], axis=2)
    limit = np.column_stack([np.broadcast_to(sigma, (n, 4)), pa_sigma])
    for j in (2, 3):  # sizes and indices are the exponentials
        truth[:, j], samples[:, :, j] = np.exp(truth[:, j]), np.exp(samples[:, :, j])
        limit[:, j] *= truth[:, j]
    return Experiment(truth, samples, limit, snr)
