"""The noise of SDSS frames, from their calibration vector and sky.

The SDSS data model of ``frame`` files: dn = image / calibration + sky are the counts that were
observed, sigma = calibration sqrt(dn / gain + dark variance).
"""

from __future__ import annotations

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray
from scipy import ndimage

from hybridfit.data.errors import BadInput
from hybridfit.io.image_header import number_in, text_in
from hybridfit.io.planes import opened

BANDS = "ugriz"
# electrons per count by camera column and band; two values changed with the run
GAIN = (
    (1.62, 3.32, 4.71, 5.165, 4.745),
    (1.595, 3.855, 4.6, 6.565, 5.155),
    (1.59, 3.845, 4.72, 4.86, 4.885),
    (1.6, 3.995, 4.76, 4.885, 4.775),
    (1.47, 4.05, 4.725, 4.64, 3.48),
    (2.17, 4.035, 4.895, 4.76, 4.69),
)
LATER_GAIN = {(2, "u"): (1100, 1.825)}
# counts^2: read noise and dark current
DARK = (
    (9.61, 15.6025, 1.8225, 7.84, 0.81),
    (12.6025, 1.44, 1.0, 5.76, 1.0),
    (8.7025, 1.3225, 1.3225, 4.6225, 1.0),
    (12.6025, 1.96, 1.3225, 6.25, 9.61),
    (9.3025, 1.1025, 0.81, 7.84, 1.8225),
    (7.0225, 1.8225, 0.9025, 5.0625, 1.21),
)
LATER_DARK = {
    (2, "i"): (1500, 6.25),
    (4, "i"): (1500, 7.5625),
    (4, "z"): (1500, 12.6025),
    (5, "z"): (1500, 2.1025),
}
NOISE_NOTE = "sigma is from the frame's sky and calibration, and the gain of its CCD"


def detector_noise(header: fits.Header) -> tuple[float, float]:
    """Return gain and dark variance of a frame's CCD.

    Raises:
        BadInput: if the header does not name camera column, run and filter.
    """
    column, run = int(number_in(header, "CAMCOL") or 0), number_in(header, "RUN")
    band = text_in(header, "FILTER").lower()
    if not 1 <= column <= 6 or run is None or band not in tuple(BANDS):
        found = ", ".join(
            f"{key} = {text_in(header, key) or 'missing'}" for key in ("CAMCOL", "RUN", "FILTER")
        )
        raise BadInput(
            f"an SDSS frame has {found}, expected 1 to 6, a number, and one of "
            f"{', '.join(BANDS)}: give sigma, or layout plain"
        )
    place = BANDS.index(band)
    gain, dark = GAIN[column - 1][place], DARK[column - 1][place]
    since, later = LATER_GAIN.get((column, band), (np.inf, gain))
    gain = later if run > since else gain
    since, later = LATER_DARK.get((column, band), (np.inf, dark))
    return gain, later if run > since else dark


def frame_sigma(
    path: str, header: fits.Header, image: NDArray[np.floating], origin: tuple[int, int]
) -> NDArray[np.float64]:
    """Return the noise (h, w) of a part of a frame.

    Args:
        path: of the file: HDU 1 is the calibration, HDU 2 the table of the sky.
        header: of the image.
        image: (h, w) nanomaggies.
        origin: x, y of the part's first pixel.

    Raises:
        BadInput: if the file lacks the calibration or the sky.
    """
    gain, dark = detector_noise(header)
    calibration, sky, columns, rows = _calibration_and_sky(path)
    x = np.arange(origin[0], origin[0] + image.shape[1])
    y = np.arange(origin[1], origin[1] + image.shape[0])
    if x[-1] >= min(len(calibration), len(columns)) or y[-1] >= len(rows):
        raise BadInput(
            f"'{path}' has a calibration of {len(calibration)} columns and a sky of {len(rows)} x "
            f"{len(columns)} pixels, expected those of the image, to {x[-1] + 1}, {y[-1] + 1}"
        )
    grid = np.meshgrid(rows[y], columns[x], indexing="ij")
    counts = image / calibration[x] + ndimage.map_coordinates(sky, grid, order=1, mode="nearest")
    return calibration[x] * np.sqrt(np.maximum(counts, 0.0) / gain + dark)


def _calibration_and_sky(path: str) -> tuple[NDArray[np.float64], ...]:
    """Return nanomaggies per count of each column, the sky, and its x and y at each pixel."""
    with opened(path) as hdus:
        try:
            table = hdus[2].data
            sky = np.asarray(table["ALLSKY"], dtype=np.float64)
            axes = [np.ravel(np.asarray(table[k], np.float64)) for k in ("XINTERP", "YINTERP")]
            calibration = np.ravel(np.asarray(hdus[1].data, dtype=np.float64))
        except (KeyError, IndexError, TypeError, AttributeError) as error:
            raise BadInput(
                f"'{path}' is no whole SDSS frame: expected the calibration vector in HDU 1 and "
                "the sky (ALLSKY, XINTERP, YINTERP) in HDU 2; give sigma, or layout plain"
            ) from error
    return calibration, sky.reshape(sky.shape[-2:]), axes[0], axes[1]
