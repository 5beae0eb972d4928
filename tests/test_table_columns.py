"""Columns of every table that the package writes: descriptions, units, UCDs, names."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from astropy import units as u
from astropy.io.votable.ucd import check_ucd
from astropy.table import Table

import hybridfit as hf
from hybridfit.calibration.coverage import calibrate
from hybridfit.calibration.sbc_samples import SbcSamples
from hybridfit.calibration.table_columns import describe_galaxies
from hybridfit.calibration.tarp import tarp
from hybridfit.comparison.result import CompareResult
from hybridfit.comparison.row_table import NUMBERS, TEXTS, comparison_columns
from hybridfit.data.flags import Flag, flag_names
from hybridfit.io.flag_names import with_flag_names
from hybridfit.io.old_columns import RENAMED
from hybridfit.io.posterior_table import posterior_columns
from hybridfit.io.read_results import read_results
from hybridfit.io.result_table import result_columns
from hybridfit.io.table import Column, blank_rows
from hybridfit.io.targets_table import targets_columns
from hybridfit.io.unicode_columns import with_utf8
from hybridfit.io.write_tables import write_tables
from hybridfit.io.zeropoint_columns import with_zeropoint_metadata
from hybridfit.model.parameters import ParameterSpace
from hybridfit.pipeline.galfit.rows import task_columns
from hybridfit.simulation.options import CLEAN
from hybridfit.simulation.simulate import simulate_fields

BULGE_DISK = ParameterSpace.of_shapes((("n",), ()), "plane")
UNITS = {
    **dict.fromkeys(("x", "y", "r_eff"), "pix"),
    **dict.fromkeys(("pa", "pa_sky", "ra", "dec"), "deg"),
    **dict.fromkeys(("mag", "zeropoint"), "mag"),
    "r_eff_arcsec": "arcsec",
}
# in units of the image, known only for a complete table (see below), or without a unit
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


def memory_tables() -> dict[str, Table]:
    """The tables that comparisons and calibrations write, from small inputs."""
    rng = np.random.default_rng(1)
    truth = rng.normal(size=(40, 2))
    draws = truth[:, None] + rng.normal(size=(40, 50, 2))
    sbc = SbcSamples(["x", "mass"], draws, truth)
    limit = np.ones((40, 2))
    found = calibrate(sbc, np.linspace(1, 100, 40), limit)
    galaxies = Table({"id": ["a"], "snr": [9.0], "kind": [0], "rejected": [1]})
    for name in ("x", "mass"):
        for end in ("", "_rank", "_width"):
            galaxies[f"{name}{end}"] = 0.5
    compared = comparison()
    return {
        "summary": compared.summary,
        "unmatched": compared.unmatched,
        "calibration": found.table,
        "coverage": found.curve,
        "ranks": found.uniform,
        "galaxies": describe_galaxies(galaxies, ["x", "mass"]),
    }


def comparison() -> CompareResult:
    """A comparison of six galaxies with the truth, one of which lacks a partner."""
    truth = hf.simulate(6, 1)[1]
    return hf.compare(with_errors(truth[:5]), truth, pixels=False)


def with_errors(truth: Table) -> Table:
    """A table of results with the true values."""
    ours = truth.copy()
    ours["flags"] = 0
    for name in ("x", "y", "mag", "r_eff", "n", "q", "pa", "sky"):
        ours[f"{name}_err"] = 0.1
    return ours


@pytest.mark.parametrize(
    "table", ["summary", "unmatched", "calibration", "coverage", "ranks", "galaxies"]
)
def test_tables_of_comparison_and_calibration_are_described(table: str):
    """Every column has a description and a UCD; units belong to parameters alone."""
    for column in memory_tables()[table].itercols():
        assert column.description.strip()
        assert not column.description.endswith(".")
        ucd = column.meta["ucd"]
        assert check_ucd(ucd, check_controlled_vocabulary=True, has_colon=False), column.name
        expected = "pix" if (table, column.name) == ("galaxies", "x") else "None"
        assert str(column.unit) == expected


def test_empty_table_of_unmatched_galaxies_is_described():
    truth = hf.simulate(3, 1)[1]
    found = hf.compare(with_errors(truth), truth, pixels=False).unmatched
    assert len(found) == 0
    assert all(column.description and column.meta["ucd"] for column in found.itercols())


def test_tarp_is_described():
    pytest.importorskip("sbi")
    rng = np.random.default_rng(2)
    truth = rng.normal(size=(100, 2))
    curve = tarp(SbcSamples(["x", "y"], truth[:, None] + rng.normal(size=(100, 20, 2)), truth))
    for column in curve.itercols():
        assert column.description
        assert check_ucd(column.meta["ucd"], check_controlled_vocabulary=True, has_colon=False)


def test_summary_has_the_unit_of_each_parameter():
    """Differences of sizes and indices are logarithms, without a unit."""
    summary = comparison().summary
    units = dict(zip(summary["parameter"], summary["unit"], strict=True))
    expected = {"x": "pix", "mag": "mag", "pa": "deg", "q": "", "ln r_eff": "", "ln n": ""}
    assert {name: units[name] for name in expected} == expected


@pytest.mark.parametrize(
    ("origins", "expected"),
    [
        (("BUNIT nJy",), ("nJy", "nJy / pix", "nJy / pix2")),
        (("BUNIT nJy/pixel", "unit nJy", ""), ("nJy", "nJy / pix", "nJy / pix2")),
        (("BUNIT 10.0*nanoJansky",), ("10 nJy", "10 nJy / pix", "10 nJy / pix2")),
        (("BUNIT nJy", "BUNIT uJy"), ("", "", "")),
        (("BUNIT nJy", "FLUXMAG0"), ("", "", "")),
        (("BUNIT MJy/sr",), ("", "", "")),
        (("BUNIT nanomaggies",), ("", "", "")),
        (("",), ("", "", "")),
    ],
)
def test_fluxes_have_the_unit_that_all_images_share(
    origins: tuple[str, ...], expected: tuple[str, str, str]
):
    """Only of flux densities that FITS and VOTable can express; draws of the sky as well."""
    columns = result_columns(ParameterSpace.of_shapes((("n",),), "plane"), 5, True, True, 4)
    rows = blank_rows(len(origins), columns)
    rows["zeropoint_from"] = [origin.encode() for origin in origins]
    finished, _ = with_zeropoint_metadata([rows], columns)
    units = {column.name: column.unit for column in finished}
    flux, sky, slope = expected
    assert {units[name] for name in ("flux", "flux_err", "flux_limit")} == {flux}
    assert {units[name] for name in ("sky", "sky_err", "sky_p16", "sky_samples")} == {sky}
    assert {units[name] for name in ("sky_dx", "sky_dy_err", "sky_dx_p84")} == {slope}
    others = {c.name: c.unit for c in columns if not c.name.startswith(("flux", "sky"))}
    assert {name: units[name] for name in others} == others


def test_images_without_a_zero_point_leave_fluxes_without_a_unit():
    columns = result_columns(ParameterSpace(), 5)
    rows = blank_rows(2, columns)
    rows["zeropoint_from"] = [b"BUNIT nJy", b""]
    rows["flags"] = [0, int(Flag.NO_ZEROPOINT)]
    finished, _ = with_zeropoint_metadata([rows], columns)
    assert {column.unit for column in finished if column.name.startswith("flux_")} <= {""}


@pytest.mark.parametrize("format", ["fits", "ecsv", "votable"])
def test_units_of_fluxes_are_written(format: str, tmp_path: Path):
    columns = result_columns(ParameterSpace(), 5)
    rows = blank_rows(1, columns)
    rows["id"], rows["zeropoint_from"] = b"a", b"BUNIT uJy"
    write_tables(tmp_path, format, [rows], columns, {})
    table = read_results(tmp_path).table
    assert (str(table["flux"].unit), str(table["sky_err"].unit)) == ("uJy", "uJy / pix")


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
