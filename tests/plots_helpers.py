"""Galaxies to be drawn: ordinary ones and all that may be wrong with them."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from astropy.table import Table
from astropy.wcs import WCS

from hybridfit import plots

SIDE = 48
Y, X = np.mgrid[:SIDE, :SIDE].astype(float)
SHAPE = plots.Ellipse(23.0, 25.0, 4.0, 0.6, 30.0)


def sky_wcs() -> WCS:
    made = WCS(naxis=2)
    made.wcs.ctype, made.wcs.crval, made.wcs.crpix = ["RA---TAN", "DEC--TAN"], [10.0, 5.0], [24, 24]
    made.wcs.cd = np.array([[-5e-5, 1e-5], [1e-5, 5e-5]])
    return made


def picture(**changed) -> plots.GalaxyPicture:
    """One galaxy of a single component, with everything known."""
    light = 40 * np.exp(-1.68 * SHAPE.radius(X, Y) / SHAPE.r_eff)
    noise = np.random.default_rng(1).normal(size=light.shape)
    whole = plots.GalaxyPicture(
        id="sim0001",
        image=10 + light + noise,
        sigma=np.ones_like(light),
        mask=(X > 40) & (Y < 8),
        model=10 + light,
        sky=10.0,
        ellipses=[SHAPE],
        names=["1: sersic"],
        psf_fwhm=3.0,
        pixel_scale=0.2,
        zeropoint=25.0,
        wcs=sky_wcs(),
        origin=(100.0, 200.0),
        parameters={"": [plots.Measured("x", 123.0, 0.02, "pix"), plots.Measured("n", 1.02, 0.1)]},
        summary="certified; chi2/dof 1.01",
        flags=["SIGMA_ESTIMATED"],
        notes="a note",
    )
    return replace(whole, **changed)


def two_components() -> plots.GalaxyPicture:
    one = picture()
    light = one.model - one.sky
    return picture(
        components=np.stack([0.3 * light, 0.7 * light]),
        ellipses=[replace(SHAPE, r_eff=1.5, q=0.9), SHAPE],
        names=["1: sersic", "2: exponential"],
        main=1,
        parameters={
            f"{k}: sersic": [plots.Measured("mag", 20.0 + k, 0.1), plots.Measured("n", 1.0 * k)]
            for k in (1, 2)
        },
    )


def cropped(height: int, width: int, **changed) -> plots.GalaxyPicture:
    """The same pixels repeated or cut to another size, the shape about their middle."""
    one = picture()
    planes = {
        name: np.resize(getattr(one, name), (height, width))
        for name in ("image", "sigma", "mask", "model")
    }
    shape = replace(SHAPE, x=width / 2, y=height / 2)
    return replace(one, **planes, ellipses=[shape], **changed)


NAN = np.full((SIDE, SIDE), math.nan)
PICTURES = {
    "ordinary": picture(),
    "two components": two_components(),
    "nothing known": picture(wcs=None, pixel_scale=math.nan, zeropoint=math.nan, psf_fwhm=math.nan),
    "no zero point": picture(zeropoint=math.nan),
    "broken wcs": picture(wcs=object()),
    "NaN pixels": picture(image=np.where(X > 30, math.nan, picture().image)),
    "all masked": picture(mask=np.ones((SIDE, SIDE), bool)),
    "failed": picture(model=None, ellipses=[replace(SHAPE, x=math.nan)], parameters={}),
    "no light": picture(image=10 + 0 * X, model=10 + 0 * X),
    "negative": picture(image=9 - picture().image, model=10 + 0 * X),
    "zero sigma": picture(sigma=0 * X),
    "NaN sigma": picture(sigma=NAN),
    "tiny galaxy": picture(ellipses=[replace(SHAPE, r_eff=1e-3)]),
    "huge galaxy": picture(ellipses=[replace(SHAPE, r_eff=1e9)]),
    "needle": picture(ellipses=[replace(SHAPE, q=0.02)]),
    "outside": picture(ellipses=[replace(SHAPE, x=-1e4)]),
    "one pixel": cropped(1, 1),
    "flat": cropped(12, 90),
    "tall": cropped(90, 12),
    "large": cropped(300, 400),
    "bright": picture(image=1e12 * picture().image, model=1e12 * picture().model),
    "faint": picture(image=1e-12 * X, model=1e-12 * X, sky=0.0, sigma=1e-12 + 0 * X),
    "strange id": picture(id="a$b^{c}$ \\frac \u4e16\u754c \n" + "long" * 60),
    "many flags": picture(flags=[f"A_FLAG_WITH_A_NAME_{k}" for k in range(32)]),
    "long notes": picture(notes="word $ " * 400),
    "ten components": picture(
        parameters={f"{k}: sersic": [plots.Measured("mag", 20.0, 0.1)] for k in range(10)}
    ),
}


def tables(n: int = 20) -> tuple[Table, Table]:
    rng = np.random.default_rng(2)
    truth = Table({name: rng.uniform(1, 5, n) for name in plots.LABELS})
    truth["id"] = [f"g{i}" for i in range(n)]
    table = truth.copy()
    for name in plots.LABELS:
        table[name] += rng.normal(0, 0.1, n)
        table[f"{name}_err"] = 0.1
    table["flags"] = np.arange(n) % 5 // 4
    return table[::-1], truth
