"""A profile as a user would write it, to be named ``profiles_of_users:Moffat``."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hybridfit.model.profiles import Profile


class Moffat(Profile):
    """(1 + c rho^2)^-beta, scaled so that the size is the half-light radius."""

    shape = ("beta",)

    def evaluate(self, rho: Tensor, *shape: Tensor) -> Tensor:
        """Unit-flux brightness at ``rho`` = radius / half-light radius, slope ``beta`` > 1."""
        (beta,) = shape
        c = torch.exp(math.log(2) / (beta - 1)) - 1
        return (beta - 1) * c / math.pi * (1 + c * rho**2) ** -beta
