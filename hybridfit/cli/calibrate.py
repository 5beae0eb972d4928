"""The command `hybridfit calibrate`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from hybridfit.cli.arguments import FILES, Arguments, config_option, out_option, positional
from hybridfit.cli.command import Command
from hybridfit.options.metadata import option

TEST = "Test"


@dataclass(frozen=True, kw_only=True)
class CalibrateArguments(Arguments):
    """Arguments of `hybridfit calibrate`."""

    input: Path | None = positional(
        "cutouts with truth.fits; by default galaxies are simulated", "[INPUT]", None
    )
    out: Path = out_option("directory for tables and figures")
    config: Path | None = config_option("YAML file with sections simulator, prior and calibrate")
    weights: Path | None = option(
        None,
        help="folder with the network's weights",
        metavar="FOLDER",
        default_text="those of the package",
        group=FILES,
        common=True,
    )
    n: int = option(2000, help="number of galaxies", low=2, group=TEST, common=True)
    samples: int = option(256, help="posterior draws per galaxy", low=16, group=TEST, common=True)
    seed: int = option(0, help="random seed", low=0, group=TEST, common=True)
    device: str = option(
        "cpu", help="torch device", metavar="cpu|cuda|cuda:1", group="Run", common=True
    )


def calibrate(arguments: CalibrateArguments, given: dict[str, dict[str, Any]]) -> None:
    """Test whether posteriors are calibrated and sharp: coverage, ranks, TARP, width over limit.

    The network is tested on galaxies like those of its training, or on cutouts whose truth is
    known. Writes calibration.ecsv, by signal-to-noise ratio, size and index, and figures to OUT.
    """
    from hybridfit.calibration.calibrate import calibrate_network, format_summary

    report = calibrate_network(
        arguments.out,
        arguments.weights,
        arguments.input,
        arguments.config,
        arguments.n,
        arguments.samples,
        arguments.seed,
        arguments.device,
        arguments.quiet,
    )
    if not arguments.quiet:
        click.echo(format_summary(report), err=True)


COMMAND = Command("calibrate", calibrate, CalibrateArguments)
