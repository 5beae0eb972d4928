"""The simulator's galaxies before sky and noise: parameters from the prior, cutouts, pixels."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from hybridfit.model.parameters import ParameterSpace
from hybridfit.model.prior import Prior
from hybridfit.model.profiles import Sersic
from hybridfit.rendering.convolution import WELL_SAMPLED, nyquist_power
from hybridfit.rendering.grid import fourier_grid
from hybridfit.rendering.kernels import component_images, geometry
from hybridfit.rendering.transfer import transfer_function
from hybridfit.simulation.random_numbers import Random, Range

TRIES = 100  # a prior that almost never gives what is asked for is an error
CHUNK = {"cpu": 8, "cuda": 256}  # galaxies a kernel takes: what stays in caches, or fills a GPU


def draw_coords(n: int, random: Random, prior: Prior, r_eff: Range) -> Tensor:
    """Draw render coordinates (n, 6) from the prior, the position in its box of half-width 1.

    Galaxies whose major-axis half-light radius lies outside ``r_eff`` are drawn again.

    Raises:
        ValueError: if the prior hardly ever gives such a size.
    """
    space = ParameterSpace(prior=prior)
    box = torch.tensor([0.0, 0.0, 1.0, 1.0], dtype=torch.float64, device=random.device)
    coords = box.new_empty(n, 6)
    missing = torch.arange(n, device=random.device)
    for _ in range(TRIES):
        u = random.normal(len(missing), 6, dtype=torch.float64)
        coords[missing] = space.from_whitened(u, space.constants(box.expand(len(missing), 4)))[0]
        size = torch.exp(coords[:, 2] + coords[:, -2:].norm(dim=1) / 2)
        missing = ((size < r_eff[0]) | (size > r_eff[1])).nonzero()[:, 0]
        if not len(missing):
            return coords
    raise ValueError(
        f"the prior gave r_eff outside {r_eff} pix in {TRIES} draws for {len(missing)} of {n} "
        "galaxies: widen r_eff or the prior's r_circ"
    )


def choose_sides(r_eff: Tensor, random: Random, sides: tuple[int, ...], fill: Range) -> Tensor:
    """Cutout sides (n,), any of those of at least a random ``fill`` times r_eff, or the largest."""
    choice = torch.tensor(sorted(sides), device=r_eff.device)
    needed = r_eff * random.log_uniform(fill, len(r_eff))
    first = torch.searchsorted(choice.double(), needed).clamp_max(len(choice) - 1)
    place = random.uniform((0.0, 1.0), len(r_eff)) * (len(choice) - first)
    return choice[(first + place.long()).clamp_max(len(choice) - 1)]


def draw_offsets(side: Tensor, random: Random, sigma: float, wide: float, share: float) -> Tensor:
    """Positions (n, 2) from the cutouts' middles: normal, a share uniform within ``wide``."""
    n = len(side)
    far = random.uniform((-1.0, 1.0), n, 2) * (0.1 * side).clamp_max(wide)[:, None]
    near = sigma * random.normal(n, 2, dtype=torch.float64)
    return torch.where(random.chance(share, n)[:, None], far, near)


def physical(coords: Tensor, prior: Prior) -> Tensor:
    """Physical parameters (n, 8) of render coordinates with unit flux, zero point 0 and no sky."""
    linear = torch.stack([torch.ones_like(coords[:, 0]), torch.zeros_like(coords[:, 0])], dim=1)
    return ParameterSpace(prior=prior).to_physical(coords, linear, linear[:, 1])[0]


def unit_images(coords: Tensor, side: int, psf: Tensor, which_psf: Tensor) -> Tensor:
    """Convolved images (n, side, side) of unit flux.

    Args:
        coords: (n, 6).
        side: pixels.
        psf: (P, h, w).
        which_psf: (n,) row of ``psf`` of each galaxy.
    """
    images = torch.empty(len(coords), side, side, device=coords.device)
    profile = Sersic()
    # PSFs that alias need modes beyond the Nyquist frequency: a third more work, so apart
    aliased = (nyquist_power(psf) >= WELL_SAMPLED)[which_psf]
    for rows in _chunks(aliased, CHUNK.get(coords.device.type, 256)):
        used, which = which_psf[rows].unique(return_inverse=True)
        own = psf[used]
        grid = fourier_grid((side, side), own, 1, torch.float32, coords.device)
        includes_pixel = torch.zeros(len(own), dtype=torch.bool, device=coords.device)
        transfer = transfer_function(own, 1, includes_pixel, grid, len(own))[which]
        shape = geometry(coords[rows], profile, torch.float32)
        images[rows] = component_images(shape, profile, grid, transfer, jacobian=False)[:, 0]
    return images


def _chunks(key: Tensor, size: int) -> Iterator[Tensor]:
    for value in key.unique():
        yield from (key == value).nonzero()[:, 0].split(size)
