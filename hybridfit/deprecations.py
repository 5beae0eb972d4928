"""Old names that keep working for one release, in one table, with warnings that say the new ones.

A row is removed with the release after the one that renamed it. The kinds of rows:

name      a public name of the package, ``hybridfit.OLD``
argument  a keyword of the function ``where``
position  a positional argument of the function ``where``, by its number from 1
option    a field of the options of the section ``where``: keyword, YAML key and flag
value     an old value of such a field; ``where`` is "section.field"
section   a section of a YAML file
flag      a flag of the command ``where`` that belongs to no options' section
column    a column of results, where tables of an earlier version are read
attribute an attribute of the class ``where``
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import wraps
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")
SECTION = "__section__"  # where a class of options says which section it is


class RenamedWarning(FutureWarning):
    """An old name was used; shown to users, unlike DeprecationWarning."""


@dataclass(frozen=True)
class Renamed:
    """A row of the table: what was called ``old`` in ``where`` is now called ``new``."""

    kind: str
    where: str
    old: str
    new: str


# what came by position after input and out, where a configuration does now
FILES = ("read", "fit", "run", "overwrite", "quiet", "sampling", "bootstrap", "budget")
POSITIONS = {
    "fit_files": FILES,
    "fit_feedmes": FILES,
    "predict_files": ("read", "predict", "run", "overwrite", "quiet"),
}

TABLE: tuple[Renamed, ...] = (
    Renamed("name", "", "ReconcileOptions", "SamplingOptions"),
    Renamed("name", "", "StreamOptions", "FileRunOptions"),
    Renamed("section", "", "posterior", "sampling"),
    Renamed("argument", "fit", "cutouts", "data"),
    Renamed("argument", "fit", "options", "fit"),
    Renamed("argument", "fit", "posterior", "sampling"),
    Renamed("argument", "predict", "cutouts", "data"),
    Renamed("argument", "predict", "options", "predict"),
    Renamed("argument", "predict_files", "options", "predict"),
    Renamed("argument", "fit_files", "options", "fit"),
    Renamed("argument", "fit_feedmes", "options", "fit"),
    Renamed("argument", "fit_files", "posterior", "sampling"),
    Renamed("argument", "fit_feedmes", "posterior", "sampling"),
    *(
        Renamed("position", where, str(number), name)
        for where, names in POSITIONS.items()
        for number, name in enumerate(names, 3)
    ),
    Renamed("option", "fit", "components", "model"),
    Renamed("option", "fit", "estimator", "objective"),
    Renamed("option", "fit", "coarse", "coarse_fit"),
    Renamed("option", "fit", "second_tries", "retry"),
    Renamed("option", "run", "start", "initial_values"),
    Renamed("value", "run.initial_values", "posterior", "network"),
    Renamed("option", "run", "part", "part_size"),
    Renamed("option", "sampling", "laplace", "fit_draws"),
    Renamed("option", "sampling", "flow", "network_draws"),
    Renamed("option", "sampling", "prior", "prior_draws"),
    Renamed("option", "sampling", "round", "round_draws"),
    Renamed("option", "sampling", "ess", "target_ess"),
    Renamed("option", "sampling", "shortcut", "approximate_likelihood"),
    Renamed("option", "budget", "psf_doubt", "psf_wrong_fraction"),
    Renamed("flag", "train", "--start", "--initial-weights"),
    Renamed("flag", "simulate", "--scenes", "--survey"),
    Renamed("option", "compare", "point", "estimate"),
    Renamed("option", "compare", "limit", "max_sigma"),
    Renamed("option", "compare", "poor", "poor_chi2"),
    Renamed("option", "compare", "worst", "n_worst"),
    Renamed("option", "compare", "rows", "n_rows"),
    Renamed("column", "", "missed", "missed_mass"),
    Renamed("column", "", "khat", "pareto_k"),
    Renamed("column", "", "risk", "catastrophic_probability"),
    Renamed("column", "", "disagreement", "fit_network_distance"),
    Renamed("column", "", "distance", "training_distance"),
    Renamed("column", "", "held", "fixed"),
    Renamed("column", "", "message", "notes"),
    Renamed("attribute", "Result", "missed", "missed_mass"),
    Renamed("attribute", "Result", "khat", "pareto_k"),
    Renamed("attribute", "Result", "risk", "catastrophic_probability"),
    Renamed("attribute", "Result", "disagreement", "fit_network_distance"),
)


def rows(kind: str, where: str = "") -> dict[str, str]:
    """Return the old names of one kind and place with their new names."""
    return {row.old: row.new for row in TABLE if (row.kind, row.where) == (kind, where)}


def warn(old: str, new: str, stacklevel: int = 3) -> None:
    """Warn that ``old`` was used, and say the new name.

    Args:
        old, new: as the user writes them.
        stacklevel: of the user's line, counted from here.
    """
    warnings.warn(old_name_text(old, new), RenamedWarning, stacklevel=stacklevel)


def old_name_text(old: str, new: str) -> str:
    """Return the sentence that says what something is called now."""
    return f"{old} is now called {new}; the old name goes with the next release"


def current_name(old: str) -> str | None:
    """Return what ``hybridfit.OLD`` is called now, with a warning; None for no old name."""
    new = rows("name").get(old)
    if new is not None:
        warn(f"hybridfit.{old}", f"hybridfit.{new}", stacklevel=4)
    return new


def current_sections(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return YAML sections under their new names."""
    return _renamed(given, rows("section"), "section '{}'")


def current_keys(cls: type, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return a mapping of an options dataclass's fields under their new names."""
    return current_options(getattr(cls, SECTION, ""), given, stacklevel=4)


def current_options(section: str, given: Mapping[str, Any], stacklevel: int = 3) -> dict[str, Any]:
    """Return the options of a section under their new names, with their new values."""
    known = _renamed(given, rows("option", section), f"{section}.{{}}", stacklevel + 1)
    for name, value in known.items():
        values = rows("value", f"{section}.{name}")
        if isinstance(value, str) and value in values:
            known[name] = values[value]
            warn(f"{name} '{value}'", f"'{values[value]}'", stacklevel + 1)
    return known


def renamed_fields(section: str) -> Callable[[type[R]], type[R]]:
    """Return a decorator by which an options dataclass takes and gives its fields' old names."""
    old = rows("option", section)

    def decorate(cls: type[R]) -> type[R]:
        make = cls.__init__

        @wraps(make)
        def init(self: Any, *args: Any, **given: Any) -> None:
            make(self, *args, **current_options(section, given))

        def attribute(self: Any, name: str) -> Any:
            if name in old:
                warn(f"{cls.__name__}.{name}", f"{cls.__name__}.{old[name]}")
                return getattr(self, old[name])
            raise AttributeError(f"'{cls.__name__}' object has no attribute '{name}'")

        for name, value in ((SECTION, section), ("__init__", init), ("__getattr__", attribute)):
            setattr(cls, name, value)
        return cls

    return decorate


def renamed_arguments(*sections: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Return a decorator by which a function takes old names of its keywords, and old positions.

    Args:
        sections: of options whose fields are keywords of the function too.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        old = rows("argument", function.__name__)
        for section in sections:
            old |= rows("option", section)

        @wraps(function)
        def call(*args: P.args, **given: P.kwargs) -> R:
            known: Any = _renamed(given, old, f"{function.__name__}({{}}=...)")
            left, named = _named(function.__name__, args, known)
            return function(*left, **{**known, **named})

        return call

    return decorate


def _named(
    function: str, args: tuple[Any, ...], given: Mapping[str, Any]
) -> tuple[Any, dict[str, Any]]:
    """Return the arguments that are positional today, and by name those that were before.

    An old call is known by its options of a section, the first of which are where a
    configuration is today.

    Raises:
        ValueError: if an argument comes by position and by name.
    """
    old = {int(number) - 1: name for number, name in rows("position", function).items()}
    first = min(old, default=len(args))
    is_old = first < len(args) <= first + len(old) and hasattr(type(args[first]), SECTION)
    if not is_old:
        return args, {}
    named = {old[place]: args[place] for place in range(first, len(args))}
    for name in named:
        if name in given:
            raise ValueError(f"{function} got {name} by position and by name: leave out the first")
    form = ", ".join(f"{name}=..." for name in named)
    text = f"{function} takes these by name now: {form}; by position they go with the next release"
    warnings.warn(text, RenamedWarning, stacklevel=3)
    return args[:first], named


def _renamed(
    given: Mapping[str, Any], old: Mapping[str, str], form: str, stacklevel: int = 3
) -> dict[str, Any]:
    """Return a mapping with new keys for old ones.

    Raises:
        ValueError: if a key comes under both names.
    """
    known = dict(given)
    for name in [key for key in given if key in old]:
        if old[name] in given:
            raise ValueError(
                f"{form.format(name)} and {form.format(old[name])} both came, which are one: "
                f"leave out {name}, the old name"
            )
        known[old[name]] = known.pop(name)
        warn(form.format(name), form.format(old[name]), stacklevel + 1)
    return known
