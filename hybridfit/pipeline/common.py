"""What fitting from memory and from files share: rendering, metadata, checks of options."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hybridfit.cutouts import Cutouts
from hybridfit.fitting.fit import FitOptions, fit_cutouts
from hybridfit.model.render import render
from hybridfit.npe.network import Estimator
from hybridfit.npe.posterior import load_estimator, packaged_estimator
from hybridfit.pipeline.seeding import posterior_of, starts_from
from hybridfit.results import Fit, Flag
from hybridfit.uncertainty.agreement import disagreement, disagreement_flags
from hybridfit.uncertainty.covariance import quote_covariance

STARTS = ("posterior", "moments")
RENDER_AT_ONCE = 16  # galaxies: bounds memory


Clock = Callable[[str], AbstractContextManager[Any]]


def no_clock(what: str) -> AbstractContextManager[Any]:
    """A clock that does not run."""
    return nullcontext()


def starting_network(start: str, weights: str | None = None) -> Estimator | None:
    """The network that fits start from, or None for moments.

    Args:
        start: "posterior" or "moments".
        weights: folder of a network's weights; default the package's own.

    Raises:
        FileNotFoundError: if the weights are not there.
    """
    if start == "moments":
        return None
    return packaged_estimator() if weights is None else load_estimator(weights)


def measure(
    cutouts: Cutouts,
    options: FitOptions,
    device: torch.device,
    compile: bool | None = None,
    uncertainty: str = "covariance",
    estimator: Estimator | None = None,
    clock: Clock = no_clock,
) -> Fit:
    """Fit a batch and give it the errors that are asked for.

    Args:
        cutouts: B galaxies.
        options, device, compile: see `fit_cutouts`.
        uncertainty: where errors come from.
        estimator: network whose posterior the fits start from; None for the image's moments.
        clock: context manager that is told what is being done.
    """
    check_choices(uncertainty)
    posterior, starts = None, None
    if estimator is not None and cutouts.psf is not None:
        with clock("predicting"):
            posterior = posterior_of(cutouts, estimator, device, options.prior)
            starts = starts_from(posterior, cutouts)
    with clock("fitting"):
        fit = quote_covariance(fit_cutouts(cutouts, options, device, compile, starts))
        if posterior is None:
            return fit
        flags = fit.flags | posterior.flags & int(Flag.UNFAMILIAR)
        if options.components == ("sersic",):
            distance = disagreement(fit, posterior, cutouts.zeropoint.cpu())
            flags = flags | disagreement_flags(distance)
        return replace(fit, flags=flags)


def model_images(theta: Tensor, cutouts: Cutouts, options: FitOptions) -> NDArray[np.float32]:
    """Model images (B, H, W); galaxies without a fit are NaN."""
    images = torch.full(cutouts.image.shape, torch.nan)
    fitted = torch.isfinite(theta).all(dim=1).nonzero()[:, 0].cpu()
    for rows in fitted.split(RENDER_AT_ONCE):
        part = cutouts[rows.tolist()]
        galfit = options.convolution == "galfit"
        images[rows] = render(
            theta[rows], part, options.space, options.profiles, galfit=galfit
        ).cpu()
    return images.numpy()


def versions() -> dict[str, str]:
    """Versions of what shapes the numbers."""
    packages = ("hybridfit", "torch", "numpy", "scipy", "astropy", "photutils")
    return {name: version(name) for name in packages}


def metadata(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The table's metadata, under names that a FITS header takes; no date, so that it repeats."""
    used = versions()
    return {
        "CREATOR": f"hybridfit {used['hybridfit']}",
        "OPTIONS": json.dumps(settings),
        "VERSIONS": json.dumps(used),
    }


def check_choices(uncertainty: str, start: str = "posterior") -> None:
    """Raise ValueError for a way to errors or to a start that is not there."""
    for name, value, known in (
        ("uncertainty", uncertainty, ("covariance",)),
        ("start", start, STARTS),
    ):
        if value not in known:
            raise ValueError(f"{name} is '{value}', expected one of {', '.join(known)}")


def usable_device(name: str | torch.device) -> torch.device:
    """The device if it is there, else ValueError."""
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        first = str(error).strip().splitlines()[0]
        raise ValueError(f"device '{name}' cannot be used: {first}") from error
    return device
