"""The batched Levenberg-Marquardt on problems whose answers are known, no galaxy among them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from hybridfit.fitting.adam import minimise_adam
from hybridfit.fitting.lm import LMOptions, Minimum, Normal, minimise

Residuals = Callable[[Tensor, Tensor], Tensor]


def least_squares(residuals: Residuals, seen: list[Tensor] | None = None):  # type: ignore[no-untyped-def]
    """Make an `Evaluate` of residuals (b, P), (b,) -> (b, R); the rows asked for go to ``seen``."""

    def evaluate(points: Tensor, rows: Tensor) -> Normal:
        if seen is not None:
            seen.append(rows.clone())
        r = residuals(points, rows)
        jacobian = torch.func.vmap(
            torch.func.jacfwd(lambda p, row: residuals(p[None], row[None])[0])
        )(points, rows)
        return Normal(
            0.5 * (r**2).sum(dim=1),
            torch.einsum("brp,br->bp", jacobian, r),
            jacobian.transpose(1, 2) @ jacobian,
            (points.clone(),),
        )

    return evaluate


def rosenbrock(points: Tensor, rows: Tensor) -> Tensor:
    """10 (y - x^2), 1 - x: the curved valley with its bottom at (1, 1)."""
    x, y = points.unbind(1)
    return torch.stack([10 * (y - x**2), 1 - x], dim=1)


def starts(n: int, p: int = 2, size: float = 2.0) -> Tensor:
    return size * (2 * torch.rand(n, p, generator=torch.Generator().manual_seed(0)) - 1).double()


@pytest.mark.parametrize("correlated", [False, True])
def test_rosenbrock(correlated: bool) -> None:
    tight = LMOptions(max_iter=200, tolerance=1e-16, correlated=correlated)
    minimum = minimise(least_squares(rosenbrock), starts(50), tight)
    assert minimum.converged.all()
    # a Newton decrement of 1e-16 in a valley whose floor has curvature 1
    torch.testing.assert_close(minimum.point, torch.ones(50, 2).double(), rtol=0, atol=1e-6)


def test_a_linear_problem_takes_two_evaluations() -> None:
    """One Gauss-Newton step is exact but for the damping, and the last step takes up that."""
    matrix = torch.randn(9, 3, generator=torch.Generator().manual_seed(1)).double()
    data = torch.randn(9, generator=torch.Generator().manual_seed(2)).double() * 0.3
    evaluate = least_squares(lambda p, _: p @ matrix.T - data)
    minimum = minimise(evaluate, starts(5, 3, 0.3))
    exact = torch.linalg.lstsq(matrix, data[:, None]).solution[:, 0]
    torch.testing.assert_close(minimum.point, exact.expand(5, 3), rtol=0, atol=1e-8)
    assert (minimum.n_iter == 2).all()


def test_a_batch_equals_a_loop() -> None:
    start = starts(20)
    together = minimise(least_squares(rosenbrock), start, LMOptions(max_iter=60))
    for i in range(20):
        alone = minimise(least_squares(rosenbrock), start[i : i + 1], LMOptions(max_iter=60))
        torch.testing.assert_close(alone.point[0], together.point[i], rtol=0, atol=1e-10)
        assert alone.n_iter[0] == together.n_iter[i]
        assert alone.converged[0] == together.converged[i]


def test_each_problem_has_its_own_scale() -> None:
    """Residuals 1e-3 to 1e6 times as large do not change the path, only its end."""
    scale = torch.logspace(-3, 6, 10).double()

    def residuals(points: Tensor, rows: Tensor) -> Tensor:
        return rosenbrock(points, rows) * scale[rows, None]

    start = torch.tensor([[-1.2, 1.0]]).double().expand(10, 2)
    minimum = minimise(least_squares(residuals), start, LMOptions(max_iter=100, tolerance=1e-14))
    # the tolerance is on the cost: the weakest problem's is 1e-6 of the others'
    torch.testing.assert_close(minimum.point, torch.ones(10, 2).double(), rtol=0, atol=2e-4)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_nan_never_wins(bad: float) -> None:
    """Beyond x = 0.5 nothing can be evaluated; the minimum at 1 is out of reach, not NaN."""

    def residuals(points: Tensor, rows: Tensor) -> Tensor:
        r = rosenbrock(points, rows)
        return torch.where(points[:, :1] > 0.5, bad, r)

    start = torch.tensor([[-1.0, 1.0], [0.4, 0.2], [0.0, 0.0]]).double()
    minimum = minimise(least_squares(residuals), start, LMOptions(max_iter=100))
    assert torch.isfinite(minimum.normal.cost).all()
    assert torch.isfinite(minimum.point).all()
    before = 0.5 * (rosenbrock(start, start) ** 2).sum(dim=1)
    assert (minimum.normal.cost < before).all()
    best = minimum.normal.carry[0]
    assert (best[:, 0] <= 0.5).all()


def test_nan_in_the_derivatives_alone_never_wins() -> None:
    def evaluate(points: Tensor, rows: Tensor) -> Normal:
        normal = least_squares(rosenbrock)(points, rows)
        broken = points[:, 0] > 0.3
        gradient = torch.where(broken[:, None], torch.nan, normal.gradient)
        return Normal(normal.cost, gradient, normal.hessian, normal.carry)

    minimum = minimise(evaluate, starts(10, 2, 0.3), LMOptions(max_iter=60))
    assert torch.isfinite(minimum.point).all()
    assert (minimum.normal.carry[0][:, 0] <= 0.3).all()


def test_a_start_that_cannot_be_evaluated_stays_and_disturbs_no_other() -> None:
    """Its cost is infinite, it has not converged, and no evaluation is spent on it."""

    def residuals(points: Tensor, rows: Tensor) -> Tensor:
        return torch.where((rows == 1)[:, None], torch.nan, rosenbrock(points, rows))

    seen: list[Tensor] = []
    start = starts(3)
    minimum = minimise(least_squares(residuals, seen), start, LMOptions(max_iter=80))
    assert not minimum.converged[1]
    assert torch.isinf(minimum.normal.cost[1])
    assert torch.equal(minimum.point[1], start[1])
    assert sum(int((rows == 1).sum()) for rows in seen) == 1
    alone = minimise(least_squares(rosenbrock), start[[0, 2]], LMOptions(max_iter=80))
    torch.testing.assert_close(minimum.point[[0, 2]], alone.point, rtol=0, atol=1e-10)


def test_singular_hessians() -> None:
    """x + y alone is measured, and a third parameter not at all: it stays where it was."""

    def residuals(points: Tensor, rows: Tensor) -> Tensor:
        total = points[:, 0] + points[:, 1]
        return torch.stack([total - 1, 2 * total - 2], dim=1)

    start = starts(6, 3, 1.0)
    minimum = minimise(least_squares(residuals), start)
    assert minimum.converged.all()
    assert torch.isfinite(minimum.point).all()
    torch.testing.assert_close(
        minimum.point[:, 0] + minimum.point[:, 1], torch.ones(6).double(), rtol=0, atol=1e-5
    )
    torch.testing.assert_close(minimum.point[:, 2], start[:, 2])


def test_a_cost_that_does_not_depend_on_anything() -> None:
    start = starts(2)
    minimum = minimise(least_squares(lambda p, _: 0 * p + 3.0), start)
    assert minimum.converged.all()
    assert torch.equal(minimum.point, start)


def test_the_converged_leave() -> None:
    """No problem is evaluated again once it has settled, and n_iter counts what it used."""
    seen: list[Tensor] = []
    start = torch.cat([torch.ones(3, 2).double() + 1e-4, starts(5)])
    minimum = minimise(least_squares(rosenbrock, seen), start, LMOptions(max_iter=80))
    counts = torch.zeros(8, dtype=torch.int64)
    for rows in seen:
        counts[rows] += 1
    assert torch.equal(counts, minimum.n_iter)
    assert (minimum.n_iter[:3] < minimum.n_iter[3:].max()).all()
    sizes = [len(rows) for rows in seen]
    assert sizes == sorted(sizes, reverse=True)
    assert minimum.n_iter.max() <= 80


def test_it_stops_when_it_may_do_no_more() -> None:
    minimum = minimise(least_squares(rosenbrock), starts(10), LMOptions(max_iter=3))
    assert (minimum.n_iter <= 3).all()
    assert not minimum.converged.all()
    assert torch.isfinite(minimum.point).all()
    one = minimise(least_squares(rosenbrock), starts(10), LMOptions(max_iter=1))
    assert torch.equal(one.point[~one.converged], starts(10)[~one.converged])


def test_no_step_is_longer_than_allowed() -> None:
    """From one accepted point to the next; a Gauss-Newton step would go to 1000 at once."""
    visited: list[Tensor] = []

    def residuals(points: Tensor, rows: Tensor) -> Tensor:
        visited.append(points.detach().clone())
        return points - 1000.0

    def evaluate(points: Tensor, rows: Tensor) -> Normal:
        r = residuals(points, rows)
        eye = torch.eye(1).double().expand(len(points), 1, 1)
        return Normal(0.5 * (r**2).sum(dim=1), r, eye, ())

    minimise(evaluate, torch.zeros(1, 1).double(), LMOptions(max_iter=20, max_step=1.5))
    path = torch.cat(visited)[:, 0]
    assert path.diff().abs().max() <= 1.5 + 1e-12
    assert path[-1] > 20.0


def test_curvature_that_gauss_newton_lacks() -> None:
    """A residual that stays, 2 + x^2 / 4, has half of the curvature: full steps go to and fro."""

    def residuals(points: Tensor, rows: Tensor) -> Tensor:
        (x,) = points.unbind(1)
        return torch.stack([x - 0.3, 2 + x**2 / 4], dim=1)

    plain, corrected = (
        minimise(
            least_squares(residuals),
            torch.tensor([[1.0], [-0.8], [0.6]]).double(),
            LMOptions(max_iter=100, tolerance=1e-12, correlated=correlated),
        )
        for correlated in (False, True)
    )
    assert corrected.converged.all()
    # x - 0.3 + x + x^3 / 8 = 0
    root = torch.full((3, 1), 0.14979).double()
    torch.testing.assert_close(corrected.point, root, rtol=0, atol=1e-4)
    assert corrected.n_iter.sum() < 0.7 * plain.n_iter.sum()


def test_an_empty_batch() -> None:
    minimum = minimise(least_squares(lambda p, _: p), torch.zeros(0, 2).double())
    assert minimum.point.shape == (0, 2)


def test_the_last_step_is_kept_apart() -> None:
    """What the model of the minimum belongs to is the point before it."""
    minimum: Minimum = minimise(least_squares(rosenbrock), starts(20), LMOptions(max_iter=100))
    torch.testing.assert_close(minimum.point - minimum.last_step, minimum.normal.carry[0])


def test_adam_finds_the_same_minimum() -> None:
    """An easy bowl, for Adam has 400 steps of at most 0.05."""
    centre = starts(8, 3, 1.0)

    def residuals(points: Tensor, rows: Tensor) -> Tensor:
        return (points - centre[rows]) * torch.tensor([1.0, 3.0, 10.0]).double()

    minimum = minimise_adam(least_squares(residuals), torch.zeros(8, 3).double())
    assert minimum.converged.all()
    torch.testing.assert_close(minimum.point, centre, rtol=0, atol=2e-2)
