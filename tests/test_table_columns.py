"""Columns of every table that the package writes: descriptions, units, UCDs, names."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from astropy import units as u
from astropy.io.votable.ucd import check_ucd

import hybridfit as hf
from hybridfit.comparison.row_table import NUMBERS, TEXTS, comparison_columns
from hybridfit.data.flags import Flag, flag_names
from hybridfit.io.flag_names import with_flag_names
from hybridfit.io.old_columns import RENAMED
from hybridfit.io.posterior_table import posterior_columns
from hybridfit.io.result_table import result_columns
from hybridfit.io.table import Column
from hybridfit.io.targets_table import targets_columns
from hybridfit.io.unicode_columns import with_utf8
from hybridfit.model.parameters import ParameterSpace
from hybridfit.pipeline.galfit.rows import task_columns
from hybridfit.simulation.options import CLEAN
from hybridfit.simulation.simulate import simulate_fields

BULGE_DISK = ParameterSpace((("n",), ()), "plane")
UNITS = {
    **dict.fromkeys(("x", "y", "r_eff"), "pix"),
    **dict.fromkeys(("pa", "pa_sky", "ra", "dec"), "deg"),
    **dict.fromkeys(("mag", "zeropoint"), "mag"),
    "r_eff_arcsec": "arcsec",
}
# in units of the image, which a table does not know, or without a unit
PLAIN = {
    *("id", "flags", "flag_names", "quality", "notes", "zeropoint_from", "feedme", "fixed"),
    *("n", "q", "chi2", "dof", "n_iter", "ess", "pareto_k", "log_evidence", "missed_mass"),
    *("fit_network_distance", "flow_distance", "training_distance", "catastrophic_probability"),
    *("sky", "sky_dx", "sky_dy", "flux", "flux_err", "flux_limit", "covariance", "weight"),
    *("n_rejected", "log_prob", "mass", "age"),
}


def tables() -> dict[str, tuple[Column, ...]]:
    """The columns of each kind of table, with all that can be asked for."""
    texts = {name: ["a"] for name in TEXTS}
    own = result_columns(ParameterSpace(), 5, True, True, 4)
    return {
        "fit": own,
        "bulge and disk": result_columns(BULGE_DISK, 5, True, True, 4),
        "whole": with_utf8([], with_flag_names([], own)),
        "GALFIT": (*result_columns(BULGE_DISK, 5, True, True), *task_columns([Path("a.feedme")])),
        "predict": posterior_columns(ParameterSpace(), 5, 4),
        "targets": targets_columns(["mass", "age"], 5, 4),
        "compare": comparison_columns(ParameterSpace().names, texts, ["a"]),
    }


@pytest.mark.parametrize("table", tables())
def test_columns_are_described(table: str):
    """A sentence, a unit that astropy knows, and a UCD of words of the IVOA's vocabulary."""
    for column in tables()[table]:
        assert column.description.strip()
        assert not column.description.endswith(".")
        assert check_ucd(column.ucd, check_controlled_vocabulary=True, has_colon=False), column
        u.Unit(column.unit, parse_strict="raise")
        assert re.fullmatch(r"[a-z][a-z0-9_]*", column.name)


@pytest.mark.parametrize("table", tables())
def test_columns_have_their_units(table: str):
    for column in tables()[table]:
        assert column.unit == unit_of(column.name), column


def unit_of(column: str) -> str:
    """The unit that is expected of a column of this name."""
    if column.startswith("pull_") or column in (*NUMBERS, *TEXTS):
        return ""
    name = re.sub(r"^(their_|d_)", "", column)
    name = re.sub(r"_(err|p025|p16|p50|p84|p975|samples|limit)$", "", name)
    name = re.sub(r"_[12]$", "", name)
    if name in UNITS:
        return UNITS[name]
    assert name in PLAIN or column in PLAIN, f"a new column {column}: has it a unit?"
    return ""


def test_truth_tables_are_described():
    """Of both simulators, so that a truth reads as results do."""
    tables = (hf.simulate(2, 1)[1], simulate_fields(2, 1, CLEAN).table())
    for table in tables:
        for column in table.itercols():
            assert column.description
            assert check_ucd(column.meta["ucd"], check_controlled_vocabulary=True, has_colon=False)
        assert [str(table[name].unit) for name in ("x", "mag", "pa")] == ["pix", "mag", "deg"]
    assert str(tables[1]["psf_fwhm"].unit) == "pix"


def test_errors_and_limits_say_so():
    ucds = {column.name: column.ucd for column in tables()["fit"]}
    assert ucds["mag_err"] == "stat.error;phot.mag"
    assert ucds["mag_p16"] == "phot.mag;stat.min"
    assert ucds["mag_samples"] == ucds["mag"] == "phot.mag"
    two = {column.name: column.ucd for column in tables()["bulge and disk"]}
    assert (two["ra_1"], two["ra_2"]) == ("pos.eq.ra;meta.main", "pos.eq.ra")


def test_no_column_has_an_old_name():
    for table, some in tables().items():
        names = {column.name for column in some}
        assert not names & set(RENAMED), table
        assert len(names) == len(some), f"{table} has a name twice"


def test_flags_have_names():
    assert flag_names(0) == ""
    assert flag_names(int(Flag.NO_PSF | Flag.AT_LIMIT)) == "AT_LIMIT|NO_PSF"
    everything = flag_names(int(sum(Flag)))
    assert everything.split("|") == [flag.name for flag in Flag]
    assert Flag.LARGER_THAN_STAMP is Flag.LARGER_THAN_CUTOUT, "its old name, for one release"
