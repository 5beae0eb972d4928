"""The work unit of a catalogue: cutouts of an image, measured as any others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hybridfit.io.read_cutout import Cutout
from hybridfit.io.sources import Source
from hybridfit.mosaic.field import FieldFiles, opened_field
from hybridfit.pipeline.fit_files import FitWork


@dataclass(frozen=True)
class FieldSource(Source):
    """A source of an image.

    Args:
        side: of its cutout, pixels.
    """

    side: int = 64


@dataclass(frozen=True)
class CatalogWork(FitWork):
    """Fits of the sources of an image.

    Args:
        read, run, fit, errors, digest: see `FitWork`.
        field: the image and its PSF.
    """

    field: FieldFiles

    @property
    def options(self) -> dict[str, Any]:
        """The options by section."""
        own: Mapping[str, Any] = {"survey": self.field.survey}
        return {**super().options, **own}

    def read_cutout(self, source: Source) -> Cutout:
        """Read one source; raises `BadInput`."""
        side = source.side if isinstance(source, FieldSource) else FieldSource.side
        x, y = source.start[:2]
        return opened_field(self.field).cutout(source.id, x, y, side)

    def files(self, source: Source) -> list[str]:
        """Return the files whose change is a change of the row."""
        return self.field.paths()
