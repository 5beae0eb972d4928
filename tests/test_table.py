"""The results table: columns, units, positions on the sky, and files that give it back."""

from __future__ import annotations

import io
import json
import math
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from astropy.coordinates import SkyCoord
from astropy.io import fits, votable
from astropy.table import Table
from astropy.wcs import WCS
from tolerances import TEXT

import hybridfit as hf
from hybridfit.data.cutouts import Cutouts
from hybridfit.data.diagnostics import SamplingDiagnostics
from hybridfit.data.fit import Fit
from hybridfit.data.result import Result
from hybridfit.data.samples import Draws
from hybridfit.io import table
from hybridfit.io import write_tables as export
from hybridfit.io.formats import FORMATS, check_format, table_path
from hybridfit.io.old_columns import RENAMED
from hybridfit.io.read_results import read_results
from hybridfit.io.references.read import read_reference
from hybridfit.io.result_table import result_columns, result_rows
from hybridfit.io.rows_back import rows_back
from hybridfit.io.unicode_columns import Reiterable
from hybridfit.model.parameters import ParameterSpace

NAMES = ["x", "y", "mag", "r_eff", "n", "q", "pa", "sky"]
ENDS = ("_p16", "_p50", "_p84")
N_DRAWS = 5


def expected(*ends: str) -> list[str]:
    """Names of the columns, with these behind each parameter's."""
    return [
        *["id", "flags", "flag_names", "quality"],
        *[f"{name}{end}" for name in (*NAMES, "r_eff_arcsec") for end in ("", "_err", *ends)],
        *["ra", "dec", "pa_sky", "flux", "flux_err", "flux_limit", "mag_limit"],
        *["zeropoint", "zeropoint_from", "chi2", "dof", "n_iter"],
        *[
            "ess",
            "pareto_k",
            "log_evidence",
            "missed_mass",
            "fit_network_distance",
            "flow_distance",
            "catastrophic_probability",
            "notes",
        ],
    ]


def tan_wcs(angle: float = 0.0, parity: float = -1.0, scale: float = 0.2) -> WCS:
    """A TAN WCS at 150, 60 degrees, turned by ``angle``; parity -1 has east to the left."""
    wcs = WCS(naxis=2)
    wcs.wcs.ctype, wcs.wcs.crval, wcs.wcs.crpix = ["RA---TAN", "DEC--TAN"], [150.0, 60.0], [16, 16]
    c, s = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    wcs.wcs.cd = scale / 3600 * np.array([[parity, 0], [0, 1]]) @ [[c, -s], [s, c]]
    return wcs


def made(
    n: int = 3, sky: str = "constant", shapes=(("n",),), draws: bool = False, **more
) -> tuple[Cutouts, Result]:
    """Cutouts and a result whose numbers tell where they belong; the last galaxy has no draws."""
    space = ParameterSpace.of_shapes(shapes, sky)
    p = len(space.names)
    theta = 0.5 + torch.arange(n * p, dtype=torch.float64).reshape(n, p) / (n * p)
    covariance = torch.eye(p, dtype=torch.float64).expand(n, p, p) * 0.04
    whole = torch.arange(n)
    fit = Fit(space, theta, covariance, theta[:, 0] * 900, whole + 900, whole + 4, whole * 2)
    image = torch.zeros(n, 32, 32)
    cutouts = Cutouts(image=image, sigma=image + 1, psf=None, **more)
    if not draws:
        return cutouts, Result(fit, whole % 3)
    samples = theta[:, None] + 0.01 * torch.arange(N_DRAWS, dtype=torch.float64)[None, :, None]
    weights = torch.tensor([0.4, 0.3, 0.2, 0.1, 0.0], dtype=torch.float64).repeat(n, 1)
    samples[0, -1] = torch.nan
    samples[-1], weights[-1] = torch.nan, 0.0
    names = ("ess", "pareto_k", "missed_mass")
    about = SamplingDiagnostics(**{name: theta[:, 1] + k for k, name in enumerate(names)})
    return cutouts, Result(fit, whole % 3, Draws(space, samples, weights), about)


def make_table(
    cutouts: Cutouts, result: Result, covariance: bool = True, samples: bool = False
) -> Table:
    """The table of a result, with draws if there are any."""
    draws = result.draws
    columns = result_columns(
        result.fit.space,
        table.id_width(cutouts.id),
        covariance,
        quantiles=draws is not None,
        n_samples=N_DRAWS if samples and draws is not None else 0,
    )
    return export.whole_table(result_rows(cutouts, result, columns), columns)


def test_columns_units_and_values():
    cutouts, result = made(pixel_scale=0.2, origin=[10.0, 20.0])
    fit, result = result.fit, make_table(cutouts, result)
    assert result.colnames == [*expected(), "covariance"]
    assert all(result[name].description for name in result.colnames)
    assert [str(result[name].unit) for name in ("x", "mag_err", "pa", "r_eff_arcsec", "ra")] == [
        *["pix", "mag", "deg", "arcsec", "deg"]
    ]
    np.testing.assert_allclose(result["x"], fit.theta[:, 0] + 10, atol=TEXT)
    np.testing.assert_allclose(result["y"], fit.theta[:, 1] + 20, atol=TEXT)
    np.testing.assert_allclose(result["r_eff_arcsec_err"], 0.2 * 0.2, atol=TEXT)
    np.testing.assert_allclose(result["covariance"], fit.covariance, atol=TEXT)
    assert np.isnan(result["ra"]).all()
    assert list(result["flags"]) == [0, 2, 4]
    assert list(result["quality"]) == ["suspect", "usable", "certified"]
    for name in ("ess", "pareto_k", "log_evidence", "missed_mass", "fit_network_distance"):
        assert np.isnan(result[name]).all(), "a covariance has no such number"


def test_draws_bring_quantiles():
    """Quantiles are of the weighted draws, positions in the parent image as the best fit's."""
    cutouts, result = made(draws=True, pixel_scale=0.2, origin=[10.0, 20.0])
    found = make_table(cutouts, result, covariance=False)
    assert found.colnames == expected(*ENDS)
    quantiles = result.draws.quantiles([0.16, 0.5, 0.84])
    for j, end in enumerate(ENDS):
        np.testing.assert_allclose(found[f"x{end}"], quantiles[:, j, 0] + 10, atol=TEXT)
        np.testing.assert_allclose(found[f"y{end}"], quantiles[:, j, 1] + 20, atol=TEXT)
        np.testing.assert_allclose(found[f"n{end}"], quantiles[:, j, 4], atol=TEXT)
        np.testing.assert_allclose(found[f"r_eff_arcsec{end}"], quantiles[:, j, 3] * 0.2, atol=TEXT)
    np.testing.assert_allclose(
        found["x"], result.fit.theta[:, 0] + 10, err_msg="the best fit", atol=TEXT
    )
    np.testing.assert_allclose(
        found["x_err"], 0.2, err_msg="of the covariance that is quoted", atol=TEXT
    )
    assert (found["n_p16"] < found["n_p84"])[:2].all()
    assert np.isnan(found["n_p50"][2]), "no draws, no quantiles"
    assert np.isfinite(found["n"][2])
    np.testing.assert_allclose(found["ess"], result.ess, atol=TEXT)
    np.testing.assert_allclose(found["missed_mass"], result.missed_mass, atol=TEXT)
    assert np.isnan(found["log_evidence"]).all()
    assert found["pa_p16"].unit == "deg"
    assert "within 90 deg" in found["pa_p16"].description


def test_draws_on_request():
    """Draws and weights give the quoted quantiles back; who has none has weights of 0."""
    cutouts, result = made(draws=True, origin=[10.0, 20.0])
    found = make_table(cutouts, result, covariance=False, samples=True)
    assert found.colnames == [*expected(*ENDS), *[f"{name}_samples" for name in NAMES], "weight"]
    assert found["x_samples"].shape == found["weight"].shape == (3, N_DRAWS)
    np.testing.assert_allclose(found["weight"].sum(axis=1), [1, 1, 0], atol=TEXT)
    again = Draws(
        ParameterSpace(),
        torch.tensor(np.stack([found[f"{name}_samples"] for name in NAMES], axis=2)),
        torch.tensor(np.array(found["weight"])),
    )
    middle = again.quantiles([0.5])[:, 0]
    for k, name in enumerate(NAMES):
        np.testing.assert_allclose(found[f"{name}_p50"], middle[:, k], err_msg=name, atol=TEXT)
    assert "samples" not in " ".join(make_table(*made(), samples=True).colnames)


def test_draws_have_room():
    """A run's table has so many draws: fewer leave weights of 0, more are refused."""
    cutouts, result = made(draws=True)
    for room in (N_DRAWS, N_DRAWS + 2):
        columns = result_columns(result.fit.space, 5, quantiles=True, n_samples=room)
        rows = result_rows(cutouts, result, columns)
        np.testing.assert_allclose(
            rows["weight"][:2, :N_DRAWS], result.draws.weights[:2], atol=TEXT
        )
        assert (rows["weight"][:, N_DRAWS:] == 0).all()
        assert np.isnan(rows["x_samples"][:, N_DRAWS:]).all()
        nothing = result_rows(cutouts, made()[1], columns)
        assert np.isnan(nothing["x_p50"]).all()
        assert (nothing["weight"] == 0).all()
    columns = result_columns(result.fit.space, 5, quantiles=True, n_samples=N_DRAWS - 1)
    with pytest.raises(ValueError, match="5 draws a galaxy came, expected 4 at most"):
        result_rows(cutouts, result, columns)
    with pytest.raises(ValueError, match="2 fits came for 3 galaxies"):
        result_rows(cutouts, result[:2], columns)


def test_other_parameters_bring_their_columns():
    """Two components and a sloping sky: names, units and descriptions follow."""
    cutouts, result = made(sky="plane", shapes=(("n",), ()), draws=True)
    space, result = result.fit.space, make_table(cutouts, result, covariance=False)
    for name in (*space.names, "r_eff_arcsec_2", "r_eff_arcsec_2_p84", "ra_1", "pa_sky_2"):
        assert name in result.colnames
    assert "n_2" not in result.colnames
    assert result["r_eff_2"].unit == "pix"
    assert "gradient" in result["sky_dx"].description


@pytest.mark.parametrize("parity", [-1.0, 1.0])
@pytest.mark.parametrize("angle", [0.0, 37.0, 200.0])
def test_position_angle_on_the_sky(angle: float, parity: float):
    """A step along the major axis, carried to the sky by astropy, has the quoted angle."""
    wcs, x, y, pa = tan_wcs(angle, parity), 11.0, 25.0, 65.0
    ra, dec, pa_sky = table.on_sky(wcs, x, y, 0.4, pa)
    here = wcs.pixel_to_world(x, y)
    step = np.array([-math.sin(math.radians(pa)), math.cos(math.radians(pa))])
    there = wcs.pixel_to_world(x + step[0], y + step[1])
    expected = here.position_angle(there).deg % 180
    assert here.separation(SkyCoord(ra, dec, unit="deg")).arcsec < 1e-6
    assert pa_sky == pytest.approx(expected, abs=1e-3)


def test_position_angle_north_up():
    """With north up and east left, pa from +y towards -x is pa on the sky; it wraps at 180."""
    for pa in (0.001, 30.0, 90.0, 179.9):
        assert table.on_sky(tan_wcs(), 15, 15, 0.5, pa)[2] == pytest.approx(pa, abs=1e-3)
    mirrored = table.on_sky(tan_wcs(parity=1.0), 15, 15, 0.5, 30.0)[2]
    assert mirrored == pytest.approx(150.0, abs=1e-3)


def test_galactic_wcs_gives_equatorial_positions():
    wcs = tan_wcs()
    wcs.wcs.ctype = ["GLON-TAN", "GLAT-TAN"]
    ra, dec, pa_sky = table.on_sky(wcs, 15, 15, 0.3, 20.0)
    here = wcs.pixel_to_world(15, 15).icrs
    step = wcs.pixel_to_world(15 - math.sin(math.radians(20)), 15 + math.cos(math.radians(20))).icrs
    assert (ra, dec) == pytest.approx((here.ra.deg, here.dec.deg))
    assert pa_sky == pytest.approx(here.position_angle(step).deg % 180, abs=1e-2)


def test_no_wcs_and_bad_values_give_nan():
    assert all(map(math.isnan, table.on_sky(None, 1, 1, 0.5, 10)))
    assert all(map(math.isnan, table.on_sky(tan_wcs(), math.nan, 1, 0.5, 10)))


def parts_of(cutouts: Cutouts, result: Result, covariance: bool):
    space, width = result.fit.space, table.id_width(cutouts.id)
    n_samples = N_DRAWS if covariance else 0
    columns = result_columns(space, width, covariance, result.draws is not None, n_samples)
    rows = result_rows(cutouts, result, columns)
    return [rows[:2], rows[2:]], columns


FILES = {"fits": "results.fits", "ecsv": "results.ecsv", "votable": "results.vot"}
FILES |= {"csv": "results.csv", "parquet": "results.parquet"}


def needs(format: str) -> None:
    if format == "parquet":
        pytest.importorskip("pyarrow")


def assert_same_columns(read: Table, direct: Table, format: str) -> None:
    """The same values, units, descriptions and UCDs, as far as a format has room for them."""
    assert read.colnames == direct.colnames
    for name in direct.colnames:
        if direct[name].dtype.kind == "U":
            texts = np.ma.filled(np.ma.asarray(read[name]).astype(str), "")
            assert list(texts) == list(direct[name]), name
        else:
            values = np.ma.filled(np.ma.asarray(read[name]).astype(float), np.nan)
            values = np.reshape(values, direct[name].shape)
            np.testing.assert_array_equal(values, direct[name], err_msg=name)
        if format != "csv":
            assert read[name].unit == direct[name].unit
            assert read[name].description == direct[name].description
            assert read[name].meta["ucd"] == direct[name].meta["ucd"]


@pytest.mark.parametrize("format", FORMATS)
def test_files_give_the_tables_back(format: str, tmp_path: Path):
    """Written in two parts: results and, beside them, draws, a row a galaxy in both."""
    needs(format)
    arrays = format != "csv"
    ids = ["a", "galaxy <with> a longer name", "Ü1"]
    notes = ["é, a note", "", "x" * 900]
    cutouts, result = made(draws=True, id=ids, wcs=[tan_wcs(), None, None], messages=notes)
    parts, columns = parts_of(cutouts, result, arrays)
    meta = {"CREATOR": "hybridfit", "OPTIONS": json.dumps({"psf": "x" * 300, "n": [1, 2]})}
    export.write_tables(tmp_path, format, parts, columns, meta)
    names = {path.name for path in tmp_path.iterdir()}
    drawn = {FILES[format].replace("results", "draws")} if arrays else set()
    assert names == {FILES[format]} | drawn, "scratch files were left, or a table is missing"

    found, direct = read_results(tmp_path), make_table(cutouts, result, arrays)
    assert [str(name) for name in found.table["id"]] == ids
    if format == "fits":  # whose notes are ASCII
        found.table["notes"], direct["notes"] = ["", "", ""], ["", "", ""]
        found.table["notes"].description, found.table["notes"].meta["ucd"] = (
            direct["notes"].description,
            direct["notes"].meta["ucd"],
        ) = ("notes on this galaxy", "meta.note")
    assert_same_columns(found.table, direct, format)
    assert list(direct["flag_names"]) == ["", "AT_LIMIT", "NO_SIGNAL"]
    if not arrays:
        assert found.draws_table is None
        return
    assert found.settings["psf"] == "x" * 300
    assert found.drawn == result.fit.space.names
    samples, weights = found.draws(0)
    np.testing.assert_array_equal(samples, result.draws.samples[0, :-1])
    np.testing.assert_array_equal(weights, result.draws.weights[0, :-1])
    assert len(found.draws(2)[0]) == 0


def test_draws_are_read_by_their_galaxy(tmp_path: Path):
    """`read_draws` gives all draws, a row a galaxy, or those of one galaxy, a row each."""
    cutouts, result = made(draws=True, id=["a", "b", "Ü1"], origin=[10.0, 20.0])
    parts, columns = parts_of(cutouts, result, covariance=True)
    export.write_tables(tmp_path, "fits", parts, columns, {})
    whole = hf.read_draws(tmp_path)
    assert whole.colnames == ["id", *NAMES, "weight"]
    assert whole["mag"].shape == (3, N_DRAWS)
    assert (str(whole["mag"].unit), whole["mag"].meta["ucd"]) == ("mag", "phot.mag")
    one = hf.read_draws(tmp_path, "b")
    assert one.colnames == [*NAMES, "weight"]
    assert len(one) == N_DRAWS - 1, "one has weight 0"
    np.testing.assert_allclose(one["x"], result.draws.samples[1, :-1, 0] + 10, atol=TEXT)
    np.testing.assert_allclose(one["weight"].sum(), 1, atol=TEXT)
    assert one["r_eff"].unit == "pix"
    assert len(hf.read_draws(tmp_path, "Ü1")) == 0, "it has none"
    with pytest.raises(hf.UsageError, match="no galaxy 'c'"):
        hf.read_draws(tmp_path, "c")
    (tmp_path / "draws.fits").unlink()
    with pytest.raises(hf.UsageError, match="left no draws: give it --save-samples"):
        hf.read_draws(tmp_path)


def test_draws_of_other_galaxies_are_refused(tmp_path: Path):
    for ids in (["a", "b", "c"], ["a", "b", "d"]):
        cutouts, result = made(draws=True, id=ids)
        parts, columns = parts_of(cutouts, result, covariance=True)
        (tmp_path / ids[2]).mkdir()
        export.write_tables(tmp_path / ids[2], "ecsv", parts, columns, {})
    (tmp_path / "d" / "draws.ecsv").rename(tmp_path / "c" / "draws.ecsv")
    with pytest.raises(hf.UsageError, match="has other galaxies than the results beside it"):
        hf.read_draws(tmp_path / "c")


def test_tables_of_the_last_version(tmp_path: Path):
    """Their columns come under the names of today; their draws were among them."""
    cutouts, result = made(draws=True, id=["a", "b", "c"])
    parts, columns = parts_of(cutouts, result, covariance=True)
    now = make_table(cutouts, result, samples=True)
    old = now.copy()
    old.remove_column("flag_names")
    for name, new in RENAMED.items():
        if new in old.colnames:
            old.rename_column(new, name)
    assert {"khat", "missed", "risk", "message", "x_samples"} <= set(old.colnames)
    old.write(tmp_path / "results.fits")
    found = read_results(tmp_path)
    kept = [name for name in now.colnames if not name.endswith("_samples") and name != "weight"]
    assert set(kept) <= set(found.table.colnames)
    for name in ("pareto_k", "missed_mass", "flag_names"):
        assert list(found.table[name]) == list(now[name])
    samples, weights = found.draws(1)
    np.testing.assert_array_equal(samples, result.draws.samples[1, :-1])
    np.testing.assert_array_equal(weights, result.draws.weights[1, :-1])
    back = rows_back(tmp_path / "results.fits", columns, ["a", "b", "c"])
    assert back is not None
    assert back(0, 2).tobytes() == parts[0].tobytes()


@pytest.mark.parametrize("format", FORMATS)
def test_rows_come_back_as_they_were_written(format: str, tmp_path: Path):
    """Rows of a finished run can be kept as parts again, their draws too."""
    needs(format)
    arrays = format != "csv"
    cutouts, result = made(draws=True, id=["a", "b", "Ü1"], messages=["a note", "", ""])
    parts, columns = parts_of(cutouts, result, arrays)
    export.write_tables(tmp_path, format, parts, columns, {})
    path = table_path(tmp_path, format)
    back = rows_back(path, columns, ["a", "b", "Ü1"])
    assert back is not None
    assert back(0, 2).tobytes() == parts[0].tobytes()
    assert back(2, 3).tobytes() == parts[1].tobytes()
    assert rows_back(path, columns, ["a", "b", "c"]) is None
    if arrays:
        table_path(tmp_path, format, "draws").unlink()
        assert rows_back(path, columns, ["a", "b", "Ü1"]) is None, "there are no draws any more"


@pytest.mark.parametrize("format", ["fits", "ecsv", "votable", "parquet"])
def test_memory_does_not_grow_with_the_run(format: str, tmp_path: Path):
    """Parts are written one by one, draws too: eight times as many take no more memory."""
    needs(format)
    cutouts, result = made(draws=True, id=["a", "b", "c"])
    columns = result_columns(result.fit.space, 8, quantiles=True, n_samples=400)
    part = np.repeat(result_rows(cutouts, result, columns), 4)

    def peak(count: int) -> int:
        folder = tmp_path / str(count)
        folder.mkdir()
        parts = Reiterable(lambda: (part.copy() for _ in range(count)))
        tracemalloc.start()
        export.write_tables(folder, format, parts, columns, {})
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    peak(1)  # imports and caches
    few, many = peak(2), peak(16)
    assert many < few + part.nbytes, "some 14 parts more would take 14 times that"


def test_votable_is_valid(tmp_path: Path):
    """By astropy's validator, UCDs against the vocabulary; positions have their system."""
    cutouts, result = made(draws=True, id=["a", "b & c", "Ü1"], wcs=[tan_wcs(), None, None])
    parts, columns = parts_of(cutouts, result, covariance=True)
    export.write_tables(tmp_path, "votable", parts, columns, {"OPTIONS": '{"a": "<"}'})
    for name in ("results.vot", "draws.vot"):
        said = io.StringIO()
        assert votable.validate(tmp_path / name, output=said), said.getvalue()
        assert "W" not in {word[0] for word in said.getvalue().split() if word[1:3].isdigit()}
    found = votable.parse(tmp_path / "results.vot", verify="exception")
    field = found.get_first_table().get_field_by_id_or_name("ra")
    assert (field.ref, field.ucd, str(field.unit)) == ("icrs", "pos.eq.ra;meta.main", "deg")
    assert [system.system for system in found.iter_coosys()] == ["ICRS"]


def test_votable_is_a_reference_too(tmp_path: Path):
    """A run written as VOTable, and a VOTable of anybody, can be compared with."""
    cutouts, result = made(id=["a", "b", "c"])
    parts, columns = parts_of(cutouts, result, covariance=False)
    export.write_tables(tmp_path, "votable", parts, columns, {})
    for source, kind in ((tmp_path, "hybridfit"), (tmp_path / "results.vot", "table")):
        found = read_reference(source)
        assert (found.kind, found.id) == (kind, ("a", "b", "c"))
        np.testing.assert_allclose(found.values[:, 0, 2], result.fit.theta[:, 2], atol=TEXT)


def test_votable_that_refers_elsewhere_is_refused(tmp_path: Path):
    text = '<VOTABLE><RESOURCE><TABLE><DATA><BINARY><STREAM href="file:///etc/passwd"/>'
    (tmp_path / "results.vot").write_text(text)
    with pytest.raises(hf.UsageError, match="refers to data in other files"):
        read_results(tmp_path)


def test_fits_is_plain(tmp_path: Path):
    """What TOPCAT wants: one binary table in HDU 1, ASCII, descriptions as TCOMM."""
    cutouts, result = made(id=["a", "b", "Ü1"])
    parts, columns = parts_of(cutouts, result, covariance=True)
    path = tmp_path / "results.fits"
    export.write_results(path, parts, columns, {})
    assert path.stat().st_size % 2880 == 0
    with fits.open(path) as hdus:
        hdus.verify("exception")
        assert len(hdus) == 2
        assert hdus[1].header["NAXIS2"] == 3
        assert hdus[1].header["TCOMM1"] == "name of the galaxy"
        number = hdus[1].columns.names.index("mag") + 1
        assert hdus[1].header[f"TUCD{number}"] == "phot.mag"
        assert hdus[1].header[f"TUNIT{number}"] == "mag"
        assert hdus[1].data["id"][2] == "\\xdc1"
        assert bytes(hdus[1].data["id_utf8"][2]).rstrip(b"\0").decode() == "Ü1"
        np.testing.assert_array_equal(hdus[1].data["mag"], result.fit.theta[:, 2])


def test_unwritable_results_leave_nothing(tmp_path: Path):
    """A writer that fails half-way (a full disk) leaves no half table."""
    cutouts, result = made()
    parts, columns = parts_of(cutouts, result, covariance=False)

    def failing():
        yield parts[0]
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        export.write_results(tmp_path / "results.fits", failing(), columns, {})
    assert list(tmp_path.iterdir()) == []


def test_formats_that_cannot_be():
    with pytest.raises(ValueError, match="expected one of fits"):
        check_format("hdf5")
    with pytest.raises(ValueError, match="csv cannot hold"):
        check_format("csv", "covariance matrices")


def test_long_paths_do_not_hide_the_reason():
    text = f"'/{'folder/' * 30}g1_image.fits' has no HDU 'SCI': it has 0 PRIMARY"
    assert table.shortened(text) == b"'.../g1_image.fits' has no HDU 'SCI': it has 0 PRIMARY"
    assert table.shortened("short '/a/b.fits'") == b"short '/a/b.fits'"
    assert len(table.shortened("é" * 300)) <= table.NOTES_WIDTH
