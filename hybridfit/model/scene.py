"""Scenes as users declare them: sources of components, whose parameters are free, fixed or tied.

    Scene([Source("galaxy", [
        Component("bulge", "sersic", {"n": Parameter(prior=LogNormal(3, 0.5, 0.5, 10))}),
        Component("disk", "exponential", {"x": Parameter(tied=equal("bulge.x")),
                                          "y": Parameter(tied=equal("bulge.y"))}),
    ])])

The prior of a parameter that has none of its own is that of the `Prior` which the fit uses.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from types import MappingProxyType
from typing import Any

from hybridfit.model.prior import Distribution, LogNormal, Normal, Prior, Uniform

UNBOUNDED = (-math.inf, math.inf)
SUMS = ("x", "y", "pa", "mag")  # whose ties are sums; those of others are products


@dataclass(frozen=True)
class Tie:
    """How a parameter follows others.

    Positions, angles, magnitudes and sky levels are sums, sizes, shapes and axis ratios products:

        value = offset + sum factor_k other_k          value = ratio prod other_k^factor_k

    Args:
        factors: of each parameter that it follows, by its name (``bulge.r_eff``).
        offset: of a sum; NaN takes it from the initial values.
        ratio: of a product; NaN takes it from the initial values.
        bounds: range of the offset, or of the ratio, which is then free within it.
        prior: of the offset (normal or uniform), or of the ratio (log-normal or uniform), which is
            then free.
    """

    factors: Mapping[str, float]
    offset: float = 0.0
    ratio: float = 1.0
    bounds: tuple[float, float] | None = None
    prior: Distribution | None = None

    def __post_init__(self) -> None:
        if not self.factors:
            raise ValueError("a tie names no parameter, expected one or more such as 'bulge.x'")
        if self.ratio <= 0:
            raise ValueError(f"the ratio of a tie is {self.ratio:g}, expected more than 0")
        if self.bounds is not None and not self.bounds[0] < self.bounds[1]:
            raise ValueError(
                f"the bounds of a tie are {self.bounds[0]:g} and {self.bounds[1]:g}, expected the "
                "lower one first"
            )
        if self.bounds is not None and self.prior is not None:
            raise ValueError(
                "a tie has bounds and a prior, expected one of both at most: give the bounds as "
                "low and high of the prior"
            )

    @property
    def is_free(self) -> bool:
        """Whether the offset, or the ratio, is fitted."""
        return self.bounds is not None or self.prior is not None


def equal(other: str) -> Tie:
    """Return the tie of a parameter that equals ``other`` (``bulge.x``)."""
    return Tie({other: 1.0})


def offset(other: str, by: float = math.nan) -> Tie:
    """Return the tie of a parameter that keeps its distance from ``other``.

    Args:
        other: the name, such as ``bulge.x``.
        by: the distance; default that of the initial values.
    """
    return Tie({other: 1.0}, offset=by)


def ratio(other: str, times: float = math.nan, prior: Distribution | None = None) -> Tie:
    """Return the tie of a size, shape or axis ratio that is a multiple of ``other``.

    Args:
        other: the name, such as ``bulge.r_eff``.
        times: how many times; default that of the initial values.
        prior: of how many times, which is then fitted.
    """
    return Tie({other: 1.0}, prior=prior) if prior is not None else Tie({other: 1.0}, ratio=times)


@dataclass(frozen=True)
class Parameter:
    """One parameter of a component.

    Args:
        start: initial value; None leaves it to the fitter, or to the columns of a manifest.
        prior: of its value; None takes the component's.
        fixed: whether it keeps its initial value.
        tied: how it follows others; None if it does not.
        bounds: lower and upper, beyond which it never goes.
    """

    start: float | None = None
    prior: Distribution | None = None
    fixed: bool = False
    tied: Tie | None = None
    bounds: tuple[float, float] = UNBOUNDED

    def __post_init__(self) -> None:
        if isinstance(self.start, str):
            raise ValueError(
                f"the start of a parameter is '{self.start}', expected a number or None; the class "
                "of names and units is ParameterInfo"
            )
        if self.fixed and self.tied is not None:
            raise ValueError("a parameter is fixed and tied, expected one of both at most")
        if not self.bounds[0] < self.bounds[1]:
            raise ValueError(
                f"the bounds of a parameter are {self.bounds[0]:g} and {self.bounds[1]:g}, "
                "expected the lower one first"
            )
        if self.start is not None and not math.isfinite(self.start):
            raise ValueError(f"the start of a parameter is {self.start}, expected a finite number")
        if self.start is not None and not self.reaches(self.start):
            raise ValueError(
                f"the start of a parameter is {self.start:g}, outside of its prior or bounds"
            )

    @property
    def is_bounded(self) -> bool:
        """Whether it has a bound."""
        return self.bounds != UNBOUNDED

    def reaches(self, value: float) -> bool:
        """Return whether prior and bounds include a value."""
        low, high = self.bounds
        if isinstance(self.prior, LogNormal | Normal | Uniform):
            low, high = max(low, self.prior.low), min(high, self.prior.high)
        return low <= value <= high


@dataclass(frozen=True)
class Component:
    """One component of a source.

    Args:
        name: before its columns: ``bulge`` for ``bulge_mag``; "" for none.
        profile: name of its profile.
        parameters: of those that are not simply free, by name (``n``, ``r_eff``).
        prior: options of `Prior` that differ from the fit's, for parameters that have no prior of
            their own (``{"q_scale": 0.4}``).
    """

    name: str = ""
    profile: str = "sersic"
    parameters: Mapping[str, Parameter] = field(default_factory=lambda: MappingProxyType({}))
    prior: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))

    def __post_init__(self) -> None:
        if self.name and not self.name.replace("_", "a").isidentifier():
            raise ValueError(
                f"a component is called '{self.name}', expected letters, digits and '_'"
            )
        if "position" in self.prior:
            raise ValueError(
                "the prior of a component has 'position', which all components share: give a prior "
                "of x and y instead"
            )
        Prior().updated(self.prior)  # raises for what it does not have


@dataclass(frozen=True)
class Sky:
    """The background.

    Args:
        kind: "fixed" (at its level), "constant" or "plane".
        parameters: of its terms that are not simply free, by name (``sky_dx``).
    """

    kind: str = "constant"
    parameters: Mapping[str, Parameter] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True)
class Source:
    """One source of components.

    Args:
        components: at least one; names differ.
    """

    components: tuple[Component, ...]


@dataclass(frozen=True)
class Scene:
    """What is fitted together.

    Args:
        sources: at least one; the first is the target.
        sky: the background.
    """

    sources: tuple[Source, ...]
    sky: Sky = field(default_factory=Sky)

    def __post_init__(self) -> None:
        names = [c.name for c in self.components]
        if not names:
            raise ValueError("a scene has no component, expected one or more")
        if twice := [name for name in names if name and names.count(name) > 1]:
            raise ValueError(f"two components are called '{twice[0]}': rename one of them")
        if "" in names and any(names):
            raise ValueError("some components have names and others have none: name all or none")

    @property
    def components(self) -> tuple[Component, ...]:
        """The components of all sources."""
        return tuple(c for source in self.sources for c in source.components)


def nearest(name: str, known: list[str]) -> str:
    """Return a hint at the known name nearest to ``name``, or the list of all."""
    close = get_close_matches(name, known, n=1, cutoff=0.5)
    return f"did you mean '{close[0]}'?" if close else f"expected one of {', '.join(known)}"
