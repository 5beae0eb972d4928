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

from sphinx.application import Sphinx
from typer.testing import CliRunner

import hybridfit
from hybridfit.cli.app import make_app

WIDTH = 88  # columns of the help texts


def commands() -> list[str]:
    """Return the names of all commands, in the order of `hybridfit --help`."""
    return [command.name or "" for command in make_app().registered_commands]


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
    h = hybridfit
    return {
        "read": h.ReadOptions,
        "fit": h.FitOptions,
        "prior": h.Prior,
        "posterior": h.ReconcileOptions,
        "bootstrap": h.BootstrapOptions,
        "budget": h.BudgetOptions,
        "run": h.RunOptions,
        "predict": h.PredictOptions,
    }


def configuration_page() -> str:
    """Return a table of options for each section of a configuration file."""
    parts = []
    for name, options in sections().items():
        first = (inspect.getdoc(options) or "").split("\n\n")[0]
        rows = "\n".join(_option(options, field) for field in dataclasses.fields(options))
        head = "| option | default | meaning |\n|---|---|---|"
        parts.append(f"## {name}\n\n{' '.join(first.split())}\n\n{head}\n{rows}\n")
    return "\n".join(parts)


def _option(options: type, field: dataclasses.Field[Any]) -> str:
    """Return a field's row: name, default and meaning."""
    meaning = field.metadata.get("help") or _arguments(options).get(field.name, "")
    return f"| `{field.name}` | {_cell(_default(field))} | {_cell(meaning)} |"


def _default(field: dataclasses.Field[Any]) -> str:
    """Return a field's default as YAML would have it; empty where there is none."""
    value = field.default
    if field.default_factory is not dataclasses.MISSING:
        value = field.default_factory()
    if value is dataclasses.MISSING or value is None or value == "" or value == {}:
        return ""
    if dataclasses.is_dataclass(value):
        pairs = dataclasses.asdict(value).items()  # type: ignore[arg-type]
        return "`{" + ", ".join(f"{k}: {v}" for k, v in pairs if v != {}) + "}`"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"`{value}`" if not isinstance(value, tuple) else f"`{list(value)}`"


def _arguments(options: type) -> dict[str, str]:
    """Return what a class says of its fields under "Args:"."""
    found: dict[str, str] = {}
    lines = (inspect.getdoc(options) or "").partition("Args:\n")[2].splitlines()
    names: list[str] = []
    for line in lines:
        indent = len(line) - len(line.lstrip())
        if indent == 4 and ":" in line:
            head, _, text = line.strip().partition(":")
            names = [name.strip() for name in head.split(",")]
            found |= dict.fromkeys(names, text.strip())
        elif indent > 4 and names:
            found |= {name: f"{found[name]} {line.strip()}" for name in names}
        elif line.strip() and indent < 4:
            break
    return found


API_GROUPS: Mapping[str, Callable[[str, Any], bool]] = {
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


def deprecations_page() -> str:
    """Return the table of old names, or a sentence where there are none."""
    rows = [f"| `{old}` | `{new}` |" for old, new in deprecated().items()]
    head = "| old name | new name |\n|---|---|"
    return "\n".join([head, *rows, ""]) if rows else "There are none.\n"


def deprecated() -> dict[str, str]:
    """Return the old public names and the new ones."""
    return {}


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
