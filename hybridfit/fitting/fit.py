"""Fit a batch of cutouts: starts, optimiser, second tries, covariance, flags."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from hybridfit.data.cutouts import Cutouts
from hybridfit.data.fit import Fit
from hybridfit.data.flags import Flag
from hybridfit.fitting.adam import minimise_adam
from hybridfit.fitting.build_problem import build_problem, problem_rows
from hybridfit.fitting.coarse_fit import coarse_start
from hybridfit.fitting.compile import wants_compile
from hybridfit.fitting.fit_flags import fit_flags
from hybridfit.fitting.fitted import Fitted, fitted
from hybridfit.fitting.fixed import InitialValues, surface_of, unreachable
from hybridfit.fitting.lm import LMOptions, Minimum, minimise
from hybridfit.fitting.moments import Starts, moment_start, starting_values
from hybridfit.fitting.options import FitOptions
from hybridfit.fitting.problem import Problem
from hybridfit.fitting.retries import Middle, middle_of
from hybridfit.fitting.solution import DARK, Solution, flux_units, solution_of, to_fit
from hybridfit.model.parameters import ParameterSpace


def fit_cutouts(
    cutouts: Cutouts,
    options: FitOptions = FitOptions(),
    device: torch.device | str = "cpu",
    compile: bool | None = None,
    starts: Starts | None = None,
    given: InitialValues | None = None,
) -> Fit:
    """Fit every galaxy of a batch.

    GALFIT's convolution is ten times the work: there the fit starts where the other one ended.

    Args:
        cutouts: B galaxies of one padded shape.
        options: see `FitOptions`.
        device: where to compute; the result is on the CPU.
        compile: decides in place of ``options.compile`` for a batch that is part of a run.
        starts: of one Sersic profile, e.g. from the posterior; default the image's moments.
        given: values of every component in cutout pixels to start from, and which are fixed. Each
            component's position may then move by half of the cutout's longer side. Fixed values
            have no error; a galaxy with one that the prior does not reach is not fitted.

    Returns:
        A `Fit` with ``theta`` in cutout pixels. A galaxy that cannot be fitted has NaN and a
        flag; it never stops the batch.
    """
    fits, rows = [], []
    for part in fit_parts(cutouts, options, device, compile, starts, given):
        fits.append(part.fit)
        rows.append(part.rows)
        del part  # or two problems were held while the next one is fitted
    if not fits:
        return no_fit(options.space)
    return Fit.cat(fits)[torch.argsort(torch.cat(rows))]


def fit_parts(
    cutouts: Cutouts,
    options: FitOptions = FitOptions(),
    device: torch.device | str = "cpu",
    compile: bool | None = None,
    starts: Starts | None = None,
    given: InitialValues | None = None,
) -> Iterator[Fitted]:
    """Fit a batch part by part and keep the problem of each until the next one is asked for.

    Arguments are those of `fit_cutouts`. One part has one Fourier grid and fits into memory; all
    of them together have every galaxy once.
    """
    device = torch.device(device)
    if compile is None:
        compile = wants_compile(options.compile, len(cutouts), device)
    near = None
    if options.convolution == "galfit":
        quick = replace(options, convolution="continuous")
        near = fit_cutouts(cutouts, quick, device, compile, starts, given).theta
        options = replace(options, retry=False)
    for rows in problem_rows(cutouts, options):
        yield _fit_part(
            rows,
            cutouts[rows],
            options,
            device,
            compile,
            None if starts is None else starts[rows],
            None if given is None else given[rows],
            None if near is None else near[rows],
        )


@torch.inference_mode()
def _fit_part(
    rows: Tensor,
    cutouts: Cutouts,
    options: FitOptions,
    device: torch.device,
    compile: bool,
    starts: Starts | None,
    given: InitialValues | None,
    near: Tensor | None,
) -> Fitted:
    """Fit galaxies that share a problem; ``near`` has parameters to start from instead."""
    cutouts = cutouts.to(device)
    problem = build_problem(cutouts, options, compile)
    near = None if near is None else near.to(device)
    if given is not None:
        return _fit_given(rows, cutouts, problem, options, given.to(device), near)
    starts = None if starts is None else starts.to(device)
    return _fit_group(rows, cutouts, problem, options, starts, near)


def _fit_group(
    rows: Tensor,
    cutouts: Cutouts,
    problem: Problem,
    options: FitOptions,
    starts: Starts | None,
    near: Tensor | None,
) -> Fitted:
    """Fit from the image's moments or from the network's draws."""
    box = problem.box
    single = moment_start(cutouts, problem.pixels.background, box[:, :2], box[:, 2])
    if starts is not None:
        best = starts.coords[:, 0]
        single = torch.where(torch.isfinite(best).all(dim=1)[:, None], best, single)
    coords = _nearer(starting_values(cutouts, single, options.space), near, options.space)
    start = options.space.to_whitened(coords, box)
    # the posterior's median is nearer than what the middle of the cutout would give
    if options.coarse_fit and options.method == "lm" and starts is None and near is None:
        start = coarse_start(problem, cutouts, start)
    solution = solution_of(_minimise(problem, start, options), problem)
    if options.retry:
        solution = _retry(solution, problem, cutouts, coords, options)
        if starts is not None:
            solution = _further_starts(solution, problem, cutouts, starts, options)
    fit = to_fit(solution, problem, cutouts, options.sky_value)
    fit = replace(fit, flags=fit_flags(fit, solution, problem, cutouts))
    return fitted(rows, cutouts, problem, solution, fit)


def _fit_given(
    rows: Tensor,
    cutouts: Cutouts,
    problem: Problem,
    options: FitOptions,
    given: InitialValues,
    near: Tensor | None,
) -> Fitted:
    """Fit from given values, some of which may be fixed."""
    space, background = problem.space, problem.pixels.background
    single = moment_start(cutouts, background, problem.box[:, :2], problem.box[:, 2])
    own = starting_values(cutouts, single, space)
    chosen, _ = space.to_physical(own, torch.ones_like(own[:, : space.n_linear]), background)
    theta = torch.where(torch.isfinite(given.theta), given.theta, chosen)
    coords, _ = space.from_physical(theta, torch.zeros_like(background))
    reach = 0.5 * cutouts.size.amax(dim=1).double()[:, None].expand(-1, 2)
    box = [torch.cat([coords[:, c][:, :2], reach], dim=1) for c in space.slices()]
    problem = replace(problem, box=torch.stack(box, dim=1))
    unit = flux_units(problem, cutouts)
    known = replace(given, theta=theta)
    surface = surface_of(known, space, problem.box, unit, cutouts.zeropoint, background)
    problem = replace(problem, surface=surface)
    start = space.to_whitened(_nearer(coords, near, space), problem.box)
    solution = solution_of(_minimise(problem, start, options), problem)
    if options.retry:
        solution = _retry(solution, problem, cutouts, coords, options)
    fit = to_fit(solution, problem, cutouts, options.sky_value)
    fit = _with_fixed(fit, given.fixed & torch.isfinite(fit.theta), theta)
    fit = replace(fit, flags=fit_flags(fit, solution, problem, cutouts))
    refused = torch.tensor(
        [bool(text) for text in unreachable(given, surface)], device=theta.device
    )
    fit = replace(
        fit,
        theta=torch.where(refused[:, None], torch.nan, fit.theta),
        flags=fit.flags | refused * int(Flag.NOT_MODELLED),
    )
    return fitted(rows, cutouts, problem, solution, fit)


def _with_fixed(fit: Fit, fixed: Tensor, theta: Tensor) -> Fit:
    """The fit with fixed values (B, Q) exactly as given, and without errors."""
    still = fixed[:, :, None] | fixed[:, None, :]
    return replace(
        fit,
        theta=torch.where(fixed, theta, fit.theta),
        covariance=torch.where(still, 0.0, fit.covariance),
    )


def _nearer(coords: Tensor, near: Tensor | None, space: ParameterSpace) -> Tensor:
    """Raw starts (B, P), in the place of which physical values (B, Q) go where they are known."""
    if near is None:
        return coords
    known, _ = space.from_physical(near, torch.zeros_like(near[:, 0]))  # NaN flux is no shape
    return torch.where(torch.isfinite(known).all(dim=1)[:, None], known, coords)


def _minimise(problem: Problem, start: Tensor, options: FitOptions) -> Minimum:
    """Minimise from whitened coordinates."""
    start = problem.coordinates(start)
    if options.method == "adam":
        return minimise_adam(problem, start)
    return minimise(problem, start, LMOptions(options.max_iter, options.tolerance))


def _retry(
    solution: Solution, problem: Problem, cutouts: Cutouts, coords: Tensor, options: FitOptions
) -> Solution:
    """Repeat the doubtful fits from other starts and keep whichever cost is lowest."""
    doubtful = ~solution.converged | (solution.whitened.abs().amax(dim=1) > 2.5)
    doubtful |= ~(solution.cost < DARK)
    rows = doubtful.nonzero()[:, 0]
    if len(rows) == 0:
        return solution
    middle = middle_of(solution, problem, cutouts, rows)
    for log_n, log_size in ((-0.4, 0.3), (1.3, 0.0), (0.3, -1.2)):
        other = coords[rows].clone()
        for columns, shape in zip(problem.space.slices(), problem.space.shapes, strict=True):
            i = columns.start
            other[:, i + 2] += log_size
            if "n" in shape:
                other[:, i + 3 + shape.index("n")] = log_n
            other[:, columns.stop - 2 : columns.stop] *= 0.5
        start = problem.space.to_whitened(other, problem.box[rows])
        solution = _tried(solution, problem, rows, start, middle, options)
    return solution


def _further_starts(
    solution: Solution, problem: Problem, cutouts: Cutouts, starts: Starts, options: FitOptions
) -> Solution:
    """Start again from the posterior's draws where it is wide, and keep the lowest cost."""
    usable = torch.isfinite(starts.coords).flatten(1).all(dim=1)
    rows = (starts.wide & usable).nonzero()[:, 0]
    if len(rows) == 0:
        return solution
    middle = middle_of(solution, problem, cutouts, rows)
    for k in range(1, starts.coords.shape[1]):
        coords = starting_values(cutouts[rows], starts.coords[rows, k], options.space)
        start = problem.space.to_whitened(coords, problem.box[rows])
        solution = _tried(solution, problem, rows, start, middle, options)
    return solution


def _tried(
    solution: Solution,
    problem: Problem,
    rows: Tensor,
    start: Tensor,
    middle: Middle | None,
    options: FitOptions,
) -> Solution:
    """Fit galaxies ``rows`` again from whitened starts, those that the middle finds worth it."""
    if middle is not None:
        follow, start = middle.look(start)
        rows, start = rows[follow], start[follow]
    if len(rows) == 0:
        return solution
    own = problem[rows]
    return solution.improved(rows, solution_of(_minimise(own, start, options), own))


def no_fit(space: ParameterSpace) -> Fit:
    """Return the fit of no galaxies."""
    size, none = len(space.names), torch.zeros(0, dtype=torch.float64)
    whole = torch.zeros(0, dtype=torch.int64)
    return Fit(space, torch.zeros(0, size), torch.zeros(0, size, size), none, whole, whole, whole)
