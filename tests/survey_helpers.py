"""Images in the layouts of surveys, as their documents describe them, written by the tests."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS
from read_helpers import gaussian

H, W = 40, 60
SCALE = 0.2  # arcsec
RNG = np.random.default_rng(11)
SIGMA = (1.0 + 0.5 * np.indices((H, W))[1] / W).astype(np.float32)  # grows with x
FLUX = (gaussian((H, W), 30, 20, 3.0, 3000.0) + RNG.normal(0, 1, (H, W)) * SIGMA).astype("f4")
EMPTY = np.zeros((H, W), bool)
EMPTY[:, :4] = True  # no coverage
HARMFUL = np.zeros((H, W), bool)
HARMFUL[10:12, 30:33] = True  # a bit that excludes pixels
HARMLESS = np.zeros((H, W), bool)
HARMLESS[25:30, 20:25] = True  # a bit that does not


@dataclass(frozen=True)
class Written:
    """A file, and what must be read from it.

    Args:
        path: of the image.
        zeropoint: mag of one unit.
        origin: part of ``zeropoint_from``.
        unit: factor of the image's unit in those of FLUX and SIGMA.
        sigma: whether there is a noise map.
        bad: (H, W) the masked pixels.
        bits: some names and values of the mask's bits.
        more: arguments of `SurveyOptions`.
    """

    path: Path
    zeropoint: float
    origin: str
    unit: float = 1.0
    sigma: bool = True
    bad: np.ndarray = field(default_factory=lambda: EMPTY | HARMFUL)
    bits: dict[str, int] = field(default_factory=dict)
    more: dict[str, object] = field(default_factory=dict)


def wcs_header(**keys) -> fits.Header:
    """A WCS of 0.2 arcsec a pixel, and more keywords."""
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval, wcs.wcs.crpix = [150.0, 2.0], [30.5, 20.5]
    wcs.wcs.cdelt = [-SCALE / 3600, SCALE / 3600]
    header = wcs.to_header()
    for key, value in keys.items():
        header[key] = value
    return header


def bits(harmful: int, harmless: int, kind: type = np.int32) -> np.ndarray:
    return (HARMFUL * harmful + HARMLESS * harmless).astype(kind)


def nan_outside(plane: np.ndarray) -> np.ndarray:
    return np.where(EMPTY, np.nan, plane).astype(np.float32)


def hdus(path: Path, primary: dict, **planes) -> Path:
    """A multi-extension file; planes are data and header."""
    first = fits.PrimaryHDU()
    first.header.update(primary)
    rest = [fits.ImageHDU(data, header, name=name) for name, (data, header) in planes.items()]
    fits.HDUList([first, *rest]).writeto(path)
    return path


def jwst(folder: Path) -> Written:
    """An i2d of the resample step: MJy/sr, 0 or NaN where nothing was observed."""
    area = np.radians(SCALE / 3600) ** 2
    image = wcs_header(BUNIT="MJy/sr", PIXAR_SR=area, PHOTMJSR=0.4)
    planes = {
        "SCI": (nan_outside(FLUX), image),
        "ERR": (nan_outside(SIGMA), fits.Header({"BUNIT": "MJy/sr"})),
        "CON": (np.where(EMPTY, 0, 3)[None].astype(np.int32), None),
        "WHT": (np.where(EMPTY, 0, 812.5).astype(np.float32), None),
    }
    primary = {"TELESCOP": "JWST", "INSTRUME": "NIRCAM", "FILTER": "F200W"}
    path = hdus(folder / "jw01234-o001_t001_nircam_clear-f200w_i2d.fits", primary, **planes)
    zeropoint = 8.90 - 2.5 * np.log10(1e6 * area)
    return Written(path, zeropoint, "MJy/sr", bad=EMPTY)


def hst(folder: Path) -> Written:
    """A drizzled image in one file; the weights are exposure times."""
    keys = {"PHOTFLAM": 7.0e-20, "PHOTPLAM": 8045.0, "BUNIT": "ELECTRONS/S", "EXPTIME": 2028.0}
    planes = {
        "SCI": (np.where(EMPTY, 0, FLUX).astype(np.float32), wcs_header(**keys)),
        "WHT": (np.where(EMPTY, 0, 2028.0).astype(np.float32), None),
        "CTX": (np.where(EMPTY, 0, 15).astype(np.int32), None),
    }
    path = hdus(folder / "j8xi0x010_drz.fits", {"TELESCOP": "HST", "FILTER1": "F814W"}, **planes)
    zeropoint = -2.5 * np.log10(7.0e-20) - 5 * np.log10(8045.0) - 2.408  # STScI's formula
    return Written(path, zeropoint, "PHOTFLAM", sigma=False, bad=EMPTY)


def hst_ivar(folder: Path) -> Written:
    """The same in two files, with inverse variances as weights."""
    keys = {"PHOTFLAM": 7.0e-20, "PHOTPLAM": 8045.0, "BUNIT": "ELECTRONS/S", "TELESCOP": "HST"}
    path = folder / "hlsp_deep_hst_acs_f814w_v1.0_drz.fits"
    fits.writeto(path, np.where(EMPTY, 0, FLUX).astype("f4"), wcs_header(**keys))
    weight = np.where(EMPTY, 0, 1 / SIGMA**2).astype(np.float32)
    fits.writeto(folder / "hlsp_deep_hst_acs_f814w_v1.0_wht.fits", weight)
    zeropoint = -2.5 * np.log10(7.0e-20) - 5 * np.log10(8045.0) - 2.408
    return Written(path, zeropoint, "PHOTFLAM", bad=EMPTY, more={"weight_is_ivar": True})


def jwst_files(folder: Path) -> Written:
    """A mosaic as surveys release them: image, errors and weights in three files."""
    name = "mosaic_nircam_f115w_COSMOS-Web_30mas_A10_v0_8_{}.fits"
    header = wcs_header(BUNIT="10.0*nanoJansky", TELESCOP="JWST", FILTER="F115W")
    for part, plane in {"sci": FLUX, "err": SIGMA, "wht": np.full((H, W), 0.7)}.items():
        data = np.where(EMPTY, 0, plane).astype(np.float32)
        fits.writeto(folder / name.format(part), data, header if part == "sci" else None)
    return Written(folder / name.format("sci"), 28.9, "nanoJansky", bad=EMPTY)


def lsst(folder: Path) -> Written:
    """A calexp of HSC: HDUs by EXTTYPE, planes by MP_*, FLUXMAG0 in the primary header."""
    planes = fits.Header()
    for name, bit in {"BAD": 0, "SAT": 1, "INTRP": 2, "CR": 3, "DETECTED": 5, "NO_DATA": 8}.items():
        planes[f"HIERARCH MP_{name}"] = bit
    first = fits.PrimaryHDU()
    first.header["FLUXMAG0"] = 10 ** (0.4 * 27.0)
    first.header["FILTER"] = "HSC-I"
    mask = bits(1 << 3, 1 << 5) | (EMPTY * (1 << 8)).astype(np.int32)
    rest = [
        fits.ImageHDU(FLUX, wcs_header(EXTTYPE="IMAGE")),
        fits.ImageHDU(mask, fits.Header([*planes.cards, ("EXTTYPE", "MASK")])),
        fits.ImageHDU(SIGMA**2, fits.Header({"EXTTYPE": "VARIANCE"})),
    ]
    path = folder / "calexp-HSC-I-9813-4,4.fits"
    fits.HDUList([first, *rest]).writeto(path)
    return Written(path, 27.0, "FLUXMAG0", bits={"CR": 8, "DETECTED": 32})


def legacy(folder: Path) -> Written:
    """A brick: compressed image, inverse variances, and masks of all bands in a third file."""
    name = "legacysurvey-1500p020-{}.fits.fz"
    header = wcs_header(BRICKNAM="1500p020", FILTER="r", BUNIT="nanomaggy")
    planes = {
        "image-r": np.where(EMPTY, 0, FLUX).astype(np.float32),
        "invvar-r": np.where(EMPTY, 0, 1 / SIGMA**2).astype(np.float32),
        # saturated in r; bright-star mask and saturated in z, which are no matter in r
        "maskbits": bits(0x8, 0x2 | 0x10, np.int16),
    }
    for part, data in planes.items():
        own = fits.CompImageHDU(data, header, quantize_level=0, compression_type="GZIP_1")
        others = [] if part != "maskbits" else [fits.ImageHDU(bits(1, 1, np.int16), name="WISEM1")]
        own.name = "MASKBITS" if others else "COMPRESSED_IMAGE"
        fits.HDUList([fits.PrimaryHDU(), own, *others]).writeto(folder / name.format(part))
    return Written(
        folder / name.format("image-r"), 22.5, "nanomaggy", bits={"SATUR_R": 8, "BRIGHT": 2}
    )


def des(folder: Path) -> Written:
    """A coadd tile: SCI, MSK, WGT, where the weight is the inverse variance."""
    weight = np.where(EMPTY, 0, 1 / SIGMA**2).astype(np.float32)
    planes = {
        "SCI": (FLUX, wcs_header(MAGZERO=30.0, BAND="i", SURVEY="DES")),
        "MSK": (bits(2, 4, np.int16), None),
        "WGT": (weight, None),
    }
    path = hdus(folder / "DES0215-0458_r4907p01_i.fits", {}, **planes)
    return Written(path, 30.0, "MAGZERO", bits={"SATURATE": 2, "INTERP": 4})


def kids(folder: Path) -> Written:
    """A coadd in units of flux at magnitude 0, weight and mask in files of their own."""
    name, unit = "KiDS_DR4.0_150.1_2.2_r_{}.fits", 1e-12
    fits.writeto(folder / name.format("sci"), FLUX * np.float32(unit), wcs_header())
    weight = np.where(EMPTY, 0, 1 / (SIGMA * unit) ** 2).astype(np.float32)
    fits.writeto(folder / name.format("wei"), weight)
    fits.writeto(folder / name.format("msk"), bits(2, 16))
    return Written(
        folder / name.format("sci"),
        0.0,
        "KiDS",
        unit=unit,
        bits={"SATURATION_CORE": 2, "SECONDARY_HALO": 16},
    )


def euclid(folder: Path) -> Written:
    """A MER tile: hashes and dates in the names of its three files differ."""
    tile = "TILE102018211-{}_2024{}T230000.000000Z_00.00.fits"
    image = folder / ("EUC_MER_BGSUB-MOSAIC-VIS_" + tile.format("ABC123", "1025"))
    fits.writeto(image, FLUX, wcs_header(MAGZERO=24.6, FILTER="VIS"))
    rms = folder / ("EUC_MER_MOSAIC-VIS-RMS_" + tile.format("DEF456", "1026"))
    fits.writeto(rms, np.where(EMPTY, np.nan, SIGMA).astype("f4"))
    fits.writeto(folder / ("EUC_MER_MOSAIC-NIR-H-RMS_" + tile.format("0", "1027")), 99 * SIGMA)
    flags = folder / ("EUC_MER_MOSAIC-VIS-FLAG_" + tile.format("789ABC", "1026"))
    fits.writeto(flags, bits(1, 1 << 18))
    return Written(image, 24.6, "MAGZERO", bits={"INVALID": 1, "STARSIGNAL": 1 << 18})


def panstarrs(folder: Path) -> Written:
    """A stack on the asinh scale, its variance on another, the mask's bits by MSKNAM."""
    name, factor = "rings.v3.skycell.1784.059.stk.r.unconv{}.fits", 2.5 * np.log10(np.e)

    def stretched(flux: np.ndarray, soft: float, offset: float) -> tuple[np.ndarray, fits.Header]:
        value = factor * np.arcsinh((flux - offset) / (2 * soft))
        header = wcs_header(BSOFTEN=soft, BOFFSET=offset, EXPTIME=880.0)
        header["HIERARCH FPA.ZP"] = 25.0
        return nan_outside(value), header

    for ending, (data, header) in {
        "": stretched(FLUX, 40.0, 0.5),
        ".wt": stretched(SIGMA**2, 3.0, 0.1),
    }.items():
        fits.writeto(folder / name.format(ending), data, header)
    keys = {"MSKNAM00": "DETECTOR", "MSKVAL00": 1, "MSKNAM05": "SAT", "MSKVAL05": 32}
    keys |= {"MSKNAM13": "STARCORE", "MSKVAL13": 4096}
    fits.writeto(folder / name.format(".mask"), bits(32, 4096), fits.Header(keys))
    zeropoint = 25 + 2.5 * np.log10(880.0)
    return Written(folder / name.format(""), zeropoint, "FPA.ZP", bits={"STARCORE": 4096})


def sdss(folder: Path) -> Written:
    """A frame in nanomaggies; its noise follows from sky, calibration, gain and dark variance."""
    calibration = np.linspace(0.004, 0.006, W).astype(np.float32)
    x, y = np.linspace(0, 7, W), np.linspace(0, 5, H)
    sky = 100 + 3 * np.arange(8)[None, :] + 2 * np.arange(6)[:, None]  # (6, 8), linear
    header = wcs_header(BUNIT="nanomaggy", CAMCOL=3, RUN=4192, FILTER="r", NMGY=0.005)
    table = fits.BinTableHDU.from_columns(
        [
            fits.Column("ALLSKY", "48E", dim="(8,6)", array=sky[None].astype(np.float32)),
            fits.Column("XINTERP", f"{W}E", array=x[None].astype(np.float32)),
            fits.Column("YINTERP", f"{H}E", array=y[None].astype(np.float32)),
        ]
    )
    path = folder / "frame-r-004192-3-0300.fits"
    image = fits.PrimaryHDU(FLUX * 0.01, header)
    fits.HDUList([image, fits.ImageHDU(calibration), table]).writeto(path)
    return Written(path, 22.5, "nanomaggy", unit=0.01, sigma=False, bad=EMPTY & False)


def plain(folder: Path) -> Written:
    """An image, its noise and a mask under the usual names."""
    fits.writeto(folder / "a_image_r.fits", FLUX, wcs_header(MAGZPT=25.3))
    fits.writeto(folder / "a_rms_r.fits", np.where(EMPTY, 0, SIGMA).astype("f4"))
    fits.writeto(folder / "a_mask_r.fits.gz", HARMFUL.astype(np.int16))
    return Written(folder / "a_image_r.fits", 25.3, "MAGZPT")


WRITERS: dict[str, Callable[[Path], Written]] = {
    "jwst": jwst,
    "jwst_files": jwst_files,
    "hst": hst,
    "hst_ivar": hst_ivar,
    "lsst": lsst,
    "legacy": legacy,
    "des": des,
    "kids": kids,
    "euclid": euclid,
    "panstarrs": panstarrs,
    "sdss": sdss,
    "plain": plain,
}
