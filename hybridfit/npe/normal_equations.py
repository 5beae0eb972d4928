"""Normal equations of one Sersic profile and a sky: what the pixels say near a point.

Most of a cutout is sky. The profile and its derivatives are rendered in a window, which holds all
but a squared signal to noise of `LEFT_OUT` of the galaxy; the pixels beyond tell of the sky. Pixels
are taken in units of the sky's noise: squares of some surveys' fluxes are beyond float32.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from hybridfit.data.batch import Batch
from hybridfit.data.cutouts import Cutouts
from hybridfit.detection.background import typical_sigma
from hybridfit.model.parameters import ParameterSpace
from hybridfit.model.profiles import Sersic
from hybridfit.npe.robust_weights import robust_weights
from hybridfit.rendering.grid import grid_key, grid_of
from hybridfit.rendering.kernels import component_images, geometry
from hybridfit.rendering.transfer import transfer_of

SIDES = (32, 48, 64, 96, 128, 192, 256)  # pixels, of windows
WORTH = 0.8  # of the cutout's side, above which a window saves too little
STEEPEST = 1e4  # the model's own noise at its brightest, in units of the sky's variance
LEFT_OUT = 0.1  # squared signal to noise beyond a window
RENDERED_AT_ONCE = 16
STEPS, SPAN = 24, 30.0  # of the integral over the light beyond a radius


@dataclass(frozen=True)
class NormalEquations(Batch):
    """Of B galaxies' render coordinates, flux and sky, about a point; float64.

    Args:
        information: (B, 8, 8) Fisher matrix.
        gradient: (B, 8) of the log likelihood.
        chi2: (B, 2) mean squared residual over the noise: of all pixels, and weighted by the
            galaxy's squared signal to noise in them.
        kept: (B, 2) share of their weight that pixels kept, in the same means.
    """

    information: Tensor
    gradient: Tensor
    chi2: Tensor
    kept: Tensor


@dataclass(frozen=True)
class NoiseLevel(Batch):
    """What scalars tell a network of the noise of B galaxies; all float64.

    Args:
        sky: (B,) typical sigma of a pixel, flux units.
        within: (B,) noise in the galaxy's window over that.
        centre: (B, 2) x, y of the window, cutout pixels.
        scale: (B,) of the window, cutout pixels.
    """

    sky: Tensor
    within: Tensor
    centre: Tensor
    scale: Tensor


def normal_equations(
    coords: Tensor,
    linear: Tensor,
    cutouts: Cutouts,
    noise: NoiseLevel | None = None,
    model_error: float | None = None,
) -> NormalEquations:
    """Return the normal equations of one Sersic profile and a constant sky.

    For a network (``noise``) galaxies much smaller than their cutout are rendered in a window, and
    weights are those of the noise's level and of the light at the point itself. For a noise map
    that was made from a model shows that model without noise: its pixels as weights would tell a
    network of simulated galaxies more than an observer knows.

    Args:
        coords: (B, 6) float64: x, y [cutout pixels], ln r_circ [ln pix], ln n, eta1, eta2.
        linear: (B, 2) float64 flux and sky per pixel, image units.
        cutouts: the B galaxies.
        noise: what is known of the noise; None takes the noise map, and whole cutouts.
        model_error: share of its light by which the model may be wrong. Pixels that it explains
            worse get a smaller weight, see `hybridfit.npe.robust_weights`; None trusts all pixels.
    """
    total = coords.shape[1] + linear.shape[1]
    empty = torch.zeros(len(coords), total, total, dtype=torch.float64, device=coords.device)
    two = empty[:, 0, :2]
    found = NormalEquations(empty, empty[:, 0].clone(), two.clone(), two.clone())
    side = max(cutouts.image.shape[-2:])
    sides = torch.full((len(coords),), side, device=coords.device)
    if noise is not None:
        sides = window_sides(coords, linear[:, 0] / noise.sky, cutouts)
    key = grid_key(cutouts.psf, cutouts.psf_oversampling) * (2 * side) + sides
    for k in key.unique().tolist():
        rows = (key == k).nonzero()[:, 0]
        for some in rows.split(RENDERED_AT_ONCE):
            width = int(sides[some[0]])
            known = None if noise is None else noise[some]
            chosen = cutouts[some.tolist()]
            made = _rendered(coords[some], linear[some], chosen, width, known, model_error)
            for field in fields(NormalEquations):
                getattr(found, field.name)[some] = getattr(made, field.name)
    return found


def window_sides(coords: Tensor, flux: Tensor, cutouts: Cutouts) -> Tensor:
    """(B,) int64 sides of the windows that hold the galaxies; the cutout's where it is needed.

    What lies beyond counts as squared signal to noise: of the profile without the PSF, out of
    an ellipse within the window, and of a point source of the same flux.

    Args:
        coords: (B, 6).
        flux: (B,) in units of the sky's noise in a pixel.
        cutouts: the B galaxies.
    """
    height, width = cutouts.image.shape[-2:]
    whole = max(height, width)
    space = ParameterSpace()
    theta, _ = space.to_physical(coords, torch.stack([flux, 0 * flux], dim=1), cutouts.zeropoint)
    r_eff, n, q = (theta[:, i].clamp_min(1e-3) for i in (3, 4, 5))
    bright = flux**2
    sides = torch.full((len(coords),), whole, device=coords.device)
    grid = torch.logspace(0, 1, STEPS, SPAN, dtype=torch.float64, device=coords.device)
    for side in sorted((s for s in SIDES if s < WORTH * min(height, width)), reverse=True):
        half = side / 2 - 1.0
        rho = (half / r_eff)[:, None] * grid
        light = Sersic().evaluate(rho, n[:, None].clamp(0.15, 12.0)).nan_to_num(0.0) ** 2
        beyond = torch.trapezoid(light * 2 * torch.pi * rho**2, torch.log(grid), dim=1)
        beyond = bright * (beyond / (q * r_eff**2) + _psf_beyond(cutouts, half))
        sides = torch.where(beyond < LEFT_OUT, side, sides)
    return sides


def _psf_beyond(cutouts: Cutouts, radius: float) -> Tensor:
    """(B,) sum of the PSF's squares beyond ``radius`` cutout pixels, for unit flux."""
    if cutouts.psf is None:
        return torch.zeros(len(cutouts), dtype=torch.float64, device=cutouts.image.device)
    height, width = cutouts.psf.shape[-2:]
    y = torch.arange(height, device=cutouts.psf.device) - (height - 1) / 2
    x = torch.arange(width, device=cutouts.psf.device) - (width - 1) / 2
    far = torch.hypot(x[None, :], y[:, None])
    samples = cutouts.psf_oversampling.double()
    outside = far[None] > (radius * samples)[:, None, None]
    # a sample is a share 1 / samples^2 of a pixel, whose value is the sum of its samples'
    return (cutouts.psf.double().square() * outside).sum(dim=(1, 2)) * samples**2


def _rendered(
    coords: Tensor,
    linear: Tensor,
    cutouts: Cutouts,
    side: int,
    noise: NoiseLevel | None,
    model_error: float | None,
) -> NormalEquations:
    """The normal equations of galaxies that share a Fourier grid and the window's side."""
    unit = typical_sigma(cutouts) if noise is None else noise.sky
    flux = (linear[:, 0] / unit).float()[:, None, None]
    scale, sky = (v.float()[:, None, None] for v in (unit, linear[:, 1]))
    rest, used = (cutouts.image - sky) / scale, (~cutouts.mask).float()
    corner, beyond = torch.zeros_like(coords[:, :2]), None
    if side < max(cutouts.image.shape[-2:]):
        corner, y, x = _window(coords, cutouts, side)
        row = torch.arange(len(coords), device=coords.device)[:, None, None]
        beyond = _beyond(rest, used.index_put((row, y, x), used.new_zeros(())), model_error)
        rest, used = rest[row, y, x], used[row, y, x]
    images = _images(
        torch.cat([coords[:, :2] - corner, coords[:, 2:]], dim=1), cutouts, rest.shape[-2:]
    )
    model = flux * images[:, 0]
    if noise is None:
        variance = (cutouts.sigma / scale).square()
    else:
        variance = 1 + _variance_per_flux(model, noise, noise.centre - corner) * model.clamp_min(0)
    residual = rest - model
    weight = (
        used
        if model_error is None
        else robust_weights(residual, variance, used, model_error * model)
    )
    information, gradient = _products(images, flux, residual, weight / variance)
    square, light = (v.square() / variance * used for v in (residual, model))
    totals = _sums(square, weight, used)
    if beyond is not None:
        information[:, -1, -1] += beyond[:, 1]
        gradient[:, -1] += beyond[:, 3]
        totals = totals + beyond[:, :3]
    of_all = totals[:, :2] / totals[:, 2:].clamp_min(1)
    shares = _sums(square * light, weight * light, light)
    of_light = shares[:, :2] / shares[:, 2:].clamp_min(1e-30)
    chi2, kept = (torch.stack(pair, dim=1) for pair in zip(of_all.T, of_light.T, strict=True))
    back = torch.ones_like(gradient)
    back[:, -2:] = 1 / unit[:, None]  # d / d flux and d / d sky in the image's units again
    information = information * back[:, :, None] * back[:, None]
    return NormalEquations(information, gradient * back, chi2, kept)


def _sums(*images: Tensor) -> Tensor:
    """Sums of images (B, H, W) over their pixels, (B, len(images)) float64."""
    return torch.stack([image.sum(dim=(1, 2)) for image in images], dim=1).double()


def _beyond(rest: Tensor, used: Tensor, model_error: float | None) -> Tensor:
    """Of the pixels beyond a window, in which there is sky alone with a variance of one: sums of
    squares, of weights, of used pixels, and of what they say about the sky, (B, 4) float64."""
    kept = used
    if model_error is not None:
        kept = robust_weights(rest, torch.ones_like(rest), used, torch.zeros_like(rest))
    return _sums(rest.square() * used, kept, used, rest * kept)


def _products(
    images: Tensor, flux: Tensor, residual: Tensor, weight: Tensor
) -> tuple[Tensor, Tensor]:
    """J^T W J (B, 8, 8) and J^T W r (B, 8) of the images and derivatives (B, 7, H, W), float64."""
    columns = torch.cat(
        [images[:, 1:] * flux[:, None], images[:, :1], torch.ones_like(images[:, :1])], dim=1
    ).flatten(2)
    weighed = columns * weight.flatten(1)[:, None]
    gradient = (weighed @ residual.flatten(1)[:, :, None])[:, :, 0]
    return (weighed @ columns.mT).double(), gradient.double()


def _images(coords: Tensor, cutouts: Cutouts, sides: torch.Size) -> Tensor:
    """Unit-flux images of the galaxies and their derivatives, (B, 7, H, W)."""
    grid = grid_of(cutouts, torch.float32, shape=sides)
    transfer = transfer_of(cutouts, grid)
    profile = Sersic()
    shape = geometry(coords, profile, torch.float32)
    return component_images(shape, profile, grid, transfer, jacobian=True)


def _variance_per_flux(model: Tensor, noise: NoiseLevel, centre: Tensor) -> Tensor:
    """Variance per unit model flux (B, 1, 1), in units of the sky's noise."""
    height, width = model.shape[-2:]
    y = torch.arange(height, device=model.device) - centre[:, 1, None].float()
    x = torch.arange(width, device=model.device) - centre[:, 0, None].float()
    wide = noise.scale.float()[:, None]
    window = torch.exp(-((y / wide) ** 2))[:, :, None] * torch.exp(-((x / wide) ** 2))[:, None]
    light = (model * window).sum(dim=(1, 2)) / window.sum(dim=(1, 2)).clamp_min(1e-6)
    excess = (noise.within.float().square() - 1).clamp_min(0)
    # without light in the window the estimate is wrong, and its noise does not matter
    slope = torch.where(light > 0, excess / light.clamp_min(1e-30), 0.0)
    most = STEEPEST / model.amax(dim=(1, 2)).clamp_min(1e-30)
    return torch.minimum(slope, most)[:, None, None]


def _window(coords: Tensor, cutouts: Cutouts, side: int) -> tuple[Tensor, Tensor, Tensor]:
    """Corners (B, 2) of windows around the galaxies, and their pixels' rows and columns."""
    room = torch.tensor(cutouts.image.shape[-2:], device=coords.device).flip(0) - side
    corner = torch.round(coords[:, :2] - (side - 1) / 2).long()
    corner = torch.minimum(corner.clamp_min(0), room)
    span = torch.arange(side, device=coords.device)
    y = corner[:, 1, None, None] + span[:, None]
    x = corner[:, 0, None, None] + span[None, :]
    return corner, y, x
