"""Detection of all sources of an image, part by part."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray

from hybridfit.data.errors import BadInput
from hybridfit.detection.detect import clipped_background
from hybridfit.detection.sources import find_sources
from hybridfit.io.survey.image import SurveyImage, SurveyTile
from hybridfit.io.writing import atomic
from hybridfit.mosaic.options import CatalogOptions

FILE = "detections.ecsv"
STEP = 16  # pixels by which sides of cutouts differ, so that many sources share one
NAMES = ("x", "y", "flux", "radius", "significance", "side")
UNKNOWN_RADIUS = 3.0  # pixels, of sources whose position alone is given


@dataclass(frozen=True, eq=False)
class Detections:
    """The n sources of an image.

    Args:
        id: (n,) names.
        x, y: (n,) pixels of the image, the first is 0.
        flux: (n,) in the source's own region, flux units; NaN where only positions are given.
        radius: (n,) that holds half of this flux, pixels, the PSF included.
        significance: (n,) height of the filtered peak over its noise.
        side: (n,) int, pixels of the cutout.
    """

    id: Sequence[str]
    x: NDArray[np.float64]
    y: NDArray[np.float64]
    flux: NDArray[np.float64]
    radius: NDArray[np.float64]
    significance: NDArray[np.float64]
    side: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.id)

    def table(self) -> Table:
        """Return the columns as a table."""
        columns = {"id": list(self.id)} | {name: getattr(self, name) for name in NAMES}
        return Table(columns)


def detected(image: SurveyImage, options: CatalogOptions) -> Detections:
    """Return all sources of an image; each belongs to the part in which its centre lies.

    Raises:
        BadInput: if there is none.
    """
    rows = [row for part in _parts(image.shape, options) for row in _in_part(image, part, options)]
    if not rows:
        raise BadInput(f"no source was found in '{image.path}': is it an image of the sky?")
    values = np.array(rows)
    order = np.lexsort((values[:, 0].round(), values[:, 1].round()))
    x, y, flux, radius, significance = values[order].T
    return _named(x, y, flux, radius, significance, options)


def given_positions(path: str | Path, image: SurveyImage, options: CatalogOptions) -> Detections:
    """Return sources at the positions of a table with columns x, y or ra, dec.

    Raises:
        BadInput: if the table has neither, or no row inside of the image.
    """
    table = Table.read(path)
    names = {name.lower(): name for name in table.colnames}
    if {"x", "y"} <= set(names):
        x, y = (np.asarray(table[names[name]], dtype=float) for name in "xy")
    elif {"ra", "dec"} <= set(names) and image.wcs is not None:
        x, y = image.wcs.all_world2pix(table[names["ra"]], table[names["dec"]], 0)
    else:
        raise BadInput(
            f"'{path}' has the columns {', '.join(table.colnames)}, expected x, y, or ra, dec and "
            "an image with a WCS"
        )
    height, width = image.shape
    inside = (x > -0.5) & (x < width - 0.5) & (y > -0.5) & (y < height - 0.5)
    if not inside.any():
        raise BadInput(f"no position of '{path}' is inside of the image of {width} x {height}")
    unknown = np.full(int(inside.sum()), np.nan)
    radius = np.full(len(unknown), UNKNOWN_RADIUS)
    found = _named(x[inside], y[inside], unknown, radius, unknown, options)
    if "id" not in names:
        return found
    ids = [str(one) for one in np.asarray(table[names["id"]])[inside]]
    return Detections(ids, *(getattr(found, name) for name in NAMES))


def read_detections(path: Path, key: str) -> Detections | None:
    """Return what `write_detections` wrote with the same key; None without it."""
    if not path.is_file():
        return None
    table = Table.read(path)
    if table.meta.get("key") != key:
        return None
    ids = [str(one) for one in table["id"]]
    return Detections(ids, *(np.asarray(table[name]) for name in NAMES))


def write_detections(path: Path, detections: Detections, key: str) -> None:
    """Write the sources, with a key that says what they depend on."""
    table = detections.table()
    table.meta["key"] = key
    text = io.StringIO()
    table.write(text, format="ascii.ecsv")
    with atomic(path) as file:
        file.write(text.getvalue().encode())


def _named(
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    flux: NDArray[np.float64],
    radius: NDArray[np.float64],
    significance: NDArray[np.float64],
    options: CatalogOptions,
) -> Detections:
    width = max(5, len(str(len(x))))
    ids = [f"s{k:0{width}d}" for k in range(1, len(x) + 1)]
    side = STEP * np.ceil(2 * options.reach * radius / STEP)
    side = np.clip(side, options.smallest, options.largest).astype(np.int64)
    return Detections(ids, x, y, flux, radius, significance, side)


@dataclass(frozen=True)
class _Part:
    """Rows and columns x0 <= x < x1, y0 <= y < y1 of an image, and ``margin`` pixels around."""

    x0: int
    x1: int
    y0: int
    y1: int
    margin: int


def _parts(shape: tuple[int, int], options: CatalogOptions) -> Iterator[_Part]:
    height, width = shape
    for y in range(0, height, options.tile):
        for x in range(0, width, options.tile):
            ends = min(x + options.tile, width), min(y + options.tile, height)
            yield _Part(x, ends[0], y, ends[1], options.margin)


def _in_part(image: SurveyImage, part: _Part, options: CatalogOptions) -> Iterator[list[float]]:
    """Yield x, y, flux, radius and significance of the sources whose centre is in a part."""
    m = part.margin
    tile = image.tile(part.x0 - m, part.x1 + m, part.y0 - m, part.y1 + m)
    if tile.mask.all():
        return
    sigma, mask = noise_of(tile)
    found = find_sources(tile.image.astype(np.float32), sigma, mask, options.threshold)
    left, top = tile.origin
    for i in range(len(found)):
        x, y = float(found.x[i] + left), float(found.y[i] + top)
        if part.x0 <= x < part.x1 and part.y0 <= y < part.y1 and math.isfinite(found.flux[i]):
            yield [
                x,
                y,
                float(found.flux[i]),
                float(found.radius[i]),
                float(found.significance[i]),
            ]


def noise_of(tile: SurveyTile) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Return noise (h, w) and mask (h, w) of a part; the scatter of its sky without a noise map."""
    mask = tile.mask.copy()
    if tile.sigma is None:
        rms = clipped_background(tile.image[~mask])[1] if not mask.all() else 1.0
        return np.full(mask.shape, rms or 1.0, np.float32), mask
    usable = np.isfinite(tile.sigma) & (tile.sigma > 0)
    return np.where(usable, tile.sigma, 1.0).astype(np.float32), mask | ~usable
