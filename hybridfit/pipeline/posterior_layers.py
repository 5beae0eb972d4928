"""What lies under the draws of a corner plot: the network's posterior and the fit's Gaussian."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hybridfit.data.cutouts import Cutouts
from hybridfit.data.errors import UsageError
from hybridfit.data.fit import Fit
from hybridfit.data.positions import in_cutout, parent_shift
from hybridfit.fitting.fitted import rebuilt
from hybridfit.fitting.options import FitOptions
from hybridfit.model.parameters import ParameterSpace
from hybridfit.npe.posterior import predict_cutouts
from hybridfit.pipeline.measure import starting_network
from hybridfit.plots import DrawsLayer, GaussianLayer
from hybridfit.plots.layers import Layer

N_DRAWS = 1024  # of the network


def network_layers(cutouts: Cutouts, options: FitOptions, run: Mapping[str, Any]) -> list[Layer]:
    """Return draws of the network's posterior; nothing where it does not know these parameters.

    Args:
        cutouts: one galaxy.
        options: it was fitted with.
        run: options of the run: which network, and its weights.

    Raises:
        UsageError: if the network cannot be read.
    """
    start = run.get("initial_values", "network")
    if options.space.names != ParameterSpace().names or cutouts.psf is None:
        return []
    try:
        network = starting_network(start, run.get("weights"))
    except (OSError, ValueError) as error:
        raise UsageError(f"the run's network cannot be read: {error}") from error
    if network is None or network.target_columns:
        return []
    posterior = predict_cutouts(cutouts, network, N_DRAWS)
    moved = parent_shift(posterior.space.names, cutouts.origin)
    return [DrawsLayer("network", posterior.samples[0].numpy() + moved.numpy())]


def laplace_layer(theta: NDArray[np.float64], cutouts: Cutouts, options: FitOptions) -> Layer:
    """Return the Gaussian of the curvature at the fit, whatever errors the run quotes.

    Args:
        theta: (Q,) fitted parameters, in pixels of the image as given.
        cutouts: one galaxy.
        options: it was fitted with.
    """
    space = options.space
    own = in_cutout(torch.from_numpy(theta)[None], space.names, cutouts.origin)
    nothing = torch.full((1, len(space.names), len(space.names)), torch.nan, dtype=torch.float64)
    zero = torch.zeros(1, dtype=torch.int64)
    fit = Fit(space, own, nothing, nothing[:, 0, 0], zero, zero, zero)
    with torch.inference_mode():
        about = next(rebuilt(fit, cutouts, options)).linearise()
        covariance = about.to_physical @ about.covariance @ about.to_physical.mT
    return GaussianLayer("Laplace approximation", theta, covariance[0].numpy())
