"""Each image of a batch at its fits: what the terms of the error budget look at, one by one."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from hybridfit.batch import Batch
from hybridfit.data.cutouts import Cutouts
from hybridfit.fitting.image_term import ImageTerm
from hybridfit.fitting.linearised import ImageColumns, Linearised
from hybridfit.fitting.problem import Problem


@dataclass(frozen=True)
class ImageView(Batch):
    """One image of B galaxies at their fits.

    Args:
        problem: with this image alone.
        cutouts: likewise.
        coords: (B, C) render coordinates in this image.
        flux: (B, K) of each component, units of this image's noise.
        pixels: derivatives, residuals and light in it.
        term: None for the first image.
    """

    problem: Problem
    cutouts: Cutouts
    coords: Tensor
    flux: Tensor
    pixels: ImageColumns
    term: ImageTerm | None = None

    def without_sky(self, modes: Tensor) -> Tensor:
        """Return modes (B, M, H, W) over sigma, of an exposure without what its own sky takes."""
        if self.term is None:
            return modes
        return self.term.without_sky(modes, torch.arange(len(modes), device=modes.device))


def image_views(problem: Problem, cutouts: Cutouts, about: Linearised) -> list[ImageView]:
    """Return the first image, then each exposure.

    Args:
        problem: of B galaxies.
        cutouts: the same galaxies.
        about: their models about their fits.
    """
    coords, _ = problem.space.from_whitened(about.whitened, problem.constants)
    alone, images = replace(problem, exposures=()), cutouts.single_images()
    views = [ImageView(alone, images[0], coords, about.flux, about.images[0])]
    others = zip(problem.exposures, images[1:], about.exposures, strict=True)
    for term, image, pixels in others:
        placed, _ = term.frame.place(coords, problem.space.slices())
        flux = about.flux * term.frame.gain[:, None]
        views.append(ImageView(problem.alone(term), image, placed, flux, pixels, term))
    return views
