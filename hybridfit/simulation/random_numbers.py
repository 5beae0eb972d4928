"""Random numbers of the simulator: one generator, on the device that renders."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from hybridfit.model.parameters import ParameterSpace

Range = tuple[float, float]  # low, high


@dataclass(frozen=True)
class Random:
    """Draws from one generator; the same seed and device give the same numbers."""

    generator: torch.Generator
    device: torch.device

    @classmethod
    def seeded(cls, seed: int, device: torch.device) -> Random:
        """A fresh source of random numbers."""
        return cls(torch.Generator(device).manual_seed(seed), device)

    def normal(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """Standard normal numbers."""
        return torch.randn(shape, generator=self.generator, device=self.device, dtype=dtype)

    def uniform(self, limits: Range, *shape: int) -> Tensor:
        """Uniform between the limits, float64 as all that describes galaxies."""
        unit = torch.rand(shape, generator=self.generator, device=self.device, dtype=torch.float64)
        return limits[0] + (limits[1] - limits[0]) * unit

    def log_uniform(self, limits: Range, *shape: int) -> Tensor:
        """Uniform in the logarithm."""
        return torch.exp(self.uniform((math.log(limits[0]), math.log(limits[1])), *shape))

    def integers(self, high: int, *shape: int) -> Tensor:
        """0 ... high - 1, int64."""
        return torch.randint(high, shape, generator=self.generator, device=self.device)

    def chance(self, probability: float | Tensor, n: int) -> Tensor:
        """(n,) bool, True with the probability."""
        return self.uniform((0.0, 1.0), n) < probability

    def one_of(self, weights: tuple[float, ...], n: int) -> Tensor:
        """(n,) int64, i with a probability in proportion to ``weights[i]``."""
        edges = torch.tensor(weights, dtype=torch.float64, device=self.device).cumsum(0)
        place = self.uniform((0.0, 1.0), n) * edges[-1]
        return torch.searchsorted(edges, place, right=True).clamp_max(len(weights) - 1)


def per_image(value: Tensor, like: torch.dtype = torch.float32) -> Tensor:
    """(B,) numbers as (B, 1, 1), to meet images."""
    return value.to(like)[:, None, None]


def turned_images(images: Tensor, turn: Tensor) -> Tensor:
    """Mirror and turn square images, each in its own one of the eight ways.

    Args:
        images: (B, S, S).
        turn: (B,) int64 bits: 1 mirrors the columns, 2 the rows, then 4 swaps x and y.

    Returns:
        (B, S, S), a new tensor.
    """
    result = torch.empty_like(images)
    for way in range(8):  # copies of groups are several times quicker than choosing by pixel
        rows = (turn == way).nonzero()[:, 0]
        some = images[rows].flip([axis for bit, axis in ((1, -1), (2, -2)) if way & bit])
        result[rows] = some.transpose(-1, -2) if way & 4 else some
    return result


def turned_theta(
    theta: Tensor, side: Tensor, turn: Tensor, space: ParameterSpace = ParameterSpace()
) -> Tensor:
    """Physical parameters (B, Q) of galaxies whose cutouts `turned_images` turned.

    Args:
        theta: (B, Q) in the order of the names of ``space``.
        side: (B,) of the cutouts, pixels.
        turn: (B,) as there.
        space: of the parameters; default one Sersic profile and a sky.
    """
    result = theta.clone()
    mirrored = ((turn & 1) > 0) ^ ((turn & 2) > 0)
    swapped = (turn & 4) > 0
    for k, component in enumerate(space.components):
        i, j = space.column(k, "x"), space.column(k, "y")
        x = torch.where((turn & 1) > 0, side - 1 - theta[:, i], theta[:, i])
        y = torch.where((turn & 2) > 0, side - 1 - theta[:, j], theta[:, j])
        result[:, i], result[:, j] = torch.where(swapped, y, x), torch.where(swapped, x, y)
        if component.is_ellipse:
            pa = theta[:, space.column(k, "pa")]
            pa = torch.where(mirrored, -pa, pa)
            # twice: a hair below 0 rounds to 180
            pa = torch.where(swapped, 90 - pa, pa) % 180.0 % 180.0
            result[:, space.column(k, "pa")] = pa
    return result
