"""The network's posterior as a density that can be evaluated at any point."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from hybridfit.batch import Batch
from hybridfit.data.diagnostics import NetworkDiagnostics
from hybridfit.data.draws_batch import DrawsBatch, per_draw
from hybridfit.data.samples import Posterior
from hybridfit.model.parameters import ParameterSpace
from hybridfit.model.scene_values import SceneValues
from hybridfit.npe.coordinates import FlowCoordinates
from hybridfit.npe.frame import Frame, encode_coords, log_jacobian
from hybridfit.npe.laplace import Laplace
from hybridfit.npe.network import Estimator


@dataclass(frozen=True)
class FlowDensity(Batch):
    """q(u, ln fluxes, sky | pixels) of B galaxies.

    Args:
        estimator: the network, on the device of the others.
        context: (B, c) float32, its context of each galaxy; NaN where there are no pixels.
        frame: of the same galaxies.
        seen: (B,) bool, whether there are pixels.
        space: whose whitened coordinates u the density is quoted in.
        laplace: about which the flow works, where the network refines its initial estimate.
        scenes: of ``space``, where something is tied in it.
    """

    estimator: Estimator
    context: Tensor
    frame: Frame
    seen: Tensor
    space: ParameterSpace
    laplace: Laplace | None = None
    scenes: SceneValues | None = None

    @property
    def coordinates(self) -> FlowCoordinates:
        """What the flow's coordinates are."""
        return self.estimator.coordinates

    def to_flow(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """The flow's own variable z (B, S, T) of coordinates t (B, S, T), ln |d z / d t| (B, S)."""
        log_slope = torch.zeros_like(t[..., 0])
        if self.laplace is not None:
            t = self.laplace.whiten(t)
            log_slope = self.laplace.log_slope(t)
        z = self.estimator.standardised(t)
        return z.float(), log_slope + self.estimator.log_scale.to(log_slope)

    def from_flow(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Coordinates t (B, S, T) of the flow's own variable z (B, S, T), ln |d z / d t| (B, S)."""
        t = self.estimator.original(z).double()
        log_slope = torch.zeros_like(t[..., 0])
        if self.laplace is not None:
            t, log_slope = self.laplace.original(t), self.laplace.log_slope(t)
        return t, log_slope + self.estimator.log_scale.to(log_slope)

    @torch.inference_mode()
    def log_prob(self, coords: Tensor, linear: Tensor) -> Tensor:
        """Return the log density in (u, ln fluxes, sky), (B, S) float64; -inf where it vanishes.

        Args:
            coords: (B, S, C) render coordinates, cutout pixels.
            linear: (B, S, L) fluxes and sky per pixel, image units.
        """
        b, s, _ = coords.shape
        t, good = self._encode(coords, linear)
        z, log_slope = self.to_flow(t.view(b, s, -1))
        value = self.estimator.flow.log_prob_of(z, self.context).double()
        value = value + log_slope + self.log_jacobian(t, coords.flatten(0, 1), s).view(b, s)
        drawn = good
        for column, largest in self.coordinates.largest.items():
            drawn = drawn & (t[:, column] < largest)  # no draws lie beyond
        return torch.where(drawn.view(b, s) & torch.isfinite(value), value, -torch.inf)

    @torch.inference_mode()
    def distance(self, coords: Tensor, linear: Tensor) -> Tensor:
        """Return sqrt(mean z^2) of points in the flow's normal space, about 1 for draws.

        Args:
            coords: (B, C) render coordinates, cutout pixels.
            linear: (B, L) fluxes and sky per pixel, image units.

        Returns:
            (B,) float64, NaN without a posterior of the network or without a point.
        """
        t, good = self._encode(coords[:, None], linear[:, None])
        own, _ = self.to_flow(t[:, None])
        z = self.estimator.flow.to_normal(own, self.context)[:, 0].double()
        return torch.where(good, (z**2).mean(dim=1).sqrt(), torch.nan)

    def log_jacobian(self, t: Tensor, coords: Tensor, s: int) -> Tensor:
        """Return `hybridfit.npe.frame.log_jacobian` (B S,) of S points of each galaxy.

        Args:
            t: (B S, T).
            coords: (B S, C) render coordinates of t.
            s: S.
        """
        each = torch.arange(len(self.context), device=t.device).repeat_interleave(s)
        scenes = None if self.scenes is None else self.scenes[each]
        return log_jacobian(t, coords, self.frame[each], self.space, self.coordinates, scenes)

    def _encode(self, coords: Tensor, linear: Tensor) -> tuple[Tensor, Tensor]:
        """Coordinates t (B S, T), and whether the point is valid (B S,)."""
        b, s, _ = coords.shape
        frame = self.frame[torch.arange(b, device=coords.device).repeat_interleave(s)]
        coords, linear = coords.flatten(0, 1), linear.flatten(0, 1)
        good = (linear[:, :-1] > 0).all(dim=1) & torch.isfinite(coords).all(dim=1)
        flux = torch.where(good[:, None], linear[:, :-1], 1.0)
        safe = torch.where(good[:, None], coords, 0.0)
        safe_linear = torch.cat([flux, linear[:, -1:]], dim=1)
        return encode_coords(safe, safe_linear, frame, self.coordinates), good


@dataclass(frozen=True)
class NetworkDraws(DrawsBatch):
    """Draws of the network's posterior as they were made, with the density they came from.

    A fit starts from their coordinates and importance sampling proposes them: neither has to
    invert physical parameters.

    Args:
        density: that was drawn from.
        coords: (B, S, C) float64 render coordinates, cutout pixels; NaN for a galaxy without draws.
        linear: (B, S, L) float64 fluxes and sky per pixel, image units.
        log_prob: (B, S) float64 ln density of each draw in (u, ln fluxes, sky).
        zeropoint: (B,) mag.
        diagnostics: how well the network knows the galaxies.
    """

    density: FlowDensity
    coords: Tensor = field(metadata=per_draw())
    linear: Tensor = field(metadata=per_draw())
    log_prob: Tensor = field(metadata=per_draw())
    zeropoint: Tensor
    diagnostics: NetworkDiagnostics

    @cached_property
    def posterior(self) -> Posterior:
        """The same in physical parameters, on the CPU."""
        space, (batch, count, _) = self.density.space, self.coords.shape
        zeropoint = self.zeropoint.double().repeat_interleave(count)
        flat = self.coords.flatten(0, 1), self.linear.flatten(0, 1)
        theta, _ = space.to_physical(*flat, zeropoint)
        samples = theta.view(batch, count, len(space.names))
        about = self.diagnostics.to("cpu")
        return Posterior(space, samples.cpu(), log_prob=self.log_prob.cpu(), diagnostics=about)
