"""Fine-tuning a trained network to other data in stages: the flow, the head before it, all.

Little data must not spoil what much data taught. So the flow alone learns first, on contexts as
they are; then the MLP that makes the contexts; then the backbone too, each slower than the last.
Held-out galaxies decide when a stage ends, and the best weights of all stages are kept.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from hybridfit.npe.coordinates import FlowCoordinates
from hybridfit.npe.network import Estimator
from hybridfit.npe.symmetry import redrawn
from hybridfit.npe.targets import TargetColumn
from hybridfit.options.checks import check_fields
from hybridfit.options.metadata import option
from hybridfit.training.data import Shard, in_parts
from hybridfit.training.learner import clipped_step, follow, make_optimiser, soft_clip
from hybridfit.training.validation import (
    AT_ONCE,
    contexts_of,
    inputs_of_initial,
    nll_of,
    set_contexts,
)

CONTEXT = ("entry", "blocks", "corrections", "exit")
STAGES: dict[str, tuple[str, ...]] = {
    "flow": ("flow",),
    "head": ("flow", *CONTEXT),
    "all": ("flow", *CONTEXT, "backbone", "place", "seen_norm"),
}

COPIES, ENOUGH = 4, 20_000  # of each galaxy, and contexts in all, for the flow's stage
USUAL = 0.999  # of held-out galaxies that count as usual


@dataclass(frozen=True)
class FinetuneOptions:
    """How a trained network is adapted; a tuple has one entry for each stage."""

    stages: tuple[str, ...] = option(
        ("flow", "head", "all"),
        help="what is trained in each stage: the flow, the layers before it too (head), or all",
    )
    shares: tuple[float, ...] = option(
        (0.5, 0.3, 0.2), help="fraction of the images for each stage"
    )
    learning_rates: tuple[float, ...] = option(
        (1e-3, 3e-4, 1e-4), help="learning rate of each stage", above=0
    )
    images: int = option(60_000, help="number of uses of galaxies in all stages", above=0)
    batch: int = option(64, help="galaxies of a batch", above=0)
    held_out: float = option(
        0.1,
        help="fraction of the galaxies that is held out, and decides when to stop",
        above=0,
        below=1,
    )
    validations: int = option(10, help="validations in each stage", above=0)
    patience: int = option(3, help="validations without a gain that end a stage", above=0)
    galaxies: int = option(
        20_000, help="galaxies to simulate, where the data are a simulator's", above=0
    )
    warm_up: int = option(50, help="batches of each stage over which the learning rate rises")
    weight_decay: float = option(0.01, help="weight decay of matrices")
    clip: float = option(5.0, help="largest norm of the gradient")
    nll_clip: float = option(
        30.0, help="loss of a galaxy beyond which it grows as a logarithm only", unit="nats"
    )
    ema: float = option(0.99, help="decay of the averaged weights", low=0, high=1)
    seed: int = option(0, help="seed of the random numbers")
    targets: tuple[TargetColumn, ...] = option(
        (), help="columns of the truth table to predict in place of the Sersic parameters"
    )

    def __post_init__(self) -> None:
        check_fields(self, "finetune")
        if not len(self.stages) == len(self.shares) == len(self.learning_rates) >= 1:
            raise ValueError(
                "expected one share and one learning rate for each of finetune.stages "
                f"{self.stages}, got {self.shares} and {self.learning_rates}"
            )
        if unknown := [name for name in self.stages if name not in STAGES]:
            raise ValueError(f"unknown stage '{unknown[0]}', expected {', '.join(STAGES)}")


@dataclass(frozen=True)
class FinetuneResult:
    """A fine-tuned network and its loss on held-out galaxies.

    Args:
        estimator: with the best weights.
        before: mean NLL of the held-out galaxies at the start; None for other parameters.
        after: the same of the result.
        stages: the best NLL up to the end of each stage.
    """

    estimator: Estimator
    before: float | None
    after: float
    stages: dict[str, float]


def finetune(
    estimator: Estimator,
    training: Shard,
    held_out: Shard,
    options: FinetuneOptions = FinetuneOptions(),
    say: Callable[[str], None] = lambda text: None,
) -> FinetuneResult:
    """Adapt a trained network to other galaxies; the given one is left as it is.

    Args:
        estimator: a trained network.
        training, held_out: galaxies that differ; those with targets that are not finite are
            left out. With ``options.targets`` these are other parameters, for which a new flow
            is made.
        options: see `FinetuneOptions`.
        say: is called with a line of text on each stage.

    Raises:
        ValueError: if too few galaxies are left, or the targets do not fit the network.
    """
    training, held_out = _enough(usable(training), usable(held_out), options.batch)
    torch.manual_seed(options.seed)
    model, before = _begin(estimator, training, held_out, options)
    if before is not None:
        say(f"held-out NLL {before:.3f} as it is")
    if (came := training.targets.shape[1]) != model.n_targets:
        raise ValueError(f"{came} targets, but the network has {model.n_targets}")
    best = _Best(model, before)
    reached: dict[str, float] = {}
    for k, name in enumerate(options.stages):
        model.load_state_dict(best.state)
        _stage(model, k, training, held_out, options, best)
        reached[name] = best.nll
        say(f"stage {name}: held-out NLL {best.nll:.3f}")
    model.load_state_dict(best.state)
    model.requires_grad_(True).eval()
    set_usual(model, training, held_out)
    return FinetuneResult(model, before, best.nll, reached)


def _begin(
    estimator: Estimator, training: Shard, held_out: Shard, options: FinetuneOptions
) -> tuple[Estimator, float | None]:
    """Return a copy with its NLL, or with a new flow for other targets, which has none yet."""
    if options.targets:
        return renewed(estimator, training, options.targets), None
    model = copy.deepcopy(estimator)
    return model, mean_nll(model, held_out)


def _enough(training: Shard, held_out: Shard, batch: int) -> tuple[Shard, Shard]:
    """Return the galaxies; raises ValueError if they are too few."""
    if len(training) < batch or len(held_out) < 10:
        raise ValueError(
            f"{len(training)} galaxies to train with and {len(held_out)} held out, expected "
            f"{batch} and 10 or more: some hundreds at least"
        )
    return training, held_out


def set_usual(model: Estimator, training: Shard, held_out: Shard) -> None:
    """Recompute the usual contexts and the out-of-distribution threshold for the new data.

    Few contexts in many dimensions lie nearer to their own mean, in units of their own
    covariance, than others of the same kind do: so the limit is what held-out galaxies need.
    """
    set_contexts(model, training)
    pairs = [(model, held_out)]
    if model.initial_estimator is not None:
        pairs.append(
            (model.initial_estimator, inputs_of_initial(held_out, model.initial_estimator))
        )
    for one, galaxies in pairs:
        far = one.distance(contexts_of(one, galaxies)).quantile(USUAL)
        one.distance_limit.copy_(torch.maximum(one.distance_limit, far))


def usable(galaxies: Shard) -> Shard:
    """Those whose targets are finite."""
    return galaxies[torch.isfinite(galaxies.targets).all(dim=1)]


def renewed(estimator: Estimator, galaxies: Shard, columns: tuple[TargetColumn, ...]) -> Estimator:
    """The same network up to its context, with a new flow for other parameters.

    One that predicts these already keeps its flow.
    """
    if estimator.target_columns == columns:
        return copy.deepcopy(estimator)
    options = replace(estimator.options, pretrained=False)
    sizes = estimator.n_scalars, galaxies.targets.shape[1]
    model = Estimator(options, *sizes, estimator.coordinates)
    fresh = ("flow.", "head.", "target_")
    old = {k: v for k, v in estimator.state_dict().items() if not k.startswith(fresh)}
    model.load_state_dict(old, strict=False)
    targets = galaxies.targets.double()
    model.target_columns = columns
    model.target_mean.copy_(targets.mean(dim=0))
    model.target_std.copy_(targets.std(dim=0).clamp_min(1e-6))
    return model.to(estimator.target_mean.device).eval()


def mean_nll(model: Estimator, galaxies: Shard) -> float:
    """Mean NLL of galaxies; single ones cannot count for more than 100 nats."""
    return float(nll_of(model, galaxies).mean())


class _Best:
    """The best weights so far."""

    def __init__(self, model: nn.Module, nll: float | None) -> None:
        self.nll = float("inf") if nll is None else nll
        self.state = copy.deepcopy(model.state_dict())

    def offer(self, model: nn.Module, nll: float) -> bool:
        """Take the weights if they are better."""
        if not nll < self.nll:
            return False
        self.nll, self.state = nll, copy.deepcopy(model.state_dict())
        return True


def _stage(
    model: Estimator,
    k: int,
    training: Shard,
    held_out: Shard,
    options: FinetuneOptions,
    best: _Best,
) -> None:
    """Train the modules of one stage until its share is used up or nothing is gained."""
    name = options.stages[k]
    _require_gradients(model, STAGES[name])
    fixed = _fixed_contexts(model, training, options) if name == "flow" else None
    count = len(training) if fixed is None else len(fixed[0])
    averaged = copy.deepcopy(model).requires_grad_(False).eval()
    optimiser = make_optimiser(model, options.learning_rates[k], options.weight_decay)
    steps = max(1, int(options.images * options.shares[k] / sum(options.shares)) // options.batch)
    every = max(1, steps // options.validations)
    rng = np.random.default_rng([options.seed, k])
    generator = torch.Generator().manual_seed(options.seed)
    misses = 0
    model.train()
    for step, rows in enumerate(_batches(count, options.batch, steps, rng)):
        rate = min((step + 1) / max(options.warm_up, 1), 1 - step / steps)
        for group in optimiser.param_groups:
            group["lr"] = options.learning_rates[k] * rate
        loss = _loss(model, training, fixed, rows, options, generator)
        clipped_step(model, optimiser, soft_clip(loss, options.nll_clip).mean(), options.clip)
        follow(averaged, model, min(options.ema, (1 + step) / (10 + step)))
        if (step + 1) % every == 0:
            gained = best.offer(averaged, mean_nll(averaged, held_out))
            misses = 0 if gained else misses + 1
            if misses >= options.patience:
                return


def _require_gradients(model: Estimator, trained: Sequence[str]) -> None:
    """Make the named modules and parameters the trainable ones."""
    for name, module in model.named_children():
        module.requires_grad_(name in trained)
    for name, parameter in model.named_parameters(recurse=False):
        parameter.requires_grad_(name in trained)


def _loss(
    model: Estimator,
    training: Shard,
    fixed: tuple[Tensor, Tensor] | None,
    rows: Tensor,
    options: FinetuneOptions,
    generator: torch.Generator,
) -> Tensor:
    """NLL (b,) of galaxies ``rows``, or of rows of ``fixed`` contexts and targets."""
    if fixed is not None:
        context, targets = (value[rows] for value in fixed)
        return -model.flow.log_prob(model.standardised(targets), context) - model.log_scale
    some = training[rows].to(model.target_mean.device)
    views, scalars, targets = _redrawn(some, options, generator, model.coordinates)
    # without the auxiliary losses, which have served their purpose
    return model.losses(views, scalars, targets)["nll"]


def _redrawn(
    galaxies: Shard,
    options: FinetuneOptions,
    generator: torch.Generator,
    coordinates: FlowCoordinates,
) -> tuple[Tensor, Tensor, Tensor]:
    """Views, scalars and targets, mirrored and turned at random; other parameters stay."""
    targets = galaxies.targets
    of_frame = targets.new_zeros(len(targets), coordinates.n) if options.targets else targets
    views, scalars, turned = redrawn(
        galaxies.views.float(), galaxies.scalars, of_frame, generator, coordinates
    )
    return views, scalars, targets if options.targets else turned


@torch.no_grad()
def _fixed_contexts(
    model: Estimator, training: Shard, options: FinetuneOptions
) -> tuple[Tensor, Tensor]:
    """Contexts and targets, each galaxy a few times if there are few of them."""
    device = model.target_mean.device
    generator = torch.Generator().manual_seed(options.seed)
    contexts, targets = [], []
    for _ in range(max(1, min(COPIES, ENOUGH // len(training)))):
        for part in in_parts(len(training), AT_ONCE):
            one = training[part].to(device)
            views, scalars, some = _redrawn(one, options, generator, model.coordinates)
            contexts.append(model.context(views, scalars).float())
            targets.append(some)
    return torch.cat(contexts), torch.cat(targets)


def _batches(n: int, batch: int, steps: int, rng: np.random.Generator) -> Sequence[Tensor]:
    """Rows of each batch: every galaxy once before any comes again."""
    per_pass = max(1, n // batch)
    batches: list[Tensor] = []
    while len(batches) < steps:
        order = torch.from_numpy(rng.permutation(n))
        batches += [order[i * batch : (i + 1) * batch] for i in range(per_pass)]
    return batches[:steps]
