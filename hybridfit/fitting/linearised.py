"""The model about a point: its derivatives in every pixel, for what looks beyond chi2.

    model(c + d) = model(c) + J d,   c = (whitened u of each component, fluxes, sky terms)

Error terms and one-step refits are algebra with J, the residuals and the prior.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hybridfit.batch import Batch
from hybridfit.data.cutouts import Cutouts
from hybridfit.data.fit import Fit
from hybridfit.fitting.image_term import ImageTerm
from hybridfit.fitting.problem import Problem, RenderPoint
from hybridfit.fitting.solution import flux_units, physical, solve
from hybridfit.rendering.design_matrix import linear_columns, shape_columns


@dataclass(frozen=True)
class ImageColumns(Batch):
    """The model of B galaxies in one image, in units of each pixel's noise, 0 where masked.

    Args:
        columns: (B, C, H, W) d model / d c over sigma.
        residual: (B, H, W) (data - model) over sigma.
        light: (B, H, W) the components' model over sigma, without the sky.
    """

    columns: Tensor
    residual: Tensor
    light: Tensor

    def scaled(self, factor: Tensor) -> ImageColumns:
        """Return the same with 1 / sigma times ``factor`` (B,)."""
        by = factor.to(self.columns.dtype)[:, None, None]
        return ImageColumns(self.columns * by[:, None], self.residual * by, self.light * by)


@dataclass(frozen=True)
class Linearised(Batch):
    """The model of B galaxies about their fits, in units of each pixel's noise.

    Args:
        columns: (B, C, H, W) d model / d c over sigma, 0 where masked; less what the problem's
            nuisances take up.
        residual: (B, H, W) (data - model) over sigma, 0 where masked.
        information: (B, C, C) float64 J^T W J of all images, without the prior.
        prior: (B, C, C) float64 precision of the prior.
        whitened: (B, P) float64, where the derivatives are taken; NaN for a galaxy without a fit.
        linear: (B, F) float64 free fluxes and sky terms, units of the noise.
        flux: (B, K) float64 of each component, units of the noise.
        light: (B, H, W) the components' model over sigma, without the sky.
        to_physical: (B, Q, C) float64 derivatives of the physical parameters by c.
        exposures: of further images, their own sky projected out of columns and residual.
    """

    columns: Tensor
    residual: Tensor
    information: Tensor
    prior: Tensor
    whitened: Tensor
    linear: Tensor
    flux: Tensor
    light: Tensor
    to_physical: Tensor
    exposures: tuple[ImageColumns, ...] = ()

    @property
    def images(self) -> tuple[ImageColumns, ...]:
        """The first image, then each exposure."""
        return (ImageColumns(self.columns, self.residual, self.light), *self.exposures)

    @property
    def covariance(self) -> Tensor:
        """(B, C, C) inverse of information and prior."""
        matrix = self.information + self.prior
        eye = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
        return solve(matrix, eye.expand_as(matrix))


def whitened_point(fit: Fit, problem: Problem, cutouts: Cutouts) -> tuple[Tensor, Tensor]:
    """Free (B, P) and linear (B, L) parameters, in the problem's terms, of a fit.

    Args:
        fit: of the B galaxies of ``problem``.
        problem: see `hybridfit.fitting.build_problem.prepared`.
        cutouts: the same galaxies.
    """
    space = problem.space
    theta = fit.theta.to(problem.pixels.background)
    coords, linear = space.from_physical(theta, cutouts.zeropoint)
    linear = linear[:, : space.n_terms].clone()
    if space.n_sky:
        linear[:, space.n_components] -= problem.pixels.background
    terms = torch.linalg.solve(flux_units(problem, cutouts), linear[:, :, None])
    whitened = space.to_whitened(coords, problem.constants)
    if problem.terms is None:
        return whitened, terms[:, :, 0]
    offset = problem.terms.at(coords)[:, :, None]
    return whitened, torch.linalg.lstsq(problem.terms.span, terms - offset).solution[:, :, 0]


def linearise(
    problem: Problem, cutouts: Cutouts, whitened: Tensor, linear: Tensor | None = None
) -> Linearised:
    """Return the model's derivatives about points, one for each galaxy.

    Args:
        problem: of B galaxies.
        cutouts: the same galaxies.
        whitened: (B, P) float64; NaN gives NaN.
        linear: (B, L) units of the noise; default the best at ``whitened``.
    """
    space, pixels = problem.space, problem.pixels
    rows = torch.arange(len(whitened), device=whitened.device)
    best = problem.profile(whitened, rows).linear if linear is None else linear
    here = problem.expand(whitened, best, rows)
    columns, residuals, lights = [], [], []
    for pick, used, images in problem.images(here.coords, rows, jacobian=True):
        images, own = [image[:used] for image in images], here[pick[:used]]
        one, other, light = _columns(images, own, pixels.sky, problem.terms is None)
        weight = pixels.weight[pick[:used]]
        columns.append(one * weight[:, None])
        residuals.append((pixels.data[pick[:used]] - other) * weight)
        lights.append(light * weight)
    column, residual = torch.cat(columns), torch.cat(residuals)
    exposures = tuple(_exposure(problem, term, here) for term in problem.exposures)
    if problem.nuisances is None:
        information = sum_of_squares([column, *(other.columns for other in exposures)])
    else:
        flat, column = column.flatten(2), problem.nuisances.without(column)
        information = (flat @ column.flatten(2).mT).double()
    n_nonlinear, total = space.n_nonlinear, column.shape[1]
    precision = torch.zeros(total, dtype=whitened.dtype, device=whitened.device)
    precision[:n_nonlinear] = problem.prior_weight or 1e-6
    return Linearised(
        column,
        residual,
        information,
        torch.diag(precision).expand_as(information),
        whitened,
        best,
        here.terms[:, : space.n_components],
        torch.cat(lights),
        physical(whitened, best, problem, cutouts)[1],
        exposures,
    )


def sum_of_squares(columns: Sequence[Tensor]) -> Tensor:
    """Return J^T J (B, C, C) float64, summed over images of columns (B, C, H, W)."""
    flat = [one.flatten(2) for one in columns]
    first, *others = [(one @ one.transpose(1, 2)).double() for one in flat]
    for other in others:
        first = first + other
    return first


def _exposure(problem: Problem, term: ImageTerm, here: RenderPoint) -> ImageColumns:
    """Return the derivatives of `linearise` in a further image."""
    n_coords, n_flux = problem.space.n_coords, problem.space.n_components
    placed, slope = term.frame.place(here.coords, problem.space.slices())
    by_coords = slope @ here.jacobian[:, :n_coords]
    by_flux = here.jacobian[:, n_coords : n_coords + n_flux] * term.frame.gain[:, None, None]
    flux = here.terms[:, :n_flux] * term.frame.gain[:, None]
    there = RenderPoint(placed, flux, torch.cat([by_coords, by_flux], dim=1))
    rows = torch.arange(len(flux), device=flux.device)
    pieces = []
    for pick, used, images in problem.alone(term).images(placed, rows, jacobian=True):
        some = pick[:used]
        own, light, _ = _columns(
            [image[:used] for image in images], there[some], term.pixels.sky[:0], untied=False
        )
        weight = term.pixels.weight[some]
        columns = torch.cat([own, (term.pixels.data[some] - light)[:, None]], dim=1)
        columns = term.without_sky(columns * weight[:, None], some)
        pieces.append(ImageColumns(columns[:, :-1], columns[:, -1], light * weight))
    return ImageColumns.cat(pieces)


def _columns(
    images: list[Tensor], here: RenderPoint, sky: Tensor, untied: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Return derivatives, the model, and the model without the sky.

    Args:
        images: of each component, see `component_images`.
        here: the points.
        sky: (T, H, W) terms.
        untied: whether fluxes and sky are all free, which spares their columns a product.

    Returns:
        (b, P + F, H, W) by whitened and linear parameters, (b, H, W) and (b, H, W).
    """
    dtype = images[0].dtype
    level = here.terms.to(dtype)
    shapes = torch.cat(shape_columns(images, level[:, : len(images)]), dim=1)
    terms = torch.cat(linear_columns(images, sky), dim=1)
    n = len(images)
    light = torch.einsum("bl,blhw->bhw", level[:, :n], terms[:, :n])
    model = light + torch.einsum("bl,blhw->bhw", level[:, n:], terms[:, n:])
    jacobian = here.jacobian.to(dtype)
    n_coords, n_linear = shapes.shape[1], terms.shape[1]
    if untied:
        chain = jacobian[:, :n_coords, :-n_linear]
        whitened = torch.einsum("bphw,bpf->bfhw", shapes, chain)
        return torch.cat([whitened, terms], dim=1), model, light
    both = torch.cat([shapes, terms], dim=1)
    return torch.einsum("bphw,bpf->bfhw", both, jacobian), model, light
