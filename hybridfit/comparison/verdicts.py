"""Verdicts: for each matched galaxy, which parameters describe the pixels better."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import chi2 as chi2_distribution

from hybridfit.comparison.differences import Pairs
from hybridfit.comparison.options import VerdictOptions
from hybridfit.comparison.statistics import outlier_pulls
from hybridfit.io.references.catalogue import NAMES, Array

AGREE = "agree"
SAME_CHI2 = "same chi2"
OURS_LOWER, THEIRS_LOWER = "ours lower chi2", "theirs lower chi2"
BOTH_POOR = "both poor"
FLAGGED_OURS, FLAGGED_THEIRS, FLAGGED_BOTH = "flagged by us", "flagged by them", "flagged by both"
NONE_OURS, NONE_THEIRS = "no fit of ours", "no fit of theirs"
DIFFER = "differ"
VERDICTS = {
    AGREE: "no parameter differs by more than the limit, in units of both errors",
    SAME_CHI2: "parameters differ, but describe the pixels equally well",
    OURS_LOWER: "parameters differ, and ours describe the pixels better",
    THEIRS_LOWER: "parameters differ, and theirs describe the pixels better",
    BOTH_POOR: "parameters differ, and neither model describes the pixels",
    FLAGGED_OURS: "parameters differ, chi2 does not decide, and our row is suspect",
    FLAGGED_THEIRS: "parameters differ, chi2 does not decide, and theirs is flagged",
    FLAGGED_BOTH: "parameters differ, chi2 does not decide, and both rows are flagged",
    DIFFER: "parameters differ, and no pixels are available to decide",
    NONE_OURS: "our fit has no values",
    NONE_THEIRS: "their fit has no values",
}
LIKELY = 0.9973  # probability that bounds a truth's chi2 above the minimum: three sigma


@dataclass(frozen=True, eq=False)
class Chi2:
    """Chi2 of both parameter sets on the same pixels, (M,) each, NaN if unknown.

    Args:
        ours, theirs: with each catalogue's fluxes and sky; an unknown sky is solved for.
        ours_solved, theirs_solved: after solving for fluxes and sky.
        dof: number of pixels minus the parameters of a Sersic profile per component, and a sky.
    """

    ours: Array
    theirs: Array
    ours_solved: Array
    theirs_solved: Array
    dof: Array

    @property
    def excess(self) -> Array:
        """Return theirs - ours (M,), after solving for fluxes and sky.

        Otherwise a magnitude rounded to 1e-4, or another zero point, could decide.
        """
        return self.theirs_solved - self.ours_solved


@dataclass(frozen=True, eq=False)
class Verdicts:
    """Verdicts on M galaxies.

    Args:
        verdict: (M,) keys of `VERDICTS`.
        flagged_by: (M,) "", "us", "them" or "both".
        distance: (M,) largest pull of any parameter; NaN if there is none.
        catastrophic: (M,) whether magnitude or size are far off.
    """

    verdict: tuple[str, ...]
    flagged_by: tuple[str, ...]
    distance: Array
    catastrophic: NDArray[np.bool_]


def assign_verdicts(
    pairs: Pairs,
    chi2: Chi2,
    suspect: Sequence[bool],
    flagged: Sequence[bool],
    options: VerdictOptions = VerdictOptions(),
) -> Verdicts:
    """Return the verdict on each matched galaxy.

    Parameters agree if none differs by more than ``options.max_sigma`` of both errors (against a
    truth: of ours alone) and none is catastrophic. Otherwise chi2 decides if it differs enough:
    for two fits of the same pixels by ``options.delta_chi2``, for a truth by more than its usual
    distance from the minimum.

    Args:
        pairs: pairs of the matched galaxies.
        chi2: chi2 of M galaxies.
        suspect: (M,) whether our row is suspect.
        flagged: (M,) whether their program flagged theirs.
        options: the limits.
    """
    count = len(suspect)
    # the sky is a property of the cutout, not of the galaxy
    pull = np.nan_to_num(np.abs(outlier_pulls(pairs)[:, : len(NAMES)]), nan=-1.0).max(axis=1)
    distance, far = np.full(count, -1.0), np.zeros(count, bool)
    np.maximum.at(distance, pairs.galaxy, pull)
    np.logical_or.at(far, pairs.galaxy, ~pairs.near)
    distance[distance < 0] = np.nan
    absent = [_absent(side, pairs.galaxy, count) for side in (pairs.ours, pairs.theirs)]
    verdicts, by = [], []
    for m in range(count):
        sides = bool(suspect[m]), bool(flagged[m])
        by.append({(1, 0): "us", (0, 1): "them", (1, 1): "both"}.get(sides, ""))
        verdict = NONE_OURS if absent[0][m] else NONE_THEIRS if absent[1][m] else ""
        if not verdict and not far[m] and not distance[m] > options.max_sigma:
            verdict = AGREE
        verdicts.append(verdict or _by_pixels(chi2, m, by[-1], pairs.exact, options))
    return Verdicts(tuple(verdicts), tuple(by), distance, far)


def _absent(values: Array, galaxy: NDArray[np.int64], count: int) -> NDArray[np.bool_]:
    """Return which galaxies (M,) have no finite parameter in any of their pairs."""
    there = np.zeros(count, bool)
    np.logical_or.at(there, galaxy, np.isfinite(values[:, : len(NAMES)]).any(axis=1))
    return ~there


def _by_pixels(chi2: Chi2, m: int, by: str, exact: bool, options: VerdictOptions) -> str:
    excess, dof = chi2.excess[m], max(float(chi2.dof[m]), 1.0)
    flags = {"us": FLAGGED_OURS, "them": FLAGGED_THEIRS, "both": FLAGGED_BOTH}
    if not np.isfinite(excess):
        return flags.get(by, DIFFER)
    reduced = float(np.nanmin([chi2.ours_solved[m], chi2.theirs_solved[m]])) / dof
    if reduced > options.poor_chi2:
        return BOTH_POOR
    # chi2 scales with the misfit of a model that does not describe the pixels
    allowed = options.delta_chi2 * max(reduced, 1.0)
    above = allowed
    if exact:  # the truth lies above the minimum by about the number of parameters
        above = max(above, float(chi2_distribution.ppf(LIKELY, len(NAMES) + 1)) * max(reduced, 1.0))
    if excess > above:
        return OURS_LOWER
    if excess < -allowed:
        return THEIRS_LOWER
    return flags.get(by, SAME_CHI2)


def worst(verdicts: Verdicts, chi2: Chi2, number: int) -> list[int]:
    """Return the indices of galaxies that disagree most: catastrophic, then by verdict and pull."""
    graver = {AGREE: 0, SAME_CHI2: 1, NONE_THEIRS: 1}
    keys = []
    for m, verdict in enumerate(verdicts.verdict):
        if verdict == AGREE:
            continue
        excess = np.abs(np.nan_to_num(chi2.excess[m]))
        size = np.nan_to_num(verdicts.distance[m])
        keys.append((-int(verdicts.catastrophic[m]), -graver.get(verdict, 2), -size, -excess, m))
    return [key[-1] for key in sorted(keys)[:number]]
