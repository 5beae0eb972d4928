"""Options dataclasses as the sections of a YAML file or of a run's configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, is_dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import yaml

from hybridfit.deprecations import current_keys, current_sections
from hybridfit.options.checks import check_fields, checked, described
from hybridfit.options.metadata import Description, describe
from hybridfit.options.yaml_options import check_keys, load_yaml, plain

S = TypeVar("S", bound="Sections")


@dataclass(frozen=True)
class Sections:
    """A frozen dataclass of options dataclasses, each of them a section of a YAML file."""

    def __post_init__(self) -> None:
        check_fields(self)

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """Return the names of the allowed sections of a YAML file."""
        return tuple(one.name for one in describe(cls) if is_dataclass(one.kind))

    @classmethod
    def of(
        cls: type[S],
        config: S | str | Path | None,
        sections: Mapping[str, Any] | None = None,
        defaults: S | None = None,
    ) -> S:
        """Return the options given to a function.

        Args:
            config: the options, the path of a YAML file with them, or None for the defaults.
            sections: options dataclasses that replace entire sections, by name.
            defaults: options that are used unless given; default: those of the class.

        Raises:
            ValueError: for a ``config`` of another type, or an unknown section.
        """
        if config is None:
            config = cls() if defaults is None else defaults
        elif isinstance(config, str | Path):
            config = cls.from_yaml(config, defaults)
        given = dict(sections or {})
        check_keys(given, list(cls.names()), "the call")
        return replace(checked("config", config, cls), **given)

    @classmethod
    def from_mapping(
        cls: type[S],
        given: Mapping[str, Any],
        where: str = "the options",
        defaults: S | None = None,
    ) -> S:
        """Return the options in the sections of a YAML file.

        Args:
            given: sections by name, each with its options by name.
            where: their source, for errors.
            defaults: values of missing options; default: those of the class.

        Raises:
            ValueError: for an unknown section or key, or an invalid value.
        """
        base = cls() if defaults is None else defaults
        given = current_sections(given)
        check_keys(given, [one.name for one in describe(cls)], where)
        values: dict[str, Any] = {}
        for one in describe(cls):
            content = given.get(one.name)
            if content is None:
                continue
            if is_dataclass(one.kind):
                content = _section(
                    getattr(base, one.name), content, f"section '{one.name}' of {where}"
                )
            values[one.name] = content
        return replace(base, **values)

    @classmethod
    def from_yaml(cls: type[S], path: str | Path, defaults: S | None = None) -> S:
        """Return the options in a YAML file; missing options have their defaults."""
        return cls.from_mapping(load_yaml(path), str(path), defaults)

    def updated(self: S, given: Mapping[str, Mapping[str, Any]]) -> S:
        """Return these options with some of them changed.

        Args:
            given: for each section the options to change, by name.

        Raises:
            ValueError: for an invalid value.
        """
        new = {
            name: replace(getattr(self, name), **options)
            for name, options in given.items()
            if options
        }
        return replace(self, **new)

    def to_mapping(self) -> dict[str, Any]:
        """Return all options by section, as plain values for YAML and JSON."""
        return {one.name: plain(getattr(self, one.name)) for one in describe(type(self))}

    def to_yaml(self) -> str:
        """Return all options as YAML, each with its help, for use with `from_yaml`."""
        lines: list[str] = []
        for one in describe(type(self)):
            value = getattr(self, one.name)
            if is_dataclass(one.kind):
                lines += section_lines(one.name, one.kind, self.to_mapping()[one.name])
            elif value is not None:
                lines += [_line(one, value), ""]
        return "\n".join(lines)


def section_lines(name: str, cls: Any, values: Mapping[str, Any]) -> list[str]:
    """Return a section as lines of YAML.

    Args:
        name: the section's name.
        cls: its options dataclass.
        values: its options by name; others are omitted.
    """
    known = [one for one in describe(cls) if one.name in values]
    return [f"{name}:", *(f"  {_line(one, values[one.name])}" for one in known), ""]


def _section(base: Any, content: Any, where: str) -> Any:
    """Return a section's options ``base``, updated with those in ``content``."""
    if isinstance(content, type(base)):
        return content
    if not isinstance(content, Mapping):
        raise ValueError(f"{where} is {described(content)}, expected 'key: value'")
    given = current_keys(type(base), content)
    check_keys(given, [one.name for one in describe(type(base))], where)
    return replace(base, **given)


def _line(one: Description, value: Any) -> str:
    text = yaml.safe_dump([value], default_flow_style=True, width=10**6).strip()[1:-1]
    unit = f" [{one.facts.unit}]" if one.facts.unit else ""
    return f"{one.name}: {text}  # {one.facts.help}{unit}"
