"""Arguments of commands beside the options of their sections, described as these are."""

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
    """What every command takes."""

    quiet: bool = option(
        False, help="print errors only, and no progress bar", group=MESSAGES, common=True
    )
    verbose: bool = option(
        False, help="log what is being done, on stderr", group=MESSAGES, short="-v", common=True
    )
    debug: bool = option(False, help="show where an error occurred", group=MESSAGES)

    def __post_init__(self) -> None:
        check_fields(self)


def positional(help: str, metavar: str, default: Any = MISSING) -> Any:
    """Return a field for an argument without a flag."""
    return option(default, help=help, metavar=metavar, positional=True)


def out_option(help: str, default: Any = MISSING, default_text: str = "") -> Any:
    """Return the field of the directory that a command writes."""
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
    """Return the field of a YAML file of options."""
    return option(None, help=help, short="-c", group=FILES, metavar="FILE", common=True)


def allow_import_option() -> Any:
    """Return the field of modules that may be imported."""
    return option(
        (),
        help="import this module, for profiles of your own (my_module:MyProfile); repeatable",
        metavar="MODULE",
        group="Model",
    )


@dataclass(frozen=True, kw_only=True)
class RunArguments(Arguments):
    """What commands take that compute a table for the galaxies of some files."""

    out: Path | None = out_option("directory for the results", default=None)
    config: Path | None = config_option("YAML file of options, such as --show-config prints")
    show_config: bool = option(
        False,
        help="print all options as YAML that --config takes back, and exit",
        group=FILES,
        common=True,
    )
    overwrite: bool = option(False, help="replace the results of another run in OUT", group=FILES)


def import_allowed(modules: Sequence[str]) -> None:
    """Import the modules that the command line names; no file's word imports one.

    They may lie in the working directory, which counts behind all that is installed.

    Raises:
        ValueError: if one cannot be imported.
    """
    for name in modules:
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
