"""Quasi-random numbers of each galaxy's own, the same in any batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hybridfit.npe.draws import own_noise
from hybridfit.sampling.student_t import sobol_points


@dataclass(frozen=True)
class Numbers:
    """Quasi-random numbers, each galaxy's own turn of the same points.

    Args:
        turn: (B, 1, P + L) shifts in [0, 1).
        n_nonlinear: P.
        seed: of the points.
    """

    turn: Tensor
    n_nonlinear: int
    seed: int

    @classmethod
    def of(
        cls, ids: Sequence[str], n_nonlinear: int, n_linear: int, seed: int, like: Tensor
    ) -> Numbers:
        """Return the numbers of galaxies of these names, on the device of ``like``."""
        normal = own_noise(ids, 1, n_nonlinear + n_linear, seed, 0).double()
        return cls(torch.special.ndtr(normal).to(like.device), n_nonlinear, seed)

    def take(self, rows: Tensor, count: int, skip: int) -> tuple[Tensor, Tensor]:
        """Numbers (b, S, P + 1) in (0, 1) for a t, and standard normal ones (b, S, L)."""
        base = sobol_points(count, self.turn.shape[2] + 1, self.seed, skip).to(self.turn)
        turned = ((base[None, :, :-1] + self.turn[rows]) % 1.0).clamp(1e-12, 1 - 1e-12)
        radial = base[None, :, -1:].expand(len(rows), -1, -1)
        whitened = torch.cat([turned[..., : self.n_nonlinear], radial], dim=2)
        return whitened, torch.special.ndtri(turned[..., self.n_nonlinear :])
