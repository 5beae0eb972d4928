"""Open the files of one image: its planes and headers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from astropy.io import fits
from numpy.typing import NDArray

from hybridfit.data.errors import BadInput
from hybridfit.data.names import NOISE_ROLES
from hybridfit.io.image_header import text_in
from hybridfit.io.noise_units import in_unit_of_image
from hybridfit.io.options import ROLES, ReadOptions
from hybridfit.io.planes import FilePlanes, read_plane, read_planes
from hybridfit.io.quality_planes import merged_quality
from hybridfit.io.sources import Source
from hybridfit.io.wcs import celestial_wcs

NAMED = 8  # HDUs listed in a message


@dataclass(frozen=True, eq=False)
class OpenedImage:
    """An image as found in its files.

    Args:
        found: its planes and headers.
        planes: (H, W) by role, bad pixels merged into one.
        psf: of the same file, None without one.
        wcs: of the whole image, None without one.
        notes, wcs_note: for the user.
    """

    found: FilePlanes
    planes: Mapping[str, NDArray]
    psf: NDArray | None
    wcs: Any
    notes: Sequence[str]
    wcs_note: str

    @property
    def header(self) -> fits.Header:
        """The image's header."""
        return self.found.headers["image"]

    @property
    def origin(self) -> tuple[int, int]:
        """x, y of the first pixel of the section that was read."""
        return self.found.part.origin

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of that section."""
        height, width = self.planes["image"].shape
        return height, width


def open_image(source: Source, options: ReadOptions) -> OpenedImage:
    """Return the planes of an image's files.

    Raises:
        BadInput: if they cannot be read, or disagree.
    """
    found = _planes(source, options)
    psf = found.planes.pop("psf", None)
    planes, notes = merged_quality(
        found.planes,
        found.headers,
        text_in(found.headers["image"], "TELESCOP"),
        options.mask_bits,
    )
    wcs, wcs_note = celestial_wcs(found.headers["image"], (0, 0))
    return OpenedImage(found, planes, psf, wcs, notes, wcs_note)


def _planes(source: Source, options: ReadOptions) -> FilePlanes:
    """Read each plane from its own file, or from an HDU of the image's file."""
    if not source.image:
        raise BadInput(f"no image file is given for '{source.id}'")
    names = {role: options.hdu_names(role) for role in ROLES}
    strict = options.hdu_image != ReadOptions.hdu_image
    found = read_planes(source.image, names, strict)
    planes, headers = dict(found.planes), dict(found.headers)
    given = {role: getattr(source, role) for role in ROLES[1:] if getattr(source, role)}
    if set(NOISE_ROLES) & set(given):  # a noise file takes precedence over any noise HDU
        for role in NOISE_ROLES:
            planes.pop(role, None)
    if options.no_psf or "psf" in given:
        planes.pop("psf", None)
    for role, path in given.items():
        if role != "psf":
            plane, headers[role] = read_plane(path, names[role], parent=found.part)
            planes[role] = in_unit_of_image(plane, role, headers[role], headers["image"])
    kinds = [role for role in NOISE_ROLES if role in planes]
    if len(kinds) > 1:
        raise BadInput(
            f"'{source.id}' has its noise as {' and as '.join(kinds)}: expected one of them; leave "
            f"one out, or say --hdu-{kinds[0]} '' to pass over an HDU"
        )
    shape = planes["image"].shape
    for role, plane in planes.items():
        if role != "psf" and plane.shape != shape:
            raise BadInput(
                f"{role} of '{source.id}' has shape {plane.shape}, expected {shape} as its image "
                f"({given.get(role, source.image)})"
            )
    return replace(found, planes=planes, headers=headers)


def unused_note(names: tuple[str, ...]) -> str:
    """Return a note on HDUs of the image's shape that were not used."""
    if not names:
        return ""
    listed = ", ".join(names[:NAMED]) + (", ..." if len(names) > NAMED else "")
    return f"HDUs of the image's shape that were not used: {listed}"
