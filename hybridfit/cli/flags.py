"""Options from defaults, YAML and the command line: a flag for every field of a dataclass."""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, get_args

import typer

from hybridfit.deprecations import current_options, current_sections
from hybridfit.options.metadata import Description, describe
from hybridfit.options.yaml_options import check_keys, load_yaml, make

FLAG_KINDS = (str, int, float, bool)
# sections whose options carry their name on the command line: --bootstrap-kind
NAMED = ("sampling", "bootstrap", "budget")


def load_options(
    config: Path | None, given: Mapping[str, Any], stages: Mapping[str, Any]
) -> list[Any]:
    """Return the options of each stage: defaults, then the YAML file, then the command line.

    Args:
        config: YAML file with a section for each stage, and ``prior`` where one of them fits.
        given: what the command line says, by field name; None where it says nothing.
        stages: name of the section and its dataclass.

    Raises:
        ValueError: for a section, a key or a value that is not understood.
    """
    from hybridfit.model.prior import Prior

    sections = current_sections(load_yaml(config)) if config is not None else {}
    check_keys(sections, [*stages, *(["prior"] if "fit" in stages else [])], str(config))
    for name, content in sections.items():
        if content is not None and not isinstance(content, Mapping):
            raise ValueError(f"section '{name}' of {config} is {content!r}, expected 'key: value'")
    made = []
    for section, cls in stages.items():
        values = current_options(section, sections.get(section) or {})
        known = [f.name for f in fields(cls) if (section, f.name) != ("fit", "prior")]
        check_keys(values, known, f"section '{section}' of {config}")
        told = {f.name: given.get(option_name(section, f.name)) for f in fields(cls)}
        values |= {name: value for name, value in told.items() if value is not None}
        if section == "fit" and sections.get("prior"):
            values["prior"] = Prior.from_mapping(sections["prior"])
        made.append(make(cls, values, section))
    return made


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
