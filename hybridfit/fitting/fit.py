"""Fit a batch of cutouts: starts, optimiser, second tries, covariance, flags."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from hybridfit.data.cutouts import Cutouts
from hybridfit.data.fit import Fit
from hybridfit.detection.background import nominal_centre, sky_level
from hybridfit.fitting.adam import minimise_adam
from hybridfit.fitting.build_problem import build_problem, position_reach, problem_rows
from hybridfit.fitting.coarse_fit import coarse_start
from hybridfit.fitting.compile import wants_compile
from hybridfit.fitting.fit_flags import bound_flags, fit_flags
from hybridfit.fitting.fitted import Fitted, fitted
from hybridfit.fitting.galaxy_scenes import scenes_of
from hybridfit.fitting.lm import LMOptions, Minimum, minimise
from hybridfit.fitting.modes import fit_found
from hybridfit.fitting.moments import Starts, moment_start, starting_values
from hybridfit.fitting.nuisances import Nuisances
from hybridfit.fitting.options import FitOptions
from hybridfit.fitting.other_starts import has_uncertain_component, other_starts
from hybridfit.fitting.problem import Problem
from hybridfit.fitting.retries import Middle, middle_of
from hybridfit.fitting.search import search
from hybridfit.fitting.solution import DARK, Solution, solution_of, to_fit
from hybridfit.fitting.structured_starts import concentric
from hybridfit.model.parameters import ParameterSpace
from hybridfit.model.scene_values import SceneValues


def fit_cutouts(
    cutouts: Cutouts,
    options: FitOptions = FitOptions(),
    device: torch.device | str = "cpu",
    compile: bool | None = None,
    starts: Starts | None = None,
    scene: SceneValues | None = None,
) -> Fit:
    """Fit every galaxy of a batch.

    GALFIT's convolution is ten times the work: there the fit starts where the other one ended.

    Args:
        cutouts: B galaxies of one padded shape.
        options: see `FitOptions`.
        device: where to compute; the result is on the CPU.
        compile: decides in place of ``options.compile`` for a batch that is part of a run.
        starts: of one Sersic profile, e.g. from the posterior; default the image's moments.
        scene: what is fitted in place of the components of ``options``, with initial values in
            cutout pixels; a component whose position is given may move from it by half of the
            cutout's longer side. Fixed values have no error.

    Returns:
        A `Fit` with ``theta`` in cutout pixels. A galaxy that cannot be fitted has NaN and a
        flag; it never stops the batch.
    """
    fits, rows = [], []
    for part in fit_parts(cutouts, options, device, compile, starts, scene):
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
    scene: SceneValues | None = None,
    near: Tensor | None = None,
    nuisances: Nuisances | None = None,
) -> Iterator[Fitted]:
    """Fit a batch part by part and keep the problem of each until the next one is asked for.

    One part has one Fourier grid and fits into memory; all of them together have every galaxy once.

    Args:
        cutouts, options, device, compile, starts, scene: see `fit_cutouts`.
        near: (B, Q) physical values near the minimum, to start from in place of ``starts``; NaN
            where there are none.
        nuisances: of the galaxies, what else their pixels depend on.
    """
    device = torch.device(device)
    if compile is None:
        compile = wants_compile(options.compile, len(cutouts), device)
    if scene is None:
        scene = scenes_of(cutouts, options)
    if options.convolution == "galfit":
        quick = replace(options, convolution="continuous")
        near = fit_cutouts(cutouts, quick, device, compile, starts, scene).theta
        options = replace(options, retry=False)
    for rows in problem_rows(cutouts, options):
        yield _fit_part(
            rows,
            cutouts[rows],
            options,
            device,
            compile,
            None if starts is None else starts[rows],
            None if scene is None else scene[rows],
            None if near is None else near[rows],
            None if nuisances is None else nuisances[rows].to(device),
        )


@torch.inference_mode()
def _fit_part(
    rows: Tensor,
    cutouts: Cutouts,
    options: FitOptions,
    device: torch.device,
    compile: bool,
    starts: Starts | None,
    scene: SceneValues | None,
    near: Tensor | None,
    nuisances: Nuisances | None,
) -> Fitted:
    """Fit galaxies that share a problem; ``near`` has parameters to start from instead."""
    cutouts = cutouts.to(device)
    near = None if near is None else near.to(device)
    starts = None if starts is None else starts.to(device)
    if scene is not None:
        scene = scene.to(device)
        return _fit_scene(rows, cutouts, scene, options, compile, starts, near, nuisances)
    problem = build_problem(cutouts, options, compile, nuisances=nuisances)
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
    single = _single_start(cutouts, problem.pixels.background, options, starts)
    coords = _nearer(starting_values(cutouts, single, options.space), near, options.space)
    start = options.space.to_whitened(coords, problem.constants)
    # the posterior's median is nearer than what the middle of the cutout would give
    coarse = options.coarse_fit and starts is None and near is None
    solution, candidates = _optimum(problem, cutouts, start, coords, options, coarse)
    if options.retry and starts is not None and candidates is None:
        solution = _further_starts(solution, problem, cutouts, starts, options)
    fit = to_fit(solution, problem, cutouts)
    fit = replace(fit, flags=fit_flags(fit, solution, problem, cutouts))
    return fitted(rows, cutouts, problem, solution, fit, candidates)


def _fit_scene(
    rows: Tensor,
    cutouts: Cutouts,
    scene: SceneValues,
    options: FitOptions,
    compile: bool,
    starts: Starts | None,
    near: Tensor | None,
    nuisances: Nuisances | None,
) -> Fitted:
    """Fit scenes from their initial values, or from moments where these are missing."""
    whole = starts if starts is not None and starts.whole else None
    theta = initial_values(cutouts, scene, options, starts if whole is None else None)
    problem = build_problem(cutouts, options, compile, scene, theta, nuisances)
    space = scene.space
    coords, _ = space.from_physical(theta, cutouts.zeropoint)
    if whole is not None:
        best = torch.isfinite(whole.coords[:, 0]).all(dim=1)[:, None]
        coords = torch.where(best, whole.coords[:, 0], coords)
    start = space.to_whitened(_nearer(coords, near, space), problem.constants)
    given = None if whole is None else _whitened(whole.coords, problem)
    coarse = options.coarse_fit and near is None and space.n_components > 1
    solution, candidates = _optimum(problem, cutouts, start, coords, options, coarse, given)
    if near is not None:
        rest = (~solution.converged & torch.isfinite(solution.cost)).nonzero()[:, 0]
        solution = _tried(solution, problem, rest, solution.whitened[rest], None, options)
    fit = _with_fixed(to_fit(solution, problem, cutouts), theta)
    flags = fit_flags(fit, solution, problem, cutouts) | bound_flags(fit, scene)
    return fitted(rows, cutouts, problem, solution, replace(fit, flags=flags), candidates)


def _whitened(coords: Tensor, problem: Problem) -> Tensor:
    """Return coordinates (B, K, C) of each galaxy as whitened ones (B, K, P)."""
    columns = [problem.space.to_whitened(own, problem.constants) for own in coords.unbind(1)]
    return torch.stack(columns, dim=1)


def _with_fixed(fit: Fit, theta: Tensor) -> Fit:
    """Return the fit with fixed values exactly as given in ``theta`` (B, Q), without errors."""
    if fit.space.links is None:
        return fit
    values, covariance = fit.theta.clone(), fit.covariance.clone()
    known = torch.isfinite(fit.theta)
    for column in fit.space.links.fixed_columns:
        values[:, column] = torch.where(known[:, column], theta[:, column], torch.nan)
        covariance[:, column] = covariance[:, :, column] = 0.0
    return replace(fit, theta=values, covariance=covariance)


def _single_start(
    cutouts: Cutouts, level: Tensor, options: FitOptions, starts: Starts | None
) -> Tensor:
    """Return coordinates (B, 6) of one Sersic profile to start from: the best start, or moments."""
    centre, reach = nominal_centre(cutouts), position_reach(cutouts, options.prior)
    single = moment_start(cutouts, level, centre, reach)
    if starts is None:
        return single
    best = starts.coords[:, 0]
    return torch.where(torch.isfinite(best).all(dim=1)[:, None], best, single)


def initial_values(
    cutouts: Cutouts, scene: SceneValues, options: FitOptions, starts: Starts | None = None
) -> Tensor:
    """Return physical values (B, Q) to start from: the scene's, and from moments what it lacks."""
    space, level = scene.space, sky_level(cutouts)
    single = _single_start(cutouts, level, options, starts)
    coords = starting_values(cutouts, single, space)
    light = torch.where(cutouts.mask, 0.0, cutouts.image - level[:, None, None]).sum(dim=(1, 2))
    share = light.double().clamp_min(1e-3) / space.n_components
    linear = share[:, None].expand(-1, len(space.names) - coords.shape[1]).clone()
    linear[:, space.n_components :] = 0.0
    linear[:, space.n_components] = level
    chosen, _ = space.to_physical(coords, linear, cutouts.zeropoint)
    return torch.where(torch.isfinite(scene.start), scene.start, chosen)


def _nearer(coords: Tensor, near: Tensor | None, space: ParameterSpace) -> Tensor:
    """Raw starts (B, P), in the place of which physical values (B, Q) go where they are known."""
    if near is None:
        return coords
    known, _ = space.from_physical(near, torch.zeros_like(near[:, 0]))  # NaN flux is no shape
    return torch.where(torch.isfinite(known).all(dim=1)[:, None], known, coords)


def _optimum(
    problem: Problem,
    cutouts: Cutouts,
    start: Tensor,
    coords: Tensor,
    options: FitOptions,
    coarse: bool,
    given: Tensor | None = None,
) -> tuple[Solution, Tensor | None]:
    """Return the best minimum that several starts lead to, and where others are.

    Args:
        problem: of B galaxies.
        cutouts: the same.
        start: (B, P) whitened.
        coords: (B, C) the same as coordinates.
        options: of the fit.
        coarse: whether the middle of the cutout may give a better start.
        given: (B, K, P) further starts of a search, see `hybridfit.fitting.search.search`.

    Returns:
        The solutions, and see `hybridfit.fitting.modes.fit_found`; None without a search.
    """
    if options.retry and options.method == "lm" and concentric(problem.space):
        found = search(problem, cutouts, start, coarse, given)
        return fit_found(problem, found, _lm_options(problem, options))
    if coarse and options.method == "lm":
        start = coarse_start(problem, cutouts, start)
    solution = solution_of(_minimise(problem, start, options), problem)
    if options.retry:
        solution = _retry(solution, problem, cutouts, coords, options)
    return solution, None


def _minimise(problem: Problem, start: Tensor, options: FitOptions) -> Minimum:
    """Minimise from whitened coordinates."""
    if options.method == "adam":
        return minimise_adam(problem, start)
    return minimise(problem, start, _lm_options(problem, options))


def _lm_options(problem: Problem, options: FitOptions) -> LMOptions:
    """Return the optimiser's settings."""
    several = problem.space.n_components > 1
    return LMOptions(options.max_iter, options.tolerance, correlated=several)


def _retry(
    solution: Solution, problem: Problem, cutouts: Cutouts, coords: Tensor, options: FitOptions
) -> Solution:
    """Repeat the doubtful fits from other starts and keep whichever cost is lowest."""
    doubtful = ~solution.converged | (solution.whitened.abs().amax(dim=1) > 2.5)
    doubtful |= ~(solution.cost < DARK) | has_uncertain_component(solution, problem, cutouts)
    rows = doubtful.nonzero()[:, 0]
    if len(rows) == 0:
        return solution
    middle = middle_of(solution, problem, cutouts, rows)
    for other in other_starts(coords[rows], problem.space):
        start = problem.space.to_whitened(other, problem.constants[rows])
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
        start = problem.space.to_whitened(coords, problem.constants[rows])
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
