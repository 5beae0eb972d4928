"""Signatures that show each keyword of a function that takes options by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from inspect import Parameter, signature
from typing import Any, ParamSpec, TypeVar, get_type_hints

from hybridfit.options.metadata import describe

P = ParamSpec("P")
R = TypeVar("R")


def with_keywords(
    keywords: Any, *options: type, **defaults: Any
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Return a decorator by which a function's signature shows each of its keywords.

    Args:
        keywords: TypedDict of what comes as ``**keywords``.
        options: dataclasses whose defaults are shown; the first with a field of that name counts.
        defaults: of keywords whose default is another one.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        own = signature(function)
        plain = [p for p in own.parameters.values() if p.kind is not Parameter.VAR_KEYWORD]
        shown = [
            Parameter(
                name,
                Parameter.KEYWORD_ONLY,
                default=_default(name, options, defaults),
                annotation=kind,
            )
            for name, kind in get_type_hints(keywords).items()
        ]
        attribute = "__signature__"
        setattr(function, attribute, own.replace(parameters=[*plain, *shown]))
        return function

    return decorate


def _default(name: str, options: Sequence[type], defaults: Mapping[str, Any]) -> Any:
    """Return what a signature shows as the default of a keyword: its options' own, else None."""
    if name in defaults:
        return defaults[name]
    for cls in options:
        for one in describe(cls):
            if one.name == name:
                return one.default
    return None
