"""The page of a comparison: statistics, verdicts, and images of the worst disagreements."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hybridfit.comparison import html as report
from hybridfit.comparison.differences import LOGARITHMIC, PARAMETERS, shared_parameters
from hybridfit.comparison.figures import (
    chi2_picture,
    first_rows,
    galaxy_picture,
    other_side,
    overview,
)
from hybridfit.comparison.html import Section
from hybridfit.comparison.options import CompareOptions
from hybridfit.comparison.result import Comparison
from hybridfit.comparison.statistics import COLUMNS
from hybridfit.comparison.verdicts import VERDICTS
from hybridfit.io.references.catalogue import NAMES
from hybridfit.io.writing import atomic
from hybridfit.pipeline.measure import versions
from hybridfit.pipeline.run_cutouts import CutoutReader
from hybridfit.rendering.convolution import Convolution

if TYPE_CHECKING:
    from astropy.table import Table

FORMATS = {
    "median": ".3g",
    "mean": ".3g",
    "mean_err": ".2g",
    "rms": ".3g",
    "nmad": ".3g",
    "cover_68": ".3f",
    "cover_95": ".3f",
    "outliers": ".3f",
    **{f"pull_{end}": ".2f" for end in ("mean", "std", "theirs_std", "both_std", "both_nmad")},
}
SHORT = {  # short headings of the page's tables
    "pull_mean": "pull",
    "pull_std": "std (ours)",
    "pull_theirs_std": "std (theirs)",
    "pull_both_std": "std (both)",
    "pull_both_nmad": "nmad (both)",
    "mean_err": "+/-",
    "cover_68": "in 68 %",
    "cover_95": "in 95 %",
    "outliers": "> 5 sigma",
    "catastrophic": "lost",
}
SIDE_BY_SIDE = ("median", "nmad", "pull_std", "pull_both_std", "cover_68", "outliers")
DIGITS = {"x": ".3f", "y": ".3f", "mag": ".3f", "r_eff": ".3f", "n": ".3f", "q": ".3f", "pa": ".1f"}


def write_report(
    path: Path,
    comparisons: Sequence[Comparison],
    read_cutout: CutoutReader,
    convolution: Convolution,
    options: CompareOptions,
    results: str,
) -> None:
    """Write the page.

    Args:
        path: path of the file.
        comparisons: one for each reference.
        read_cutout: reads the pixels of our rows, for the worst disagreements.
        convolution: how models are convolved.
        options: how many galaxies to show.
        results: name of our results, for the first line.
    """
    text = render_report(comparisons, read_cutout, convolution, options, results)
    with atomic(path) as file:
        file.write(text.encode("utf-8", "replace"))


def render_report(
    comparisons: Sequence[Comparison],
    read_cutout: CutoutReader,
    convolution: Convolution,
    options: CompareOptions,
    results: str,
) -> str:
    """Return the page, see `write_report`."""
    lead = [report.paragraph(f"{results} against {', '.join(c.theirs.name for c in comparisons)}")]
    sections = []
    if len(comparisons) > 1:
        sections.append(Section("Side by side", [_side_by_side(comparisons)], "overview"))
    for number, c in enumerate(comparisons, start=1):
        parts = [*_summary_section(c), *_verdict_section(c)]
        parts += _worst_section(c, read_cutout, convolution, options)
        parts += ["<h3>Differences and pulls</h3>", *overview(c), *_group_section(c)]
        parts += _galaxy_section(c, options)
        sections.append(Section(f"{c.theirs.name}", parts, f"reference-{number}"))
    sections.append(Section("How to read this", _legend(options), "reading"))
    used = ", ".join(f"{name} {version}" for name, version in versions().items())
    sections.append(Section("Made with", [report.paragraph(used, "muted")], "made"))
    names = ", ".join(c.theirs.name for c in comparisons)
    return report.page(f"hybridfit compared with {names}", lead, sections)


def _summary_section(c: Comparison) -> list[str]:
    """Return the matching, the warnings and the summary of all galaxies."""
    rest = [len(c.matches.only_ours), len(c.matches.only_theirs)]
    parts = [
        report.paragraph(
            f"{len(c.matches)} galaxies matched by {c.matches.way}; {rest[0]} of ours and "
            f"{rest[1]} of theirs have no match. Read as {c.theirs.kind}."
        )
    ]
    parts += [report.paragraph(text, "warning") for text in c.warnings]
    parts.append(report.bullets(c.notes))
    rows = c.summary[c.summary["group"] == "all"]
    parts.append(f"<h3>Differences, ours - {other_side(c)}</h3>")
    parts.append(_summary_table(rows, (), c.theirs.exact))
    return parts


def _group_section(c: Comparison) -> list[str]:
    """Return the summary by quality and by bins."""
    rows = c.summary[c.summary["group"] != "all"]
    if not len(rows):
        return []
    head = "<h3>By quality, and by signal to noise or magnitude</h3>"
    return [head, _summary_table(rows, ("group", "galaxies", "catastrophic"), c.theirs.exact)]


def _summary_table(rows: Table, first: Sequence[str], exact: bool) -> str:
    left = {"group", "galaxies", "catastrophic"} | ({"pull_both_std"} if exact else set())
    names = [*first, *(name for name in COLUMNS if name not in left)]
    columns: dict[str, Sequence[Any]] = {}
    for name in names:
        values = [v if isinstance(v, str) else v.item() for v in rows[name]]
        empty = all(not isinstance(v, str) and not np.isfinite(v) for v in values)
        if not empty:
            columns[SHORT.get(name, name)] = values
    formats = {SHORT.get(name, name): format for name, format in FORMATS.items()}
    notes = {SHORT.get(name, name): facts.description for name, facts in COLUMNS.items()}
    return report.table(columns, formats, notes)


def _side_by_side(comparisons: Sequence[Comparison]) -> str:
    """Return one row per parameter and statistic, one column per reference."""
    known = [f"ln {n}" if n in LOGARITHMIC else n for n in PARAMETERS]
    rows: dict[str, list[Any]] = {"parameter": [], "figure": []}
    rows |= {c.theirs.name: [] for c in comparisons}
    for parameter in known:
        for figure in SIDE_BY_SIDE:
            entries = []
            for c in comparisons:
                some = (c.summary["group"] == "all") & (c.summary["parameter"] == parameter)
                entries.append(float(c.summary[figure][some][0]) if some.any() else np.nan)
            if np.isfinite(entries).any():
                rows["parameter"].append(parameter)
                rows["figure"].append(SHORT.get(figure, figure))
                for c, value in zip(comparisons, entries, strict=True):
                    rows[c.theirs.name].append(value)
    seen = [v for v in VERDICTS if any(v in c.verdicts.verdict for c in comparisons)]
    counts: dict[str, list[Any]] = {"": ["galaxies", "catastrophic", *seen]}
    for c in comparisons:
        tally = [c.verdicts.verdict.count(v) for v in seen]
        counts[c.theirs.name] = [len(c.matches), int(c.verdicts.catastrophic.sum()), *tally]
    formats = {c.theirs.name: ".3g" for c in comparisons}
    return report.table(counts, sortable=False) + report.table(rows, formats)


def _verdict_section(c: Comparison) -> list[str]:
    """Return the numbers of verdicts, and chi2 against magnitude."""
    tally = [v for v in VERDICTS if v in c.verdicts.verdict]
    counted = np.array(c.verdicts.verdict)
    by = np.array(c.verdicts.flagged_by)
    grade = np.array(c.ours.quality)
    columns: dict[str, Sequence[Any]] = {
        "verdict": tally,
        "galaxies": [int((counted == v).sum()) for v in tally],
        "catastrophic": [int(((counted == v) & c.verdicts.catastrophic).sum()) for v in tally],
    }
    columns |= {
        f"flagged by {who}": [int(((counted == v) & (by == who)).sum()) for v in tally]
        for who in ("us", "them", "both")
    }
    columns |= {
        name: [int(((counted == v) & (grade == name)).sum()) for v in tally]
        for name in ("certified", "usable", "suspect")
        if (grade == name).any()
    }
    columns["meaning"] = [VERDICTS[v] for v in tally]
    parts = ["<h3>Which parameters are better?</h3>", report.table(columns)]
    if np.isfinite(c.chi2.excess).any():
        parts.append(chi2_picture(c))
    else:
        text = "No pixels: pass the fitted cutouts with --input for chi2 and images."
        parts.append(report.paragraph(text, "muted"))
    return parts


def _worst_section(
    c: Comparison, read_cutout: CutoutReader, convolution: Convolution, options: CompareOptions
) -> list[str]:
    """Return the galaxies that disagree most, one by one."""
    chosen = c.worst(options.n_worst)
    if not chosen:
        return []
    parts = ["<h3>Worst disagreements</h3>"]
    for m in chosen:
        parts.append('<div class="case">')
        parts.append(f"<h3>{report.escape(_heading(c, m))}</h3>")
        parts.append(report.paragraph(_sentence(c, m), "muted"))
        png = galaxy_picture(c, m, read_cutout, convolution)
        if png is not None:
            text = "Data, models and residuals, after solving for fluxes and sky."
            parts.append(report.figure(png, text))
        parts += [_numbers(c, m), "</div>"]
    return parts


def _heading(c: Comparison, m: int) -> str:
    theirs = c.theirs.id[m]
    also = "" if theirs == c.ours.id[m] else f" ({theirs})"
    return f"{c.ours.id[m]}{also}: {c.verdicts.verdict[m]}"


def _sentence(c: Comparison, m: int) -> str:
    parts = []
    if c.ours.quality[m]:
        parts.append(f"ours {c.ours.quality[m]}")
    if c.ours.flagged[m]:
        parts.append(f"our flags {c.ours.flagged[m]}")
    if c.theirs.flagged[m]:
        parts.append(f"theirs: {c.theirs.flagged[m]}")
    if np.isfinite(c.chi2.excess[m]):
        parts.append(
            f"chi2 {c.chi2.ours_solved[m]:.1f} ours, {c.chi2.theirs_solved[m]:.1f} theirs "
            f"({c.chi2.ours[m]:.1f}, {c.chi2.theirs[m]:.1f} with catalogue fluxes), "
            f"dof {c.chi2.dof[m]:.0f}"
        )
    return "; ".join(parts) or "no flags, no pixels"


def _numbers(c: Comparison, m: int) -> str:
    """Return the parameters of one galaxy on both sides."""
    columns: dict[str, list[Any]] = {"component": [], "": []}
    for name in NAMES:
        columns[name] = []
        columns[f"+/- {name}"] = []
    rows = np.flatnonzero(c.pairs.galaxy == m)
    for row in rows:
        for whose, side, error in (
            ("ours", c.pairs.ours, c.pairs.ours_err),
            (other_side(c), c.pairs.theirs, c.pairs.theirs_err),
        ):
            number = c.pairs.component[row, 0 if whose == "ours" else 1]
            columns["component"].append(int(number) + 1)
            columns[""].append(whose)
            for k, name in enumerate(NAMES):
                columns[name].append(float(side[row, k]))
                columns[f"+/- {name}"].append(float(error[row, k]))
    formats = {**DIGITS, **{f"+/- {name}": ".2g" for name in NAMES}}
    return report.table(columns, formats, sortable=False)


def _galaxy_section(c: Comparison, options: CompareOptions) -> list[str]:
    """Return all matched galaxies, those that disagree most first."""
    order = c.worst(len(c.matches))
    known = set(order)
    rest = [m for m in range(len(c.matches)) if m not in known]
    shown = [*order, *rest][: options.n_rows]
    if not shown:
        return []
    first = first_rows(c.pairs)
    pull = c.pairs.pull_both
    columns: dict[str, Sequence[Any]] = {
        "id": [c.ours.id[m] for m in shown],
        "verdict": [c.verdicts.verdict[m] for m in shown],
        "quality": [c.ours.quality[m] for m in shown],
        "largest pull": [float(c.verdicts.distance[m]) for m in shown],
        "chi2 theirs - ours": [float(c.chi2.excess[m]) for m in shown],
    }
    names = [name for name in shared_parameters(c.pairs) if name != "sky"]
    for name in names:
        k = PARAMETERS.index(name)
        columns[f"d {name}"] = [float(c.pairs.difference[first[m], k]) for m in shown]
        if np.isfinite(pull[:, k]).any():
            columns[f"pull {name}"] = [float(pull[first[m], k]) for m in shown]
    columns["our flags"] = [c.ours.flagged[m] for m in shown]
    columns["their flags"] = [c.theirs.flagged[m] for m in shown]
    formats = {name: ".3g" if name.startswith("d ") else ".2f" for name in columns}
    formats["chi2 theirs - ours"] = ".4g"
    left = len(c.matches) - len(shown)
    note = f" ({left} more in comparison.*)" if left else ""
    parts = [f"<h3>Galaxies{report.escape(note)}</h3>", report.table(columns, formats)]
    for side, ids in (("ours", c.matches.only_ours), ("theirs", c.matches.only_theirs)):
        if not ids:
            continue
        listed = ", ".join(ids[:40]) + (", ..." if len(ids) > 40 else "")
        parts.append(report.paragraph(f"Only in {side} ({len(ids)}): {listed}", "muted"))
    return parts


def _legend(options: CompareOptions) -> list[str]:
    return [
        report.bullets(
            [
                "Differences are ours - theirs: in the natural logarithm for r_eff and n, wrapped "
                "to [-90, 90) degrees for pa, in pixels for x and y.",
                "Catastrophic, or lost: off by 0.5 mag or a factor 2 in size. Means, rms and the "
                "standard deviations of pulls exclude these; medians, MADs, coverage and the "
                "fraction beyond 5 sigma include them.",
                "Pull: mean of differences over our errors. Std (ours), (theirs), (both): standard "
                "deviation of differences over our errors, theirs, and both in quadrature.",
                "Pulls against a truth should have mean 0 and standard deviation 1. Two fits of "
                "the same pixels share their noise: the standard deviation of their pulls should "
                "be well below 1.",
                f"Agree: no parameter differs by more than {options.max_sigma:g} sigma of both "
                "errors. Otherwise chi2 decides: both models are rendered by the same code on the "
                "same pixels, solving for fluxes and sky, so that neither zero points nor rounding "
                f"matter. A difference counts if it exceeds {options.delta_chi2:g} times chi2/dof.",
                "A lower chi2 means a better description of these pixels. If the profile does not "
                "fit the galaxy, it does not mean a better size.",
            ]
        )
    ]
