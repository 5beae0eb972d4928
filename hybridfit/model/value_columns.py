"""Names under which tables give initial and fixed values of a model's parameters.

    bulge_n           the fit begins there
    disk_r_eff_fixed  the value is kept; empty where the parameter is free

A model of one component without a name has the plain names: ``n_fixed``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import lru_cache

from hybridfit.model.compile import compile_scene
from hybridfit.model.prior import Prior
from hybridfit.model.scene import Component, Parameter, Scene

FIXED = "_fixed"
# ends of columns that a table of results has beside the parameters
RESULTS = ("_err", "_p16", "_p50", "_p84", "_arcsec", "_ra", "_dec", "_pa_sky", "_samples")
CLOSE = 0.6  # similarity of a name that is probably a misspelt one


@dataclass(frozen=True)
class ValueColumns:
    """The columns that a model understands.

    Args:
        places: of each name without ``_fixed``: the component's number from 0, or None for the
            sky, and the parameter.
        components: names of the components; empty if they have none.
        tied: names of parameters that follow others without freedom, with those others.
    """

    places: Mapping[str, tuple[int | None, str]]
    components: tuple[str, ...]
    tied: Mapping[str, str]

    @property
    def names(self) -> tuple[str, ...]:
        """All names, those of fixed values last."""
        return (*self.places, *(f"{name}{FIXED}" for name in self.places))

    def of_table(self, columns: Iterable[str], others: Iterable[str] = ()) -> list[str]:
        """Return the names of a table's columns that hold values of this model.

        Args:
            columns: of the table.
            others: names that have another meaning there; they may be initial values too.

        Raises:
            ValueError: for a column that looks like a parameter and is none, and for one that
                fixes a parameter that the model ties to another.
        """
        known, others = set(self.names), set(others)
        found = []
        for column in columns:
            if column in known:
                self._check_tie(column)
                found += [] if column in others else [column]
            elif column not in others and (meant := self._meant(column)):
                raise ValueError(
                    f"column '{column}' is no parameter of the model: did you mean '{meant}'? "
                    f"Rename it; _{column} is passed over"
                )
        return found

    def check(self, names: Iterable[str]) -> None:
        """Raise ValueError for the first name that is no value of this model."""
        for name in names:
            if name not in self.names:
                close = get_close_matches(name, self.names, n=1, cutoff=0)
                raise ValueError(
                    f"'{name}' is no parameter of the model: did you mean '{close[0]}'?"
                )
            self._check_tie(name)

    def _check_tie(self, column: str) -> None:
        name = column.removesuffix(FIXED)
        if column.endswith(FIXED) and name in self.tied:
            raise ValueError(
                f"'{column}' fixes what the model ties to '{self.tied[name]}': leave out one"
            )

    def _meant(self, column: str) -> str | None:
        """Return the name that a column was meant to have; None if it is something else."""
        if column.startswith("_") or column.endswith(RESULTS):
            return None
        folded = {name.lower(): name for name in self.names}
        if len(column) > 1 and column.lower() in folded and column.lower() != column:
            return folded[column.lower()]
        head = next((f"{name}_" for name in self.components if column.startswith(f"{name}_")), "")
        if not (head or column.endswith(FIXED)):
            return None
        if whole := [name for name in self.names if name.endswith(f"_{column}")]:
            return whole[0]
        known = [name for name in self.names if name.startswith(head)]
        close = get_close_matches(column, known, n=1, cutoff=0.0 if head else CLOSE)
        return close[0] if close else None


NONE = ValueColumns({}, (), {})


def value_columns(scene: Scene) -> ValueColumns:
    """Return the columns that a scene understands."""
    return _value_columns(_Key(scene))


class _Key:
    """A scene that can be hashed: mappings inside cannot."""

    def __init__(self, scene: Scene) -> None:
        self.scene, self._text = scene, repr(scene)

    def __hash__(self) -> int:
        return hash(self._text)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Key) and self._text == other._text


@lru_cache(maxsize=16)
def _value_columns(key: _Key) -> ValueColumns:
    scene = key.scene
    space = compile_scene(scene, Prior())
    places: dict[str, tuple[int | None, str]] = {}
    tied = {}
    for k, component in enumerate(scene.components):
        for parameter in space.components[k].parameters:
            places[space.label(k, parameter)] = (k, parameter)
            tie = component.parameters.get(parameter, Parameter()).tied
            if tie is not None and not tie.is_free:
                tied[space.label(k, parameter)] = ", ".join(tie.factors)
    if space.n_sky:
        places |= {name: (None, name) for name in space.names[-space.n_sky :]}
    names = tuple(c.name for c in scene.components if c.name)
    return ValueColumns(places, names, tied)


def with_fixed(scene: Scene, fixed: Mapping[str, float]) -> Scene:
    """Return a scene with further parameters fixed.

    Args:
        scene: as declared.
        fixed: values by name, without ``_fixed``.
    """
    places = value_columns(scene).places
    components = list(scene.components)
    sky = dict(scene.sky.parameters)
    for name, value in fixed.items():
        k, parameter = places[name]
        if k is None:
            sky[parameter] = Parameter(value, fixed=True)
        else:
            own = {**components[k].parameters, parameter: Parameter(value, fixed=True)}
            components[k] = replace(components[k], parameters=own)
    return _with_components(replace(scene, sky=replace(scene.sky, parameters=sky)), components)


def _with_components(scene: Scene, components: list[Component]) -> Scene:
    sources, first = [], 0
    for source in scene.sources:
        last = first + len(source.components)
        sources.append(replace(source, components=tuple(components[first:last])))
        first = last
    return replace(scene, sources=tuple(sources))
