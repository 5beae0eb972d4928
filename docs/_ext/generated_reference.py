"""Write the reference pages that come from the package itself: CLI, options, flags, API.

Each function returns the text of one page, so that tests can check it without Sphinx. At the start
of a build the texts are written into reference/_generated, which the pages of reference/ include.
"""

from __future__ import annotations

import dataclasses
import inspect
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

from click.testing import CliRunner
from sphinx.application import Sphinx

import hybridfit
from hybridfit import deprecations
from hybridfit.cli.app import COMMANDS, make_app
from hybridfit.options.metadata import Description, describe

WIDTH = 88  # columns of the help texts


def commands() -> list[str]:
    """Return the names of all commands, in the order of `hybridfit --help`."""
    return list(COMMANDS)


def help_of(*arguments: str) -> str:
    """Return what `hybridfit ARGUMENTS` prints, which must succeed."""
    environment = {"COLUMNS": str(WIDTH), "TERMINAL_WIDTH": str(WIDTH), "NO_COLOR": "1"}
    with mock.patch.dict(os.environ, environment):
        result = CliRunner().invoke(make_app(), list(arguments), prog_name="hybridfit")
    if result.exit_code != 0:
        raise RuntimeError(f"`hybridfit {' '.join(arguments)}` ended with {result.output}")
    return result.output.strip("\n")


def full_help(command: str) -> str:
    """Return the help of a command with all of its options."""
    brief = help_of(command, "--help")
    return help_of(command, "--help-all") if "--help-all" in brief else brief


def cli_page() -> str:
    """Return the help of the program and a section for each command."""
    parts = [f"```text\n{help_of('--help')}\n```"]
    for name in commands():
        parts.append(f"## hybridfit {name}\n\n```text\n{full_help(name)}\n```")
    return "\n\n".join(parts) + "\n"


def flags_page() -> str:
    """Return the table of flags, from the texts that the package itself prints."""
    rows = ["| bit | name | meaning |", "|---:|---|---|"]
    for flag in hybridfit.Flag:
        (text,) = hybridfit.describe_flags(int(flag))
        rows.append(f"| {int(flag)} | `{flag.name}` | {_cell(text.split(': ', 1)[1])} |")
    return "\n".join(rows) + "\n"


def sections() -> dict[str, type]:
    """Return the sections of a YAML file and the dataclass of each."""
    parts = {one.name: type(one.default) for one in _section_fields()}
    return {**parts, "prior": hybridfit.Prior}


def _section_fields() -> list[Description]:
    """Return the fields of `Config`, and those that only predictions have."""
    fits = [one for one in describe(hybridfit.Config) if dataclasses.is_dataclass(one.default)]
    names = {one.name for one in fits}
    more = [one for one in describe(hybridfit.PredictConfig) if one.name not in names]
    return [*fits, *(one for one in more if dataclasses.is_dataclass(one.default))]


def configuration_page() -> str:
    """Return a table of options for each section of a configuration file."""
    helps = {one.name: one.facts.help for one in _section_fields()}
    helps["prior"] = "the prior of the parameters, which also bounds the fit"
    parts = []
    for name, options in sections().items():
        rows = "\n".join(_option(described) for described in describe(options))
        head = "| option | default | meaning |\n|---|---|---|"
        introduction = f"{helps[name][0].upper()}{helps[name][1:]}."
        parts.append(f"## {name}\n\n{introduction}\n\n{head}\n{rows}\n")
    return "\n".join(parts)


def _option(described: Description) -> str:
    """Return a field's row: name, default, and meaning with unit and allowed values."""
    facts = described.facts
    words = [facts.help]
    if facts.unit:
        words.append(f"[{facts.unit}]")
    if facts.choices:
        words.append("(" + ", ".join(f"`{choice}`" for choice in facts.choices if choice) + ")")
    return f"| `{described.name}` | {_default(described)} | {_cell(' '.join(words))} |"


def _default(described: Description) -> str:
    """Return a field's default as YAML has it, or in words; empty where there is none."""
    value = described.default
    if described.facts.default_text:
        return _cell(described.facts.default_text)
    if isinstance(value, hybridfit.Prior):
        return "[see prior](#prior)"
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        text = "{" + ", ".join(f"{key}: {v}" for key, v in vars(value).items()) + "}"
    elif isinstance(value, bool):
        text = str(value).lower()
    else:
        text = "" if isinstance(value, Mapping) else described.shown_default.replace(",", ", ")
    return f"`{_cell(text)}`" if text else ""


API_GROUPS: Mapping[str, Callable[[str, Any], bool]] = {
    "Models": lambda name, value: getattr(value, "__module__", "").startswith("hybridfit.model"),
    "Functions": lambda name, value: inspect.isroutine(value),
    "Options": lambda name, value: name.endswith(("Options", "Config")),
    "Errors": lambda name, value: inspect.isclass(value) and issubclass(value, Exception),
    "Data": lambda name, value: inspect.isclass(value),
}


def api_page() -> str:
    """Return reStructuredText that documents every public name, by group."""
    left = {name: getattr(hybridfit, name) for name in hybridfit.__all__ if name[0] != "_"}
    parts = []
    for title, belongs in API_GROUPS.items():
        names = [name for name, value in left.items() if belongs(name, value)]
        left = {name: value for name, value in left.items() if name not in names}
        body = "\n".join(_directive(name) for name in sorted(names, key=str.lower))
        parts.append(f"{title}\n{'-' * len(title)}\n\n{body}")
    return "\n".join(parts)


def _directive(name: str) -> str:
    value = getattr(hybridfit, name)
    if inspect.isroutine(value):
        return f".. autofunction:: hybridfit.{name}\n"
    return f".. autoclass:: hybridfit.{name}\n   :members:\n"


PLACES = {
    "name": "`hybridfit.{}`",
    "argument": "keyword `{}` of `{where}`",
    "position": "positional argument {} of `{where}`",
    "option": "option `{}` of section `{where}`",
    "value": "`{where}: {}`",
    "section": "section `{}`",
    "flag": "option `{}` of `hybridfit {where}`",
    "column": "column `{}`",
    "attribute": "`{where}.{}`",
}


def deprecations_page() -> str:
    """Return the table of old names, which is the package's own."""
    rows = ["| old | new |", "|---|---|"]
    for row in deprecations.TABLE:
        old = PLACES.get(row.kind, "`{}`").format(row.old, where=row.where)
        rows.append(f"| {_cell(old)} | `{_cell(row.new)}` |")
    return "\n".join(rows) + "\n"


PAGES: Mapping[str, Callable[[], str]] = {
    "cli.md": cli_page,
    "flags.md": flags_page,
    "configuration.md": configuration_page,
    "deprecations.md": deprecations_page,
    "api.rst": api_page,
}


def write_pages(app: Sphinx) -> None:
    """Write all generated texts; a file that would not change keeps its time."""
    folder = Path(app.srcdir) / "reference" / "_generated"
    folder.mkdir(parents=True, exist_ok=True)
    for name, page in PAGES.items():
        text = page()
        path = folder / name
        if not path.exists() or path.read_text() != text:
            path.write_text(text)


def plain_bars(_app: Sphinx, _what: str, _name: str, _object: Any, _options: Any, lines: list[str]):
    """Escape bars in docstrings: they are absolute values there, not substitutions."""
    lines[:] = [line if "``" in line else line.replace("|", "\\|") for line in lines]


def setup(app: Sphinx) -> dict[str, bool]:
    """Register with Sphinx."""
    app.connect("builder-inited", write_pages)
    app.connect("autodoc-process-docstring", plain_bars)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _cell(text: str) -> str:
    """Return a text that does not break a table's row."""
    return " ".join(text.split()).replace("|", r"\|")
