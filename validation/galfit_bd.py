"""Bulge and disk: how often does a fit of two components find the lowest minimum, and the truth?

Part of `accuracy_galfit.py`, on ../shared/data/sims/bd.npz (for which GALFIT's results are not
saved). Each galaxy is fitted from the package's own initial values, from four others derived from a
single-Sersic fit, and from the truth. The lowest of all is the best known minimum.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from astropy.table import Table
from numpy.typing import NDArray
from torch import Tensor

import hybridfit as hf
from hybridfit.data.fit import Fit
from hybridfit.model.scene_values import SceneValues, scene_values
from hybridfit.rendering.render import render
from validation.common import SIMS

Array = NDArray[np.float64]
MODELS = (("sersic", "exponential"), ("sersic", "sersic"))
# bulge-to-total, and the sizes of bulge and disk in units of the single fit's
STARTS = ((0.2, 0.3, 1.2), (0.5, 0.5, 1.6), (0.8, 0.9, 3.0), (0.4, 0.15, 1.0))
WORSE = (1.0, 10.0)  # in chi2 above the best known minimum
OWN, TRUTH = "own start", "from the truth"
COLUMNS = ("mag", "bt", "r_bulge", "r_disk", "n_bulge", "q_bulge", "q_disk")


@dataclass(frozen=True)
class Set:
    """Galaxies and their true parameters of bulge and disk (B, 7)."""

    cutouts: hf.Cutouts
    bulge: Array
    disk: Array
    snr: Array


def load() -> Set:
    """Read bd.npz; angles are turned from +x to the project's convention."""
    with np.load(SIMS / "bd.npz") as data:
        sims = {key: data[key] for key in data.files}
    psf = sims["psf"] / sims["psf"].sum(axis=(1, 2), keepdims=True)
    cutouts = hf.Cutouts(
        image=sims["data"], sigma=sims["sigma"], psf=psf, zeropoint=np.full(len(psf), 22.5)
    )
    share = {"b": sims["t_bt"], "d": 1 - sims["t_bt"]}
    parts = {}
    for part, light in share.items():
        mag = sims["t_mag"] - 2.5 * np.log10(light)
        shape = [sims[f"t_{k}_{part}"] for k in ("re", "n", "q")]
        angle = (sims[f"t_pa_{part}"] - 90) % 180
        parts[part] = np.stack([sims["t_x"], sims["t_y"], mag, *shape, angle], axis=1)
    return Set(cutouts, parts["b"], parts["d"], sims["t_snr"])


def theta_of(bulge: Array, disk: Array, options: hf.FitOptions) -> Tensor:
    """Return parameters (B, Q) of a model of two components; an exponential disk has no index."""
    of_disk = disk if "n" in options.profiles[1].shape else np.delete(disk, 4, axis=1)
    sky = np.zeros((len(bulge), 1))
    return torch.from_numpy(np.concatenate([bulge, of_disk, sky], axis=1))


def parts_of(fit: Fit) -> tuple[Array, Array]:
    """Return values (B, 7) of bulge and disk: of two free indices the smaller size is the bulge."""
    names, theta = fit.space.names, fit.theta.numpy()
    parts = []
    for k in (0, 1):
        columns = [fit.space.label(k, name) for name in ("x", "y", "mag", "r_eff", "n", "q", "pa")]
        parts.append(
            np.stack(
                [theta[:, names.index(c)] if c in names else np.ones(len(theta)) for c in columns],
                axis=1,
            )
        )
    if fit.space.label(1, "n") in names:
        swap = (parts[0][:, 3] > parts[1][:, 3])[:, None]
        parts = [np.where(swap, parts[1], parts[0]), np.where(swap, parts[0], parts[1])]
    return parts[0], parts[1]


def summary(bulge: Array, disk: Array) -> Array:
    """Return `COLUMNS` (B, 7): total magnitude, bulge-to-total, ln of sizes and index, ratios."""
    with np.errstate(invalid="ignore", divide="ignore"):
        flux = [10 ** (-0.4 * part[:, 2]) for part in (bulge, disk)]
        total = flux[0] + flux[1]
        logs = [np.log(v) for v in (bulge[:, 3], disk[:, 3], bulge[:, 4])]
        share = flux[0] / total
        return np.stack([-2.5 * np.log10(total), share, *logs, bulge[:, 5], disk[:, 5]], axis=1)


def starting_points(cutouts: hf.Cutouts, options: hf.FitOptions) -> list[Tensor]:
    """Return initial values (B, Q) for each of `STARTS`, derived from a single-Sersic fit."""
    single = hf.fit_cutouts(cutouts, hf.FitOptions(compile="off")).theta.numpy()[:, :7]
    points = []
    for light, small, large in STARTS:
        bulge, disk = single.copy(), single.copy()
        bulge[:, 2] -= 2.5 * np.log10(light)
        disk[:, 2] -= 2.5 * np.log10(1 - light)
        bulge[:, 3], disk[:, 3] = small * single[:, 3], large * single[:, 3]
        bulge[:, 4], disk[:, 4] = 2.5, 1.0
        points.append(theta_of(bulge, disk, options))
    return points


def started(options: hf.FitOptions, start: Tensor) -> SceneValues:
    """Return the scenes of ``options`` with initial values (B, Q)."""
    return replace(scene_values([options.scene] * len(start)), start=start)


def run() -> tuple[dict[str, Any], dict[str, tuple[Array, Array]]]:
    """Return the figures of both models, and true and fitted values (B, 7) of each."""
    known = load()
    figures: dict[str, Any] = {"one Sersic": flags_of_one(known.cutouts)}
    points = {}
    for model in MODELS:
        options = hf.FitOptions(model, compile="off")
        truth = theta_of(known.bulge, known.disk, options)
        ways = {OWN: None}
        ways |= {f"start {k + 1}": p for k, p in enumerate(starting_points(known.cutouts, options))}
        ways[TRUTH] = truth
        fits, seconds = {}, {}
        for name, start in ways.items():
            clock = time.process_time()
            scene = None if start is None else started(options, start)
            fits[name] = hf.fit_cutouts(known.cutouts, options, scene=scene)
            seconds[name] = (time.process_time() - clock) / len(known.snr)
        best = render(truth, known.cutouts, options.space, options.profiles)
        residual = (known.cutouts.image - best) / known.cutouts.sigma
        at_truth = residual.square().flatten(1).sum(dim=1).double().numpy()
        figures[" + ".join(model)] = compared(known, fits, at_truth, seconds)
        true = summary(known.bulge, known.disk)
        points[" + ".join(model)] = true, summary(*parts_of(fits[OWN]))
    return figures, points


def compared(
    known: Set, fits: Mapping[str, Fit], at_truth: Array, seconds: Mapping[str, float]
) -> dict[str, Any]:
    """Count worse minima by initial values, and compare own and best minima with the truth."""
    chi2 = {name: fit.chi2.numpy() for name, fit in fits.items()}
    all_of_them = np.nan_to_num(np.stack(list(chi2.values())), nan=np.inf)
    lowest = all_of_them.min(axis=0)
    starts = {
        name: {
            "failed": int((~np.isfinite(value)).sum()),
            **{
                f"more than {d:g} above the best": int((~(value <= lowest + d)).sum())
                for d in WORSE
            },
            "above the truth's chi2": int((~(value <= at_truth)).sum()),
            "CPU s a galaxy": round(seconds[name], 4),
        }
        for name, value in chi2.items()
    }
    winner = all_of_them.argmin(axis=0)
    stacked = torch.stack([fit.theta for fit in fits.values()])
    first = fits[OWN]
    chosen = Fit(
        first.space,
        stacked[torch.from_numpy(winner), torch.arange(len(winner))],
        *(getattr(first, k) for k in ("covariance", "chi2", "dof", "n_iter", "flags")),
    )
    return {
        "galaxies": len(winner),
        "starts": starts,
        OWN: truths(known, first),
        "best of all": truths(known, chosen),
        "pulls": pulls(known, first, lowest),
    }


def truths(known: Set, fit: Fit) -> dict[str, Any]:
    """Return offsets of the main parameters of a decomposition, and the number far off.

    A component of negative flux has no magnitude, and its galaxy counts as far off.
    """
    found, true = summary(*parts_of(fit)), summary(known.bulge, known.disk)
    off = found - true
    bulge, disk = parts_of(fit)
    without = ~(np.isfinite(bulge[:, 2]) & np.isfinite(disk[:, 2]))
    with np.errstate(invalid="ignore"):
        return {
            "median offset": _named(np.nanmedian(off, axis=0)),
            "rms offset": _named(np.sqrt(np.nanmean(off**2, axis=0))),
            "median |offset|": _named(np.nanmedian(np.abs(off), axis=0)),
            "mag off by .5": int((~(np.abs(off[:, 0]) <= 0.5)).sum()),
            "bulge-to-total off by .2": int((~(np.abs(off[:, 1]) <= 0.2)).sum()),
            "size of the bulge off by 2x": int((~(np.abs(off[:, 2]) < np.log(2))).sum()),
            "size of the disk off by 2x": int((~(np.abs(off[:, 3]) < np.log(2))).sum()),
            "bulge larger than disk": int((bulge[:, 3] > disk[:, 3]).sum()),
            "a component without flux": int(without.sum()),
            "of them not flagged": int((without & (fit.flags.numpy() == 0)).sum()),
            "flagged": int((fit.flags != 0).sum()),
        }


def pulls(known: Set, fit: Fit, lowest: Array) -> dict[str, dict[str, float]]:
    """Return mean and width of (fit - truth) / error of fits in the best minimum."""
    if "n_2" in fit.space.names:
        return {}  # two Sersic components can be swapped, which errors do not describe
    options = hf.FitOptions(MODELS[0])
    truth = theta_of(known.bulge, known.disk, options)
    off = (fit.theta - truth).numpy()
    for k, name in enumerate(fit.space.names):
        if name.startswith("pa"):
            off[:, k] = (off[:, k] + 90) % 180 - 90
    good = fit.chi2.numpy() <= lowest + WORSE[0]
    pull = (off / fit.error.numpy())[good]
    within = np.abs(pull)
    return {
        name: {
            "mean": round(float(np.nanmean(pull[:, k])), 3),
            "robust width": round(1.4826 * float(np.nanmedian(within[:, k])), 3),
            "cover_68": round(float((within[:, k] < 0.994458).mean()), 3),
            "cover_95": round(float((within[:, k] < 1.959964).mean()), 3),
        }
        for k, name in enumerate(fit.space.names)
    }


def flags_of_one(cutouts: hf.Cutouts) -> dict[str, Any]:
    """Count flags where one Sersic profile is fitted to bulge and disk (the default fit)."""
    table: Table = hf.fit(cutouts, compile="off")
    flags = np.asarray(table["flags"])
    grades = np.asarray(table["quality"]).astype(str)
    counts = {str(flag.name): int((flags & int(flag) != 0).sum()) for flag in hf.Flag}
    return {
        "flagged": int((flags != 0).sum()),
        "by flag": {name: count for name, count in counts.items() if count},
        "quality": {str(name): int((grades == name).sum()) for name in sorted(set(grades))},
        "chi2 over dof, median": round(float(np.median(table["chi2"] / table["dof"])), 4),
    }


def _named(values: Array) -> dict[str, float]:
    return {name: round(float(v), 4) for name, v in zip(COLUMNS, values, strict=True)}
