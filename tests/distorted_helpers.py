"""Distorted profiles as Peng et al. (2010) write them, point by point, and their pixels by sums.

Nothing is shared with the renderer: the coordinates are GALFIT's own steps, the flux is normalised
by the sum over the whole plane, and the PSF is convolved on the fine points.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray
from scipy import fft
from scipy.special import gamma, gammaincinv

Array = NDArray[np.float64]
FINE = 9  # points along each axis of a pixel
DEEP = 15  # of each of these points near the centre
BAR = 0.46  # radian, twice GALFIT's CDEF


def sersic_light(rho: Array, n: float) -> Array:
    """Unit-flux Sersic profile in units of its half-light radius."""
    b = gammaincinv(2 * n, 0.5)
    norm = b ** (2 * n) / (2 * math.pi * n * gamma(2 * n))
    return norm * np.exp(-b * rho ** (1 / n))


def winding(r: Array, v: Mapping[str, float]) -> Array:
    """Rotation, radian, at radius r of the disk."""
    out, r_in, r_out = math.radians(v["rot_angle"]), v["rot_in"], v["rot_out"]
    a = 2 * BAR / (abs(out) + BAR) - 1.00001
    b = (2 - math.atanh(a)) * r_out / (r_out - r_in)
    turn = out * 0.5 * (np.tanh(b * (r / r_out - 1) + 2) + 1)
    if "rot_power" in v:
        return turn * (0.5 * (r / r_out + 1)) ** v["rot_power"]
    return turn * np.log(r / v["rot_scale"] + 1) / math.log(r_out / v["rot_scale"] + 1)


def distorted_rho(dx: Array, dy: Array, v: Mapping[str, float]) -> Array:
    """Distorted radius in units of r_eff, at offsets from the centre."""
    u, w = dx, dy
    if "rot_angle" in v:
        # the disk's nodes lie along x where rot_pa is 0
        angle = np.arctan2(dy, dx) - math.radians(v["rot_pa"])
        r = np.hypot(dx, dy)
        along, across = r * np.cos(angle), r * np.sin(angle) / math.cos(math.radians(v["rot_incl"]))
        r, angle = np.hypot(along, across), np.arctan2(across, along)
        angle = angle - winding(r, v)
        u, w = r * np.cos(angle), r * np.sin(angle)
    pa = math.radians(v["pa"])  # from +y towards -x
    major = -u * math.sin(pa) + w * math.cos(pa)
    minor = -u * math.cos(pa) - w * math.sin(pa)  # anticlockwise from the major axis
    x, y = -major, minor  # GALFIT's x points away from the position angle
    for name, value in v.items():
        if name[0] == "b" and name[1:].isdigit():
            y = y + value * (x / v["r_eff"]) ** int(name[1:])
    c = v.get("c0", 0.0) + 2
    r = (np.abs(x) ** c + np.abs(y / v["q"]) ** c) ** (1 / c)
    theta = np.arctan2(-y / v["q"], x)  # anticlockwise
    factor = np.ones_like(r)
    for name, value in v.items():
        if name.endswith("_amp"):
            m = int(name[1:-4])
            phase = math.radians(v[f"f{m}_phase"] - v["pa"])  # GALFIT's is from the axis
            factor = factor + value * np.cos(m * (theta - phase))
    return r * np.abs(factor) / v["r_eff"]


def truncation(dx: Array, dy: Array, v: Mapping[str, float], kind: str) -> Array:
    """Share of the light that a truncation leaves, by radii where 99 and 1 per cent are left."""
    side = kind.partition("_")[0]
    r_break, r_soft = v[f"{side}_break"], v[f"{side}_break"] + v[f"{side}_soft"]
    if kind in ("inner", "outer_r"):
        r_soft = v[f"{side}_break"] - v[f"{side}_soft"]
    plain = {k: x for k, x in v.items() if k in ("pa", "q") or k.startswith("rot_")} | {
        "r_eff": 1.0
    }
    r = distorted_rho(dx, dy, plain)
    b = 2.65 - 4.98 * r_break / (r_break - r_soft)
    rising = 0.5 * (np.tanh((2 - b) * r / r_break + b) + 1)
    return 1 - rising if kind.endswith("_r") else rising


def light_at(v: Mapping[str, float], profile: Callable[[Array], Array]) -> Callable[..., Array]:
    """Brightness at offsets from the centre, of any normalisation."""
    return lambda dx, dy: profile(distorted_rho(dx, dy, v))


def pixels_of(
    v: Mapping[str, float], light: Callable[..., Array], side: int, sigma: float, wide: int = 4
) -> Array:
    """Pixels of unit total flux, convolved with a Gaussian PSF of width sigma [pix].

    Args:
        v: with x, y.
        light: brightness at offsets from the centre.
        side: of the image, pixels.
        sigma: of the PSF.
        wide: how many sides of the image the flux is summed over.
    """
    margin = int(6 * sigma) + 2
    n = (side + 2 * margin) * FINE
    place = (np.arange(n) + 0.5) / FINE - 0.5 - margin
    x, y = np.meshgrid(place - v["x"], place - v["y"])
    image = light(x, y)
    near = np.argwhere(np.hypot(x, y) < 2.0)
    sub = ((np.arange(DEEP) + 0.5) / DEEP - 0.5) / FINE
    for i, j in near:
        dx, dy = np.meshgrid(x[i, j] + sub, y[i, j] + sub)
        image[i, j] = light(dx, dy).mean()
    reach = wide * side / 2
    far = np.arange(-reach, reach) + 0.5
    fx, fy = np.meshgrid(far, far)
    total = image.sum() / FINE**2
    inside = (np.abs(fx + v["x"] - (side - 1) / 2) < side / 2 + margin) & (
        np.abs(fy + v["y"] - (side - 1) / 2) < side / 2 + margin
    )
    total += light(fx, fy)[~inside].sum()
    k = 2 * np.pi * np.fft.fftfreq(n, 1 / FINE)[:, None]
    ky = 2 * np.pi * np.fft.rfftfreq(n, 1 / FINE)[None]
    blurred = fft.irfft2(fft.rfft2(image) * np.exp(-0.5 * sigma**2 * (k**2 + ky**2)), s=image.shape)
    blocks = blurred.reshape(side + 2 * margin, FINE, side + 2 * margin, FINE).mean(axis=(1, 3))
    return blocks[margin:-margin, margin:-margin] / total
