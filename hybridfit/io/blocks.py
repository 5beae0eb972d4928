"""Image blocks as GALFIT writes them: image, model and residual of one galaxy in one file."""

from __future__ import annotations

import hashlib
import math
import re
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from hybridfit.data.cutouts import Cutouts
from hybridfit.data.fit import Fit
from hybridfit.data.flags import Flag
from hybridfit.data.positions import parent_shift
from hybridfit.files.fits import open_fits
from hybridfit.io.galfit import Component, Feedme, Outcome, Value, model_header
from hybridfit.io.galfit.native import kind_of, native_component
from hybridfit.io.wcs import celestial_wcs
from hybridfit.io.writing import atomic

SECTION = re.compile(r"\[(\d+):\d+,(\d+):")  # GALFIT's FITSECT, which counts from 1
LONGEST = 100  # longest id in a file name, characters
# GALFIT's codes for these flags, for scripts that were written for GALFIT
GALFIT_FLAGS = {
    Flag.NOT_CONVERGED: "1",  # out of iterations
    Flag.AT_LIMIT: "2",  # values are suspect
    Flag.NO_PSF: "A-2",
    Flag.SIGMA_ESTIMATED: "A-5",
}


def write_blocks(
    directory: Path,
    cutouts: Cutouts,
    fit: Fit,
    models: NDArray[np.float32],
    feedmes: Sequence[Feedme | None] | None = None,
    components: NDArray[np.float32] | None = None,
) -> list[Path]:
    """Write ``<id>_block.fits`` for each galaxy: an empty HDU, then image, model and residual.

    With ``components`` an HDU for each of them follows, which has the component's name.

    The model's header lists the parameters under GALFIT's keywords and in its conventions, to four
    decimals or two digits of the error, whichever is more. Pixels are those of the cutout
    without its padding; masked pixels are 0 in the image, and the residual is image - model in
    every fitted pixel and 0 elsewhere. EXPTIME is 1: MAGZPT applies to the pixels as they are.

    Args:
        directory: an existing directory.
        cutouts: B galaxies.
        fit: their fit; a value without an error, next to others with errors, was fixed.
        models: (B, H, W) model images, including the sky.
        feedmes: for each galaxy its GALFIT input file, if any: file names, and the types and
            order of components, are taken from it.
        components: (B, M, H, W) images of the components without the sky; NaN where a galaxy has
            fewer.

    Returns:
        The paths of the files.
    """
    paths = [directory / f"{file_name(name)}_block.fits" for name in cutouts.id]
    for i, path in enumerate(paths):
        with atomic(path) as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # astropy warns of comments that it truncates
            feedme = feedmes[i] if feedmes is not None else None
            block = _block(cutouts, fit, models[i], i, feedme)
            if components is not None:
                block.extend(_component_hdus(cutouts, fit, components[i], i))
            block.writeto(file)
    return paths


class Block(NamedTuple):
    """The content of a galaxy's block.

    Args:
        image, model: (H, W) flux per pixel.
        mask: (H, W) True for masked pixels.
        origin: x, y of the first pixel in the parent image.
        wcs: WCS of the pixels; None without one.
        components: (M, H, W) images of the components without the sky; None without them.
    """

    image: NDArray[np.float32]
    model: NDArray[np.float32]
    mask: NDArray[np.bool_]
    origin: tuple[int, int]
    wcs: Any
    components: NDArray[np.float32] | None = None


def read_block(directory: Path, id: str) -> Block | None:
    """Read the block of a galaxy; return None if there is none.

    Args:
        directory: the directory given to `write_blocks`.
        id: the galaxy's id.
    """
    path = directory / f"{file_name(id)}_block.fits"
    if not path.is_file():
        return None
    with open_fits(path) as hdus:
        planes = [np.asarray(hdu.data, dtype=np.float32) for hdu in hdus[1:]]
        image, model, residual = planes[:3]
        wcs, _ = celestial_wcs(hdus[1].header, (0, 0))
        corner = SECTION.match(str(hdus[2].header.get("FITSECT", "")))
    origin = (int(corner[1]) - 1, int(corner[2]) - 1) if corner else (0, 0)
    components = np.stack(planes[3:]) if len(planes) > 3 else None
    return Block(image, model, (image == 0) & (residual == 0), origin, wcs, components)


def file_name(id: str) -> str:
    """Return a file name for a galaxy: no separators, a limited length, unique for each id."""
    plain = re.sub(r"[^A-Za-z0-9._+-]", "_", id)[:LONGEST].lstrip(".")
    if plain == id:
        return plain
    return f"{plain}-{hashlib.sha256(id.encode()).hexdigest()[:8]}"


def _block(
    cutouts: Cutouts, fit: Fit, model: NDArray[np.float32], i: int, feedme: Feedme | None
) -> fits.HDUList:
    height, width = (int(v) for v in cutouts.size[i])
    image = cutouts.image[i, :height, :width].cpu().numpy()
    mask = cutouts.mask[i, :height, :width].cpu().numpy()
    model = model[:height, :width].astype(np.float32)
    residual = np.where(mask, np.float32(0), image - model)
    sky = world_header(cutouts.wcs[i])
    numbers = model_header(*_outcome(cutouts, fit, i, feedme))
    flags = int(fit.flags[i])
    names = " ".join(flag.name or "" for flag in Flag if flags & flag)
    numbers.set("HFFLAGS", names, "Flags of hybridfit", before="CHISQ")
    name = cutouts.id[i].encode("ascii", "replace").decode()
    image_header = fits.Header([("OBJECT", name), ("EXPTIME", 1.0)])
    residual_header = fits.Header([("OBJECT", "residual map")])
    hdus = [fits.PrimaryHDU()]
    for data, header in ((image, image_header), (model, numbers), (residual, residual_header)):
        header.update(sky)
        hdus.append(fits.ImageHDU(data, header))
    return fits.HDUList(hdus)


def _component_hdus(
    cutouts: Cutouts, fit: Fit, components: NDArray[np.float32], i: int
) -> list[fits.ImageHDU]:
    """Return the HDUs of a galaxy's components (M, H, W)."""
    height, width = (int(v) for v in cutouts.size[i])
    hdus = []
    for k, (component, image) in enumerate(zip(fit.space.components, components, strict=True), 1):
        name = component.name or str(k)
        header = fits.Header([("OBJECT", f"component {name}"), ("PROFILE", component.profile)])
        header.update(world_header(cutouts.wcs[i]))
        hdus.append(fits.ImageHDU(image[:height, :width], header, name=name))
    return hdus


def _outcome(
    cutouts: Cutouts, fit: Fit, i: int, feedme: Feedme | None
) -> tuple[Outcome, tuple[int, int], str, str]:
    """Convert a fit to GALFIT's terms; also return convolution box, constraints and kernel."""
    kinds = None if feedme is None else [c.kind for c in feedme.components]
    area = feedme.pixel_area if feedme is not None else float(cutouts.pixel_scale[i]) ** 2
    parts, sky = fitted_components(cutouts, fit, i, kinds, area if area > 0 else 1.0)
    if feedme is not None:
        skies = iter(_shared(sky, [c for c in feedme.components if c.kind == "sky"]))
        profiles = iter(parts)
        parts = [next(skies if kind == "sky" else profiles) for kind in kinds or ()]
    else:
        parts = [*parts, sky]
    x0, y0 = (int(v) for v in cutouts.origin[i])
    height, width = (int(v) for v in cutouts.size[i])
    chi2, dof, flags = float(fit.chi2[i]), int(fit.dof[i]), int(fit.flags[i])
    outcome = Outcome(
        path=Path(),
        feedme=feedme.path.name if feedme else "",
        image=feedme.image if feedme else cutouts.id[i],
        sigma=feedme.sigma if feedme else "",
        psf=feedme.psf if feedme else "",
        mask=feedme.mask if feedme else "",
        region=(x0, x0 + width, y0, y0 + height),
        zeropoint=float(cutouts.zeropoint[i]),
        components=tuple(parts),
        chi2=chi2,
        dof=dof,
        chi2nu=chi2 / dof if dof > 0 else math.nan,
        n_free=sum(math.isfinite(v.error) for c in parts for v in c.values.values()),
        flags=tuple(text for flag, text in GALFIT_FLAGS.items() if flags & flag),
    )
    box = feedme.convolution_box if feedme else (width, height)
    return outcome, box, feedme.constraints if feedme else "", feedme.kernel if feedme else ""


def fitted_components(
    cutouts: Cutouts, fit: Fit, i: int, kinds: Sequence[str] | None, area: float
) -> tuple[list[Component], Component]:
    """Return each profile, and the sky, in GALFIT's terms; x and y are in the parent image.

    Args:
        cutouts: B galaxies.
        fit: their fit.
        i: which galaxy.
        kinds: GALFIT's, of the components of an input file; None takes those of the profiles.
        area: of a pixel [arcsec^2], for surface brightnesses.
    """
    doubtful = bool(int(fit.flags[i]) & (Flag.NOT_CONVERGED | Flag.AT_LIMIT))
    theta = fit.theta[i] + parent_shift(fit.space.names, cutouts.origin[i : i + 1])[0]
    none = not bool((fit.error[i] > 0).any())  # no covariance: which are fixed is unknown

    def value(number: float, error: float) -> Value:
        known = error if error > 0 else math.nan
        return Value(number, known, fixed=not (error > 0 or none), suspect=doubtful)

    own = None if kinds is None else [kind for kind in kinds if kind != "sky"]
    parts, row = [], 0
    for k, component in enumerate(fit.space.components):
        names, columns = component.parameters, slice(row, row + len(component.parameters))
        kind = own[k] if own is not None else kind_of(component.profile)
        covariance = fit.covariance[i, columns, columns]
        numbers = native_component(kind, names, theta[columns], covariance, area)
        parts.append(Component(kind, {name: value(*pair) for name, pair in numbers.items()}))
        row += len(names)
    level = {name: Value(0.0, fixed=True) for name in ("sky", "sky_dx", "sky_dy")}
    for j, name in enumerate(fit.space.names[row:], start=row):
        level[name] = replace(value(float(theta[j]), float(fit.error[i, j])), suspect=False)
    return parts, Component("sky", level)


def _shared(sky: Component, asked: Sequence[Component]) -> list[Component]:
    """Return the skies of an input file whose sum is ``sky``: all but the first as they were."""
    if len(asked) < 2:
        return [sky]
    first = {
        name: replace(v, value=v.value - math.fsum(c.values[name].value for c in asked[1:]))
        for name, v in sky.values.items()
    }
    others = [
        replace(c, values={n: replace(v, fixed=True) for n, v in c.values.items()})
        for c in asked[1:]
    ]
    return [replace(sky, values=first), *others]


def world_header(wcs: Any) -> fits.Header:
    """Return a WCS as FITS cards; an empty header for None."""
    if wcs is None:
        return fits.Header()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return wcs.to_header(relax=True)
