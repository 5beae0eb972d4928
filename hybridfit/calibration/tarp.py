"""TARP: coverage of regions around random points in all parameters (Lemos et al. 2023)."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from astropy.table import Table
from scipy import stats
from torch import Tensor

from hybridfit.calibration.diagnostics import usable
from hybridfit.calibration.sbc_samples import SbcSamples
from hybridfit.calibration.table_columns import TARP
from hybridfit.data.column_facts import describe_columns

MISSING = "TARP needs sbi, which is not installed: pip install 'hybridfit[validation]'"


class MissingLibrary(ImportError):
    """A package of the extra ``validation`` is not installed."""


def tarp(sbc: SbcSamples, seed: int = 0, n_draws: int | None = None) -> Table:
    """Return expected coverage against credibility, from `sbi.diagnostics.run_tarp`.

    A region is the ball around a reference point whose surface contains the truth; its
    credibility, the fraction of draws inside, must be uniform. Parameters are scaled for each
    galaxy: relative to the mean of the draws, in units of their standard deviations, with angles
    unwrapped. Reference points are close to the draws but off-centre, N(1, 1): distant points, as
    drawn from the prior, would see random projections, in which a bias averages out. Scale and
    reference depend on the data alone, as the method requires.

    Args:
        sbc: N galaxies, at least some hundreds, with as many draws each.
        seed: random seed of reference points and resampling.
        n_draws: number of draws resampled from weighted ones; default: as many as there are.

    Returns:
        Columns ``level`` and ``coverage`` at 101 points; in ``meta`` ``area`` (sbi's area between
        curve and diagonal above level 0.5: positive if posteriors are too wide), ``distance``
        (largest distance from the diagonal) and ``p_value`` (Kolmogorov-Smirnov test of it).

    Raises:
        MissingLibrary: if sbi is not installed.
    """
    run_tarp, check_tarp = _sbi()
    samples, truth = _whitened(sbc[usable(sbc)], seed, n_draws)
    rng = np.random.default_rng([seed, 1])
    reference = torch.from_numpy(1.0 + rng.standard_normal(tuple(truth.shape)))
    count = len(truth)
    ecp, alpha = run_tarp(
        truth,
        torch.arange(count, dtype=torch.float64)[:, None],
        _GivenPosterior(samples),
        references=reference,
        num_posterior_samples=samples.shape[0],
        show_progress_bar=False,
        num_bins=count,
        z_score_theta=False,
    )
    return _table(alpha, ecp, check_tarp(ecp, alpha)[0], count)


def _sbi() -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Return `run_tarp` and `check_tarp`; raise MissingLibrary without sbi."""
    try:
        # sbi warns of optional packages on import
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from sbi.diagnostics import check_tarp, run_tarp
    except ImportError as error:
        raise MissingLibrary(MISSING) from error
    return run_tarp, check_tarp


def _table(alpha: Tensor, ecp: Tensor, area: float, count: int) -> Table:
    """Return the curve of coverage against level for ``count`` galaxies, see `tarp`."""
    level, covered = alpha.double().numpy(), ecp.double().numpy()
    distance = float(np.abs(covered - level).max())
    grid = np.linspace(0, 1, 101)
    table = Table(
        {"level": grid, "coverage": np.interp(grid, level, covered, left=0.0, right=1.0)},
        meta={
            "area": float(area),
            "distance": distance,
            "p_value": float(stats.kstwobign.sf(math.sqrt(count) * distance)),
            "n": count,
        },
    )
    return describe_columns(table, TARP)


class _GivenPosterior:
    """A posterior with given draws, with the methods that `run_tarp` uses."""

    def __init__(self, samples: Tensor) -> None:
        self.samples = samples  # (S, N, P)

    def sample_batched(self, shape: Any, x: Tensor, show_progress_bars: bool = False) -> Tensor:
        del shape, show_progress_bars
        return self.samples[:, x[:, 0].long()]


def _whitened(sbc: SbcSamples, seed: int, n_draws: int | None) -> tuple[Tensor, Tensor]:
    """Return draws (S, N, P) and truth (N, P), standardised for each galaxy."""
    samples = sbc.samples
    if np.ptp(sbc.weights) > 0:
        rng = np.random.default_rng([seed, 2])
        size = n_draws or samples.shape[1]
        edges = np.cumsum(sbc.weights, axis=1)
        place = rng.random((len(samples), size)) * edges[:, -1:]
        rows = zip(edges, place, strict=True)
        pick = np.stack([np.searchsorted(edge, p, side="right") for edge, p in rows])
        pick = np.minimum(pick, samples.shape[1] - 1)
        samples = np.take_along_axis(samples, pick[:, :, None], axis=1)
    mean = samples.mean(axis=1, keepdims=True)
    deviation = samples.std(axis=1, keepdims=True)
    deviation = np.where(deviation > 0, deviation, 1.0)
    white = torch.from_numpy((samples - mean) / deviation).transpose(0, 1).contiguous()
    return white, torch.from_numpy((sbc.truth - mean[:, 0]) / deviation[:, 0])
