"""A proposal along the ridge of a posterior: its nodes, each with a Gaussian of its own.

Faint galaxies may be small and flat or large and peaked: along this ridge the posterior bends and
narrows as no ellipse does, and an importance sampler that starts from one never learns of the far
end. Here the index (of several shape parameters the one that is known worst) steps away from the
fit to both sides; at each node the other parameters go to their best, one Newton step on a linear
prediction, and scatter about it as the Hessian there says. The nodes' weights are their integrals,

    w_g = p(u_g) |C_g|^1/2

as in nested Laplace approximations (Rue, Martino & Chopin 2009).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from hybridfit.batch import Batch
from hybridfit.fitting.problem import Problem
from hybridfit.sampling.student_t import StudentT, factor_of

STEPS = 5  # nodes to each side of the fit
SPACING = 0.65  # between nodes, in standard deviations
KERNEL = 0.75  # width of a node along the ridge, in spacings: the sum of all is smooth
MAX_U = 3.0  # nodes end where the prior does
FLOOR = 0.1  # share of the draws that all nodes get alike
TEMPER = 0.8  # of the weights: a node's integral is its own Gaussian's, which may be too narrow
MAX_STEP = 1.0  # of the Newton steps
MAX_FALL = 3.0  # of the cost in one of them: farther the quadratic model is not believed


@dataclass(frozen=True)
class Ridge(Batch):
    """A mixture of G t distributions for each of b galaxies.

    Args:
        log_share: (b, G) of the draws.
        mean, factor: (b, G, P) and (b, G, P, P) of the t distributions, see `StudentT`.
        dof: of all of them.
    """

    log_share: Tensor
    mean: Tensor
    factor: Tensor
    dof: float

    @property
    def student(self) -> StudentT:
        """The b G t distributions, galaxy after galaxy."""
        return StudentT(self.mean.flatten(0, 1), self.factor.flatten(0, 1), self.dof)

    def draw(self, uniform: Tensor) -> Tensor:
        """Draws (b, S, P), in the order of the nodes, of uniform numbers (b, S, P + 1)."""
        b, s, _ = uniform.shape
        nodes = self.log_share.shape[1]
        edges = self.log_share.exp().cumsum(dim=1)
        middle = (torch.arange(s, dtype=edges.dtype, device=edges.device) + 0.5) / s
        node = torch.searchsorted(edges, middle.expand(b, s).contiguous()).clamp_max(nodes - 1)
        index = torch.arange(b, device=node.device)[:, None] * nodes + node
        each = self.student[index.flatten()]
        return each.draw(uniform.flatten(0, 1)[:, None]).view(b, s, -1)

    def log_density(self, points: Tensor) -> Tensor:
        """(b, S) ln of the density at points (b, S, P)."""
        b, nodes = self.log_share.shape
        values = self.student.log_density(points.repeat_interleave(nodes, dim=0))
        return torch.logsumexp(values.view(b, nodes, -1) + self.log_share[..., None], dim=1)

    def reweighted(self, points: Tensor, weights: Tensor) -> Ridge:
        """The same nodes with the shares of the posterior that each explains.

        Args:
            points: (b, S, P) draws with
            weights: (b, S), sum 1.
        """
        b, nodes = self.log_share.shape
        values = self.student.log_density(points.repeat_interleave(nodes, dim=0))
        explained = torch.softmax(values.view(b, nodes, -1) + self.log_share[..., None], dim=1)
        share = (explained.nan_to_num() * weights[:, None]).sum(dim=2)
        share = (1 - FLOOR) * share + FLOOR * self.log_share.exp()
        return replace(self, log_share=torch.log(share / share.sum(dim=1, keepdim=True)))


@dataclass(frozen=True)
class _Nodes(Batch):
    """EvaluatedDraws (m, P), covariances (m, P, P) of all parameters, ln of the integrals (m,)."""

    point: Tensor
    covariance: Tensor
    log_weight: Tensor


def find_ridge(
    problem: Problem, whitened: Tensor, covariance: Tensor, plane: Tensor, rows: Tensor, dof: float
) -> Ridge:
    """Walk along the ridges of galaxies.

    Args:
        problem: of a batch; its prior counts in full.
        whitened: (b, P) the fits of the galaxies ``rows``.
        covariance: (b, P, P) about them.
        plane: (K,) columns of sizes and shapes, among which the widest is walked along.
        rows: (b,).
        dof: of the t distributions.
    """
    nodes, unit, spacing = _walk(problem, whitened, covariance, plane, rows)
    log_weight, means, covariances = _gathered(nodes, unit, spacing)
    return _ridge(log_weight, means, covariances, dof)


def find_ridges(
    problem: Problem,
    whitened: Tensor,
    covariance: Tensor,
    plane: Tensor,
    rows: Tensor,
    dof: float,
) -> Ridge:
    """Walk along the ridges through several modes of each galaxy, and return them as one.

    Args:
        problem, plane, rows, dof: see `find_ridge`.
        whitened: (b, M, P) the modes; NaN where there is none, which the first never is.
        covariance: (b, M, P, P) about them.
    """
    b, m, p = whitened.shape
    exist = torch.isfinite(whitened).all(dim=2)
    pairs = exist.nonzero()
    nodes, unit, spacing = _walk(
        problem, whitened[exist], covariance[exist], plane, rows[pairs[:, 0]]
    )
    parts = _gathered(nodes, unit, spacing)
    g = len(nodes)
    log_weight = whitened.new_full((b, m, g), -torch.inf)
    means = whitened.new_zeros(b, m, g, p)
    covariances = torch.eye(p).to(whitened).expand(b, m, g, p, p).clone()
    log_weight[exist], means[exist], covariances[exist] = parts
    return _ridge(log_weight.flatten(1), means.flatten(1, 2), covariances.flatten(1, 2), dof)


def _walk(
    problem: Problem, whitened: Tensor, covariance: Tensor, plane: Tensor, rows: Tensor
) -> tuple[list[_Nodes], Tensor, Tensor]:
    """Return the nodes of ridges, their directions (b, P) and spacings (b,), see `find_ridge`."""
    problem = replace(problem, prior_weight=1.0)
    b, p = whitened.shape
    variance = torch.diagonal(covariance, dim1=1, dim2=2)
    shapes = plane[1:] if len(plane) > 1 else plane
    column = shapes[variance[:, shapes].argmax(dim=1)]  # (b,)
    unit = torch.nn.functional.one_hot(column, p).to(whitened)
    # beside the fit the widths are its own; where they near the prior's they grow to the far end
    sigma = (unit * variance).sum(dim=1).clamp(1e-6, 1.0).sqrt()
    spacing = SPACING * sigma * torch.sqrt(1 + 2 * sigma**2)
    start = _node(problem, whitened, unit, rows)
    nodes = [start]
    both = torch.cat([unit, unit])
    here = _Nodes.cat([start, start])
    sign = torch.cat([spacing, -spacing])
    twice = torch.cat([rows, rows])
    for _ in range(STEPS):
        ahead = (here.covariance @ both[:, :, None])[:, :, 0]
        slope = ahead / (ahead * both).sum(dim=1, keepdim=True)
        here = _node(problem, here.point + sign[:, None] * slope, both, twice)
        nodes += [here[:b], here[b:]]
    return nodes, unit, spacing


def _node(problem: Problem, guess: Tensor, unit: Tensor, rows: Tensor) -> _Nodes:
    """The best point with the coordinate ``unit`` (m, P) fixed, one Newton step from a guess."""
    there = problem(guess, rows)
    covariance = _inverse(there.hessian)
    conditional = _conditional(covariance, unit)
    step = -(conditional @ there.gradient[:, :, None])[:, :, 0]
    step = torch.nan_to_num(step) * (MAX_STEP / step.abs().amax(dim=1).clamp_min(MAX_STEP))[:, None]
    fall = -0.5 * (step * there.gradient).sum(dim=1)
    p = unit.shape[1]
    value = torch.linalg.eigvalsh(conditional + unit[:, :, None] * unit[:, None, :])
    volume = 0.5 * value.clamp_min(1e-30).log().sum(dim=1)
    linear = torch.linalg.slogdet(there.carry[1][:, p:, p:])[1]
    outside = (guess * unit).sum(dim=1).abs() > MAX_U
    weight = -there.cost + fall.clamp(0, MAX_FALL) + volume - 0.5 * linear
    return _Nodes(guess + step, covariance, torch.where(outside, -torch.inf, weight))


def _inverse(hessian: Tensor) -> Tensor:
    factor = torch.linalg.cholesky_ex(torch.nan_to_num(hessian))[0]
    return torch.cholesky_inverse(factor)


def _conditional(covariance: Tensor, unit: Tensor) -> Tensor:
    """Covariance (m, P, P) with one coordinate fixed."""
    column = (covariance @ unit[:, :, None])[:, :, 0]
    own = (column * unit).sum(dim=1)[:, None, None]
    return covariance - column[:, :, None] * column[:, None, :] / own


def _gathered(nodes: list[_Nodes], unit: Tensor, spacing: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return ln integrals (b, G), means (b, G, P) and covariances (b, G, P, P) of nodes."""
    log_weight = torch.stack([node.log_weight for node in nodes], dim=1)
    log_weight = torch.nan_to_num(log_weight, nan=-torch.inf, posinf=-torch.inf)
    means = torch.stack([node.point for node in nodes], dim=1)
    covariances = []
    for node in nodes:
        column = (node.covariance @ unit[:, :, None])[:, :, 0]
        own = (column * unit).sum(dim=1)[:, None]
        slope = column / own
        width = (KERNEL * spacing[:, None] * slope)[:, :, None]
        covariances.append(_conditional(node.covariance, unit) + width @ width.mT)
    return log_weight, means, torch.stack(covariances, dim=1)


def _ridge(log_weight: Tensor, means: Tensor, covariances: Tensor, dof: float) -> Ridge:
    """Return the mixture of nodes, see `_gathered`."""
    share = torch.softmax(TEMPER * log_weight, dim=1).nan_to_num()
    reachable = torch.isfinite(log_weight).to(share)
    reachable[:, 0] = 1.0
    even = reachable / reachable.sum(dim=1, keepdim=True)
    share = (1 - FLOOR) * share + FLOOR * even
    share = share / share.sum(dim=1, keepdim=True)
    scale = (dof - 2) / dof
    covariance = covariances * scale
    factor = factor_of(covariance.flatten(0, 1)).view_as(covariance)
    return Ridge(torch.log(share), torch.nan_to_num(means), factor, dof)
