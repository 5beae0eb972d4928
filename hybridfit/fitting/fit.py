"""Fit a batch of cutouts: starts, optimiser, second tries, covariance, flags."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from hybridfit.cutouts import Cutouts
from hybridfit.fitting.adam import minimise_adam
from hybridfit.fitting.coarse import coarse_start
from hybridfit.fitting.compiling import kernels, wants_compile
from hybridfit.fitting.judge import judge
from hybridfit.fitting.lm import LMOptions, Minimum, minimise
from hybridfit.fitting.problem import Problem, grid_of, make_pixels
from hybridfit.fitting.solution import Solution, solution_of, to_fit
from hybridfit.fitting.start import Starts, moment_start, starting_values
from hybridfit.model.background import nominal_centre, sky_level
from hybridfit.model.grid import WELL_SAMPLED, Grid, nyquist_power, reach_of
from hybridfit.model.profiles import Profile, find_profile
from hybridfit.parameters import ParameterSpace, Prior
from hybridfit.results import Fit

MODES_AT_ONCE = 2**18  # of a kernel call on a CPU: more fall out of its caches
PIXELS_AT_ONCE = 2**24  # of one batch: bounds memory, 4 arrays of 64 MiB


@dataclass(frozen=True)
class FitOptions:
    """Settings of the fit.

    Args:
        components: names in `hybridfit.model.profiles.PROFILES`, or ``"my_module:MyProfile"``, one
            for each component.
        estimator: "map" (with the prior) or "ml" (maximum likelihood, the prior's bounds only).
        sky: "constant" (free), "plane" (free with two slopes) or "fixed" (at ``sky_value``).
        sky_value: flux per pixel of a fixed sky.
        convolution: "continuous" takes the PSF for samples of a smooth function; "galfit" does as
            GALFIT does (galaxy and PSF as sums over pixels, the sub-pixel centre by a shift
            afterwards), ten times slower, to compare with its results to the last digit.
        method: "lm", or "adam" as a check.
        max_iter: evaluations a galaxy may use in each try.
        tolerance: see `LMOptions.tolerance`.
        coarse: whether stamps of 96 pixels and more are fitted on their middle first, where the
            fit starts from moments.
        second_tries: whether doubtful fits are repeated from other starts, the best one kept.
        compile: "auto" (from 2,000 galaxies of one shape on), "on" or "off".
        chunk: galaxies a kernel takes at once; 0 chooses up to 8 on a CPU, fewer of
            large stamps, and 256 on a GPU.
        precision: "float32", or "float64" to check it.
        prior: see `Prior`.
    """

    components: tuple[str, ...] = ("sersic",)
    estimator: str = "map"
    sky: str = "constant"
    sky_value: float = 0.0
    convolution: str = "continuous"
    method: str = "lm"
    max_iter: int = 40
    tolerance: float = 5e-3
    coarse: bool = True
    second_tries: bool = True
    compile: str = "auto"
    chunk: int = 0
    precision: str = "float32"
    prior: Prior = field(default_factory=Prior)

    def __post_init__(self) -> None:
        choices = {
            "estimator": ("map", "ml"),
            "convolution": ("continuous", "galfit"),
            "method": ("lm", "adam"),
            "compile": ("auto", "on", "off"),
            "precision": ("float32", "float64"),
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ValueError(
                    f"{name} is '{getattr(self, name)}', expected one of {', '.join(allowed)}"
                )
        object.__setattr__(self, "components", tuple(self.components))
        if not self.components:
            raise ValueError("components is empty, expected at least one profile")
        if self.max_iter < 1 or self.tolerance <= 0 or self.chunk < 0:
            raise ValueError("expected max_iter >= 1, tolerance > 0 and chunk >= 0")
        _ = self.space  # checks profiles, sky and prior

    @property
    def profiles(self) -> tuple[Profile, ...]:
        """The profile objects."""
        return tuple(find_profile(name) for name in self.components)

    @property
    def space(self) -> ParameterSpace:
        """The parameters these options fit."""
        return ParameterSpace(tuple(p.shape for p in self.profiles), self.sky, self.prior)


def fit_cutouts(
    cutouts: Cutouts,
    options: FitOptions = FitOptions(),
    device: torch.device | str = "cpu",
    compile: bool | None = None,
    starts: Starts | None = None,
) -> Fit:
    """Fit every galaxy of a batch.

    Args:
        cutouts: B galaxies of one padded shape.
        options: see `FitOptions`.
        device: where to compute; the result is on the CPU.
        compile: decides in place of ``options.compile`` for a batch that is part of a run.
        starts: of one Sersic profile, e.g. from the posterior; default the image's moments.

    Returns:
        A `Fit` with ``theta`` in stamp pixels. A galaxy that cannot be fitted has NaN and a
        flag; it never stops the batch.
    """
    device = torch.device(device)
    if compile is None:
        compile = wants_compile(options.compile, len(cutouts), device)
    pieces: list[Fit] = []
    order: list[Tensor] = []
    with torch.inference_mode():
        for group in _groups(cutouts):
            for rows in group.split(_at_once(cutouts, group, options)):
                part = cutouts[rows.tolist()].to(device)
                given = None if starts is None else starts[rows].to(device)
                pieces.append(_fit_group(part, options, compile, given).to("cpu"))
                order.append(rows)
    if not pieces:
        return _empty(options.space)
    return _join(pieces)[torch.argsort(torch.cat(order))]


def _groups(cutouts: Cutouts) -> list[Tensor]:
    """Rows that share what the Fourier grid depends on: oversampling, and aliasing of the PSF."""
    oversampling = cutouts.psf_oversampling.cpu()
    if cutouts.psf is None:
        aliased = torch.zeros(len(cutouts), dtype=torch.bool)
    else:
        aliased = (nyquist_power(cutouts.psf) >= WELL_SAMPLED).cpu()
    key = oversampling * 2 + aliased
    return [(key == k).nonzero()[:, 0] for k in key.unique()]


def _at_once(cutouts: Cutouts, rows: Tensor, options: FitOptions) -> int:
    """How many galaxies of a group fit into memory; modes beyond Nyquist take the most of it."""
    galfit = options.convolution == "galfit"
    reach = reach_of(cutouts.psf, int(cutouts.psf_oversampling[rows[0]]), galfit=galfit)
    return max(1, int(PIXELS_AT_ONCE / (cutouts.image[0].numel() * reach**2)))


def _chunk(options: FitOptions, grid: Grid) -> int:
    """Galaxies a kernel takes: as many as stay in a CPU's cache, or fill a GPU."""
    if options.chunk:
        return options.chunk
    if grid.x.device.type != "cpu":
        return 256
    modes = 2 * grid.kx.shape[0] * grid.ky.shape[1]
    return max(1, min(8, MODES_AT_ONCE // modes))


def _fit_group(cutouts: Cutouts, options: FitOptions, compile: bool, starts: Starts | None) -> Fit:
    dtype = torch.float32 if options.precision == "float32" else torch.float64
    galfit = options.convolution == "galfit"
    grid = grid_of(cutouts, dtype, galfit)
    fixed = options.sky == "fixed"
    level = sky_level(cutouts)
    pedestal = torch.full_like(level, options.sky_value) if fixed else level
    pixels = make_pixels(cutouts, pedestal, options.sky, grid, dtype, galfit)
    centre = nominal_centre(cutouts)
    reach = options.prior.position * cutouts.size.amin(dim=1).double().clamp_min(8)
    box = torch.cat([centre, reach[:, None], reach[:, None]], dim=1)
    problem = Problem(
        pixels,
        grid,
        options.space,
        options.profiles,
        box,
        1.0 if options.estimator == "map" else 0.0,
        _chunk(options, grid),
        kernels(compile),
    )
    single = moment_start(cutouts, pedestal, centre, reach)
    if starts is not None:
        best = starts.raw[:, 0]
        single = torch.where(torch.isfinite(best).all(dim=1)[:, None], best, single)
    raw = starting_values(cutouts, single, options.space)
    start = options.space.to_free(raw, box)
    # the posterior's median is nearer than what the middle of the stamp would give
    if options.coarse and options.method == "lm" and starts is None:
        start = coarse_start(problem, cutouts, start)
    solution = solution_of(_minimise(problem, start, options), problem)
    if options.second_tries:
        solution = _second_tries(solution, problem, raw, options)
        if starts is not None:
            solution = _further_starts(solution, problem, cutouts, starts, options)
    fit = to_fit(solution, problem, cutouts, options.sky_value)
    return replace(fit, flags=judge(fit, solution, problem, cutouts))


def _minimise(problem: Problem, start: Tensor, options: FitOptions) -> Minimum:
    if options.method == "adam":
        return minimise_adam(problem, start)
    return minimise(problem, start, LMOptions(options.max_iter, options.tolerance))


def _second_tries(
    solution: Solution, problem: Problem, raw: Tensor, options: FitOptions
) -> Solution:
    """Repeat the doubtful fits from other starts and keep whichever cost is lowest."""
    doubtful = ~solution.converged | (solution.free.abs().amax(dim=1) > 2.5)
    doubtful |= ~torch.isfinite(solution.cost)
    rows = doubtful.nonzero()[:, 0]
    if len(rows) == 0:
        return solution
    for log_n, log_size in ((-0.4, 0.3), (1.3, 0.0), (0.3, -1.2)):
        other = raw[rows].clone()
        for columns, shape in zip(problem.space.slices(), problem.space.shapes, strict=True):
            i = columns.start
            other[:, i + 2] += log_size
            if "n" in shape:
                other[:, i + 3 + shape.index("n")] = log_n
            other[:, columns.stop - 2 : columns.stop] *= 0.5
        start = problem.space.to_free(other, problem.box[rows])
        again = solution_of(_minimise(problem.at(rows), start, options), problem.at(rows))
        solution = solution.improved(rows, again)
    return solution


def _further_starts(
    solution: Solution, problem: Problem, cutouts: Cutouts, starts: Starts, options: FitOptions
) -> Solution:
    """Start again from the posterior's draws where it is wide, and keep the lowest cost."""
    for k in range(1, starts.raw.shape[1]):
        usable = torch.isfinite(starts.raw[:, k]).all(dim=1)
        rows = (starts.wide & usable).nonzero()[:, 0]
        if len(rows) == 0:
            continue
        raw = starting_values(cutouts[rows.tolist()], starts.raw[rows, k], options.space)
        start = problem.space.to_free(raw, problem.box[rows])
        again = solution_of(_minimise(problem.at(rows), start, options), problem.at(rows))
        solution = solution.improved(rows, again)
    return solution


def _join(fits: list[Fit]) -> Fit:
    names = ("theta", "covariance", "chi2", "dof", "n_iter", "flags")
    return Fit(fits[0].space, *(torch.cat([getattr(f, n) for f in fits]) for n in names))


def _empty(space: ParameterSpace) -> Fit:
    size, none = len(space.names), torch.zeros(0, dtype=torch.float64)
    whole = torch.zeros(0, dtype=torch.int64)
    return Fit(space, torch.zeros(0, size), torch.zeros(0, size, size), none, whole, whole, whole)
