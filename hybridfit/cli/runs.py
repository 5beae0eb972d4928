"""What commands have in common that compute a table: their configuration, from file and flags."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import click

from hybridfit.cli.arguments import RunArguments
from hybridfit.options.sections import Sections

S = TypeVar("S", bound=Sections)
log = logging.getLogger(__name__)


def configured(config: Path | None, given: Mapping[str, Mapping[str, Any]], defaults: S) -> S:
    """Return the options of a command: defaults, then the YAML file, then the command line.

    Args:
        config: YAML file of options.
        given: what the command line says of each section.
        defaults: what holds where nothing is said.

    Raises:
        ValueError: for a section, a key or a value that is not understood.
    """
    chosen = type(defaults).of(config, defaults=defaults).updated(given)
    for section, options in given.items():
        for name, value in options.items():
            log.info("%s.%s is %s, by the command line", section, name, value)
    return chosen


def print_config(config: Sections) -> None:
    """Print a configuration as YAML that --config takes back."""
    click.echo(config.to_yaml())


def needed_out(arguments: RunArguments) -> Path:
    """Return the directory for the results, which a run cannot do without."""
    if arguments.out is None:
        raise click.UsageError(
            "Missing option '--out' / '-o': expected a directory for the results"
        )
    return arguments.out
