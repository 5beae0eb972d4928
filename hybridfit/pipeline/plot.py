"""Pictures of a finished run: what was fitted, and the posteriors whose draws were saved."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from astropy.table import Row, Table
from tqdm import tqdm

from hybridfit.data.cutouts import Cutouts
from hybridfit.data.errors import UsageError
from hybridfit.data.flags import Flag
from hybridfit.data.ids import numbers_by_id
from hybridfit.fitting.options import FitOptions
from hybridfit.io.blocks import file_name, read_block
from hybridfit.io.options import ReadOptions
from hybridfit.io.read import stack
from hybridfit.io.read_cutout import read_cutout
from hybridfit.io.read_results import Results, read_results
from hybridfit.io.run_folder import MODELS
from hybridfit.io.sources import Source, find_sources
from hybridfit.io.truth_table import read_truth, truth_beside
from hybridfit.io.writing import real_folder, write_figure, write_text
from hybridfit.model.prior import Prior
from hybridfit.options.yaml_options import make
from hybridfit.pipeline.galaxy_pictures import (
    notes_of,
    picture_of_block,
    picture_of_cutout,
    values_of,
)
from hybridfit.pipeline.galfit.rows import model_text
from hybridfit.pipeline.galfit.tasks import read_task
from hybridfit.pipeline.posterior_layers import laplace_layer, network_layers
from hybridfit.pipeline.run_cutouts import reader_of_run
from hybridfit.plots import LABELS, DrawsLayer, plot_corner, plot_galaxy, plot_truth
from hybridfit.plots.layers import Layer

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PLOTS = "plots"
SUMMARY = "summary.csv"
DPI = 120
LISTED = 10  # galaxies that the command names one by one


def plot_run(
    out: str | Path,
    ids: Sequence[str] = (),
    input: str | Path | None = None,
    truth: str | Path | None = None,
    limit: int = 12,
    quiet: bool = True,
    say: Callable[[str], None] = lambda text: None,
) -> list[Path]:
    """Draw pictures of a finished run's galaxies into ``out/plots``, and return their files.

    For each galaxy ``<id>_fit.png`` (data, model, residual, surface-brightness profile and
    parameters), of the cutouts if given, else of the blocks that ``--save-models`` left; and
    ``<id>_corner.png``, if its draws were saved: with the cutouts the network's posterior and the
    fit's Gaussian lie under them. With a truth table also ``truth.png``, fits against truths of
    the whole run. ``summary.csv`` lists which galaxies were drawn, and why others were not.

    Args:
        out: folder of a finished ``fit`` or ``predict``.
        ids: galaxies; default the first ``limit`` of the table.
        input: what was fitted, see `hybridfit.io.read.find_sources`.
        truth: table with id and true parameters; default truth.fits beside ``input``.
        quiet: without a progress bar.
        say: is told how many galaxies were drawn, which were not and why.

    Raises:
        UsageError: if there is no finished run, no such galaxy, or nothing to draw.
    """
    results = read_results(out)
    rows = results.rows_of(ids) if ids else list(range(min(limit, len(results.table))))
    galaxy_of = _galaxy_reader(results, input)
    true = _truth(truth, input)
    folder = real_folder(results.path / PLOTS)
    bar = tqdm(rows, unit=" galaxies", disable=True if quiet else None)
    drawn = [_draw(galaxy_of(row), true, folder) for row in bar]
    files = _files(out, drawn, _truth_picture(results.table, true, folder))
    write_text(folder / SUMMARY, _summary_table(drawn))
    for line in _summary(drawn, len(results.table), bool(ids)):
        say(line)
    return files


def _files(out: str | Path, drawn: Sequence[_Drawn], more: Sequence[Path]) -> list[Path]:
    """Return all pictures; raises UsageError if there are none, with the first one's reason."""
    files = [*(file for one in drawn for file in one.files), *more]
    if not files:
        why = f" ({drawn[0].why_not})" if drawn else ""
        raise UsageError(
            f"'{out}' holds neither models nor draws of these galaxies{why}: pass --input CUTOUTS, "
            "or fit with --save-models or --save-samples"
        )
    return files


def _truth_picture(table: Table, true: Table | None, folder: Path) -> list[Path]:
    """Draw fits against truths, where both are there."""
    columns = ["id", "flags", *LABELS, *(f"{name}_err" for name in LABELS)]
    if true is None or not (_has(table, columns) and _has(true, LABELS)):
        return []
    write_figure(folder / "truth.png", plot_truth(table[columns], true), DPI)
    return [folder / "truth.png"]


@dataclass(frozen=True)
class _Drawn:
    """Which pictures of a galaxy were made, and why not all."""

    id: str
    files: tuple[Path, ...]
    why_not: str = ""


def _draw(galaxy: _Galaxy, true: Table | None, folder: Path) -> _Drawn:
    """Draw what there is to draw of one galaxy, and note why something is missing."""
    files: list[Path] = []
    why = []
    kinds: dict[str, Callable[[], Figure | str]] = {
        "fit": lambda: _fit_figure(galaxy),
        "corner": lambda: _corner(galaxy, true),
    }
    for kind, make_figure in kinds.items():
        try:
            figure = make_figure()
        except UsageError:
            raise
        except Exception as error:  # one galaxy's numbers keep no other from its pictures
            figure = f"could not be drawn: {' '.join(str(error).split())[:200]}"
        if isinstance(figure, str):
            why.append(f"{kind}: {figure}")
            continue
        files.append(folder / f"{file_name(galaxy.id)}_{kind}.png")
        write_figure(files[-1], figure, DPI)
    return _Drawn(galaxy.id, tuple(files), "; ".join(why))


def _summary_table(drawn: Sequence[_Drawn]) -> str:
    """One line for each galaxy as CSV: id, its pictures, and why one is missing."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["id", "pictures", "missing"])
    for one in drawn:
        writer.writerow([one.id, " ".join(file.name for file in one.files), one.why_not])
    return text.getvalue()


def _summary(drawn: Sequence[_Drawn], total: int, named: bool) -> list[str]:
    """How many galaxies were drawn, which were not and why, and how to draw the others."""
    bare = [one for one in drawn if not one.files]
    text = f"{len(drawn) - len(bare)} of {total} galaxies drawn"
    if len(drawn) < total and not named:
        text += f"; the others: --limit {total}, or --id NAME for each"
    lines = [text]
    lines += [f"not drawn: '{one.id}': {one.why_not}" for one in bare[:LISTED]]
    if len(bare) > LISTED:
        lines.append(f"not drawn: {len(bare) - LISTED} more, see {PLOTS}/{SUMMARY}")
    return lines


def _has(table: Table, names: Iterable[str]) -> bool:
    return set(names) <= set(table.colnames)


@dataclass(frozen=True)
class _Galaxy:
    """A row of a run, and what was fitted; ``missing`` says why if that cannot be read."""

    results: Results
    row: int
    cutouts: Cutouts | None
    options: FitOptions = FitOptions()
    missing: str = ""

    @property
    def values(self) -> Row:
        return self.results.table[self.row]

    @property
    def id(self) -> str:
        return str(self.values["id"])

    @property
    def is_fit(self) -> bool:
        """Whether the row is of a fit, and not of the network alone."""
        return _has(self.results.table, ("chi2", *self.options.space.names))


def _options(results: Results) -> FitOptions:
    """What the galaxies were fitted with."""
    written = dict(results.settings.get("fit", {}))
    try:
        if "prior" in written:
            written["prior"] = Prior.from_mapping(written["prior"])
        return make(FitOptions, written, "the table's options")
    except (ValueError, TypeError) as error:
        raise UsageError(f"results in '{results.path}': {error}") from error


def _options_of_file(results: Results, row: int, options: FitOptions) -> FitOptions:
    """Return options with the components of a row's own GALFIT input file, if it can be read."""
    named = any(name.startswith("comp1_") for name in results.table.colnames)
    path = Path(str(results.table["feedme"][row]))
    task = read_task(str(results.table["id"][row]), path, named)
    return options if task.scene is None else replace(options, model=model_text(task.space))


def _galaxy_reader(results: Results, input: str | Path | None) -> Callable[[int], _Galaxy]:
    """Return a function that reads what was fitted of a row."""
    return partial(_galaxy, results, _options(results), _sources(input, results))


def _galaxy(
    results: Results, options: FitOptions, sources: Mapping[str, Source], row: int
) -> _Galaxy:
    """Read what was fitted of a row, if it is there."""
    if "feedme" in results.table.colnames:
        cutout = reader_of_run(results)(row)
        options = _options_of_file(results, row, options)
        missing = "" if cutout is not None else "the files it names cannot be read"
        return _Galaxy(results, row, None if cutout is None else stack([cutout]), options, missing)
    source = sources.get(str(results.table["id"][row]))
    if source is None:
        missing = "it is not among the cutouts of --input" if sources else "--input was not given"
        return _Galaxy(results, row, None, options, missing)
    try:
        cutout = read_cutout(source, make(ReadOptions, results.settings.get("read", {}), "read"))
    except Exception as error:
        missing = f"it cannot be read: {' '.join(str(error).split())[:200]}"
        return _Galaxy(results, row, None, options, missing)
    if cutout.mask.all():
        return _Galaxy(results, row, None, options, "no pixel is left unmasked")
    return _Galaxy(results, row, stack([cutout]), options)


def _fit_figure(galaxy: _Galaxy) -> Figure | str:
    """Draw a galaxy as it was fitted; or why that cannot be."""
    if not galaxy.is_fit:
        return "the run made no fits"
    if galaxy.cutouts is not None:
        return plot_galaxy(picture_of_cutout(galaxy.values, galaxy.cutouts, galaxy.options))
    block = read_block(galaxy.results.path / MODELS, galaxy.id)
    if block is None:
        return _why_no_pixels(galaxy)
    return plot_galaxy(picture_of_block(galaxy.values, block, galaxy.options))


def _why_no_pixels(galaxy: _Galaxy) -> str:
    """What the row says of a galaxy without a fit; else what would give its pixels."""
    if not np.isfinite(values_of(galaxy.values, galaxy.options)).any():
        reason = notes_of(galaxy.values) or galaxy.missing
        return f"it has no fit{_flags(galaxy)}: {reason}"
    return f"no pixels ({galaxy.missing}) and no saved model{_flags(galaxy)}"


def _flags(galaxy: _Galaxy) -> str:
    """The flags of a row behind a reason; nothing where there are none."""
    flags = int(galaxy.values["flags"])
    names = ", ".join(str(flag.name) for flag in Flag if flags & flag)
    return f" [{names}]" if names else ""


def _corner(galaxy: _Galaxy, true: Table | None) -> Figure | str:
    """Draw the posterior over the fit's Gaussian and the network's draws; or say why not."""
    names = galaxy.results.drawn
    if not names:
        return "no draws were saved"
    samples, weights = galaxy.results.draws(galaxy.row)
    if len(samples) < 2:
        return "it has no draws"
    label = galaxy.results.settings.get("run", {}).get("uncertainty", "posterior")
    layers: list[Layer] = [DrawsLayer(label, samples, weights)]
    if galaxy.is_fit and galaxy.cutouts is not None and galaxy.options.space.names == names:
        run = galaxy.results.settings.get("run", {})
        theta = values_of(galaxy.values, galaxy.options)
        below = network_layers(galaxy.cutouts, galaxy.options, run)
        layers = [*below, laplace_layer(theta, galaxy.cutouts, galaxy.options), *layers]
    known = {}
    if true is not None:
        found = true[np.asarray(true["id"]).astype(str) == galaxy.id]
        known = {n: float(found[n][0]) for n in names if len(found) and n in true.colnames}
    return plot_corner(names, layers, known, title=galaxy.id)


def _sources(input: str | Path | None, results: Results) -> dict[str, Source]:
    """The galaxies' files by their names in the table."""
    if input is None:
        return {}
    options: dict[str, Any] = results.settings.get("read", {})
    try:
        found = find_sources(input, make(ReadOptions, options, "the table's options"))
    except (ValueError, OSError) as error:
        raise UsageError(str(error)) from error
    return {name: found[i] for name, i in numbers_by_id(found.ids).items()}


def _truth(truth: str | Path | None, input: str | Path | None) -> Table | None:
    """The table of true parameters, if one was named or lies beside the cutouts."""
    if truth is None:
        beside = None if input is None else truth_beside(Path(input))
        return read_truth(beside) if beside is not None and beside.is_file() else None
    try:
        return read_truth(Path(truth))
    except ValueError as error:
        raise UsageError(str(error)) from error
