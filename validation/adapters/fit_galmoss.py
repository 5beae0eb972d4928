"""GALMOSS: 1000 iterations of its default optimiser and steps, and its covariance errors.

It reads and writes FITS files, which is part of what it costs. It counts pixel centres from .5.
Batches of four; one galaxy alone is more than its arrays' shapes bear, so it goes in twice.
"""

from __future__ import annotations

import contextlib
import io
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import galmoss as gm
import numpy as np
import torch
from astropy.io import fits
from exchange import UNKNOWN, Array, Fitted, Galaxy, serve

ITERATIONS = 1000
BATCH = 4
KEYS = ("cen_x", "cen_y", "mag", "eff_r", "ser_n", "axis_r", "pa", "sky_bg")


def _fitting(
    galaxies: list[Galaxy], folder: Path, iterations: int, **more: float
) -> tuple[Any, dict[str, Any]]:
    """A fit that is set up, and its parameters in the order of `KEYS`.

    Args:
        galaxies: with starts.
        folder: for the files.
        iterations: of the optimiser.
        more: settings of every parameter.
    """
    if galaxies[0].start is None:
        raise ValueError("GALMOSS has no starting values of its own")
    x, y, mag, r_eff, n, q, pa, sky = np.array([g.start for g in galaxies]).T
    paths: dict[str, list[str]] = {}
    for kind in ("image", "sigma", "psf"):
        paths[kind] = [str(folder / f"{i}_{kind}.fits") for i in range(len(galaxies))]
        for path, galaxy in zip(paths[kind], galaxies, strict=True):
            fits.writeto(path, getattr(galaxy, kind))
    known = {
        "cen_x": gm.p(x + 0.5, **more),
        "cen_y": gm.p(y + 0.5, **more),
        "mag": gm.p(mag, M0=galaxies[0].zeropoint, **more),
        "eff_r": gm.p(r_eff, pix_scale=np.ones(len(galaxies)), **more),
        "ser_n": gm.p(n, log=True, **more),
        "axis_r": gm.p(q, **more),
        "pa": gm.p(pa, angle=True, **more),
    }
    level = gm.p(sky, **more)
    data = gm.DataSet(
        [str(i) for i in range(len(galaxies))],
        image_path=paths["image"],
        sigma_path=paths["sigma"],
        psf_path=paths["psf"],
        img_block_path=str(folder),
        device="cpu",
    )
    data.define_profiles(sersic=gm.lp.Sersic(**known), sky=gm.lp.Sky(sky_bg=level))
    fitting = gm.Fitting(dataset=data, batch_size=len(galaxies), iteration=iterations)
    return fitting, {**known, "sky_bg": level}


class Galmoss:
    """See the module."""

    version = version("galmoss")
    batched = True
    warms_up = False  # nothing is compiled, and it is slow

    def render(self, theta: Array, psf: Array, zeropoint: float, shape: tuple[int, int]) -> Array:
        blank = Galaxy(np.zeros(shape), np.ones(shape), psf, zeropoint, theta)
        with tempfile.TemporaryDirectory() as folder, _quiet():
            # what it writes as the best so far has moved on by a step (the best values are the
            # optimiser's own arrays, not copies), so here the steps have no length
            fitting, _ = _fitting([blank, blank], Path(folder), 1, step_length=0.0)
            fitting.fit()
            return np.asarray(fits.getdata(Path(folder) / "0.fits", 2), float)

    def fit(self, galaxies: list[Galaxy], variant: str) -> list[Fitted]:
        torch.set_num_threads(1)
        found: list[Fitted] = []
        for first in range(0, len(galaxies), BATCH):
            part = galaxies[first : first + BATCH]
            found += _fit(part if len(part) > 1 else part * 2)[: len(part)]
        return found


def _fit(galaxies: list[Galaxy]) -> list[Fitted]:
    with tempfile.TemporaryDirectory() as folder, _quiet():
        fitting, known = _fitting(galaxies, Path(folder), ITERATIONS)
        fitting.fit()
        begin = time.process_time()
        # one at a time: it forms a matrix of all pixels by all pixels, and several more
        fitting.uncertainty(method="covar_mat", bs=1)
        spent = (time.process_time() - begin) / len(galaxies)
    values, errors = (
        np.stack([np.asarray(getattr(known[k], what), float).ravel() for k in KEYS], axis=1)
        for what in ("total_best_value_numpy", "total_uncertainty_numpy")
    )
    values[:, :2] -= 0.5
    values[:, 6] %= 180
    rows = zip(values, errors, strict=True)
    return [Fitted(v, e, UNKNOWN, seconds_of_errors=spent) for v, e in rows]


@contextlib.contextmanager
def _quiet() -> Any:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield


if __name__ == "__main__":
    serve(Galmoss())
