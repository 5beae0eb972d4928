"""Options from YAML: one dataclass a stage, an unknown key is an error."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml

from hybridfit.arguments import checked

T = TypeVar("T")


def load_yaml(path: str | Path) -> dict[str, Any]:
    """Return the mapping in a YAML file; an empty file gives an empty mapping."""
    try:
        content = yaml.safe_load(Path(path).read_text())
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not valid YAML: {error}") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds {type(content).__name__}, expected 'key: value' lines")
    return content


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
    checked(where, given, Mapping)
    check_keys(given, [f.name for f in fields(cls)], where)
    return cls(**given)
