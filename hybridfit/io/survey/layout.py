"""What makes up the layout of a survey's images, and how other files of an image are found."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from astropy.io import fits

from hybridfit.io.bit_tables import BitTable
from hybridfit.io.image_header import text_in

ENDINGS = ("", ".fz", ".gz")
BAND_KEYS = ("FILTER", "FILTNAM", "FILTER1", "BAND", "FPA.FILTER")


@dataclass(frozen=True, eq=False)
class Facts:
    """What a layout is recognised by.

    Args:
        name: of the file, without directory.
        hdus: names of all HDUs, in upper case.
        header: of the image, with inherited keywords.
        primary: of the primary HDU.
    """

    name: str
    hdus: tuple[str, ...]
    header: fits.Header
    primary: fits.Header

    def text(self, key: str) -> str:
        """Return a keyword of the image or the primary header in upper case, "" if missing."""
        return (text_in(self.header, key) or text_in(self.primary, key)).upper()

    def has(self, *keys: str) -> bool:
        """Return whether all keywords are in one of the headers."""
        return all(key in self.header or key in self.primary for key in keys)

    @property
    def band(self) -> str:
        """The filter as the header names it, "" if it does not."""
        found = (text_in(h, key) for key in BAND_KEYS for h in (self.header, self.primary))
        return next(filter(None, found), "")


@dataclass(frozen=True)
class Companion:
    """Another file of an image.

    Args:
        role: "sigma", "variance", "ivar", "weight" or "mask".
        pattern: regular expression within the name of the image's file.
        name: what replaces it, with ``*`` for anything: the newest file is used.
    """

    role: str
    pattern: str
    name: str

    def find(self, image: Path) -> Path | None:
        """Return the file, also with another compression than the image's, None without one."""
        if not re.search(self.pattern, image.name):
            return None
        name = re.sub(self.pattern, self.name, image.name, count=1)
        plain = re.sub(r"(\.fits?)\.(fz|gz)$", r"\1", name)
        for wanted in dict.fromkeys((name, *(plain + ending for ending in ENDINGS))):
            found = sorted(image.parent.glob(wanted)) if "*" in wanted else [image.parent / wanted]
            found = [path for path in found if path.is_file() and path.name != image.name]
            if found:
                return found[-1]
        return None

    def wanted(self, image: Path) -> str:
        """Return the name that is looked for, "" if the image's name does not fit."""
        fits_pattern = re.search(self.pattern, image.name)
        return re.sub(self.pattern, self.name, image.name, count=1) if fits_pattern else ""


@dataclass(frozen=True)
class Layout:
    """The files, HDUs and conventions of a survey.

    Args:
        name: as in `hybridfit.io.survey.options.LAYOUTS`.
        title: for messages.
        recognise: whether an image has this layout.
        hdus: names of HDUs by role, besides those of cutouts.
        companions: other files, in order of preference.
        bits: names of the mask's bits, where the header does not name them.
        zeropoint: of a survey whose headers lack it, mag.
    """

    name: str
    title: str
    recognise: Callable[[Facts], bool]
    hdus: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    companions: tuple[Companion, ...] = ()
    bits: Callable[[Facts], BitTable] | None = None
    zeropoint: float | None = None
