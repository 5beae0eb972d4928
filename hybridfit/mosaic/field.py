"""An image with its PSF, from which cutouts of single sources are taken."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from hybridfit.data.flags import Flag
from hybridfit.detection.prepare import Draft, prepare
from hybridfit.io.photometry import Calibration
from hybridfit.io.psf_models.options import PSFOptions
from hybridfit.io.psf_models.read import read_psf_model
from hybridfit.io.read_cutout import Cutout, assemble_cutout
from hybridfit.io.survey.image import SurveyImage
from hybridfit.io.survey.options import SurveyOptions
from hybridfit.io.survey.read import read_survey_image
from hybridfit.psf.model import PSFModel
from hybridfit.rendering.psf_images import PreparedPsf


@dataclass(frozen=True)
class FieldFiles:
    """The files of an image, and how they are read.

    Args:
        image: address of the image.
        survey: see `SurveyOptions`.
        psf: file or directory of its PSF; None to fit without one.
        psf_options: see `PSFOptions`.
    """

    image: str
    survey: SurveyOptions
    psf: str | None
    psf_options: PSFOptions

    def paths(self) -> list[str]:
        """Return the files whose change is a change of the rows."""
        names = ("sigma", "variance", "ivar", "weight", "mask")
        given = [getattr(self.survey, name) for name in names]
        return [path for path in (self.image, *given, self.psf) if path]


@dataclass(frozen=True, eq=False)
class Field:
    """An image and its PSF.

    Args:
        image: see `SurveyImage`.
        psf: by position; None without one.
    """

    image: SurveyImage
    psf: PSFModel | None

    def cutout(self, id: str, x: float, y: float, side: int) -> Cutout:
        """Return the cutout of a source.

        Args:
            id: its name.
            x, y: its position, pixels of the image.
            side: pixels of the cutout, fewer at the edges of the image.

        Raises:
            BadInput: if nothing can be fitted there.
        """
        half = side // 2
        column, row = round(x), round(y)
        tile = self.image.tile(column - half, column + half, row - half, row + half)
        start = np.full(7, np.nan)
        start[:2] = x - tile.origin[0], y - tile.origin[1]
        planes = {"image": tile.image, "bad": tile.mask}
        if tile.sigma is not None:
            planes["sigma"] = tile.sigma
        draft = prepare(
            Draft(planes, start, tile.origin),
            crop="none",
            mask_neighbours=False,
            gain=self.image.gain,
        )
        # a cutout of a field has been cut on purpose, and holds other sources as a rule
        draft = replace(draft, flags=draft.flags & ~(Flag.CROPPED | Flag.SEVERAL_SOURCES))
        return assemble_cutout(
            id,
            draft,
            Calibration(self.image.zeropoint, self.image.zeropoint_from, self.image.gain),
            self._psf_at(x, y),
            psf_includes_pixel=self.psf is not None and self.psf.includes_pixel,
            pixel_scale=self.image.pixel_scale,
            wcs=self.image.wcs,
            notes=tile.notes,
        )

    def _psf_at(self, x: float, y: float) -> PreparedPsf | None:
        if self.psf is None:
            return None
        image = self.psf.at([x], [y])[0]
        return PreparedPsf(image, self.psf.oversampling, self.psf.flags, self.psf.notes)


def open_field(files: FieldFiles) -> Field:
    """Return the image and its PSF.

    Raises:
        BadInput: if either cannot be read.
    """
    image = read_survey_image(files.image, files.survey)
    if files.psf is None:
        return Field(image, None)
    scale = image.pixel_scale if np.isfinite(image.pixel_scale) else None
    options = replace(files.psf_options, wcs=image.wcs, image_scale=scale)
    return Field(image, read_psf_model(files.psf, options))


@lru_cache(maxsize=2)
def opened_field(files: FieldFiles) -> Field:
    """Return `open_field`, once in a process."""
    return open_field(files)
