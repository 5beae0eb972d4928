"""The command `hybridfit fit`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click

from hybridfit.cli.arguments import (
    FILES,
    RunArguments,
    allow_import_option,
    import_allowed,
    positional,
)
from hybridfit.cli.command import Command, sections_of
from hybridfit.cli.exit_status import usage
from hybridfit.cli.messages import format_summary
from hybridfit.cli.runs import configured, needed_out, print_config
from hybridfit.options.metadata import option
from hybridfit.pipeline.config import Config, galfit_config


@dataclass(frozen=True, kw_only=True)
class FitArguments(RunArguments):
    """Arguments of `hybridfit fit` other than options of sections."""

    input: tuple[Path, ...] = positional(
        "directory, manifest (CSV, ECSV, FITS, Parquet) or multi-extension file of cutouts; with "
        "--galfit GALFIT input files, or directories that contain them",
        "INPUT",
        (),
    )
    galfit: bool = option(
        False, help="run GALFIT input files, in GALFIT's conventions", group=FILES, common=True
    )
    allow_import: tuple[str, ...] = allow_import_option()


def fit(arguments: FitArguments, given: dict[str, dict[str, Any]]) -> None:
    """Fit all galaxies of INPUT and write their parameters to OUT/results.fits.

    INPUT is a directory with <id>_image.fits, <id>_sigma.fits, <id>_psf.fits and <id>_mask.fits,
    or with multi-extension files, or a manifest: a table with columns id, image, sigma, psf...

    Each parameter has its best fit, its error (_err), and the quantiles _p16, _p50 and _p84 of its
    posterior; the column `quality` rates how far a galaxy's row can be trusted. Fits with
    --uncertainty covariance are the fastest; their errors come from the curvature alone.

    With --galfit, images, fitting regions, initial values and fixed parameters are those of the
    GALFIT input files, and convolution and errors follow GALFIT unless --convolution continuous
    or --uncertainty posterior is given.

    An interrupted run continues if the same command is repeated. Exit status: 0 if the run is
    complete (including flagged galaxies), 1 if it failed, 2 for wrong usage.
    """
    with usage():
        import_allowed(arguments.allow_import)
        defaults = galfit_config() if arguments.galfit else Config()
        config = configured(arguments.config, given, defaults)
    if len(arguments.input) == 1:
        config = replace(config, input=str(arguments.input[0]))
    if arguments.show_config:
        print_config(config)
        return
    inputs = _inputs(arguments, config)
    out, overwrite, quiet = needed_out(arguments), arguments.overwrite, arguments.quiet
    if arguments.galfit:
        from hybridfit.pipeline.galfit.run import fit_feedmes

        summary = fit_feedmes(inputs, out, config, overwrite=overwrite, quiet=quiet)
    else:
        from hybridfit.pipeline.fit_files import fit_files

        summary = fit_files(inputs[0], out, config, overwrite=overwrite, quiet=quiet)
    if not quiet:
        click.echo(format_summary(summary, "fitted"), err=True)


def _inputs(arguments: FitArguments, config: Config) -> tuple[Path, ...]:
    """Return the input; raise click.UsageError if there is none, or too much."""
    inputs = arguments.input or ((Path(config.input),) if config.input else ())
    if not inputs:
        raise click.UsageError("Missing argument 'INPUT': expected the galaxies to fit")
    if len(inputs) > 1 and not arguments.galfit:
        raise click.UsageError("got several INPUTs, expected one (or GALFIT files: --galfit)")
    return inputs


COMMAND = Command("fit", fit, FitArguments, sections_of(Config))
