"""The error of a PSF made from stars, from stars that had no part in it."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from hybridfit.psf.model import PSFError
from hybridfit.psf.star_stamps import StarStamps

FLUX_AND_PLACE = 3  # parameters of a star besides those of its shape


def psf_error(stamps: StarStamps, model: NDArray[np.float64]) -> PSFError:
    """Return how far predictions are from stars, beyond the stars' own noise.

    Each residual is fitted by flux, position, d ln(width) and two components of the ellipticity.
    The excess of the scatter of the last three over their errors is the PSF's; where there is
    none, the uncertainty of the excess is its upper limit.

    Args:
        stamps: S stars.
        model: (S, h, h) each star as a PSF without it predicts it.
    """
    columns = _derivatives(model)
    weighted = columns * stamps.weight[..., None]
    normal = np.einsum("sijp,sijq->spq", weighted, columns)
    residual = stamps.images - model
    right = np.einsum("sijp,sij->sp", weighted, residual)
    covariance = np.linalg.inv(normal)
    found = np.einsum("spq,sq->sp", covariance, right)
    variance = np.einsum("spp->sp", covariance)
    size = _excess(found[:, 3], variance[:, 3])
    shape = _excess(found[:, 4:].ravel(), variance[:, 4:].ravel())
    rest = residual - np.einsum("sijp,sp->sij", columns[..., :3], found[:, :3])
    return PSFError(size, shape, _residual(rest, stamps.weight, model))


def _derivatives(model: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return (S, h, h, 6) derivatives by flux, x, y, ln(width), and two ellipticities."""
    middle = model.shape[1] // 2
    y, x = np.indices(model.shape[1:]) - middle
    down, right = np.gradient(model, axis=(1, 2))
    wider = -(2 * model + x * right + y * down)
    along, across = -(x * right - y * down), -(x * down + y * right)
    return np.stack([model, -right, -down, wider, along, across], axis=-1)


def _excess(values: NDArray[np.float64], variance: NDArray[np.float64]) -> float:
    """Return the standard deviation of values beyond their errors, by weighted moments."""
    floor = float(np.median(variance))
    weight = 1 / (variance + floor) ** 2
    total = weight.sum()
    excess = float((weight * (values**2 - variance)).sum() / total)
    chance = math.sqrt(float((weight**2 * 2 * variance**2).sum())) / total
    return math.sqrt(max(excess, chance))


def _residual(
    rest: NDArray[np.float64], weight: NDArray[np.float64], model: NDArray[np.float64]
) -> float:
    """Return the root mean square of residuals over that of the PSF, without noise.

    The median over stars, weighted towards bright ones, in which noise is small.
    """
    used = weight > 0
    noise = np.where(used, 1 / np.where(used, weight, 1.0), 0.0).sum(axis=(1, 2))
    power = np.where(used, model**2, 0.0).sum(axis=(1, 2))
    excess = (np.where(used, rest**2, 0.0).sum(axis=(1, 2)) - noise) / power
    trust = (power / noise) ** 2
    return math.sqrt(max(float((trust * excess).sum() / trust.sum()), 0.0))
