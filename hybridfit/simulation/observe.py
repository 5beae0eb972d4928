"""From galaxies of one cutout size to simulated fields: neighbours, masks, sky and noise."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hybridfit.model.galaxy_model import GalaxyModel
from hybridfit.simulation import contaminants
from hybridfit.simulation.galaxies import Drawn, physical, unit_images, whole_galaxy
from hybridfit.simulation.options import FieldOptions, Kind
from hybridfit.simulation.psfs import draw_psfs, fwhm_of, mixed_with_real
from hybridfit.simulation.random_numbers import Random, per_image, turned_images, turned_theta

LEAST_SEEN = 0.2  # of the signal: masks over more of it are not made up for by a higher flux


@dataclass(frozen=True)
class Galaxies:
    """Galaxies of one cutout size, with unit flux.

    Args:
        theta: (M, Q) physical parameters of unit flux, zero point 0, no sky.
        whole: (M, 8) x, y, mag, r_eff, n, q, pa, sky of the sum of components.
        psf: (P, h, w).
        psf_fwhm: (P,) pixels.
        which_psf: (M,) row of ``psf``; galaxies of one PSF stand together.
        image: (M, S, S) convolved.
        structured: (M,) bool.
        model: of the galaxies.
    """

    theta: Tensor
    whole: Tensor
    psf: Tensor
    psf_fwhm: Tensor
    which_psf: Tensor
    image: Tensor
    structured: Tensor
    model: GalaxyModel


@dataclass(frozen=True)
class Observed:
    """Simulated fields of one cutout size; ``rows`` are their places in the whole.

    Args:
        image, sigma, mask: (B, S, S).
        psf: (B, h, w).
        columns: (B, Q + 5) theta (Q), zero point, side, S/N, kind and FWHM of the PSF.
    """

    rows: Tensor
    image: Tensor
    sigma: Tensor
    mask: Tensor
    psf: Tensor
    columns: Tensor


def make_galaxies(
    drawn: Drawn,
    side: int,
    random: Random,
    options: FieldOptions,
    real: Tensor | None,
    model: GalaxyModel,
) -> Galaxies:
    """Draw PSFs, render galaxies and give some of them structure."""
    n = len(drawn)
    which = torch.arange(n, device=random.device) // options.psf_reuse
    psf = draw_psfs(
        int(which[-1]) + 1,
        random,
        options.psf_size,
        options.psf_fwhm,
        options.psf_families,
        options.psf_ellipticity,
    )
    if real is not None:
        psf = mixed_with_real(psf, real, options.psf_real, random)
    fwhm = fwhm_of(psf)
    theta = physical(drawn, model)
    whole = whole_galaxy(theta, model)
    image = unit_images(drawn, model, side, psf, which)
    resolved = whole[:, 3] * whole[:, 5] > fwhm[which]  # along the minor axis too
    structured = random.chance(options.structure, n) & resolved
    rows = structured.nonzero()[:, 0]
    if len(rows):
        image[rows] = contaminants.structured(image[rows], whole[rows], fwhm[which[rows]], random)
    return Galaxies(theta, whole, psf, fwhm, which, image, structured, model)


def observe(
    galaxies: Galaxies, rows: Tensor, shown: Tensor, random: Random, options: FieldOptions
) -> Observed:
    """Return fields that show galaxies, with all that is around them, and noise.

    Args:
        galaxies: of one cutout size.
        rows: (B,) places of the fields in the whole.
        shown: (B,) row of ``galaxies`` that each field shows.
        random: numbers.
        options: see `FieldOptions`.
    """
    n, side = len(rows), galaxies.image.shape[-1]
    turn, which = random.integers(8, n), galaxies.which_psf[shown]
    unit = turned_images(galaxies.image[shown], turn)
    theta, whole = _turned(galaxies, shown, turn)
    fwhm, kind = galaxies.psf_fwhm[which], _draw_kinds(n, random, options)
    kind += galaxies.structured[shown] * int(Kind.STRUCTURE)
    mask = _masks(whole, kind, side, random, options)
    # from here on in units of the sky's noise
    asked = random.log_uniform(options.snr, n)
    flux = asked / torch.maximum(_signal(unit, mask), LEAST_SEEN * _norm(unit))
    model = unit * per_image(flux)
    shot = random.log_uniform(options.shot, n)
    total = _with_neighbours(galaxies, shown, turn, kind, model, mask, flux, shot, random, options)
    seen = _signal(model, mask)
    sigma = torch.sqrt(1 + per_image(shot) * total.clamp_min(0.0))
    total = _with_extras(total, kind, random, options)
    level = _sky_levels(n, random, options.sky)
    noisy = total + sigma * random.normal(*sigma.shape) + per_image(level)
    unit_of_flux, stated = _flux_units(n, random, options)
    zeropoint = random.chance(0.5, n) * random.uniform((20.0, 32.0), n)
    space = galaxies.model.space
    for k in range(space.n_components):
        theta[:, space.column(k, "mag")] += zeropoint - 2.5 * torch.log10(flux * unit_of_flux)
    theta[:, -1] = level * unit_of_flux
    numbers = [zeropoint, torch.full_like(seen, side), seen, kind.double(), fwhm]
    psf = turned_images(galaxies.psf[which], turn)
    truth = torch.cat([theta, torch.stack(numbers, dim=1)], dim=1)
    image, sigma = noisy * per_image(unit_of_flux), sigma * per_image(stated)
    return Observed(rows, image, sigma, mask, psf, truth)


def _turned(galaxies: Galaxies, shown: Tensor, turn: Tensor) -> tuple[Tensor, Tensor]:
    """Return parameters (B, Q) of the turned galaxies in fields, and of their sums (B, 8)."""
    sides = torch.full_like(turn, galaxies.image.shape[-1])
    theta = turned_theta(galaxies.theta[shown], sides, turn, galaxies.model.space)
    if galaxies.model.is_one_sersic:
        return theta, theta
    return theta, turned_theta(galaxies.whole[shown], sides, turn)


def _flux_units(n: int, random: Random, options: FieldOptions) -> tuple[Tensor, Tensor]:
    """Return the sky's noise in image units, (n,): as it is, and as the noise map states it."""
    unit = random.log_uniform(options.sky_sigma, n)
    wrong = random.chance(options.noise_error_share, n) * options.noise_error
    return unit, unit * torch.exp(wrong * random.normal(n, dtype=torch.float64))


def _norm(images: Tensor) -> Tensor:
    return torch.linalg.vector_norm(images, dim=(1, 2)).double()


def _signal(images: Tensor, mask: Tensor) -> Tensor:
    """Return the norm (B,) of the unmasked pixels; most fields have no mask."""
    result = _norm(images)
    rows = mask.flatten(1).any(dim=1).nonzero()[:, 0]
    result[rows] = _norm(images[rows] * ~mask[rows])
    return result


def _draw_kinds(n: int, random: Random, options: FieldOptions) -> Tensor:
    """(n,) bits of `Kind`, but for structure, which belongs to the galaxy."""
    place = random.uniform((0.0, 1.0), n)
    masked = (place < options.neighbour + options.neighbour_masked) & (place >= options.neighbour)
    kind = (place < options.neighbour) * int(Kind.NEIGHBOUR)
    kind = kind + masked * int(Kind.NEIGHBOUR_MASKED)
    for bit, probability in (
        (Kind.MASK_THROUGH, options.mask_through),
        (Kind.GRADIENT, options.gradient),
        (Kind.ARTEFACT, options.artefact),
    ):
        kind = kind + random.chance(probability, n) * int(bit)
    return kind


def _masks(theta: Tensor, kind: Tensor, side: int, random: Random, options: FieldOptions) -> Tensor:
    """(B, S, S) bool: single bad pixels, and masks through the galaxy."""
    mask = torch.zeros(len(theta), side, side, dtype=torch.bool, device=theta.device)
    rows = random.chance(options.bad_pixels, len(theta)).nonzero()[:, 0]
    most = side**2 // 100
    place = random.integers(side**2, len(rows), most)
    used = random.uniform((0.0, 1.0), len(rows), most)
    bad = used < random.log_uniform((1e-2, 1.0), len(rows))[:, None]
    flat = torch.zeros(len(rows), side**2, dtype=torch.bool, device=theta.device)
    # a pixel drawn twice is bad if its last draw is: no matter which
    mask[rows] = flat.scatter_(1, place, bad).reshape(-1, side, side)
    rows = _rows(kind, Kind.MASK_THROUGH)
    mask[rows] |= contaminants.masks_through(theta[rows], side, random)
    return mask


def _rows(kind: Tensor, bits: Kind) -> Tensor:
    return ((kind & int(bits)) > 0).nonzero()[:, 0]


def _with_neighbours(
    galaxies: Galaxies,
    shown: Tensor,
    turn: Tensor,
    kind: Tensor,
    model: Tensor,
    mask: Tensor,
    flux: Tensor,
    shot: Tensor,
    random: Random,
    options: FieldOptions,
) -> Tensor:
    """The galaxies with their neighbours' light; ``mask`` is filled where these are masked."""
    rows = _rows(kind, Kind.NEIGHBOUR | Kind.NEIGHBOUR_MASKED)
    if not len(rows):
        return model
    own = shown[rows]
    which = galaxies.which_psf[own]
    partner = _partners(which, len(galaxies.theta), random, options)
    light = contaminants.neighbours(
        contaminants.tapered(galaxies.image),
        partner,
        galaxies.psf[which],
        galaxies.whole[own],
        galaxies.psf_fwhm[which],
        options.neighbour_flux,
        random,
    )
    light = turned_images(light, turn[rows]) * per_image(flux[rows])
    total = model.clone()
    total[rows] += light
    masked = (kind[rows] & int(Kind.NEIGHBOUR_MASKED)) > 0
    some = rows[masked]
    sigma = torch.sqrt(1 + per_image(shot[some]) * total[some].clamp_min(0.0))
    mask[some] |= contaminants.neighbour_masks(light[masked], model[some], sigma, random)
    return total


def _partners(which: Tensor, n: int, random: Random, options: FieldOptions) -> Tensor:
    """Rows (b, 4) of galaxies with the PSFs ``which`` (b,), which stand together in the list."""
    first = which * options.psf_reuse
    count = (first + options.psf_reuse).clamp_max(n) - first
    place = random.uniform((0.0, 1.0), len(which), 4)
    return first[:, None] + (place * count[:, None]).long()


def _with_extras(total: Tensor, kind: Tensor, random: Random, options: FieldOptions) -> Tensor:
    """Add a sky gradient and artefacts, which are no sources."""
    result, side = total.clone(), total.shape[-1]
    rows = _rows(kind, Kind.GRADIENT)
    result[rows] += contaminants.gradients(len(rows), side, options.gradient_rise, random)
    rows = _rows(kind, Kind.ARTEFACT)
    result[rows] += contaminants.artefacts(len(rows), side, random)
    return result


def _sky_levels(n: int, random: Random, largest: float) -> Tensor:
    """(n,) in units of the noise: a third none, a third within a few, a third any up to it."""
    which = random.integers(3, n)
    sign = 1.0 - 2.0 * random.integers(2, n)
    small = 2.0 * random.normal(n, dtype=torch.float64)
    large = sign * random.log_uniform((min(1.0, largest), largest), n) if largest > 0 else 0 * small
    small = small.clamp(-largest, largest)
    return torch.where(which == 0, 0.0, torch.where(which == 1, small, large))
