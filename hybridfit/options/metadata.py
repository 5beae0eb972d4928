"""Self-describing options: each field carries its help, unit, choices and bounds.

Checks, YAML, command-line flags, the keywords of `hybridfit.fit` and the reference page all use
these descriptions, so that nothing is written twice.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import MISSING, dataclass, field, fields
from functools import cache
from typing import Any, get_type_hints

KEY = "hybridfit"  # key in a dataclass field's metadata
LISTED = 8  # longest list of choices that help shows one by one


@dataclass(frozen=True)
class Facts:
    """The description of a field beyond its name, type and default; see `option`."""

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
        name: the field's name.
        kind: its resolved annotation, such as ``float | None``.
        default: its default value; `dataclasses.MISSING` if it is required.
        facts: see `option`.
    """

    name: str
    kind: Any
    default: Any
    facts: Facts

    @property
    def required(self) -> bool:
        """Return whether the field has no default."""
        return self.default is MISSING

    @property
    def shown_default(self) -> str:
        """Return the default as text for help and reference; "" for none."""
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
    """Return a self-describing dataclass field.

    Args:
        default: its default value.
        help: one sentence without a full stop on what the option does or means.
        default_factory: makes the default, in place of ``default``.
        facts: any of: ``unit``, such as "pix" or "mag"; ``choices``, the allowed values; ``low``
            and ``high``, inclusive bounds; ``above`` and ``below``, exclusive bounds
            (``below=math.inf`` requires a finite number); ``common``, True for the few options
            that brief help shows; ``group``, its heading in help, default that of its section;
            ``metavar``, the placeholder for its value in help; ``default_text``, the text for
            its default in help; ``hint``, text added to errors; for arguments of commands also
            ``short``, a short flag, ``positional``, True for arguments without a flag, and
            ``folder``, True for paths of folders. Bounds apply to each number of a tuple; None
            always passes.
    """
    metadata = {KEY: Facts(help, **facts)}
    if default_factory is not None:
        return field(default_factory=default_factory, metadata=metadata)
    if default is MISSING:
        return field(metadata=metadata)
    return field(default=default, metadata=metadata)


def describe(cls: type) -> tuple[Description, ...]:
    """Return the descriptions of the fields of a dataclass, in order."""
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
    """Return what was expected of a value of the right type; "" if the value is allowed."""
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
    """Return whether a number is within all bounds; NaN never is."""
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
    """Describe choices or bounds in words, such as "a finite number above 0"."""
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
