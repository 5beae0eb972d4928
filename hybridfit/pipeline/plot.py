"""Pictures of a finished run: what was fitted, and the posteriors whose draws were saved."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from astropy.table import Row, Table
from numpy.typing import NDArray
from tqdm import tqdm

from hybridfit.data.cutouts import Cutouts
from hybridfit.data.errors import UsageError
from hybridfit.data.fit import Fit
from hybridfit.data.flags import Flag
from hybridfit.fitting.build_problem import prepared
from hybridfit.fitting.linearised import linearise, whitened_point
from hybridfit.fitting.options import FitOptions
from hybridfit.io.blocks import file_name, read_block
from hybridfit.io.options import ReadOptions
from hybridfit.io.read import stack
from hybridfit.io.read_cutout import read_cutout
from hybridfit.io.read_results import Results, read_results
from hybridfit.io.references.tables import read_table
from hybridfit.io.run_folder import MODELS
from hybridfit.io.sources import Source, find_sources
from hybridfit.io.truth_table import truth_beside
from hybridfit.io.writing import real_folder, write_figure
from hybridfit.model.parameters import ParameterSpace
from hybridfit.model.prior import Prior
from hybridfit.npe.posterior import predict_cutouts
from hybridfit.options.yaml_options import make
from hybridfit.pipeline.measure import model_images, starting_network
from hybridfit.pipeline.run_cutouts import reader_of_run
from hybridfit.plots import (
    LABELS,
    DrawsLayer,
    GaussianLayer,
    plot_corner,
    plot_residuals,
    plot_truth,
)
from hybridfit.plots.layers import Layer

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PLOTS = "plots"
N_FLOW = 1024  # draws of the network
DPI = 110
NOISE = 1.4826  # median absolute deviation to standard deviation


def plot_run(
    out: str | Path,
    ids: Sequence[str] = (),
    input: str | Path | None = None,
    truth: str | Path | None = None,
    limit: int = 12,
    quiet: bool = True,
    say: Callable[[str], None] = lambda text: None,
) -> list[Path]:
    """Draw pictures of a finished run's galaxies into ``out/plots``.

    For each galaxy ``<id>_fit.png`` (data, model, residual), of the cutouts if given, else of the
    blocks that ``--save-models`` left; and ``<id>_corner.png``, if its draws were saved: with the
    cutouts the network's posterior and the fit's Gaussian lie under them. With a truth table also
    ``truth.png``, fits against truths of the whole run.

    Args:
        out: folder of a finished ``fit`` or ``predict``.
        ids: galaxies; default the first of the table.
        input: what was fitted, see `hybridfit.io.read.find_sources`.
        truth: table with id and true parameters; default truth.fits beside ``input``.
        limit: how many galaxies, where no ids are given.
        quiet: without a progress bar.
        say: is told how many galaxies were drawn, and how to draw the others.

    Returns:
        The pictures' files.

    Raises:
        UsageError: if there is no finished run, no such galaxy, or nothing to draw.
    """
    results = read_results(out)
    rows = results.rows_of(ids) if ids else list(range(min(limit, len(results.table))))
    options = _options(results)
    sources = _sources(input, results)
    true = _truth(truth, input)
    folder = real_folder(results.path / PLOTS)
    files: list[Path] = []
    bare, failed = 0, []  # galaxies with neither a model nor draws, and what went wrong
    for row in tqdm(rows, unit=" galaxies", disable=True if quiet else None):
        galaxy = _galaxy(results, options, row, sources)
        try:
            made = _pictures(galaxy, true, folder)
            bare += not made
            files += made
        except UsageError:
            raise
        except Exception as error:  # one galaxy's numbers keep no other from its pictures
            failed.append(f"'{galaxy.id}': {' '.join(str(error).split())[:200]}")
    columns = ["id", "flags", *LABELS, *(f"{name}_err" for name in LABELS)]
    if true is not None and _has(results.table, columns) and _has(true, LABELS):
        files.append(folder / "truth.png")
        write_figure(files[-1], plot_truth(results.table[columns], true), DPI)
    if not files:
        raise UsageError(
            f"'{out}' holds neither models nor draws of these galaxies: pass --input CUTOUTS, or "
            "fit with --save-models or --save-samples"
        )
    say(_told(len(rows) - bare - len(failed), len(rows), bare, len(results.table), bool(ids)))
    for text in failed:
        say(f"could not be drawn: {text}")
    return files


def _pictures(galaxy: _Galaxy, true: Table | None, folder: Path) -> list[Path]:
    """Draw what there is to draw of one galaxy."""
    files = []
    for kind, figure in (("fit", _fit_figure(galaxy)), ("corner", _corner(galaxy, true))):
        if figure is not None:
            files.append(folder / f"{file_name(galaxy.id)}_{kind}.png")
            write_figure(files[-1], figure, DPI)
    return files


def _told(drawn: int, chosen: int, bare: int, total: int, named: bool) -> str:
    """How many galaxies were drawn, and how to draw the others."""
    text = f"{drawn} of {total} galaxies drawn"
    if bare:
        text += (
            f"; {bare} had neither a fit of pixels that could be read nor draws: their rows of the "
            "table say why, and --input CUTOUTS names what was fitted"
        )
    if chosen < total and not named:
        text += f"; the others: --limit {total}, or --id NAME for each"
    return text


def _has(table: Table, names: Iterable[str]) -> bool:
    return set(names) <= set(table.colnames)


@dataclass(frozen=True)
class _Galaxy:
    """A row of a run, and what was fitted if it can be read."""

    results: Results
    row: int
    cutouts: Cutouts | None
    options: FitOptions = FitOptions()

    @property
    def values(self) -> Row:
        return self.results.table[self.row]

    @property
    def id(self) -> str:
        return str(self.values["id"])

    @property
    def is_fit(self) -> bool:
        """Whether the row is of a fit, and not of the network alone."""
        table, names = self.results.table, self.options.space.names
        return _has(table, ("chi2", *names))

    def theta(self, origin: NDArray[np.float64]) -> NDArray[np.float64]:
        """(Q,) fitted parameters, in pixels of the stamp that begins at ``origin``."""
        names = self.options.space.names
        theta = np.array([float(np.ma.filled(self.values[name], np.nan)) for name in names])
        return theta - shift(names, origin)


def _options(results: Results) -> FitOptions:
    """What the galaxies were fitted with."""
    written = dict(results.settings.get("fit", {}))
    try:
        if "prior" in written:
            written["prior"] = Prior.from_mapping(written["prior"])
        return make(FitOptions, written, "the table's options")
    except (ValueError, TypeError) as error:
        raise UsageError(f"results in '{results.path}': {error}") from error


def _galaxy(
    results: Results, options: FitOptions, row: int, sources: Mapping[str, Source]
) -> _Galaxy:
    if "feedme" in results.table.colnames:
        stamp = reader_of_run(results)(row)
        return _Galaxy(results, row, None if stamp is None else stack([stamp]), options)
    source = sources.get(str(results.table["id"][row]))
    if source is None:
        return _Galaxy(results, row, None, options)
    try:
        stamp = read_cutout(source, make(ReadOptions, results.settings.get("read", {}), "read"))
    except Exception:
        return _Galaxy(results, row, None, options)  # its row has the reason
    return _Galaxy(results, row, None if stamp.mask.all() else stack([stamp]), options)


def _fit_figure(galaxy: _Galaxy) -> Figure | None:
    """Data, model and residual; None where there is no model."""
    if galaxy.cutouts is not None and galaxy.is_fit:
        cutouts = galaxy.cutouts
        height, width = (int(v) for v in cutouts.size[0])
        theta = torch.from_numpy(galaxy.theta(cutouts.origin[0].numpy()))
        model = model_images(theta[None], cutouts, galaxy.options)
        if not np.isfinite(model[:, :height, :width]).all():
            return None
        image, sigma, mask = (v.numpy() for v in (cutouts.image, cutouts.sigma, cutouts.mask))
        image, model, sigma, mask = (
            plane[:, :height, :width] for plane in (image, model, sigma, mask)
        )
        return plot_residuals(image, model, sigma, mask, [_title(galaxy, "")])
    found = read_block(galaxy.results.path / MODELS, galaxy.id)
    if found is None or not np.isfinite(found[1]).all():
        return None
    image, model, mask = found
    rest = (image - model)[~mask]
    noise = NOISE * float(np.median(np.abs(rest - np.median(rest)))) if rest.size else 1.0
    sigma = np.full_like(image, max(noise, 1e-30))
    title = _title(galaxy, "; sigma: scatter of the residual")
    return plot_residuals(image[None], model[None], sigma[None], mask[None], [title])


def _title(galaxy: _Galaxy, note: str) -> str:
    """Name, quality, chi2 and all flags."""
    values, parts = galaxy.values, []
    if "quality" in values.colnames:
        parts.append(str(values["quality"]))
    if "chi2" in values.colnames and values["dof"] > 0:
        parts.append(f"chi2/dof {values['chi2'] / values['dof']:.2f}")
    parts += [str(flag.name) for flag in Flag if int(values["flags"]) & flag]
    return f"{galaxy.id}: {', '.join(parts)}{note}"


def _corner(galaxy: _Galaxy, true: Table | None) -> Figure | None:
    """The posterior's draws over the fit's Gaussian and the network's draws."""
    names = galaxy.results.drawn
    if not names:
        return None
    samples, weights = galaxy.results.draws(galaxy.row)
    if len(samples) < 2:
        return None
    label = galaxy.results.settings.get("run", {}).get("uncertainty", "posterior")
    layers: list[Layer] = [DrawsLayer(label, samples, weights)]
    if galaxy.is_fit and galaxy.cutouts is not None and galaxy.options.space.names == names:
        layers = [*_flow_layer(galaxy, galaxy.cutouts), _laplace(galaxy, galaxy.cutouts), *layers]
    known = {}
    if true is not None:
        found = true[np.asarray(true["id"]).astype(str) == galaxy.id]
        known = {n: float(found[n][0]) for n in names if len(found) and n in true.colnames}
    return plot_corner(names, layers, known, title=galaxy.id)


def _flow_layer(galaxy: _Galaxy, cutouts: Cutouts) -> list[Layer]:
    """What the network made of the galaxy; nothing where it does not know these parameters."""
    run = galaxy.results.settings.get("run", {})
    start = run.get("start", "posterior")
    if galaxy.options.space.names != ParameterSpace().names or cutouts.psf is None:
        return []
    try:
        network = starting_network(start, run.get("weights"))
    except (OSError, ValueError) as error:
        raise UsageError(f"the run's network cannot be read: {error}") from error
    if network is None or network.target_columns:
        return []
    posterior = predict_cutouts(cutouts, network, N_FLOW)
    samples = posterior.samples[0].numpy()
    return [DrawsLayer("flow", samples + shift(posterior.space.names, cutouts.origin[0].numpy()))]


def _laplace(galaxy: _Galaxy, cutouts: Cutouts) -> Layer:
    """The Gaussian of the curvature at the fit, whatever errors the run quotes."""
    space = galaxy.options.space
    origin = cutouts.origin[0].numpy()
    theta = torch.from_numpy(galaxy.theta(origin))[None]
    nothing = torch.full((1, len(space.names), len(space.names)), torch.nan, dtype=torch.float64)
    zero = torch.zeros(1, dtype=torch.int64)
    fit = Fit(space, theta, nothing, nothing[:, 0, 0], zero, zero, zero)
    _, part, problem = next(prepared(cutouts, galaxy.options))
    with torch.inference_mode():
        about = linearise(problem, part, *whitened_point(fit, problem, part))
        covariance = about.to_physical @ about.covariance @ about.to_physical.mT
    mean = theta[0].numpy() + shift(space.names, origin)
    return GaussianLayer("Laplace", mean, covariance[0].numpy())


def shift(names: Sequence[str], origin: NDArray[np.float64]) -> NDArray[np.float64]:
    """(Q,) what leads from a stamp's pixels to those of the image it was cut from."""
    axes = {"x": 0, "y": 1}
    plain = [name.split("_")[0] for name in names]
    return np.array([origin[axes[name]] if name in axes else 0.0 for name in plain])


def _sources(input: str | Path | None, results: Results) -> dict[str, Source]:
    """The galaxies' files by their names in the table."""
    if input is None:
        return {}
    options: dict[str, Any] = results.settings.get("read", {})
    try:
        found = find_sources(input, make(ReadOptions, options, "the table's options"))
    except (ValueError, OSError) as error:
        raise UsageError(str(error)) from error
    ascii = [name.encode("ascii", "backslashreplace").decode() for name in found.ids]
    return {key: found[i] for i, name in enumerate(found.ids) for key in (name, ascii[i])}


def _truth(truth: str | Path | None, input: str | Path | None) -> Table | None:
    """The table of true parameters, if one was named or lies beside the cutouts."""
    if truth is None:
        beside = None if input is None else truth_beside(Path(input))
        return read_table(beside) if beside is not None and beside.is_file() else None
    if not Path(truth).is_file():
        raise UsageError(f"no truth table '{truth}'")
    table = read_table(Path(truth))
    if "id" not in table.colnames:
        raise UsageError(f"'{truth}' lacks the column 'id'")
    return table
