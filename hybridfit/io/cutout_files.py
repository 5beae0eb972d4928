"""Write cutouts as the FITS files that `hybridfit fit` reads."""

from __future__ import annotations

from pathlib import Path

from astropy.io import fits
from astropy.table import Table

from hybridfit.data.cutouts import Cutouts
from hybridfit.io.blocks import file_name, world_header
from hybridfit.io.standard_zeropoints import is_believed
from hybridfit.io.writing import atomic, write_table


def write_cutouts(cutouts: Cutouts, directory: str | Path, truth: Table | None = None) -> None:
    """Write ``<id>_image.fits``, ``_sigma``, ``_psf`` and, where pixels are masked, ``_mask``.

    Args:
        cutouts: B galaxies; padding is removed; a known zero point is written to
            MAGZERO and the WCS to the image's header.
        directory: created if it does not exist.
        truth: written as ``truth.fits`` next to them.

    Raises:
        OSError: if the files cannot be written.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    for i, id in enumerate(cutouts.id):
        height, width = (int(v) for v in cutouts.size[i])
        header = world_header(cutouts.wcs[i])
        if cutouts.zeropoint_from[i]:
            zeropoint = float(cutouts.zeropoint[i])
            header["MAGZERO"] = (zeropoint, "mag of one flux unit")
            if not is_believed(zeropoint):  # that of maggies, 0, would count as missing
                header["FLUXMAG0"] = (10 ** (0.4 * zeropoint), "flux of a source of 0 mag")
        planes = {
            name: getattr(cutouts, name)[i, :height, :width].cpu().numpy()
            for name in ("image", "sigma", "mask")
        }
        if not planes["mask"].any():
            del planes["mask"]
        else:
            planes["mask"] = planes["mask"].astype("uint8")
        if cutouts.psf is not None:
            planes["psf"] = cutouts.psf[i].cpu().numpy()
        for name, plane in planes.items():
            path = directory / f"{file_name(id)}_{name}.fits"
            own = header if name == "image" else None
            with atomic(path) as file:
                fits.PrimaryHDU(plane, own).writeto(file)
    if truth is not None:
        write_table(directory / "truth.fits", truth)
