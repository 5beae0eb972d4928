"""Image blocks as GALFIT writes them: image, model and residual of one galaxy in one file."""

from __future__ import annotations

import hashlib
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from hybridfit.cutouts import Cutouts
from hybridfit.io.export import atomic
from hybridfit.io.galfit import model_header
from hybridfit.results import Fit

LONGEST = 100  # characters of an id in a file name


def write_blocks(
    directory: Path, cutouts: Cutouts, fit: Fit, models: NDArray[np.float32]
) -> list[Path]:
    """Write ``<id>_block.fits`` for each galaxy: empty, then image, model and residual HDUs.

    The model's header holds the parameters under GALFIT's keywords. Pixels are those of the
    stamp without its padding; masked ones are 0 in the image, and the residual is image - model
    in every pixel that was fitted, 0 in the others.

    Args:
        directory: must exist.
        cutouts: B galaxies.
        fit: of them.
        models: (B, H, W), of the fit, sky included.

    Returns:
        The files.
    """
    paths = [directory / f"{file_name(name)}_block.fits" for name in cutouts.id]
    for i, path in enumerate(paths):
        with atomic(path) as file:
            _block(cutouts, fit, models[i], i).writeto(file)
    return paths


def read_block(
    directory: Path, id: str
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_]] | None:
    """Read image, model and mask (H, W) of a galaxy's block; None if it has none.

    Args:
        directory: that `write_blocks` wrote into.
        id: of the galaxy.
    """
    path = directory / f"{file_name(id)}_block.fits"
    if not path.is_file():
        return None
    with fits.open(path) as hdus:
        image, model, residual = (np.asarray(hdu.data, dtype=np.float32) for hdu in hdus[1:4])
    return image, model, (image == 0) & (residual == 0)


def file_name(id: str) -> str:
    """Return a file name for a galaxy: without separators, not too long, and one for each id."""
    plain = re.sub(r"[^A-Za-z0-9._+-]", "_", id)[:LONGEST].lstrip(".")
    if plain == id:
        return plain
    return f"{plain}-{hashlib.sha256(id.encode()).hexdigest()[:8]}"


def _block(cutouts: Cutouts, fit: Fit, model: NDArray[np.float32], i: int) -> fits.HDUList:
    height, width = (int(v) for v in cutouts.size[i])
    image = cutouts.image[i, :height, :width].cpu().numpy()
    mask = cutouts.mask[i, :height, :width].cpu().numpy()
    model = model[:height, :width].astype(np.float32)
    residual = np.where(mask, np.float32(0), image - model)
    sky = world_header(cutouts.wcs[i])
    numbers = model_header(
        *_parameters(cutouts, fit, i),
        origin=(int(cutouts.origin[i, 0]), int(cutouts.origin[i, 1])),
        size=(height, width),
        zeropoint=float(cutouts.zeropoint[i]),
        chi2=float(fit.chi2[i]),
        dof=int(fit.dof[i]),
        n_free=fit.space.n_free + fit.space.n_linear,
        flags=int(fit.flags[i]),
    )
    image_header = fits.Header([("OBJECT", cutouts.id[i].encode("ascii", "replace").decode())])
    residual_header = fits.Header([("OBJECT", "residual map")])
    hdus = [fits.PrimaryHDU()]
    for data, header in ((image, image_header), (model, numbers), (residual, residual_header)):
        header.update(sky)
        hdus.append(fits.ImageHDU(data, header))
    return fits.HDUList(hdus)


def _parameters(
    cutouts: Cutouts, fit: Fit, i: int
) -> tuple[Sequence[dict[str, tuple[float, float]]], dict[str, tuple[float, float]]]:
    """Values and errors of each component and of the sky, x and y in the image as given."""
    values, errors = fit.theta[i].tolist(), fit.error[i].tolist()
    pairs = list(zip(values, errors, strict=True))
    components, row = [], 0
    for shape in fit.space.shapes:
        names = ("x", "y", "mag", "r_eff", *shape, "q", "pa")
        part = dict(zip(names, pairs[row:], strict=False))
        for axis, name in enumerate(("x", "y")):
            part[name] = part[name][0] + float(cutouts.origin[i, axis]), part[name][1]
        components.append(part)
        row += len(names)
    return components, dict(zip(fit.space.names[row:], pairs[row:], strict=True))


def world_header(wcs: Any) -> fits.Header:
    """Return a WCS as FITS cards; none for None."""
    if wcs is None:
        return fits.Header()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return wcs.to_header(relax=True)
