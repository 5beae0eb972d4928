"""Errors from fits repeated on resampled pixels or new noise (`--uncertainty bootstrap`).

*Pixels* draws the cutout's unmasked pixels with replacement (Efron 1979; for galaxies GALMOSS, Chen
et al. 2024), so that the scatter of the residuals, not the noise map, sets the errors. *Parametric*
adds new noise of sigma to the best model. The prior counts as one more measurement, redrawn in each
replica: with a fixed centre, parameters that the pixels barely constrain would hardly move and seem
well known (Bardsley et al. 2014, "randomize then optimize"; for a linear model with Gaussian noise
the draws then follow the posterior exactly).

Refitting minimises each replica from the best fit. The one-step form takes one Gauss-Newton
step from there,

    delta = (J^T W* J + Lambda)^-1 (J^T W* r - Lambda (u - e)),

with the multinomial counts in W* and the prior's drawn centre e: a few matrix products per galaxy.
Of several images all pixels are drawn from together. Neither form explores other minima, nor
accounts for noise that is correlated between pixels.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from hashlib import sha256

import torch
from torch import Tensor

from hybridfit.data.cutouts import Cutouts
from hybridfit.data.samples import Draws
from hybridfit.fitting.fitted import Fitted
from hybridfit.fitting.linearised import Linearised, linearise
from hybridfit.fitting.lm import LMOptions, Normal, minimise
from hybridfit.fitting.options import FitOptions
from hybridfit.fitting.pixels import Pixels
from hybridfit.fitting.problem import Problem
from hybridfit.fitting.solution import physical_points, solution_of, solve
from hybridfit.uncertainty.options import BootstrapOptions

NUMBERS_AT_ONCE = 2**23  # pixels and modes processed together: limits memory
COUNTS_AT_ONCE = 2**22  # random numbers of a galaxy's replicas generated together


@torch.inference_mode()
def bootstrap(
    fitted: Fitted,
    options: BootstrapOptions = BootstrapOptions(),
    fit_options: FitOptions = FitOptions(),
) -> Draws:
    """Repeat the fits of galaxies on replicas of their pixels.

    The draws of a galaxy depend on its pixels, its id and the seed, not on its batch.

    Args:
        fitted: b galaxies with the problem of their fit.
        options: see `BootstrapOptions`.
        fit_options: the optimiser of the replicas.

    Returns:
        Draws (b, R, Q) on the CPU, equally weighted; a replica whose fit failed is NaN with
        weight 0, as are all replicas of a galaxy without a fit.
    """
    space = fitted.problem.space
    shape = (len(fitted), options.replicas, len(space.names))
    samples = torch.full(shape, torch.nan, dtype=torch.float64)
    known = torch.isfinite(torch.cat([fitted.whitened, fitted.linear], dim=1)).all(dim=1)
    for rows in known.nonzero()[:, 0].split(_at_once(fitted.problem, shape[2])):
        if len(rows):
            some = fitted[rows]
            task = _Task(some.problem, some.cutouts, some.whitened, some.linear, options)
            made = _refit(task, fit_options) if options.refit else _one_step(task)
            samples[rows.cpu()] = made.cpu()
    return Draws(space, samples)


def _at_once(problem: Problem, columns: int) -> int:
    """Return how many galaxies' derivatives per pixel, or replicas, are processed together."""
    images = _pixels_of(problem)
    each = sum(pixels.data[0].numel() + pixels.transfer[0].numel() for pixels in images)
    return max(1, NUMBERS_AT_ONCE // (each * columns))


@dataclass(frozen=True)
class _Task:
    """Galaxies that have a fit, and its parameters: whitened (b, P), linear (b, L)."""

    problem: Problem
    cutouts: Cutouts
    whitened: Tensor
    linear: Tensor
    options: BootstrapOptions

    def random(self, galaxy: int, replica: int, n: int) -> tuple[Tensor, Tensor]:
        """Return a replica's prior centre (P,), and counts or noise (n,) of the n unmasked pixels.

        They depend on the galaxy's id, the replica's number and the seed only, on any device.
        """
        name = f"{self.options.seed} {replica} {self.cutouts.id[galaxy]}"
        digest = sha256(name.encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
        centre = torch.randn(self.whitened.shape[1], generator=generator, dtype=self.whitened.dtype)
        if self.options.kind == "parametric":
            return centre, torch.randn(n, generator=generator)
        drawn = torch.randint(n, (n,), generator=generator)
        return centre, torch.bincount(drawn, minlength=n).float()

    def randoms(self, galaxy: int, replicas: range, n: int) -> tuple[Tensor, Tensor]:
        """Return `random` of several replicas: (r, P) and (r, n) on the problem's device."""
        each = [self.random(galaxy, replica, n) for replica in replicas]
        centre, numbers = (torch.stack(values) for values in zip(*each, strict=True))
        return centre.to(self.whitened), numbers.to(self.problem.pixels.weight)


def _one_step(task: _Task) -> Tensor:
    """Return samples (b, R, Q) from one Gauss-Newton step per replica."""
    about = linearise(task.problem, task.cutouts, task.whitened, task.linear)
    made = []
    for i in range(len(task.whitened)):
        kept = [pixels.weight[i] > 0 for pixels in _pixels_of(task.problem)]
        images = list(zip(about.images, kept, strict=True))
        columns = torch.cat([image.columns[i][:, used] for image, used in images], dim=1)
        residual = torch.cat([image.residual[i][used] for image, used in images])
        steps = []
        for block in _blocks(task.options.replicas, len(residual)):
            centre, numbers = task.randoms(i, block, len(residual))
            if task.options.kind == "parametric":
                matrix, right = parametric_equations(columns, numbers, about.information[i])
                offset = centre  # the prior is centred on the fit
            else:
                matrix, right = resampled_equations(columns, residual, numbers)
                offset = centre - task.whitened[i]
            right[:, : offset.shape[1]] += task.problem.prior_weight * offset
            steps.append(solve(matrix + about.prior[i], right[:, :, None])[:, :, 0])
        made.append(torch.cat(steps))
    delta = torch.stack(made)
    point = torch.cat([task.whitened, task.linear], dim=1)[:, None] + delta
    return physical_points(point, task.problem, task.cutouts)


def _pixels_of(problem: Problem) -> list[Pixels]:
    """Return the pixels of the first image, then of each exposure."""
    return [problem.pixels, *(term.pixels for term in problem.exposures)]


def _blocks(replicas: int, n: int) -> list[range]:
    at_once = max(1, COUNTS_AT_ONCE // max(n, 1))
    return [range(k, min(k + at_once, replicas)) for k in range(0, replicas, at_once)]


def resampled_equations(columns: Tensor, residual: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """Return the normal equations of replicas with given counts of each pixel.

    Args:
        columns: (C, N) derivatives of the model over sigma.
        residual: (N,) over sigma.
        counts: (R, N).

    Returns:
        (R, C, C) and (R, C) float64, without the prior.
    """
    n = len(columns)
    row, column = torch.triu_indices(n, n, device=columns.device)
    products = torch.cat([columns[row] * columns[column], columns * residual])
    # the sums over all pixels once in float64, and the changes due to the counts in float32
    whole = products.double().sum(dim=1)
    sums = whole + ((counts - 1) @ products.T).double()
    matrix = sums.new_zeros(len(counts), n, n)
    matrix[:, row, column] = sums[:, : len(row)]
    matrix[:, column, row] = sums[:, : len(row)]
    return matrix, sums[:, len(row) :]


def parametric_equations(
    columns: Tensor, noise: Tensor, information: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the normal equations of replicas that are the model plus new noise.

    Args:
        columns: (C, N) derivatives of the model over sigma.
        noise: (R, N) standard normal.
        information: (C, C) float64, of ``columns``.

    Returns:
        (R, C, C) and (R, C) float64, without the prior.
    """
    return information.expand(len(noise), -1, -1), (noise @ columns.T).double()


def _refit(task: _Task, fit_options: FitOptions) -> Tensor:
    """Return samples (b, R, Q) from a fit of each replica, in batches across galaxies."""
    replicas, about = task.options.replicas, None
    if task.options.kind == "parametric":
        about = linearise(task.problem, task.cutouts, task.whitened, task.linear)
    pairs = torch.arange(len(task.whitened) * replicas, device=task.whitened.device)
    made = []
    for some in pairs.split(_at_once(task.problem, 1)):
        galaxies = some // replicas
        centre, problem = _replicas(task, some, about)
        start, weight = task.whitened[galaxies], problem.prior_weight

        def evaluate(
            whitened: Tensor,
            rows: Tensor,
            problem: Problem = problem,
            centre: Tensor = centre,
            weight: float = weight,
        ) -> Normal:
            return _about(problem(whitened, rows), whitened, weight * centre[rows])

        minimum = minimise(evaluate, start, LMOptions(fit_options.max_iter, fit_options.tolerance))
        solution = solution_of(minimum, problem)
        good = solution.converged & torch.isfinite(solution.cost)
        point = torch.cat([solution.whitened, solution.linear], dim=1)
        made.append(torch.where(good[:, None], point, torch.nan))
    points = torch.cat(made).view(len(task.whitened), replicas, -1)
    return physical_points(points, task.problem, task.cutouts)


def _about(normal: Normal, whitened: Tensor, pull: Tensor) -> Normal:
    """A problem with a shifted prior centre; ``pull`` (b, P) is the centre times the weight.

    A constant of the cost is omitted.
    """
    cost = normal.cost - (pull * whitened).sum(dim=1)
    return replace(normal, cost=cost, gradient=normal.gradient - pull)


def _replicas(task: _Task, pairs: Tensor, about: Linearised | None) -> tuple[Tensor, Problem]:
    """Return prior centres (b, P) and the problem of replicas, numbered galaxy by galaxy.

    ``about`` has the best model, for new noise; None resamples pixels.
    """
    galaxies = pairs // task.options.replicas
    problem = task.problem[galaxies]
    images = [(p.data.clone(), p.weight.clone()) for p in _pixels_of(problem)]
    centres = []
    for k, pair in enumerate(pairs.tolist()):
        i, replica = divmod(pair, task.options.replicas)
        kept = [weight[k] > 0 for _, weight in images]
        counts = [int(used.sum()) for used in kept]
        centre, numbers = task.random(i, replica, sum(counts))
        centres.append(centre)
        for number, ((data, weight), used, own) in enumerate(
            zip(images, kept, numbers.split(counts), strict=True)
        ):
            own = own.to(weight)
            if about is None:
                weight[k, used] *= own.sqrt()
            else:  # new noise replaces the noise of the data
                residual = about.images[number].residual[i, used]
                data[k, used] += (own - residual) / weight[k, used]
    centre = torch.stack(centres).to(task.whitened)
    if about is not None:
        centre = centre + task.whitened[galaxies]
    new = [
        replace(p, data=data, weight=weight)
        for p, (data, weight) in zip(_pixels_of(problem), images, strict=True)
    ]
    terms = zip(problem.exposures, new[1:], strict=True)
    exposures = tuple(replace(term, pixels=pixels) for term, pixels in terms)
    return centre, replace(problem, pixels=new[0], exposures=exposures)
