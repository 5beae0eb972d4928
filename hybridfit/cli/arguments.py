"""Arguments of commands other than options of sections, described in the same way."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from hybridfit.options.checks import check_fields
from hybridfit.options.metadata import MISSING, option

FILES, MESSAGES = "Input and output", "Messages"


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Arguments of every command."""

    quiet: bool = option(
        False, help="print errors only, and no progress bar", group=MESSAGES, common=True
    )
    verbose: bool = option(
        False, help="log progress to stderr", group=MESSAGES, short="-v", common=True
    )
    debug: bool = option(False, help="show the traceback of an error", group=MESSAGES)

    def __post_init__(self) -> None:
        check_fields(self)


def positional(help: str, metavar: str, default: Any = MISSING) -> Any:
    """Return a field for an argument without a flag."""
    return option(default, help=help, metavar=metavar, positional=True)


def out_option(help: str, default: Any = MISSING, default_text: str = "") -> Any:
    """Return a field for the output directory of a command."""
    return option(
        default,
        help=help,
        short="-o",
        group=FILES,
        metavar="OUT",
        folder=True,
        common=True,
        default_text=default_text,
    )


def config_option(help: str) -> Any:
    """Return a field for a YAML file of options."""
    return option(None, help=help, short="-c", group=FILES, metavar="FILE", common=True)


def allow_import_option() -> Any:
    """Return a field for modules that may be imported."""
    return option(
        (),
        help="import this module, for user-defined profiles (my_module:MyProfile); repeatable",
        metavar="MODULE",
        group="Model",
    )


@dataclass(frozen=True, kw_only=True)
class RunArguments(Arguments):
    """Arguments of commands that compute a table of galaxies."""

    out: Path | None = out_option("directory for the results", default=None)
    config: Path | None = config_option("YAML file of options, as printed by --show-config")
    show_config: bool = option(
        False,
        help="print all options as YAML, for use with --config, and exit",
        group=FILES,
        common=True,
    )
    overwrite: bool = option(
        False, help="replace the results of an earlier run in OUT", group=FILES
    )


def import_allowed(modules: Sequence[str]) -> None:
    """Import the modules named on the command line; files cannot cause an import.

    Modules may be in the working directory; installed ones take precedence.

    Raises:
        ValueError: if a module cannot be imported.
    """
    for name in modules:
        here = os.getcwd()
        sys.path.append(here)
        try:
            import_module(name)
        except Exception as error:  # user code can raise anything
            reason = " ".join(str(error).split()) or type(error).__name__
            raise ValueError(f"--allow-import {name} cannot be imported: {reason}") from error
        finally:
            if sys.path[-1] == here:
                sys.path.pop()
