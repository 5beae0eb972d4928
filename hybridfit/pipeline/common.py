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
from hybridfit.fitting.fit import FitOptions
from hybridfit.model.images import render


def model_images(theta: Tensor, cutouts: Cutouts, options: FitOptions) -> NDArray[np.float32]:
    """Model images; galaxies without a fit are NaN."""
    fitted = torch.isfinite(theta).all(dim=1)
    images = torch.full(cutouts.image.shape, torch.nan, device=cutouts.image.device)
    if fitted.any():
        index = fitted.nonzero()[:, 0].tolist()
        part = render(theta[fitted], cutouts[index], options.space, options.profiles)
        images[fitted] = part
    return images.cpu().numpy()


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


def check_choices(uncertainty: str, start: str) -> None:
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
