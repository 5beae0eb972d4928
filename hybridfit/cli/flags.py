"""Flags of the command line: one for every field of an options dataclass."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args, get_origin

import click

from hybridfit.deprecations import TABLE, rows
from hybridfit.options.metadata import Description, describe

# sections whose options have the section as a prefix on the command line: --bootstrap-kind
NAMED = ("psf", "sampling", "bootstrap", "budget")
TITLES = {
    "read": "Input",
    "survey": "Image",
    "psf": "PSF",
    "catalog": "Detection and cutouts",
    "fit": "Fit",
    "sampling": "Sampling of posteriors (--uncertainty posterior)",
    "bootstrap": "Bootstrap (--uncertainty bootstrap)",
    "budget": "Error budget",
    "run": "Run",
    "predict": "Prediction",
    "compare": "Comparison",
    "reference": "References (once for all, or once for each, in order)",
}
METAVARS = {int: "N", float: "X", str: "TEXT", Path: "PATH"}
LONGEST_METAVAR = 30  # longest list of choices that help shows in place of a value, characters


def option_name(section: str, field: str) -> str:
    """Return the command-line name of a field of a section's options, with _ for -."""
    return f"{section}_{field}" if section in NAMED else field


def flag_name(name: str) -> str:
    """Return the flag of an option's name."""
    return f"--{name.replace('_', '-')}"


def parameter_of(
    one: Description, name: str, group: str, repeated: bool = False, own: bool = False
) -> click.Parameter | None:
    """Return the click parameter of a field; None if the command line cannot hold it.

    Args:
        one: the field.
        name: the parameter's name.
        group: its heading in help, unless the field has its own.
        repeated: whether it may be given several times.
        own: whether it is an argument of the command, not an option of a section. Arguments
            that are not given take their default, options None.
    """
    kind = plain_kind(one.kind)
    several = repeated or (own and get_origin(one.kind) is tuple)
    if kind is None:
        return None
    if one.facts.positional:
        return Positional(
            [name],
            type=click_type(kind, one),
            nargs=-1 if several else 1,
            required=one.required,
            default=None if one.required or several else one.default,
            metavar=one.facts.metavar,
            help=one.facts.help,
        )
    declared = [name, *filter(None, [one.facts.short]), flag_name(name)]
    settings: dict[str, Any] = {"default": None, "required": own and one.required}
    if kind is bool:
        settings["is_flag"] = True
        if not own and not name.startswith("no_"):
            declared[-1] = f"{flag_name(name)}/{flag_name('no_' + name)}"
    else:
        settings |= {"type": click_type(kind, one), "multiple": several, "metavar": metavar(one)}
    return Flag(declared, group=one.facts.group or group, described=one, **settings)


class Flag(click.Option):
    """An option with its heading in help, and the field that it sets."""

    def __init__(
        self, declared: list[str], group: str, described: Description, **settings: Any
    ) -> None:
        plain = bool(settings.get("is_flag")) and "/" not in declared[-1]
        super().__init__(declared, help=help_text(described, plain), **settings)
        self.group = group
        self.common = described.facts.common or self.required


class Positional(click.Argument):
    """A positional argument that is explained in help."""

    def __init__(self, declared: list[str], help: str, **settings: Any) -> None:
        super().__init__(declared, **settings)
        self.text = help


def plain_kind(kind: Any) -> Any:
    """Return the type of a single value if a flag can take it, else None."""
    if get_origin(kind) is tuple:
        kind = get_args(kind)[0]
    for one in (*get_args(kind), kind):
        if one in (bool, *METAVARS):
            return one
    return None


def click_type(kind: Any, one: Description) -> Any:
    """Return the click type of the values."""
    if kind is Path:
        return click.Path(path_type=Path, file_okay=not one.facts.folder)
    return {int: click.INT, float: click.FLOAT}.get(kind, click.STRING)


def metavar(one: Description) -> str:
    """Return the placeholder for a value in help."""
    if one.facts.metavar:
        return one.facts.metavar
    choices = "|".join(str(choice) for choice in one.facts.choices if choice != "")
    if choices and len(choices) <= LONGEST_METAVAR:
        return choices
    return METAVARS[plain_kind(one.kind)]


def help_text(one: Description, plain: bool = False) -> str:
    """Return a field's help with its unit, its choices unless shown elsewhere, and its default.

    Args:
        one: the field.
        plain: whether it is a simple switch, whose default is not shown.
    """
    facts, notes = one.facts, []
    choices = ", ".join(str(choice) for choice in facts.choices if choice != "")
    if choices and metavar(one) in METAVARS.values():
        notes.append(f"one of {choices}")
    if facts.unit:
        notes.append(f"unit: {facts.unit}")
    if one.shown_default and not plain:
        notes.append(f"default: {one.shown_default}")
    return f"{facts.help} [{'; '.join(notes)}]" if notes else facts.help


def by_section(
    values: Mapping[str, Any], sections: Mapping[str, type]
) -> dict[str, dict[str, Any]]:
    """Return the options given on the command line, by section.

    Args:
        values: by parameter name; None, or an empty tuple, if not given.
        sections: options dataclasses by name.
    """
    given: dict[str, dict[str, Any]] = {}
    for section, cls in sections.items():
        given[section] = {}
        for one in describe(cls):
            value = values.get(option_name(section, one.name))
            if value not in (None, ()):
                given[section][one.name] = _listed(value, one)
    return given


def _listed(value: Any, one: Description) -> Any:
    """Split a comma-separated list if the field is a tuple."""
    if get_origin(one.kind) is tuple and isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return value


def old_flags(command: str, sections: Mapping[str, type]) -> dict[str, str]:
    """Return the old flags of a command with their new names."""
    old = rows("flag", command)
    before = {row.new: row.old for row in TABLE if row.kind == "section"}
    for section, cls in sections.items():
        names = {one.name: one.name for one in describe(cls)} | rows("option", section)
        former = before.get(section, section)
        for name, new in names.items():
            flag = flag_name(option_name(section, new))
            prefix = f"{former}_" if section in NAMED else ""
            words = {f"{prefix}{name}", option_name(section, name)} - {option_name(section, new)}
            for word in words:
                old[flag_name(word)] = flag
                old[flag_name(f"no_{word}")] = flag.replace("--", "--no-", 1)
    return old
