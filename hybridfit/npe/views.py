"""Views: the pixels around a target, cut, rebinned and turned into the frame of the network."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from hybridfit.data.cutouts import Cutouts

BASE = 128  # view pixels a side of the field of view
SIDE = 64  # pixels a side of each view
EXTREME = 1e9  # of a pixel's noise: no real pixel comes near it, and its powers are finite
PSF_STEP = 0.5  # view pixels per pixel of the PSF's view


@dataclass(frozen=True)
class Base:
    """The surroundings of B targets, in view pixels and units of the noise of one.

    Args:
        data: (B, N, N) image minus sky over the noise, 0 where masked.
        variance: (B, N, N) of it, 1 on the sky.
        masked: (B, N, N) bool, also outside the cutout.
        corner: (B, 2) x, y in cutout pixels of the first view pixel's centre.
    """

    data: Tensor
    variance: Tensor
    masked: Tensor
    corner: Tensor


def cut(
    cutouts: Cutouts, sky: Tensor, noise: Tensor, centre: Tensor, rebin: Tensor, side: int = BASE
) -> Base:
    """Cut ``side`` view pixels around each centre, averaging ``rebin`` x ``rebin`` pixels.

    Args:
        cutouts: B galaxies.
        sky: (B,) flux per pixel to subtract.
        noise: (B,) flux units.
        centre: (B, 2) x, y in cutout pixels; rounded.
        rebin: (B,) int64.
        side: view pixels.
    """
    batch, height, width = cutouts.image.shape
    device = cutouts.image.device
    data = torch.zeros(batch, side, side, device=device)
    variance, masked = torch.ones_like(data), torch.ones_like(data, dtype=torch.bool)
    first = torch.round(centre).long() - (side // 2) * rebin[:, None]
    unit = noise.to(data.dtype)[:, None, None]
    level = sky.to(data.dtype)[:, None, None]
    for b in rebin.unique().tolist():
        rows = (rebin == b).nonzero()[:, 0]
        span = torch.arange(side * b, device=device)
        x, y = first[rows, 0, None] + span, first[rows, 1, None] + span
        inside = ((x >= 0) & (x < width))[:, None, :] & ((y >= 0) & (y < height))[:, :, None]
        ix, iy = x.clamp(0, width - 1)[:, None, :], y.clamp(0, height - 1)[:, :, None]
        flat = (rows[:, None, None] * height + iy) * width + ix
        used = inside & ~cutouts.mask.take(flat)
        value = (cutouts.image.take(flat) - level[rows]).div_(unit[rows]).mul_(used)
        value.clamp_(-EXTREME, EXTREME)
        # masked pixels have a sigma of 1, which may be beyond all bounds in units of the noise
        var = (cutouts.sigma.take(flat) / unit[rows]).square_().masked_fill_(~used, 0.0)
        if b > 1:
            value, var, used = _rebinned(value, var, used, b)
        data[rows] = value.mul_(used)
        variance[rows] = var.masked_fill_(~used, 1.0)
        masked[rows] = ~used
    corner = first.double() + (rebin[:, None].double() - 1) / 2
    return Base(data, variance, masked, corner)


def _rebinned(value: Tensor, variance: Tensor, used: Tensor, b: int) -> tuple[Tensor, ...]:
    """Average b x b pixels of images (B, N b, N b), 0 where not used; return (B, N, N) of each."""
    share = functional.avg_pool2d(used.float()[:, None], b)[:, 0]
    safe = share.clamp_min(1 / b**2)
    # a mean times b has the noise of one pixel, whatever b
    value = functional.avg_pool2d(value[:, None], b)[:, 0] / safe * b
    variance = functional.avg_pool2d(variance[:, None], b)[:, 0] / safe**2
    return value, variance, share > 0.5


def reflected(image: Tensor, centre: Tensor) -> Tensor:
    """Images (B, N, N) turned by 180 degrees about ``centre`` (B, 2), in pixels of the image, to
    the nearest half pixel; 0 outside."""
    batch, height, width = image.shape
    twice = torch.round(2 * centre).long()
    x = twice[:, :1] - torch.arange(width, device=image.device)
    y = twice[:, 1:] - torch.arange(height, device=image.device)
    inside = ((x >= 0) & (x < width))[:, None, :] & ((y >= 0) & (y < height))[:, :, None]
    row = torch.arange(batch, device=image.device)[:, None, None]
    rows = (row * height + y.clamp(0, height - 1)[:, :, None]) * width
    turned = image.take(rows + x.clamp(0, width - 1)[:, None, :])
    return turned.mul_(inside)


def filled(base: Base, centre: Tensor) -> Tensor:
    """Return the data with masked pixels taken from the opposite side of the centre, if it is seen.

    A galaxy is symmetric under a turn by 180 degrees, so that masks spoil its moments less.
    """
    return torch.where(base.masked, reflected(base.data, centre), base.data)


def turned_views(base: Base, centre: Tensor, angle: Tensor) -> Tensor:
    """Views in the frame (B, 4, SIDE, SIDE): image and mask at 1, then at 2 view pixels a step.

    Images as asinh(data) / 3, masks 1 where masked.

    Args:
        base: of B galaxies.
        centre: (B, 2) in pixels of the base.
        angle: (B,) radians, of the frame's x axis.
    """
    fine = torch.stack([base.data, (~base.masked).float()], dim=1)
    coarse = functional.avg_pool2d(fine, 2)
    coarse = torch.cat([2 * coarse[:, :1], coarse[:, 1:]], dim=1)
    views = []
    for image, step, shift in ((fine, 1.0, 0.0), (coarse, 2.0, 0.5)):
        middle = (centre - shift) / step  # pixels of this image
        grid = _frame_grid(middle, angle, torch.ones_like(angle), image.shape[-2:])
        seen = functional.grid_sample(image, grid, align_corners=False)
        views += [arsinh(seen[:, :1]) / 3, 1 - seen[:, 1:]]
    return torch.cat(views, dim=1)


def arsinh(x: Tensor) -> Tensor:
    """``torch.asinh``, which is slow on a CPU."""
    size = x.abs()
    return torch.log(size + torch.sqrt(size * size + 1)) * torch.sign(x)


def _frame_grid(centre: Tensor, angle: Tensor, step: Tensor, sides: torch.Size) -> Tensor:
    """Return where pixels of turned views lie in images, (B, SIDE, SIDE, 2) float32.

    In the coordinates of `functional.grid_sample`, -1 and 1 at the images' edges.

    Args:
        centre: (B, 2) x, y of the views in pixels of the images.
        angle: (B,) radians.
        step: (B,) pixels of the images per pixel of the views.
        sides: height and width of the images.
    """
    height, width = sides
    line = torch.arange(SIDE, device=centre.device, dtype=centre.dtype) - (SIDE - 1) / 2
    steps = 2 * step.to(centre)[:, None] * line  # (B, SIDE)
    cos, sin = torch.cos(angle)[:, None], torch.sin(angle)[:, None]
    middle = (2 * centre + 1) / centre.new_tensor([width, height]) - 1
    # only the sums are as large as a view: they need no more than float32
    row_x, row_y = middle[:, :1] - sin * steps / width, middle[:, 1:] + cos * steps / height
    column_x, column_y = cos * steps / width, sin * steps / height
    x = row_x.float()[:, :, None] + column_x.float()[:, None, :]
    y = row_y.float()[:, :, None] + column_y.float()[:, None, :]
    return torch.stack([x, y], dim=-1)


def effective_psf(cutouts: Cutouts, rebin: Tensor) -> tuple[Tensor, Tensor]:
    """Return PSFs convolved with a view pixel, at their own sampling.

    Args:
        cutouts: B galaxies; a single pixel replaces missing PSFs.
        rebin: (B,) cutout pixels per view pixel.

    Returns:
        psf (B, h, w) and its pixels per view pixel (B,).
    """
    psf = cutouts.psf
    if psf is None:
        psf = torch.zeros(len(cutouts), 33, 33, device=cutouts.image.device)
        psf[:, 16, 16] = 1.0
    height, width = psf.shape[-2:]
    samples = (cutouts.psf_oversampling * rebin).to(psf.dtype)[:, None, None]
    ky = torch.fft.fftfreq(height, device=psf.device)[None, :, None]
    kx = torch.fft.rfftfreq(width, device=psf.device)[None, None, :]
    response = torch.sinc(kx * samples) * torch.sinc(ky * samples)
    # a PSF that includes the pixel already has one cutout pixel's response
    one = cutouts.psf_oversampling.to(psf.dtype)[:, None, None]
    known = torch.sinc(kx * one) * torch.sinc(ky * one)
    response = torch.where(
        cutouts.psf_includes_pixel[:, None, None], response / known.clamp_min(0.2), response
    )
    # one PSF for all is a view of one plane, which MKL of torch 2.8 does not transform
    modes = torch.fft.rfft2(psf.contiguous()) * response
    blurred = torch.fft.irfft2(modes, s=(height, width))
    return blurred, samples[:, 0, 0]


def psf_view(psf: Tensor, samples: Tensor, angle: Tensor) -> Tensor:
    """The PSF in the frame, (B, 1, SIDE, SIDE), its root over that of its peak."""
    batch, height, width = psf.shape
    middle = angle.new_tensor([(width - 1) / 2, (height - 1) / 2]).expand(batch, 2)
    grid = _frame_grid(middle, angle, PSF_STEP * samples, psf.shape[-2:])
    seen = functional.grid_sample(psf[:, None], grid, align_corners=False)
    peak = psf.flatten(1).amax(dim=1).clamp_min(1e-9)[:, None, None, None]
    return (seen / peak).clamp_min(0).sqrt()
