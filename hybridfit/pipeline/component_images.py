"""Images of each component of a model alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hybridfit.data.cutouts import Cutouts
from hybridfit.model.parameters import ParameterSpace
from hybridfit.pipeline.measure import model_images


def images_of_components(
    theta: Tensor, cutouts: Cutouts, space: ParameterSpace, convolution: str = "continuous"
) -> NDArray[np.float32]:
    """Return the images (B, M, H, W) of each component, without the sky.

    They are NaN where a galaxy has no fit, or fewer components.

    Args:
        theta: (B, Q) physical parameters in cutout pixels, in the order of the names of ``space``.
        cutouts: B galaxies.
        space: of the parameters; it has M components.
        convolution: how PSFs are convolved, see `FitOptions`.
    """
    images, first = [], 0
    for component in space.components:
        last = first + len(component.parameters)
        alone = replace(space, components=(replace(component, name=""),), links=None)
        n_sky = len(alone.names) - (last - first)
        own = torch.cat([theta[:, first:last], theta.new_zeros(len(theta), n_sky)], dim=1)
        images.append(model_images(own, cutouts, alone, convolution))
        first = last
    return np.stack(images, axis=1)
