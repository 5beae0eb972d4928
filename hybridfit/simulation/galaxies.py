"""The simulator's galaxies before sky and noise: parameters from the prior, cutouts, pixels."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from hybridfit.batch import Batch
from hybridfit.model.combined import combined, combined_names
from hybridfit.model.galaxy_model import GalaxyModel
from hybridfit.model.profiles import find_profile
from hybridfit.rendering.convolution import WELL_SAMPLED, nyquist_power
from hybridfit.rendering.grid import Grid, fourier_grid
from hybridfit.rendering.kernels import component_images, geometry
from hybridfit.rendering.transfer import transfer_function
from hybridfit.simulation.random_numbers import Random, Range

TRIES = 100  # a prior that almost never gives what is asked for is an error
CHUNK = {"cpu": 8, "cuda": 256}  # galaxies a kernel takes: what stays in caches, or fills a GPU


ALIGNED_WITHIN = 0.1  # radians: scatter of position angles of aligned components


@dataclass(frozen=True)
class Drawn(Batch):
    """Galaxies as drawn.

    Args:
        coords: (n, C) float64 render coordinates of all components.
        share: (n, K) float64 of each component in the flux.
    """

    coords: Tensor
    share: Tensor


def draw_galaxies(
    n: int,
    random: Random,
    model: GalaxyModel,
    r_eff: Range,
    bulge_to_total: Range = (0.02, 0.98),
    aligned: float = 0.0,
) -> Drawn:
    """Draw n galaxies from the prior of ``model``, the position in its box of half-width 1.

    Galaxies whose major-axis half-light radius lies outside ``r_eff`` are drawn again.

    Args:
        n: how many.
        random: numbers.
        model: of one or two components.
        r_eff: limits of the half-light radius of the whole galaxy, pixels.
        bulge_to_total: limits of the first of two components' share of the flux, uniform.
        aligned: fraction of galaxies in which the second component has the position angle of the
            first, up to `ALIGNED_WITHIN`.

    Raises:
        ValueError: if the prior hardly ever gives such a size, or the model has more components.
    """
    space = model.space
    if space.n_components > 2:
        raise ValueError(
            f"the model '{model.name}' has {space.n_components} components, expected one or two"
        )
    box = torch.tensor([0.0, 0.0, 1.0, 1.0], dtype=torch.float64, device=random.device)
    drawn = Drawn(box.new_empty(n, space.n_coords), box.new_ones(n, space.n_components))
    missing = torch.arange(n, device=random.device)
    for _ in range(TRIES):
        u = random.normal(len(missing), space.n_nonlinear, dtype=torch.float64)
        constants = model.constants(box.expand(len(missing), 4))
        drawn.coords[missing] = space.from_whitened(u, constants)[0]
        if space.n_components == 2:
            first = random.uniform(bulge_to_total, len(missing))
            drawn.share[missing] = torch.stack([first, 1 - first], dim=1)
            together = missing[random.chance(aligned, len(missing))]
            drawn.coords[together] = _aligned(drawn.coords[together], model, random)
        size = whole_size(drawn[missing], model)
        missing = missing[(size < r_eff[0]) | (size > r_eff[1])]
        if not len(missing):
            return drawn
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


def _aligned(coords: Tensor, model: GalaxyModel, random: Random) -> Tensor:
    """Return coordinates (n, C) whose second component is turned to the first one's angle."""
    first, second = (slice(s.stop - 2, s.stop) for s in model.space.slices())
    scatter = 2 * ALIGNED_WITHIN * random.normal(len(coords), dtype=torch.float64)
    angle = torch.atan2(coords[:, first.start + 1], coords[:, first.start]) + scatter
    length = coords[:, second].norm(dim=1)
    result = coords.clone()
    result[:, second] = length[:, None] * torch.stack([torch.cos(angle), torch.sin(angle)], dim=1)
    return result


def physical(drawn: Drawn, model: GalaxyModel) -> Tensor:
    """Physical parameters (n, Q) with unit flux, zero point 0 and no sky."""
    none = torch.zeros_like(drawn.share[:, :1])
    linear = torch.cat([drawn.share, none], dim=1)
    return model.space.to_physical(drawn.coords, linear, none[:, 0])[0]


def whole_size(drawn: Drawn, model: GalaxyModel) -> Tensor:
    """Return the half-light radius (n,) along the major axis of the sum of components, pixels."""
    if model.space.n_components == 1:
        return torch.exp(drawn.coords[:, 2] + drawn.coords[:, -2:].norm(dim=1) / 2)
    return whole_galaxy(physical(drawn, model), model)[:, 3]


def whole_galaxy(theta: Tensor, model: GalaxyModel) -> Tensor:
    """Return what one Sersic profile in the place of all components has.

    Args:
        theta: (n, Q) physical parameters.
        model: of them.

    Returns:
        (n, 8) x, y, mag, r_eff, n, q, pa, sky; of several components the position of the first,
        and an index of 1.
    """
    if model.space.n_components == 1:
        return theta
    names = combined_names(model.space)
    values = combined(theta, model.space)
    mag, r_eff, q, pa = (values[:, names.index(name)] for name in ("mag", "r_eff", "q", "pa"))
    columns = [theta[:, 0], theta[:, 1], mag, r_eff, torch.ones_like(mag), q, pa, theta[:, -1]]
    return torch.stack(columns, dim=1)


def unit_images(
    drawn: Drawn, model: GalaxyModel, side: int, psf: Tensor, which_psf: Tensor
) -> Tensor:
    """Convolved images (n, side, side) of unit flux.

    Args:
        drawn: n galaxies.
        model: of them.
        side: pixels.
        psf: (P, h, w).
        which_psf: (n,) row of ``psf`` of each galaxy.
    """
    images = torch.empty(len(drawn), side, side, device=psf.device)
    kind = psf.device.type
    # PSFs that alias need modes beyond the Nyquist frequency: a third more work, so apart
    aliased = (nyquist_power(psf) >= WELL_SAMPLED)[which_psf]
    for rows in _chunks(aliased, CHUNK.get(kind, 256)):
        used, which = which_psf[rows].unique(return_inverse=True)
        own = psf[used]
        grid = fourier_grid((side, side), own, 1, torch.float32, psf.device)
        includes_pixel = torch.zeros(len(own), dtype=torch.bool, device=psf.device)
        transfer = transfer_function(own, 1, includes_pixel, grid, len(own))[which]
        images[rows] = _summed(drawn[rows], model, grid, transfer)
    return images


def _summed(drawn: Drawn, model: GalaxyModel, grid: Grid, transfer: Tensor) -> Tensor:
    """Return images (n, H, W) of galaxies of unit flux."""
    images = []
    for component, own in zip(model.space.components, model.space.slices(), strict=True):
        profile = find_profile(component.profile)
        shape = geometry(drawn.coords[:, own], profile, torch.float32)
        images.append(component_images(shape, profile, grid, transfer, jacobian=False)[:, 0])
    if len(images) == 1:
        return images[0]
    share = drawn.share.float()[:, :, None, None]
    return (torch.stack(images, dim=1) * share).sum(dim=1)


def _chunks(key: Tensor, size: int) -> Iterator[Tensor]:
    for value in key.unique():
        yield from (key == value).nonzero()[:, 0].split(size)
