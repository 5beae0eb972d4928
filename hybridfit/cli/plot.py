"""The command `hybridfit plot`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from hybridfit.cli.arguments import (
    FILES,
    Arguments,
    allow_import_option,
    import_allowed,
    positional,
)
from hybridfit.cli.command import Command
from hybridfit.cli.exit_status import usage
from hybridfit.options.metadata import option

GALAXIES = "Galaxies"


@dataclass(frozen=True, kw_only=True)
class PlotArguments(Arguments):
    """Arguments of `hybridfit plot`."""

    out: Path = positional("directory of a finished run", "OUT")
    input: Path | None = option(
        None,
        help="the cutouts that were fitted",
        group=FILES,
        default_text="the files of --save-models",
        common=True,
    )
    truth: Path | None = option(
        None,
        help="table of true parameters",
        metavar="FILE",
        group=FILES,
        default_text="truth.fits of INPUT",
        common=True,
    )
    id: tuple[str, ...] = option(
        (), help="draw this galaxy; repeatable", metavar="ID", group=GALAXIES, common=True
    )
    limit: int = option(
        12, help="galaxies to draw if no --id is given", low=1, group=GALAXIES, common=True
    )
    allow_import: tuple[str, ...] = allow_import_option()


def plot(arguments: PlotArguments, given: dict[str, dict[str, Any]]) -> None:
    """Draw figures of a finished run into OUT/plots.

    Each galaxy has one page: data, model, residual, surface-brightness profile, parameters and
    flags. For a run with --save-samples, corner plots show the draws, compared with network and
    fit if the cutouts are available. OUT/plots/summary.csv lists which galaxies were drawn, and
    why others were not.
    """
    from hybridfit.pipeline.plot import plot_run

    with usage():
        import_allowed(arguments.allow_import)
    notes: list[str] = []
    files = plot_run(
        arguments.out,
        arguments.id,
        arguments.input,
        arguments.truth,
        arguments.limit,
        arguments.quiet,
        notes.append,
    )
    if not arguments.quiet:
        text = "\n".join([f"{len(files)} figures in {files[0].parent}", *notes])
        click.echo(text, err=True)


COMMAND = Command("plot", plot, PlotArguments)
