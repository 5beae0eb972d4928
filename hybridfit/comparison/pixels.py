"""Chi2 of the parameters of any catalogue on the fitted cutouts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hybridfit.data.cutouts import Cutouts
from hybridfit.data.positions import in_cutout
from hybridfit.io.references.catalogue import COLUMN, NAMES, Array, Catalogue
from hybridfit.pipeline.run_cutouts import CutoutReader, batches
from hybridfit.rendering.convolution import CONTINUOUS, Convolution
from hybridfit.rendering.render import render


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Chi2 of one catalogue's parameters on N cutouts, NaN if they cannot be evaluated.

    Args:
        given: (N,) chi2 with the catalogue's fluxes, and its sky if known.
        solved: (N,) chi2 after solving for fluxes and sky.
        pixels: (N,) number of unmasked pixels.
    """

    given: Array
    solved: Array
    pixels: Array


@dataclass(frozen=True, eq=False)
class Models:
    """Models to render: rows of a catalogue, by cutout.

    Args:
        catalogue: source of the parameters.
        row: maps cutout numbers to rows of the catalogue.
    """

    catalogue: Catalogue
    row: Mapping[int, int]


def evaluate(
    read_cutout: CutoutReader,
    rows: Sequence[int],
    models: Sequence[Models],
    convolution: Convolution = CONTINUOUS,
    progress: Callable[[int], Any] = lambda n: None,
) -> tuple[list[Evaluation], Array]:
    """Evaluate several catalogues on the same cutouts, in float64.

    Args:
        read_cutout: reads a cutout by its number.
        rows: numbers of the cutouts.
        models: the catalogues; each results in an `Evaluation` up to the largest number.
        convolution: how models are convolved.
        progress: called with the number of galaxies just done.

    Returns:
        An `Evaluation` for each of ``models``, indexed by cutout number; and the zero points
        (N,) of the cutouts, NaN if unknown.
    """
    size = max(rows, default=-1) + 1
    out = [Evaluation(*(np.full(size, np.nan) for _ in range(3))) for _ in models]
    zeropoint = np.full(size, np.nan)
    for numbers, cutouts in batches(read_cutout, rows, progress):
        zeropoint[numbers] = cutouts.zeropoint.numpy()
        for wanted, found in zip(models, out, strict=True):
            pick = [wanted.row.get(n, -1) for n in numbers]
            for i, (given, solved, pixels) in _chi2(cutouts, wanted.catalogue, pick, convolution):
                n = numbers[i]
                found.given[n], found.solved[n], found.pixels[n] = given, solved, pixels
    return out, zeropoint


def catalogue_images(
    cutouts: Cutouts,
    catalogue: Catalogue,
    pick: Sequence[int],
    convolution: Convolution = CONTINUOUS,
) -> tuple[Array, Array]:
    """Render the components of a catalogue's rows, each with unit flux.

    Args:
        cutouts: B galaxies.
        catalogue: source of the parameters, in pixels of the parent image.
        pick: (B,) its rows; -1 for none.
        convolution: how models are convolved.

    Returns:
        (B, K, H, W) float64, 0 for absent components, NaN for those that cannot be rendered; and
        fluxes (B, K), 0 and NaN likewise.
    """
    chosen = np.asarray(pick)
    there = chosen >= 0
    values = catalogue.values[np.where(there, chosen, 0)]  # (B, K, 7)
    batch, many = values.shape[:2]
    present, whole = _present_and_whole(catalogue, values, there)
    complete = catalogue.complete[np.where(there, chosen, 0)] & there
    images = np.zeros((batch, many, *cutouts.image.shape[-2:]))
    flux = np.zeros((batch, many))
    zeropoint = cutouts.zeropoint.numpy().astype(np.float64)
    for k in range(many):
        good = present[:, k] & whole[:, k]
        bad = present[:, k] & ~whole[:, k] | there & ~complete
        images[bad, k], flux[bad, k] = np.nan, np.nan
        rows = np.flatnonzero(good & ~bad)
        if not len(rows):
            continue
        images[rows, k] = _unit_images(cutouts[rows], values[rows, k], convolution)
        one = 0.0 if catalogue.counts else zeropoint[rows]  # magnitude of unit flux
        flux[rows, k] = 10 ** (0.4 * (one - values[rows, k, COLUMN["mag"]]))
    images[~there], flux[~there] = np.nan, np.nan
    return images, flux


def _present_and_whole(
    catalogue: Catalogue, values: Array, there: NDArray[np.bool_]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return which components exist (B, K), and which can be rendered, for values (B, K, 7)."""
    present = there[:, None] & np.isfinite(values[..., [0, 2]]).any(axis=2)
    if catalogue.kind == "hybridfit":  # a component with flux 0 has no magnitude
        present &= np.isfinite(values[..., COLUMN["mag"]])
    whole = np.isfinite(values).all(axis=2)
    whole &= (values[..., COLUMN["r_eff"]] > 0) & (values[..., COLUMN["n"]] > 0.05)
    whole &= (values[..., COLUMN["q"]] > 0) & (values[..., COLUMN["n"]] < 20)
    return present, whole


def _unit_images(cutouts: Cutouts, values: Array, convolution: Convolution) -> Array:
    """Render one component per cutout (B, H, W), with parameters (B, 7) and unit flux."""
    with_sky = np.concatenate([values, np.zeros((len(values), 1))], axis=1)
    theta = in_cutout(torch.from_numpy(with_sky), (*NAMES, "sky"), cutouts.origin)
    theta[:, COLUMN["mag"]] = cutouts.zeropoint.to(theta)  # of unit flux
    return render(theta, cutouts, dtype=torch.float64, convolution=convolution).numpy()


@dataclass(frozen=True, eq=False)
class ModelImages:
    """Model images of one galaxy's parameters, and their chi2.

    Args:
        given: (H, W) with the catalogue's fluxes and sky; an unknown sky is solved for.
        solved: (H, W) after solving for fluxes and sky.
        chi2: of both images.
        pixels: number of unmasked pixels.
    """

    given: Array
    solved: Array
    chi2: tuple[float, float]
    pixels: int


def model_images(
    cutouts: Cutouts,
    catalogue: Catalogue,
    pick: Sequence[int],
    convolution: Convolution = CONTINUOUS,
) -> list[ModelImages | None]:
    """Evaluate parameters on pixels; return None if they cannot be rendered.

    Args: see `catalogue_images`.
    """
    images, flux = catalogue_images(cutouts, catalogue, pick, convolution)
    found: list[ModelImages | None] = []
    for i, row in enumerate(pick):
        usable = row >= 0 and bool(np.isfinite(images[i]).all()) and bool((flux[i] > 0).any())
        sky = catalogue.sky[row] if row >= 0 else np.full(4, np.nan)
        found.append(_model_images(cutouts, i, images[i], flux[i], sky) if usable else None)
    return found


def _model_images(cutouts: Cutouts, i: int, images: Array, flux: Array, sky: Array) -> ModelImages:
    image, sigma = (v[i].double().numpy() for v in (cutouts.image, cutouts.sigma))
    used = ~cutouts.mask[i].numpy()
    slope = _plane(cutouts, i, sky[2:])
    light = np.tensordot(flux, images, axes=1)
    level = sky[0]
    weight = 1 / sigma[used] ** 2
    if not np.isfinite(level):
        level = float((weight * (image - light - slope)[used]).sum() / weight.sum())
    given = light + level + slope
    own = flux > 0
    design = np.stack([*(unit[used] for unit in images[own]), np.ones(used.sum())], axis=1)
    scaled = design / sigma[used][:, None]
    target = (image - slope)[used] / sigma[used]
    solution, *_ = np.linalg.lstsq(scaled, target, rcond=None)
    solved = np.tensordot(solution[:-1], images[own], axes=1) + solution[-1] + slope
    chi2 = [float((((image - m) / sigma)[used] ** 2).sum()) for m in (given, solved)]
    return ModelImages(given, solved, (chi2[0], chi2[1]), int(used.sum()))


def _plane(cutouts: Cutouts, i: int, slopes: Array) -> Any:
    """Return the sky's gradient about the cutout's centre; 0 for a constant sky."""
    if not np.any(slopes):
        return 0.0
    height, width = cutouts.image.shape[-2:]
    middle = (cutouts.size[i].double().numpy() - 1) / 2
    y, x = np.mgrid[:height, :width].astype(np.float64)
    return slopes[0] * (x - middle[1]) + slopes[1] * (y - middle[0])


def _chi2(
    cutouts: Cutouts, catalogue: Catalogue, pick: Sequence[int], convolution: Convolution
) -> Iterator[tuple[int, tuple[float, float, int]]]:
    for i, found in enumerate(model_images(cutouts, catalogue, pick, convolution)):
        if found is not None:
            yield i, (*found.chi2, found.pixels)


def n_free_parameters(catalogue: Catalogue) -> NDArray[np.int64]:
    """Return the number of free parameters (N,) of Sersic components and a constant sky."""
    return catalogue.n_components * len(NAMES) + 1
