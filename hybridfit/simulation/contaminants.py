"""Contaminants of simulated fields: neighbours, masks, arms and bars, artefacts.

Each function takes the fields that it concerns (a subset of a batch) and returns new arrays.
Coordinates are in cutout pixels. Lengths are in pixels, fluxes in units of the galaxy's or of the
sky's noise, so that nothing depends on the flux unit.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hybridfit.simulation.psfs import SIGMA
from hybridfit.simulation.random_numbers import Random, Range, per_image


def _pixels(side: int, device: torch.device) -> tuple[Tensor, Tensor]:
    index = torch.arange(side, dtype=torch.float32, device=device)
    return index, index[:, None]


def structured(image: Tensor, theta: Tensor, fwhm: Tensor, random: Random) -> Tensor:
    """Give galaxies of unit flux spiral arms, a bar, a ring or clumps.

    Arms modulate the image; the others are added light, 2-15 % of the flux. All fade where the
    PSF would wash them out.

    Args:
        image: (B, S, S) unit flux.
        theta: (B, 8) physical parameters of it.
        fwhm: (B,) of the PSF.
        random: numbers.
    """
    kind = random.one_of((0.5, 0.2, 0.1, 0.2), len(image))
    result = image.clone()
    for i, make in enumerate((_arms, _bar, _ring, _clumps)):
        rows = (kind == i).nonzero()[:, 0]
        if len(rows):
            result[rows] = make(image[rows], theta[rows], fwhm[rows], random)
    return result


def _in_plane(theta: Tensor, side: int) -> tuple[Tensor, Tensor, Tensor]:
    """Coordinates along the major and minor axis (B, S, S), and the disc's axis ratio."""
    x, y = _pixels(side, theta.device)
    dx, dy = x - per_image(theta[:, 0]), y - per_image(theta[:, 1])
    pa = torch.deg2rad(theta[:, 6])
    cos, sin = per_image(torch.cos(pa)), per_image(torch.sin(pa))
    return dy * cos - dx * sin, dx * cos + dy * sin, per_image(theta[:, 5].clamp_min(0.3))


def _arms(image: Tensor, theta: Tensor, fwhm: Tensor, random: Random) -> Tensor:
    """Logarithmic spirals: 1 + A cos(m (angle - cot(pitch) ln r)) times the image."""
    n = len(image)
    major, minor, q = _in_plane(theta, image.shape[-1])
    minor = minor / q
    r2 = (major**2 + minor**2).clamp_min(1e-4)
    arms = per_image(1.0 + random.one_of((0.1, 0.65, 0.15, 0.1), n))
    winding = 1 / torch.tan(torch.deg2rad(per_image(random.uniform((12.0, 40.0), n))))
    winding = winding * per_image(1.0 - 2 * random.integers(2, n))
    phase = arms * (torch.atan2(minor, major) - 0.5 * winding * torch.log(r2))
    phase = phase + per_image(random.uniform((0, 2 * math.pi), n))
    # a wave of length l is damped by exp(-2 pi^2 sigma^2 / l^2), and here l is r / waves
    waves2 = arms**2 * (1 + winding**2) / (4 * math.pi**2)
    washed = 2 * math.pi**2 * (per_image(SIGMA * fwhm) / q) ** 2 * waves2
    core = (0.3 * per_image(theta[:, 3])) ** 2
    fade = torch.exp(-washed / r2) * (1 - torch.exp(-r2 / (2 * core)))
    amplitude = per_image(random.uniform((0.15, 0.6), n))
    return image * (1 + amplitude * fade * torch.cos(phase))


def _bar(image: Tensor, theta: Tensor, fwhm: Tensor, random: Random) -> Tensor:
    """A Gaussian of axis ratio 0.15-0.4 at any angle in the disc, about r_eff long."""
    n = len(image)
    major, minor, q = _in_plane(theta, image.shape[-1])
    angle = per_image(random.uniform((0, math.pi), n))
    along = torch.cos(angle) * major + torch.sin(angle) * minor / q
    across = torch.cos(angle) * minor / q - torch.sin(angle) * major
    blur = per_image(SIGMA * fwhm) ** 2
    length = per_image(random.uniform((0.25, 0.7), n) * theta[:, 3]) ** 2
    width = length * per_image(random.uniform((0.15, 0.4), n)) ** 2
    bar = torch.exp(-0.5 * (along**2 / (length + blur) + across**2 / (width + blur)))
    return image + _share(bar, random)


def _ring(image: Tensor, theta: Tensor, fwhm: Tensor, random: Random) -> Tensor:
    n = len(image)
    major, minor, q = _in_plane(theta, image.shape[-1])
    r = torch.sqrt(major**2 + (minor / q) ** 2)
    radius = per_image(random.uniform((0.6, 1.8), n) * theta[:, 3])
    width2 = (0.12 * radius) ** 2 + per_image(SIGMA * fwhm) ** 2
    return image + _share(torch.exp(-0.5 * (r - radius) ** 2 / width2), random)


def _clumps(image: Tensor, theta: Tensor, fwhm: Tensor, random: Random) -> Tensor:
    """Up to six unresolved knots within two r_eff."""
    n = len(image)
    major, minor, q = _in_plane(theta, image.shape[-1])
    clumps = torch.zeros_like(image)
    sigma2 = per_image(SIGMA * fwhm) ** 2 + 0.1  # and the pixel
    for _ in range(6):
        radius = random.uniform((0.2, 2.0), n) * theta[:, 3]
        angle = random.uniform((0, 2 * math.pi), n)
        a, b = per_image(radius * torch.cos(angle)), per_image(radius * torch.sin(angle)) * q
        bright = per_image(random.log_uniform((0.03, 1.0), n))
        clumps += bright * torch.exp(-0.5 * ((major - a) ** 2 + (minor - b) ** 2) / sigma2)
    return image + _share(clumps, random)


def _share(light: Tensor, random: Random) -> Tensor:
    total = light.sum(dim=(-2, -1), keepdim=True).clamp_min(1e-6)
    return light / total * per_image(random.log_uniform((0.02, 0.15), len(light)))


def tapered(image: Tensor) -> Tensor:
    """Bring (B, S, S) smoothly to zero at the edge, so that it can be moved without a step."""
    side = image.shape[-1]
    x, y = _pixels(side, image.device)
    middle = (side - 1) / 2
    r = torch.sqrt((x - middle) ** 2 + (y - middle) ** 2) / (middle + 0.5)
    t = ((1 - r) / 0.4).clamp(0, 1)
    return image * (t * t * (3 - 2 * t))


def moved(source: Tensor, rows: Tensor, x: Tensor, y: Tensor, side: int) -> Tensor:
    """Put images' middles onto whole pixels of empty cutouts.

    Args:
        source: (M, h, w).
        rows: (B,) of ``source`` to take.
        x, y: (B,) int64, where pixel h // 2, w // 2 shall come to lie; may be outside.
        side: of the cutouts.

    Returns:
        (B, side, side).
    """
    height, width = source.shape[-2:]
    index = torch.arange(side, device=source.device)
    i, j = index - y[:, None] + height // 2, index - x[:, None] + width // 2  # (B, side)
    inside = ((i >= 0) & (i < height))[:, :, None] & ((j >= 0) & (j < width))[:, None, :]
    i, j = i.clamp(0, height - 1), j.clamp(0, width - 1)
    flat = (rows[:, None] * height + i)[:, :, None] * width + j[:, None, :]
    return source.reshape(-1)[flat] * inside


def _places(theta: Tensor, fwhm: Tensor, side: int, random: Random) -> tuple[Tensor, Tensor]:
    """Return whole pixels x, y (B, 4) around galaxies, see `neighbours`."""
    n = len(theta)
    nearest = torch.maximum(theta[:, 3], 1.5 * fwhm).clamp_max(0.3 * side)[:, None]
    distance = nearest + (0.65 * side - nearest) * random.uniform((0, 1), n, 4)
    angle = random.uniform((0, 2 * math.pi), n, 4)
    x = torch.round(theta[:, :1] + distance * torch.cos(angle)).long()
    y = torch.round(theta[:, 1:2] + distance * torch.sin(angle)).long()
    return x, y


def neighbours(
    galaxies: Tensor,
    partner: Tensor,
    psf: Tensor,
    theta: Tensor,
    fwhm: Tensor,
    flux: Range,
    random: Random,
) -> Tensor:
    """Return one to four other sources in each cutout, (B, S, S) in units of the galaxy's flux.

    Sources are other galaxies of the batch, or points, moved by whole pixels. Their distance is
    at least about r_eff or 1.5 FWHM of the PSF; some have their middle outside the cutout.

    Args:
        galaxies: (M, S, S) of unit flux, `tapered`, convolved with the fields' PSFs.
        partner: (B, 4) rows of ``galaxies`` to take.
        psf: (B, h, w).
        theta: (B, 8) of the galaxies in the cutouts.
        fwhm: (B,) of the PSFs.
        flux: limits of a source's flux, log-uniform.
        random: numbers.
    """
    n, side = len(theta), galaxies.shape[-1]
    count = 1 + random.one_of((0.45, 0.3, 0.15, 0.1), n)
    points = random.uniform((0, 1), n, 4) < 0.4
    x, y = _places(theta, fwhm, side, random)
    bright = random.log_uniform(flux, n, 4).float()
    result = galaxies.new_zeros(n, side, side)
    stars = tapered(psf)
    for k in range(4):
        for is_point in (True, False):
            rows = ((count > k) & (points[:, k] == is_point)).nonzero()[:, 0]
            if not len(rows):
                continue
            source, which = (stars, rows) if is_point else (galaxies, partner[rows, k])
            added = moved(source, which, x[rows, k], y[rows, k], side)
            result[rows] += bright[rows, k, None, None] * added
    return result


def grown(mask: Tensor) -> Tensor:
    """Dilate masks (B, S, S) by a pixel to each side, the corners too."""
    wide = mask.clone()
    wide[:, 1:] |= mask[:, :-1]
    wide[:, :-1] |= mask[:, 1:]
    result = wide.clone()
    result[:, :, 1:] |= wide[:, :, :-1]
    result[:, :, :-1] |= wide[:, :, 1:]
    return result


def neighbour_masks(light: Tensor, galaxy: Tensor, sigma: Tensor, random: Random) -> Tensor:
    """Mask neighbours as a segmentation does: where they stand out, and not the galaxy itself.

    Args:
        light: (B, S, S) noise-free flux of the neighbours.
        galaxy: (B, S, S) noise-free flux of the galaxy.
        sigma: (B, S, S) noise.
        random: numbers.
    """
    n = len(light)
    threshold = per_image(random.log_uniform((0.2, 1.5), n))
    share = per_image(random.log_uniform((0.05, 0.5), n))
    found = (light > threshold * sigma) & (light > share * galaxy)
    found = grown(found)
    return found | (random.chance(0.5, n)[:, None, None] & grown(found))


def masks_through(theta: Tensor, side: int, random: Random) -> Tensor:
    """Masks (B, side, side) that cut the galaxy: bad columns and bleeds, strips, discs."""
    n = len(theta)
    x, y = _pixels(side, theta.device)
    reach = theta[:, 3].clamp(2.0, 0.25 * side)
    dx, dy = x - per_image(theta[:, 0]), y - per_image(theta[:, 1])
    kind = random.one_of((0.4, 0.2, 0.4), n)
    right = random.integers(4, n) * (math.pi / 2)
    angle = torch.where(kind == 0, right, random.uniform((0, 2 * math.pi), n))
    distance = random.uniform((0.0, 1.5), n) * reach
    across = per_image(torch.cos(angle)) * dx + per_image(torch.sin(angle)) * dy
    along = per_image(torch.cos(angle)) * dy - per_image(torch.sin(angle)) * dx
    across = across - per_image(distance)
    width = torch.where(
        kind == 2, random.uniform((0.2, 1.0), n) * reach, random.uniform((0.5, 2.5), n)
    )
    # half of the strips end at the galaxy, as bleeds and diffraction spikes do
    ends = per_image(torch.where(random.chance(0.5, n), 0.0, -2.0 * side) - reach)
    strip = (across.abs() <= per_image(width)) & (along >= ends)
    disc = across**2 + along**2 <= per_image(width) ** 2
    return torch.where((kind == 2)[:, None, None], disc, strip)


def gradients(n: int, side: int, largest: Range, random: Random) -> Tensor:
    """Linear skies (n, side, side), 0 in the middle, in units of the sky's noise.

    Args:
        n: how many.
        side: pixels.
        largest: limits of the rise from one side to the other, log-uniform.
        random: numbers.
    """
    x, y = _pixels(side, random.device)
    rise, angle = random.log_uniform(largest, n) / side, random.uniform((0, 2 * math.pi), n)
    middle = (side - 1) / 2
    along_x, along_y = per_image(rise * torch.cos(angle)), per_image(rise * torch.sin(angle))
    return along_x * (x - middle) + along_y * (y - middle)


def artefacts(n: int, side: int, random: Random) -> Tensor:
    """Unmasked hot pixels, a cosmic ray or a trail (n, side, side), in units of the sky's noise."""
    kind = random.one_of((0.4, 0.4, 0.2), n)
    hot = _hot_pixels(n, side, random)
    line = _lines(n, side, kind == 2, random)
    return torch.where((kind == 0)[:, None, None], hot, line)


def _hot_pixels(n: int, side: int, random: Random) -> Tensor:
    place = random.integers(side * side, n, 5)
    value = random.log_uniform((5.0, 500.0), n, 5) * (random.uniform((0, 1), n, 5) < 0.5)
    value[:, 0] = random.log_uniform((5.0, 500.0), n)  # one at least
    flat = torch.zeros(n, side * side, device=random.device)
    return flat.scatter_(1, place, value.float()).reshape(n, side, side)


def _lines(n: int, side: int, is_trail: Tensor, random: Random) -> Tensor:
    """Cosmic rays are short, sharp and bright; trails cross the cutout, are wide and fainter."""
    x, y = _pixels(side, random.device)
    x0, y0 = (per_image(random.uniform((0.1 * side, 0.9 * side), n)) for _ in range(2))
    angle = per_image(random.uniform((0, math.pi), n))
    across = torch.cos(angle) * (x - x0) + torch.sin(angle) * (y - y0)
    along = torch.cos(angle) * (y - y0) - torch.sin(angle) * (x - x0)
    width = torch.where(is_trail, random.uniform((1.0, 3.0), n), random.uniform((0.35, 0.6), n))
    length = torch.where(is_trail, 2.0 * side, random.log_uniform((1.0, 10.0), n))
    height = torch.where(
        is_trail, random.log_uniform((1.0, 10.0), n), random.log_uniform((10.0, 300.0), n)
    )
    line = torch.exp(-0.5 * (across / per_image(width)) ** 2)
    return per_image(height) * line * (along.abs() <= per_image(length))
