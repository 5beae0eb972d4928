"""A point source: its image is the PSF."""

from __future__ import annotations

from torch import Tensor

from hybridfit.model.profiles.base import Profile, Values


class PointSource(Profile):
    """A point source, which has a position and a flux alone."""

    is_radial = False

    @property
    def coordinates(self) -> tuple[str, ...]:
        """Names of the render coordinates: the centre alone."""
        return ("x", "y")

    def evaluate(self, rho: Tensor, *shape: Tensor) -> Tensor:
        """Raise TypeError: a point has no surface brightness."""
        raise TypeError("a point source has no surface brightness: its image is the PSF")

    def from_native(self, native: Values) -> dict[str, Tensor]:
        """Return nothing: a point has neither size nor shape."""
        return {}
