"""Starts at other minima of concentric components: other sizes, indices and ellipticities.

Bulge and disk can swap their roles, a bulge can be compact or extended. Structured starts exchange
sizes and ellipticities, and spread the components' sizes around that of their sum.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations

import torch
from torch import Tensor

from hybridfit.model.constants import Constants
from hybridfit.model.parameters import ParameterSpace

# ln of the first and the last component's size over that of the sum, ln of all indices, and factors
# on the first and the last component's ellipticity
STARTS = ((-1.9, 0.0, 0.0, 0.5, 0.5), (-1.2, 0.2, 1.4, 0.5, 0.5))
MORE_STARTS = ((0.9, -0.3, 0.7, 0.5, 0.5), (0.0, 0.2, 0.5, 0.2, 1.5))
SWAPPED_N = 0.3  # ln of the indices of starts with exchanged components


def concentric(space: ParameterSpace) -> tuple[int, ...]:
    """Return the components of the first source that share its centre; none if there is but one.

    Where nothing is tied all components of the source can be exchanged. Components of a GALFIT file
    are sources of their own.
    """
    first = [k for k, c in enumerate(space.components) if c.source == space.components[0].source]
    if space.links is not None:
        slices = space.slices()
        centres = [space.links.rows[slices[k].start : slices[k].start + 2] for k in first]
        pairs = zip(first, centres, strict=True)
        first = [k for k, centre in pairs if centre == centres[0] and any(centre)]
    return tuple(first) if len(first) > 1 else ()


def spread_starts(
    space: ParameterSpace,
    constants: Constants,
    whitened: Tensor,
    flux: Tensor,
    starts: Sequence[Sequence[float]],
) -> Tensor:
    """Return whitened starts (B, S, P) with sizes about that of the sum of known components.

    Args:
        space: with `concentric` components.
        constants: of B galaxies.
        whitened: (B, P) what is known.
        flux: (B, K) of the components there, in any unit.
        starts: `STARTS` or `MORE_STARTS`.
    """
    coords, _ = space.from_whitened(whitened, constants)
    shared = _ellipses(space)
    columns = [space.slices()[k] for k in shared]
    middle = torch.log(mean_size(space, constants, whitened, flux))
    result = []
    for first, last, log_n, round_first, round_last in starts:
        other = _with_index(coords, space, shared, log_n)
        for place, c in enumerate(columns):
            share = place / max(len(columns) - 1, 1)
            other[:, c.start + 2] = middle + first + (last - first) * share
            factor = round_first + (round_last - round_first) * share
            other[:, c.stop - 2 : c.stop] *= factor
        result.append(space.to_whitened(other, constants))
    return torch.stack(result, dim=1)


def mean_size(
    space: ParameterSpace, constants: Constants, whitened: Tensor, flux: Tensor
) -> Tensor:
    """Return the geometric mean (B,) of the components' circularised sizes by flux, pixels.

    Args:
        space, constants, whitened, flux: as for `spread_starts`.
    """
    coords, _ = space.from_whitened(whitened, constants)
    shared = _ellipses(space)
    light = flux[:, shared].clamp_min(1e-6)
    sizes = coords[:, [space.slices()[k].start + 2 for k in shared]]
    return torch.exp((light * sizes).sum(dim=1) / light.sum(dim=1))


def exchanged_starts(space: ParameterSpace, constants: Constants, whitened: Tensor) -> Tensor:
    """Return whitened starts (B, S, P) with sizes and ellipticities in reverse order.

    There is one, or none where that changes nothing.

    Args:
        space, constants, whitened: as for `spread_starts`.
    """
    shared = _ellipses(space)
    if len(shared) < 2 or _alike(space, constants, shared[0], shared[-1]):
        return whitened.new_zeros(len(whitened), 0, whitened.shape[1])
    coords, _ = space.from_whitened(whitened, constants)
    other = _with_index(coords, space, shared, SWAPPED_N)
    columns = [space.slices()[k] for k in shared]
    for mine, theirs in zip(columns, reversed(columns), strict=True):
        other[:, mine.stop - 2 : mine.stop] = coords[:, theirs.stop - 2 : theirs.stop]
        other[:, mine.start + 2] = coords[:, theirs.start + 2]
    return space.to_whitened(other, constants)[:, None]


def _ellipses(space: ParameterSpace) -> list[int]:
    """Return those of the concentric components that have a size."""
    return [k for k in concentric(space) if space.components[k].is_ellipse]


def _alike(space: ParameterSpace, constants: Constants, one: int, other: int) -> bool:
    """Return whether two components can exchange their parameters without changing the model."""
    if space.links is not None:
        return False
    if space.components[one].profile != space.components[other].profile:
        return False
    numbers = [constants.numbers[:, space.slices()[k]] for k in (one, other)]
    return space.priors[one] == space.priors[other] and torch.equal(*numbers)


def _with_index(
    coords: Tensor, space: ParameterSpace, shared: Sequence[int], log_n: float
) -> Tensor:
    """Return a copy of coordinates (B, C) in which components have this Sersic index."""
    other = coords.clone()
    for k in shared:
        shape = space.components[k].shape
        if "n" in shape:
            other[:, space.slices()[k].start + 3 + shape.index("n")] = log_n
    return other


def nearest_order(
    points: Tensor, known: Tensor, precision: Tensor, space: ParameterSpace, constants: Constants
) -> Tensor:
    """Return points with alike components in the order in which they are nearest to known ones.

    Args:
        points: (b, P) whitened.
        known: (b, P) whitened.
        precision: (b, P, P) that distances are measured with.
        space: of both.
        constants: of the b galaxies.
    """
    chosen, best = points, torch.full_like(points[:, 0], torch.inf)
    for order in _orders(space, constants):
        other = points[:, order]
        offset = other - known
        distance = torch.einsum("bi,bij,bj->b", offset, precision, offset)
        chosen = torch.where((distance < best)[:, None], other, chosen)
        best = torch.minimum(distance, best)
    return chosen


def _orders(space: ParameterSpace, constants: Constants) -> list[list[int]]:
    """Return the orders of whitened coordinates that exchange alike components."""
    shared, slices = concentric(space), space.slices()
    orders = []
    for places in permutations(shared):
        moved = [(k, j) for k, j in zip(shared, places, strict=True) if k != j]
        if all(_alike(space, constants, k, j) for k, j in moved):
            columns = list(range(space.n_nonlinear))
            for k, j in moved:
                columns[slices[k]] = range(slices[j].start, slices[j].stop)
            orders.append(columns)
    return orders
