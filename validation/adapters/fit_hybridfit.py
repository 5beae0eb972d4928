"""hybridfit itself, by the same rules: "covariance" or "posterior", "compiled" or "eager", and "ml"
for maximum likelihood, without the prior's pull, as the other tools do.

Galaxies are fitted as one batch, as a user would. A fit counts as said to be good where its
quality is not "suspect".
"""

from __future__ import annotations

import numpy as np
import torch
from astropy.table import Table
from exchange import CONVERGED, FAILED, NAMES, Array, Fitted, Galaxy, serve

import hybridfit as hf
from hybridfit.pipeline.measure import model_images


def _cutouts(galaxies: list[Galaxy]) -> hf.Cutouts:
    given = galaxies[0].start is not None
    return hf.Cutouts(
        image=np.array([g.image for g in galaxies]),
        sigma=np.array([g.sigma for g in galaxies]),
        psf=np.array([g.psf for g in galaxies]),
        zeropoint=np.array([g.zeropoint for g in galaxies]),
        start=np.array([g.start[:7] for g in galaxies]) if given else None,  # type: ignore[index]
    )


class Hybridfit:
    """See the module."""

    version = hf.__version__
    batched = True
    warms_up = True

    def render(self, theta: Array, psf: Array, zeropoint: float, shape: tuple[int, int]) -> Array:
        blank = Galaxy(np.zeros(shape), np.ones(shape), psf, zeropoint, None)
        return model_images(
            torch.from_numpy(theta[None]), _cutouts([blank]), hf.FitOptions().space
        )[0]

    def fit(self, galaxies: list[Galaxy], variant: str) -> list[Fitted]:
        torch.set_num_threads(1)
        uncertainty, how, *objective = variant.split()
        table = hf.fit(
            _cutouts(galaxies),
            uncertainty=uncertainty,
            initial_values="network" if galaxies[0].start is None else "moments",
            compile={"compiled": "on", "eager": "off"}[how],
            objective=objective[0] if objective else "map",
        )
        suspect = [str(word).strip() == "suspect" for word in table["quality"]]
        ends = ("_p16", "_p84") if uncertainty == "posterior" else ()
        values, errors, *interval = (_columns(table, end) for end in ("", "_err", *ends))
        return [
            Fitted(
                values[i],
                errors[i],
                FAILED if suspect[i] else CONVERGED,
                *(side[i] for side in interval),
                message=str(table["notes"][i]),
            )
            for i in range(len(galaxies))
        ]


def _columns(table: Table, end: str) -> Array:
    return np.stack([np.asarray(table[name + end], float) for name in NAMES], axis=1)


if __name__ == "__main__":
    serve(Hybridfit())
