"""The numbers of B scenes of one topology: initial values, bounds and constants of ties."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from hybridfit.batch import Batch
from hybridfit.model.compile import compile_scene, component_names, tie_constant, tie_range
from hybridfit.model.constants import Constants
from hybridfit.model.distributions import COLUMNS
from hybridfit.model.layout import Links
from hybridfit.model.parameters import ParameterSpace, component_numbers
from hybridfit.model.prior import Prior
from hybridfit.model.prior_numbers import bounded_numbers, interval, user_numbers
from hybridfit.model.scene import Parameter, Scene
from hybridfit.model.whitening import slots_of

FLUX_SIGMA = 3.0  # of ln flux about its initial value, where it must have a prior and has none


@dataclass(frozen=True)
class SceneValues(Batch):
    """Initial values and constants of B scenes with the same free parameters.

    Args:
        space: what all of them have in common.
        start: (B, Q) float64 physical values in cutout pixels, in the order of the space's names;
            NaN where the fitter shall choose.
        low, high: (B, Q) bounds of the values; infinite where there are none.
        tie: (B, S + K) constant of the tie of each slot and of each linear flux, in the slot's
            terms; NaN where the initial values say it; 0 without a tie.
        tie_low, tie_high: (B, S + K) range of the constant where it is free; infinite elsewhere.
    """

    space: ParameterSpace
    start: Tensor
    low: Tensor
    high: Tensor
    tie: Tensor
    tie_low: Tensor
    tie_high: Tensor

    def constants(
        self, theta: Tensor, zeropoint: Tensor, centre: Tensor, reach: Tensor, wide: Tensor
    ) -> Constants:
        """Return priors, fixed values and offsets of ties of the B galaxies.

        Args:
            theta: (B, Q) `start` with every value filled in.
            zeropoint: (B,) mag.
            centre, reach: (B, 2) and (B,) where the target is expected, and half of the width of
                the position's prior there, pixels.
            wide: (B,) the same about an initial value that is given.
        """
        space = self.space
        coords, linear = space.from_physical(theta, zeropoint)
        bounds = []
        for k in range(space.n_components):
            at = [space.column(k, "x"), space.column(k, "y")]
            given = torch.isfinite(self.start[:, at]).all(dim=1)
            middle = torch.where(given[:, None], theta[:, at], centre)
            half = torch.where(given, wide, reach)
            bounds.append(torch.cat([middle, half[:, None].expand(-1, 2)], dim=1))
        if space.links is None:
            free = space.constants(torch.stack(bounds, dim=1))
            return Constants(centre, free.numbers)
        slots = slots_of(space.components, coords)
        own = self._own_constants(space.links, slots)
        shifts = _dense(space.links.shifts, slots.shape[1]).to(slots)
        numbers = self._numbers(space.links, slots, bounds, zeropoint)
        return Constants(centre, numbers, own @ shifts.T, *self._linear(space.links, linear))

    def _own_constants(self, links: Links, slots: Tensor) -> Tensor:
        """Return the constant (B, S) of each slot: its value if it is fixed, or its tie's."""
        own = torch.zeros_like(slots)
        rows = _dense(links.follows, slots.shape[1]).to(slots)
        from_start = slots - slots @ rows.T
        for j, (fixed, tied) in enumerate(zip(links.fixed, links.tied, strict=True)):
            if fixed:
                own[:, j] = slots[:, j]
            elif tied:
                tie = self.tie[:, j]
                own[:, j] = torch.where(torch.isnan(tie), from_start[:, j], tie)
        return own

    def _numbers(
        self, links: Links, slots: Tensor, bounds: Sequence[Tensor], zeropoint: Tensor
    ) -> Tensor:
        """Return the numbers (B, P, 5) of the free slots' priors."""
        space = self.space
        parts = [
            component_numbers(component, prior, bound)
            for component, prior, bound in zip(space.components, space.priors, bounds, strict=True)
        ]
        flux = slots.new_zeros(len(slots), len(links.fluxes), COLUMNS)
        if links.fluxes:
            flux[:, :, 0] = slots[:, space.n_coords :]
            flux[:, :, 1], flux[:, :, 3] = FLUX_SIGMA, 1.0
        default = torch.cat([*parts, flux], dim=1)
        numbers = []
        for i, j in enumerate(links.owners):
            kind, column = space.slot(j)
            own = default[:, j].clone()
            if kind == "pa":
                own[:, 0] = slots[:, j]
            if links.tied[j] and links.priors[i] is None:
                own = interval(self.tie_low[:, j], self.tie_high[:, j])
            elif links.priors[i] is not None:
                # the offset of a tied magnitude knows of no zero point
                zero = torch.zeros_like(zeropoint) if links.tied[j] else zeropoint
                own = user_numbers(links.priors[i], kind, own, zero, space.shape_of(j))
            if not links.tied[j] and column is not None:
                limits = self.low[:, column], self.high[:, column]
                own = bounded_numbers(
                    links.families[i], kind, own, limits, zeropoint, space.shape_of(j)
                )
            numbers.append(own)
        if not numbers:
            return slots.new_zeros(len(slots), 0, COLUMNS)
        return torch.stack(numbers, dim=1)

    def _linear(self, links: Links, linear: Tensor) -> tuple[Tensor, Tensor]:
        """Return offsets and factors (B, L) of fluxes and sky terms."""
        space = self.space
        linear = linear[:, : space.n_terms]
        first = space.n_coords + len(links.fluxes)
        leaders = torch.tensor(links.leaders, device=linear.device)
        tie = torch.zeros_like(linear)
        tie[:, : space.n_components] = self.tie[:, first:]
        leader = linear[:, leaders]
        factor = torch.where(torch.isnan(tie), linear / leader, torch.exp(tie))
        fixed = [t is None and k not in links.fluxes for k, t in enumerate(links.terms)]
        where = torch.tensor(fixed, device=linear.device)
        return torch.where(where, leader * factor, 0.0), factor


def scene_values(scenes: Sequence[Scene], prior: Prior | None = None) -> SceneValues:
    """Return the numbers of scenes that have one topology.

    Args:
        scenes: B of them, with numbers in cutout pixels.
        prior: of what has no prior of its own.

    Raises:
        ValueError: as `compile_scene`; if the scenes differ in what is free, fixed or tied.
    """
    space = compile_scene(scenes[0], prior)
    if any(compile_scene(scene, prior) != space for scene in scenes[1:]):
        raise ValueError("the scenes of a batch differ in what is free, fixed or tied")
    rows = [_numbers_of(scene, space) for scene in scenes]
    return SceneValues(
        space, *(torch.tensor(v, dtype=torch.float64) for v in zip(*rows, strict=True))
    )


def _numbers_of(scene: Scene, space: ParameterSpace) -> tuple[list[float], ...]:
    """Return one scene's start, low, high (Q,) and tie, tie_low, tie_high (S + K,)."""
    asked = {
        f"{name}.{key}": value
        for name, component in zip(component_names(scene), scene.components, strict=True)
        for key, value in component.parameters.items()
    }
    asked |= scene.sky.parameters
    names = [
        f"{name}.{key}"
        for name, layout in zip(component_names(scene), space.components, strict=True)
        for key in layout.parameters
    ]
    values = [asked.get(name, Parameter()) for name in (*names, *space.names[len(names) :])]
    start = [math.nan if v.start is None else v.start for v in values]
    if lacking := [v for v, s in zip(values, start, strict=True) if v.fixed and math.isnan(s)]:
        name = [*names, *space.names[len(names) :]][values.index(lacking[0])]
        raise ValueError(f"'{name}' is fixed without a value: give its start")
    ties = [asked.get(name, Parameter()).tied for name in tied_names(scene, space)]
    pairs = list(zip(tied_names(scene, space), ties, strict=True))
    linear = {
        f"{name}.{shape}"
        for name, layout in zip(component_names(scene), space.components, strict=True)
        for shape in layout.linear
    }
    constants = [0.0 if tie is None else tie_constant(n, tie, n in linear) for n, tie in pairs]
    ranges = [
        (-math.inf, math.inf) if tie is None else tie_range(name, tie, name in linear)
        for name, tie in pairs
    ]
    low, high = ([v.bounds[i] for v in values] for i in (0, 1))
    return start, low, high, constants, [r[0] for r in ranges], [r[1] for r in ranges]


def tied_names(scene: Scene, space: ParameterSpace) -> list[str]:
    """Return ``bulge.x`` of each slot, then the magnitudes of all components."""
    names = component_names(scene)
    slots = [f"{n}.{s}" for n, c in zip(names, space.components, strict=True) for s in c.slots]
    own = space.links.fluxes if space.links is not None else ()
    return [*slots, *(f"{names[k]}.mag" for k in own), *(f"{name}.mag" for name in names)]


def _dense(rows: Sequence[Sequence[tuple[int, float]]], size: int) -> Tensor:
    matrix = torch.zeros(len(rows), size, dtype=torch.float64)
    for i, row in enumerate(rows):
        for j, factor in row:
            matrix[i, j] = factor
    return matrix


def shifted(constants: Constants, space: ParameterSpace, by: Tensor) -> Constants:
    """Return the constants with all positions moved by ``by`` (B, 2) pixels."""
    kinds = [slot for c in space.components for slot in c.slots]
    axis = [{"x": 0, "y": 1}.get(kind, -1) for kind in kinds]
    links = space.links
    if links is not None:
        axis += [-1] * len(links.fluxes)
    move = torch.stack([by[:, a] if a >= 0 else torch.zeros_like(by[:, 0]) for a in axis], dim=1)
    owners = list(range(len(axis))) if links is None else list(links.owners)
    # a free offset of a tie is no position
    placed = [axis[j] >= 0 and not (links is not None and links.tied[j]) for j in owners]
    free = torch.where(torch.tensor(placed, device=by.device), move[:, owners], 0.0)
    numbers = constants.numbers.clone()
    numbers[:, :, 0] += free
    offset = constants.offset
    if links is not None and offset is not None:
        offset = offset + move - free @ _dense(links.rows, len(owners)).to(free).T
    return replace(constants, centre=constants.centre + by, numbers=numbers, offset=offset)
