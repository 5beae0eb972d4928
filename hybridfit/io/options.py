"""Options of reading: where to find the images, noise maps, PSFs and masks, and their meaning."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypedDict

from hybridfit.data.names import (
    NOISE_ROLES,
    OVERSAMPLINGS,
    PSF_CENTERS,
    START_NAMES,
    is_oversampling,
)
from hybridfit.deprecations import renamed_fields
from hybridfit.options.checks import check_fields, comma_list
from hybridfit.options.metadata import option

ROLES = ("image", *NOISE_ROLES, "psf", "mask", "segmap", "dq", "weight")
VALUES = ("zeropoint", "pixel_scale", "gain", "psf_oversampling", "psf_includes_pixel")
COLUMNS = ("id", *ROLES, *VALUES, *START_NAMES)
# columns of further images of the galaxies: image_2, sigma_2, psf_2, zeropoint_2, image_3, ...
OF_EXPOSURE = re.compile(rf"({'|'.join((*ROLES, *VALUES))})_([2-9]|[1-9][0-9])")
WEIGHT_HDUS = "WHT,WGT,WEIGHT,CTX,CON,EXP,EXPOSURE,EXPMAP,COVERAGE,NEXP"


def _pattern(role: str, content: str) -> Any:
    """Return a field for the file name of ``role``."""
    help = f"name of the file with {content}; {{id}} is the galaxy's name"
    return option(f"{{id}}_{role}.fits", help=help, group="File names in a directory")


def _hdus(names: str, content: str) -> Any:
    """Return a field for the names of the HDU with ``content``."""
    help = f"possible names of the HDU with {content}, separated by commas"
    return option(names, help=help, group="HDUs of multi-extension files")


def _initial(help: str, unit: str = "") -> Any:
    """Return a field for one initial value."""
    return option(None, help=help, unit=unit, group="Initial values (unless in a manifest)")


@renamed_fields("read")
@dataclass(frozen=True)
class ReadOptions:
    """How to find and read galaxies.

    Patterns are file names in the input directory, with ``{id}`` in place of the galaxy's name;
    a pattern that ends in ``.fits`` also matches ``.fits.gz`` and ``.fits.fz``. HDU options are
    comma-separated names of HDUs in the image's file; "" looks for none. Other values apply to
    all galaxies whose manifest row has none, and override the FITS header.
    """

    pattern_image: str = _pattern("image", "the image")
    pattern_sigma: str = _pattern("sigma", "the standard deviation of the noise")
    pattern_variance: str = _pattern("variance", "the variance of the noise")
    pattern_ivar: str = _pattern("ivar", "the inverse variance of the noise")
    pattern_psf: str = _pattern("psf", "the PSF")
    pattern_mask: str = _pattern("mask", "the mask, nonzero for excluded pixels")
    pattern_segmap: str = _pattern("segmap", "the segmentation map")
    pattern_dq: str = _pattern("dq", "the data-quality bits")
    pattern_weight: str = _pattern("weight", "the weight map, 0 where there are no data")
    hdu_image: str = _hdus("IMAGE,SCI,DATA", "the image (default: the first HDU with an image)")
    hdu_sigma: str = _hdus("SIGMA,ERR,ERROR,RMS", "the standard deviation of the noise")
    hdu_variance: str = _hdus("VARIANCE,VAR", "the variance of the noise")
    # not WHT: a weight map is rarely in units of 1 / flux^2
    hdu_ivar: str = _hdus("IVAR,INVVAR", "the inverse variance of the noise")
    hdu_psf: str = _hdus("PSF", "the PSF")
    hdu_mask: str = _hdus("MASK,MSK", "the mask")
    hdu_segmap: str = _hdus("SEGMAP,SEG,SEGMENTATION", "the segmentation map")
    hdu_dq: str = _hdus("DQ,FLAG,FLAGS,BADPIX,BPM", "the data-quality bits")
    hdu_weight: str = _hdus(WEIGHT_HDUS, "the weight map")
    mask_bits: str = option(
        "",
        help="mask and data-quality bits that exclude a pixel, by name (SAT,CR) or value (1,4096)",
        default_text="all harmful bits",
    )
    columns: str = option(
        "", help='names of manifest columns that differ from ours, as in "id=NAME,mag=MAG_AUTO"'
    )

    psf: str | None = option(
        None,
        help="PSF file, or file.fits[HDU], for all galaxies without a PSF of their own",
        metavar="FILE",
        common=True,
    )
    no_psf: bool = option(False, help="fit without a PSF, and ignore any PSF files")
    psf_oversampling: int | None = option(
        None, help="PSF pixels per image pixel", default_text="from the PSF's header, else 1"
    )
    # False is GALFIT's convention: such tools integrate the model over the pixel themselves, so
    # a PSF that includes the pixel response (an ePSF, a star) would apply it twice
    psf_includes_pixel: bool = option(
        False, help="the PSF already includes the pixel response (a star, an effective PSF)"
    )
    psf_center: str = option(
        "array",
        help=(
            "position taken as the PSF's centre: its middle pixel (array), its centroid, or "
            "pixel N // 2 with no background subtracted (galfit)"
        ),
        choices=PSF_CENTERS,
    )

    zeropoint: float | None = option(
        None,
        help="magnitude of one flux unit",
        unit="mag",
        above=-math.inf,
        below=math.inf,
        default_text="from the header's unit or keywords",
        common=True,
    )
    pixel_scale: float | None = option(
        None,
        help="pixel scale",
        unit="arcsec/pix",
        above=0,
        below=math.inf,
        default_text="from the WCS",
    )
    gain: float | None = option(
        None,
        help="electrons per image unit, for the noise of galaxies without a noise map",
        above=0,
        below=math.inf,
        default_text="from the header's GAIN or EGAIN",
    )
    crop: str = option(
        "auto",
        help="cut large images to the galaxy and its sky (auto), or keep every pixel (none)",
        choices=("auto", "none"),
    )
    mask_neighbours: bool = option(
        True, help="find and mask the neighbours of galaxies that have no mask"
    )

    x: float | None = _initial("centre along x; the centre of the file's first pixel is 0", "pix")
    y: float | None = _initial("centre along y; the centre of the file's first pixel is 0", "pix")
    mag: float | None = _initial("total magnitude", "mag")
    r_eff: float | None = _initial("half-light radius along the major axis", "pix")
    n: float | None = _initial("Sersic index")
    q: float | None = _initial("axis ratio b/a")
    pa: float | None = _initial("position angle from +y towards -x", "deg")

    def __post_init__(self) -> None:
        check_fields(self, "read")
        for role in ROLES:
            pattern = getattr(self, f"pattern_{role}")
            if pattern.count("{id}") != 1:
                raise ValueError(
                    f"pattern_{role} is '{pattern}', expected it to contain '{{id}}' once, as in "
                    f"'{{id}}_{role}.fits'"
                )
        if self.no_psf and self.psf is not None:
            raise ValueError("psf and no_psf are both given: leave one of them out")
        finer = self.psf_oversampling
        if finer is not None and not is_oversampling(finer):
            raise ValueError(f"psf_oversampling is {finer}, expected {OVERSAMPLINGS}")
        initial = [getattr(self, name) for name in START_NAMES]
        for problem in (mask_bits_problem(self.mask_bits), start_problem(initial)):
            if problem:
                raise ValueError(problem)
        self.renamed()

    def hdu_names(self, role: str) -> tuple[str, ...]:
        """Return the names of HDUs in which to look for ``role``, in upper case."""
        return tuple(name.upper() for name in comma_list(getattr(self, f"hdu_{role}")))

    def renamed(self) -> Mapping[str, str]:
        """Return the manifest's column for each quantity that ``columns`` renames."""
        pairs: dict[str, str] = {}
        for item in comma_list(self.columns):
            name, _, column = (part.strip() for part in item.partition("="))
            if not (name in COLUMNS or OF_EXPOSURE.fullmatch(name)) or not column:
                close = difflib.get_close_matches(name, COLUMNS, n=1)
                hint = f"did you mean '{close[0]}'?" if close else f"known: {', '.join(COLUMNS)}"
                raise ValueError(f"columns has '{item}', expected NAME=COLUMN: {hint}")
            pairs[name] = column
        return pairs


class ReadKeywords(TypedDict, total=False):
    """The fields of `ReadOptions`, as keywords of a function."""

    pattern_image: str
    pattern_sigma: str
    pattern_variance: str
    pattern_ivar: str
    pattern_psf: str
    pattern_mask: str
    pattern_segmap: str
    pattern_dq: str
    pattern_weight: str
    hdu_image: str
    hdu_sigma: str
    hdu_variance: str
    hdu_ivar: str
    hdu_psf: str
    hdu_mask: str
    hdu_segmap: str
    hdu_dq: str
    hdu_weight: str
    mask_bits: str
    columns: str
    psf: str | None
    no_psf: bool
    psf_oversampling: int | None
    psf_includes_pixel: bool
    psf_center: str
    zeropoint: float | None
    pixel_scale: float | None
    gain: float | None
    crop: str
    mask_neighbours: bool
    x: float | None
    y: float | None
    mag: float | None
    r_eff: float | None
    n: float | None
    q: float | None
    pa: float | None


def start_problem(start: list[float | None] | tuple[float, ...]) -> str:
    """Describe what is wrong with initial x, y, mag, r_eff, n, q, pa; "" if they are valid."""
    named = {
        name: float(value)
        for name, value in zip(START_NAMES, start, strict=True)
        if value is not None and not math.isnan(value)
    }
    for name, value in named.items():
        if not math.isfinite(value):
            return f"initial value {name} is {value}, expected a finite number"
    for name in ("r_eff", "n", "q"):
        if named.get(name, 1.0) <= 0 or (name == "q" and named.get(name, 1.0) > 1):
            expected = "in (0, 1]" if name == "q" else "above 0"
            return f"initial value {name} is {named[name]:g}, expected {expected}"
    return ""


def mask_bits_problem(text: str) -> str:
    """Describe what is wrong with the user's choice of bits; "" if it is valid."""
    for part in comma_list(text):
        if re.fullmatch(r"[+-]?\d+", part):
            if not 0 < int(part) < 1 << 62:
                return (
                    f"mask_bits has {part}, expected the value of a bit (1, 2, 4, 8, ...), or a "
                    "sum of such"
                )
        elif not re.fullmatch(r"[A-Za-z]\w*", part):
            return f"mask_bits has '{part}', expected names or bit values, as in 'SAT,CR' or '1,4'"
    return ""
