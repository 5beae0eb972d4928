"""Parameters that keep a value: starting values of each galaxy, and which of them may not move.

The optimiser then walks on a surface within whitened space. Its coordinates are the whitened
ones, but for a size, an axis ratio or an angle that is fixed while its partners move: r_eff and q
share the circularised radius, q and pa the ellipticity. Flux and sky are linear; what is fixed of
them is left out of their solution. The prior is that of whitened space, taken on the surface.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.functional import softplus

from hybridfit.data.batch import Batch
from hybridfit.model.parameters import ParameterSpace

TOLERANCE = (
    1e-3  # relative, of a fixed value after the way through whitened space; at least ROUNDING
)
ROUNDING = 1e-6


@dataclass(frozen=True)
class InitialValues(Batch):
    """Values that B galaxies are fitted from, and which of them are fixed or tied.

    Args:
        theta: (B, Q) float64 physical values in cutout pixels, in the order of the space's names;
            NaN where the fitter shall choose.
        fixed: (B, Q) bool, those that keep their value.
        tied_to: (B, Q) int64, the column with which a position moves, keeping its distance: its
            own where it moves by itself (the default). Only x and y may follow another.

    Raises:
        ValueError: if the shapes differ, or a value is fixed that is not there.
    """

    theta: Tensor
    fixed: Tensor
    tied_to: Tensor = field(default_factory=lambda: torch.tensor(-1))

    def __post_init__(self) -> None:
        if self.tied_to.ndim == 0:
            own = torch.arange(self.theta.shape[-1], device=self.theta.device)
            object.__setattr__(self, "tied_to", own.expand(self.theta.shape))
        if self.theta.shape != self.fixed.shape or self.theta.ndim != 2:
            raise ValueError(
                f"theta has shape {tuple(self.theta.shape)} and fixed {tuple(self.fixed.shape)}, "
                "expected both to be (B, Q)"
            )
        if (self.fixed & ~torch.isfinite(self.theta)).any():
            raise ValueError("a parameter is fixed without a finite value: give one")

    @property
    def is_tied(self) -> Tensor:
        """(B, Q) bool, parameters that move with another."""
        return self.tied_to != torch.arange(self.tied_to.shape[1], device=self.tied_to.device)


@dataclass(frozen=True)
class Surface(Batch):
    """The surface on which B galaxies are fitted.

    Args:
        space: parameters and prior.
        fixed: (B, Q) bool, physical parameters that keep their value.
        tied_to: (B, P) int64, the coordinate that each one takes its value from.
        value: (B, P) whitened coordinates of the values they are fixed at.
        log_size: (B, K) ln r_eff of each component.
        direction: (B, K, 2) unit vector of each ellipticity: cos and sin of 2 pa.
        box: of the problem.
        offset: (B, L) linear parameters with those that are free at 0.
        span: (B, L, L) the directions that are free; columns of zeros for the others.
        count: (B,) number of parameters that are fixed, or follow another.
    """

    space: ParameterSpace
    fixed: Tensor
    tied_to: Tensor
    value: Tensor
    log_size: Tensor
    direction: Tensor
    box: Tensor
    offset: Tensor
    span: Tensor
    count: Tensor

    def to_whitened(self, point: Tensor) -> tuple[Tensor, Tensor]:
        """Return whitened coordinates of points (B, P) on the surface, and d whitened / d point."""
        whitened, tangent = point.clone(), torch.diag_embed(torch.ones_like(point))
        for k, (columns, names) in enumerate(self._components()):
            first, e = columns.start, slice(columns.stop - 2, columns.stop)
            for j, name in enumerate(names[:-2], start=first):
                if name != "r_eff":
                    kept = self._is_fixed(k, name)
                    whitened[:, j] = torch.where(kept, self.value[:, j], point[:, j])
                    tangent[:, j, j] = (~kept).to(point.dtype)
            whitened[:, e], tangent[:, e, e] = self._ellipticity(k, point[:, e], self.value[:, e])
        coords, chain = self.space.from_whitened(whitened, self.box)
        for k, (columns, _) in enumerate(self._components()):
            self._fix_size(k, columns, coords, chain, whitened, tangent)
        # boxes of one size about each start: equal coordinates keep their distance in pixels
        rows = self.tied_to[:, :, None].expand_as(tangent)
        return whitened.gather(1, self.tied_to), tangent.gather(1, rows)

    def coordinates(self, whitened: Tensor) -> Tensor:
        """Return the point of the surface that belongs to whitened coordinates (B, P)."""
        point = whitened.clone()
        for k, (columns, _) in enumerate(self._components()):
            e = slice(columns.stop - 2, columns.stop)
            along = (whitened[:, e] * self.direction[:, k]).sum(dim=1).clamp_min(1e-3)
            angle = torch.atan2(whitened[:, columns.stop - 1], whitened[:, columns.stop - 2])
            q, pa = self._is_fixed(k, "q"), self._is_fixed(k, "pa")
            first = torch.where(pa, along + torch.log(-torch.expm1(-along)), point[:, e.start])
            point[:, e.start] = torch.where(q & ~pa, angle, first)
        return point

    def _components(self) -> list[tuple[slice, tuple[str, ...]]]:
        names = [("x", "y", "r_eff", *shape, "q", "pa") for shape in self.space.shapes]
        return list(zip(self.space.slices(), names, strict=True))

    def _is_fixed(self, k: int, name: str) -> Tensor:
        return self.fixed[:, column_of(self.space, k, name)]

    def _ellipticity(self, k: int, point: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """The pair (B, 2) and its derivative: free, turning, stretching, or at rest."""
        q, pa = (self._is_fixed(k, name)[:, None] for name in ("q", "pa"))
        direction, angle = self.direction[:, k], point[:, :1]
        size = value.norm(dim=1, keepdim=True)
        turned = size * torch.cat([torch.cos(angle), torch.sin(angle)], dim=1)
        across = torch.stack([-turned[:, 1], turned[:, 0]], dim=1)
        stretched = softplus(angle) * direction  # an axis ratio beyond 1 would turn the angle
        pair = torch.where(q & pa, value, torch.where(q, turned, torch.where(pa, stretched, point)))
        moving = torch.where(q, across, torch.sigmoid(angle) * direction)
        first = torch.where(q & pa, torch.zeros_like(moving), moving)
        one = torch.diag_embed(torch.ones_like(point))
        only_first = torch.stack([first, torch.zeros_like(first)], dim=2)
        return pair, torch.where((q | pa)[:, :, None], only_first, one)

    def _fix_size(
        self,
        k: int,
        columns: slice,
        coords: Tensor,
        chain: Tensor,
        whitened: Tensor,
        tangent: Tensor,
    ) -> None:
        """Where r_eff is fixed, ln r_circ = ln r_eff + ln q / 2 follows the ellipticity."""
        kept, j = self._is_fixed(k, "r_eff"), columns.start + 2
        e = slice(columns.stop - 2, columns.stop)
        eta = coords[:, e]
        g = eta.norm(dim=1)
        prior = self.space.prior.r_circ
        size = prior.whitened(self.log_size[:, k] - g / 2)
        by_pair = torch.einsum("bi,bij->bj", eta / g.clamp_min(1e-12)[:, None], chain[:, e, e])
        slope = -0.5 * by_pair / prior.log_value(size)[1][:, None]
        follows = torch.einsum("bi,bij->bj", slope, tangent[:, e, :])
        whitened[:, j] = torch.where(kept, size, whitened[:, j])
        tangent[:, j] = torch.where(kept[:, None], follows, tangent[:, j])


def column_of(space: ParameterSpace, k: int, name: str) -> int:
    """Column of a component's parameter in ``Fit.theta``; components count from 0."""
    return space.names.index(f"{name}_{k + 1}" if len(space.shapes) > 1 else name)


def surface_of(
    given: InitialValues,
    space: ParameterSpace,
    box: Tensor,
    unit: Tensor,
    zeropoint: Tensor,
    level: Tensor,
) -> Surface:
    """Return the surface on which galaxies are fitted.

    Args:
        given: of B galaxies: what is fixed, and what follows what.
        space: parameters and prior.
        box: (B, 4) or (B, K, 4), see `ParameterSpace.from_whitened`.
        unit: (B, L, L) that turns the problem's linear parameters into flux and sky.
        zeropoint: (B,) magnitudes.
        level: (B,) flux per pixel that the problem has taken off the image.
    """
    theta = torch.where(given.fixed, given.theta, _harmless(space, given.theta))
    coords, linear = space.from_physical(theta, zeropoint)
    columns = [[column_of(space, k, n) for k in range(len(space.shapes))] for n in ("r_eff", "pa")]
    angle = torch.deg2rad(2 * theta[:, columns[1]])
    offset, span = _linear_span(given.fixed, space, linear, unit, level)
    return Surface(
        space,
        given.fixed,
        _tied_coordinates(given, space),
        space.to_whitened(coords, box),
        torch.log(theta[:, columns[0]]),
        torch.stack([torch.cos(angle), torch.sin(angle)], dim=2),
        box,
        offset,
        span,
        (given.fixed | given.is_tied).sum(dim=1),
    )


def _linear_span(
    fixed: Tensor, space: ParameterSpace, linear: Tensor, unit: Tensor, level: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the offset (B, L) and the span (B, L, L) of a `Surface`.

    Args:
        fixed: (B, Q) bool, of the physical parameters.
        space: parameters and prior.
        linear: (B, L) flux of each component, and the sky.
        unit, level: as `surface_of` takes them.
    """
    sky = list(space.names[len(space.names) - (space.n_linear - len(space.shapes)) :])
    names = [space.names[column_of(space, k, "mag")] for k in range(len(space.shapes))] + sky
    kept = fixed[:, [space.names.index(name) for name in names]]
    linear = linear.clone()
    if sky:
        linear[:, len(space.shapes)] -= level
    inverse = torch.linalg.inv(unit)
    offset = (inverse @ torch.where(kept, linear, 0.0)[:, :, None])[:, :, 0]
    scale = torch.diagonal(unit, dim1=1, dim2=2)
    return offset, inverse * torch.where(kept, 0.0, scale)[:, None, :]


def _tied_coordinates(given: InitialValues, space: ParameterSpace) -> Tensor:
    """The coordinate (B, P) that each whitened coordinate takes its value from."""
    physical = [  # of each position's whitened column, its column among the physical ones
        (columns.start + axis, column_of(space, k, name))
        for k, columns in enumerate(space.slices())
        for axis, name in enumerate(("x", "y"))
    ]
    tied_to = torch.arange(space.n_nonlinear, device=given.theta.device).repeat(len(given.theta), 1)
    for whitened, column in physical:
        for other, its_column in physical:
            tied_to[given.tied_to[:, column] == its_column, whitened] = other
    return tied_to


def _harmless(space: ParameterSpace, theta: Tensor) -> Tensor:
    """Values that are there, and 1 in the place of those that are not or have no logarithm."""
    positive = [role in ("r_eff", "shape", "q") for role in space.roles]
    usable = torch.isfinite(theta) & ((theta > 0) | ~torch.tensor(positive, device=theta.device))
    return torch.where(usable, theta, 1.0)


def unreachable(given: InitialValues, surface: Surface) -> list[str]:
    """For each galaxy the first fixed value that the prior does not reach, in words, or ""."""
    space = surface.space
    coords, _ = space.from_whitened(
        surface.to_whitened(surface.coordinates(surface.value))[0], surface.box
    )
    linear = torch.ones_like(surface.offset)
    theta, _ = space.to_physical(coords, linear, torch.zeros_like(linear[:, 0]))
    texts = [""] * len(theta)
    for j, (name, role) in enumerate(zip(space.names, space.roles, strict=True)):
        if role in ("mag", "sky", "pa"):
            continue  # these are fixed as they are
        near = (TOLERANCE * given.theta[:, j].abs()).clamp_min(ROUNDING)
        off = (theta[:, j] - given.theta[:, j]).abs() > near
        for i in (given.fixed[:, j] & off).nonzero()[:, 0].tolist():
            value, nearest = float(given.theta[i, j]), float(theta[i, j])
            texts[i] = texts[i] or (
                f"{name} is fixed at {value:g}, which the prior does not reach (it ends at "
                f"{nearest:.3g}): let it free, or widen the prior"
            )
    return texts
