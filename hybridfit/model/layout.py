"""The slots of a scene's components, and how slots depend on each other.

A component's *render coordinates* are the renderer's input: x, y, ln r_circ, ln shape..., eta1,
eta2 (a point has x and y alone). Its *slots* are the numbers that priors, ties and fixed values
belong to. They are the render coordinates but for two things: a component whose r_eff is fixed or
tied has ln r_eff in place of ln r_circ, and one whose axis ratio or angle is fixed, tied or bounded
on its own has -ln q and 2 pa in place of eta1 and eta2.

ln r_eff = ln r_circ + |eta| / 2 has a kink where a component is round, in which minimisers get
stuck. Where r_eff has no more than a ratio with a prior, the slot has sqrt(|eta|^2 + s^2) - s in
place of |eta|, with the softening s: smooth, and the same to within s / 2 of ln r_eff.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from hybridfit.model.distributions import Family
from hybridfit.model.prior import Distribution, LogNormal, Normal, Prior
from hybridfit.model.profiles import ShapeParameter


class Geometry(Enum):
    """What a component looks like."""

    ELLIPSE = "ellipse"
    POINT = "point"


@dataclass(frozen=True)
class ComponentLayout:
    """The slots of one component.

    Args:
        name: before its columns (``bulge`` of ``bulge_mag``); "" for the number of the component,
            or for none where it is the only one.
        profile: name of its profile.
        shapes: its shape parameters.
        geometry: whether it has a size and an ellipticity.
        prior: of its parameters; None takes the space's.
        major: whether ln r_eff takes the place of ln r_circ.
        softening: s of ln r_eff, see the module.
        polar: whether -ln q and 2 pa take the place of eta1 and eta2.
        source: number of the source that it is part of, from 0.
    """

    name: str = ""
    profile: str = "sersic"
    shapes: tuple[ShapeParameter, ...] = (ShapeParameter("n"),)
    geometry: Geometry = Geometry.ELLIPSE
    prior: Prior | None = None
    major: bool = False
    softening: float = 0.0
    polar: bool = False
    source: int = 0

    @property
    def shape(self) -> tuple[str, ...]:
        """Names of its shape parameters."""
        return tuple(parameter.name for parameter in self.shapes)

    @property
    def linear(self) -> tuple[str, ...]:
        """Names of the shape parameters that are their own coordinates."""
        return tuple(parameter.name for parameter in self.shapes if parameter.is_linear)

    @property
    def is_ellipse(self) -> bool:
        """Whether it has a size and an ellipticity."""
        return self.geometry is Geometry.ELLIPSE

    def prior_of(self, name: str, prior: Prior) -> LogNormal | Normal:
        """Return the prior of a shape parameter: that of ``prior``, or else the profile's own.

        Raises:
            ValueError: if neither has one.
        """
        own = next(p.prior for p in self.shapes if p.name == name)
        if isinstance(own, Normal):
            return own
        if own is None or name == "n" or name in prior.shapes:
            return prior.of(name)
        return own

    def medians(self, prior: Prior) -> dict[str, float]:
        """Return the median of the prior of each shape parameter, see `prior_of`."""
        return {p.name: p.of_prior(self.prior_of(p.name, prior).median) for p in self.shapes}

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of the parameters that the user sees."""
        if self.is_ellipse:
            return ("x", "y", "mag", "r_eff", *self.shape, "q", "pa")
        return ("x", "y", "mag")

    @property
    def roles(self) -> tuple[str, ...]:
        """The kind of each parameter; shape parameters of any name are "shape"."""
        if self.is_ellipse:
            return ("x", "y", "mag", "r_eff", *("shape",) * len(self.shape), "q", "pa")
        return ("x", "y", "mag")

    @property
    def slots(self) -> tuple[str, ...]:
        """The kind of each slot, in the order of the render coordinates."""
        if not self.is_ellipse:
            return ("x", "y")
        size = "r_eff" if self.major else "r_circ"
        ellipticity = ("q", "pa") if self.polar else ("eta1", "eta2")
        return ("x", "y", size, *self.shape, *ellipticity)


Row = tuple[tuple[int, float], ...]  # a sparse row: index and factor of each entry


@dataclass(frozen=True)
class Links:
    """How the slots and linear terms of a scene follow from those that are free.

    The slots are those of all components, then one for each flux (ln flux) that is not linear:

        slot = rows . free slots + shifts . own constants

    where the own constant of a slot is its value if it is fixed, or the constant of its tie.

    Args:
        rows: for each slot its free ones.
        shifts: for each slot the slots whose constants it contains.
        follows: for each slot those that it is tied to.
        families: of the free slots; None for each of a pair of ellipticities.
        owners: of each free slot, the slot whose prior it has.
        priors: of each free slot the user's prior; None for the component's.
        fixed, tied: of each slot, whether it keeps its value, or follows others.
        fluxes: components whose flux is not linear, in the order of their slots.
        terms: for each flux and sky term the free linear parameter that it is a multiple of; None
            where it is fixed or not linear.
        leaders: for each flux and sky term the one that it is a multiple of: itself if it is none.
        n_linear: number of free linear parameters.
        fixed_columns: physical parameters that keep their value.
    """

    rows: tuple[Row, ...]
    shifts: tuple[Row, ...]
    follows: tuple[Row, ...]
    families: tuple[Family | None, ...]
    owners: tuple[int, ...]
    priors: tuple[Distribution | None, ...]
    fixed: tuple[bool, ...]
    tied: tuple[bool, ...]
    fluxes: tuple[int, ...]
    terms: tuple[int | None, ...]
    leaders: tuple[int, ...]
    n_linear: int
    fixed_columns: tuple[int, ...]
