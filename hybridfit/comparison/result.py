"""Results of a comparison."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from astropy.table import Table

from hybridfit.comparison.crossmatch import Matches
from hybridfit.comparison.differences import Pairs
from hybridfit.comparison.verdicts import AGREE, Chi2, Verdicts, worst
from hybridfit.io.references.catalogue import Catalogue

PAGE = "report.html"


@dataclass(frozen=True, eq=False)
class Comparison:
    """The comparison with one reference.

    Args:
        ours, theirs: the M matched galaxies, in the same order.
        matches: how they were matched, and the unmatched galaxies.
        pairs: their components.
        chi2: on the pixels.
        verdicts: of each galaxy.
        summary: see `hybridfit.comparison.statistics.summarise`.
        notes: notes for the reader, in sentences.
        warnings: differences that suggest wrong conventions.
    """

    ours: Catalogue
    theirs: Catalogue
    matches: Matches
    pairs: Pairs
    chi2: Chi2
    verdicts: Verdicts
    summary: Table
    notes: tuple[str, ...]
    warnings: tuple[str, ...]

    def worst(self, number: int) -> list[int]:
        """Return the indices of the galaxies that disagree most."""
        return worst(self.verdicts, self.chi2, number)


@dataclass(frozen=True, eq=False)
class CompareResult:
    """The result of `compare`.

    Args:
        table: one row per reference and component, see `comparison_columns`.
        summary: statistics for each reference, group and parameter.
        unmatched: galaxies found in only one catalogue: reference, side, id.
        comparisons: one per reference.
        out: the output folder; None if nothing was written.
    """

    table: Table
    summary: Table
    unmatched: Table
    comparisons: tuple[Comparison, ...]
    out: Path | None = None


def format_summary(found: CompareResult) -> str:
    """Return the main results of a comparison as lines of text."""
    lines = []
    for c in found.comparisons:
        n = len(c.matches)
        lost = int(c.verdicts.catastrophic.sum())
        lines.append(f"{c.theirs.name} ({c.theirs.kind}): {n} galaxies, matched by {c.matches.way}")
        rest = [len(c.matches.only_ours), len(c.matches.only_theirs)]
        if any(rest):
            lines.append(f"  not matched: {rest[0]} of ours, {rest[1]} of theirs")
        counts = {v: c.verdicts.verdict.count(v) for v in dict.fromkeys(c.verdicts.verdict)}
        parts = [f"{name} {k}" for name, k in sorted(counts.items(), key=lambda v: -v[1])]
        lines.append(f"  catastrophic {lost}; " + ", ".join(parts))
        if any(c.ours.quality):
            lines.append("  agree: " + ", ".join(_agreeing(c)))
        lines += [f"  {line}" for line in _figure_lines(c)]
        lines += [f"  ! {text}" for text in c.warnings]
    if found.out is not None:
        lines.append(f"{found.out / PAGE}")
    return "\n".join(lines)


def _agreeing(c: Comparison) -> list[str]:
    """Return how many galaxies of each quality agree."""
    grades, agree = np.array(c.ours.quality), np.array(c.verdicts.verdict) == AGREE
    return [
        f"{int(agree[grades == grade].sum())} of {int((grades == grade).sum())} {grade}"
        for grade in ("certified", "usable", "suspect")
        if (grades == grade).any()
    ]


def _figure_lines(c: Comparison) -> list[str]:
    heads = ["parameter", "n", "median", "nmad", "pull mean", "std", "both", "in 68 %", "> 5 sigma"]
    keys = ("median", "nmad", "pull_mean", "pull_std", "pull_both_std", "cover_68", "outliers")
    formats = (".4f", ".4f", ".3f", ".3f", ".3f", ".3f", ".3f")
    rows = c.summary[c.summary["group"] == "all"]
    lines = ["".join(f"{h:>11}" for h in heads)]
    for row in rows:
        cells = [f"{row['parameter']:>11}{row['n']:>11}"]
        for key, format in zip(keys, formats, strict=True):
            value = float(row[key])
            cells.append(f"{value:>11{format}}" if np.isfinite(value) else f"{'-':>11}")
        lines.append("".join(cells))
    return lines
