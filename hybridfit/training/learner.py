"""The state of a training run, and one step of it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from hybridfit.npe.network import Estimator
from hybridfit.npe.symmetry import redrawn
from hybridfit.training.recipe import (
    TrainOptions,
    ema_decay,
    head_weight,
    image_share,
    learning_rate,
    seen_weight,
)
from hybridfit.training.replay_buffer import ReplayBuffer, batches_with_views


@dataclass
class Counters:
    """Progress of a run, over all its sessions."""

    step: int = 0  # batches
    images: int = 0  # uses of galaxies
    with_views: int = 0  # of them, those whose pixels were read
    distinct: int = 0  # galaxies taken
    minutes: float = 0.0
    dropped: int = 0  # galaxies left out of a batch because their loss was not finite
    skipped: int = 0  # batches without a usable gradient


@dataclass
class Learner:
    """The state of a training run: network, averaged weights, optimiser, counters."""

    model: Estimator
    ema: Estimator
    optimiser: torch.optim.Optimizer
    counters: Counters = field(default_factory=Counters)
    before: list[dict[str, Any]] = field(default_factory=list)  # counters of runs it started from

    def state(self) -> dict[str, Any]:
        """Return the state, as `checkpoint.save_checkpoint` takes it."""
        rng = {"cpu": torch.get_rng_state()}
        if torch.cuda.is_available():
            rng["cuda"] = torch.cuda.get_rng_state()
        return {
            "model": self.model.state_dict(),
            "ema": self.ema.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "counters": asdict(self.counters),
            "before": self.before,
            "rng": rng,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go back to a saved state."""
        self.model.load_state_dict(state["model"])
        self.ema.load_state_dict(state["ema"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.counters = Counters(**state["counters"])
        self.before = list(state.get("before", []))
        torch.set_rng_state(state["rng"]["cpu"].cpu())
        if "cuda" in state["rng"] and torch.cuda.is_available():
            torch.cuda.set_rng_state(state["rng"]["cuda"].cpu())


def make_optimiser(
    model: nn.Module, learning_rate: float, weight_decay: float
) -> torch.optim.Optimizer:
    """AdamW with weight decay on matrices only; scales and offsets have a level of their own."""
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=learning_rate, betas=(0.9, 0.98), fused=True)


def clipped_step(
    model: nn.Module, optimiser: torch.optim.Optimizer, loss: Tensor, clip: float
) -> bool:
    """Take a step along the gradient of ``loss``, cut to the norm ``clip``; False if not finite."""
    optimiser.zero_grad(set_to_none=True)
    torch.autograd.backward(loss)
    norm = nn.utils.clip_grad_norm_([p for p in model.parameters() if p.requires_grad], clip)
    if not torch.isfinite(norm):
        return False
    optimiser.step()
    return True


def step(
    learner: Learner, buffer: ReplayBuffer, options: TrainOptions, progress: float
) -> tuple[bool, Tensor]:
    """One batch: loss, gradient, new weights and their average.

    Returns:
        Whether the gradient was finite, and the sums (nll, head, galaxies) (3,) for the log.
    """
    counters, model = learner.counters, learner.model
    with_views = batches_with_views(counters.step, image_share(progress, options))
    views, scalars, targets = _batch(learner, buffer, options, with_views)
    rate = learning_rate(counters.step, progress, options)
    for group in learner.optimiser.param_groups:
        group["lr"] = rate
    model.train()
    losses = losses_of(model, views, scalars, targets, with_views, options.bf16)
    good = torch.isfinite(losses["nll"]) & torch.isfinite(losses["head"])
    n_good = int(good.sum())
    if n_good < len(good):
        # again without them: a NaN would reach every weight through its gradient, even if its
        # loss were multiplied by 0
        counters.dropped += len(good) - n_good
        kept = [value[good] for value in (views, scalars, targets)]
        if n_good:
            with torch.compiler.set_stance("force_eager"):  # kernels are those of whole batches
                losses = losses_of(model, kept[0], kept[1], kept[2], with_views, options.bf16)
    counters.step += 1
    counters.images += options.batch
    counters.with_views += options.batch if with_views else 0
    if not (
        n_good
        and clipped_step(model, learner.optimiser, _total(losses, progress, options), options.clip)
    ):
        counters.skipped += 1
        return False, torch.zeros(3)
    follow(learner.ema, model, ema_decay(counters.step, progress, options))
    with torch.no_grad():
        nll = soft_clip(losses["nll"], options.nll_clip)
        sums = torch.stack([nll.sum(), losses["head"].clamp_max(1e3).sum()])
    return True, torch.cat([sums.float().cpu(), torch.tensor([float(n_good)])])


def _batch(
    learner: Learner, buffer: ReplayBuffer, options: TrainOptions, with_views: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Views, scalars and targets of the next batch, mirrored and turned at random."""
    device = next(learner.model.parameters()).device
    number = learner.counters.step
    rows = buffer.draw(options.batch, [options.seed, 2, number])
    views, scalars, targets = (
        value.to(device, non_blocking=True) for value in buffer.batch(rows, with_views)
    )
    if targets.shape[1] == learner.model.coordinates.n:  # other parameters have no known symmetry
        generator = torch.Generator().manual_seed(options.seed * 1_000_003 + number)
        coordinates = learner.model.coordinates
        views, scalars, targets = redrawn(views, scalars, targets, generator, coordinates)
    return views, scalars, targets


def _total(losses: dict[str, Tensor], progress: float, options: TrainOptions) -> Tensor:
    """The loss that is minimised: of the flow, and of the auxiliary heads early in the run."""
    means = {name: soft_clip(loss, options.nll_clip).mean() for name, loss in losses.items()}
    loss, weight = means["nll"], head_weight(progress, options)
    if weight > 0:
        loss = loss + weight * means["head"]
    if "seen" in means:
        loss = loss + seen_weight(progress, options) * means["seen"]
    return loss


def losses_of(
    model: Estimator, views: Tensor, scalars: Tensor, targets: Tensor, with_views: bool, bf16: bool
) -> dict[str, Tensor]:
    """`Estimator.losses`, the backbone in bfloat16 where asked."""
    with torch.autocast(scalars.device.type, torch.bfloat16, enabled=bf16):
        return model.losses(views, scalars, targets, use_views=with_views)


def soft_clip(nll: Tensor, limit: float) -> Tensor:
    """The NLL itself below ``limit``, growing as a logarithm above it: smooth, slope 1 there."""
    over = (nll - limit).clamp_min(0.0)
    return nll - over + torch.log1p(over)


@torch.no_grad()
def follow(ema: nn.Module, model: nn.Module, decay: float) -> None:
    """Move the averaged weights towards the current ones; buffers are copied."""
    torch._foreach_lerp_(list(ema.parameters()), list(model.parameters()), 1 - decay)
    for mine, theirs in zip(ema.buffers(), model.buffers(), strict=True):
        mine.copy_(theirs)
