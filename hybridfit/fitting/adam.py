"""Adam on the same problem, the way GALMOSS fits: slow, kept as a check of the optimiser."""

from __future__ import annotations

import torch
from torch import Tensor

from hybridfit.fitting.lm import Evaluate, Minimum


def minimise_adam(
    evaluate: Evaluate,
    start: Tensor,
    steps: int = 400,
    rate: float = 0.05,
) -> Minimum:
    """Minimise B costs by Adam (Kingma & Ba 2015), the rate falling to zero along a cosine.

    Args:
        evaluate, start: as for `lm.minimise`.
        steps: evaluations a problem uses.
        rate: largest change of a whitened coordinates in one step.
    """
    point = torch.nn.Parameter(start.clone())
    optimiser = torch.optim.Adam([point], lr=rate, betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    rows = torch.arange(len(start), device=start.device)
    normal = evaluate(start, rows)
    for _ in range(steps):
        # the cost's scale differs by decades between galaxies; Adam does not care, NaN does
        point.grad = torch.nan_to_num(normal.gradient)
        optimiser.step()
        schedule.step()
        normal = evaluate(point.detach(), rows)
    count = torch.full((len(start),), steps + 1, dtype=torch.int64, device=start.device)
    scale = torch.diagonal(normal.hessian, dim1=1, dim2=2).clamp_min(1e-30).sqrt()
    converged = (normal.gradient.abs() / scale).amax(dim=1) < 0.3
    done = point.detach().clone()
    return Minimum(done, torch.zeros_like(done), normal, count, converged)
