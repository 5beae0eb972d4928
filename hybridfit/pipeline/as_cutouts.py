"""Cutouts from what a function was given: cutouts, a path, or images and their noise, PSFs..."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from numpy.typing import ArrayLike

from hybridfit.data.cutouts import Cutouts
from hybridfit.data.quantities import without_units
from hybridfit.data.tensors import as_tensor, expanded, masked_pixels
from hybridfit.io.arrays import prepare
from hybridfit.io.options import ReadOptions
from hybridfit.io.read import read_all
from hybridfit.model.value_columns import NONE, ValueColumns
from hybridfit.options.yaml_options import check_keys
from hybridfit.pipeline.keywords import with_read_options


def as_cutouts(
    data: Any,
    read_options: ReadOptions,
    images: Mapping[str, Any],
    what: str,
    columns: ValueColumns = NONE,
) -> Cutouts:
    """Return the galaxies that a function was given, as cutouts.

    Args:
        data: cutouts, a path, or images.
        read_options: how files are read.
        images: keywords of images, or of reading files.
        what: the function that was called, for the error.
        columns: of a manifest, with values of the model's parameters.

    Raises:
        ValueError: for keywords that are not of this kind of data.
    """
    if isinstance(data, Cutouts):
        if images:
            raise ValueError(
                f"{what} got cutouts and {next(iter(images))}, expected that of images only: "
                f"change the cutouts by dataclasses.replace"
            )
        return data
    if isinstance(data, str | Path):
        return read_all(data, with_read_options(read_options, images, what), columns)
    return from_arrays(data, images, what)


def from_arrays(image: ArrayLike, given: Mapping[str, Any], what: str) -> Cutouts:
    """Return cutouts from images (B, H, W) or (H, W) and what came with them.

    Args:
        image: flux units.
        given: arguments of `hybridfit.prepare` but ``start``; with ``prepare`` false the fields of
            `Cutouts`, which are then taken as they are.
        what: the function that was called, for the error.

    Raises:
        ValueError: if sigma or psf are missing, shapes disagree, or a name is not known.
    """
    given = dict(given)
    if given.pop("prepare", True):
        names = [name for name in signature(prepare).parameters if name not in ("image", "start")]
        check_keys(given, names, what)
        return prepare(image, **given)
    names = [f.name for f in fields(Cutouts) if f.name not in ("image", "start")]
    check_keys(given, names, f"{what} of arrays that are not prepared")
    for name in ("sigma", "psf"):
        if name not in given:
            raise ValueError(f"{name} is missing: expected {what}(image, sigma=..., psf=...)")
    hidden = masked_pixels(image), masked_pixels(given["sigma"])
    image, given = without_units(image, given)
    image = as_tensor(image, torch.float32, "image")
    sigma = as_tensor(given.pop("sigma"), torch.float32, "sigma").to(image.device)
    mask = given.pop("mask", None)
    for masked in (one for one in hidden if one is not None):
        mask = masked if mask is None else masked | as_tensor(mask, torch.bool, "mask").numpy()
    if image.ndim == 2:
        image, sigma = image[None], sigma[None] if sigma.ndim == 2 else sigma
        if mask is not None:
            mask = as_tensor(mask, torch.bool, "mask")
            mask = mask[None] if mask.ndim == 2 else mask
    return Cutouts(image=image, sigma=expanded(sigma, image.shape, "sigma"), mask=mask, **given)
