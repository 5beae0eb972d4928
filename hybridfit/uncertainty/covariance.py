"""Errors from the curvature of the likelihood at the fit (`--uncertainty covariance`).

The covariance is (J^T W J + prior)^-1 in physical parameters, the sky and its correlations
included, masked pixels left out. It is exact where the model is right, the noise is what sigma
says and the likelihood is Gaussian as far as the errors reach; where it is not, the fit has
raised the flag UNCERTAIN.
"""

from __future__ import annotations

import math
from dataclasses import replace

from hybridfit.data.fit import Fit

MAX_PA_ERROR = 180 / math.sqrt(12)  # deg: an angle of which nothing is known


def quote_covariance(fit: Fit) -> Fit:
    """Return the fit with its covariance ready to be quoted.

    A position angle that is not known has a standard deviation of 52 degrees, not of thousands.
    """
    covariance = fit.covariance.clone()
    error = fit.error
    for i, name in enumerate(fit.space.names):
        if name.rstrip("_0123456789") == "pa":
            shrink = (MAX_PA_ERROR / error[:, i].clamp_min(1e-30)).clamp_max(1.0)
            covariance[:, i] *= shrink[:, None]
            covariance[:, :, i] *= shrink[:, None]
    return replace(fit, covariance=covariance)
