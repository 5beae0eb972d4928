"""From a declared scene to its topology: which slots are free, and how the others follow them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from hybridfit.model.distributions import Family
from hybridfit.model.layout import ComponentLayout, Geometry, Links, Row
from hybridfit.model.parameters import SKY_NAMES, ParameterSpace
from hybridfit.model.prior import Distribution, LogNormal, Normal, Prior, Uniform
from hybridfit.model.profiles import find_profile
from hybridfit.model.scene import SUMS, Component, Parameter, Scene, Tie, nearest
from hybridfit.model.whitening import default_families

FREE = Parameter()
SOFTENING = 0.1  # of -ln q, see `hybridfit.model.layout`


def compile_scene(scene: Scene, prior: Prior | None = None) -> ParameterSpace:
    """Return the parameters of a scene; `ParameterSpace.links` is None where all are free.

    Args:
        scene: as declared.
        prior: of what has no prior of its own.

    Raises:
        ValueError: for a component or parameter that is not known, with the nearest known one; for
            ties in a circle, or ties between parameters of different kinds.
    """
    layouts = [
        _layout(component, number, prior or Prior())
        for number, source in enumerate(scene.sources)
        for component in source.components
    ]
    names = component_names(scene)
    asked = _asked(scene, names, layouts)
    if not asked:
        return ParameterSpace(tuple(layouts), scene.sky.kind, prior or Prior())
    layouts = _with_charts(layouts, names, asked)
    slots = _Slots(names, layouts, asked)
    links = _links(slots, scene, asked)
    return ParameterSpace(tuple(layouts), scene.sky.kind, prior or Prior(), links)


def component_names(scene: Scene) -> list[str]:
    """Return the name of each component in ties: its own, or its number from 1."""
    return [c.name or str(k) for k, c in enumerate(scene.components, start=1)]


def _layout(component: Component, source: int, prior: Prior) -> ComponentLayout:
    profile = find_profile(component.profile)
    kind = Geometry.ELLIPSE if "size" in profile.coordinates else Geometry.POINT
    shapes = profile.shape_parameters
    own = prior.updated(component.prior) if component.prior else None
    return ComponentLayout(component.name, component.profile, shapes, kind, own, source=source)


def _asked(
    scene: Scene, names: Sequence[str], layouts: Sequence[ComponentLayout]
) -> dict[str, Parameter]:
    """Return the parameters that are not simply free, by their full names."""
    asked: dict[str, Parameter] = {}
    for name, component, layout in zip(names, scene.components, layouts, strict=True):
        for parameter, value in component.parameters.items():
            if parameter not in layout.parameters:
                hint = nearest(parameter, list(layout.parameters))
                raise ValueError(f"component '{name}' has no parameter '{parameter}': {hint}")
            asked[f"{name}.{parameter}"] = value
    terms = SKY_NAMES[scene.sky.kind]
    for parameter, value in scene.sky.parameters.items():
        if parameter not in terms:
            raise ValueError(f"the sky has no '{parameter}': {nearest(parameter, list(terms))}")
        if value.tied is not None or value.is_bounded or value.prior is not None:
            raise ValueError(f"'{parameter}' of the sky can be free or fixed, not tied or bounded")
        asked[parameter] = value
    restricted = {k: v for k, v in asked.items() if replace(v, start=None) != FREE}
    known = [
        f"{n}.{p}" for n, layout in zip(names, layouts, strict=True) for p in layout.parameters
    ]
    for full, value in restricted.items():
        for other in value.tied.factors if value.tied else ():
            if other not in known:
                raise ValueError(f"'{full}' is tied to '{other}': {nearest(other, known)}")
    return restricted


def _with_charts(
    layouts: Sequence[ComponentLayout], names: Sequence[str], asked: Mapping[str, Parameter]
) -> list[ComponentLayout]:
    """Return layouts whose slots are what is fixed, tied or has a prior of its own."""
    involved = set(asked)
    exact: set[str] = set()
    for full, value in asked.items():
        group = {full, *(value.tied.factors if value.tied else ())}
        involved |= group
        if value.tied is None or value.tied.prior is None or value.is_bounded:
            exact |= group
    return [
        replace(
            layout,
            major=f"{name}.r_eff" in involved,
            softening=SOFTENING if f"{name}.r_eff" in involved - exact else 0.0,
            polar=bool({f"{name}.q", f"{name}.pa"} & involved),
        )
        if layout.is_ellipse
        else layout
        for name, layout in zip(names, layouts, strict=True)
    ]


@dataclass(frozen=True)
class _Slots:
    """The slots of all components, then those of fluxes that are not linear."""

    names: Sequence[str]
    layouts: Sequence[ComponentLayout]
    asked: Mapping[str, Parameter]

    @property
    def full_names(self) -> list[str]:
        """``bulge.x`` of each slot."""
        own = [f"{n}.{s}" for n, c in zip(self.names, self.layouts, strict=True) for s in c.slots]
        return own + [f"{self.names[k]}.mag" for k in self.fluxes]

    @property
    def sums(self) -> set[str]:
        """Full names of parameters whose ties are sums."""
        pairs = zip(self.names, self.layouts, strict=True)
        return {f"{n}.{s}" for n, c in pairs for s in (*SUMS, *c.linear)}

    @property
    def families(self) -> list[Family | None]:
        """Of each slot, were it free."""
        own = [family for c in self.layouts for family in default_families(c)]
        return own + [Family.NORMAL] * len(self.fluxes)

    @property
    def fluxes(self) -> list[int]:
        """Components whose flux is not linear: with a prior or bounds, or tied to such."""
        nonlinear = {
            full
            for full, value in self.asked.items()
            if full.endswith(".mag")
            and (value.is_bounded or value.prior or (value.tied and value.tied.is_free))
        }
        while True:
            more = {
                one
                for full, value in self.asked.items()
                if full.endswith(".mag") and value.tied is not None
                for one in _group(full, value.tied)
                if _group(full, value.tied) & nonlinear
            } - nonlinear
            if not more:
                return [k for k, name in enumerate(self.names) if f"{name}.mag" in nonlinear]
            nonlinear |= more


def _group(full: str, tie: Tie) -> set[str]:
    return {full, *tie.factors}


def _links(slots: _Slots, scene: Scene, asked: Mapping[str, Parameter]) -> Links:
    """Resolve every slot into free ones."""
    full, families = slots.full_names, slots.families
    values = [asked.get(name, FREE) for name in full]
    index = {name: j for j, name in enumerate(full)}
    sums = slots.sums
    for name, value in asked.items():
        _check_kinds(name, value, index, sums)
    free = [j for j, value in enumerate(values) if _is_free(value)]
    resolver = _Resolver(full, values, index, {j: i for i, j in enumerate(free)}, {})
    both = [resolver.resolve(j) for j in range(len(full))]
    terms, leaders, n_linear = _linear(slots, scene, asked)
    return Links(
        rows=tuple(_row(row) for row, _ in both),
        shifts=tuple(_row(shift) for _, shift in both),
        follows=tuple(_row(_followed(value, index)) for value in values),
        families=tuple(_family(full[j], values[j], families[j], full[j] in sums) for j in free),
        owners=tuple(free),
        priors=tuple(_own_prior(values[j]) for j in free),
        fixed=tuple(value.fixed for value in values),
        tied=tuple(value.tied is not None for value in values),
        fluxes=tuple(slots.fluxes),
        terms=terms,
        leaders=leaders,
        n_linear=n_linear,
        fixed_columns=_fixed_columns(slots, scene, asked),
    )


def _is_free(value: Parameter) -> bool:
    """Return whether a slot has a free number: its own, or the constant of a free tie."""
    return not value.fixed and (value.tied is None or value.tied.is_free)


def _followed(value: Parameter, index: Mapping[str, int]) -> dict[int, float]:
    """Return the factors of the slots that a parameter is tied to."""
    return {index[name]: f for name, f in value.tied.factors.items()} if value.tied else {}


Entries = dict[int, float]  # numbers of slots, and the factor of each


@dataclass(frozen=True)
class _Resolver:
    """Follows ties until only free slots and constants are left.

    Args:
        names, values: of all slots.
        index: the slot of each name.
        place: of each free slot, its number among the free ones.
        done: what was found; filled while resolving.
    """

    names: Sequence[str]
    values: Sequence[Parameter]
    index: Mapping[str, int]
    place: Mapping[int, int]
    done: dict[int, tuple[Entries, Entries]]

    def resolve(self, j: int, path: tuple[int, ...] = ()) -> tuple[Entries, Entries]:
        """Return the free slots, and the slots of constants, that slot ``j`` is made of."""
        if j in path:
            circle = " -> ".join(self.names[k] for k in (*path[path.index(j) :], j))
            raise ValueError(f"parameters are tied in a circle: {circle}")
        if j in self.done:
            return self.done[j]
        value = self.values[j]
        row: Entries = {self.place[j]: 1.0} if j in self.place else {}
        shift: Entries = {j: 1.0} if j not in self.place or value.tied else {}
        for other, factor in _followed(value, self.index).items():
            for own, theirs in zip((row, shift), self.resolve(other, (*path, j)), strict=True):
                for key, number in theirs.items():
                    own[key] = own.get(key, 0.0) + factor * number
        self.done[j] = row, shift
        return row, shift


def _fixed_columns(slots: _Slots, scene: Scene, asked: Mapping[str, Parameter]) -> tuple[int, ...]:
    """Return the physical parameters that keep their value."""
    names = [
        f"{n}.{p}" for n, c in zip(slots.names, slots.layouts, strict=True) for p in c.parameters
    ]
    names += SKY_NAMES[scene.sky.kind]
    return tuple(j for j, name in enumerate(names) if asked.get(name, FREE).fixed)


def _row(entries: Mapping[int, float]) -> Row:
    return tuple(sorted(entries.items()))


def _own_prior(value: Parameter) -> Distribution | None:
    """Return the user's prior of a free slot: of the parameter, or of the constant of its tie."""
    return value.prior if value.tied is None else value.tied.prior


def _family(name: str, value: Parameter, default: Family | None, is_sum: bool) -> Family | None:
    """Return the family of a free slot with the user's prior or bounds."""
    kind, prior = name.rpartition(".")[2], _own_prior(value)
    if prior is None:
        if value.tied is not None:  # the offset, or ln of the ratio, within its range
            return Family.UNIFORM
        return Family.NORMAL if kind == "mag" and not value.is_bounded else _bounded(kind, default)
    if isinstance(prior, LogNormal):
        _check_log_normal(name, value, is_sum)
        return Family.NORMAL
    if is_sum:
        return Family.UNIFORM if isinstance(prior, Uniform) else Family.NORMAL
    if isinstance(prior, Normal):
        raise ValueError(f"the prior of '{name}' is normal, expected a log-normal or uniform one")
    return Family.LOG_UNIFORM


def _check_log_normal(name: str, value: Parameter, is_sum: bool) -> None:
    """Raise ValueError for a log-normal prior of what may be 0 or less."""
    if is_sum and value.tied is not None:
        raise ValueError(
            f"the prior of the offset of '{name}' is log-normal, expected a normal or uniform one"
        )
    if is_sum and name.rpartition(".")[2] not in SUMS:
        raise ValueError(f"the prior of '{name}' is log-normal, expected a normal or uniform one")


def _bounded(kind: str, default: Family | None) -> Family | None:
    return Family.UNIFORM if kind == "mag" else default


def _check_kinds(name: str, value: Parameter, index: Mapping[str, int], sums: set[str]) -> None:
    """Raise ValueError for a tie between parameters of different kinds."""
    kind = name.rpartition(".")[2]
    if kind == "mag" or value.tied is None:
        return
    for other in value.tied.factors:
        if other not in index:
            raise ValueError(f"'{name}' cannot be tied to '{other}'")
        if (name in sums) != (other in sums):
            raise ValueError(
                f"'{name}' is tied to '{other}': one adds offsets and the other has ratios"
            )


def _linear(
    slots: _Slots, scene: Scene, asked: Mapping[str, Parameter]
) -> tuple[tuple[int | None, ...], tuple[int, ...], int]:
    """Return the free parameter of each linear term, the term that it follows, and their number."""
    names = [f"{name}.mag" for name in slots.names]
    leaders = [
        k if k in slots.fluxes else names.index(_leader(name, asked))
        for k, name in enumerate(names)
    ]
    is_free = [
        k == leaders[k] and k not in slots.fluxes and not asked.get(name, FREE).fixed
        for k, name in enumerate(names)
    ]
    sky = SKY_NAMES[scene.sky.kind]
    is_free += [not asked.get(name, FREE).fixed for name in sky]
    leaders += range(len(names), len(names) + len(sky))
    numbers = [sum(is_free[:k]) if free else None for k, free in enumerate(is_free)]
    terms = [None if k in slots.fluxes else numbers[leaders[k]] for k in range(len(leaders))]
    return tuple(terms), tuple(leaders), sum(is_free)


def _leader(name: str, asked: Mapping[str, Parameter]) -> str:
    """Return the magnitude that a linear flux follows in the end: its own if it is not tied."""
    seen = [name]
    while (tie := asked.get(seen[-1], FREE).tied) is not None:
        others = list(tie.factors)
        if len(others) != 1 or not others[0].endswith(".mag") or tie.factors[others[0]] != 1.0:
            raise ValueError(f"'{name}' can be tied to one other magnitude only, with factor 1")
        if others[0] in seen:
            raise ValueError(f"parameters are tied in a circle: {' -> '.join([*seen, *others])}")
        seen += others
    return seen[-1]


def tie_constant(name: str, tie: Tie, is_linear: bool = False) -> float:
    """Return the constant of a tie in its slot's terms; NaN where initial values say it.

    Args:
        name: of the parameter.
        tie: of it.
        is_linear: whether it is a shape parameter that is its own coordinate.
    """
    kind = name.rpartition(".")[2]
    if tie.is_free:
        return 0.0
    if kind == "pa":
        return math.radians(2 * tie.offset)
    if kind == "mag":
        return -0.4 * math.log(10) * tie.offset
    if kind == "q":  # the slot is -ln q
        return -math.log(tie.ratio)
    return tie.offset if kind in SUMS or is_linear else math.log(tie.ratio)


def tie_range(name: str, tie: Tie, is_linear: bool = False) -> tuple[float, float]:
    """Return the range of a tie's constant in its slot's terms; infinite without bounds."""
    if tie.bounds is None:
        return -math.inf, math.inf
    kind, (low, high) = name.rpartition(".")[2], tie.bounds
    if kind == "mag":
        return -0.4 * math.log(10) * high, -0.4 * math.log(10) * low
    if kind == "pa":
        return math.radians(2 * low), math.radians(2 * high)
    if kind == "q":
        return -math.log(high), -math.log(low)
    return (low, high) if kind in SUMS or is_linear else (math.log(low), math.log(high))
