"""From the whitened vector to the render coordinates of all components, with its Jacobian.

    u --priors--> free slots --ties and fixed values, affine--> slots --ellipses--> coordinates

This is the one map that prior, fit, covariance, sampling, bootstrap and tables share.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import groupby

import torch
from torch import Tensor

from hybridfit.model.constants import Constants
from hybridfit.model.distributions import Family, values_of, whitened_of
from hybridfit.model.ellipticity import eta_of, stretch, whitened_pair
from hybridfit.model.layout import ComponentLayout, Links
from hybridfit.model.prior import Prior


@dataclass(frozen=True)
class Whitening:
    """The map of one topology: components, and which of their slots are free.

    Args:
        components: in the order of the render coordinates.
        priors: of each component; of them the ellipticity's alone matters here.
        links: None where all slots are free.
    """

    components: tuple[ComponentLayout, ...]
    priors: tuple[Prior, ...]
    links: Links | None = None

    @cached_property
    def families(self) -> tuple[Family | None, ...]:
        """The family of each free slot; None for each of a pair of ellipticities."""
        if self.links is not None:
            return self.links.families
        return tuple(family for c in self.components for family in default_families(c))

    @cached_property
    def _runs(self) -> list[tuple[Family, slice]]:
        """Consecutive free slots of one family."""
        runs, first = [], 0
        for family, group in groupby(self.families):
            last = first + len(list(group))
            if family is not None:
                runs.append((family, slice(first, last)))
            first = last
        return runs

    @cached_property
    def _pairs(self) -> list[tuple[slice, Prior]]:
        """Free slots of each pair of ellipticities, and its prior."""
        owner = self._components_of
        first = [j for j, family in enumerate(self.families) if family is None][::2]
        return [(slice(j, j + 2), self.priors[owner[j]]) for j in first]

    @cached_property
    def owners(self) -> tuple[int, ...]:
        """The slot whose prior each free slot has."""
        if self.links is not None:
            return self.links.owners
        return tuple(range(sum(len(c.slots) for c in self.components)))

    @cached_property
    def _components_of(self) -> list[int]:
        """The component of each free slot."""
        each = [k for k, c in enumerate(self.components) for _ in c.slots]
        each += self.links.fluxes if self.links is not None else ()
        return [each[slot] for slot in self.owners]

    def forward(self, whitened: Tensor, constants: Constants) -> tuple[Tensor, Tensor]:
        """Return coordinates (B, C) and their derivatives (B, C, P) by whitened ones (B, P).

        The coordinates are those of all components, then ln flux of those that are not linear.
        """
        value, slope = self._free_slots(whitened, constants)
        if self.links is None:
            return value, slope
        matrix = _matrix(self.links.rows, len(self.families), value.dtype, value.device)
        assert constants.offset is not None
        slots = value @ matrix.T + constants.offset
        return _to_ellipses(self.components, slots, matrix @ slope)

    def _free_slots(self, whitened: Tensor, constants: Constants) -> tuple[Tensor, Tensor]:
        """Return free slots (B, P) and their derivatives (B, P, P)."""
        value, diagonal = torch.empty_like(whitened), torch.zeros_like(whitened)
        for family, run in self._runs:
            numbers = constants.numbers[:, run]
            value[:, run], diagonal[:, run] = values_of(family, whitened[:, run], numbers)
        slope = torch.diag_embed(diagonal)
        for pair, prior in self._pairs:
            own = eta_of(whitened[:, pair], *prior.ellipticity)
            value[:, pair], slope[:, pair, pair] = own
        return value, slope

    def log_volume(self, whitened: Tensor, constants: Constants, positions: bool = True) -> Tensor:
        """Return ln |det d slots / d whitened| (B,) of the free slots.

        Args:
            whitened: (B, P) float64.
            constants: of the B galaxies.
            positions: False leaves out slots with a uniform prior.
        """
        value = torch.zeros_like(whitened[:, 0])
        for family, run in self._runs:
            if family is Family.UNIFORM and not positions:
                continue
            slope = values_of(family, whitened[:, run], constants.numbers[:, run])[1]
            value += torch.log(slope).sum(dim=1)
        for pair, prior in self._pairs:
            across, along, _ = stretch(whitened[:, pair], *prior.ellipticity)
            value += torch.log(across * along)
        return value

    def inverse(self, coords: Tensor, constants: Constants) -> Tensor:
        """Return whitened (B, P) from coordinates (B, C); values beyond the prior move to its edge.

        What is fixed or tied is taken from the constants, whatever its coordinates.
        """
        free = coords
        if self.links is not None:
            free = self._free_from(coords, constants)
        whitened = torch.empty_like(free)
        for family, run in self._runs:
            whitened[:, run] = whitened_of(family, free[:, run], constants.numbers[:, run])
        for pair, prior in self._pairs:
            whitened[:, pair] = whitened_pair(free[:, pair], *prior.ellipticity)
        return whitened

    def _free_from(self, coords: Tensor, constants: Constants) -> Tensor:
        """Return the free slots (B, P) of coordinates (B, C); those of ties do not count."""
        assert self.links is not None
        assert constants.offset is not None
        matrix = _matrix(self.links.rows, len(self.families), coords.dtype, coords.device)
        slots = slots_of(self.components, coords) - constants.offset
        own = list(self.links.owners)
        inverse = torch.linalg.inv(matrix[own])
        return self._unwound(slots, matrix, constants)[:, own] @ inverse.T

    def _unwound(self, slots: Tensor, matrix: Tensor, constants: Constants) -> Tensor:
        """Return slots with angles, 2 pa, in the turn that their prior lies in."""
        middle = constants.numbers[:, :, 0] @ matrix.T
        angles = [name == "pa" for c in self.components for name in c.slots]
        angle = torch.tensor(angles + [False] * (slots.shape[1] - len(angles)), device=slots.device)
        turns = torch.round((slots - middle) / (2 * torch.pi))
        return torch.where(angle, slots - 2 * torch.pi * turns, slots)


def default_families(component: ComponentLayout) -> list[Family | None]:
    """Return the family of each slot of a component on its own."""
    known: dict[str, Family | None] = {
        "x": Family.UNIFORM,
        "y": Family.UNIFORM,
        "eta1": None,
        "eta2": None,
        "q": Family.AXIS,
        "pa": Family.UNIFORM,
    }
    return [known.get(slot, Family.NORMAL) for slot in component.slots]


@lru_cache(maxsize=64)
def _matrix(
    rows: tuple[tuple[tuple[int, float], ...], ...],
    n_free: int,
    dtype: torch.dtype,
    device: torch.device,
) -> Tensor:
    """Return the matrix (C, P) of slots by free slots."""
    matrix = torch.zeros(len(rows), n_free, dtype=dtype)
    for i, row in enumerate(rows):
        for j, factor in row:
            matrix[i, j] = factor
    return matrix.to(device)


def _to_ellipses(
    components: Sequence[ComponentLayout], slots: Tensor, slope: Tensor
) -> tuple[Tensor, Tensor]:
    """Put ln r_circ, eta1 and eta2 in the place of ln r_eff, -ln q and 2 pa.

    Args:
        components: of the slots.
        slots: (B, C).
        slope: (B, C, P) their derivatives.
    """
    coords, first = slots.clone(), 0
    slope = slope.clone()
    for c in components:
        last = first + len(c.slots)
        e, f = last - 2, last - 1
        if c.polar:
            g, angle = slots[:, e], slots[:, f]
            cos, sin = torch.cos(angle), torch.sin(angle)
            by_g, by_angle = slope[:, e].clone(), slope[:, f].clone()
            coords[:, e], coords[:, f] = g * cos, g * sin
            slope[:, e] = cos[:, None] * by_g - (g * sin)[:, None] * by_angle
            slope[:, f] = sin[:, None] * by_g + (g * cos)[:, None] * by_angle
        if c.major:
            g, unit = _elongation(coords[:, e:last], c.softening)
            coords[:, first + 2] = slots[:, first + 2] - g / 2
            slope[:, first + 2] -= 0.5 * torch.einsum("bi,bip->bp", unit, slope[:, e:last])
        first = last
    return coords, slope


def _elongation(eta: Tensor, softening: float) -> tuple[Tensor, Tensor]:
    """Return |eta| (B,) of ellipticities (B, 2), softened, and its derivatives (B, 2)."""
    if softening == 0:
        length = eta.norm(dim=1)
    else:
        length = torch.sqrt((eta**2).sum(dim=1) + softening**2)
    return length - softening, eta / length.clamp_min(1e-12)[:, None]


def slots_of(components: Sequence[ComponentLayout], coords: Tensor) -> Tensor:
    """Return the slots (B, C) of coordinates (B, C), the inverse of `_to_ellipses`."""
    slots, first = coords.clone(), 0
    for c in components:
        last = first + len(c.slots)
        eta = coords[:, last - 2 : last]
        if c.major:
            slots[:, first + 2] = coords[:, first + 2] + _elongation(eta, c.softening)[0] / 2
        if c.polar:
            slots[:, last - 2] = eta.norm(dim=1)
            slots[:, last - 1] = torch.atan2(eta[:, 1], eta[:, 0])
        first = last
    return slots
