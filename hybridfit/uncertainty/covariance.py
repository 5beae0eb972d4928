"""Errors from the curvature of the likelihood at the fit (`--uncertainty covariance`).

The covariance is (J^T W J + prior)^-1 in physical parameters, including the sky and its
correlations, excluding masked pixels. It is exact if the model and sigma are right and the
likelihood is Gaussian within the errors; where it is not Gaussian, the fit has set the flag
UNCERTAIN.
"""

from __future__ import annotations

import math
from dataclasses import replace

from hybridfit.data.fit import Fit

MAX_PA_ERROR = 180 / math.sqrt(12)  # deg: of an unconstrained angle


def quote_covariance(fit: Fit) -> Fit:
    """Return the fit with a covariance suitable for quoting.

    An unconstrained position angle has a standard deviation of 52 degrees, not of thousands.
    """
    covariance = fit.covariance.clone()
    error = fit.error
    for i, name in enumerate(fit.space.names):
        if name.rstrip("_0123456789") == "pa":
            shrink = (MAX_PA_ERROR / error[:, i].clamp_min(1e-30)).clamp_max(1.0)
            covariance[:, i] *= shrink[:, None]
            covariance[:, :, i] *= shrink[:, None]
    return replace(fit, covariance=covariance)
