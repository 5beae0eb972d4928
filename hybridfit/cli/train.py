"""The command `hybridfit train`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from hybridfit.cli.arguments import FILES, Arguments, out_option, positional
from hybridfit.cli.command import Command
from hybridfit.cli.exit_status import INTERRUPTED
from hybridfit.options.metadata import option

TRAINING = "Training"


@dataclass(frozen=True, kw_only=True)
class TrainArguments(Arguments):
    """Arguments of `hybridfit train`."""

    config: Path = positional(
        "YAML file with sections simulator, prior, network and train; see configs/", "CONFIG"
    )
    out: Path = out_option("directory for the run")
    initial_weights: Path | None = option(
        None,
        help="run, or folder of weights, to initialise the network of a new run; it may have "
        "fewer layers",
        metavar="FOLDER",
        group=FILES,
        common=True,
    )
    export: Path | None = option(
        None,
        help="write the weights of OUT's last checkpoint to this folder, and exit",
        metavar="FOLDER",
        group=FILES,
        common=True,
    )
    resume: bool = option(
        False,
        help="continue from the last checkpoint in OUT",
        group=TRAINING,
        common=True,
    )
    minutes: float | None = option(
        None,
        help="total wall time of the run, including resumed parts",
        unit="min",
        default_text="as in CONFIG",
        group=TRAINING,
        common=True,
    )
    images: int | None = option(
        None,
        help="number of training images",
        default_text="as in CONFIG",
        group=TRAINING,
        common=True,
    )
    device: str = option(
        "cpu", help="torch device", metavar="cpu|cuda|cuda:1", group="Run", common=True
    )
    threads: int = option(
        0, help="CPU threads for the network", default_text="all", group="Run", common=True
    )


def train(arguments: TrainArguments, given: dict[str, dict[str, Any]]) -> None:
    """Train the posterior network on simulated galaxies, and write its weights to OUT/weights.

    A run that was interrupted or killed at any moment continues with --resume. With a time limit
    the learning rate is annealed until the limit.
    """
    from hybridfit.training.train import train_network

    done = train_network(
        arguments.config,
        arguments.out,
        arguments.resume,
        arguments.minutes,
        arguments.images,
        arguments.device,
        arguments.threads,
        arguments.export,
        arguments.quiet,
        arguments.initial_weights,
    )
    if not done:
        text = f"interrupted: --resume continues from the checkpoint in {arguments.out}"
        click.echo(text, err=True)
        raise click.exceptions.Exit(INTERRUPTED)


COMMAND = Command("train", train, TrainArguments)
