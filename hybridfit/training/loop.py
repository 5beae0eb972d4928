"""Training the posterior network on simulated galaxies: resumable, by images or by wall time."""

from __future__ import annotations

import copy
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from hybridfit.io.writing import write_text
from hybridfit.model.galaxy_model import GalaxyModel
from hybridfit.model.model_names import SERSIC_NAME
from hybridfit.npe.coordinates import FlowCoordinates
from hybridfit.npe.legacy_names import current_options
from hybridfit.npe.network import Estimator
from hybridfit.options.yaml_options import load_yaml, plain
from hybridfit.training import checkpoint
from hybridfit.training.data import VALIDATION, Producer, Shard, SimulatedSource, Source
from hybridfit.training.export import VALIDATION_FILE, export
from hybridfit.training.learner import Counters, Learner, make_optimiser, step
from hybridfit.training.recipe import (
    RECIPE,
    SECTIONS,
    Recipe,
    TrainOptions,
    learning_rate,
    progress_of,
)
from hybridfit.training.replay_buffer import ReplayBuffer, Supply
from hybridfit.training.training_log import TrainingLog
from hybridfit.training.validation import (
    Validation,
    cached_validation,
    nll_of,
    set_contexts,
    summary,
)
from hybridfit.training.warm_start import Weights, initial_estimator_of, load_start, read_start

LOG_SECONDS = 10.0
USUAL = 20_000  # galaxies from which the usual contexts are taken
MAX_SKIPPED = 200  # batches in a row without a usable gradient


def train(
    recipe: Recipe,
    out: str | Path,
    resume: bool = False,
    device: str = "cpu",
    quiet: bool = False,
    source: Source | None = None,
    start: str | Path | None = None,
) -> dict[str, float] | None:
    """Train a network, writing checkpoints, a log and at the end ``out/weights``.

    Args:
        recipe: what to simulate, the network and how to train it.
        out, resume, quiet: as of `hybridfit.training.train.train_network`.
        device: of the network; with ``train.workers`` 0 galaxies are simulated there too.
        source: gives the training galaxies instead of the simulator.
        start: folder of a run, or of weights, whose network this one begins with; the recipe's
            may have more layers. Not read with ``resume``.

    Returns:
        The last validation, or None if a signal stopped the run; it can be resumed.

    Raises:
        ValueError: if ``out`` holds a run and ``resume`` is False, or another network's run;
            if ``start`` does not fit the network, or one that refines has nothing to start from.
        FileNotFoundError: if there is nothing to resume, or to start from.
    """
    out, options, target = Path(out), recipe.train, torch.device(device)
    claim(out, recipe, resume)
    origin = _origin(out, resume, start, target)
    simulated = _source(recipe, initial_estimator_of(recipe, origin.weights), target)
    validation = _validation(recipe, out, simulated)
    first = origin.distinct // options.shard
    with Producer(source or simulated, first, options.workers) as producer, _signals() as stopped:
        supply = _filled_supply(recipe, producer, first, origin, target)
        learner = _learner(recipe, supply, origin.state, origin.warm_start, validation, target)
        values = _session(recipe, out, learner, supply, validation, stopped, quiet)
    if values is not None:
        export(recipe, learner.ema, learner.counters, values, out / "weights", learner.before)
    return values


@dataclass(frozen=True)
class _Origin:
    """What a run begins with: a checkpoint's state, other weights, or nothing."""

    state: dict[str, Any] | None = None
    warm_start: tuple[Weights, list[dict[str, Any]]] | None = None

    @property
    def weights(self) -> Weights | None:
        """Of the network as it is known, if at all."""
        if self.state:
            return self.state["ema"]
        return self.warm_start[0] if self.warm_start else None

    @property
    def distinct(self) -> int:
        """How many different galaxies were learned from so far."""
        return self.state["counters"]["distinct"] if self.state else 0

    def is_complete(self, options: TrainOptions) -> bool:
        """Whether it is a checkpoint at which training had ended."""
        return self.state is not None and _is_complete(Counters(**self.state["counters"]), options)


def _origin(out: Path, resume: bool, start: str | Path | None, device: torch.device) -> _Origin:
    """Read the last checkpoint, or the weights to begin with."""
    if resume:
        return _Origin(state=checkpoint.load_checkpoint(out, device))
    return _Origin(warm_start=None if start is None else read_start(start))


def _validation(recipe: Recipe, out: Path, source: SimulatedSource) -> Validation:
    """Return the galaxies that the run is validated with, kept in its folder."""
    options = recipe.train
    aside = replace(source, size=options.validation, stream=VALIDATION)
    return cached_validation(out / VALIDATION_FILE, aside, options.validation_limit)


def _filled_supply(
    recipe: Recipe, producer: Producer, first: int, origin: _Origin, device: torch.device
) -> Supply:
    """Return a supply of galaxies with enough of them to begin; ``first`` counts shards."""
    options = recipe.train
    buffer = ReplayBuffer(options.memory_gb, device if options.workers == 0 else "cpu")
    supply = Supply(producer, buffer, options.epochs_per_image, options.reuse_max)
    supply.distinct = first * options.shard
    if not origin.is_complete(options):
        supply.fill(options.whitening)
    return supply


def _session(
    recipe: Recipe,
    out: Path,
    learner: Learner,
    supply: Supply,
    validation: Validation,
    stopped: Callable[[], bool],
    quiet: bool,
) -> dict[str, float] | None:
    """Train to the end and return the last validation; None if a signal came before."""
    options = recipe.train
    if options.compile:
        learner.model.compile_backbone()
    with TrainingLog(out, learner.counters.step, options.tensorboard, quiet) as log:
        run = TrainingRun(recipe, out, learner, supply, validation, log)
        if not run.loop(stopped):
            return None
        values = run.validate()
        set_contexts(learner.ema, typical_galaxies(supply.buffer, validation))
    return values


def _source(
    recipe: Recipe, initial_estimator: Estimator | None, device: torch.device
) -> SimulatedSource:
    """The simulator of the training galaxies, on the network's device where it runs here."""
    here = recipe.train.workers == 0  # simulate in this process, on its device
    if initial_estimator is not None and here:
        initial_estimator = initial_estimator.to(device)
    return SimulatedSource(
        recipe.simulator,
        recipe.prior,
        recipe.train.seed,
        recipe.train.shard,
        str(device) if here else "cpu",
        with_views=max(recipe.train.image_share) > 0,
        initial_estimator=initial_estimator,
        model=GalaxyModel.named(recipe.model),
    )


def typical_galaxies(buffer: ReplayBuffer, validation: Validation) -> Shard:
    """Return galaxies that define the usual contexts: of the buffer, or of the validation."""
    return buffer.contents()[slice(0, USUAL)] if len(buffer) else validation.galaxies


def claim(out: Path, recipe: Recipe, resume: bool) -> None:
    """Check that ``out`` belongs to this recipe, and write the recipe down."""
    found = checkpoint.checkpoints(out)
    if found and not resume:
        raise ValueError(
            f"'{out}' holds a run with {found[-1].name}: give --resume to go on with it, or "
            "another folder"
        )
    if resume and not found:
        checkpoint.load_checkpoint(out)  # says what is missing
    out.mkdir(parents=True, exist_ok=True)
    path, mine = out / RECIPE, recipe.to_mapping()
    if resume and path.is_file():
        theirs = load_yaml(path)
        if (known := theirs.get("model", SERSIC_NAME)) != recipe.model:
            raise ValueError(
                f"model is {recipe.model}, and was {known} in the run in '{out}': resume with the "
                "same one"
            )
        for name in ("simulator", "prior", "network"):
            section = theirs.get(name)
            if name == "network" and isinstance(section, dict):
                section = current_options(section)
            if name != "prior" and isinstance(section, dict):  # options of later versions
                section = {**plain(SECTIONS[name]()), **section}
            if section != plain(mine[name]):
                raise ValueError(
                    f"section '{name}' differs from that of the run in '{out}' ({RECIPE}): "
                    "resume with the same one; only the section train may change"
                )
        for name in ("seed", "shard"):
            if theirs["train"].get(name) != mine["train"][name]:
                raise ValueError(
                    f"train.{name} is {mine['train'][name]}, and was {theirs['train'].get(name)} "
                    f"in the run in '{out}': resume with the same one"
                )
    if not resume:  # of a run that ended before its first checkpoint, perhaps of another recipe
        (out / VALIDATION_FILE).unlink(missing_ok=True)
    text = yaml.safe_dump(mine, sort_keys=False)
    write_text(path, text)


def _learner(
    recipe: Recipe,
    supply: Supply,
    state: dict[str, Any] | None,
    warm_start: tuple[Weights, list[dict[str, Any]]] | None,
    validation: Validation,
    device: torch.device,
) -> Learner:
    torch.manual_seed(recipe.train.seed)
    shapes, network = validation.galaxies, recipe.network
    if state or warm_start:  # what a hub has for a backbone would be overwritten at once
        network = replace(network, pretrained=False)
    coordinates = FlowCoordinates(GalaxyModel.named(recipe.model))
    sizes = shapes.scalars.shape[1], shapes.targets.shape[1]
    model = Estimator(network, *sizes, coordinates)
    if state is None:
        held = supply.buffer.contents()
        model.set_whitening(held.scalars.cpu(), held.targets.cpu())
    if warm_start is not None:
        load_start(model, warm_start[0])
    model = model.to(device)
    ema = copy.deepcopy(model).requires_grad_(False).eval()
    optimiser = make_optimiser(model, recipe.train.learning_rate, recipe.train.weight_decay)
    learner = Learner(model, ema, optimiser, before=warm_start[1] if warm_start else [])
    if state is not None:
        learner.restore(state)
    learner.counters.distinct = supply.distinct
    return learner


def _is_complete(counters: Counters, options: TrainOptions) -> bool:
    return progress_of(counters.images, counters.minutes, options) >= 1


@dataclass
class TrainingRun:
    """One session of a training run, from its start or last checkpoint."""

    recipe: Recipe
    out: Path
    learner: Learner
    supply: Supply
    validation: Validation
    log: TrainingLog
    best: str = ""  # the last validation, in words

    def loop(self, stopped: Callable[[], bool]) -> bool:
        """Train until the run is complete (True) or a signal came (False), then save."""
        options, counters = self.recipe.train, self.learner.counters
        before, started = counters.minutes, time.monotonic()
        saved = validated = logged = started
        totals, images, skipped = torch.zeros(3), counters.images, 0
        while not _is_complete(counters, options) and not stopped():
            progress = progress_of(counters.images, counters.minutes, options)
            usable, sums = self._step(progress)
            totals += sums
            skipped = 0 if usable else skipped + 1
            if skipped > MAX_SKIPPED:
                raise RuntimeError(
                    f"{skipped} batches in a row gave no finite gradient: lower "
                    "train.learning_rate, and resume from the last checkpoint"
                )
            now = time.monotonic()
            counters.minutes = before + (now - started) / 60
            if now - logged > LOG_SECONDS:
                self._log(progress, totals, (counters.images - images) / (now - logged))
                totals, images, logged = torch.zeros(3), counters.images, now
            if now - validated > 60 * options.validate_minutes:
                self.validate()
                validated = time.monotonic()
            if now - saved > 60 * options.checkpoint_minutes:
                self.save()
                saved = time.monotonic()
        self.save()
        return not stopped() or _is_complete(counters, options)

    def _step(self, progress: float) -> tuple[bool, Tensor]:
        """Refill the buffer and learn one batch, see `step`."""
        counters = self.learner.counters
        self.supply.refill(counters.images)
        counters.distinct = self.supply.distinct
        return step(self.learner, self.supply.buffer, self.recipe.train, progress)

    def save(self) -> None:
        """Write a checkpoint."""
        checkpoint.save_checkpoint(self.out, self.learner.counters.step, self.learner.state())

    def _log(self, progress: float, totals: Tensor, rate: float) -> None:
        counters, options = self.learner.counters, self.recipe.train
        nll, head, count = totals.tolist()
        values = {
            **asdict(counters),
            "progress": progress,
            "rate": rate,
            "learning_rate": learning_rate(counters.step, progress, options),
            "nll": nll / max(count, 1),
            "head": head / max(count, 1),
        }
        del values["step"]
        self.log.write("train", counters.step, values)
        self.log.show(
            progress,
            f"{counters.images:,} images, {rate:.0f}/s, nll {nll / max(count, 1):.2f}{self.best}",
        )

    def validate(self) -> dict[str, float]:
        """NLL of the averaged weights on the validation galaxies, with and without views."""
        ema, galaxies = self.learner.ema, self.validation.galaxies
        counters = self.learner.counters
        progress = {"images": counters.images, "minutes": counters.minutes}
        scalars = summary(nll_of(ema, galaxies, False), self.validation)
        self.log.write("validation_scalars", counters.step, {**progress, **scalars})
        values = dict(scalars)
        if galaxies.views.shape[1]:
            values = summary(nll_of(ema, galaxies), self.validation)
        values["scalars_only"] = scalars["all"]
        values["prior"] = self.validation.prior
        self.log.write("validation", counters.step, {**progress, **values})
        gap = f", {values['above_limit']:+.2f} of limit" if "above_limit" in values else ""
        self.best = f", validation {values['all']:.2f}{gap}"
        self.log.say(
            f"{counters.images:,} images, {counters.minutes:.1f} min: validation NLL "
            f"{values['all']:.3f} (scalars alone {scalars['all']:.3f}){gap}"
        )
        return values


@contextmanager
def _signals() -> Iterator[Callable[[], bool]]:
    """Note SIGTERM and SIGINT as a request to stop; a second SIGINT stops at once."""
    seen: list[int] = []

    def note(number: int, _: Any) -> None:
        if seen and number == signal.SIGINT:
            raise KeyboardInterrupt
        seen.append(number)

    wanted = (signal.SIGTERM, signal.SIGINT)
    try:
        old = {number: signal.signal(number, note) for number in wanted}
    except ValueError:  # not in the main thread
        yield lambda: False
        return
    try:
        yield lambda: bool(seen)
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
