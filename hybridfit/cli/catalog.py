"""The command `hybridfit catalog`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import click

from hybridfit.cli.arguments import RunArguments, positional
from hybridfit.cli.command import Command, sections_of
from hybridfit.cli.exit_status import usage
from hybridfit.cli.messages import format_summary
from hybridfit.cli.runs import configured, needed_out, print_config
from hybridfit.mosaic.config import CatalogConfig
from hybridfit.options.metadata import option


@dataclass(frozen=True, kw_only=True)
class CatalogArguments(RunArguments):
    """Arguments of `hybridfit catalog` other than options of sections."""

    image: str | None = positional("image of the sky: file, or file.fits[HDU]", "IMAGE", None)
    psf: str | None = option(
        None,
        help="file of the PSF, a grid by position (PSFEx, stpsf...), or a directory of PSFs",
        metavar="FILE",
        group="Input and output",
        common=True,
    )


def catalog(arguments: CatalogArguments, given: dict[str, dict[str, Any]]) -> None:
    """Find all sources of IMAGE, fit them with their neighbours, and write their table.

    Noise, mask and zero point are found as the survey of the image publishes them, or given:
    --sigma, --ivar, --variance, --mask, --zeropoint. OUT/results.fits has a row a source, as
    `hybridfit fit` writes it; OUT/neighbours.fits what each was fitted with, OUT/detections.ecsv
    the positions, OUT/sources.reg regions for DS9.

    An interrupted run continues if the same command is repeated. Exit status: 0 if the run is
    complete (including flagged sources), 1 if it failed, 2 for wrong usage.
    """
    with usage():
        config = configured(arguments.config, given, CatalogConfig())
    if arguments.psf is not None:
        config = replace(config, psf_file=arguments.psf)
    if arguments.show_config:
        print_config(config)
        return
    if arguments.image is None:
        raise click.UsageError("Missing argument 'IMAGE': expected an image of the sky")
    from hybridfit.mosaic.run import catalog as run

    out, quiet = needed_out(arguments), arguments.quiet
    summary = run(arguments.image, out, config, overwrite=arguments.overwrite, quiet=quiet)
    if not quiet:
        click.echo(format_summary(summary, "measured"), err=True)


COMMAND = Command("catalog", catalog, CatalogArguments, sections_of(CatalogConfig))
