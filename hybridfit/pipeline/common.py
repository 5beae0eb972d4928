"""What fitting from memory and from files share: rendering, metadata, checks of options."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hybridfit.cutouts import Cutouts
from hybridfit.fitting.fit import FitOptions, fit_cutouts
from hybridfit.model.render import render
from hybridfit.results import Fit
from hybridfit.uncertainty.covariance import quote_covariance

RENDER_AT_ONCE = 16  # galaxies: bounds memory


def measure(
    cutouts: Cutouts,
    options: FitOptions,
    device: torch.device,
    compile: bool | None = None,
    uncertainty: str = "covariance",
) -> Fit:
    """Fit a batch and give it the errors that are asked for."""
    check_choices(uncertainty)
    return quote_covariance(fit_cutouts(cutouts, options, device, compile))


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


def check_choices(uncertainty: str, start: str = "moments") -> None:
    """Raise ValueError for a way to errors or to a start that is not there."""
    for name, value, known in (
        ("uncertainty", uncertainty, ("covariance",)),
        ("start", start, ("moments",)),
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
