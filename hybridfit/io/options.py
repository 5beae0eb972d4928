"""Options of the reading stage."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass

from hybridfit.data.cutout_checks import NOISE_ROLES, OVERSAMPLINGS, START_NAMES, is_oversampling
from hybridfit.io.bit_masks import mask_bits_problem
from hybridfit.options.checks import check_fields
from hybridfit.rendering.psf_images import CENTRES

ROLES = ("image", *NOISE_ROLES, "psf", "mask", "segmap", "dq", "weight")
VALUES = ("zeropoint", "pixel_scale", "gain", "psf_oversampling", "psf_includes_pixel")
COLUMNS = ("id", *ROLES, *VALUES, *START_NAMES)


@dataclass(frozen=True)
class ReadOptions:
    """How galaxies are found and read.

    Patterns are file names within the input directory with ``{id}`` in place of the galaxy's
    name; one that ends in ``.fits`` also stands for ``.fits.gz`` and ``.fits.fz``. HDU options
    are comma lists of names looked for in an image's own file; "" looks for none. Values hold
    for all galaxies whose manifest row has none of its own, and go before the FITS header.
    """

    pattern_image: str = "{id}_image.fits"
    pattern_sigma: str = "{id}_sigma.fits"
    pattern_variance: str = "{id}_variance.fits"
    pattern_ivar: str = "{id}_ivar.fits"
    pattern_psf: str = "{id}_psf.fits"
    pattern_mask: str = "{id}_mask.fits"
    pattern_segmap: str = "{id}_segmap.fits"
    pattern_dq: str = "{id}_dq.fits"
    pattern_weight: str = "{id}_weight.fits"
    hdu_image: str = "IMAGE,SCI,DATA"  # if none of these: the first HDU with an image
    hdu_sigma: str = "SIGMA,ERR,ERROR,RMS"
    hdu_variance: str = "VARIANCE,VAR"
    hdu_ivar: str = "IVAR,INVVAR"  # not WHT: a weight map is rarely in units of 1 / flux^2
    hdu_psf: str = "PSF"
    hdu_mask: str = "MASK,MSK"
    hdu_segmap: str = "SEGMAP,SEG,SEGMENTATION"
    hdu_dq: str = "DQ,FLAG,FLAGS,BADPIX,BPM"  # bits of bad pixels
    hdu_weight: str = "WHT,WGT,WEIGHT,CTX,CON,EXP,EXPOSURE,EXPMAP,COVERAGE,NEXP"  # 0 = no data
    mask_bits: str = ""  # of masks and data quality: names or values; else the harmful ones
    columns: str = ""  # manifest columns under other names, e.g. "id=NAME,mag=MAG_AUTO"

    psf: str | None = None  # one PSF file (or file.fits[HDU]) for all galaxies without their own
    no_psf: bool = False  # fit without a PSF, whatever PSF files there are
    psf_oversampling: int | None = None  # PSF pixels per image pixel; else the PSF header's, or 1
    # False is GALFIT's convention: such tools integrate the model over the pixel themselves, so
    # a PSF that holds the pixel's response (an ePSF, a star) would count it twice
    psf_includes_pixel: bool = False
    # "array": pixel N // 2 as GALFIT, but between the middle pixels where an oversampled PSF of
    # even sides is centred there; "galfit": N // 2 and no pedestal taken off; "centroid": shifted
    psf_center: str = "array"

    zeropoint: float | None = None  # mag; else the header's (`io.header.ZEROPOINT_KEYS`)
    pixel_scale: float | None = None  # arcsec per pixel; else from the WCS
    gain: float | None = None  # electrons per image unit; else the header's GAIN or EGAIN
    crop: str = "auto"  # "auto": large stamps are cut to the galaxy and its sky; "none"
    mask_neighbours: bool = True  # find and mask neighbours where no mask is given

    x: float | None = None  # starting values; x, y in pixels of the file, first pixel 0, 0
    y: float | None = None
    mag: float | None = None
    r_eff: float | None = None
    n: float | None = None
    q: float | None = None
    pa: float | None = None

    def __post_init__(self) -> None:
        check_fields(self)
        for role in ROLES:
            pattern = getattr(self, f"pattern_{role}")
            if pattern.count("{id}") != 1:
                raise ValueError(
                    f"pattern_{role} is '{pattern}', expected '{{id}}' in it once, as in "
                    f"'{{id}}_{role}.fits'"
                )
        for name, known in (("crop", ("auto", "none")), ("psf_center", CENTRES)):
            if getattr(self, name) not in known:
                raise ValueError(
                    f"{name} is '{getattr(self, name)}', expected one of {', '.join(known)}"
                )
        if self.no_psf and self.psf is not None:
            raise ValueError("psf and no_psf are both given: leave one of them out")
        finer = self.psf_oversampling
        if finer is not None and not is_oversampling(finer):
            raise ValueError(f"psf_oversampling is {finer}, expected {OVERSAMPLINGS}")
        if self.zeropoint is not None and not math.isfinite(self.zeropoint):
            raise ValueError(f"zeropoint is {self.zeropoint}, expected a finite number")
        for name in ("pixel_scale", "gain"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name} is {value}, expected a number above 0")
        problem = mask_bits_problem(self.mask_bits)
        if problem:
            raise ValueError(problem)
        problem = start_problem([getattr(self, name) for name in START_NAMES])
        if problem:
            raise ValueError(problem)
        self.renamed()

    def hdu_names(self, role: str) -> tuple[str, ...]:
        """The HDU names under which ``role`` is looked for, in upper case."""
        names = getattr(self, f"hdu_{role}").split(",")
        return tuple(name.strip().upper() for name in names if name.strip())

    def renamed(self) -> Mapping[str, str]:
        """The manifest's column for each name that ``columns`` gives another one."""
        pairs: dict[str, str] = {}
        for item in filter(None, (part.strip() for part in self.columns.split(","))):
            name, _, column = (part.strip() for part in item.partition("="))
            if name not in COLUMNS or not column:
                close = difflib.get_close_matches(name, COLUMNS, n=1)
                hint = f"did you mean '{close[0]}'?" if close else f"known: {', '.join(COLUMNS)}"
                raise ValueError(f"columns has '{item}', expected NAME=COLUMN: {hint}")
            pairs[name] = column
        return pairs


def start_problem(start: list[float | None] | tuple[float, ...]) -> str:
    """Say what is wrong with starting values x, y, mag, r_eff, n, q, pa; "" if nothing is."""
    named = {
        name: float(value)
        for name, value in zip(START_NAMES, start, strict=True)
        if value is not None and not math.isnan(value)
    }
    for name, value in named.items():
        if not math.isfinite(value):
            return f"start value {name} is {value}, expected a finite number"
    for name in ("r_eff", "n", "q"):
        if named.get(name, 1.0) <= 0 or (name == "q" and named.get(name, 1.0) > 1):
            expected = "in (0, 1]" if name == "q" else "above 0"
            return f"start value {name} is {named[name]:g}, expected {expected}"
    return ""
