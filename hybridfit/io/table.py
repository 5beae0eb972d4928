"""What all tables share: columns with units and descriptions, records, positions on the sky.

Rows are made as numpy records with fixed widths, so that parts of a long run can be put together
byte by byte; `to_table` turns them into what users hold in their hands.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from astropy.coordinates import SkyCoord
from astropy.table import Table
from astropy.units import Unit
from astropy.wcs.utils import wcs_to_celestial_frame
from numpy.typing import NDArray

from hybridfit.parameters import PARAMETERS

MESSAGE_WIDTH = 160  # characters; longer messages end in "..."


@dataclass(frozen=True)
class Column:
    """One column: name, numpy format of an entry, unit, description and shape of an entry."""

    name: str
    format: str
    unit: str
    description: str
    shape: tuple[int, ...] = ()

    @property
    def is_text(self) -> bool:
        """Whether its entries are texts, in UTF-8."""
        return self.format.startswith("S")


def record_type(columns: Sequence[Column]) -> np.dtype:
    """Return the packed big-endian record type of ``columns``."""
    return np.dtype([(c.name, np.dtype(c.format).newbyteorder(">"), c.shape) for c in columns])


def to_table(
    rows: NDArray[np.void], columns: Sequence[Column], meta: Mapping[str, Any] | None = None
) -> Table:
    """Return rows as an astropy Table with units, descriptions and metadata."""
    table = Table(meta=dict(meta or {}))
    for column in columns:
        values = rows[column.name]
        if column.is_text:
            values = np.char.decode(values, "utf-8")
        else:
            values = values.astype(values.dtype.newbyteorder("="))
        table[column.name] = values
        table[column.name].description = column.description
        if column.unit:
            table[column.name].unit = Unit(column.unit)
    return table


def id_width(ids: Sequence[str]) -> int:
    """Return the bytes that the longest id takes, in UTF-8 or with escapes in ASCII."""
    return max((len(name.encode("ascii", "backslashreplace")) for name in ids), default=1)


def on_sky(wcs: Any, x: float, y: float, q: float, pa: float) -> tuple[float, float, float]:
    """Return right ascension, declination and position angle East of North, in degrees.

    The ellipse is carried over by the Jacobian of the WCS at its centre, so a rotated, mirrored
    or sheared image, or pixels that are not square, give the angle that is on the sky.

    Args:
        wcs: astropy WCS of the stamp; None gives NaN.
        x, y: centre in stamp pixels.
        q, pa: axis ratio, and angle in degrees from +y towards -x.
    """
    if wcs is None or not all(math.isfinite(value) for value in (x, y, q, pa)):
        return math.nan, math.nan, math.nan
    step = 0.5
    pixels = np.array([(x, y), (x + step, y), (x - step, y), (x, y + step), (x, y - step)])
    try:
        ra, dec = _equatorial(wcs, pixels)
    except Exception:  # wcslib's errors are many; a galaxy off the projection has no position
        return math.nan, math.nan, math.nan
    east = (np.subtract(ra[1::2], ra[2::2]) + 180.0) % 360.0 - 180.0
    jacobian = np.array([east * math.cos(math.radians(dec[0])), dec[1::2] - dec[2::2]])
    angle, q = math.radians(pa), min(q, 0.9999)  # a round galaxy keeps the angle it was given
    major = jacobian @ [-math.sin(angle), math.cos(angle)]
    minor = jacobian @ [math.cos(angle), math.sin(angle)]
    shape = np.outer(major, major) + q**2 * np.outer(minor, minor)
    turned = 0.5 * math.atan2(2 * shape[0, 1], shape[1, 1] - shape[0, 0])
    return float(ra[0]) % 360.0, float(dec[0]), math.degrees(turned) % 180.0


def _equatorial(wcs: Any, pixels: NDArray[np.float64]) -> tuple[NDArray, NDArray]:
    """Right ascension and declination (N,) in degrees of pixels (N, 2)."""
    world = wcs.all_pix2world(pixels, 0)
    lon, lat = world[:, wcs.wcs.lng], world[:, wcs.wcs.lat]
    if wcs.wcs.lngtyp.startswith("RA") and not wcs.wcs.radesys.startswith("FK4"):
        return lon, lat
    sky = SkyCoord(lon, lat, unit="deg", frame=wcs_to_celestial_frame(wcs)).icrs
    return sky.ra.deg, sky.dec.deg


def parameter_of(name: str) -> tuple[str, str]:
    """Return unit and description of a parameter; a user's own has no unit, and its name."""
    parameter = PARAMETERS.get(plain_name(name)) or PARAMETERS.get(name)
    return (parameter.unit, parameter.description) if parameter else ("", name)


def plain_name(name: str) -> str:
    """Return a parameter's name without its component."""
    head, _, tail = name.rpartition("_")
    return head if tail.isdigit() else name


def shortened(text: str) -> bytes:
    """Return text in the column's width; a long path loses its folders before the reason."""
    text = " ".join(text.split())
    data = text.encode()
    if len(data) > MESSAGE_WIDTH:
        data = re.sub(r"'[^']*/(?=[^'/]+')", "'.../", text).encode()
    if len(data) <= MESSAGE_WIDTH:
        return data
    return data[: MESSAGE_WIDTH - 3].decode(errors="ignore").encode() + b"..."


def to_numpy(tensor: Any) -> NDArray:
    """Return a tensor on any device as an array."""
    return tensor.detach().cpu().numpy()
