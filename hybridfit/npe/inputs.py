"""Inputs of the network: views of the pixels, and scalars measured from them.

Everything is in pixels and in units of the noise, with the PSF as an input, so that one set of
weights serves any survey. Large galaxies are rebinned by a power of two, chosen from the pixels,
so that they look like smaller galaxies.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from hybridfit.batch import Batch
from hybridfit.data.cutouts import Cutouts
from hybridfit.detection.background import nominal_centre, sky_level, typical_sigma
from hybridfit.model.prior import Prior
from hybridfit.npe.frame import Frame
from hybridfit.npe.laplace import Laplace
from hybridfit.npe.moments import ORDERS, turned, windowed
from hybridfit.npe.normal_equations import NoiseLevel
from hybridfit.npe.views import (
    BASE,
    EXTREME,
    Base,
    cut,
    effective_psf,
    filled,
    psf_view,
    reflected,
    turned_views,
)

ROUGH = (1.5, 2.4, 3.8, 6.1, 9.8, 15.7, 25.0, 40.0, 64.0)  # cutout pixels, to find the target
FINE = (0.8, 1.3, 2.1, 3.45, 5.6, 9.1, 14.8, 24.0)  # view pixels
PSF_SCALES = (0.8, 1.3, 2.1, 3.45, 5.6, 9.1)
PSF_ORDERS = ((0, 1), (1, 0), (2, 0), (2, 1), (3, 0))
N_ASYMMETRY = 6  # windows in which a galaxy is compared with its mirror image
REBIN_FROM = 10.0  # cutout pixels: a best window wider than this is halved by rebinning
WANDER = 1.0  # of the best window: largest distance of the target from its nominal position
SHARP = 15.0  # power of the signal-to-noise by which windows are averaged: near the best one
DEAD = 1e3  # of the typical sigma: no bright galaxy's own noise comes near it
N_VIEWS = 5
MAX_REBIN = 8  # of galaxies in the widest of the rough windows


@dataclass(frozen=True)
class Inputs(Batch):
    """Inputs of the network for B galaxies.

    Args:
        views: (B, 5, 64, 64) float32: image and mask at one, image and mask at two view pixels a
            step, and the PSF, all in the frame.
        scalars: (B, F) float32.
        frame: the frame of each galaxy in its cutout.
        noise: the noise level, as the scalars describe it.
        laplace: the Gaussian that the refinement found, see `hybridfit.npe.refinement`.
    """

    views: Tensor
    scalars: Tensor
    frame: Frame
    noise: NoiseLevel
    laplace: Laplace | None = None


def make_inputs(cutouts: Cutouts, with_views: bool = True) -> Inputs:
    """Measure the frame of each galaxy, and make the inputs of the network in it.

    Args:
        cutouts: B galaxies of any size; those without a pixel give meaningless numbers.
        with_views: whether the views are made; else they are empty (B, 0, 64, 64).
    """
    cutouts = without_dead_pixels(cutouts)
    sky, noise, nominal = sky_level(cutouts), typical_sigma(cutouts), nominal_centre(cutouts)
    half_width = Prior().position * cutouts.size.amin(dim=1).double().clamp_min(8)
    centre, rebin = _rough_frame(cutouts, sky, noise, nominal, half_width)
    base = cut(cutouts, sky, noise, centre, rebin)
    measured = _measure(base, (centre - base.corner) / rebin[:, None])
    psf, samples = effective_psf(cutouts, rebin)
    frame = Frame(
        centre=base.corner + measured.centre * rebin[:, None],
        angle=measured.angle,
        spread=measured.spread * rebin,
        rebin=rebin.double(),
        noise=noise,
        flux=measured.flux * noise * rebin,
        sky=sky,
        nominal=nominal,
        half_width=half_width,
    )
    seen, optics = _image_scalars(base, measured), _psf_scalars(psf, samples, measured.angle)
    scalars = torch.cat([seen, optics, _frame_scalars(cutouts, frame)], dim=1)
    views = base.data.new_empty(len(cutouts), 0, 64, 64)
    if with_views:
        turned_data = turned_views(base, measured.centre, measured.angle)
        views = torch.cat([turned_data, psf_view(psf, samples, measured.angle)], dim=1)
    scalars = torch.nan_to_num(scalars.float(), 0.0, 0.0, 0.0).clamp(-1e3, 1e3)
    within = torch.exp(_noise_within(measured)).double()
    level = NoiseLevel(noise, within, frame.centre, measured.scale * rebin)
    return Inputs(views, scalars, frame, level)


def without_dead_pixels(cutouts: Cutouts) -> Cutouts:
    """Mask pixels that a survey marks as dead by a huge sigma, which windows would not ignore."""
    usual = typical_sigma(cutouts).to(cutouts.sigma.dtype)[:, None, None]
    dead = cutouts.sigma > DEAD * usual
    return replace(cutouts, mask=cutouts.mask | dead) if bool(dead.any()) else cutouts


@dataclass(frozen=True)
class _Measured:
    """Measured position, size, flux and angle of B galaxies, in view pixels and noise units."""

    data: Tensor  # (B, N, N), masked pixels filled
    centre: Tensor  # (B, 2)
    angle: Tensor  # (B,)
    scale: Tensor  # (B,) of the best window
    spread: Tensor  # (B,)
    flux: Tensor  # (B,)
    noise: Tensor  # (B, S) of the window's flux
    weights: Tensor  # (B, S) that pick the best window
    plain: Tensor  # (B, S, 5, 5)


def _offsets(size: int, centre: Tensor) -> Tensor:
    return torch.arange(size, device=centre.device, dtype=torch.float32) - centre[:, None].float()


def _weights(flux: Tensor, noise: Tensor) -> Tensor:
    """(B, S) weights that pick the window of the highest signal-to-noise, smoothly.

    ``noise`` may be of any scale: that of the sky in a window is in proportion to its width.
    """
    snr = (flux / noise.clamp_min(1e-6)).clamp_min(1e-3)
    return torch.softmax(SHARP * torch.log(snr), dim=1)


def _rough_frame(
    cutouts: Cutouts, sky: Tensor, noise: Tensor, nominal: Tensor, half_width: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the target's rough centre (B, 2), and how many pixels (B,) make one of the view."""
    centre, scale = _find(cutouts, sky, noise, nominal, half_width)
    found = torch.isfinite(centre).all(dim=1) & torch.isfinite(scale)  # NaN is no number of pixels
    centre = torch.where(found[:, None], centre, nominal)
    scale = torch.where(found, scale, ROUGH[0])
    power = torch.ceil(torch.log2(scale / REBIN_FROM)).clamp_min(0)
    return centre, (2**power).long().clamp_max(MAX_REBIN)


def _find(
    cutouts: Cutouts, sky: Tensor, noise: Tensor, nominal: Tensor, half_width: Tensor
) -> tuple[Tensor, Tensor]:
    """Centre (B, 2) and scale (B,) of the target, cutout pixels, from wide windows."""
    level, unit = (v.float()[:, None, None] for v in (sky, 1 / noise))
    data = (cutouts.image - level).mul_(unit).mul_(~cutouts.mask).clamp_(-EXTREME, EXTREME)
    scales = torch.tensor(ROUGH, device=data.device)
    centre = nominal.clone()
    best = scales[:1].expand(len(data)).double()
    for _ in range(3):
        x, y = _offsets(data.shape[2], centre[:, 0]), _offsets(data.shape[1], centre[:, 1])
        plain = windowed(data, x, y, scales, 1)
        weights = _weights(plain[..., 0, 0], scales)
        limit = torch.minimum(0.9 * half_width, WANDER * best.clamp_min(6.0))[:, None]
        centre = nominal + (centre + _step(plain, weights, scales) - nominal).clamp(-limit, limit)
        best = torch.exp((weights * torch.log(scales)).sum(dim=1)).double()
    return centre, best


def _step(plain: Tensor, weights: Tensor, scales: Tensor) -> Tensor:
    """(B, 2) twice the mean offset: in a window as wide as the galaxy it moves by half of it."""
    flux = plain[..., 0, 0]
    safe = torch.where(flux > 0, flux, torch.inf)
    mean = torch.stack([plain[..., 1, 0], plain[..., 0, 1]], dim=-1) / safe[..., None]
    step = 2 * (weights * scales)[..., None] * mean.clamp(-1, 1)
    return step.sum(dim=1).double()


def _measure(base: Base, start: Tensor) -> _Measured:
    """Centre, angle, size and flux in the fine windows."""
    scales = torch.tensor(FINE, device=base.data.device)
    centre, data, size = start, base.data, base.data.shape[-1]
    for i in range(3):
        if i == 1:  # by then the centre is good enough to fill masks with mirrored pixels
            data = filled(base, centre)
        x, y = _offsets(size, centre[:, 0]), _offsets(size, centre[:, 1])
        plain = windowed(data, x, y, scales, 1)
        weights = _weights(plain[..., 0, 0], scales)
        centre = start + (centre + _step(plain, weights, scales) - start).clamp(-8, 8)
    x, y = _offsets(size, centre[:, 0]), _offsets(size, centre[:, 1])
    plain = windowed(data, x, y, scales, 4)
    flux = plain[..., 0, 0]
    noise = windowed(base.variance, x, y, scales / 2**0.5, 0)[..., 0, 0].clamp_min(1e-6).sqrt()
    weights = _weights(flux, noise)
    scale = torch.exp((weights * torch.log(scales)).sum(dim=1)).double()
    real = ((plain[..., 2, 0] - plain[..., 0, 2]) * weights / noise).sum(dim=1)
    imag = (2 * plain[..., 1, 1] * weights / noise).sum(dim=1)
    snr = (weights * (flux / noise).clamp_min(1.0)).sum(dim=1).double()
    bright = (weights * torch.log(torch.sqrt(flux.clamp_min(0) ** 2 + noise**2))).sum(dim=1)
    return _Measured(
        data=data,
        centre=centre,
        angle=0.5 * torch.atan2(imag, real).double(),
        scale=scale,
        spread=(1.5 * scale / snr).clamp(0.003, 3.0),
        flux=2 * torch.exp(bright).double(),
        noise=noise,
        weights=weights,
        plain=plain,
    )


def _parts(value: Tensor, m: int) -> list[Tensor]:
    return [value.real] if m == 0 else [value.real, value.imag]


def _image_scalars(base: Base, measured: _Measured) -> Tensor:
    """Moments of data, noise and masks, and the asymmetry."""
    scales = torch.tensor(FINE, device=base.data.device)
    moments = turned(measured.plain, measured.angle.float(), ORDERS)
    # a noise map made from a model shows that model without noise: so only its level in one
    # window is read, and the sky's noise elsewhere
    flux, noise = moments[0, 0].real, (torch.pi**0.5) * scales
    positive = torch.sqrt(flux.clamp_min(0) ** 2 + noise**2)
    log_flux = torch.log(positive)
    columns = [torch.asinh(flux / noise / 3), log_flux[:, 1:] - log_flux[:, :-1]]
    for m, k in ORDERS[1:]:
        columns += [part / positive for part in _parts(moments[m, k], m)]
    size = base.data.shape[-1]
    x, y = (_offsets(size, measured.centre[:, i]) for i in (0, 1))
    columns.append(_noise_within(measured)[:, None])
    hidden = turned(
        windowed(base.masked.float(), x, y, scales, 2),
        measured.angle.float(),
        ((0, 0), (1, 0), (2, 0)),
    )
    area = 2 * torch.pi * scales**2
    for m, _ in hidden:
        columns += [part / area for part in _parts(hidden[m, 0], m)]
    columns.append(_asymmetry(base, measured, scales[:N_ASYMMETRY]))
    best = torch.log(measured.scale).float()
    columns += [best[:, None], torch.log(measured.spread).float()[:, None]]
    columns.append((torch.log(measured.flux).float() - log_flux.amax(dim=1))[:, None])
    return torch.cat(columns, dim=1)


def _noise_within(measured: _Measured) -> Tensor:
    """(B,) ln of the noise in the best window over that of the sky."""
    scales = torch.tensor(FINE, device=measured.noise.device)
    level = torch.log(measured.noise / (torch.pi**0.5 * scales))
    return (measured.weights * level).sum(dim=1)


def _asymmetry(base: Base, measured: _Measured, scales: Tensor) -> Tensor:
    """(B, S) ln of the squared difference to the mirror image, over that of noise alone."""
    size = base.data.shape[-1]
    inner = slice(size // 4, -(size // 4))  # the windows reach no farther
    data, variance = measured.data[:, inner, inner], base.variance[:, inner, inner]
    centre = measured.centre - size // 4
    x, y = (_offsets(size // 2, centre[:, i]) for i in (0, 1))
    difference = (data - reflected(data, centre)) ** 2 / 2
    odd = windowed(difference, x, y, scales, 0)[..., 0, 0]
    even = windowed(variance, x, y, scales, 0)[..., 0, 0]
    return torch.log((odd / even.clamp_min(1e-6)).clamp(0.05, 1e6))


def _psf_scalars(psf: Tensor, samples: Tensor, angle: Tensor) -> Tensor:
    """Moments of the PSF in the frame, in windows of view pixels."""
    view = torch.tensor(PSF_SCALES, device=psf.device)
    scales = view[None, :] * samples[:, None]
    height, width = psf.shape[-2:]
    zero = torch.zeros(len(psf), device=psf.device)
    x, y = _offsets(width, zero + (width - 1) / 2), _offsets(height, zero + (height - 1) / 2)
    plain = windowed(psf, x, y, scales, 4)
    moments = turned(plain, angle.float(), ORDERS)
    flux = moments[0, 0].real.clamp_min(1e-4)
    columns = [torch.log(flux)]
    for m, k in PSF_ORDERS:
        columns += [part / flux for part in _parts(moments[m, k], m)]
    return torch.cat(columns, dim=1)


def _frame_scalars(cutouts: Cutouts, frame: Frame) -> Tensor:
    """The frame itself: pixel grid, expected centre, rebinning, size of the cutout."""
    offset = (frame.nominal - frame.centre) / frame.rebin[:, None]
    cos, sin = torch.cos(frame.angle), torch.sin(frame.angle)
    along = cos * offset[:, 0] + sin * offset[:, 1]
    across = cos * offset[:, 1] - sin * offset[:, 0]
    phase = 2 * torch.pi * frame.centre
    columns = [
        torch.asinh(along),
        torch.asinh(across),
        torch.log(frame.rebin),
        torch.cos(4 * frame.angle),
        torch.sin(4 * frame.angle),
        torch.cos(phase[:, 0]) + torch.cos(phase[:, 1]),
        # beyond the base nothing is seen
        torch.log((cutouts.size.amin(dim=1).double() / frame.rebin).clamp_max(BASE)),
    ]
    return torch.stack(columns, dim=1).float()
