"""Positions and angles on the sky: ICRS from any celestial frame of a WCS.

CTYPE, RADESYS, EQUINOX and the date define the frame (Calabretta & Greisen 2002, A&A 395, 1077,
section 3.1): equatorial, ecliptic, Galactic, supergalactic, or terrestrial with a date.
Planets, the Sun and helioecliptic longitudes have no fixed place on the sky.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np
from astropy.coordinates import (
    FK4,
    FK5,
    ICRS,
    ITRS,
    TETE,
    BarycentricMeanEcliptic,
    BaseCoordinateFrame,
    FK4NoETerms,
    Galactic,
    SkyCoord,
    Supergalactic,
    UnitSphericalRepresentation,
)
from astropy.time import Time
from astropy.units import radian
from numpy.typing import NDArray

NOWHERE = (math.nan, math.nan, math.nan)
STEP = 0.5  # pixels, of the finite differences that transform an angle to the sky
ROTATIONS = (FK5, Galactic, Supergalactic, BarycentricMeanEcliptic)
ALIASES = {"J2000": "FK5", "B1950": "FK4", "ICRF": "ICRS", "ICRF2": "ICRS", "ICRF3": "ICRS"}
FrameKey = tuple[str, str, float, float]  # longitude's kind, RADESYS, EQUINOX, MJD


def on_sky(wcs: Any, x: float, y: float, q: float, pa: float) -> tuple[float, float, float]:
    """Return right ascension, declination (ICRS) and position angle East of North, in degrees.

    The Jacobian of the WCS at the centre transforms the ellipse, so the angle on the sky is right
    for rotated, mirrored or sheared images, non-square pixels, and frames with another North.

    Args:
        wcs: WCS of the cutout, astropy's or any with the shared interface; None gives NaN.
        x, y: centre in cutout pixels.
        q, pa: axis ratio, and angle in degrees from +y towards -x.
    """
    if wcs is None or not all(math.isfinite(value) for value in (x, y, q, pa)):
        return NOWHERE
    pixels = np.array([(x, y), (x + STEP, y), (x - STEP, y), (x, y + STEP), (x, y - STEP)])
    try:
        places = _directions(wcs, pixels)
    except Exception:  # wcslib raises many types; a galaxy off the projection has no position
        return NOWHERE
    if not np.isfinite(places).all():
        return NOWHERE
    ra = math.atan2(places[0, 1], places[0, 0])
    dec = math.atan2(places[0, 2], math.hypot(places[0, 0], places[0, 1]))
    east = np.array([-math.sin(ra), math.cos(ra), 0.0])
    north = np.array([-math.sin(dec) * math.cos(ra), -math.sin(dec) * math.sin(ra), math.cos(dec)])
    # differences of vectors, not of longitudes, which fail at a pole
    jacobian = np.array([east, north]) @ (places[1::2] - places[2::2]).T  # (2, 2)
    angle, q = math.radians(pa), min(q, 0.9999)  # a round galaxy keeps its angle
    major = jacobian @ [-math.sin(angle), math.cos(angle)]
    minor = jacobian @ [math.cos(angle), math.sin(angle)]
    shape = np.outer(major, major) + q**2 * np.outer(minor, minor)
    turned = 0.5 * math.atan2(2 * shape[0, 1], shape[1, 1] - shape[0, 0])
    return math.degrees(ra) % 360.0, math.degrees(dec), math.degrees(turned) % 180.0


def frame_problem(wcs: Any) -> str:
    """Say why a WCS gives no right ascension and declination; "" if it does, or is None."""
    if wcs is None:
        return ""
    try:
        if not hasattr(wcs, "all_pix2world"):
            _vectors(wcs.pixel_to_world(np.zeros(1), np.zeros(1)))
            return ""
        key = _frame_key(wcs)
    except Exception as error:  # not celestial, or it cannot be set up
        return f"no ra, dec: the WCS is not of the sky ({' '.join(str(error).split())[:80]})"
    return _problem_of(key)


@lru_cache(maxsize=256)
def _problem_of(key: FrameKey) -> str:
    kind, system, *_ = key
    try:
        _vectors(_placed(_frame(key), np.radians([10.0]), np.radians([20.0])))
    except Exception:
        named = f"{kind} coordinates" + (f" of {system}" if system and kind == "RA" else "")
        return f"no ra, dec: {named} cannot be transformed to ICRS"
    return ""


def _directions(wcs: Any, pixels: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return ICRS unit vectors (N, 3) of pixels (N, 2), counted from 0."""
    if not hasattr(wcs, "all_pix2world"):  # gwcs and others with the shared interface
        return _vectors(wcs.pixel_to_world(pixels[:, 0], pixels[:, 1]))
    plane = wcs if wcs.naxis == 2 else wcs.celestial
    world = plane.all_pix2world(pixels, 0)
    lon, lat = np.radians(world[:, plane.wcs.lng]), np.radians(world[:, plane.wcs.lat])
    own = np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=1)
    frame, rotation = _to_icrs(_frame_key(plane))
    if rotation is not None:
        return own @ rotation
    return _vectors(_placed(frame, lon, lat))


def _frame_key(wcs: Any) -> FrameKey:
    """Return the frame's parameters; raise ValueError for a WCS that is not celestial."""
    plane = wcs if wcs.naxis == 2 else wcs.celestial
    plane.wcs.set()
    if plane.wcs.lng < 0 or plane.wcs.lat < 0:
        raise ValueError(f"CTYPE is {', '.join(plane.wcs.ctype)}")
    system = plane.wcs.radesys.strip().upper()
    # NaN differs from itself, so it would never be found in a cache
    known = [value if math.isfinite(value) else 0.0 for value in (plane.wcs.equinox, _date(plane))]
    return plane.wcs.lngtyp.strip(), ALIASES.get(system, system), known[0], known[1]


def _date(plane: Any) -> float:
    """Return the MJD of the observation; NaN if missing or unreadable."""
    if math.isfinite(plane.wcs.mjdobs) or not plane.wcs.dateobs:
        return float(plane.wcs.mjdobs)
    try:
        return float(Time(plane.wcs.dateobs).mjd)
    except ValueError:
        return math.nan


@lru_cache(maxsize=256)
def _to_icrs(key: FrameKey) -> tuple[BaseCoordinateFrame, NDArray[np.float64] | None]:
    """Return the frame, and its (3, 3) basis in ICRS if they differ by a rotation only."""
    frame = _frame(key)
    if isinstance(frame, ICRS):
        return frame, np.eye(3)
    if not isinstance(frame, ROTATIONS):
        return frame, None
    return frame, _vectors(_placed(frame, np.radians([0, 90, 0]), np.radians([0, 0, 90])))


def _frame(key: FrameKey) -> BaseCoordinateFrame:
    """Return the astropy frame of a WCS; raise ValueError if there is none."""
    kind, system, equinox, mjd = key
    date = Time(mjd, format="mjd") if mjd else None
    if kind == "GLON":
        return Galactic()
    if kind == "SLON":
        return Supergalactic()
    if kind == "ELON":
        return BarycentricMeanEcliptic(equinox=_equinox(equinox, system))
    if kind == "TLON" and date is not None:
        return ITRS(obstime=date)
    if kind != "RA":
        raise ValueError(f"no frame is known for {kind}")
    if system == "ICRS":
        return ICRS()
    if system == "FK5":
        return FK5(equinox=_equinox(equinox, system))
    if system in ("FK4", "FK4-NO-E"):
        own = {} if date is None else {"obstime": date}
        return (FK4 if system == "FK4" else FK4NoETerms)(equinox=_equinox(equinox, system), **own)
    if system == "GAPPT" and date is not None:
        return TETE(obstime=date)
    raise ValueError(f"no frame is known for RADESYS {system}")


def _equinox(value: float, system: str) -> Time:
    """Return a Besselian equinox for FK4, else a Julian one; default B1950 and J2000."""
    if system.startswith("FK4"):
        return Time(value or 1950.0, format="byear")
    return Time(value or 2000.0, format="jyear")


def _placed(
    frame: BaseCoordinateFrame, lon: NDArray[np.float64], lat: NDArray[np.float64]
) -> SkyCoord:
    """Return directions in a frame from angles in radians; terrestrial frames are Cartesian."""
    directions = UnitSphericalRepresentation(lon << radian, lat << radian)
    return SkyCoord(frame.realize_frame(directions))


def _vectors(places: SkyCoord) -> NDArray[np.float64]:
    """Return ICRS unit vectors (..., 3)."""
    return np.moveaxis(places.icrs.represent_as("unitspherical").to_cartesian().xyz.value, 0, -1)
