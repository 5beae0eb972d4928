"""Other programs' files in the project's conventions: pixels, angles, radii, magnitudes."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from compare_helpers import ASCII_HEAD, IMFIT, galaxies, sigma, table_of
from scipy.integrate import quad
from tolerances import SINGLE, TEXT

from hybridfit.io.galfit import Component, Outcome, Value
from hybridfit.io.references.catalogue import COLUMN, canonical
from hybridfit.io.references.galfit_outputs import outcomes_catalogue
from hybridfit.io.references.options import ReferenceOptions
from hybridfit.io.references.read import find_kind, read_reference

X, MAG, R, N, Q, PA = (COLUMN[name] for name in ("x", "mag", "r_eff", "n", "q", "pa"))


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_imfit(tmp_path: Path):
    """A Sersic and a disc about one centre, and the sky, which has a centre of its own."""
    file = write(tmp_path / "bestfit_parameters_imfit.dat", IMFIT)
    assert find_kind(file) == "imfit"
    found = read_reference(file, ReferenceOptions(zeropoint=25.0))
    assert (found.kind, found.id) == ("imfit", (tmp_path.name,))
    first, second = found.values[0]
    np.testing.assert_allclose(first[:2], [31.9439, 33.0933], atol=TEXT)  # imfit counts from 1
    np.testing.assert_allclose(first[[R, N, Q, PA]], [5, 2, 0.75, 18.2612], atol=TEXT)
    np.testing.assert_allclose(second[[R, N, Q, PA]], [16.78347, 1, 0.5, 20], atol=TEXT)
    # fluxes by quadrature of the formulas in imfit's functions, b of n = 2 from its definition
    b = 3.672060749
    flux = (
        0.75 * quad(lambda r: 2 * math.pi * r * 20 * math.exp(-b * ((r / 5) ** 0.5 - 1)), 0, 9e3)[0]
    )
    assert first[MAG] == pytest.approx(25 - 2.5 * math.log10(flux), abs=1e-4)
    disc = 0.5 * quad(lambda r: 2 * math.pi * r * 10 * math.exp(-r / 10), 0, 900)[0]
    assert second[MAG] == pytest.approx(25 - 2.5 * math.log10(disc), abs=1e-6)
    np.testing.assert_allclose(
        found.errors[0, 0, [0, R, Q]], [0.0128, 0.86063, 0.0023165], atol=TEXT
    )
    assert np.isnan(found.errors[0, 0, MAG])
    assert found.fixed[0, 1, [N, PA]].all()  # n of a disc is given, +/- 0 says fixed
    assert not found.fixed[0, 0, [N, PA]].any()
    np.testing.assert_allclose(found.sky[0], [0.15, 0.002, 0, 0], atol=TEXT)
    np.testing.assert_allclose(found.chi2_dof[0], [4000.5, 4089], atol=TEXT)
    assert found.complete[0]
    assert not found.counts


def test_imfit_directory_has_counts_and_names_what_it_leaves_out(tmp_path: Path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write(tmp_path / name / "bestfit_parameters_imfit.dat", IMFIT)
    write(
        tmp_path / "b" / "bestfit_parameters_imfit.dat", IMFIT.replace("Exponential", "EdgeOnDisk")
    )
    found = read_reference(tmp_path)
    assert found.id == ("a", "b")
    assert found.counts
    assert found.complete.tolist() == [True, False]
    assert any("EdgeOnDisk" in note for note in found.notes)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("n		2 #", "n		two #", r"line 17: expected a parameter's name and value"),
        ("h		10", "height		10", r"a function lacks its parameter 'h'"),
    ],
)
def test_imfit_that_is_no_imfit(tmp_path: Path, old: str, new: str, message: str):
    assert old in IMFIT
    file = write(tmp_path / "bestfit_parameters_imfit.dat", IMFIT.replace(old, new))
    with pytest.raises(ValueError, match=message):
        read_reference(file)


def test_sextractor_ascii(tmp_path: Path):
    file = write(tmp_path / "a.cat", ASCII_HEAD)
    assert find_kind(file) == "sextractor"
    found = read_reference(file)
    assert found.id == ("1", "2")
    np.testing.assert_allclose(found.values[0, 0, :2], [10, 20], atol=TEXT)  # X_IMAGE counts from 1
    # ERRX2 are variances
    np.testing.assert_allclose(found.errors[0, 0, :2], [0.02, 0.03], atol=TEXT)
    # 4 is the radius of a circle that holds half of the light: along the major axis 4 / sqrt(q)
    np.testing.assert_allclose(found.values[0, 0, [R, Q, PA]], [4 / 0.8, 0.64, 60], atol=TEXT)
    assert np.isnan(found.values[0, 0, N])
    assert np.isnan(found.values[1, 0, MAG])  # 99 stands for none
    assert found.flagged == ("", "FLAGS 4")
    np.testing.assert_allclose(found.world[1], [150.01, 2.01], atol=TEXT)
    assert any("including the seeing" in note for note in found.notes)


def sextractor_models() -> Table:
    return Table(
        {
            "NUMBER": [7],
            "X_IMAGE": [5.0],
            "Y_IMAGE": [5.0],
            "XMODEL_IMAGE": [11.0],
            "YMODEL_IMAGE": [12.0],
            "MAG_SPHEROID": [20.0],
            "MAGERR_SPHEROID": [0.1],
            "SPHEROID_REFF_IMAGE": [3.0],
            "SPHEROID_REFFERR_IMAGE": [0.3],
            "SPHEROID_ASPECT_IMAGE": [0.5],
            "SPHEROID_THETA_IMAGE": [100.0],
            "SPHEROID_SERSICN": [2.5],
            "SPHEROID_SERSICNERR": [0.2],
            "FLAGS": [3],
            "FLAGS_MODEL": [8],
        }
    )


@pytest.mark.parametrize("ldac", [False, True])
def test_sextractor_models_in_fits(tmp_path: Path, ldac: bool):
    """FITS_1.0 has one table, FITS_LDAC the image's header before the objects."""
    hdu = fits.table_to_hdu(sextractor_models())
    hdus = [fits.PrimaryHDU(), hdu]
    if ldac:
        hdu.name = "LDAC_OBJECTS"
        head = fits.table_to_hdu(Table({"Field Header Card": [["SIMPLE  = T"]]}))
        head.name = "LDAC_IMHEAD"
        hdus.insert(1, head)
    file = tmp_path / "a.cat"
    fits.HDUList(hdus).writeto(file)
    assert find_kind(file) == "sextractor"
    found = read_reference(file)
    np.testing.assert_allclose(found.values[0, 0], [10, 11, 20, 3, 2.5, 0.5, 10], atol=TEXT)
    np.testing.assert_allclose(found.errors[0, 0, [MAG, R, N]], [0.1, 0.3, 0.2], atol=TEXT)
    assert found.flagged == ("FLAGS_MODEL 8",)  # 3 only tells of neighbours


def test_sextractor_bulge_and_disc(tmp_path: Path):
    table = sextractor_models()
    table["MAG_DISK"], table["DISK_SCALE_IMAGE"] = [19.0], [6.0]
    table["DISK_ASPECT_IMAGE"], table["DISK_THETA_IMAGE"] = [0.4], [-80.0]
    del table["SPHEROID_SERSICN"], table["SPHEROID_SERSICNERR"]
    table.write(tmp_path / "a.fits")
    found = read_reference(tmp_path / "a.fits")
    assert found.values.shape == (1, 2, 7)
    # de Vaucouleurs
    np.testing.assert_allclose(found.values[0, 0, [MAG, R, N]], [20, 3, 4], atol=TEXT)
    # a scale length, made a half-light radius
    np.testing.assert_allclose(
        found.values[0, 1, [MAG, R, N, Q, PA]], [19, 10.070082, 1, 0.4, 10], atol=TEXT
    )
    assert found.fixed[0, :, N].all()


def test_sourcextractor(tmp_path: Path):
    """Its own columns, and those of a model whose names and angle's unit the user chose."""
    table = Table(
        {
            "source_id": [3],
            "pixel_centroid_x": [11.0],
            "pixel_centroid_y": [21.0],
            "auto_mag": [[20.0, 21.0]],
            "auto_mag_err": [[0.01, 0.02]],
            "flux_radius": [[4.0]],
            "ellipse_a": [2.0],
            "ellipse_b": [1.28],
            "ellipse_theta": [-30.0],
            "source_flags": [0],
            "rad": [2.5],
            "ang": [math.radians(100)],
        }
    )
    file = tmp_path / "a.fits"
    table.write(file)
    assert find_kind(file) == "sourcextractor++"
    with pytest.raises(ValueError, match=r"auto_mag.* are 2 numbers: choose one"):
        read_reference(file)
    one = read_reference(file, ReferenceOptions(columns="mag=auto_mag[1],mag_err=auto_mag_err[1]"))
    assert one.id == ("3",)
    np.testing.assert_allclose(
        one.values[0, 0, [0, 1, MAG, R, Q, PA]], [10, 20, 21, 5, 0.64, 60], atol=TEXT
    )
    model = "mag=auto_mag[0],mag_err=auto_mag_err[0],r_eff=rad,pa=ang"
    two = read_reference(file, ReferenceOptions(columns=model, pa_unit="rad"))
    np.testing.assert_allclose(two.values[0, 0, [MAG, R, PA]], [20, 2.5, 10], atol=TEXT)


def test_galfit_table(tmp_path: Path):
    """Rows of several modes and components: one mode is chosen, components are one galaxy."""
    head = "id,mode,component,mag,mag_err,re_pix,re_pix_err,n,n_err,q,pa_deg,x,y,sky,verdict\n"
    rows = [
        "0042,single,1,20.5,0.01,3.0,0.1,2.0,0.2,0.5,-30,11.5,12,0.25,good",
        "0042,both,2,21.0,0.01,4.0,0.1,1.0,,0.6,100,12,12,0.2,poor",
        "0042,both,1,22.0,0.01,1.0,0.1,4.0,0.2,0.9,10,11,12,0.2,poor",
    ]
    file = write(tmp_path / "galfit.csv", head + "\n".join(rows) + "\n")
    assert find_kind(file) == "galfit-table"
    with pytest.raises(ValueError, match=r"galaxy '0042' 3 times: choose its rows with where"):
        read_reference(file)
    single = read_reference(file, ReferenceOptions(where="mode=single"))
    assert single.id == ("0042",)
    np.testing.assert_allclose(single.values[0, 0], [10.5, 11, 20.5, 3, 2, 0.5, 150], atol=TEXT)
    assert single.sky[0, 0] == 0.25
    both = read_reference(file, ReferenceOptions(where="mode=b*", zeropoint_offset=-1.0))
    # in the order of components
    np.testing.assert_allclose(both.values[0, :, MAG], [21, 20], atol=TEXT)
    assert both.flagged == ("poor",)
    with pytest.raises(ValueError, match=r"no row with mode=other"):
        read_reference(file, ReferenceOptions(where="mode=other"))
    with pytest.raises(ValueError, match=r"no column 'mod' \(where\): did you mean 'mode'"):
        read_reference(file, ReferenceOptions(where="mod=single"))


def test_galfit_outputs(tmp_path: Path):
    """Fixed values are not compared; suspect values and GALFIT's flags are reported."""

    def sersic(**errors: float) -> Component:
        numbers = {"x": 10, "y": 11, "mag": 20, "r_eff": 3, "n": 2, "q": 0.5, "pa": 10}
        values = {k: Value(float(v), errors.get(k, 0.1)) for k, v in numbers.items()}
        values["n"] = Value(4.0, fixed=True)
        return Component("sersic", values)

    sky = Component("sky", {"sky": Value(0.5, 0.1), "sky_dx": Value(0.0, fixed=True)})
    psf = Component("psf", {"x": Value(1), "y": Value(1), "mag": Value(20, suspect=True)})
    outcomes = [
        Outcome(tmp_path / "a" / "block.fits", feedme="a.feedme", components=(sersic(), sky)),
        Outcome(tmp_path / "b" / "block.fits", components=(sersic(), psf), flags=("A-1", "2")),
    ]
    found = outcomes_catalogue(outcomes, tmp_path, ReferenceOptions())
    assert found.id[0] == "a/a"
    assert {"a", "a_a", str(tmp_path / "a" / "a.feedme")} <= set(found.aliases[0])
    assert found.fixed[0, 0].tolist() == [name == "n" for name in COLUMN]
    np.testing.assert_allclose(found.sky[0], [0.5, 0.1, 0, 0], atol=TEXT)
    assert found.sky[1, 0] == 0  # a model without a sky has none
    assert found.complete.tolist() == [True, False]
    assert found.flagged == ("", "flag 2, *suspect* values")
    only = outcomes_catalogue(outcomes, tmp_path, ReferenceOptions(where="path=*/b/*"))
    assert len(only) == 1


def test_any_table_with_its_columns_named(tmp_path: Path):
    table = Table(
        {
            "NAME": ["12", "13"],
            "XC": [11.0, 12.0],
            "YC": [11.0, 12.0],
            "F": [100.0, -1.0],
            "DF": [1.0, 1.0],
            "RC": [3.0, 3.0],
            "E": [0.19, 0.19],
            "T": [90.0, 0.0],
        }
    )
    file = tmp_path / "any.ecsv"
    table.write(file)
    with pytest.raises(ValueError, match="no known column: name them with columns"):
        read_reference(file)
    options = ReferenceOptions(
        columns="id=NAME,x=XC,y=YC,flux=F,flux_err=DF,r_eff=RC,ellipticity=E,pa=T",
        first_pixel=1,
        pa_from="+x",
        size="circularised",
        zeropoint=25.0,
        id_format="g{id:04d}",
    )
    found = read_reference(file, options)
    assert (found.kind, found.id) == ("table", ("g0012", "g0013"))
    np.testing.assert_allclose(
        found.values[0, 0, [X, MAG, R, Q, PA]], [10, 20, 3 / 0.9, 0.81, 0], atol=TEXT
    )
    assert found.errors[0, 0, MAG] == pytest.approx(2.5 / math.log(10) / 100)
    assert np.isnan(found.values[1, 0, MAG])  # no magnitude of a negative flux
    with pytest.raises(ValueError, match="'reff' is unknown: did you mean 'r_eff'"):
        read_reference(file, ReferenceOptions(columns="reff=RC,x=XC"))


def test_a_table_without_ids_counts_its_rows(tmp_path: Path):
    file = write(tmp_path / "any.csv", "x,y,mag\n1,2,20\n,3,n/a\n")
    found = read_reference(file)
    assert found.id == ("0", "1")
    np.testing.assert_allclose(found.values[0, 0, [0, 1, MAG]], [1, 2, 20], atol=TEXT)
    assert np.isnan(found.values[1, 0, [0, MAG]]).all()
    wrong = write(tmp_path / "wrong.csv", "x,y,mag\n1,2,bright\n")
    with pytest.raises(ValueError, match=r"column 'mag' has 'bright', expected a number"):
        read_reference(wrong)


def test_truths(tmp_path: Path):
    """Our names without errors are a truth; so are the arrays of a simulated set."""
    values = galaxies(3)
    table_of(values).write(tmp_path / "truth.fits")
    found = read_reference(tmp_path / "truth.fits")
    assert found.exact
    np.testing.assert_allclose(found.values[:, 0], values, atol=TEXT)
    table_of(values, sigma(3)).write(tmp_path / "fits.ecsv")
    assert find_kind(tmp_path / "fits.ecsv") == "table"
    arrays = {f"t_{name}": values[:, k] for name, k in COLUMN.items() if name != "r_eff"}
    arrays |= {"t_re": values[:, R], "t_snr": np.ones(3), "data": np.zeros((3, 4, 4))}
    arrays["t_pa"] = values[:, PA] + 90  # from +x
    np.savez(tmp_path / "set.npz", **arrays)
    other = read_reference(tmp_path / "set.npz", ReferenceOptions(id_format="g{id}"))
    assert other.exact
    assert other.id == ("g0", "g1", "g2")
    np.testing.assert_allclose(other.values[:, 0], values, atol=TEXT)
    np.testing.assert_allclose(other.snr, 1, atol=TEXT)


def test_an_axis_ratio_above_1_is_turned():
    """The other axis is the major one then; the error goes along."""
    values = np.array([[0, 0, 20, 4.0, 1, 2.0, 170]])
    errors = np.array([[0, 0, 0.1, 0.4, 1, 0.2, 5]])
    value, error = canonical(values, errors)
    np.testing.assert_allclose(value[0, [R, Q, PA]], [8, 0.5, 80], atol=TEXT)
    np.testing.assert_allclose(error[0, [R, Q]], [0.8, 0.05], atol=TEXT)
    assert np.isnan(error[0, 0])  # 0 is no error


def test_options_that_are_not_understood(tmp_path: Path):
    with pytest.raises(ValueError, match=r"kind is 'galfitt', expected one of hybridfit"):
        ReferenceOptions(kind="galfitt")
    with pytest.raises(ValueError, match="expected NAME=VALUE"):
        ReferenceOptions(columns="x")
    with pytest.raises(ValueError, match="does not fit the id 'a'"):
        ReferenceOptions(id_format="g{id:03d}").as_ours("a")
    with pytest.raises(FileNotFoundError, match="does not exist"):
        read_reference(tmp_path / "nothing")


def test_saved_sets(shared_data: Path):
    """GALFIT's answers on the simulated set lie where the truth is, in its conventions."""
    truth = read_reference(shared_data / "sims" / "main.npz")
    columns = "mag_err=e_mag,r_eff=re,r_eff_err=e_re,n_err=e_n,q_err=e_q,pa_err=e_pa"
    options = ReferenceOptions(columns=columns, pa_from="+x")
    galfit = read_reference(shared_data / "sims" / "galfit_main.csv", options)
    assert galfit.id == truth.id
    off = galfit.values - truth.values
    off[..., PA] = (off[..., PA] + 90) % 180 - 90
    # typical errors at S/N 20 to 1000: far below 1 pixel or 90 degrees, which a slip would give
    assert (np.abs(np.median(off[:, 0], axis=0)) < [0.01, 0.01, 0.01, 0.1, 0.1, 0.01, 1]).all()


def test_saved_imfit(shared_data: Path):
    """imfit's own output of IC 3478 against the values saved with it."""
    file = shared_data / "real" / "cases" / "sdss_ic3478" / "imfit_out.txt"
    found = read_reference(file, ReferenceOptions(zeropoint=0.0))
    expected = [31.9439, 33.0933, -15.002823, 60.7612, 2.40028, 0.764011, 18.2612]
    np.testing.assert_allclose(found.values[0, 0], expected, rtol=2e-6, atol=SINGLE)


def test_other_profiles_of_galfit_are_compared(tmp_path: Path) -> None:
    """Half-light radii of a Moffat, and their errors by hand; magnitudes of total light alone."""
    fwhm, beta = 6.0, 2.5
    numbers = {"x": 10.0, "y": 11.0, "mag": 18.0, "fwhm": fwhm, "beta": beta, "q": 0.7, "pa": 30.0}
    errors = {"fwhm": 0.3, "beta": 0.2}
    values = {n: Value(v, errors.get(n, 0.01)) for n, v in numbers.items()}
    king = {"x": 1.0, "y": 2.0, "mu": 18.0, "r_c": 3.0, "r_t": 16.0, "alpha": 2.0, "q": 0.8}
    star = {"x": 3.0, "y": 4.0, "mag": 20.0}
    parts = (
        Component("moffat", values),
        Component("king", {n: Value(v, 0.01) for n, v in {**king, "pa": 5.0}.items()}),
        Component("psf", {n: Value(v, 0.01) for n, v in star.items()}),
        Component("sersic", {n: Value(1.0, 0.01) for n in ("x", "y", "mag")}, ("T0",)),
    )
    outcome = Outcome(tmp_path / "a_block.fits", components=parts)
    found = outcomes_catalogue([outcome], tmp_path, ReferenceOptions())

    def half_light(fwhm: float, beta: float) -> float:
        core = fwhm / 2 / math.sqrt(2 ** (1 / beta) - 1)
        return core * math.sqrt(2 ** (1 / (beta - 1)) - 1)

    moffat, other, point = found.values[0]
    assert moffat[COLUMN["r_eff"]] == pytest.approx(half_light(fwhm, beta))
    assert moffat[COLUMN["mag"]] == 18.0
    assert math.isnan(moffat[COLUMN["n"]])
    step = 1e-4
    by_beta = (half_light(fwhm, beta + step) - half_light(fwhm, beta - step)) / (2 * step)
    expected = math.hypot(0.3 * half_light(1.0, beta), 0.2 * by_beta)
    assert found.errors[0, 0, COLUMN["r_eff"]] == pytest.approx(expected, rel=1e-5)
    assert found.errors[0, 0, COLUMN["q"]] == 0.01
    assert math.isnan(other[COLUMN["mag"]])  # from a surface brightness
    assert other[COLUMN["r_eff"]] > 3.0
    assert point[:3].tolist() == [3.0, 4.0, 20.0]
    assert np.isnan(point[3:]).all()
    assert found.notes[-1] == "components not compared: sersic"
    assert not found.complete[0]
