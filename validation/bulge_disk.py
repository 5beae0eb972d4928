"""Do posteriors of bulge + disk cover the truth, and are they well sampled?

    OMP_NUM_THREADS=1 python -m validation.bulge_disk [scenes] [sims] [prior] --cache FOLDER
        [--galaxies N] [--bright] [--name NAME]

scenes: 300 galaxies of ../shared/data/scenes/bd.npz; sims: 100 of ../shared/data/sims/bd.npz.
    Both are exponential disks with a Sersic bulge of the same centre, which is what
    ``model="bulge+disk"`` fits. Their truths are not drawn from the fit's prior.
prior: 200 galaxies that are, see `validation.bulge_disk_draws`.

Rows of fits are kept in --cache, ten galaxies a file, and not fitted again. Each figure is for
all galaxies and for those of S/N 100 and more: coverage of the intervals of 68 and 95 % of every
parameter, of the bulge's share of the light, and of magnitude, r_eff, q and pa of the sum; the
median and scatter of the pulls; failures (a share of the light that is off by more than 0.2); the
effective number of draws; qualities.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import hybridfit as hf
from hybridfit.data.samples import Draws
from hybridfit.fitting.options import FitOptions
from hybridfit.model.combined import CombinedParameters, combined, combined_names
from hybridfit.model.prior import Prior
from validation.bulge_disk_draws import PRIOR, drawn
from validation.common import SIMS, write_result

Array = NDArray[np.float64]

MODEL = "bulge+disk"
FILES = {"scenes": SIMS.parent / "scenes" / "bd.npz", "sims": SIMS / "bd.npz"}
PRIORS = {"prior": PRIOR}  # of the fit, where it is not the default
DRAWN = 200  # galaxies
ZEROPOINT = 22.5
AT_ONCE = 10  # galaxies a file of the cache
LEVELS = (0.025, 0.16, 0.5, 0.84, 0.975)
BRIGHT = 100.0  # S/N
FAR = 0.2  # of the bulge's share of the light, that is a failure
ENOUGH = 60.0  # effective draws
PERCENTILES = (1, 5, 16, 50, 84)
# columns of the tables that are kept
KEPT = ("ess", "pareto_k", "flags", "chi2", "log_evidence", "catastrophic_probability")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sets", nargs="*", default=tuple(FILES), help="scenes, sims, prior")
    parser.add_argument("--cache", type=Path, required=True, help="folder of rows of fits")
    parser.add_argument("--galaxies", type=int, default=10**6, help="first so many of each set")
    parser.add_argument("--bright", action="store_true", help=f"those of S/N {BRIGHT:g} alone")
    parser.add_argument("--name", default="bulge_disk", help="of the file in results/")
    given = parser.parse_args()
    torch.set_num_threads(1)
    figures: dict[str, Any] = {}
    for name in given.sets:
        sims = load(name, given.galaxies, BRIGHT if given.bright else 0.0)
        rows = measured(sims, given.cache / name, PRIORS.get(name))
        figures[name] = report(rows, truths(sims), sims["t_snr"])
        show(name, figures[name])
    print(write_result(given.name, figures))


def load(name: str, count: int = 10**6, snr: float = 0.0) -> dict[str, NDArray[Any]]:
    """Return the arrays of the first galaxies of a set, those of this S/N and more."""
    if name == "prior":
        arrays = drawn(DRAWN)
    else:
        with np.load(FILES[name]) as data:
            arrays = {key: data[key] for key in data.files}
    rows = (arrays["t_snr"][:count] >= snr).nonzero()[0]
    return {key: values[rows] for key, values in arrays.items()}


def cutouts_of(sims: Mapping[str, NDArray[Any]], rows: slice | Sequence[int]) -> hf.Cutouts:
    """Return some galaxies as they are fitted."""
    psf = sims["psf"][rows]
    psf = psf / psf.sum(axis=(1, 2), keepdims=True)
    zeropoint = np.full(len(psf), ZEROPOINT)
    names = [f"bd-{i}" for i in np.arange(len(sims["psf"]))[rows]]
    return hf.Cutouts(
        image=sims["data"][rows], sigma=sims["sigma"][rows], psf=psf, zeropoint=zeropoint, id=names
    )


def parameter_names() -> tuple[str, ...]:
    """Return the names of what is measured: the model's parameters, then those of the sum."""
    space = FitOptions(MODEL).space
    return (*space.names, *combined_names(space))


def truths(sims: Mapping[str, NDArray[Any]]) -> Array:
    """Return the true values (B, Q) of `parameter_names`; the sky is 0."""
    zero = np.zeros(len(sims["t_bt"]))
    columns: list[Array] = []
    for part, share in (("b", sims["t_bt"]), ("d", 1 - sims["t_bt"])):
        index = [sims["t_n_b"]] if part == "b" else []
        angle = (sims[f"t_pa_{part}"] - 90) % 180  # the sets count from +x
        mag = sims["t_mag"] - 2.5 * np.log10(share)
        size, ratio = sims[f"t_re_{part}"], sims[f"t_q_{part}"]
        columns += [sims["t_x"], sims["t_y"], mag, size, *index, ratio, angle]
    own = torch.from_numpy(np.stack([*columns, zero], axis=1))
    return np.concatenate([own, combined(own, FitOptions(MODEL).space)], axis=1)


def measured(
    sims: Mapping[str, NDArray[Any]], cache: Path, prior: Prior | None = None
) -> dict[str, NDArray[Any]]:
    """Return quantiles, mean and diagnostics of all galaxies, fitted or from the cache."""
    cache.mkdir(parents=True, exist_ok=True)
    parts = []
    for first in range(0, len(sims["t_bt"]), AT_ONCE):
        path = cache / f"rows_{first:04d}.npz"
        last = min(first + AT_ONCE, len(sims["t_bt"]))
        if not path.exists():
            found = fitted(cutouts_of(sims, slice(first, last)), prior)
            temporary = path.with_suffix(f".{os.getpid()}.tmp.npz")
            np.savez(temporary, **found)
            temporary.replace(path)
        with np.load(path) as data:
            parts.append({key: data[key] for key in data.files})
    return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}


def fitted(cutouts: hf.Cutouts, prior: Prior | None = None) -> dict[str, NDArray[Any]]:
    """Return what is kept of the posteriors of B galaxies."""
    before = time.process_time()
    table = hf.fit(
        cutouts, model=MODEL, uncertainty="posterior", save_samples=True, prior=prior or Prior()
    )
    seconds = (time.process_time() - before) / len(cutouts)
    space, names = FitOptions(MODEL).space, parameter_names()
    samples = np.stack([np.asarray(table[f"{name}_samples"]) for name in space.names], axis=2)
    own = torch.from_numpy(samples.astype(np.float64))
    weights = torch.from_numpy(np.asarray(table["weight"], dtype=np.float64))
    sums = combined(own.flatten(0, 1), space).view(*own.shape[:2], -1)
    parts = [
        Draws(space, own, weights),
        Draws(CombinedParameters(names[own.shape[2] :]), sums, weights),
    ]
    return {
        "quantiles": torch.cat([part.quantiles(LEVELS) for part in parts], dim=2).numpy(),
        "mean": torch.cat([part.mean for part in parts], dim=1).numpy(),
        "std": torch.cat([part.std for part in parts], dim=1).numpy(),
        "fit": np.stack([np.ma.filled(table[name], np.nan) for name in names], axis=1),
        "quality": np.asarray(table["quality"]).astype(str),
        "seconds": np.full(len(cutouts), seconds),
        **{name: np.ma.filled(table[name], 0) for name in KEPT},
    }


def report(rows: Mapping[str, NDArray[Any]], truth: Array, snr: Array) -> dict[str, Any]:
    """Return the figures of a set."""
    groups = {"all": np.ones(len(snr), bool), f"S/N >= {BRIGHT:g}": snr >= BRIGHT}
    return {
        name: _group({key: value[group] for key, value in rows.items()}, truth[group])
        for name, group in groups.items()
    }


def _group(rows: Mapping[str, NDArray[Any]], truth: Array) -> dict[str, Any]:
    """Return the figures of some galaxies."""
    names, quality = parameter_names(), rows["quality"]
    share = names.index("bulge_to_total")
    off = ~(np.abs(rows["quantiles"][:, 2, share] - truth[:, share]) <= FAR)
    ess = rows["ess"]
    return {
        "galaxies": len(truth),
        "coverage of 68 and 95 %, median of pulls, scatter of pulls": coverage(rows, truth),
        f"|B/T off| > {FAR:g}": int(off.sum()),
        "of them not suspect": int((off & (quality != "suspect")).sum()),
        "quality": {
            kind: int((quality == kind).sum()) for kind in ("certified", "usable", "suspect")
        },
        "flags": flag_counts(rows["flags"]),
        "ess percentiles": dict(
            zip(
                map(str, PERCENTILES),
                np.percentile(ess, PERCENTILES).round(1).tolist(),
                strict=True,
            )
        ),
        f"share of ess >= {ENOUGH:g}": round(float((ess >= ENOUGH).mean()), 3),
        "share of pareto_k < 0.7": round(float((rows["pareto_k"] < 0.7).mean()), 3),
        "CPU seconds a galaxy": round(float(rows["seconds"].mean()), 3),
    }


def coverage(rows: Mapping[str, NDArray[Any]], truth: Array) -> dict[str, list[float]]:
    """Return for each parameter the coverage of 68 and 95 %, median and 1.48 MAD of the pulls."""
    result = {}
    for j, name in enumerate(parameter_names()):
        quantiles, true, mean = rows["quantiles"][:, :, j], truth[:, j], rows["mean"][:, j]
        if name.endswith("pa"):
            true = mean + (true - mean + 90) % 180 - 90
        inside = [
            np.mean((true >= quantiles[:, low]) & (true <= quantiles[:, high]))
            for low, high in ((1, 3), (0, 4))
        ]
        pull = (mean - true) / rows["std"][:, j]
        pull = pull[np.isfinite(pull)]
        middle = np.median(pull)
        spread = 1.4826 * np.median(np.abs(pull - middle))
        result[name] = [round(float(v), 3) for v in (*inside, middle, spread)]
    return result


def flag_counts(flags: NDArray[np.int64]) -> dict[str, int]:
    """Return how many galaxies have each flag that any has."""
    counts = {flag.name: int(((flags & int(flag)) != 0).sum()) for flag in hf.Flag if flag.name}
    return {name: count for name, count in counts.items() if count}


def show(name: str, figures: Mapping[str, Any]) -> None:
    """Print the figures of a set."""
    for group, values in figures.items():
        print(f"\n{name}, {group}")
        for key, value in values.items():
            if key.startswith("coverage"):
                print(f"    {key}")
                for parameter, numbers in value.items():
                    print(
                        "        {:16s} {:.3f} {:.3f}  {:+.2f} {:.2f}".format(parameter, *numbers)
                    )
            else:
                print(f"    {key}: {value}")


if __name__ == "__main__":
    main()
