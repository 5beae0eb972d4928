"""Normal equations of a galaxy and a sky about a point, with weights for a network.

Most of a cutout is sky. The profiles and their derivatives are rendered in a window that holds all
but a squared signal to noise of `LEFT_OUT` of the galaxy; pixels beyond it constrain the sky only.
Pixels are in units of the sky's noise, because squares of some surveys' fluxes overflow float32.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from hybridfit.batch import Batch
from hybridfit.data.cutouts import Cutouts
from hybridfit.detection.background import typical_sigma
from hybridfit.model.parameters import ParameterSpace
from hybridfit.model.profiles import find_profile
from hybridfit.npe.robust_weights import robust_weights
from hybridfit.rendering.design_matrix import (
    information_and_gradient,
    linear_columns,
    shape_columns,
)
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
    """Normal equations of B galaxies about a point, by render coordinates, fluxes, sky; float64.

    Args:
        information: (B, C + L, C + L) Fisher matrix.
        gradient: (B, C + L) of the log likelihood.
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
    """The noise of B galaxies as the scalars describe it to a network; all float64.

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


def _zeros(batch: int, total: int, device: torch.device) -> NormalEquations:
    """Return normal equations of ``batch`` galaxies by ``total`` parameters, to be filled."""
    empty = torch.zeros(batch, total, total, dtype=torch.float64, device=device)
    two = empty[:, 0, :2]
    return NormalEquations(empty, empty[:, 0].clone(), two.clone(), two.clone())


def normal_equations(
    coords: Tensor,
    linear: Tensor,
    cutouts: Cutouts,
    noise: NoiseLevel | None = None,
    model_error: float | None = None,
    space: ParameterSpace = ParameterSpace(),
) -> NormalEquations:
    """Return the normal equations of the components of ``space`` and a constant sky.

    With ``noise``, for a network, galaxies much smaller than their cutout are rendered in a window,
    and weights come from the noise level and the model at the point. The noise map is not used
    there: one that was made from a model shows that model without noise, so that a network trained
    on simulated galaxies would learn from it more than an observer knows.

    Args:
        coords: (B, C) float64: x, y [cutout pixels], ln r_circ [ln pix], ln n, eta1, eta2 of each
            component.
        linear: (B, L) float64 fluxes and sky per pixel, image units.
        cutouts: the B galaxies.
        noise: what is known of the noise; None takes the noise map, and whole cutouts.
        model_error: share of its light by which the model may be wrong. Pixels that it explains
            worse get a smaller weight, see `hybridfit.npe.robust_weights`; None trusts all pixels.
        space: whose components are rendered; default one Sersic profile.
    """
    found = _zeros(len(coords), coords.shape[1] + linear.shape[1], coords.device)
    side = max(cutouts.image.shape[-2:])
    sides = torch.full((len(coords),), side, device=coords.device)
    if noise is not None:
        sides = window_sides(coords, linear[:, :-1] / noise.sky[:, None], cutouts, space)
    key = grid_key(cutouts.psf, cutouts.psf_oversampling) * (2 * side) + sides
    for k in key.unique().tolist():
        rows = (key == k).nonzero()[:, 0]
        for some in rows.split(RENDERED_AT_ONCE):
            width = int(sides[some[0]])
            known = None if noise is None else noise[some]
            chosen = cutouts[some]
            made = _rendered(coords[some], linear[some], chosen, width, known, model_error, space)
            for field in fields(NormalEquations):
                getattr(found, field.name)[some] = getattr(made, field.name)
    return found


def window_sides(
    coords: Tensor, flux: Tensor, cutouts: Cutouts, space: ParameterSpace = ParameterSpace()
) -> Tensor:
    """(B,) int64 sides of the windows that hold the galaxies; the cutout's where it is needed.

    What lies beyond counts as squared signal to noise: of the profile without the PSF, out of
    an ellipse within the window, and of a point source of the same flux. Of several components the
    sum of K terms is K times the sum of their squares at most.

    Args:
        coords: (B, C).
        flux: (B, K) in units of the sky's noise in a pixel.
        cutouts: the B galaxies.
        space: of K components.
    """
    height, width = cutouts.image.shape[-2:]
    whole = max(height, width)
    linear = torch.cat([flux, 0 * flux[:, :1]], dim=1)
    theta, _ = space.to_physical(coords, linear, cutouts.zeropoint)
    sides = torch.full((len(coords),), whole, device=coords.device)
    grid = torch.logspace(0, 1, STEPS, SPAN, dtype=torch.float64, device=coords.device)
    for side in sorted((s for s in SIDES if s < WORTH * min(height, width)), reverse=True):
        half = side / 2 - 1.0
        of_psf = _psf_beyond(cutouts, half)
        each = [
            flux[:, k] ** 2 * (_light_beyond(theta, space, k, half, grid) + of_psf)
            for k in range(space.n_components)
        ]
        beyond = each[0] if len(each) == 1 else len(each) * torch.stack(each).sum(dim=0)
        sides = torch.where(beyond < LEFT_OUT, side, sides)
    return sides


def _light_beyond(
    theta: Tensor, space: ParameterSpace, k: int, half: float, grid: Tensor
) -> Tensor:
    """(B,) sum of the squares of a component of unit flux beyond ``half`` pixels.

    Args:
        theta: (B, Q) physical parameters.
        space: of them.
        k: number of the component.
        half: pixels.
        grid: (T,) radii of the integral, in units of ``half``.
    """
    component = space.components[k]
    r_eff, q = (theta[:, space.column(k, name)].clamp_min(1e-3) for name in ("r_eff", "q"))
    shape = [
        theta[:, space.column(k, name), None].clamp(0.15, 12.0)
        if name == "n"
        else theta[:, space.column(k, name), None]
        for name in component.shape
    ]
    rho = (half / r_eff)[:, None] * grid
    light = find_profile(component.profile).evaluate(rho, *shape).nan_to_num(0.0) ** 2
    inside = torch.trapezoid(light * 2 * torch.pi * rho**2, torch.log(grid), dim=1)
    return inside / (q * r_eff**2)


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


@dataclass(frozen=True)
class _Window:
    """The pixels in which galaxies are rendered, in units of the sky's noise.

    Args:
        data: (b, h, w) image less sky.
        used: (b, h, w) 1 where a pixel is used, 0 elsewhere.
        corner: (b, 2) x, y of the first pixel.
        beyond: (b, 4) sums over the pixels beyond, see `_sky_sums`; None where there are none.
    """

    data: Tensor
    used: Tensor
    corner: Tensor
    beyond: Tensor | None = None


def _rendered(
    coords: Tensor,
    linear: Tensor,
    cutouts: Cutouts,
    side: int,
    noise: NoiseLevel | None,
    model_error: float | None,
    space: ParameterSpace,
) -> NormalEquations:
    """The normal equations of galaxies that share a Fourier grid and the window's side."""
    unit = typical_sigma(cutouts) if noise is None else noise.sky
    window = _window(coords, linear[:, -1], cutouts, unit, side, model_error)
    images = _images(coords, cutouts, window, space)
    flux = (linear[:, :-1] / unit[:, None]).float()
    model = flux[:, :1, None] * images[0][:, 0]
    for k in range(1, len(images)):
        model = model + flux[:, k, None, None] * images[k][:, 0]
    if noise is None:
        variance = (cutouts.sigma / unit.float()[:, None, None]).square()
    else:
        slope = _variance_per_flux(model, noise, noise.centre - window.corner)
        variance = 1 + slope * model.clamp_min(0)
    residual = window.data - model
    weight = window.used
    if model_error is not None:
        weight = robust_weights(residual, variance, window.used, model_error * model)
    level = torch.ones_like(window.data[:1])  # (1, h, w), the term of a constant sky
    columns = [*shape_columns(images, flux), *linear_columns(images, level)]
    information, gradient = information_and_gradient(columns, weight / variance, residual)
    if window.beyond is not None:  # where there is sky alone
        information[:, -1, -1] += window.beyond[:, 1]
        gradient[:, -1] += window.beyond[:, 3]
    chi2, kept = _mean_residuals(window, residual, model, variance, weight)
    back = torch.ones_like(gradient)
    back[:, -linear.shape[1] :] = (
        1 / unit[:, None]
    )  # d / d flux and d / d sky in the image's units again
    information = information * back[:, :, None] * back[:, None]
    return NormalEquations(information, gradient * back, chi2, kept)


def _mean_residuals(
    window: _Window, residual: Tensor, model: Tensor, variance: Tensor, weight: Tensor
) -> tuple[Tensor, Tensor]:
    """``chi2`` and ``kept`` of `NormalEquations`, (b, 2) each."""
    square, light = (v.square() / variance * window.used for v in (residual, model))
    totals = _sums(square, weight, window.used)
    if window.beyond is not None:
        totals = totals + window.beyond[:, :3]
    of_all = totals[:, :2] / totals[:, 2:].clamp_min(1)
    shares = _sums(square * light, weight * light, light)
    of_light = shares[:, :2] / shares[:, 2:].clamp_min(1e-30)
    chi2, kept = (torch.stack(pair, dim=1) for pair in zip(of_all.T, of_light.T, strict=True))
    return chi2, kept


def _window(
    coords: Tensor,
    sky: Tensor,
    cutouts: Cutouts,
    unit: Tensor,
    side: int,
    model_error: float | None,
) -> _Window:
    """Cut windows of ``side`` around the galaxies, or take whole cutouts.

    Args:
        coords: (b, C), of which the first component's position counts.
        sky: (b,) flux per pixel.
        cutouts: the b galaxies.
        unit: (b,) noise of the sky in a pixel, flux units.
        side: pixels.
        model_error: as of `normal_equations`.
    """
    scale, level = (v.float()[:, None, None] for v in (unit, sky))
    data, used = (cutouts.image - level) / scale, (~cutouts.mask).float()
    if side >= max(data.shape[-2:]):
        return _Window(data, used, torch.zeros_like(coords[:, :2]))
    room = torch.tensor(data.shape[-2:], device=coords.device).flip(0) - side
    corner = torch.round(coords[:, :2] - (side - 1) / 2).long()
    corner = torch.minimum(corner.clamp_min(0), room)
    span = torch.arange(side, device=coords.device)
    row = torch.arange(len(coords), device=coords.device)[:, None, None]
    y = corner[:, 1, None, None] + span[:, None]
    x = corner[:, 0, None, None] + span[None, :]
    outside = used.index_put((row, y, x), used.new_zeros(()))
    sums = _sky_sums(data, outside, model_error)
    return _Window(data[row, y, x], used[row, y, x], corner, sums)


def _sky_sums(data: Tensor, used: Tensor, model_error: float | None) -> Tensor:
    """Sums over pixels that show sky alone, with a variance of one, (b, 4) float64.

    They are those of squares, of weights, of used pixels, and of the gradient by the sky.
    """
    kept = used
    if model_error is not None:
        kept = robust_weights(data, torch.ones_like(data), used, torch.zeros_like(data))
    return _sums(data.square() * used, kept, used, data * kept)


def _sums(*images: Tensor) -> Tensor:
    """Sums of images (B, H, W) over their pixels, (B, len(images)) float64."""
    return torch.stack([image.sum(dim=(1, 2)) for image in images], dim=1).double()


def _images(
    coords: Tensor, cutouts: Cutouts, window: _Window, space: ParameterSpace
) -> list[Tensor]:
    """Unit-flux images of each component and their derivatives, (B, 1 + D, H, W)."""
    grid = grid_of(cutouts, torch.float32, shape=window.data.shape[-2:])
    transfer, images = transfer_of(cutouts, grid), []
    for component, own in zip(space.components, space.slices(), strict=True):
        x, y = own.start, own.start + 2
        shifted = torch.cat([coords[:, x:y] - window.corner, coords[:, y : own.stop]], dim=1)
        profile = find_profile(component.profile)
        shape = geometry(shifted, profile, torch.float32)
        images.append(component_images(shape, profile, grid, transfer, jacobian=True))
    return images


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
