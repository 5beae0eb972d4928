"""Fits that stay within the ranges of constraint files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from hybridfit.data.cutouts import Cutouts
from hybridfit.data.fit import Fit
from hybridfit.data.flags import Flag
from hybridfit.data.positions import in_cutout
from hybridfit.fitting.fit import fit_cutouts
from hybridfit.fitting.fixed import Given
from hybridfit.fitting.options import FitOptions
from hybridfit.pipeline.galfit.tasks import Task, space_of

ROUNDS = 5  # fits in which values that leave their range are held at its limit


def given_limits(batch: Sequence[Task], origin: Tensor) -> tuple[Tensor, Tensor]:
    """Lower and upper limits (B, Q) of the tasks' values, in cutout pixels."""
    pair = [[getattr(task, name) for task in batch] for name in ("low", "high")]
    low, high = (torch.tensor(values, dtype=torch.float64) for values in pair)
    names = space_of(batch[0].n_components).names
    return in_cutout(low, names, origin), in_cutout(high, names, origin)


def fit_within(
    cutouts: Cutouts,
    options: FitOptions,
    given: Given,
    limits: tuple[Tensor, Tensor],
    device: torch.device,
    compile: bool,
) -> Fit:
    """Fit with values kept within limits: what would leave them is held there, and told so.

    The active-set method, one value a round, the farthest out first; it is never let go again.
    """
    fit = fit_cutouts(cutouts, options, device, compile, given=given)
    low, high = limits
    for _ in range(ROUNDS):
        out = torch.maximum(low - fit.theta, fit.theta - high) / fit.error.clamp_min(1e-12)
        out = torch.where(given.held | ~torch.isfinite(out), -torch.inf, out)
        worst, column = out.max(dim=1)
        rows = (worst > 0).nonzero()[:, 0]
        if len(rows) == 0:
            break
        at, theta, held = column[rows], given.theta.clone(), given.held.clone()
        theta[rows] = torch.where(torch.isfinite(fit.theta[rows]), fit.theta[rows], theta[rows])
        value = theta[rows, at]
        moved = value.clamp(low[rows, at], high[rows, at]) - value
        # what moves together is moved, and held, together
        together = given.leader[rows] == given.leader[rows, at][:, None]
        theta[rows] += together * moved[:, None]
        held[rows] |= together
        given = replace(given, theta=theta, held=held)
        again = fit_cutouts(cutouts[rows.tolist()], options, device, compile, given=given[rows])
        fit = _put(fit, rows, replace(again, flags=again.flags | int(Flag.AT_LIMIT)))
    return fit


def _put(fit: Fit, rows: Tensor, other: Fit) -> Fit:
    """The fit with ``other`` in its ``rows``."""
    names = ("theta", "covariance", "chi2", "dof", "n_iter", "flags")
    return replace(
        fit, **{n: getattr(fit, n).index_copy(0, rows, getattr(other, n)) for n in names}
    )
