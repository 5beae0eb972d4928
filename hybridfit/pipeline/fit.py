"""Fitting and rendering of galaxies in memory."""

from __future__ import annotations

import json
from dataclasses import asdict, fields, replace
from inspect import signature
from typing import Any

import numpy as np
import torch
from astropy.table import Table
from numpy.typing import ArrayLike, NDArray

from hybridfit.data.cutouts import Cutouts
from hybridfit.data.ids import ascii_id
from hybridfit.data.positions import in_cutout
from hybridfit.data.quantities import without_units
from hybridfit.data.tensors import as_tensor, expanded, masked_pixels
from hybridfit.deprecations import renamed_arguments
from hybridfit.fitting.options import FitOptions
from hybridfit.io.arrays import prepare
from hybridfit.io.result_table import result_columns, result_rows
from hybridfit.io.table import id_width, record_type
from hybridfit.io.write_tables import whole_table
from hybridfit.model.profiles import import_profiles
from hybridfit.options.checks import check_choice, checked, or_default
from hybridfit.options.yaml_options import check_keys
from hybridfit.pipeline.devices import usable_device
from hybridfit.pipeline.engine.isolation import Isolation, failed_cutout, ordinary_galaxy
from hybridfit.pipeline.measure import (
    compiles,
    measure,
    metadata,
    model_images,
    starting_network,
)
from hybridfit.pipeline.options import INITIAL_VALUES, check_samples
from hybridfit.pipeline.psf_background import with_pedestal_flags
from hybridfit.pipeline.uncertainty_options import ErrorOptions
from hybridfit.sampling.options import SamplingOptions
from hybridfit.uncertainty.options import BootstrapOptions, BudgetOptions

AT_ONCE = 1024  # galaxies


@renamed_arguments("fit", "run")
def fit(
    cutouts: Cutouts | ArrayLike,
    *,
    options: FitOptions | None = None,
    uncertainty: str = "posterior",
    initial_values: str = "network",
    sampling: SamplingOptions | None = None,
    bootstrap: BootstrapOptions | None = None,
    budget: BudgetOptions | None = None,
    device: str | torch.device = "cpu",
    covariance: bool = True,
    save_samples: bool = False,
    **more: Any,
) -> Table:
    """Fit a batch of galaxies and return a table, one row a galaxy.

    >>> table = hybridfit.fit(cutouts, sky="plane")
    >>> table = hybridfit.fit(image, sigma=sigma, psf=psf, zeropoint=25.0)

    Args:
        cutouts: `Cutouts`, or images (B, H, W) or (H, W) in flux units, `NDData`, or a list of
            such; then ``more`` holds ``psf`` (None to fit without one), and ``sigma`` and the like
            as of `hybridfit.prepare`, which is what they go through.
        options: of the fit; default `FitOptions()`.
        uncertainty: where errors come from: "posterior" (fit and network reconciled by the
            likelihood), "bootstrap" (fits of replicas) or "covariance", (J^T W J)^-1 at the fit.
        initial_values: where the fit starts: the posterior of the "network", or "moments" of the
            image; values in ``Cutouts.start`` go first.
        sampling, bootstrap: settings of these ways to errors.
        budget: of the errors beyond the noise map's, which widen the posterior.
        device: torch device that computes.
        covariance: whether to add the column ``covariance`` (B, P, P), in the order of the
            parameters' columns.
        save_samples: whether to add the draws as <name>_samples (B, S), to be weighted with the
            column ``weight`` (B, S).
        more: fields of `FitOptions` to change, e.g. ``objective="ml"``; with images also the
            arguments of `hybridfit.prepare` but ``start``, e.g. ``mask_neighbours=False``; with
            ``prepare=False`` the fields of `Cutouts`, and nothing is masked or made.

    Returns:
        Table with id, flags and flag_names (`describe_flags` explains them), quality (certified,
        usable, suspect), each parameter [pix, mag, deg] at the best fit with its _err and, unless
        errors come from "covariance", _p16, _p50, _p84; positions on the sky where a WCS is known;
        the zeropoint that was used; chi2, dof, n_iter; ess, pareto_k, log_evidence, missed_mass,
        fit_network_distance, NaN where they do not apply; notes. Galaxies that could not be fitted
        are rows too, flagged.

    Raises:
        ValueError: for options, shapes or names that are not understood; never for a galaxy.
    """
    check_choice(
        "initial_values",
        initial_values,
        INITIAL_VALUES,
        "values of single galaxies are Cutouts(start=...)",
    )
    covariance = checked("covariance", covariance, bool)
    save_samples = checked("save_samples", save_samples, bool)
    errors = ErrorOptions(
        uncertainty,
        or_default("sampling", sampling, SamplingOptions),
        or_default("bootstrap", bootstrap, BootstrapOptions),
        or_default("budget", budget, BudgetOptions),
    )
    check_samples(save_samples, uncertainty)
    if not isinstance(cutouts, Cutouts):
        cutouts = from_arrays(cutouts, more, "fit")
    check_keys(more, [f.name for f in fields(FitOptions)], "fit")
    if isinstance(named := more.get("components"), list | tuple):
        import_profiles(name for name in named if isinstance(name, str))
    chosen = replace(or_default("options", options, FitOptions), **more)
    network, where = starting_network(initial_values), usable_device(device)
    compile = compiles(chosen, len(cutouts), where, errors)
    drawn = errors.n_draws(len(chosen.components))
    columns = result_columns(
        chosen.space,
        id_width(cutouts.id),
        covariance,
        quantiles=drawn > 0,
        n_samples=drawn if save_samples else 0,
    )

    def compute(part: Cutouts) -> NDArray[np.void]:
        part = with_pedestal_flags(part)
        result = measure(part, chosen, where, compile, errors, network)
        return result_rows(part, result, columns)

    isolation = Isolation(lambda: compute(ordinary_galaxy(cutouts.psf is not None)))
    rows = np.zeros(len(cutouts), record_type(columns))
    for first in range(0, len(cutouts), AT_ONCE):  # draws take more memory than their galaxy
        part = cutouts[first : first + AT_ONCE]
        rows[first : first + AT_ONCE] = isolation.rows(
            part, compute, lambda one, text: failed_cutout(one, text, columns)
        )
    settings = {name: asdict(values) for name, values in errors.settings.items()}
    run = {"uncertainty": uncertainty, "initial_values": initial_values}
    return whole_table(rows, columns, metadata({"fit": asdict(chosen), **settings, "run": run}))


def render(table: Table, cutouts: Cutouts) -> NDArray[np.float32]:
    """Return the model images of a table of fits.

    Args:
        table: from `fit`, or read from a run's results; rows are found by their id.
        cutouts: the B galaxies that were fitted, for their PSFs, shapes and zero points.

    Returns:
        (B, H, W) flux units, sky included; NaN where a galaxy has no fit.

    Raises:
        ValueError: if a galaxy has no row, or a parameter no column.
    """
    checked("table", table, Table)
    checked("cutouts", cutouts, Cutouts)
    names = [str(name) for name in table["id"]] if "id" in table.colnames else []
    number = {name: i for i, name in enumerate(names)}
    wanted = [name if name in number else ascii_id(name) for name in cutouts.id]
    missing = [name for name in wanted if name not in number]
    if missing:
        raise ValueError(f"table has no row for galaxy '{missing[0]}': expected one for each id")
    options = _options_of(table)
    rows = table[[number[name] for name in wanted]]
    theta = np.stack([np.ma.filled(rows[name], np.nan) for name in options.space.names], axis=1)
    values = torch.from_numpy(theta.astype(np.float64)).to(cutouts.image.device)
    values = in_cutout(values, options.space.names, cutouts.origin)
    return model_images(values, cutouts, options)


def _options_of(table: Table) -> FitOptions:
    """The options that a table was made with, as far as they shape its columns and models."""
    names = [str(name) for name in table.colnames]
    written = json.loads(table.meta.get("OPTIONS", "{}")).get("fit", {})
    components = tuple(written.get("components", ("sersic",)))
    options = FitOptions(
        components,
        sky="plane" if "sky_dx" in names else "constant",
        convolution=written.get("convolution", "continuous"),
    )
    missing = [name for name in options.space.names if name not in names]
    if missing:
        expected = ", ".join(options.space.names)
        raise ValueError(f"table has no column '{missing[0]}': expected {expected}")
    return options


def from_arrays(image: ArrayLike, more: dict[str, Any], what: str) -> Cutouts:
    """Return cutouts from images (B, H, W) or (H, W) and what else of theirs is in ``more``.

    Args:
        image: flux units.
        more: arguments of `prepare`, which are taken out of it; the rest stays. With ``prepare``
            false the fields of `Cutouts`, which are then taken as they are.
        what: the function that was called, for the error.

    Raises:
        ValueError: if sigma or psf are missing, or shapes disagree.
    """
    if more.pop("prepare", True):
        names = set(signature(prepare).parameters) - {"image", "start"}
        return prepare(image, **{name: more.pop(name) for name in sorted(names & set(more))})
    own = {f.name for f in fields(Cutouts)} - {"image", "start"}
    given = {name: more.pop(name) for name in sorted(own & set(more))}
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
