"""Read options from YAML: one dataclass per stage; unknown keys are errors."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml

from hybridfit.deprecations import current_keys
from hybridfit.files.regular import read_text
from hybridfit.options.checks import checked

LARGEST = 200_000  # largest file of options, bytes: takes PyYAML some seconds
MOST_VALUES = 10_000  # most values in a file, with aliases expanded
LONGEST_VALUE = 2_000  # longest value, characters; Python prints no integer of 4,300 digits
T = TypeVar("T")


class _Loader(yaml.SafeLoader):
    """SafeLoader that reads 1e-6 as a number, as YAML 1.2 does."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (yaml.YAMLError, RecursionError):
            raise
        except Exception as error:  # KeyError of "!!bool x", IndexError of "!!int ''", ...
            kind = node.tag.removeprefix("tag:yaml.org,2002:")
            text = (
                f"'{node.value}' is not a valid {kind}"
                if isinstance(node.value, str)
                else str(error)
            )
            raise yaml.MarkedYAMLError(problem=text, problem_mark=node.start_mark) from error


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), [*"-+0123456789"]
)


def load_yaml(path: str | Path) -> dict[str, Any]:
    """Return the mapping in a YAML file; an empty file gives an empty mapping."""
    content = parse_yaml(read_text(path, LARGEST), str(path))
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ValueError(f"{path} contains {type(content).__name__}, expected 'key: value' lines")
    return content


def parse_yaml(text: str, where: str) -> Any:
    """Return the content of a YAML text.

    Raises:
        ValueError: if it is not valid YAML, refers to itself, or expands to far too many values
            by aliases: such a text would fill the memory when it is shown in an error.
    """
    try:
        node = yaml.compose(text, _Loader)
        size = 0 if node is None else _expanded(node, {}, set())
        if 0 < size <= MOST_VALUES:
            return _Loader("").construct_document(node)
    except yaml.YAMLError as error:
        raise ValueError(f"{where} is not valid YAML: {_brief(str(error))}") from error
    except RecursionError as error:
        raise ValueError(f"{where} is nested too deeply for a file of options") from error
    except ValueError as error:
        raise ValueError(f"{where} is not valid YAML: {_brief(str(error))}") from error
    if size:
        raise ValueError(
            f"{where} has more than {MOST_VALUES} values once its aliases are expanded, "
            "expected a file of options"
        )
    return None


def _expanded(node: yaml.Node, known: dict[int, int], above: set[int]) -> int:
    """Return the number of values under a node, with aliases expanded."""
    if isinstance(node, yaml.ScalarNode):
        if len(node.value) > LONGEST_VALUE:
            line = node.start_mark.line + 1
            raise ValueError(f"a value in line {line} has more than {LONGEST_VALUE} characters")
        return 1
    if id(node) in known:
        return known[id(node)]
    if id(node) in above:
        raise ValueError("an alias refers to itself")
    above.add(id(node))
    parts = node.value
    if isinstance(node, yaml.MappingNode):
        parts = [part for pair in node.value for part in pair]
    total = 1 + sum(_expanded(part, known, above) for part in parts)
    above.discard(id(node))
    known[id(node)] = total
    return total


def _brief(text: str) -> str:
    return text if len(text) <= 500 else f"{text[:497]}..."


def check_keys(given: Mapping[str, Any], known: list[str], where: str) -> None:
    """Raise ValueError for the first key of ``given`` that is not in ``known``."""
    for key in given:
        if key not in known:
            close = difflib.get_close_matches(str(key), known, n=1)
            hint = f": did you mean '{close[0]}'?" if close else f": known are {', '.join(known)}"
            raise ValueError(f"unknown option '{key}' in {where}{hint}")


def make(cls: type[T], given: Mapping[str, Any], where: str = "options") -> T:
    """Build the options dataclass ``cls`` from a mapping; unknown keys raise ValueError."""
    assert is_dataclass(cls)
    given = current_keys(cls, checked(where, given, Mapping))
    check_keys(given, [f.name for f in fields(cls)], where)
    return cls(**given)


def nested(cls: type[T], given: Mapping[str, Any], where: str) -> T:
    """Build an options dataclass, nested ones included; lists become tuples."""
    values: dict[str, Any] = {}
    defaults = cls()
    for key, value in given.items():
        default = getattr(defaults, str(key), None)
        if is_dataclass(default) and isinstance(value, Mapping):
            values[key] = nested(type(default), value, f"{where}, {key}")
        else:
            values[key] = _tuples(value)
    return make(cls, values, where)


def _tuples(value: Any) -> Any:
    return tuple(_tuples(v) for v in value) if isinstance(value, list) else value


def plain(value: Any) -> Any:
    """Convert options dataclasses, mappings and tuples to plain values for YAML and JSON."""
    if is_dataclass(value) and not isinstance(value, type):
        return plain(asdict(value))
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    return [plain(v) for v in value] if isinstance(value, list | tuple) else value
