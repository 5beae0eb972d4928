"""Fine-tuning from the command line, to a simulator or to labelled cutouts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from hybridfit.data.errors import usage_errors
from hybridfit.io.options import ReadOptions
from hybridfit.io.sources import find_sources
from hybridfit.io.truth_table import (
    read_truth,
    readable,
    true_parameters,
    truth_beside,
    truth_values,
)
from hybridfit.model.parameters import ParameterSpace
from hybridfit.model.prior import Prior
from hybridfit.npe.network import Estimator
from hybridfit.npe.posterior import PACKAGED, load_estimator
from hybridfit.npe.targets import parse_targets
from hybridfit.npe.weight_files import WEIGHTS, load_card, load_config, save_weights
from hybridfit.options.yaml_options import check_keys, load_yaml, nested
from hybridfit.pipeline.devices import check_threads
from hybridfit.simulation.options import FieldOptions
from hybridfit.training.data import TRAINING, VALIDATION, Shard, SimulatedSource, seed_of
from hybridfit.training.finetune import FinetuneOptions, FinetuneResult, finetune
from hybridfit.training.labelled_data import labelled_shard
from hybridfit.training.training_log import provenance

SECTIONS = ("finetune", "simulator", "prior", "read")
AT_ONCE = 256  # galaxies that are read and measured together
SHARD = 1000
HELD_OUT = 2000  # simulated galaxies at most


@dataclass(frozen=True)
class _Plan:
    """The sections of a fine-tuning's YAML file."""

    finetune: FinetuneOptions
    simulator: FieldOptions
    prior: Prior
    read: ReadOptions


def finetune_network(
    input: Path,
    out: Path,
    weights: Path | None = None,
    config: Path | None = None,
    truth: Path | None = None,
    device: str = "cpu",
    threads: int = 0,
    quiet: bool = False,
) -> FinetuneResult:
    """Adapt trained weights to a simulator or to labelled cutouts, and write them.

    Args:
        input: a YAML file with a section ``simulator``, or labelled cutouts: a directory or
            manifest as `hybridfit fit` reads them.
        out: folder for the new weights; must hold none.
        weights: folder of the trained ones; default the package's own.
        config: YAML file of options for labelled cutouts, sections finetune and read.
        truth: table with id and the true parameters (or ``finetune.targets``) of the labelled
            cutouts, x and y in pixels of the files; default truth.fits beside them.
        device: of the network.
        threads: CPU threads; 0 leaves torch's choice.
        quiet: without a progress bar.

    Raises:
        UsageError: if options, weights, data or ``out`` cannot be used.
    """
    with usage_errors():
        check_threads(threads, 0)
        if threads:
            torch.set_num_threads(threads)
        if (out / WEIGHTS).exists():
            raise ValueError(f"'{out}' holds weights already: give another folder")
        task = _task(input, weights, config, device)
        training, held_out = _galaxies(task, input, truth, device, quiet)
        say = (lambda _: None) if quiet else tqdm.write
        tuned = finetune(task.estimator, training, held_out, task.plan.finetune, say)
    card = _card(tuned, task.plan, len(training), len(held_out), weights or PACKAGED)
    save_weights(tuned.estimator, out, _settings(task, tuned), card)
    return tuned


@dataclass(frozen=True)
class _Task:
    """What is tuned, and to what.

    Args:
        plan: the options.
        estimator: the trained network.
        settings: of its weights' folder.
        simulated: whether the galaxies are simulated.
    """

    plan: _Plan
    estimator: Estimator
    settings: Mapping[str, Any]
    simulated: bool


def _task(input: Path, weights: Path | None, config: Path | None, device: str) -> _Task:
    """Read the options and the trained network; it keeps its targets if the options name none."""
    simulated = input.suffix.lower() in (".yaml", ".yml")
    plan = _plan(input if simulated else config)
    estimator = load_estimator(weights).to(device)
    settings = load_config(weights or PACKAGED)
    if settings.get("targets") and not plan.finetune.targets:
        plan = replace(plan, finetune=replace(plan.finetune, targets=settings["targets"]))
    if not (estimator.coordinates.model.is_one_sersic or plan.finetune.targets):
        raise ValueError(
            f"these weights are of the model {estimator.coordinates.model.name}: expected those of "
            "one Sersic profile, or columns to predict as finetune.targets"
        )
    if simulated and plan.finetune.targets:
        raise ValueError("finetune.targets need labelled cutouts: a simulator has none")
    return _Task(plan, estimator, settings, simulated)


def _galaxies(
    task: _Task, input: Path, truth: Path | None, device: str, quiet: bool
) -> tuple[Shard, Shard]:
    """Return the galaxies to train with, and those held out."""
    initial_estimator = task.estimator.initial_estimator
    if task.simulated:
        return _simulated(task.plan, initial_estimator, device, quiet)
    return _labelled(input, truth, task.plan, initial_estimator, quiet)


def _settings(task: _Task, tuned: FinetuneResult) -> dict[str, Any]:
    """Return the settings of the tuned network's weights."""
    plan = task.plan
    own = {"n_targets": tuned.estimator.n_targets, "targets": plan.finetune.targets}
    if task.simulated:
        own |= {"simulator": plan.simulator, "prior": plan.prior}
    return {**task.settings, **own}


def _plan(path: Path | None) -> _Plan:
    sections: Mapping[str, Any] = load_yaml(path) if path is not None else {}
    check_keys(sections, list(SECTIONS), str(path))
    given = {name: dict(sections.get(name) or {}) for name in SECTIONS}
    targets = parse_targets(given["finetune"].pop("targets", None) or ())
    options = nested(FinetuneOptions, given["finetune"], f"section 'finetune' of {path}")
    return _Plan(
        replace(options, targets=targets),
        nested(FieldOptions, given["simulator"], f"section 'simulator' of {path}"),
        Prior.from_mapping(given["prior"]),
        nested(ReadOptions, given["read"], f"section 'read' of {path}"),
    )


def _simulated(
    plan: _Plan, initial_estimator: Estimator | None, device: str, quiet: bool
) -> tuple[Shard, Shard]:
    options = plan.finetune
    source = SimulatedSource(
        plan.simulator, plan.prior, options.seed, SHARD, device, initial_estimator=initial_estimator
    )
    count = max(1, round(options.galaxies / SHARD))
    shards = [source(k) for k in tqdm(range(count), desc="simulating", disable=quiet)]
    held_out = max(100, min(HELD_OUT, int(options.galaxies * options.held_out)))
    aside = replace(source, size=held_out, stream=VALIDATION)
    return joined(shards), aside(0)


def _labelled(
    input: Path, truth: Path | None, plan: _Plan, initial_estimator: Estimator | None, quiet: bool
) -> tuple[Shard, Shard]:
    """Training and held-out galaxies of labelled cutouts, both in the order of their ids."""
    options = plan.finetune
    names = [c.name for c in options.targets] or list(ParameterSpace().names)
    optional = () if options.targets else ("sky",)  # it is drawn from the pixels then
    table = read_truth(truth or truth_beside(input), names, optional)
    row_of = {str(id): i for i, id in enumerate(table["id"])}
    sources = [source for source in find_sources(input, plan.read) if source.id in row_of]
    if not sources:
        raise ValueError(f"none of the ids in the truth table is among the galaxies of '{input}'")
    n_held = max(1, round(options.held_out * len(sources)))
    rng = np.random.default_rng([options.seed, len(sources)])
    is_held = np.zeros(len(sources), bool)
    is_held[rng.permutation(len(sources))[:n_held]] = True
    parts: dict[bool, list[Shard]] = {False: [], True: []}
    with tqdm(total=len(sources), desc="reading", disable=quiet) as bar:
        for held in (False, True):
            some = [s for s, h in zip(sources, is_held, strict=True) if h == held]
            for start in range(0, len(some), AT_ONCE):
                chunk = some[start : start + AT_ONCE]
                cutouts = readable(chunk, plan.read)
                bar.update(len(chunk))
                if cutouts is None:
                    continue
                rows = table[[row_of[id] for id in cutouts.id]]
                if options.targets:
                    values = truth_values(rows, names)
                else:
                    values = true_parameters(rows, cutouts, names)
                # skies that are drawn must differ from one chunk to the next
                seed = seed_of(options.seed, VALIDATION if held else TRAINING, start)
                shard = labelled_shard(cutouts, values, options.targets, seed, initial_estimator)
                parts[held].append(shard)
    if not (parts[False] and parts[True]):
        raise ValueError(f"hardly any galaxy of '{input}' can be read")
    return joined(parts[False]), joined(parts[True])


def joined(shards: Sequence[Shard]) -> Shard:
    """One shard of several."""
    return Shard(*(torch.cat([getattr(s, f.name) for s in shards]) for f in fields(Shard)))


def _card(
    tuned: FinetuneResult, plan: _Plan, training: int, held_out: int, weights: Path
) -> dict[str, Any]:
    return {
        "held_out_nll": {"before": tuned.before, "after": tuned.after, **tuned.stages},
        "galaxies": {"training": training, "held_out": held_out},
        "finetune": plan.finetune,
        **provenance(),
        "from": load_card(weights) or None,
    }
