"""Options that describe themselves: help, unit, choices and bounds stand with each field.

Checks, YAML, command-line flags, the keywords of `hybridfit.fit` and the reference page all read
these descriptions, so that none of them says anything twice.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import MISSING, dataclass, field, fields
from functools import cache
from typing import Any, get_type_hints

KEY = "hybridfit"  # of a dataclass field's metadata
LISTED = 8  # choices that are shown one by one in help


@dataclass(frozen=True)
class Facts:
    """What a field says of itself beside its name, type and default; see `option`."""

    help: str = ""
    unit: str = ""
    choices: tuple[Any, ...] = ()
    low: float | None = None
    high: float | None = None
    above: float | None = None
    below: float | None = None
    common: bool = False
    group: str = ""
    metavar: str = ""
    default_text: str = ""
    hint: str = ""
    short: str = ""
    positional: bool = False
    folder: bool = False


@dataclass(frozen=True)
class Description:
    """A field of an options dataclass.

    Args:
        name: of the field.
        kind: its resolved annotation, such as ``float | None``.
        default: its default value; `dataclasses.MISSING` where it must be given.
        facts: see `option`.
    """

    name: str
    kind: Any
    default: Any
    facts: Facts

    @property
    def required(self) -> bool:
        """Whether it has no default."""
        return self.default is MISSING

    @property
    def shown_default(self) -> str:
        """The default in words for help and reference; "" where there is nothing to say."""
        if self.facts.default_text:
            return self.facts.default_text
        if self.default in (None, "", (), MISSING):
            return ""
        if isinstance(self.default, bool):
            return "on" if self.default else "off"
        if isinstance(self.default, tuple):
            return ",".join(str(value) for value in self.default)
        return str(self.default)


def option(
    default: Any = MISSING,
    *,
    help: str,
    default_factory: Callable[[], Any] | None = None,
    **facts: Any,
) -> Any:
    """Return a dataclass field that describes itself.

    Args:
        default: its default value.
        help: one sentence without a full stop: what it does, and what it means.
        default_factory: makes the default, in place of ``default``.
        facts: any of: ``unit``, such as "pix" or "mag"; ``choices``, the allowed values; ``low``
            and ``high``, bounds that a number may have; ``above`` and ``below``, bounds that it
            may not have (``below=math.inf`` asks for a finite number); ``common``, True for the
            few options that brief help shows; ``group``, its heading in help, default that of its
            section; ``metavar``, what stands for its value in help; ``default_text``, what stands
            for its default in help; ``hint``, what an error adds; of arguments of commands
            ``short``, their short flag, ``positional``, True without a flag, and ``folder``, True
            for paths that are no file. Bounds hold for each number of a tuple; None passes.
    """
    metadata = {KEY: Facts(help, **facts)}
    if default_factory is not None:
        return field(default_factory=default_factory, metadata=metadata)
    if default is MISSING:
        return field(metadata=metadata)
    return field(default=default, metadata=metadata)


def describe(cls: type) -> tuple[Description, ...]:
    """Return the descriptions of the fields of a dataclass, in their order."""
    key: Any = cls
    return _described(key)


@cache
def _described(cls: Any) -> tuple[Description, ...]:
    kinds = get_type_hints(cls)
    made = []
    for one in fields(cls):
        default = one.default
        if one.default_factory is not MISSING:
            default = one.default_factory()
        facts = one.metadata.get(KEY, Facts())
        made.append(Description(one.name, kinds[one.name], default, facts))
    return tuple(made)


def problem_with(value: Any, facts: Facts) -> str:
    """Say what was expected of a value of the right type; "" if it is as it should be."""
    if value is None:
        return ""
    if facts.choices:
        if value in facts.choices:
            return ""
        return in_words(facts)
    values = value if isinstance(value, tuple) else (value,)
    numbers = [v for v in values if isinstance(v, int | float) and not isinstance(v, bool)]
    if all(_is_within(v, facts) for v in numbers):
        return ""
    return f"each to be {in_words(facts)}" if isinstance(value, tuple) else in_words(facts)


def _is_within(value: float, facts: Facts) -> bool:
    """Whether a number keeps all bounds; NaN keeps none."""
    bounds = (facts.low, facts.high, facts.above, facts.below)
    if all(bound is None for bound in bounds):
        return True
    low = -math.inf if facts.low is None else facts.low
    high = math.inf if facts.high is None else facts.high
    if not low <= value <= high:
        return False
    return not (
        (facts.above is not None and value <= facts.above)
        or (facts.below is not None and value >= facts.below)
    )


def in_words(facts: Facts) -> str:
    """Return choices or bounds in words, such as "a finite number above 0"."""
    if facts.choices:
        return f"one of {', '.join(str(choice) for choice in facts.choices if choice != '')}"
    bounds = (facts.low, facts.high, facts.above, facts.below)
    low, high, above, below = (None if b is None or math.isinf(b) else b for b in bounds)
    noun = "a finite number" if facts.below == math.inf else "a number"
    if low is not None and high is not None:
        return f"{noun} from {low:g} to {high:g}"
    parts = []
    if low is not None:
        if below is None and high is None and noun == "a number":
            return f"{low:g} or more"
        parts.append(f"of {low:g} or more")
    if above is not None:
        parts.append(f"above {above:g}")
    if high is not None:
        parts.append(f"up to {high:g}")
    if below is not None:
        parts.append(f"below {below:g}")
    return " ".join([noun, " and ".join(parts)]).strip()
