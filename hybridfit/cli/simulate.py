"""The command `hybridfit simulate`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from hybridfit.cli.arguments import Arguments, config_option, out_option
from hybridfit.cli.command import Command
from hybridfit.cli.exit_status import usage
from hybridfit.options.metadata import option

GALAXIES, ISOLATED = "Galaxies", "Isolated galaxies"


@dataclass(frozen=True, kw_only=True)
class SimulateArguments(Arguments):
    """Arguments of `hybridfit simulate`."""

    out: Path = out_option("directory for the cutouts and truth.fits")
    config: Path | None = config_option(
        "YAML file with sections simulator and prior, as for `hybridfit train`; implies --survey"
    )
    n: int = option(64, help="number of galaxies", low=1, group=GALAXIES, common=True)
    seed: int = option(0, help="random seed", low=0, group=GALAXIES, common=True)
    survey: bool = option(
        False,
        help="simulate galaxies as in surveys, with neighbours, masks and various PSFs",
        group=GALAXIES,
        common=True,
    )
    size: int | None = option(
        None,
        help="side length of the cutouts",
        unit="pix",
        low=16,
        default_text="96",
        group=ISOLATED,
        common=True,
    )
    snr_min: float | None = option(
        None,
        help="smallest signal-to-noise ratio",
        default_text="15",
        group=ISOLATED,
        common=True,
    )
    snr_max: float | None = option(
        None,
        help="largest signal-to-noise ratio",
        default_text="500",
        group=ISOLATED,
        common=True,
    )


def simulate_command(arguments: SimulateArguments, given: dict[str, dict[str, Any]]) -> None:
    """Simulate noisy galaxies as FITS cutouts, with their true parameters in OUT/truth.fits.

    By default they are isolated, for experiments; with --survey they are like those on which the
    network is trained.
    """
    from hybridfit.io.cutout_files import write_cutouts

    survey = arguments.survey or arguments.config is not None
    cutouts, truth = _survey(arguments) if survey else _isolated(arguments)
    write_cutouts(cutouts, arguments.out, truth)
    if not arguments.quiet:
        click.echo(f"{arguments.n} galaxies in {arguments.out}", err=True)


def _isolated(arguments: SimulateArguments) -> tuple[Any, Any]:
    from hybridfit.simulation.simulate import SimulateOptions, simulate

    side, low, high = arguments.size or 96, arguments.snr_min, arguments.snr_max
    with usage():
        snr = (15.0 if low is None else low, 500.0 if high is None else high)
        options = SimulateOptions(shape=(side, side), snr=snr)
    return simulate(arguments.n, arguments.seed, options)


def _survey(arguments: SimulateArguments) -> tuple[Any, Any]:
    from hybridfit.simulation.simulate import simulate_fields
    from hybridfit.training.recipe import Recipe

    with usage():
        if (arguments.size, arguments.snr_min, arguments.snr_max) != (None, None, None):
            raise ValueError(
                "--size, --snr-min and --snr-max are for isolated galaxies: with --survey write "
                "`simulator: {sides: [96], snr: [15, 500]}` into a file for --config"
            )
        recipe = Recipe() if arguments.config is None else Recipe.read(arguments.config)
    drawn = simulate_fields(arguments.n, arguments.seed, recipe.simulator, recipe.prior)
    return drawn.cutouts, drawn.table()


COMMAND = Command("simulate", simulate_command, SimulateArguments)
