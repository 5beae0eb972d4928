"""What a comparison is asked for, and what it gives."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from astropy.table import Table

from hybridfit.comparison.crossmatch import WAYS, Matches
from hybridfit.comparison.differences import Pairs
from hybridfit.comparison.verdicts import AGREE, Chi2, VerdictOptions, Verdicts, worst
from hybridfit.io import write_tables as export
from hybridfit.io.references import Catalogue
from hybridfit.io.references.own import POINTS
from hybridfit.options.checks import check_fields

PAGE = "report.html"


@dataclass(frozen=True)
class CompareOptions:
    """How catalogues are matched and compared, and what is written."""

    match: str = "auto"  # id | guess | sky | pixel | row; auto: by id, else on the sky
    radius: float = 0.0  # arcsec on the sky, pixels in the image; 0: 1 and 2
    point: str = "best"  # best | median | mean: which of our values; mean needs --save-samples
    pixels: bool = True  # evaluate both on the pixels that were fitted
    limit: float = 3.0  # sigma of both errors within which parameters agree
    delta_chi2: float = 9.0  # of two fits, that decides
    poor: float = 2.0  # chi2/dof from which neither describes the pixels
    worst: int = 12  # galaxies shown, with pictures
    rows: int = 2000  # of the page's table of galaxies
    format: str = "fits"  # of comparison.*: fits | ecsv | parquet | csv
    threads: int = 1  # of the CPU

    def __post_init__(self) -> None:
        check_fields(self)
        export.check_format(self.format)
        for name, known in (("match", WAYS), ("point", POINTS)):
            if getattr(self, name) not in known:
                raise ValueError(
                    f"{name} is '{getattr(self, name)}', expected one of {', '.join(known)}"
                )
        for name, least in (("radius", 0), ("worst", 0), ("rows", 0), ("threads", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}, expected {least} or more")
        _ = self.verdicts

    @property
    def verdicts(self) -> VerdictOptions:
        """Those that decide verdicts."""
        return VerdictOptions(self.limit, self.delta_chi2, self.poor)


@dataclass(frozen=True, eq=False)
class Comparison:
    """What was found of one reference.

    Args:
        ours, theirs: the M galaxies that both have, in one order.
        matches: how they were found, and who was not.
        pairs: their components.
        chi2: on the pixels.
        verdicts: of each galaxy.
        summary: see `hybridfit.comparison.statistics.summarise`.
        notes: for the reader, in sentences.
        warnings: what looks like a mistake in conventions.
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
        """Numbers of the galaxies that disagree most."""
        return worst(self.verdicts, self.chi2, number)


@dataclass(frozen=True, eq=False)
class CompareResult:
    """What `compare` found.

    Args:
        table: a row for each reference and component, see `comparison_columns`.
        summary: figures of each reference, group and parameter.
        unmatched: galaxies that only one side has: reference, side, id.
        comparisons: one a reference.
        out: the folder that was written; None for none.
    """

    table: Table
    summary: Table
    unmatched: Table
    comparisons: tuple[Comparison, ...]
    out: Path | None = None


def told(found: CompareResult) -> str:
    """What a comparison came to, as lines of text."""
    lines = []
    for c in found.comparisons:
        n = len(c.matches)
        lost = int(c.verdicts.far.sum())
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
    """How many galaxies of each quality agree."""
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
