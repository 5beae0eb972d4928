"""The command `hybridfit compare`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from hybridfit.cli.arguments import FILES, Arguments, out_option, positional
from hybridfit.cli.command import Command
from hybridfit.cli.exit_status import usage
from hybridfit.cli.flags import flag_name
from hybridfit.comparison.options import CompareOptions
from hybridfit.io.references.options import ReferenceOptions
from hybridfit.options.metadata import option


@dataclass(frozen=True, kw_only=True)
class CompareArguments(Arguments):
    """Arguments of `hybridfit compare` other than options of sections."""

    results: Path = positional("directory of a finished run, or its results table", "RESULTS")
    references: tuple[Path, ...] = positional(
        "catalogues to compare with: results of other programs, or the truth", "REFERENCE..."
    )
    out: Path | None = out_option(
        "directory for the report and its tables", None, "RESULTS/compare"
    )
    input: Path | None = option(
        None,
        help="the cutouts that were fitted",
        group=FILES,
        common=True,
        default_text="those recorded by the run",
    )


def compare_command(arguments: CompareArguments, given: dict[str, dict[str, Any]]) -> None:
    """Compare a run's RESULTS with other catalogues of the same galaxies, or with the truth.

    REFERENCE is a directory of GALFIT output, an image block, a restart file or fit.log; a table
    of GALFIT results; imfit results; a SExtractor or SourceXtractor++ catalogue; another run
    of hybridfit; a truth table (also .npz); or any table, with --columns. Writes report.html, a
    self-contained page, comparison.fits, summary.ecsv and unmatched.ecsv to OUT.

    Exit status: 0 if it succeeded, 1 if it failed, 2 for wrong usage.
    """
    with usage():
        options = CompareOptions(**given["compare"])
        reading = _reading(given["reference"], len(arguments.references))
    from hybridfit.comparison.compare import compare
    from hybridfit.comparison.result import format_summary

    folder = arguments.results
    folder = folder.parent if folder.is_file() else folder
    found = compare(
        arguments.results,
        *arguments.references,
        out=folder / "compare" if arguments.out is None else arguments.out,
        options=options,
        reading=reading,
        input=arguments.input,
        quiet=arguments.quiet,
    )
    if not arguments.quiet:
        click.echo(format_summary(found))


def _reading(given: Mapping[str, Sequence[Any]], count: int) -> list[ReferenceOptions]:
    """Return the reading options of each reference."""
    each: list[dict[str, Any]] = [{} for _ in range(count)]
    for name, values in given.items():
        if len(values) not in (1, count):
            raise ValueError(
                f"{flag_name(name)} was given {len(values)} times for {count} references: "
                "expected it once for all, or once for each"
            )
        for k, one in enumerate(each):
            one[name] = values[0] if len(values) == 1 else values[k]
    return [ReferenceOptions(**one) for one in each]


SECTIONS = {"compare": CompareOptions, "reference": ReferenceOptions}
COMMAND = Command("compare", compare_command, CompareArguments, SECTIONS, repeated=["reference"])
