"""Errors from the curvature of the likelihood at the fit (`--uncertainty covariance`).

The covariance is (J^T W J + prior)^-1 in physical parameters, the sky and its correlations
included, masked pixels left out. It is exact where the model is right, the noise is what sigma
says and the likelihood is Gaussian as far as the errors reach; where they are so large that it
cannot be, the galaxy is flagged.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch

from hybridfit.results import Fit, Flag

MAX_MAG_ERROR = 0.25  # mag
MAX_SIZE_ERROR = 0.35  # of ln r_eff
MAX_PA_ERROR = 180 / math.sqrt(12)  # deg: an angle of which nothing is known


def quote_covariance(fit: Fit) -> Fit:
    """Return the fit with errors ready to be quoted, and the flag UNCERTAIN where they are large.

    A position angle that is not known has a standard deviation of 52 degrees, not of thousands.
    """
    names = list(fit.space.names)
    covariance = fit.covariance.clone()
    error = fit.error
    uncertain = torch.zeros(len(fit), dtype=torch.bool, device=error.device)
    for i, name in enumerate(names):
        kind = name.rstrip("_0123456789")
        if kind == "pa":
            shrink = (MAX_PA_ERROR / error[:, i].clamp_min(1e-30)).clamp_max(1.0)
            covariance[:, i] *= shrink[:, None]
            covariance[:, :, i] *= shrink[:, None]
        if kind == "mag":
            uncertain |= error[:, i] > MAX_MAG_ERROR
        if kind == "r_eff":
            uncertain |= error[:, i] / fit.theta[:, i] > MAX_SIZE_ERROR
    flags = fit.flags | torch.where(uncertain, int(Flag.UNCERTAIN), 0)
    return replace(fit, covariance=covariance, flags=flags)
