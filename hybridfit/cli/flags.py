"""Options from defaults, YAML and the command line: a flag for every field of a dataclass."""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args

import typer

from hybridfit.options.metadata import Description, describe
from hybridfit.options.sections import Sections

S = TypeVar("S", bound=Sections)
FLAG_KINDS = (str, int, float, bool)
# sections whose options carry their name on the command line: --bootstrap-kind
NAMED = ("sampling", "bootstrap", "budget")


def load_options(config: Path | None, given: Mapping[str, Any], defaults: S) -> S:
    """Return the options of a command: defaults, then the YAML file, then the command line.

    Args:
        config: YAML file with the sections of ``defaults``.
        given: what the command line says, by field name; None where it says nothing.
        defaults: what holds where nothing is said.

    Raises:
        ValueError: for a section, a key or a value that is not understood.
    """
    chosen = type(defaults).of(config, defaults=defaults)
    told: dict[str, dict[str, Any]] = {}
    for section in defaults.names():
        fields = describe(type(getattr(defaults, section)))
        values = {one.name: given.get(option_name(section, one.name)) for one in fields}
        told[section] = {name: value for name, value in values.items() if value is not None}
    return chosen.updated(told)


ALLOW_IMPORT = typer.Option(
    "--allow-import",
    metavar="MODULE",
    help="import this module, for your own profiles (my_module:MyProfile)",
)


def import_allowed(modules: Sequence[str] | None) -> None:
    """Import the modules that the command line names; no file's word imports one.

    They may lie in the working directory, which counts behind all that is installed.

    Raises:
        ValueError: if one cannot be imported.
    """
    for name in modules or ():
        here = os.getcwd()
        sys.path.append(here)
        try:
            import_module(name)
        except Exception as error:  # it is the user's code: anything may come
            reason = " ".join(str(error).split()) or type(error).__name__
            raise ValueError(f"--allow-import {name} cannot be imported: {reason}") from error
        finally:
            if sys.path[-1] == here:
                sys.path.pop()


def option_name(section: str, field: str) -> str:
    """Return what a field of a section's options is called on the command line, with _ for -."""
    return f"{section}_{field}" if section in NAMED else field


def with_options(
    function: Callable[..., None],
    stages: Mapping[str, Any],
    own: Mapping[str, tuple[Any, Any]] | None = None,
) -> Callable[..., None]:
    """Return a command that calls ``function`` with an option for every field of its stages.

    Args:
        function: takes input, out, config, overwrite, quiet, debug, and the fields by name.
        stages: name of the panel in the help, in lower case, and its options dataclass.
        own: annotation and default of parameters that this command has otherwise, or beside.
    """
    flag, path, required = typer.Option, Path | None, inspect.Parameter.empty
    named: dict[str, tuple[Any, Any]] = {
        "input": (
            Annotated[Path, typer.Argument(metavar="INPUT", help="directory, manifest or file")],
            required,
        ),
        "out": (Annotated[Path, flag("--out", "-o", help="directory for the results")], required),
        "config": (Annotated[path, flag("--config", "-c", help="YAML file of options")], None),
        "overwrite": (
            Annotated[bool, flag("--overwrite", help="replace another run's results")],
            False,
        ),
        "quiet": (Annotated[bool, flag("--quiet", help="say nothing but errors")], False),
        "debug": (Annotated[bool, flag("--debug", help="show where an error came from")], False),
    } | dict(own or {})
    kind = inspect.Parameter.KEYWORD_ONLY
    parameters = [
        inspect.Parameter(name, kind, annotation=annotation, default=default)
        for name, (annotation, default) in named.items()
    ]
    for section, cls in stages.items():
        panel = {"read": "Input"}.get(section, section.capitalize())
        for field in describe(cls):
            if parameter := _parameter(field, option_name(section, field.name), panel):
                parameters.append(parameter)

    def command(**values: Any) -> None:
        function(**values)

    command.__doc__ = function.__doc__
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {p.name: p.annotation for p in parameters}
    return command


def _parameter(field: Description, name: str, panel: str) -> inspect.Parameter | None:
    """A command-line option for a field of an options dataclass; None if it cannot be one."""
    kind = next((k for k in (*get_args(field.kind), field.kind) if k in FLAG_KINDS), None)
    if kind is None:
        return None
    flag = f"--{name.replace('_', '-')}"
    if kind is bool and not name.startswith("no_"):
        flag = f"{flag}/--no-{name.replace('_', '-')}"
    text = field.facts.help
    if field.shown_default:
        text = f"{text} [{field.shown_default}]".strip()
    option = typer.Option(flag, help=text, rich_help_panel=panel, show_default=False)
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[kind | None, option],
    )
