"""The command `hybridfit predict`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click

from hybridfit.cli.arguments import RunArguments, positional
from hybridfit.cli.command import Command, sections_of
from hybridfit.cli.exit_status import usage
from hybridfit.cli.messages import format_summary
from hybridfit.cli.runs import configured, needed_out, print_config
from hybridfit.pipeline.config import PredictConfig


@dataclass(frozen=True, kw_only=True)
class PredictArguments(RunArguments):
    """Arguments of `hybridfit predict` other than options of sections."""

    input: tuple[Path, ...] = positional("as for `hybridfit fit`", "INPUT", ())


def predict(arguments: PredictArguments, given: dict[str, dict[str, Any]]) -> None:
    """Predict the posteriors of all galaxies of INPUT with the network alone, without a fit.

    INPUT is as for `hybridfit fit`. OUT/results.fits contains for each parameter its mean, its
    error (_err), and the quantiles _p025, _p16, _p50, _p84 and _p975; with --save-samples the
    draws are written too.

    An interrupted run continues if the same command is repeated. Exit status: 0 if the run is
    complete (including flagged galaxies), 1 if it failed, 2 for wrong usage.
    """
    with usage():
        config = configured(arguments.config, given, PredictConfig())
    if len(arguments.input) > 1:
        raise click.UsageError("got several INPUTs, expected one")
    if arguments.input:
        config = replace(config, input=str(arguments.input[0]))
    if arguments.show_config:
        print_config(config)
        return
    if config.input is None:
        raise click.UsageError("Missing argument 'INPUT': expected the galaxies to predict")
    from hybridfit.pipeline.predict import predict_files

    out, quiet = needed_out(arguments), arguments.quiet
    summary = predict_files(config.input, out, config, overwrite=arguments.overwrite, quiet=quiet)
    if not quiet:
        click.echo(format_summary(summary, "predicted"), err=True)


COMMAND = Command("predict", predict, PredictArguments, sections_of(PredictConfig))
