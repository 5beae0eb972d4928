"""What a picture shows of one galaxy of a finished run: its row, with its pixels read again."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from astropy.table import Row
from numpy.typing import NDArray

from hybridfit.data.cutouts import Cutouts
from hybridfit.data.flags import Flag
from hybridfit.data.positions import in_cutout, to_cutout
from hybridfit.fitting.options import FitOptions
from hybridfit.io.blocks import Block
from hybridfit.io.result_table import with_arcsec
from hybridfit.model.combined import combined_names
from hybridfit.model.parameters import PARAMETERS, SKY_NAMES, ParameterSpace
from hybridfit.pipeline.component_images import images_of_components
from hybridfit.pipeline.measure import model_images
from hybridfit.plots.annuli import Ellipse
from hybridfit.plots.galaxy import GalaxyPicture, Measured
from hybridfit.simulation.psfs import fwhm_of

Array = NDArray[np.float64]

NOISE = 1.4826  # median absolute deviation to standard deviation


def picture_of_cutout(row: Row, cutouts: Cutouts, options: FitOptions) -> GalaxyPicture:
    """Return what is shown of a galaxy whose pixels are at hand.

    Args:
        row: of the table of results; without a fit the picture has no model.
        cutouts: one galaxy.
        options: it was fitted with.
    """
    height, width = (int(v) for v in cutouts.size[0])
    image, sigma, mask = (
        plane[0, :height, :width].cpu().numpy()
        for plane in (cutouts.image, cutouts.sigma, cutouts.mask)
    )
    origin = cutouts.origin[0].cpu().numpy()
    values = torch.from_numpy(values_of(row, options))
    theta = in_cutout(values[None], options.space.names, cutouts.origin.cpu())[0]
    model = model_images(theta[None], cutouts, options.space, options.convolution)[
        0, :height, :width
    ].astype(float)
    known = bool(np.isfinite(model).all())
    components = _component_images(theta, cutouts, options) if known else None
    return GalaxyPicture(
        image=image.astype(float),
        sigma=sigma.astype(float),
        mask=mask,
        model=model if known else None,
        components=None if components is None else components[:, :height, :width],
        psf_fwhm=math.nan if cutouts.psf is None else _psf_fwhm(cutouts),
        pixel_scale=float(cutouts.pixel_scale[0]),
        wcs=cutouts.wcs[0],
        **_of_row(row, options, origin, (height, width)),
    )


def picture_of_block(row: Row, block: Block, options: FitOptions) -> GalaxyPicture:
    """Return what is shown of a galaxy of which a saved block is left.

    The noise is not in a block: the scatter of the residual stands for it, and the picture says
    so.
    """
    residual = (block.image - block.model)[~block.mask]
    noise = float(np.median(np.abs(residual - np.median(residual)))) if residual.size else 1.0
    sigma = np.full(block.image.shape, max(NOISE * noise, 1e-30))
    known = bool(np.isfinite(block.model).all())
    shown = _of_row(row, options, np.array(block.origin, float), block.image.shape)
    shown["summary"] += "; sigma: scatter of the residual"
    return GalaxyPicture(
        image=block.image.astype(float),
        sigma=sigma,
        mask=block.mask,
        model=block.model.astype(float) if known else None,
        components=None if block.components is None else _there(block.components),
        pixel_scale=_pixel_scale(row, options.space),
        wcs=block.wcs,
        **shown,
    )


def _pixel_scale(row: Row, space: ParameterSpace) -> float:
    """Return the pixel scale [arcsec] of a row, NaN where no component tells it."""
    scales = [
        _number(row, space.label(k, "r_eff_arcsec")) / _number(row, space.label(k, "r_eff"))
        for k, component in enumerate(space.components)
        if component.is_ellipse
    ]
    return next((scale for scale in scales if math.isfinite(scale)), math.nan)


def values_of(row: Row, options: FitOptions) -> Array:
    """Return the fitted parameters (Q,), NaN where unknown, in pixels of the image as given."""
    return np.array([_number(row, name) for name in options.space.names])


def _names(space: ParameterSpace) -> list[str]:
    """Name of each component, or its number; and its profile, of a user's module that alone."""
    return [
        f"{component.name or k}: {component.profile.rpartition(':')[2]}"
        for k, component in enumerate(space.components, start=1)
    ]


def _number(row: Row, name: str) -> float:
    """A value of a row, NaN where it is masked or there is no such column."""
    if name not in row.colnames:
        return math.nan
    value = row[name]
    return math.nan if np.ma.is_masked(value) else float(value)


def notes_of(row: Row) -> str:
    """Return the notes on a galaxy; tables of versions before 0.2 call them ``message``."""
    return _text(row, "notes") or _text(row, "message")


def _text(row: Row, name: str) -> str:
    value = row[name] if name in row.colnames else ""
    return "" if np.ma.is_masked(value) else str(value)


def _of_row(row: Row, options: FitOptions, origin: Array, shape: tuple[int, ...]) -> dict[str, Any]:
    """What a row alone tells: sky, shapes, numbers and texts."""
    space = options.space
    flags = int(row["flags"])
    return {
        "id": str(row["id"]),
        "sky": _sky(row, options, shape),
        "ellipses": [_ellipse(row, space, k, origin) for k in range(space.n_components)],
        "names": _names(space),
        "main": _main(row, space),
        "zeropoint": _number(row, "zeropoint"),
        "origin": (float(origin[0]), float(origin[1])),
        "parameters": _parameters(row, options),
        "summary": _summary(row, space),
        "flags": [str(flag.name) for flag in Flag if flags & flag],
        "notes": notes_of(row),
    }


def _main(row: Row, space: ParameterSpace) -> int:
    """Return the number of the brightest component that has a size, else of the brightest."""
    mags = np.array([_number(row, space.label(k, "mag")) for k in range(space.n_components)])
    sized = np.where([c.is_ellipse for c in space.components], mags, np.nan)
    for one in (sized, mags):
        if np.isfinite(one).any():
            return int(np.nanargmin(one))
    return 0


def _ellipse(row: Row, space: ParameterSpace, k: int, origin: Array) -> Ellipse:
    names = ("x", "y", "r_eff", "q", "pa")
    x, y, r_eff, q, pa = (_number(row, space.label(k, name)) for name in names)
    if not space.components[k].is_ellipse:
        r_eff, q, pa = 0.0, 1.0, 0.0
    return Ellipse(*to_cutout(x, y, origin), r_eff, q, pa)


def _sky(row: Row, options: FitOptions, shape: tuple[int, ...]) -> Array:
    """(H, W) of the model's sky, whose slopes are about the cutout's middle."""
    height, width = shape
    level, dx, dy = (
        _number(row, name) if name in options.space.names else 0.0 for name in SKY_NAMES["plane"]
    )
    y, x = np.mgrid[:height, :width] - np.reshape([(height - 1) / 2, (width - 1) / 2], (2, 1, 1))
    return np.nan_to_num(level + dx * x + dy * y)


def _component_images(theta: torch.Tensor, cutouts: Cutouts, options: FitOptions) -> Array | None:
    """(M, H, W) of each component alone, without the sky; None of a single one."""
    if options.space.n_components == 1:
        return None
    images = images_of_components(theta[None], cutouts, options.space, options.convolution)[0]
    return _there(images)


def _there(images: NDArray[np.float32]) -> Array:
    """Leave out components (M, H, W) that a galaxy does not have."""
    return images[np.isfinite(images).all(axis=(1, 2))].astype(float)


def _psf_fwhm(cutouts: Cutouts) -> float:
    fwhm = fwhm_of(cutouts.psf) if cutouts.psf is not None else torch.tensor([math.nan])
    return float(fwhm[0]) / int(cutouts.psf_oversampling[0])


def _parameters(row: Row, options: FitOptions) -> dict[str, list[Measured]]:
    """Parameters of each component under its name; the sky stands with the first."""
    groups: dict[str, list[Measured]] = {}
    space = options.space
    heads = [c.name or text for c, text in zip(space.components, _names(space), strict=True)]
    heads = heads if space.n_components > 1 else [""]
    for k, (head, component) in enumerate(zip(heads, space.components, strict=True)):
        own = ("x", "y", "mag", "r_eff", "r_eff_arcsec", *component.shape, "q", "pa", "pa_sky")
        groups[head] = [
            _measured(row, name, partial(space.label, k))
            for name in own
            if space.label(k, name) in row.colnames
        ]
    if together := combined_names(space):
        groups["sum"] = [_measured(row, name) for name in with_arcsec(together)]
    sky = [_measured(row, name) for name in options.space.names if name in SKY_NAMES["plane"]]
    next(iter(groups.values())).extend(sky)
    return {head: [m for m in group if math.isfinite(m.value)] for head, group in groups.items()}


UNITS = {"r_eff_arcsec": "arcsec", "pa_sky": "deg E of N", "sky": "flux/pix"}


def _measured(row: Row, name: str, label: Callable[[str], str] = str) -> Measured:
    """One parameter as a row quotes it."""
    unit = UNITS.get(name) or (PARAMETERS[name].unit if name in PARAMETERS else "")
    error = _number(row, f"{label('pa' if name == 'pa_sky' else name)}_err")
    short = {"r_eff_arcsec": "r_eff", "pa_sky": "pa", "bulge_to_total": "B/T"}.get(name, name)
    return Measured(short, _number(row, label(name)), error, "" if unit == short else unit)


def _summary(row: Row, space: ParameterSpace) -> str:
    """Quality, chi2, position and zero point in one line."""
    parts = [quality] if (quality := _text(row, "quality")) else []
    chi2, dof = _number(row, "chi2"), _number(row, "dof")
    if dof > 0 and math.isfinite(chi2):
        parts.append(f"chi2/dof {chi2 / dof:.2f} ({dof:.0f} dof)")
    ra, dec = (_number(row, space.label(0, name)) for name in ("ra", "dec"))
    if math.isfinite(ra) and math.isfinite(dec):
        parts.append(f"RA {ra:.5f}, Dec {dec:+.5f} deg (ICRS)")
    zeropoint = _number(row, "zeropoint")
    if math.isfinite(zeropoint):
        parts.append(f"zero point {zeropoint:.3f} mag")
    elif "zeropoint" in row.colnames:
        parts.append("magnitudes are instrumental")
    return "; ".join(parts)
