"""The configuration, from file and flags, of commands that compute a table."""

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
        given: options from the command line, by section.
        defaults: options that are used unless given.

    Raises:
        ValueError: for an unknown section or key, or an invalid value.
    """
    chosen = type(defaults).of(config, defaults=defaults).updated(given)
    for section, options in given.items():
        for name, value in options.items():
            log.info("%s.%s is %s, from the command line", section, name, value)
    return chosen


def print_config(config: Sections) -> None:
    """Print a configuration as YAML, for use with --config."""
    click.echo(config.to_yaml())


def needed_out(arguments: RunArguments) -> Path:
    """Return the directory for the results; raise click.UsageError if it was not given."""
    if arguments.out is None:
        raise click.UsageError(
            "Missing option '--out' / '-o': expected a directory for the results"
        )
    return arguments.out
