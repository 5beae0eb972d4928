"""The light of each component at a fit, and what remains of the image."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hybridfit.batch import Batch
from hybridfit.fitting.problem import Problem


@dataclass(frozen=True)
class Light(Batch):
    """The models of B galaxies, pixel by pixel, in the problem's units of the noise.

    Args:
        components: (B, K, H, W) light of each component.
        residual: (B, H, W) data minus all components and the sky, over each pixel's noise; 0 where
            masked.
    """

    components: Tensor
    residual: Tensor


def light_of(problem: Problem, whitened: Tensor, linear: Tensor) -> Light:
    """Return the light of B galaxies at points of their parameters.

    Args:
        problem: of B galaxies.
        whitened, linear: (B, P) and (B, F); NaN gives NaN.
    """
    rows = torch.arange(len(whitened), device=whitened.device)
    coords, terms = problem.located(whitened, linear, rows)
    n, pixels = problem.space.n_components, problem.pixels
    components, residuals = [], []
    for pick, used, images in problem.images(coords, rows, jacobian=False):
        some = pick[:used]
        level = terms[some].to(pixels.data)
        light = torch.cat([image[:used, :1] for image in images], dim=1) * level[:, :n, None, None]
        sky = torch.einsum("bt,thw->bhw", level[:, n:], pixels.sky)
        rest = pixels.data[some] - light.sum(dim=1) - sky
        components.append(light)
        residuals.append(rest * pixels.weight[some])
    return Light(torch.cat(components), torch.cat(residuals))
