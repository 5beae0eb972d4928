"""Targets among overlapping neighbours: fitted together, or with the neighbours masked.

    OMP_NUM_THREADS=1 python -m validation.neighbours [fit] [mask] [ignore] --cache FOLDER
        [--galaxies N] [--placed] [--uncertainty posterior|covariance] [--name NAME]

The 300 cutouts of ../shared/data/scenes/blend.npz with 2 to 4 sources each, Sersic profiles and
stars. The target is the first source, near the middle of its cutout; with --placed its true
position is given, as a catalogue would. One free Sersic profile is fitted to it, also to stars,
which count in magnitude alone.

Rows are kept in --cache, ten cutouts a file, and not fitted again. Figures: catastrophic targets
(magnitude off by 0.5, or size by a factor of 2) and how many of them carry no warning; certified
ones that are off by five standard deviations; coverage of 68 and 95 % and pulls; of the other
sources of S/N 20 and more those that were not found, or are catastrophic; CPU seconds.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import hybridfit as hf
from validation.common import SIMS, write_result

Array = NDArray[np.float64]

FILE = SIMS.parent / "scenes" / "blend.npz"
WAYS = ("fit", "mask")
ZEROPOINT = 22.5
AT_ONCE = 10  # cutouts a file of the cache
NAMES = ("x", "y", "mag", "r_eff", "n", "q", "pa")
LEVELS = ("p16", "p50", "p84")
KEPT = ("flags", "chi2", "dof", "ess", "catastrophic_probability")
MAG_OFF, SIZE_OFF, FIVE = 0.5, np.log(2.0), 5.0
BRIGHT = 20.0  # S/N of the other sources that count
SAME = 3.0  # pixels within which a source is that of the truth


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("ways", nargs="*", default=WAYS, help="fit, mask, ignore")
    parser.add_argument("--cache", type=Path, required=True, help="folder of rows of fits")
    parser.add_argument("--galaxies", type=int, default=10**6, help="first so many")
    parser.add_argument("--placed", action="store_true", help="give the target's true position")
    parser.add_argument("--uncertainty", default="posterior")
    parser.add_argument("--name", default="neighbours", help="of the file in results/")
    given = parser.parse_args()
    torch.set_num_threads(1)
    with np.load(FILE) as data:
        scenes = {key: data[key][: given.galaxies] for key in data.files}
    figures = {}
    for way in given.ways:
        name = f"{way}-{given.uncertainty}{'-placed' if given.placed else ''}"
        rows = measured(scenes, way, given.uncertainty, given.placed, given.cache / name)
        figures[name] = report(rows, scenes)
        print(f"\n{name}")
        for key, value in figures[name].items():
            print(f"    {key}: {value}")
    print(write_result(given.name, figures))


def measured(
    scenes: Mapping[str, NDArray[Any]], way: str, uncertainty: str, placed: bool, cache: Path
) -> dict[str, NDArray[Any]]:
    """Return the rows of all cutouts, fitted or from the cache."""
    cache.mkdir(parents=True, exist_ok=True)
    parts = []
    for first in range(0, len(scenes["data"]), AT_ONCE):
        path = cache / f"rows_{first:04d}.npz"
        if not path.exists():
            some = {k: v[first : first + AT_ONCE] for k, v in scenes.items()}
            temporary = path.with_suffix(f".{os.getpid()}.tmp.npz")
            np.savez(temporary, **fitted(some, way, uncertainty, placed))
            temporary.replace(path)
        with np.load(path) as data:
            parts.append({key: data[key] for key in data.files})
    return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}


def fitted(
    scenes: Mapping[str, NDArray[Any]], way: str, uncertainty: str, placed: bool
) -> dict[str, NDArray[Any]]:
    """Return what is kept of the fits of B cutouts."""
    psf = scenes["psf"] / scenes["psf"].sum(axis=(1, 2), keepdims=True)
    place = {"x": scenes["t_x"][:, 0], "y": scenes["t_y"][:, 0]} if placed else {}
    before = time.process_time()
    table = hf.fit(
        scenes["data"],
        sigma=scenes["sigma"],
        psf=psf,
        zeropoint=ZEROPOINT,
        neighbours=way,
        uncertainty=uncertainty,
        **place,
    )
    seconds = (time.process_time() - before) / len(table)
    result = {
        "fit": _columns(table, NAMES),
        "error": _columns(table, [f"{name}_err" for name in NAMES]),
        "quality": np.asarray(table["quality"]).astype(str),
        "seconds": np.full(len(table), seconds),
        **{name: np.ma.filled(table[name], 0) for name in KEPT},
    }
    if uncertainty != "covariance":
        quantiles = [_columns(table, [f"{name}_{end}" for name in NAMES]) for end in LEVELS]
        result["quantiles"] = np.stack(quantiles, axis=1)
    others = [f"neighbour_{name}" for name in NAMES]
    if way == "fit":
        result["neighbours"] = _columns(table, others)
    return result


def _columns(table: Any, names: Any) -> Array:
    """Return columns (B, N), or (B, M, N) where an entry has several numbers."""
    return np.stack([np.ma.filled(table[name], np.nan) for name in names], axis=-1)


def report(rows: Mapping[str, NDArray[Any]], scenes: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
    """Return the figures of one way."""
    truth = np.stack([scenes[f"t_{n}"][:, 0] for n in ("x", "y", "mag", "re", "n", "q")], axis=1)
    galaxy = scenes["t_type"][:, 0] == 1
    bad = catastrophic(rows["fit"], truth)
    quality = rows["quality"]
    pulls = (rows["fit"][:, :6] - truth) / rows["error"][:, :6]
    far = np.abs(pulls[:, [2, 3, 4, 5]]) > FIVE
    far[~galaxy, 1:] = False
    certified = quality == "certified"
    figures = {
        "cutouts": len(bad),
        "catastrophic targets": int(bad.sum()),
        "of them not suspect": int((bad & (quality != "suspect")).sum()),
        "of them certified": int((bad & certified).sum()),
        "quality": {kind: int((quality == kind).sum()) for kind in np.unique(quality).tolist()},
        "certified and off by 5 sigma": int((certified & far.any(axis=1)).sum()),
        "CPU seconds a cutout": round(float(rows["seconds"].mean()), 3),
        "coverage of 68 and 95 %, scatter of pulls": coverage(rows, truth, galaxy),
    }
    if "neighbours" in rows:
        figures |= _others(rows["neighbours"], scenes)
    return figures


def catastrophic(values: Array, truth: Array) -> NDArray[np.bool_]:
    """Return whether magnitude or size (B,) are far off; of stars, whose size is NaN, magnitude."""
    off = ~(np.abs(values[:, 2] - truth[:, 2]) <= MAG_OFF)
    galaxy = np.isfinite(truth[:, 3])
    size = ~(np.abs(np.log(values[:, 3] / np.where(galaxy, truth[:, 3], 1.0))) <= SIZE_OFF)
    return off | (galaxy & size)


def coverage(
    rows: Mapping[str, NDArray[Any]], truth: Array, galaxy: NDArray[np.bool_]
) -> dict[str, list[float]]:
    """Return for each parameter the coverage of 68 and 95 % and 1.48 MAD of the pulls."""
    result = {}
    for j, name in enumerate(NAMES[:6]):
        some = galaxy if j > 2 else np.ones(len(galaxy), bool)
        fit, error, true = rows["fit"][some, j], rows["error"][some, j], truth[some, j]
        if "quantiles" in rows:
            low, _, high = rows["quantiles"][some, :, j].T
            inside = np.mean((true >= low) & (true <= high))
        else:
            inside = np.mean(np.abs(fit - true) < error)
        pull = (fit - true) / error
        wide = np.mean(np.abs(pull) < 2)
        spread = 1.4826 * np.nanmedian(np.abs(pull - np.nanmedian(pull)))
        result[name] = [round(float(v), 3) for v in (inside, wide, spread)]
    return result


def _others(found: Array, scenes: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
    """Return how well the other sources of the cutouts were measured."""
    total = lost = bad = 0
    for i in range(len(found)):
        for s in range(1, int(scenes["t_nsrc"][i])):
            if scenes["t_snr"][i, s] < BRIGHT:
                continue
            total += 1
            place = np.array([scenes["t_x"][i, s], scenes["t_y"][i, s]])
            away = np.hypot(*(found[i, :, :2] - place).T)
            if not np.nanmin(away, initial=np.inf) < SAME:
                lost += 1
                continue
            own = found[i, int(np.nanargmin(away))][None]
            truth = [scenes[f"t_{name}"][i, s] for name in ("x", "y", "mag", "re")]
            star = not np.isfinite(own[0, 3])  # a galaxy that was fitted as a point has no size
            truth[3] = np.nan if star else truth[3]
            bad += bool(catastrophic(own, np.array(truth)[None])[0])
    return {
        f"others of S/N >= {BRIGHT:g}": total,
        "of them not found": lost,
        "of them found and catastrophic": bad,
    }


if __name__ == "__main__":
    main()
