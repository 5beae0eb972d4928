"""The linear terms of a model, fluxes and sky, by those of them that are free.

    terms = offset + flux of what is not linear + span free

A fixed flux or sky is an offset; a flux that is tied to another is a multiple of the same free
parameter; one that is bounded is the exponential of a slot and no longer linear.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hybridfit.batch import Batch, shared
from hybridfit.model.constants import Constants
from hybridfit.model.parameters import ParameterSpace


@dataclass(frozen=True)
class LinearTerms(Batch):
    """How L linear terms follow from F free ones, for B galaxies in units of the noise.

    Args:
        offset: (B, L) the terms with the free ones at 0.
        span: (B, L, F) by the free ones.
        scale: (B,) flux unit of the terms.
        own: components whose flux is not linear, in the order of their slots, the last of the
            coordinates.
    """

    offset: Tensor
    span: Tensor
    scale: Tensor
    own: tuple[int, ...] = shared(default=())

    def at(self, coords: Tensor) -> Tensor:
        """Return the terms (B, L) at coordinates (B, C) with the free ones at 0."""
        offset = self.offset
        if self.own:
            offset = offset.clone()
            first = coords.shape[1] - len(self.own)
            for j, k in enumerate(self.own):
                offset[:, k] = torch.exp(coords[:, first + j]) / self.scale
        return offset

    def slope(self, coords: Tensor, chain: Tensor) -> Tensor:
        """Return derivatives (B, L, P) of the terms by whitened coordinates.

        Args:
            coords: (B, C).
            chain: (B, C, P) d coords / d whitened.
        """
        slope = chain.new_zeros(len(chain), self.offset.shape[1], chain.shape[2])
        first = coords.shape[1] - len(self.own)
        for j, k in enumerate(self.own):
            flux = torch.exp(coords[:, first + j]) / self.scale
            slope[:, k] = flux[:, None] * chain[:, first + j]
        return slope


def linear_terms(
    space: ParameterSpace, constants: Constants, unit: Tensor, background: Tensor
) -> LinearTerms | None:
    """Return how the linear terms follow from the free ones; None where all are free.

    Args:
        space: the parameters.
        constants: of B galaxies.
        unit: (B, L, L) that turns the terms into flux and sky.
        background: (B,) flux per pixel that was taken off the image.
    """
    links = space.links
    if links is None:
        return None
    assert constants.linear_offset is not None
    assert constants.linear_factor is not None
    scale = torch.diagonal(unit, dim1=1, dim2=2)
    value = constants.linear_offset.clone()
    fixed_sky = [k for k in range(space.n_components, space.n_terms) if links.terms[k] is None]
    if space.n_sky and space.n_components in fixed_sky:
        value[:, space.n_components] -= background
    factor = unit.new_zeros(len(unit), space.n_terms, links.n_linear)
    for k, j in enumerate(links.terms):
        if j is not None:
            factor[:, k, j] = constants.linear_factor[:, k] * scale[:, k]
    inverse = torch.linalg.inv(unit)
    offset = (inverse @ value[:, :, None])[:, :, 0]
    return LinearTerms(offset, inverse @ factor, scale[:, 0], links.fluxes)
