"""Units, descriptions and UCDs of the columns of a calibration's tables."""

from __future__ import annotations

from collections.abc import Sequence

from astropy.table import Table

from hybridfit.data.column_facts import ColumnFacts, describe_columns
from hybridfit.data.truth_columns import OTHERS, truth_facts
from hybridfit.model.parameters import PARAMETERS

PARAMETER = ColumnFacts("", "name of the parameter", "meta.id")
VERDICT = "pass, fail, few (too few galaxies), or empty without a target"

SUMMARY = {
    "bin": ColumnFacts("", "all, the binned quantity, or a group of galaxies", "meta.code"),
    "low": ColumnFacts(
        "", "lower edge of the bin, in the unit of the binned quantity", "stat.param;stat.min"
    ),
    "high": ColumnFacts(
        "", "upper edge of the bin, in the unit of the binned quantity", "stat.param;stat.max"
    ),
    "parameter": ColumnFacts("", "name of the parameter, or all", "meta.id"),
    "n": ColumnFacts("", "number of galaxies", "meta.number"),
    "cover_68": ColumnFacts("", "fraction of truths in the 68 % interval", "stat.probability"),
    "cover_68_err": ColumnFacts(
        "", "binomial error of cover_68 for a calibrated posterior", "stat.error;stat.probability"
    ),
    "cover_95": ColumnFacts("", "fraction of truths in the 95 % interval", "stat.probability"),
    "cover_95_err": ColumnFacts(
        "", "binomial error of cover_95 for a calibrated posterior", "stat.error;stat.probability"
    ),
    "pull_mean": ColumnFacts(
        "", "mean of (posterior mean - truth) / standard deviation", "stat.fit.residual;stat.mean"
    ),
    "pull_std": ColumnFacts(
        "", "standard deviation of the same ratio", "stat.fit.residual;stat.stdev"
    ),
    "width": ColumnFacts(
        "",
        "median width of the posterior over the Cramer-Rao limit",
        "stat.stdev;arith.ratio",
    ),
    "verdict_cover": ColumnFacts("", f"verdict on the coverage: {VERDICT}", "meta.code.qual"),
    "verdict_width": ColumnFacts("", f"verdict on the width: {VERDICT}", "meta.code.qual"),
}
RANKS = {
    "parameter": PARAMETER,
    "n": ColumnFacts("", "number of galaxies", "meta.number"),
    "chi2": ColumnFacts("", "chi2 of uniform ranks in equal bins", "stat.fit.chi2"),
    "chi2_p": ColumnFacts("", "p-value of chi2", "stat.probability"),
    "ks": ColumnFacts("", "Kolmogorov-Smirnov distance from uniform ranks", "stat.fit.goodness"),
    "ks_p": ColumnFacts("", "p-value of ks", "stat.probability"),
    "histogram": ColumnFacts("", "number of galaxies per bin of rank", "meta.number"),
    "verdict": ColumnFacts("", f"verdict on the uniformity: {VERDICT}", "meta.code.qual"),
}
TARP = {
    "level": ColumnFacts("", "credibility level", "stat.probability"),
    "coverage": ColumnFacts("", "expected coverage at this level", "stat.probability"),
}
LEVELS = {
    "level": ColumnFacts("", "probability of the central interval", "stat.probability"),
    "error": ColumnFacts(
        "", "binomial error of the coverage at this level", "stat.error;stat.probability"
    ),
}


def describe_curve(curve: Table) -> Table:
    """Describe the columns of a curve of coverages, in place."""
    text = "fraction of truths of {} in the interval"
    parameters = {
        name: ColumnFacts("", text.format(name), "stat.probability")
        for name in curve.colnames
        if name not in LEVELS
    }
    return describe_columns(curve, {**LEVELS, **parameters})


def describe_galaxies(table: Table, names: Sequence[str]) -> Table:
    """Describe the table of galaxies, in place.

    Args:
        table: id, snr, kind, rejected, and for each parameter its truth, rank and width.
        names: of the parameters.
    """
    facts = {
        **OTHERS,
        "rejected": ColumnFacts("", "implausible draws that were redrawn", "meta.number"),
    }
    for name in names:
        if name in PARAMETERS:
            facts[name] = truth_facts(name)
        else:
            facts[name] = ColumnFacts("", f"{name}; true", "src.morph.param")
        facts[f"{name}_rank"] = ColumnFacts(
            "", f"rank of the true {name} among the draws, in (0, 1)", "stat.rank"
        )
        facts[f"{name}_width"] = ColumnFacts(
            "",
            f"width of the posterior of {name} over the Cramer-Rao limit",
            "stat.stdev;arith.ratio",
        )
    return describe_columns(table, facts)
