"""Batched Levenberg-Marquardt; it knows sums of squares and nothing of galaxies.

Each problem of the batch has its own damping, problems that have settled leave the batch, and
a cost that is not finite is never accepted.

Where parameters are correlated, noise and prior hold some of their combinations, and there the
curvature may be twice what Gauss-Newton takes it for: steps then overshoot to and fro along one
direction. For such problems the last step's change of the gradient corrects the Hessian along it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

SHORT = 8.0  # squared standard deviations: steps that are longer say nothing of the minimum
EXCESS = (-0.2, 4.0)  # allowed correction of the curvature, in units of Gauss-Newton's
# the quadratic model is trusted for the last step from farther off, in units of the tolerance,
# where its gain was as near to 1
FARTHER, TRUSTED = 4.0, 0.25


@dataclass(frozen=True)
class Normal:
    """The local quadratic model of b problems with P parameters.

    Args:
        cost: (b,) half of the sum of squares.
        gradient: (b, P) of the cost.
        hessian: (b, P, P) Gauss-Newton, positive semi-definite.
        carry: (b, ...) tensors that the caller wants back with the best point.
    """

    cost: Tensor
    gradient: Tensor
    hessian: Tensor
    carry: tuple[Tensor, ...]


@dataclass(frozen=True)
class LMOptions:
    """Settings of `minimise`.

    Args:
        max_iter: evaluations a problem may use.
        tolerance: a problem has converged when its Newton decrement g H^-1 g / 2, the fall of
            the cost that is left in a quadratic model, is below this. 0.005 is a tenth of the
            standard deviation; the last step is taken all the same, so what is left is far less.
        damping: initial factor on the Hessian's diagonal.
        max_step: longest change of one parameter in one step.
        correlated: whether to correct the Hessian along the last step, to reduce the damping
            slowly, and to stop earlier where the quadratic model holds.
    """

    max_iter: int = 40
    tolerance: float = 5e-3
    damping: float = 1e-2
    max_step: float = 1.5
    correlated: bool = False


@dataclass(frozen=True)
class Minimum:
    """Best points (B, P), the model there, and how each problem ended.

    ``last_step`` (B, P) is the small Newton step that was added to ``point`` at the end; the
    model's cost and derivatives are those before it.
    """

    point: Tensor
    last_step: Tensor
    normal: Normal
    n_iter: Tensor
    converged: Tensor


Evaluate = Callable[[Tensor, Tensor], Normal]


def minimise(evaluate: Evaluate, start: Tensor, options: LMOptions = LMOptions()) -> Minimum:
    """Minimise B independent sums of squares at once; return the best point found for each.

    Args:
        evaluate: takes points (b, P) and the rows (b,) of the batch they belong to; returns
            their `Normal`.
        start: (B, P) float64.
        options: see `LMOptions`.
    """
    n = len(start)
    rows = torch.arange(n, device=start.device)
    point = start.clone()
    best = _finite(evaluate(point, rows))
    damping = torch.full((n,), options.damping, dtype=start.dtype, device=start.device)
    n_iter = torch.ones(n, dtype=torch.int64, device=start.device)
    # a start that cannot be evaluated has nowhere to go, and has not converged
    usable = torch.isfinite(best.cost)
    converged = usable & (_decrement(best) < options.tolerance)
    active = rows[usable & ~converged]
    excess = torch.zeros_like(best.hessian) if options.correlated else None
    for _ in range(options.max_iter - 1):
        if len(active) == 0:
            break
        here = _corrected(_take(best, active), excess, active)
        step = _bounded_step(here, damping[active], options.max_step)
        trial = point[active] + step
        there = _finite(evaluate(trial, active))
        n_iter[active] += 1
        accepted, gain = _assessed(here, step, there)
        if excess is not None:
            excess[active] = _excess_curvature(here.gradient, step, there)
        good = active[accepted]
        point[good] = trial[accepted]
        best = _put(best, good, _take(there, accepted.nonzero()[:, 0]))
        damping[active] = _next_damping(damping[active], gain, accepted, options)
        left = _decrement(_corrected(_take(best, active), excess, active))
        settled = left < options.tolerance
        if options.correlated:
            trusted = accepted & ((gain - 1).abs() < TRUSTED)
            settled |= trusted & (left < FARTHER * options.tolerance)
        # no step is short enough to go down: the bottom, as far as rounding allows to see
        settled |= damping[active] > 1e6
        converged[active] = settled
        active = active[~settled]
    newton = _damped_step(_corrected(best, excess, rows), torch.zeros_like(damping))
    last = torch.where(converged[:, None], newton, 0.0)
    last = torch.where((last.abs().amax(dim=1) < 0.5)[:, None], last, 0.0)
    return Minimum(point + last, last, best, n_iter, converged)


def _finite(normal: Normal) -> Normal:
    """Cost infinity wherever anything is not finite, so that it is never the best."""
    fine = (
        torch.isfinite(normal.cost)
        & torch.isfinite(normal.gradient).all(dim=1)
        & torch.isfinite(normal.hessian).flatten(1).all(dim=1)
    )
    eye = torch.eye(normal.hessian.shape[-1], dtype=normal.hessian.dtype, device=fine.device)
    return Normal(
        torch.where(fine, normal.cost, torch.inf),
        torch.where(fine[:, None], normal.gradient, 0.0),
        torch.where(fine[:, None, None], normal.hessian, eye),
        normal.carry,
    )


def _bounded_step(normal: Normal, damping: Tensor, max_step: float) -> Tensor:
    """Return damped steps (b, P), shortened so that no parameter changes by more than allowed."""
    step = _damped_step(normal, damping)
    longest = step.abs().amax(dim=1, keepdim=True)
    return step * (max_step / longest.clamp_min(max_step))


def _assessed(here: Normal, step: Tensor, there: Normal) -> tuple[Tensor, Tensor]:
    """Return whether steps (b, P) are accepted (b,), and their gain (b,).

    The gain is the fall of the cost over the fall that the quadratic model predicts, -1 for a step
    that is not accepted.
    """
    curvature = torch.einsum("bi,bij,bj->b", step, here.hessian, step)
    predicted = -(here.gradient * step).sum(1) - 0.5 * curvature
    fall = here.cost - there.cost
    # rounding of the sums must not turn a good last step away
    noise = 1e-6 * here.cost.abs()
    accepted = torch.isfinite(there.cost) & (fall > -noise)
    return accepted, torch.where(accepted, fall / predicted.clamp_min(1e-30), -1.0)


def _next_damping(damping: Tensor, gain: Tensor, accepted: Tensor, options: LMOptions) -> Tensor:
    """Return less damping (b,) where the quadratic model holds, and more where it does not."""
    down = 0.3 if options.correlated else 0.1
    factor = torch.where(gain > 0.75, down, torch.where(gain > 0.25, 0.5, 4.0))
    factor = torch.where(accepted, factor, 8.0)
    return (damping * factor).clamp(1e-7, 1e8)


def _excess_curvature(gradient: Tensor, step: Tensor, there: Normal) -> Tensor:
    """Return the part of the Hessian (b, P, P) along a step that Gauss-Newton lacks.

    With H the Gauss-Newton Hessian, s the step and y the change of the gradient, it is
    ``(s y / s H s - 1) H s s^T H / s H s``.

    Args:
        gradient: (b, P) at the point that the step (b, P) starts from.
        step: (b, P).
        there: the model where it ends.
    """
    pull = (there.hessian @ step[:, :, None])[:, :, 0]
    length = (step * pull).sum(dim=1).clamp_min(1e-30)
    excess = ((there.gradient - gradient) * step).sum(dim=1) / length - 1
    usable = (length < SHORT) & (length > 1e-12) & torch.isfinite(there.cost)
    excess = torch.where(usable, excess.clamp(*EXCESS), 0.0)
    return (excess / length)[:, None, None] * pull[:, :, None] * pull[:, None, :]


def _corrected(normal: Normal, excess: Tensor | None, rows: Tensor) -> Normal:
    """Return the model of problems ``rows`` with what its Hessian lacks."""
    if excess is None:
        return normal
    return replace(normal, hessian=normal.hessian + excess[rows])


def _damped_step(normal: Normal, damping: Tensor) -> Tensor:
    """Solve (H + damping diag H) step = -g, scaled to a unit diagonal for stability."""
    scale = torch.diagonal(normal.hessian, dim1=1, dim2=2).clamp_min(1e-30).rsqrt()
    scaled = normal.hessian * scale[:, :, None] * scale[:, None, :]
    eye = torch.eye(scaled.shape[-1], dtype=scaled.dtype, device=scaled.device)
    matrix = scaled + (damping[:, None, None] + 1e-10) * eye
    factor, info = torch.linalg.cholesky_ex(matrix)
    # rounding can leave a hair of negative curvature: then a step along the gradient
    factor = torch.where((info > 0)[:, None, None], eye * 10.0, factor)
    right = -(normal.gradient * scale)[:, :, None]
    return torch.cholesky_solve(right, factor)[:, :, 0] * scale


def _decrement(normal: Normal) -> Tensor:
    step = _damped_step(normal, torch.zeros_like(normal.cost))
    return -0.5 * (normal.gradient * step).sum(dim=1)


def _take(normal: Normal, rows: Tensor) -> Normal:
    return Normal(
        normal.cost[rows],
        normal.gradient[rows],
        normal.hessian[rows],
        tuple(c[rows] for c in normal.carry),
    )


def _put(normal: Normal, rows: Tensor, new: Normal) -> Normal:
    def put(old: Tensor, value: Tensor) -> Tensor:
        return old.index_copy(0, rows, value)

    return Normal(
        put(normal.cost, new.cost),
        put(normal.gradient, new.gradient),
        put(normal.hessian, new.hessian),
        tuple(put(o, v) for o, v in zip(normal.carry, new.carry, strict=True)),
    )
