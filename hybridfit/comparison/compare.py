"""`hybridfit compare`: agreement with other results, and which describe the pixels better."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Unpack

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray
from tqdm import tqdm

from hybridfit.comparison.crossmatch import Matches, match
from hybridfit.comparison.differences import pairs_of
from hybridfit.comparison.options import CompareKeywords, CompareOptions
from hybridfit.comparison.pixels import Evaluation, Models, evaluate, n_free_parameters
from hybridfit.comparison.report import write_report
from hybridfit.comparison.result import PAGE, CompareResult, Comparison
from hybridfit.comparison.statistics import convention_warnings, summarise
from hybridfit.comparison.tables import summary_table, table_rows, unmatched_table
from hybridfit.comparison.verdicts import Chi2, assign_verdicts
from hybridfit.data.cutouts import Cutouts
from hybridfit.data.errors import UsageError
from hybridfit.deprecations import current_keys, renamed_arguments
from hybridfit.io import write_tables as export
from hybridfit.io.formats import table_path
from hybridfit.io.read_results import Results, read_results
from hybridfit.io.references.catalogue import Catalogue
from hybridfit.io.references.options import ReferenceOptions
from hybridfit.io.references.own import own_catalogue
from hybridfit.io.references.read import read_reference
from hybridfit.io.table import to_table
from hybridfit.io.writing import write_table
from hybridfit.options.checks import as_path, checked, or_default
from hybridfit.options.keywords import with_keywords
from hybridfit.options.yaml_options import check_keys, make
from hybridfit.pipeline.devices import threads
from hybridfit.pipeline.measure import metadata
from hybridfit.pipeline.run_cutouts import CutoutReader, reader_of_cutouts, reader_of_run
from hybridfit.rendering.convolution import Convolution, convolution_of

FOLDER = "compare"  # in the results' folder, by default


@renamed_arguments("compare")
@with_keywords(CompareKeywords, CompareOptions, ReferenceOptions)
@np.errstate(over="ignore", invalid="ignore", divide="ignore")  # tables may contain anything
def compare(
    results: str | Path | Table,
    *references: str | Path | Table,
    out: str | Path | None = None,
    options: CompareOptions = CompareOptions(),
    reading: ReferenceOptions | Sequence[ReferenceOptions] = ReferenceOptions(),
    input: str | Path | None = None,
    cutouts: Cutouts | None = None,
    quiet: bool = True,
    **more: Unpack[CompareKeywords],
) -> CompareResult:
    """Compare a table of fits with other results for the same galaxies, or with the truth.

    >>> found = hybridfit.compare("out/", "galfit_runs/", out="compare/")
    >>> found = hybridfit.compare(table, truth, cutouts=cutouts)

    Args:
        results: folder (or results file) of a finished run, or a table of `hybridfit.fit`.
        references: catalogues to compare with, see `hybridfit.io.references.read_reference`.
        out: folder for the tables and report.html; None writes nothing.
        options: see `CompareOptions`.
        reading: conventions that references do not state; one for all, or one for each.
        input: the fitted cutouts; default: those recorded by the run, if they exist.
        cutouts: the fitted cutouts, in memory.
        quiet: without a progress bar.
        more: fields of `CompareOptions` or `ReferenceOptions` to change.

    Returns:
        Tables and their sources: ``table`` has one row per matched component, ``summary`` the
        statistics of each parameter, ``unmatched`` the galaxies found in one catalogue only.

    Raises:
        UsageError, OSError: for unusable arguments or files, or if ``out`` cannot be written.
    """
    with _usage_errors():
        folder = None if out is None else as_path("out", out)
        chosen, each = _options(options, reading, len(references), more)
        task = _task(results, references, chosen, each, input, cutouts)
    with threads(chosen.threads):
        return replace(_compared(task, folder, quiet), out=folder)


@dataclass(frozen=True)
class _Task:
    """The inputs of a comparison.

    Args:
        run: our table, and the settings of its run.
        ours: its rows as a catalogue.
        theirs: R catalogues, one for each reference.
        matched: R matches between rows of ours and theirs.
        read_cutout: reads the pixels of one of our rows.
        options, reading: see `compare`; ``reading`` has one entry for each reference.
    """

    run: Results
    ours: Catalogue
    theirs: Sequence[Catalogue]
    matched: Sequence[Matches]
    read_cutout: CutoutReader
    options: CompareOptions
    reading: Sequence[ReferenceOptions]


def _task(
    results: str | Path | Table,
    references: Sequence[str | Path | Table],
    options: CompareOptions,
    reading: Sequence[ReferenceOptions],
    input: str | Path | None,
    cutouts: Cutouts | None,
) -> _Task:
    """Read our results and the references, and match their galaxies."""
    if cutouts is not None:
        checked("cutouts", cutouts, Cutouts)
    place = None if input is None else as_path("input", input)
    run = _results(results)
    ours = own_catalogue(run, "ours", options.estimate)
    read = [read_reference(s, o) for s, o in zip(references, reading, strict=True)]
    theirs = _renamed(read)
    matched = [match(ours, c, options.match, options.radius) for c in theirs]
    read_cutout = _reader(run, ours, options, place, cutouts)
    return _Task(run, ours, theirs, matched, read_cutout, options, reading)


def _compared(task: _Task, folder: Path | None, quiet: bool) -> CompareResult:
    """Compare with each reference; write tables and report if there is a folder."""
    chi2, catalogues = _evaluate_pixels(task, quiet)
    each_reference = zip(catalogues, task.matched, chi2, strict=True)
    comparisons = tuple(_comparison(task.ours, c, m, x, task.options) for c, m, x in each_reference)
    rows, columns = table_rows(comparisons)
    meta = metadata(
        {"compare": asdict(task.options), "references": [asdict(o) for o in task.reading]}
    )
    summary, unmatched = summary_table(comparisons), unmatched_table(comparisons)
    found = CompareResult(to_table(rows, columns, meta), summary, unmatched, comparisons)
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        table = table_path(folder, task.options.format, "comparison")
        export.write_results(table, [rows], columns, meta)
        _write(found, folder, task.read_cutout, task.run, task.options)
    return found


def _write(
    found: CompareResult,
    folder: Path,
    read_cutout: CutoutReader,
    run: Results,
    options: CompareOptions,
) -> None:
    """Write the summary, the unmatched galaxies, and the report."""
    write_table(folder / "summary.ecsv", found.summary)
    write_table(folder / "unmatched.ecsv", found.unmatched)
    convolution, name = _convolution(run), str(run.path)
    write_report(folder / PAGE, found.comparisons, read_cutout, convolution, options, name)


def _reader(
    run: Results,
    ours: Catalogue,
    options: CompareOptions,
    input: Path | None,
    cutouts: Cutouts | None,
) -> CutoutReader:
    """Return a function that reads the pixels of our rows."""
    if not options.pixels:
        return _no_cutouts
    return reader_of_run(run, input) if cutouts is None else reader_of_cutouts(cutouts, ours.id)


def _options(
    options: CompareOptions,
    reading: ReferenceOptions | Sequence[ReferenceOptions],
    count: int,
    more: Mapping[str, Any],
) -> tuple[CompareOptions, list[ReferenceOptions]]:
    """Return the options, and those of reading for each reference, with the changes in ``more``."""
    if not count:
        raise ValueError("got no reference, expected at least one")
    if isinstance(reading, list | tuple):
        each = [checked("reading", one, ReferenceOptions) for one in reading]
    else:
        each = [or_default("reading", reading, ReferenceOptions)] * count
    if len(each) != count:
        raise ValueError(
            f"reading has {len(each)} options, expected {count}: one for each reference, or one "
            "for all"
        )
    of_reading = [f.name for f in fields(ReferenceOptions)]
    changes = {name: value for name, value in more.items() if name not in of_reading}
    changes = current_keys(CompareOptions, changes)
    check_keys(changes, [*(f.name for f in fields(CompareOptions)), *of_reading], "compare")
    reading_changes = {name: value for name, value in more.items() if name in of_reading}
    options = or_default("options", options, CompareOptions)
    options = make(CompareOptions, {**asdict(options), **changes}, "compare")
    return options, [replace(o, **reading_changes) for o in each]


def _results(results: str | Path | Table) -> Results:
    if isinstance(results, Table):
        return Results.of_table(results)
    path = as_path("results", results)
    if path.is_file() and path.stem == "results":
        path = path.parent
    return read_results(path)


def _renamed(catalogues: Sequence[Catalogue]) -> list[Catalogue]:
    """Return the catalogues with unique names."""
    taken: dict[str, int] = {}
    out = []
    for c in catalogues:
        taken[c.name] = taken.get(c.name, 0) + 1
        again = taken[c.name]
        out.append(c if again == 1 else replace(c, name=f"{c.name} ({again})"))
    return out


def _evaluate_pixels(task: _Task, quiet: bool) -> tuple[list[Chi2], list[Catalogue]]:
    """Return chi2 of both sides for each reference, and catalogues with calibrated magnitudes."""
    ours, catalogues, matched = task.ours, task.theirs, task.matched
    rows = sorted({int(i) for m in matched for i in m.ours})
    models = [Models(ours, {i: i for i in rows})]
    for c, m in zip(catalogues, matched, strict=True):
        pairs = zip(m.ours.tolist(), m.theirs.tolist(), strict=True)
        models.append(Models(c, dict(pairs)))
    with tqdm(total=len(rows), unit=" galaxies", disable=True if quiet else None) as bar:
        chosen = rows if task.options.pixels else []
        convolution = _convolution(task.run)
        found, zeropoint = evaluate(task.read_cutout, chosen, models, convolution, bar.update)
    dof = np.full(len(ours), np.nan)
    if chosen:
        dof[: len(found[0].pixels)] = found[0].pixels
    dof -= n_free_parameters(ours)
    out, calibrated = [], []
    for c, m, theirs in zip(catalogues, matched, found[1:], strict=True):
        out.append(_chi2(found[0], theirs, m, dof, len(ours)))
        calibrated.append(_with_zeropoint(c, m, zeropoint))
    return out, calibrated


def _chi2(
    ours: Evaluation, theirs: Evaluation, m: Matches, dof: NDArray[np.float64], count: int
) -> Chi2:
    def of(values: NDArray[np.float64]) -> NDArray[np.float64]:
        whole = np.full(count, np.nan)
        whole[: len(values)] = values
        return whole[m.ours]

    return Chi2(of(ours.given), of(theirs.given), of(ours.solved), of(theirs.solved), dof[m.ours])


def _with_zeropoint(c: Catalogue, m: Matches, zeropoint: NDArray[np.float64]) -> Catalogue:
    """Add the zero points of the cutouts to magnitudes of counts; NaN without a cutout."""
    if not c.counts:
        return c
    added = np.full(len(c), np.nan)
    known = m.ours < len(zeropoint)
    added[m.theirs[known]] = zeropoint[m.ours[known]]
    values = c.values.copy()
    values[..., 2] += added[:, None]
    missing = "" if np.isfinite(added[m.theirs]).all() else " where available: give a zeropoint"
    note = f"magnitudes from counts use the zero points of the fitted cutouts{missing}"
    return replace(c, values=values, notes=(*c.notes, note), counts=False)


def _comparison(
    ours: Catalogue, theirs: Catalogue, matches: Matches, chi2: Chi2, options: CompareOptions
) -> Comparison:
    our, their = ours[matches.ours], theirs[matches.theirs]
    rows = np.arange(len(matches))
    pairs = pairs_of(our, their, replace(matches, ours=rows, theirs=rows))
    suspect = [
        grade == "suspect" or (not grade and bool(flags))
        for grade, flags in zip(our.quality, our.flagged, strict=True)
    ]
    verdicts = assign_verdicts(pairs, chi2, suspect, [bool(f) for f in their.flagged], options)
    notes = [*theirs.notes]
    if matches.repeated:
        names = ", ".join(f"'{name}'" for name in matches.repeated[:5])
        more = ", ..." if len(matches.repeated) > 5 else ""
        notes.append(
            f"{len(matches.repeated)} galaxies occur several times, and the first row is used: "
            f"{names}{more}; choose rows with where"
        )
    if not theirs.exact:
        notes.append(
            "both are fits: fits of the same pixels share their noise, and agree to much better "
            "than their errors"
        )
    return Comparison(
        our,
        their,
        matches,
        pairs,
        chi2,
        verdicts,
        summarise(pairs, our.quality, their.snr),
        tuple(notes),
        tuple(convention_warnings(pairs)),
    )


def _convolution(run: Results) -> Convolution:
    """Return the convolution that the run used."""
    galfit = run.settings.get("fit", {}).get("convolution") == "galfit"
    return convolution_of("galfit" if galfit else "continuous")


def _no_cutouts(row: int) -> None:
    return None


@contextmanager
def _usage_errors() -> Iterator[None]:
    """Turn errors raised in the context into `UsageError`."""
    try:
        yield
    except (ValueError, TypeError, FileNotFoundError, NotADirectoryError) as error:
        raise UsageError(str(error)) from error
