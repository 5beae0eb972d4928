"""Parameters: names, units, and conversion between physical, render and whitened coordinates.

The fitter moves in *whitened* coordinates ``u`` in which the prior is N(0, I): no bound is ever
crossed, no angle wraps and the prior's gradient is ``u`` itself. Position angle and axis ratio
become the pair ``eta = -ln q (cos 2 pa, sin 2 pa)``, smooth where a galaxy is round, and size is
the circularised radius ``r_eff sqrt(q)``, which unlike ``r_eff`` has no kink there. Flux and sky
are linear in the model, carry a flat prior, and are solved for exactly, so they have no whitened
coordinate unless they are bounded.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise

import torch
from torch import Tensor

from hybridfit.model.constants import Constants
from hybridfit.model.distributions import COLUMNS
from hybridfit.model.layout import ComponentLayout, Links
from hybridfit.model.prior import Prior
from hybridfit.model.profiles import ShapeParameter
from hybridfit.model.whitening import Whitening, default_families
from hybridfit.options.checks import check_choice, check_fields


@dataclass(frozen=True)
class ParameterInfo:
    """Name, unit and meaning of one physical parameter."""

    name: str
    unit: str
    description: str


PARAMETERS: dict[str, ParameterInfo] = {
    p.name: p
    for p in (
        ParameterInfo("x", "pix", "centre along the first axis; the first pixel's centre is 0"),
        ParameterInfo("y", "pix", "centre along the second axis; the first pixel's centre is 0"),
        ParameterInfo("mag", "mag", "total magnitude of the profile, integrated to infinity"),
        ParameterInfo("r_eff", "pix", "half-light radius along the major axis"),
        ParameterInfo("n", "", "Sersic index"),
        ParameterInfo("q", "", "axis ratio b/a"),
        ParameterInfo("pa", "deg", "position angle from +y towards -x, in [0, 180)"),
        ParameterInfo("bulge_to_total", "", "share of the bulge in the flux"),
        ParameterInfo("sky", "", "sky level at the centre of the cutout, flux per pixel"),
        ParameterInfo("sky_dx", "", "sky gradient along the first axis, flux per pixel per pixel"),
        ParameterInfo("sky_dy", "", "sky gradient along the second axis, flux per pixel per pixel"),
    )
}
SKY_NAMES: dict[str, tuple[str, ...]] = {
    "fixed": (),
    "constant": ("sky",),
    "plane": ("sky", "sky_dx", "sky_dy"),
}


@dataclass(frozen=True)
class ParameterSpace:
    """Conversion between whitened, render and physical coordinates of a scene's components.

    Render coordinates (``coords``) are the renderer's input: x, y, ln r_circ, ln shape..., eta1,
    eta2 of each component, then ln flux of those whose flux is not linear. Whitened coordinates are
    those of the free slots; their prior is N(0, I). Physical parameters (``theta``) are what the
    user sees: x, y, mag, r_eff, shape..., q, pa of each component (named ``bulge_mag``, or
    ``mag_1``, ``mag_2`` if several have no names), then the sky.

    Args:
        components: their layouts.
        sky: "fixed", "constant" or "plane".
        prior: of components that have none of their own, see `Prior`.
        links: what is fixed or tied; None for nothing.
    """

    components: tuple[ComponentLayout, ...] = (ComponentLayout(),)
    sky: str = "constant"
    prior: Prior = field(default_factory=Prior)
    links: Links | None = None

    def __post_init__(self) -> None:
        check_fields(self)
        check_choice("sky", self.sky, tuple(SKY_NAMES))
        for component, prior in zip(self.components, self.priors, strict=True):
            for name in component.shape:
                component.prior_of(name, prior)

    @classmethod
    def of_shapes(
        cls, shapes: Sequence[Sequence[str]], sky: str = "constant", prior: Prior | None = None
    ) -> ParameterSpace:
        """Return the space of free ellipses with these shape parameters each."""
        layouts = tuple(
            ComponentLayout(shapes=tuple(ShapeParameter(name) for name in shape))
            for shape in shapes
        )
        return cls(layouts, sky, prior or Prior())

    @property
    def priors(self) -> tuple[Prior, ...]:
        """The prior of each component."""
        return tuple(c.prior or self.prior for c in self.components)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Physical names, in the order of ``Fit.theta``; a fixed sky is reported too."""
        names = [name for k in range(self.n_components) for name in self.names_of(k)]
        return (*names, *(SKY_NAMES[self.sky] or ("sky",)))

    def names_of(self, k: int) -> tuple[str, ...]:
        """Physical names of component ``k``, counted from 0."""
        return tuple(self.label(k, name) for name in self.components[k].parameters)

    def label(self, k: int, name: str) -> str:
        """Return the name of a column of component ``k``: ``bulge_mag``, ``mag_1`` or ``mag``."""
        if self.components[k].name:
            return f"{self.components[k].name}_{name}"
        return f"{name}_{k + 1}" if self.n_components > 1 else name

    def column(self, k: int, role: str) -> int:
        """Return the column of a component's parameter in ``Fit.theta``; components count from 0.

        Raises:
            ValueError: if the component has no such parameter.
        """
        first = sum(len(c.parameters) for c in self.components[:k])
        return first + self.components[k].parameters.index(role)

    @property
    def roles(self) -> tuple[str, ...]:
        """The kind of each of `names`; shape parameters of any name are "shape"."""
        roles = [role for component in self.components for role in component.roles]
        return (*roles, *("sky",) * (len(self.names) - len(roles)))

    @property
    def n_components(self) -> int:
        """Number of components, each with a flux."""
        return len(self.components)

    @property
    def n_sky(self) -> int:
        """Number of sky terms that are rendered: 0 if it is fixed, 1, or 3 with its slopes."""
        return len(SKY_NAMES[self.sky])

    @property
    def n_nonlinear(self) -> int:
        """Number of whitened coordinates."""
        return len(self.whitening.families)

    @property
    def n_linear(self) -> int:
        """Number of free linear parameters: fluxes, and the sky."""
        return self.n_terms if self.links is None else self.links.n_linear

    @property
    def n_coords(self) -> int:
        """Number of render coordinates of all components."""
        return sum(len(component.slots) for component in self.components)

    @property
    def n_fluxes(self) -> int:
        """Number of free linear parameters that are fluxes: the first ones."""
        if self.links is None:
            return self.n_components
        return len({t for t in self.links.terms[: self.n_components] if t is not None})

    @property
    def size_and_shape_columns(self) -> list[int]:
        """Whitened columns of sizes and shape parameters."""
        others = ("x", "y", "mag", "eta1", "eta2", "q", "pa")
        return [i for i, j in enumerate(self.whitening.owners) if self.slot(j)[0] not in others]

    @property
    def n_terms(self) -> int:
        """Number of linear terms of the model: a flux for each component, and the sky."""
        return self.n_components + self.n_sky

    @cached_property
    def whitening(self) -> Whitening:
        """The map from whitened to render coordinates."""
        return Whitening(self.components, self.priors, self.links)

    def slot(self, j: int) -> tuple[str, int | None]:
        """Return the kind of a slot ("x", "r_circ", "eta1", "mag"...) and its column in theta.

        The column is None where the slot is no parameter of its own.
        """
        slots = [(k, slot) for k, c in enumerate(self.components) for slot in c.slots]
        slots += [(k, "mag") for k in self.links.fluxes] if self.links is not None else []
        k, slot = slots[j]
        known = slot in self.components[k].parameters
        return slot, self.column(k, slot) if known else None

    def shape_of(self, j: int) -> ShapeParameter | None:
        """Return the shape parameter that a slot is; None for others."""
        for component, columns in zip(self.components, self.slices(), strict=True):
            if columns.start + 3 <= j < columns.stop - 2:
                return component.shapes[j - columns.start - 3]
        return None

    def slices(self) -> list[slice]:
        """Columns of each component in render coordinates."""
        edges = [0]
        for component in self.components:
            edges.append(edges[-1] + len(component.slots))
        return [slice(a, b) for a, b in pairwise(edges)]

    def constants(self, position_bounds: Tensor) -> Constants:
        """Return the numbers of the priors of galaxies with nothing fixed or tied.

        Args:
            position_bounds: (B, 4) float64: centre x, y and half-widths of the position's prior,
                pixels; or (B, K, 4), one for each component.
        """
        bounds = position_bounds
        if bounds.ndim == 2:
            bounds = bounds[:, None].expand(-1, self.n_components, -1)
        parts = [
            component_numbers(component, prior, bounds[:, k])
            for k, (component, prior) in enumerate(zip(self.components, self.priors, strict=True))
        ]
        return Constants(bounds[:, 0, :2], torch.cat(parts, dim=1))

    def from_whitened(self, whitened: Tensor, constants: Constants) -> tuple[Tensor, Tensor]:
        """Return render coordinates and their derivatives by the whitened ones.

        Args:
            whitened: (B, P) float64.
            constants: of the B galaxies.

        Returns:
            coords (B, C) and d coords / d whitened (B, C, P).
        """
        return self.whitening.forward(whitened, constants)

    def log_volume(self, whitened: Tensor, constants: Constants, positions: bool = True) -> Tensor:
        """Return ln |det d slots / d whitened| (B,), without the matrices of `from_whitened`."""
        return self.whitening.log_volume(whitened, constants, positions)

    def to_whitened(self, coords: Tensor, constants: Constants) -> Tensor:
        """Return whitened from render coordinates; values outside the prior move to its edge."""
        return self.whitening.inverse(coords, constants)

    def to_physical(
        self, coords: Tensor, linear: Tensor, zeropoint: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return physical parameters and their derivatives by render and linear coordinates.

        Args:
            coords: (B, C); what follows the components' coordinates is not used.
            linear: (B, L) flux of each component, then the sky terms (one constant if fixed).
            zeropoint: (B,) magnitudes.

        Returns:
            theta (B, Q), and d theta / d (coords of components, linear) (B, Q, Q).
        """
        n_coords = self.n_coords
        total = n_coords + linear.shape[1]
        theta = torch.empty(len(coords), total, dtype=coords.dtype, device=coords.device)
        jacobian = torch.zeros(len(coords), total, total, dtype=coords.dtype, device=coords.device)
        row = 0
        for k, columns in enumerate(self.slices()):
            flux, last = linear[:, k], row + columns.stop - columns.start
            theta[:, row + 2] = zeropoint - 2.5 * torch.log10(flux)
            jacobian[:, row + 2, n_coords + k] = -2.5 / math.log(10) / flux
            own = slice(row, last + 1)  # with the magnitude, which is linear's
            block = theta[:, own], jacobian[:, own, columns], coords[:, columns]
            if self.components[k].is_ellipse:
                _fill_ellipse(*block, self.components[k])
            else:
                _fill_point(*block)
            row = last + 1
        theta[:, row:] = linear[:, self.n_components :]
        for j in range(total - row):
            jacobian[:, row + j, n_coords + self.n_components + j] = 1.0
        return theta, jacobian

    def from_physical(self, theta: Tensor, zeropoint: Tensor) -> tuple[Tensor, Tensor]:
        """Return coords (B, C) and linear parameters (B, L) from physical ones (B, Q)."""
        coords, flux, row = [], [], 0
        for component in self.components:
            last = row + len(component.parameters)
            values = theta[:, row:last].unbind(1)
            coords += list(values[:2])
            flux.append(10 ** (0.4 * (zeropoint - values[2])))
            if component.is_ellipse:
                g, angle = -torch.log(values[-2]), torch.deg2rad(2 * values[-1])
                shapes = zip(component.shapes, values[4:-2], strict=True)
                coords += [torch.log(values[3]) - g / 2, *(p.coordinate(v) for p, v in shapes)]
                coords += [g * torch.cos(angle), g * torch.sin(angle)]
            row = last
        links = self.links
        own = [] if links is None else [torch.log(flux[k]) for k in links.fluxes]
        sky = theta[:, row:].unbind(1)
        return torch.stack([*coords, *own], dim=1), torch.stack([*flux, *sky], dim=1)


def component_numbers(component: ComponentLayout, prior: Prior, bounds: Tensor) -> Tensor:
    """Return the numbers (B, P, 5) of the default priors of a component's slots.

    Args:
        component: its layout.
        prior: of its parameters.
        bounds: (B, 4) centre x, y and half-widths of the position's prior, pixels.
    """
    numbers = bounds.new_zeros(len(bounds), len(component.slots), COLUMNS)
    numbers[:, 0, :2], numbers[:, 1, :2] = bounds[:, [0, 2]], bounds[:, [1, 3]]
    for j, (slot, family) in enumerate(
        zip(component.slots, default_families(component), strict=True)
    ):
        if slot == "q" and family is not None:
            numbers[:, j] = numbers.new_tensor([0.0, 1.0, *prior.ellipticity])
        elif slot == "pa":
            numbers[:, j, 1] = math.pi
        elif j >= 2 and family is not None:
            own = prior.r_circ if j == 2 else component.prior_of(slot, prior)
            numbers[:, j, :4] = numbers.new_tensor(own.numbers)
    return numbers


def _fill_point(theta: Tensor, jacobian: Tensor, coords: Tensor) -> None:
    """Write the position of a point, see `_fill_ellipse`."""
    theta[:, :2] = coords[:, :2]
    jacobian[:, 0, 0] = jacobian[:, 1, 1] = 1.0


def _fill_ellipse(
    theta: Tensor, jacobian: Tensor, coords: Tensor, component: ComponentLayout
) -> None:
    """Write a component's physical parameters and their derivatives, but for its magnitude.

    Args:
        theta: (B, 6 + S) x, y, mag, r_eff, shape, q, pa; written to.
        jacobian: (B, 6 + S, 5 + S) by ``coords``, zeros; written to.
        coords: (B, 5 + S) x, y, ln r_circ, ln shape, eta1, eta2.
        component: what the shape parameters are.
    """
    eta = coords[:, -2:]
    g = eta.norm(dim=1)
    direction = eta / g.clamp_min(1e-12)[:, None]
    theta[:, :2] = coords[:, :2]
    jacobian[:, 0, 0] = jacobian[:, 1, 1] = 1.0
    theta[:, 3] = torch.exp(coords[:, 2] + g / 2)
    jacobian[:, 3, 2] = theta[:, 3]
    jacobian[:, 3, -2:] = theta[:, 3, None] * direction / 2
    for j, parameter in enumerate(component.shapes, start=3):
        theta[:, j + 1] = parameter.value(coords[:, j])
        jacobian[:, j + 1, j] = parameter.slope(coords[:, j])
    q = torch.exp(-g)
    theta[:, -2] = q
    jacobian[:, -2, -2:] = -q[:, None] * direction
    half = 90.0 / math.pi  # half of an angle in radians, in degrees
    # twice: values just below 0 round to 180
    theta[:, -1] = (half * torch.atan2(eta[:, 1], eta[:, 0])) % 180.0 % 180.0
    across = torch.stack([-eta[:, 1], eta[:, 0]], dim=1)
    jacobian[:, -1, -2:] = half * across / (g**2).clamp_min(1e-24)[:, None]
