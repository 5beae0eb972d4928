"""PSFs of Piff (Jarvis et al. 2021, MNRAS 501, 1282), drawn by Piff itself."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from hybridfit.io.psf_models.options import PSFOptions
from hybridfit.psf.model import PSFModel

MISSING = "it is a PSF of Piff, which is not installed: pip install 'hybridfit[piff]'"


@dataclass(frozen=True, eq=False, kw_only=True)
class PiffPSF(PSFModel):
    """A PSF that Piff draws at each position.

    Args:
        psf: `piff.PSF`.
        side: pixels of the images, odd.
        chip: Piff's ``chipnum``; None for a PSF of one chip.
    """

    psf: Any
    side: int
    chip: int | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the images."""
        return self.side, self.side

    def _images(self, x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.floating]:
        # Piff counts pixels from 1, as its images are read from FITS files
        size = {"chipnum": self.chip, "center": True, "stamp_size": self.side}
        drawn = [
            self.psf.draw(x=a + 1, y=b + 1, **size).array
            for a, b in zip(x.tolist(), y.tolist(), strict=True)
        ]
        return np.stack(drawn) if drawn else np.zeros((0, *self.shape))


def is_piff(hdus: fits.HDUList, hdu: str = "") -> bool:
    """Return whether a file was written by Piff: its table PSF names the type of the PSF."""
    return any(
        isinstance(other, fits.BinTableHDU)
        and other.name.upper() == "PSF"
        and "type" in other.columns.names
        for other in hdus
    )


def read_piff(hdus: fits.HDUList, text: str, options: PSFOptions) -> PSFModel:
    """Return the PSF of a Piff file; its images include the response of the pixel.

    Args:
        hdus: the open file.
        text: its path.
        options: see `PSFOptions`; ``stamp`` is the side of the images, ``detector`` Piff's chipnum.

    Raises:
        ValueError: if Piff is not installed or cannot read it.
    """
    try:
        piff = import_module("piff")
    except ImportError as error:
        raise ValueError(MISSING) from error
    try:
        psf = piff.read(text)
    except Exception as error:  # Piff raises many types
        raise ValueError(f"Piff cannot read it: {error}") from error
    side = options.stamp + 1 - options.stamp % 2
    includes = options.includes_pixel is not False
    return PiffPSF(1, includes, psf=psf, side=side, chip=options.detector)
