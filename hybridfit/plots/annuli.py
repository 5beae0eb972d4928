"""Surface brightness in elliptical annuli, for data with errors, model and components."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

FIRST = 1.0  # pixels, semi-major axis of the innermost ellipse
LEAST_WIDTH, GROWTH = 1.0, 0.12  # width of an annulus: pixels, and a fraction of its inner edge
LAST_EXACT = 24.0  # pixels: annuli within this radius share pixels by exact area
LEAST_COVERAGE = 0.2  # annuli with a smaller fraction of unmasked area have no value


@dataclass(frozen=True)
class Ellipse:
    """The shape of a galaxy's isophotes.

    Args:
        x, y: centre [pix], the first pixel's centre is 0.
        r_eff: half-light radius along the major axis [pix]; 0 for a point.
        q: axis ratio b/a, in (0, 1].
        pa: position angle from +y towards -x [deg].
    """

    x: float
    y: float
    r_eff: float
    q: float
    pa: float

    @property
    def exists(self) -> bool:
        """Return whether all numbers are finite and describe an ellipse."""
        finite = all(map(math.isfinite, (self.x, self.y, self.r_eff, self.q, self.pa)))
        return finite and self.r_eff >= 0 and 0 < self.q <= 1

    @property
    def is_point(self) -> bool:
        """Return whether it has no size."""
        return self.r_eff == 0

    @property
    def theta(self) -> float:
        """Return the angle of the major axis from +x towards +y [rad], photutils' convention."""
        return math.radians(self.pa + 90.0)

    def radius(self, x: Array, y: Array) -> Array:
        """Return the semi-major axis [pix] of the ellipse through each point."""
        dx, dy = x - self.x, y - self.y
        major = dx * math.cos(self.theta) + dy * math.sin(self.theta)
        minor = -dx * math.sin(self.theta) + dy * math.cos(self.theta)
        return np.hypot(major, minor / self.q)


@dataclass(frozen=True)
class AnnularProfile:
    """Mean surface brightness in K annuli; NaN if too few pixels are unmasked.

    Args:
        radius: (K,) semi-major axis that halves the area of each annulus [pix].
        data: (K,) mean of the image [flux/pix].
        error: (K,) its standard deviation from the noise of the pixels.
        models: (M, K) means of the models over the same pixels.
        coverage: (K,) fraction of each annulus' area on unmasked pixels.
    """

    radius: Array
    data: Array
    error: Array
    models: Array
    coverage: Array


def annular_profile(
    image: Array, models: Array, sigma: Array, mask: NDArray[np.bool_], ellipse: Ellipse
) -> AnnularProfile:
    """Return the mean surface brightness in annuli of common centre, axis ratio and angle.

    Pixels are weighted by the exact fraction w of their area inside an annulus (wide outer annuli
    use pixel centres): the mean is sum(w I) / sum(w) and its error
    sqrt(sum(w^2 sigma^2)) / sum(w). Masked and non-finite pixels are excluded from data and
    models alike, so that both cover the same area.

    Args:
        image: (H, W), flux per pixel, sky subtracted.
        models: (M, H, W) in the same unit.
        sigma: (H, W) standard deviation of each pixel.
        mask: (H, W) True for masked pixels.
        ellipse: shape of all annuli; must exist.

    Raises:
        ValueError: if the ellipse has non-finite values, or an axis ratio outside (0, 1].
    """
    if not ellipse.exists:
        raise ValueError(f"expected an ellipse of finite numbers with 0 < q <= 1, got {ellipse}")
    good = ~mask & np.isfinite(image) & np.isfinite(models).all(axis=0) & np.isfinite(sigma)
    planes = np.concatenate([[image, sigma**2], models])
    edges = annulus_edges(ellipse, image.shape)
    exact = max(1, int((edges[1:] <= LAST_EXACT).sum()))
    sums = np.concatenate(
        [
            _exact_sums(planes, good, ellipse, edges[: exact + 1]),
            _centre_sums(planes, good, ellipse, edges[exact:]),
        ]
    ).T  # (3 + M, K)
    coverage = sums[0] / (math.pi * ellipse.q * np.diff(edges**2))
    total = np.where(coverage >= LEAST_COVERAGE, sums[0], np.nan)
    middle = np.sqrt((edges[:-1] ** 2 + edges[1:] ** 2) / 2)
    return AnnularProfile(
        middle, sums[1] / total, np.sqrt(sums[2]) / total, sums[3:] / total, coverage
    )


def annulus_edges(ellipse: Ellipse, shape: tuple[int, ...]) -> Array:
    """Return the semi-major axes [pix] of the annuli's edges, from 0 to the farthest corner.

    Thin ellipses end at the distance of that corner, as little of them is on the cutout beyond;
    a centre outside the cutout has a single annulus.
    """
    height, width = shape
    edges = [0.0, FIRST]
    if not (-0.5 <= ellipse.x <= width - 0.5 and -0.5 <= ellipse.y <= height - 0.5):
        return np.array(edges)
    x, y = max(ellipse.x, width - 1 - ellipse.x), max(ellipse.y, height - 1 - ellipse.y)
    while edges[-1] < math.hypot(x, y):
        edges.append(edges[-1] + max(LEAST_WIDTH, GROWTH * edges[-1]))
    return np.array(edges)


def _exact_sums(planes: Array, good: NDArray[np.bool_], ellipse: Ellipse, edges: Array) -> Array:
    """Return sums (k, 3 + M) of w, w I, w^2 sigma^2 and w M, w the exact fraction of a pixel."""
    from photutils.aperture import EllipticalAnnulus, EllipticalAperture

    centre, q, theta = (ellipse.x, ellipse.y), ellipse.q, ellipse.theta
    rows = []
    for inner, outer in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        aperture = (
            EllipticalAnnulus(centre, inner, outer, q * outer, theta=theta)
            if inner > 0
            else EllipticalAperture(centre, outer, q * outer, theta=theta)
        )
        mask = aperture.to_mask(method="exact")
        where, inside = mask.get_overlap_slices(good.shape)
        if where is None:
            rows.append(np.zeros(1 + len(planes)))
            continue
        used = good[where]
        weight = mask.data[inside][used]
        values = planes[(slice(None), *where)][:, used]
        powers = np.stack([weight, weight**2, *[weight] * (len(planes) - 2)])
        rows.append(np.concatenate([[weight.sum()], (powers * values).sum(axis=1)]))
    return np.array(rows)


def _centre_sums(planes: Array, good: NDArray[np.bool_], ellipse: Ellipse, edges: Array) -> Array:
    """Return the same for wide annuli, which contain entire pixels by their centres."""
    y, x = np.nonzero(good)
    number = np.searchsorted(edges, ellipse.radius(x.astype(float), y.astype(float)), "right") - 1
    inside = (number >= 0) & (number < len(edges) - 1)
    number, values = number[inside], planes[:, y[inside], x[inside]]
    columns = [np.ones(len(number)), *values]
    sums = [np.bincount(number, column, minlength=len(edges) - 1) for column in columns]
    return np.array(sums, dtype=float).T
