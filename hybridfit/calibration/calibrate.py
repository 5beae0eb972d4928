"""`hybridfit calibrate`: whether the network's posterior is calibrated, and how sharp it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from astropy.table import Table
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from hybridfit import plots
from hybridfit.calibration.coverage import Calibration, CalibrationOptions, calibrate
from hybridfit.calibration.cramer_rao import cramer_rao
from hybridfit.calibration.sbc_samples import SbcSamples
from hybridfit.calibration.table_columns import describe_galaxies
from hybridfit.calibration.tarp import MissingLibrary, tarp
from hybridfit.data.cutouts import Cutouts
from hybridfit.data.errors import UsageError, usage_errors
from hybridfit.data.samples import Posterior
from hybridfit.io.options import ReadOptions
from hybridfit.io.sources import find_sources
from hybridfit.io.truth_table import (
    read_truth,
    readable,
    true_parameters,
    truth_beside,
    truth_values,
)
from hybridfit.io.writing import write_figure, write_table
from hybridfit.model.parameters import ParameterSpace
from hybridfit.model.prior import Prior
from hybridfit.npe.network import Estimator
from hybridfit.npe.posterior import PACKAGED, load_estimator, predict_cutouts
from hybridfit.npe.weight_files import CONFIG
from hybridfit.options.yaml_options import check_keys, load_yaml, make
from hybridfit.pipeline.devices import usable_device
from hybridfit.rendering.render import render
from hybridfit.simulation.options import FieldOptions, Kind
from hybridfit.simulation.simulate import simulate_fields

AT_ONCE = 256  # galaxies per batch: limits memory
SECTIONS = ("simulator", "prior", "calibrate", "network", "train")  # the last two are not read


@dataclass(frozen=True)
class LabelledBatch:
    """Galaxies with their truth.

    Args:
        cutouts: B galaxies.
        theta: (B, 8) physical parameters in cutout pixels; unknown columns are NaN.
        snr: (B,) signal-to-noise ratios.
        kind: (B,) bits of `hybridfit.simulation.simulate.Kind`; 0 for files.
    """

    cutouts: Cutouts
    theta: Tensor
    snr: Tensor
    kind: Tensor


@dataclass(frozen=True)
class Report:
    """The result of `calibrate_network`.

    Args:
        calibration: statistics of all galaxies.
        tarp: see `hybridfit.calibration.tarp`; None if sbi is not installed.
        galaxies: truth, ranks, widths and number of rejected draws of each galaxy.
        notes: notes for the user on what was left out, and why.
    """

    calibration: Calibration
    tarp: Table | None
    galaxies: Table
    notes: tuple[str, ...]


def calibrate_network(
    out: Path,
    weights: Path | None = None,
    input: Path | None = None,
    config: Path | None = None,
    n: int = 2000,
    n_samples: int = 256,
    seed: int = 0,
    device: str = "cpu",
    quiet: bool = False,
) -> Report:
    """Test the posterior on simulated galaxies, or on labelled cutouts.

    Args:
        out: folder for calibration.ecsv, coverage.ecsv, ranks.ecsv, tarp.ecsv, galaxies.ecsv and
            their figures.
        weights: folder of the network; default: that of the package.
        input: cutouts as for `hybridfit fit`, with truth.fits beside them: id, the parameters in
            pixels of the files, and snr if known. None simulates galaxies.
        config: YAML file with the sections simulator, prior and calibrate (bins and targets, see
            `CalibrationOptions`), such as a training configuration. Default: the simulator and
            prior of the network's training.
        n: number of galaxies to simulate, or largest number to read.
        n_samples: draws per galaxy.
        seed: random seed of the simulation and of the draws.
        device: torch device of the network.
        quiet: no progress bar.

    Raises:
        UsageError: if the input, the configuration or the weights cannot be used.
    """
    task = _task(input, config, weights, n, seed, device)
    predict = partial(predict_cutouts, n_samples=n_samples, seed=seed, device=device)
    found = _all_figures(task, lambda cutouts: predict(cutouts, task.estimator), quiet)
    report = _report(found, task, seed)
    _write(report, out)
    return report


@dataclass(frozen=True)
class _Task:
    """The inputs of a calibration.

    Args:
        estimator: the network.
        prior: the prior of the galaxies.
        options: bins and targets.
        batches: the galaxies, ``n`` in total.
        input: path of the galaxies; None if they are simulated.
        notes: notes on them for the report.
    """

    estimator: Estimator
    prior: Prior
    options: CalibrationOptions
    batches: Iterator[LabelledBatch]
    n: int
    input: Path | None
    notes: tuple[str, ...]

    @property
    def space(self) -> ParameterSpace:
        """Return the tested parameters."""
        return ParameterSpace(prior=self.prior)


def _task(
    input: Path | None, config: Path | None, weights: Path | None, n: int, seed: int, device: str
) -> _Task:
    """Read the arguments of `calibrate_network`; raise UsageError if they are unusable."""
    with usage_errors():
        estimator = load_estimator(weights)
        if not (model := estimator.coordinates.model).is_one_sersic:
            raise ValueError(
                f"these weights are of the model {model.name}: expected those of one Sersic profile"
            )
        options, simulator, prior, notes = _options(config, weights)
        usable_device(device)
        if input is None:
            batches = simulated_batches(n, seed, simulator, prior)
        else:
            batches, n = labelled_batches(input, n)
    return _Task(estimator, prior, options, batches, n, input, tuple(notes))


def _all_figures(
    task: _Task, predict: Callable[[Cutouts], Posterior], quiet: bool
) -> dict[str, NDArray]:
    """Return the results of `_figures` for all galaxies; raise UsageError if none can be read."""
    parts: list[dict[str, NDArray]] = []
    with tqdm(total=task.n, unit=" galaxies", disable=quiet) as bar:
        for batch in task.batches:
            parts.append(_figures(batch, predict(batch.cutouts), task.space))
            bar.update(len(batch.cutouts))
    if not parts:
        raise UsageError(f"no galaxy of '{task.input}' can be read")
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _figures(
    batch: LabelledBatch, posterior: Posterior, space: ParameterSpace
) -> dict[str, NDArray]:
    """Return draws, truth and Cramer-Rao limit of a batch, by name."""
    known = batch.theta.clone()
    known[:, -1] = torch.nan_to_num(known[:, -1])  # the limit does not depend on the sky level
    covariance = cramer_rao(known, batch.cutouts, space)
    sigma = torch.diagonal(covariance, dim1=1, dim2=2).clamp_min(0).sqrt()
    values = {"limit": sigma, "samples": posterior.samples, "theta": batch.theta}
    values |= {"snr": batch.snr, "kind": batch.kind, "rejected": posterior.rejected}
    return {**{n: v.cpu().numpy() for n, v in values.items()}, "id": np.array(batch.cutouts.id)}


def simulated_batches(
    n: int, seed: int, simulator: FieldOptions, prior: Prior
) -> Iterator[LabelledBatch]:
    """Yield independent galaxies: shared renderings would invalidate the binomial errors."""
    simulator = replace(simulator, reuse=1)
    for k, first in enumerate(range(0, n, AT_ONCE)):
        # far from the seeds of training, which are small numbers
        state = int(np.random.SeedSequence([seed, k, 2018]).generate_state(1, np.uint64)[0]) >> 1
        simulated = simulate_fields(min(AT_ONCE, n - first), state, simulator, prior)
        ids = [f"{k}-{id}" for id in simulated.cutouts.id]  # draws depend on them
        yield LabelledBatch(
            replace(simulated.cutouts, id=ids), simulated.theta, simulated.snr, simulated.kind
        )


def labelled_batches(input: Path, n: int) -> tuple[Iterator[LabelledBatch], int]:
    """Return galaxies from files with a truth table, and their number.

    Raises:
        ValueError, OSError: if the table does not exist, or lacks columns or galaxies.
    """
    space = ParameterSpace()
    truth = read_truth(truth_beside(input), space.names, optional=("sky",))
    row_of = {str(id): i for i, id in enumerate(truth["id"])}
    # no cropping, no extra masks: the truth is in pixels of the files
    options = ReadOptions(crop="none")
    sources = [s for s in find_sources(input, options) if s.id in row_of][:n]
    if not sources:
        raise ValueError(f"no id of the truth table occurs among the galaxies of '{input}'")

    def batches() -> Iterator[LabelledBatch]:
        for first in range(0, len(sources), AT_ONCE):
            cutouts = readable(sources[first : first + AT_ONCE], options)
            if cutouts is None:
                continue
            rows = truth[[row_of[id] for id in cutouts.id]]
            theta = true_parameters(rows, cutouts, space.names)
            snr = truth_values(rows, ("snr",))[:, 0]
            snr = torch.where(torch.isfinite(snr), snr, signal_to_noise(theta, cutouts))
            yield LabelledBatch(cutouts, theta, snr, torch.zeros(len(theta), dtype=torch.int64))

    return batches(), len(sources)


def signal_to_noise(theta: Tensor, cutouts: Cutouts) -> Tensor:
    """Return the matched-filter S/N (B,) of the true galaxies, with the given noise maps."""
    flat = theta.clone()
    flat[:, -1] = 0.0
    image = render(flat, cutouts) / cutouts.sigma
    return image.masked_fill(cutouts.mask, 0.0).double().square().sum(dim=(1, 2)).sqrt()


def _options(
    config: Path | None, weights: Path | None
) -> tuple[CalibrationOptions, FieldOptions, Prior, list[str]]:
    """Return options, simulator and prior from the configuration or the training, and notes."""
    sections: dict[str, Any] = load_yaml(config) if config is not None else {}
    check_keys(sections, list(SECTIONS), str(config))
    trained = load_yaml((weights or PACKAGED) / CONFIG)
    simulator, prior = (
        dict(sections.get(name) or trained.get(name) or {}) for name in ("simulator", "prior")
    )
    notes = []
    folder = simulator.get("psf_files")
    if folder and not sections.get("simulator") and not Path(folder).is_dir():
        simulator["psf_files"] = ""  # the network was trained elsewhere
        notes.append(f"simulated without real PSFs: '{folder}', used in training, is not here")
    return (
        make(CalibrationOptions, sections.get("calibrate") or {}, "calibrate"),
        make(FieldOptions, simulator, "simulator"),
        Prior.from_mapping(prior),
        notes,
    )


def _report(found: dict[str, NDArray], task: _Task, seed: int) -> Report:
    """Run the diagnostics on what `_all_figures` returned."""
    names, options, notes = task.space.names, task.options, list(task.notes)
    if missing := task.n - len(found["id"]):
        notes.append(f"{missing} galaxies left out: they cannot be read")
    known = [j for j in range(len(names)) if np.isfinite(found["theta"][:, j]).any()]
    for j in set(range(len(names))) - set(known):
        notes.append(f"{names[j]} left out: its truth is not known")
    used = [names[j] for j in known]
    sbc = SbcSamples(used, found["samples"][:, :, known], found["theta"][:, known])
    result = calibrate(sbc, found["snr"], found["limit"][:, known], options, _groups(found["kind"]))
    try:
        curve = tarp(sbc, seed)
    except MissingLibrary as error:
        curve = None
        notes.append(str(error))
    if left_out := result.table.meta["left_out"]:
        notes.append(f"{left_out} galaxies left out: no draws or no truth")
    galaxies = Table({"id": found["id"], "snr": found["snr"], "kind": found["kind"]})
    galaxies["rejected"] = found["rejected"]
    for j, name in zip(known, used, strict=True):
        galaxies[name] = found["theta"][:, j]
    for k, name in enumerate(used):
        galaxies[f"{name}_rank"], galaxies[f"{name}_width"] = result.ranks[:, k], result.width[:, k]
    describe_galaxies(galaxies, used)
    share = float(found["rejected"].sum() / found["samples"][:, :, 0].size)
    result.table.meta["rejected_share"] = share
    return Report(result, curve, galaxies, tuple(notes))


def _groups(kind: NDArray[np.int64]) -> dict[str, NDArray[np.bool_]]:
    """Return the galaxies with each contaminant, and the clean ones."""
    if not kind.any():
        return {}
    bits = {str(bit.name).lower(): (kind & int(bit)) > 0 for bit in Kind if bit}
    return {"clean": kind == 0, **{name: mask for name, mask in bits.items() if mask.any()}}


def _write(report: Report, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    result, names = report.calibration, report.calibration.curve.colnames[2:]
    tables = {"calibration": result.table, "coverage": result.curve, "ranks": result.uniform}
    tables["galaxies"] = report.galaxies
    snr = np.asarray(report.galaxies["snr"])
    widths = {name: result.width[:, j] for j, name in enumerate(names)}
    figures = {
        "coverage": plots.plot_coverage(result.curve, result.table),
        "ranks": plots.plot_ranks(result.uniform),
        "widths": plots.plot_widths(snr, widths, result.table),
    }
    if report.tarp is not None:
        tables["tarp"], figures["tarp"] = report.tarp, plots.plot_tarp(report.tarp)
    for name, table in tables.items():
        write_table(out / f"{name}.ecsv", table)
    for name, figure in figures.items():
        write_figure(out / f"{name}.png", figure, dpi=130)


def format_summary(report: Report) -> str:
    """Return the main results as lines of text."""
    table = report.calibration.table
    names = [str(name) for name in report.calibration.curve.colnames[2:]]
    lines = [f"{table.meta['galaxies']} galaxies, {table.meta['rejected_share']:.2%} draws redrawn"]
    lines.append(" " * 14 + "".join(f"{name:>8}" for name in names))
    everyone = {row["parameter"]: row for row in table[table["bin"] == "all"]}
    for column, label in (("cover_68", "68 % cover"), ("cover_95", "95 % cover")):
        lines.append(f"{label:14}" + "".join(f"{everyone[k][column]:8.3f}" for k in names))
    lines.append(f"{'width / limit':14}" + "".join(f"{everyone[k]['width']:8.2f}" for k in names))
    for row in table[(table["bin"] == "snr") & (table["parameter"] == "all")]:
        lines.append(
            f"S/N {row['low']:g}-{row['high']:g}: median width over the limit "
            f"{row['width']:.2f} {row['verdict_width']}, coverage {row['cover_68']:.3f} "
            f"{row['cover_95']:.3f}"
        )
    failed = sum(int((table[c] == "fail").sum()) for c in ("verdict_cover", "verdict_width"))
    passed = sum(int((table[c] == "pass").sum()) for c in ("verdict_cover", "verdict_width"))
    lines.append(f"targets: {passed} met, {failed} missed")
    if report.tarp is not None:
        lines.append(f"TARP: p = {report.tarp.meta['p_value']:.2g}")
    return "\n".join([*lines, *report.notes])
