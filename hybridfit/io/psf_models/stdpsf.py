"""STDPSF grids of HST and JWST (Anderson & King; ePSFs with 4 samples a pixel)."""

from __future__ import annotations

import warnings

import numpy as np
from astropy.io import fits
from photutils.psf import GriddedPSFModel

from hybridfit.files.fits import check_fits
from hybridfit.files.regular import FileProblem
from hybridfit.io.psf_models.options import PSFOptions
from hybridfit.psf.model import GriddedPSF, PSFModel
from hybridfit.psf.stack import prepare_stack

KEYS = ("NAXIS3", "NXPSFS", "NYPSFS")
OVERSAMPLING = 4  # of all STDPSF files; the header does not give it
FRAME = "positions are detector pixels of STDPSF: the image must have the detector's pixel grid"


def is_stdpsf(hdus: fits.HDUList, hdu: str = "") -> bool:
    """Return whether a file is an STDPSF grid."""
    return all(key in hdus[0].header for key in KEYS)


def read_stdpsf(hdus: fits.HDUList, text: str, options: PSFOptions) -> PSFModel:
    """Return the PSF of an STDPSF grid, read by photutils; it includes the pixel.

    Args:
        hdus: the open file.
        text: its path.
        options: see `PSFOptions`; ``detector`` as in photutils' ``stdpsf_reader``.

    Raises:
        ValueError: if photutils cannot read it, or the detector is missing or wrong.
    """
    try:
        check_fits(text)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            grid = GriddedPSFModel.read(text, format="stdpsf", detector_id=options.detector)
    except FileProblem as error:
        raise ValueError(str(error)) from error
    except (KeyError, TypeError, IndexError, OSError) as error:
        raise ValueError(f"photutils cannot read it as an STDPSF grid: {error}") from error
    sampling = float(options.oversampling or OVERSAMPLING)
    stack = prepare_stack(np.asarray(grid.data, dtype=np.float64), sampling, options.center)
    return GriddedPSF(
        stack.oversampling,
        options.includes_pixel is not False,
        stack.flags,
        (*stack.notes, FRAME),
        images=stack.images,
        positions=np.asarray(grid.grid_xypos, dtype=np.float64),
        interpolation=options.interpolation,
    )
