"""The command `hybridfit compare`: its options, and what they become."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from hybridfit.cli.exit_status import errors, usage

OF_REFERENCES = "References (once for all of them, or once for each, in their order)"
READING = (
    "kind",
    "name",
    "columns",
    "where",
    "first_pixel",
    "pa_from",
    "pa_unit",
    "size",
    "zeropoint",
    "zeropoint_offset",
    "id_format",
)
Texts = list[str] | None
Numbers = list[float] | None


def _of(flag: str, words: str) -> Any:
    return typer.Option(flag, help=words, rich_help_panel=OF_REFERENCES, show_default=False)


def _own(flag: str, words: str) -> Any:
    return typer.Option(flag, help=words, rich_help_panel="Compare", show_default=False)


def compare_command(
    results: Annotated[Path, typer.Argument(metavar="RESULTS", help="directory of a finished run")],
    references: Annotated[
        list[Path], typer.Argument(metavar="REFERENCE...", help="what others found, or the truth")
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", file_okay=False, help="directory for report and tables [RESULTS/compare]"
        ),
    ] = None,
    input: Annotated[
        Path | None, typer.Option(help="what was fitted, if not where the run says")
    ] = None,
    kind: Annotated[
        Texts,
        _of(
            "--kind",
            "hybridfit | galfit | galfit-table | imfit | sextractor | sourcextractor++ | table | "
            "truth; else by content",
        ),
    ] = None,
    name: Annotated[Texts, _of("--name", "in the report; else of the file")] = None,
    columns: Annotated[
        Texts, _of("--columns", 'its columns for our names: "x=XC,r_eff=RE,mag_err=E_MAG"')
    ] = None,
    where: Annotated[
        Texts, _of("--where", 'rows that count: "mode=single"; of directories "path=*/single/*"')
    ] = None,
    first_pixel: Annotated[
        list[int] | None, _of("--first-pixel", "what it calls the first pixel's centre: 0 | 1")
    ] = None,
    pa_from: Annotated[Texts, _of("--pa-from", "+y | +x: where angles begin")] = None,
    pa_unit: Annotated[Texts, _of("--pa-unit", "deg | rad")] = None,
    size: Annotated[Texts, _of("--size", "semi-major | circularised: its radii")] = None,
    zeropoint: Annotated[
        Numbers, _of("--zeropoint", "mag of one image unit, where it has fluxes (imfit)")
    ] = None,
    zeropoint_offset: Annotated[
        Numbers, _of("--zeropoint-offset", "added to its magnitudes")
    ] = None,
    id_format: Annotated[Texts, _of("--id-format", 'what makes its ids ours: "g{id:03d}"')] = None,
    match: Annotated[
        str | None,
        _own("--match", "auto | id | guess | sky | pixel | row: how galaxies are matched [auto]"),
    ] = None,
    radius: Annotated[
        float | None, _own("--radius", "of a match: arcsec [1] or pixels [2]")
    ] = None,
    estimate: Annotated[
        str | None, _own("--estimate", "best | median | mean: which of our values [best]")
    ] = None,
    pixels: Annotated[
        bool | None, typer.Option("--pixels/--no-pixels", help="chi2 of both on the pixels")
    ] = None,
    max_sigma: Annotated[
        float | None, _own("--max-sigma", "sigma of both errors within which numbers agree [3]")
    ] = None,
    delta_chi2: Annotated[
        float | None, _own("--delta-chi2", "difference of chi2 that decides [9]")
    ] = None,
    poor_chi2: Annotated[
        float | None, _own("--poor-chi2", "chi2/dof from which neither model will do [2]")
    ] = None,
    n_worst: Annotated[
        int | None, _own("--n-worst", "disagreements with pictures, a reference [12]")
    ] = None,
    n_rows: Annotated[
        int | None, _own("--n-rows", "of the page's table of galaxies [2000]")
    ] = None,
    format: Annotated[
        str | None, _own("--format", "fits | ecsv | parquet | csv: of comparison.* [fits]")
    ] = None,
    threads: Annotated[int | None, _own("--threads", "CPU threads [1]")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="say nothing but errors")] = False,
    debug: Annotated[bool, typer.Option("--debug", hidden=True)] = False,
) -> None:
    """Compare a run's RESULTS with what others found of the same galaxies, or with the truth.

    REFERENCE is a directory of GALFIT outputs, an image block, restart file or fit.log; a table
    of GALFIT's answers; imfit's results; a SExtractor or SourceXtractor++ catalogue; another run
    of hybridfit; a truth table (also .npz); or any table, with --columns. OUT gets report.html,
    which needs no other file, comparison.fits, summary.ecsv and unmatched.ecsv.

    Exit status: 0 it is done, 1 it failed, 2 wrong usage.
    """
    given = dict(locals())
    from hybridfit.comparison.compare import compare
    from hybridfit.comparison.options import CompareOptions
    from hybridfit.comparison.result import format_summary

    with errors(debug):
        with usage():
            chosen = {
                key: given[key]
                for key in CompareOptions.__dataclass_fields__
                if given[key] is not None
            }
            options = CompareOptions(**chosen)
            reading = _reading(given, len(references))
        where_to = out if out is not None else _folder(results) / "compare"
        found = compare(
            results,
            *references,
            out=where_to,
            options=options,
            reading=reading,
            input=input,
            quiet=quiet,
        )
        if not quiet:
            typer.echo(format_summary(found))


def _reading(given: Mapping[str, Any], count: int) -> Sequence[Any]:
    """The reading options of each reference."""
    from hybridfit.io.references.options import ReferenceOptions

    each: list[dict[str, Any]] = [{} for _ in range(count)]
    for name in READING:
        values = given[name] or []
        if len(values) not in (0, 1, count):
            raise ValueError(
                f"--{name.replace('_', '-')} came {len(values)} times for {count} references: "
                "expected it once for all, or once for each"
            )
        for k, one in enumerate(each):
            if values:
                one[name] = values[0] if len(values) == 1 else values[k]
    return [ReferenceOptions(**one) for one in each]


def _folder(results: Path) -> Path:
    return results.parent if results.is_file() else results
