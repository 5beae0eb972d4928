"""The command `hybridfit finetune`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from hybridfit.cli.arguments import FILES, Arguments, config_option, out_option, positional
from hybridfit.cli.command import Command
from hybridfit.options.metadata import option


@dataclass(frozen=True, kw_only=True)
class FinetuneArguments(Arguments):
    """Arguments of `hybridfit finetune`."""

    input: Path = positional(
        "labelled cutouts, as for `hybridfit fit`, or a YAML file with a section simulator",
        "INPUT",
    )
    out: Path = out_option("folder for the new weights")
    config: Path | None = config_option("YAML file of options, for labelled cutouts")
    weights: Path | None = option(
        None,
        help="folder with the trained weights to start from",
        metavar="FOLDER",
        default_text="those of the package",
        group=FILES,
        common=True,
    )
    truth: Path | None = option(
        None,
        help="table of labels",
        metavar="FILE",
        default_text="truth.fits beside the cutouts",
        group=FILES,
        common=True,
    )
    device: str = option(
        "cpu", help="torch device", metavar="cpu|cuda|cuda:1", group="Run", common=True
    )
    threads: int = option(0, help="CPU threads", default_text="all", group="Run", common=True)


def finetune(arguments: FinetuneArguments, given: dict[str, dict[str, Any]]) -> None:
    """Adapt trained weights to another survey, another kind of noise, or other parameters.

    The labels are a table with id, x, y, mag, r_eff, n, q, pa and, if known, sky. A held-out tenth
    of the galaxies determines when to stop. The section finetune of the YAML file may name other
    columns as targets.
    """
    from hybridfit.training.finetune_files import finetune_network

    tuned = finetune_network(
        arguments.input,
        arguments.out,
        arguments.weights,
        arguments.config,
        arguments.truth,
        arguments.device,
        arguments.threads,
        arguments.quiet,
    )
    if not arguments.quiet:
        before = "" if tuned.before is None else f", {tuned.before:.3f} before"
        click.echo(f"held-out NLL {tuned.after:.3f}{before}: {arguments.out}", err=True)


COMMAND = Command("finetune", finetune, FinetuneArguments)
