"""Input files and constraint files of GALFIT: every pitfall that was met, and what is refused."""

from __future__ import annotations

import math
from dataclasses import fields
from pathlib import Path

import pytest

from hybridfit.io.galfit import (
    Constraint,
    Feedme,
    GalfitError,
    Value,
    find_feedmes,
    read_constraints,
    read_feedme,
    start_ranges,
    write_feedme,
)

PLAIN = """
A) gal.fits            # Input data image (FITS file)
B) imgblock.fits       # Output data image block
C) sigma.fits
D) psf.fits   #        # Input PSF image and (optional) diffusion kernel
E) 1
F) none
G) none
H) 11    93   21    88
I) 100    100
J) 26.563
K) 0.038  0.038
O) regular
P) 0

 0) sersic
 1) 48.5180  51.2800  1 0
 3) 20.0890     1
 4) 5.1160      1
 5) 4.2490      0
 9) 0.7570      1
10) -60.3690    1
 Z) 0

 0) sky
 1) 1.3920      1
 2) 0.0000      0
 3) 0.0000      0
 Z) 0
"""


def written(tmp_path: Path, text: str, name: str = "galfit.feedme") -> Path:
    path = tmp_path / name
    path.write_text(text)
    return path


def plain(tmp_path: Path, old: str = "", new: str = "") -> Feedme:
    assert old in PLAIN
    return read_feedme(written(tmp_path, PLAIN.replace(old, new)))


def numbers(component) -> dict[str, float]:
    return {name: value.value for name, value in component.values.items()}


def test_a_plain_file(tmp_path: Path):
    """Pixels and the region from 0, the angle in [0, 180), toggles as what is fixed."""
    feedme = plain(tmp_path)
    assert (feedme.image, feedme.sigma, feedme.psf, feedme.mask, feedme.kernel) == (
        "gal.fits",
        "sigma.fits",
        "psf.fits",
        "",
        "",
    )
    assert feedme.region == (10, 93, 20, 88)
    assert feedme.convolution_box == (100, 100)
    assert (feedme.zeropoint, feedme.pixel_scale) == (26.563, (0.038, 0.038))
    assert (feedme.version, feedme.mode, feedme.notes, feedme.dof) == (3, 0, (), -1)
    sersic, sky = feedme.components
    assert numbers(sersic) == pytest.approx(
        {
            "x": 47.518,
            "y": 50.28,
            "mag": 20.089,
            "r_eff": 5.116,
            "n": 4.249,
            "q": 0.757,
            "pa": 119.631,
        },
        abs=1e-12,
    )
    assert [name for name, value in sersic.values.items() if value.fixed] == ["y", "n"]
    assert sersic.is_sersic
    assert not sersic.skipped
    assert numbers(sky) == {"sky": 1.392, "sky_dx": 0.0, "sky_dy": 0.0}
    assert [value.fixed for value in sky.values.values()] == [False, True, True]
    assert feedme.resolve("psf.fits") == tmp_path / "psf.fits"


@pytest.mark.parametrize(
    ("old", "new", "name", "expected"),
    [
        ("C) sigma.fits", "C) none", "sigma", ""),
        ("C) sigma.fits", "C)", "sigma", ""),
        ("C) sigma.fits", "C) 'none' # made from data", "sigma", ""),
        ("C) sigma.fits", 'C) "my sigma.fits"', "sigma", "my sigma.fits"),
        ("C) sigma.fits", "C) sigma.fits 0.02", "min_sigma", 0.02),
        ("C) sigma.fits", "C) none,none 0.000", "sigma", ""),
        ("A) gal.fits", "A)\tgal.fits[1]\t# tabs, an HDU", "image", "gal.fits[1]"),
        ("A) gal.fits", "a) gal#2.fits", "image", "gal#2.fits"),
        ("D) psf.fits   #", "D) psf.fits kernel.txt #", "kernel", "kernel.txt"),
        ("D) psf.fits   #", "#D) psf.fits #", "psf", ""),
        ("E) 1", "E) 4", "psf_oversampling", 4),
        ("I) 100    100", "I) 109.3333 0", "convolution_box", (109, 0)),
        ("I) 100    100", "", "convolution_box", (0, 0)),
        ("J) 26.563", "J) 2.6563D1", "zeropoint", 26.563),
        ("K) 0.038  0.038", "K) 0.038", "pixel_scale", (0.038, 0.038)),
        ("P) 0", "P) 1", "mode", 1),
        ("P) 0", "P) 0\nA1) r\nA2) 6231\nU) 0 0.75\nW) default", "bands", ()),
        ("P) 0", "P) 0\nJ) 25.0", "zeropoint", 25.0),
        ("H) 11    93   21    88", "", "region", None),
    ],
)
def test_control_rows(tmp_path: Path, old: str, new: str, name: str, expected: object):
    """Blanks, quotes, tabs, comments, kernels, later rows that override: as GALFIT takes them."""
    assert getattr(plain(tmp_path, old, new), name) == expected


def test_missing_zero_point_and_scale_are_nan(tmp_path: Path):
    feedme = read_feedme(
        written(tmp_path, PLAIN.replace("J) 26.563", "").replace("K) 0.038  0.038", ""))
    )
    assert math.isnan(feedme.zeropoint)
    assert all(map(math.isnan, feedme.pixel_scale))


@pytest.mark.parametrize(
    ("kind", "rows", "expected"),
    [
        ("expdisk", " 4) 2.0 1", {"r_eff": 2 * 1.6783469900166605, "n": 1.0}),
        ("devauc", " 4) 2.0 1", {"r_eff": 2.0, "n": 4.0}),
        ("gaussian", " 4) 3.0 1", {"r_eff": 1.5, "n": 0.5}),
    ],
)
def test_kin_of_sersic(tmp_path: Path, kind: str, rows: str, expected: dict[str, float]):
    """Scale lengths and FWHM become half-light radii, the index is known and fixed."""
    text = PLAIN.replace("0) sersic", f"0) {kind}").replace(" 5) 4.2490      0\n", "")
    part = read_feedme(written(tmp_path, text.replace(" 4) 5.1160      1", rows))).components[0]
    assert part.is_sersic
    assert part.values["n"].fixed
    assert {name: part.values[name].value for name in expected} == pytest.approx(expected)


def test_other_types_keep_their_scales(tmp_path: Path):
    text = PLAIN.replace("0) sersic", "0) moffat").replace(" Z) 0\n\n", " Z) 1\n\n", 1)
    part = read_feedme(written(tmp_path, text)).components[0]
    assert part.kind == "moffat"
    assert not part.is_sersic
    assert part.skipped
    assert {"x", "y", "mag", "fwhm", "beta", "q", "pa"} == set(part.values)
    assert (part.values["fwhm"].value, part.values["x"].value) == (5.116, pytest.approx(47.518))


@pytest.mark.parametrize(
    ("row", "extras"),
    [
        ("C0) 0.0 0", ()),
        ("R0) tanh\nR1) 0. 0\nR10) 30. 1", ("R",)),
        ("R0) none", ()),
        ("Ti) 5\nTo) 2", ("Ti", "To")),
    ],
)
def test_shape_terms_are_named(tmp_path: Path, row: str, extras: tuple[str, ...]):
    """Terms beyond an ellipse count where they are there and matter, also behind row Z."""
    for text in (
        PLAIN.replace("10) -60.3690    1\n", f"10) -60.3690    1\n{row}\n"),
        PLAIN.replace(" Z) 0\n\n", f" Z) 0\n\n{row}\n\n", 1),
    ):
        part = read_feedme(written(tmp_path, text)).components[0]
        assert part.extras == extras
        assert part.is_sersic == (not extras)


@pytest.mark.parametrize(("row", "fixed"), [("C0) 0.1 0", True), ("C0) 0.0 1", False)])
def test_boxiness_is_a_value(tmp_path: Path, row: str, fixed: bool):
    """A component with C0 is none of the Sersic family, and is written as it was read."""
    text = PLAIN.replace("10) -60.3690    1\n", f"10) -60.3690    1\n{row}\n")
    feedme = read_feedme(written(tmp_path, text))
    part = feedme.components[0]
    assert part.values["c0"] == Value(float(row.split()[1]), fixed=fixed)
    assert (part.is_sersic, part.extras) == (False, ())
    again = read_feedme(write_feedme(feedme, tmp_path / "again"))
    assert again.components[0].values == part.values


def test_version_2_has_its_rows_elsewhere(tmp_path: Path):
    """q on row 8, the angle on 9, boxiness on 10; a float that nobody set on row 6."""
    old = """10) -60.3690    1"""
    rows = """ 6) -959892362019182527582872065277952.0000    0
 7) 0.0000     0
 8) 0.3366     1
 9) -86.0915    1
10) 0.0000     0"""
    text = PLAIN.replace(" 9) 0.7570      1\n", "").replace(old, rows)
    feedme = read_feedme(written(tmp_path, text))
    part = feedme.components[0]
    assert feedme.version == 2
    assert part.values["q"].value == 0.3366
    assert part.values["pa"].value == pytest.approx(93.9085)
    assert part.is_sersic
    boxy = read_feedme(written(tmp_path, text.replace("10) 0.0000     0", "10) 0.0 1")))
    assert boxy.components[0].values["c0"] == Value(0.0)


def test_garbage_is_not_a_number(tmp_path: Path):
    for garbage in ("nan", "-959892362019182527582872065277952.0", "inf"):
        value = plain(tmp_path, "3) 20.0890 ", f"3) {garbage} ").components[0].values["mag"]
        assert math.isnan(value.value)
        assert value.suspect


def test_marks_of_results_are_understood(tmp_path: Path):
    part = plain(tmp_path, "4) 5.1160 ", "4) *5.1160* ").components[0]
    assert part.values["r_eff"].value == 5.116
    assert part.values["r_eff"].suspect


def test_missing_toggles_hold_and_are_told(tmp_path: Path):
    feedme = plain(tmp_path, " 3) 20.0890     1", " 3) 20.0890   # total magnitude")
    assert feedme.components[0].values["mag"].fixed
    assert "no toggle" in feedme.notes[0]


def test_axis_ratio_above_one_is_turned(tmp_path: Path):
    """With q = 2 GALFIT's size is along the minor axis: same ellipse, told by its major axis."""
    part = plain(tmp_path, " 9) 0.7570", " 9) 2.0").components[0]
    assert part.values["q"].value == 0.5
    assert part.values["r_eff"].value == pytest.approx(2 * 5.116)
    assert part.values["pa"].value == pytest.approx(119.631 - 90)


def test_angles_stay_below_180(tmp_path: Path):
    for text, expected in (("-1e-20", 0.0), ("180", 0.0), ("-540.5", 179.5), ("1234.5", 154.5)):
        pa = plain(tmp_path, "-60.3690", text).components[0].values["pa"].value
        assert 0 <= pa < 180
        assert pa == pytest.approx(expected)


def test_merge_conflicts_take_their_first_side(tmp_path: Path):
    conflict = "<<<<<<< HEAD\nA) mine.fits\n=======\nA) theirs.fits\n>>>>>>> 8d1460d... theirs"
    feedme = plain(tmp_path, "A) gal.fits", conflict)
    assert feedme.image == "mine.fits"
    assert "merge conflict" in feedme.notes[0]
    with pytest.raises(GalfitError, match="line 2: a merge conflict begins"):
        plain(tmp_path, "A) gal.fits", "<<<<<<< HEAD\nA) mine.fits")


def test_text_that_is_no_row_is_told(tmp_path: Path):
    feedme = plain(tmp_path, "O) regular", "O) regular\nSersic function\n=====")
    assert feedme.notes == (
        "line 14 is neither 'KEY) value' nor a comment, ignored: Sersic function",
    )


MULTIBAND = """
A) g.fits,r.fits,i.fits
A1) g,r,i
A2) 4770,6231,7625
C) none,none,none 0.000
D) psf_g.fits,psf_r.fits,psf_i.fits, kernel
H) 1 65 1 73
J) 30.0,29.0,28.0
 0) sky
 1) 3949.58,6654.2,2830.99    0,0,0  band
 0) sersic
 1) 32.01,32.01,32.01  1,0,0  band
 2) 35.93 1 band
 3) 20.51,-1.0,0.25    3   cheb
 4) 2.09,2.09,2.09   1  band
 5) 2.50  1   band
 9) 0.5850,0.5,0.5    0   band
10) -33.70,0,0    1   band
"""


def test_several_bands_are_listed(tmp_path: Path):
    """Values are the first band's; Chebyshev coefficients are summed at its wavelength."""
    feedme = read_feedme(written(tmp_path, MULTIBAND))
    assert feedme.bands == ("g", "r", "i")
    assert (feedme.image, feedme.psf, feedme.kernel, feedme.sigma, feedme.zeropoint) == (
        "g.fits",
        "psf_g.fits",
        "kernel",
        "",
        30.0,
    )
    sersic = feedme.sersics[0]
    assert sersic.values["mag"].value == pytest.approx(20.51 + 1.0 + 0.25)  # T1(-1), T2(-1)
    assert (sersic.values["x"].value, sersic.values["x"].fixed) == (pytest.approx(31.01), False)
    assert sersic.values["q"].fixed
    assert "values are of 'g'" in feedme.notes[0]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (" 9) 0.7570      1\n", "", r"line 16: component 'sersic' has no row 9\)"),
        ("3) 20.0890 ", "3) bright ", r"line 18: row 3\) is 'bright +1', expected a value"),
        ("48.5180  51.2800  1 0", "48.5", r"line 17: row 1\) is '48.5', expected x, y"),
        ("0) sersic", "0)", r"line 16: row 0\) is empty"),
        ("10) -60.3690", "11) 3 1\n10) -60.3690", r"line 22: unknown row 11\)"),
        ("H) 11    93   21    88", "H) 11 93 21", "line 9: .*expected xmin xmax ymin ymax"),
        ("H) 11    93   21    88", "H) 93 11 21 88", "line 9: .*expected xmin <= xmax"),
        ("J) 26.563", "J) AB", "line 11: .*expected a zero point"),
        ("E) 1", "E) one", "line 6: .*expected the fine sampling"),
        ("10) -60.3690    1", "10) -60 1\nF1) some", r"line 23: row F1\) is 'some'"),
        ("A) gal.fits", " 3) 20.0 1", r"line 2: row 3\) comes before any"),
    ],
)
def test_what_cannot_be_read_is_told_with_its_line(
    tmp_path: Path, old: str, new: str, message: str
):
    with pytest.raises(GalfitError, match=message) as info:
        plain(tmp_path, old, new)
    assert "galfit.feedme" in str(info.value)


def test_what_is_no_input_file(tmp_path: Path):
    with pytest.raises(GalfitError, match="has no component"):
        read_feedme(written(tmp_path, "A) gal.fits\n"))
    (tmp_path / "binary").write_bytes(b"SIMPLE\0\0")
    with pytest.raises(GalfitError, match="is not a text file"):
        read_feedme(tmp_path / "binary")
    with pytest.raises(FileNotFoundError):
        read_feedme(tmp_path / "absent")


def test_input_files_are_found_by_their_content(tmp_path: Path):
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / ".git").mkdir()
    one = written(tmp_path / "deep" / "er", PLAIN, "J1234")
    two = written(tmp_path, PLAIN, "a.feedme")
    head = "#  Chi^2/nu = 1.0,  Chi^2 = 8641.0,  Ndof = 8641\n"
    restart = written(tmp_path, head + PLAIN, "galfit.01")
    written(tmp_path / ".git", PLAIN)
    written(tmp_path, "A) is for apple\n", "notes.txt")
    written(tmp_path, PLAIN, "model.fits")
    assert find_feedmes(tmp_path) == [two, one]
    assert find_feedmes([restart, tmp_path / "deep"]) == [one, restart]
    with pytest.raises(FileNotFoundError, match="expected a feedme"):
        find_feedmes([tmp_path / "none"])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("3_2_1 x offset # hard", Constraint((2, 1, 0), "x", "offset", line=1)),
        ("\t1_5 re\tratio", Constraint((0, 4), "r_eff", "ratio", line=1)),
        ("3 n 0.7 to 5", Constraint((2,), "n", "between", 0.7, 5.0, 1)),
        ("2 x 10 to 20", Constraint((1,), "x", "between", 9.0, 19.0, 1)),
        ("2 y -1 0.5", Constraint((1,), "y", "around", -1.0, 0.5, 1)),
        ("2 y 0.5 -1", Constraint((1,), "y", "around", -1.0, 0.5, 1)),
        ("3-7 mag -0.5 3", Constraint((2, 6), "mag", "difference", -0.5, 3.0, 1)),
        ("3/5 rs 1 3", Constraint((2, 4), "r_eff", "quotient", 1.0, 3.0, 1)),
        ("1 re factor 4", Constraint((0,), "r_eff", "factor", 0.25, 4.0, 1)),
        ("1 10 -30 to 30", Constraint((0,), "pa", "between", -30.0, 30.0, 1)),
        ("1 f1a 0 to 1", Constraint((0,), "f1a", "between", 0.0, 1.0, 1)),
    ],
)
def test_constraints(tmp_path: Path, text: str, expected: Constraint):
    found = read_constraints(written(tmp_path, f"{text}\n# comment\n\n"))[0]
    assert found.word == text.split()[1].lower()
    for f in (f for f in fields(Constraint) if f.compare):
        ours, theirs = getattr(found, f.name), getattr(expected, f.name)
        assert ours == theirs or (math.isnan(ours) and math.isnan(theirs))
    assert found.is_tie == (expected.kind in ("offset", "ratio", "difference", "quotient"))


@pytest.mark.parametrize(
    "text", ["1 n", "one n 0 to 1", "1 n 0 to", "1 n low high", "0 n 0 1", "1 re factor -2"]
)
def test_constraints_that_are_none(tmp_path: Path, text: str):
    with pytest.raises(GalfitError, match="line 2"):
        read_constraints(written(tmp_path, f"# head\n{text}\n"))


def test_ranges_that_constraints_leave(tmp_path: Path):
    feedme = plain(tmp_path, "0) sersic", "0) expdisk")
    text = "1 x -1 2\n1 x 40 to 49\n1 rs 2 to 6\n1 mag factor 2\n1 pa -90 to -30\n1 q 0 to 1\n"
    path = written(tmp_path, text + "2 sky -1 1\n1 n 0.5 to 8\n1-2 x 0 1", "con")
    profile, sky = start_ranges(feedme, read_constraints(path))
    assert profile["x"] == pytest.approx((46.518, 48.0))
    assert profile["r_eff"] == pytest.approx((2 * 1.67834699, 6 * 1.67834699))
    assert profile["pa"] == pytest.approx((90, 150))  # the start is at 119.6
    assert profile["mag"] == pytest.approx((20.089 / 2, 20.089 * 2))
    assert sky["sky"] == pytest.approx((0.392, 2.392))
    with pytest.raises(GalfitError, match="line 1: names a component that does not exist"):
        start_ranges(feedme, read_constraints(written(tmp_path, "3 n 1 to 2", "con")))


@pytest.mark.parametrize("kind", ["sersic", "expdisk", "gaussian", "devauc"])
def test_what_is_written_is_read_again(tmp_path: Path, kind: str):
    """Equal to the last bit, files, toggles, region and all."""
    feedme = plain(tmp_path, "0) sersic", f"0) {kind}")
    again = read_feedme(write_feedme(feedme, tmp_path / "again.feedme"))
    for f in fields(Feedme):
        if f.name not in ("path", "notes", "chi2", "chi2nu"):
            assert getattr(again, f.name) == getattr(feedme, f.name), f.name
    text = (tmp_path / "again.feedme").read_text()
    assert " 1) 48.518 51.28 1 0" in text
    assert "10) -60.369 1" in text
    assert "H) 11 93 21 88" in text


def test_what_would_be_lost_is_not_written(tmp_path: Path):
    bent = plain(tmp_path, "10) -60.3690    1", "10) -60.3690    1\nTo) 3")
    with pytest.raises(ValueError, match="To, whose values"):
        write_feedme(bent, tmp_path / "out")
    spaced = plain(tmp_path, "A) gal.fits", "A) 'my gal.fits'")
    with pytest.raises(ValueError, match="white space"):
        write_feedme(spaced, tmp_path / "out")
    with pytest.raises(ValueError, match="3 bands"):
        write_feedme(read_feedme(written(tmp_path, MULTIBAND)), tmp_path / "out")
    broken = plain(tmp_path, "3) 20.0890 ", "3) nan ")
    with pytest.raises(ValueError, match="expected a finite number"):
        write_feedme(broken, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_every_input_file_of_the_data_is_read(shared_data: Path, tmp_path: Path):
    """98 files of the wild, and all that GALFIT could read is written so that it is the same."""
    real = shared_data / "real"
    files = find_feedmes(real)
    assert len(files) >= 98
    assert len(find_feedmes(real / "galfit3")) == 74
    versions = {2: 0, 3: 0}
    for path in files:
        feedme = read_feedme(path)
        versions[feedme.version] += 1
        if "fixtures" not in path.parts:
            assert feedme.sersics
            assert not feedme.notes
        if all(not c.extras for c in feedme.components) and not feedme.bands:
            again = read_feedme(write_feedme(feedme, tmp_path / "again"))
            for ours, theirs in zip(again.components, feedme.components, strict=True):
                assert ours.values == theirs.values
            assert again.region == feedme.region
    assert versions[2] == 5


def test_input_files_of_the_fixtures(shared_data: Path):
    fixtures = shared_data / "real" / "fixtures"
    every = read_feedme(fixtures / "feedme_galfit_input_example.txt")
    kinds = [c.kind for c in every.components]
    assert kinds[:11] == [
        "sersic",
        "nuker",
        "devauc",
        "expdisk",
        "edgedisk",
        "moffat",
        "ferrer",
        "gaussian",
        "king",
        "psf",
        "sky",
    ]
    assert every.components[10].extras == ()  # GALFIT ignores modes of a sky
    assert sum("of a sky ignored, as GALFIT does" in note for note in every.notes) > 10
    many = read_feedme(fixtures / "galfitm_feedme_multiband.txt")
    assert many.bands == tuple("rugizYJHK")
    assert (many.kernel, many.region) == ("kernel", (0, 65, 0, 73))
    assert [c.kind for c in many.components] == ["sky", "sersic"]
    assert many.sky is not None
    assert many.sky.values["sky"].value == 3949.58
    conflict = read_feedme(fixtures / "feedme_merge_conflict.txt")
    assert conflict.image == "ngs/NGC_4660-i_0.0036.fits"
    assert conflict.constraints == "ngs/constrain"
    assert conflict.convolution_box == (109, 109)
    assert any("merge conflict" in note for note in conflict.notes)
    old = read_feedme(fixtures / "galfit_v2_out.txt")
    assert (old.version, old.chi2, old.dof) == (2, 43535.355, 44717)
    assert old.components[0].values["q"].value == 0.3366
    slope = read_feedme(fixtures / "galfit_v3_sky_gradient.txt")
    assert slope.sky is not None
    assert slope.sky.values["sky_dx"].value == -2.989e-3
    assert not slope.sky.values["sky_dy"].fixed
    restart = read_feedme(fixtures / "galfitm_band_restart.txt")
    assert (restart.bands, restart.sersics[0].values["mag"].value) == (("g", "r", "i"), 28.669)


def test_constraints_of_the_data(shared_data: Path):
    real = shared_data / "real"
    found = read_constraints(real / "fixtures" / "constraints_galfit_example.txt")
    assert [(c.components, c.parameter, c.kind) for c in found] == [
        ((2, 1, 0, 8), "x", "offset"),
        ((0, 4, 2, 1), "r_eff", "ratio"),
        ((2,), "n", "between"),
        ((1,), "x", "around"),
        ((2, 6), "mag", "difference"),
        ((2, 4), "r_eff", "quotient"),
    ]
    files = sorted(real.glob("cases/*/constraints.txt"))
    assert len(files) == 6
    for path in files:
        feedme = read_feedme(path.parent / "feedme.txt")
        for part, ranges in zip(
            feedme.components, start_ranges(feedme, read_constraints(path)), strict=True
        ):
            for name, (low, high) in ranges.items():
                assert low <= part.values[name].value <= high
