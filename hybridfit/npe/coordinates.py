"""The flow's coordinates of a galaxy model: what each of them is, and how it behaves.

    t = (whitened coordinates of the model, centre and ellipticities in the frame;
         ln(flux / flux_0);  ln(flux_k / flux_K) for k < K;  asinh((sky - sky_0) / w))

with K components. See `hybridfit.npe.frame`, which computes them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from hybridfit.model.constants import Constants
from hybridfit.model.galaxy_model import GalaxyModel, Position, positions_of
from hybridfit.model.parameters import ParameterSpace
from hybridfit.model.prior import Prior
from hybridfit.model.profiles import Profile, find_profile
from hybridfit.npe.views import BASE

WHITENED = Prior()  # of the flow's own coordinates, whatever prior a user fits with
# half of the field of view: of larger galaxies the network cannot know anything
LARGEST = float(WHITENED.r_circ.whitened(torch.tensor(math.log(BASE / 2), dtype=torch.float64)))
FAR = 30.0  # of coordinates without a prior: larger values are cut


@dataclass(frozen=True)
class FlowCoordinates:
    """What the flow's coordinates of a model are.

    Args:
        model: with the prior `WHITENED`.
    """

    model: GalaxyModel = field(default_factory=GalaxyModel)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle without what was derived."""
        return FlowCoordinates, (self.model,)

    @property
    def space(self) -> ParameterSpace:
        """The parameters of the model."""
        return self.model.space

    @cached_property
    def n_whitened(self) -> int:
        """P, whitened coordinates: the first of t."""
        return self.space.n_nonlinear

    @cached_property
    def n_components(self) -> int:
        """K components, with a flux each: the next of t."""
        return self.space.n_components

    @cached_property
    def n(self) -> int:
        """T coordinates in all; the last is the sky."""
        return self.n_whitened + self.n_components + 1

    @cached_property
    def positions(self) -> tuple[Position, ...]:
        """The positions among the whitened coordinates."""
        return positions_of(self.space)

    @cached_property
    def pairs(self) -> tuple[tuple[int, int], ...]:
        """Columns of each pair of ellipticities."""
        families = self.space.whitening.families
        single = [j for j, family in enumerate(families) if family is None]
        return tuple(zip(single[::2], single[1::2], strict=True))

    @cached_property
    def shapes(self) -> list[int]:
        """Whitened columns that are no position."""
        places = {p.column + i for p in self.positions for i in (0, 1)}
        return [j for j in range(self.n_whitened) if j not in places]

    @cached_property
    def size_rows(self) -> list[int]:
        """Render coordinates that are sizes, ln r_circ."""
        pairs = zip(self.space.slices(), self.space.components, strict=True)
        return [s.start + 2 for s, component in pairs if component.is_ellipse]

    @cached_property
    def profiles(self) -> tuple[Profile, ...]:
        """The profile of each component."""
        return tuple(find_profile(component.profile) for component in self.space.components)

    @cached_property
    def largest(self) -> dict[int, float]:
        """The largest value of columns that are a size by themselves, see `LARGEST`."""
        space, links = self.space, self.space.links
        owners = space.whitening.owners
        sizes = [i for i, j in enumerate(owners) if space.slot(j)[0] in ("r_circ", "r_eff")]
        if links is not None:
            sizes = [i for i in sizes if not links.tied[owners[i]] and links.priors[i] is None]
        return dict.fromkeys(sizes, LARGEST)

    def constants(self, n: int, device: torch.device) -> Constants:
        """Return the numbers of the priors of ``n`` galaxies in a box of half-width 1 about 1."""
        box = torch.ones(n, 4, dtype=torch.float64, device=device)
        if self.space.links is None:
            return self.space.constants(box)
        one = self._one.to(device)
        return one[torch.zeros(n, dtype=torch.int64, device=device)]

    @cached_property
    def _one(self) -> Constants:
        return self.model.constants(torch.ones(1, 4, dtype=torch.float64))

    def each(self, position: float, shape: float, flux: float, share: float, sky: float) -> Tensor:
        """Return one number (T,) for each coordinate, by its kind."""
        value = torch.full((self.n,), shape, dtype=torch.float64)
        for place in self.positions:
            value[place.column : place.column + 2] = position
        value[self.n_whitened] = flux
        value[self.n_whitened + 1 : -1] = share
        value[-1] = sky
        return value

    @cached_property
    def signs(self) -> Tensor:
        """Factors (2, T) under a mirror image at the frame's long axis, and under a turn."""
        sign = torch.ones(2, self.n)
        for place in self.positions:
            sign[:, place.column] = torch.tensor([1.0, -1.0])
            sign[:, place.column + 1] = -1.0
        for _, second in self.pairs:
            sign[0, second] = -1.0
        return sign


SERSIC = FlowCoordinates()
