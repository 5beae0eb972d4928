"""What GALFIT found: blocks, logs, restart files, and that they say the same of one run."""

from __future__ import annotations

import csv
import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table

from hybridfit.io.galfit import (
    Component,
    GalfitError,
    Outcome,
    Value,
    model_header,
    read_block,
    read_log,
    read_outcomes,
    read_restart,
)

LOG = """
-----------------------------------------------------------------------------

Input image     : gal.fits[11:93,21:88] 
Init. par. file : galfit.feedme 
Restart file    : galfit.01 
Output image    : imgblock.fits 

 sersic    : (   46.53,   {48.27})   23.01      2.48    3.94    0.85   -70.80
             (    0.02,    {0.02})    0.02      0.08    0.26    0.02     4.75
 expdisk   : ( [46.53], [48.27])   23.01      2.00    *0.05*   -70.80
             ( [0.02],   [0.02])    0.02      0.10    *0.02*     4.75
 psf       : (   10.00,    11.00)   21.00
             (    0.01,     0.01)    0.02
 sky       : [ 47.00,  47.00]  7.85e-01  [0.00e+00]  1.00e-03
                                9.40e-02  [0.00e+00]  2.00e-04
 Chi^2 = 9470.05020,  ndof = 8641
 Chi^2/nu = 1.096 

-----------------------------------------------------------------------------
"""  # noqa: W291 - as GALFIT leaves them


def values(part: Component) -> dict[str, float]:
    return {name: value.value for name, value in part.values.items()}


def log_file(tmp_path: Path, text: str = LOG) -> Path:
    path = tmp_path / "fit.log"
    path.write_text(text)
    return path


def test_an_entry_of_a_log(tmp_path: Path):
    (entry,) = read_log(log_file(tmp_path))
    assert (entry.image, entry.feedme, entry.restart, entry.output) == (
        "gal.fits",
        "galfit.feedme",
        "galfit.01",
        "imgblock.fits",
    )
    assert entry.region == (10, 93, 20, 88)
    assert (entry.chi2, entry.dof, entry.chi2nu) == (9470.0502, 8641, 1.096)
    sersic, disk, star, sky = entry.components
    assert values(sersic) == {
        "x": 45.53,
        "y": 47.27,
        "mag": 23.01,
        "r_eff": 2.48,
        "n": 3.94,
        "q": 0.85,
        "pa": 109.2,
    }
    assert sersic.values["pa"].error == 4.75
    assert sersic.values["y"].coupled
    assert disk.values["x"].fixed
    assert math.isnan(disk.values["x"].error)
    assert disk.values["q"].suspect
    assert disk.values["r_eff"].value == pytest.approx(3.35669, abs=1e-5)
    assert disk.values["r_eff"].error == pytest.approx(0.167835, abs=1e-6)
    assert values(star) == {"x": 9.0, "y": 10.0, "mag": 21.0}
    assert sky.values["sky"] == Value(0.785, 0.094)
    assert sky.values["sky_dx"].fixed
    assert sky.values["sky_dy"] == Value(1e-3, 2e-4)


@pytest.mark.parametrize(
    ("old", "new", "name", "expected"),
    [
        ("23.01      2.48 ", "23.0110002.48 ", "r_eff", 10002.48),
        ("3.94    0.85   -70.80", "3.940.85-70.80", "pa", 109.2),
        ("3.94    0.85 ", "*3.94**0.85* ", "n", 3.94),
        (" 23.01      2.48 ", " nan  2.48 ", "mag", math.nan),
    ],
)
def test_columns_that_run_into_each_other(
    tmp_path: Path, old: str, new: str, name: str, expected: float
):
    """Numbers wider than their column leave no blank: two decimals end each."""
    (entry,) = read_log(log_file(tmp_path, LOG.replace(old, new, 1)))
    found = entry.components[0].values[name].value
    assert found == expected or (math.isnan(expected) and math.isnan(found))


def test_shape_terms_in_a_log_spoil_an_ellipse(tmp_path: Path):
    terms = "             (    0.02,    {0.02})    0.02      0.08    0.26    0.02     4.75\n"
    text = LOG.replace(
        terms,
        terms + "  fourier : (1:  0.05,  23.10)  (3: 0.10, 2.00)\n             (1: 0.01, 2.00)\n",
    )
    (entry,) = read_log(log_file(tmp_path, text))
    assert entry.components[0].extras == ("F1", "F3")
    assert entry.components[1].kind == "expdisk"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("23.01      2.48", "23.01 bright", "line 9: 'bright' is not a number"),
        ("3.94    0.85   -70.80", "3.94", "line 9: 'sersic' has 5 numbers, expected 7"),
        (" 0.26    0.02     4.75", " 0.26", "line 10: 5 errors of 'sersic', expected 7"),
        (" sersic    : (", " blob    : (", "line 9: 'blob' comes before any component"),
        (" sersic    : (", " sersic (", "line 9: .* expected 'type : numbers'"),
        ("Input image     :", "Some image :", "is not a fit.log"),
    ],
)
def test_logs_that_cannot_be_read(tmp_path: Path, old: str, new: str, message: str):
    with pytest.raises(GalfitError, match=message):
        read_log(log_file(tmp_path, LOG.replace(old, new, 1)))


OUTCOME = Outcome(
    path=Path("imgblock.fits"),
    feedme="galfit.feedme",
    image="gal.fits",
    restart="galfit.01",
    output="imgblock.fits",
    psf="psf.fits",
    region=(10, 93, 20, 88),
    zeropoint=26.5,
    components=(
        Component(
            "sersic",
            {
                "x": Value(45.5274, 0.0219),
                "y": Value(47.2557, 0.0217, coupled=True),
                "mag": Value(22.9759, 0.0229),
                "r_eff": Value(2.6271, 0.1135, suspect=True),
                "n": Value(4.0, fixed=True),
                "q": Value(0.8588, 0.0242),
                "pa": Value(108.2902, 5.953),
            },
        ),
        Component(
            "sky",
            {
                "sky": Value(0.7297, 0.1042),
                "sky_dx": Value(0.0, fixed=True),
                "sky_dy": Value(-1.5e-3, 2e-4),
            },
        ),
    ),
    chi2=12695.0530357333,
    dof=8641,
    chi2nu=1.469165,
    n_free=8,
    flags=("A-6", "2"),
    version="3",
)


def block_file(path: Path, header: fits.Header, table: bool = False) -> Path:
    shape = np.zeros((4, 4), np.float32)
    hdus = [fits.PrimaryHDU(), *(fits.ImageHDU(shape) for _ in range(3))]
    hdus[2].header.update(header)
    if table:
        hdus.append(fits.table_to_hdu(Table({"mag": [1.0]})))
    fits.HDUList(hdus).writeto(path)
    return path


@pytest.mark.parametrize("table", [False, True])
def test_a_block_is_read_as_it_was_written(tmp_path: Path, table: bool):
    """Held, coupled and suspect values too; tables that users add behind do no harm."""
    path = block_file(tmp_path / "imgblock.fits", model_header(OUTCOME), table)
    assert read_block(path) == replace(OUTCOME, path=path)


@pytest.mark.parametrize("kind", ["expdisk", "gaussian", "devauc", "psf"])
def test_other_types_in_a_block(tmp_path: Path, kind: str):
    index = {"expdisk": 1.0, "gaussian": 0.5, "devauc": 4.0}.get(kind)
    part = OUTCOME.components[0]
    own = {**part.values, "n": Value(index, fixed=True)} if index else part.values
    if kind == "psf":
        own = {name: own[name] for name in ("x", "y", "mag")}
    written = replace(OUTCOME, components=(replace(part, kind=kind, values=own),))
    found = read_block(block_file(tmp_path / "b.fits", model_header(written))).components[0]
    assert found.kind == kind
    for name, value in own.items():
        # the scale length has four decimals, the radius is 1.68 times that
        assert found.values[name].value == pytest.approx(value.value, abs=1e-4)
        assert found.values[name].fixed == value.fixed
        assert found.values[name].suspect == value.suspect


def test_blocks_of_version_2_that_contradict_themselves(tmp_path: Path):
    """A component with another's values, or the sky's position, is doubted, and mended if told."""
    header = fits.Header()
    for k in (1, 3):
        header[f"COMP_{k}"] = "sersic"
        for key, text in (
            ("XCENT", "38.2959 +/- 0.0225"),
            ("YCENT", "103.0765 +/- 0.0447"),
            ("MAG", "17.8775 +/- 0.0052"),
            ("RE", "13.9619 +/- 0.1104"),
            ("N", "0.9990 +/- 0.0140"),
            ("AR", "0.2279 +/- 0.0015"),
            ("PA", "-26.7027 +/- 0.1254"),
            ("C", "0.0000 +/- 0.0000"),
        ):
            header[f"{k}_{key}"] = text
    header["CHISQ"], header["NDOF"] = 24233.0534800046, 23364
    header["1_SKY"] = "2.8611 +/- 0.0007"  # repeated behind the end
    path = block_file(tmp_path / "O_1.fits", header)
    found = read_block(path)
    assert "same values" in found.notes[0]
    assert math.isnan(found.components[0].values["mag"].value)
    assert found.components[1].values["mag"].value == 17.8775
    restart = (
        "#  Chi^2/nu = 1.037,  Chi^2 = 24233.053,  Ndof = 23364\nA) a.fits\nB) O_1.fits\n"
        " 0) sersic\n 1) 62.0230 99.0481 1 1\n 3) 18.8968 1\n 4) 8.1343 1\n 5) 1.8630 1\n"
        " 8) 0.2465 1\n 9) -89.5856 1\n10) 0.0 0\n"
        " 0) sersic\n 1) 38.2959 103.0765 1 1\n 3) 17.8775 1\n 4) 13.9619 1\n 5) 0.9990 1\n"
        " 8) 0.2279 1\n 9) -26.7027 1\n10) 0.0 0\n"
    )
    (tmp_path / "galfit.01").write_text(restart)
    (mended,) = read_outcomes(tmp_path)
    assert mended.path == path
    assert values(mended.components[0])["mag"] == 18.8968
    assert mended.components[1].values["mag"] == Value(17.8775, 0.0052)
    assert "galfit.01" in mended.notes[1]


def test_blocks_that_cannot_be_read(tmp_path: Path):
    header = model_header(OUTCOME)
    header["1_MAG"] = "bright +/- 0.1"
    with pytest.raises(GalfitError, match="1_MAG is 'bright"):
        read_block(block_file(tmp_path / "a.fits", header))
    with pytest.raises(GalfitError, match="is not an image block"):
        read_block(block_file(tmp_path / "b.fits", fits.Header()))
    (tmp_path / "c.fits").write_text("not FITS")
    with pytest.raises(GalfitError, match="cannot be read as FITS"):
        read_block(tmp_path / "c.fits")
    with pytest.raises(FileNotFoundError):
        read_block(tmp_path / "d.fits")


MENU = """
A) gal.fits
B) imgblock.fits
H) 11 93 21 88
J) 26.5
 0) sersic
 1) 46.5274 48.2557 1 1
 3) 23.0112 1
 4) 2.4795 1
 5) 3.9379 1
 9) 0.8523 1
10) -70.7975 1
 0) expdisk
 1) 46.53 48.27 0 0
 3) 23.0112 1
 4) 2.0 1
 9) 0.05 1
10) -70.7975 1
 0) psf
 1) 10 11 1 1
 3) 21 1
 0) sky
 1) 0.7854 1
 2) 0.0 0
 3) 0.001 1
"""
HEAD = "#  Input menu file: galfit.feedme\n\n#  Chi^2/nu = 1.096,  Chi^2 = 9470.050,  Ndof = 8641\n"


def test_each_run_counts_once(tmp_path: Path):
    """Block, restart file and log entry of one run are one outcome, the most exact of them."""
    log_file(tmp_path)
    (tmp_path / "galfit.feedme").write_text(MENU)
    (entry,) = read_outcomes(tmp_path)
    assert entry.path.name == "fit.log"
    (tmp_path / "galfit.01").write_text(HEAD + MENU)
    (restart,) = read_outcomes(tmp_path)
    assert restart.path.name == "galfit.01"
    assert restart.feedme == "galfit.feedme"
    assert restart.zeropoint == 26.5
    found = restart.components[0].values["mag"]
    assert (found.value, found.error) == (23.0112, 0.02)  # values of the one, errors of the other
    header = model_header(replace(OUTCOME, chi2=9470.05021, dof=8641))
    block = block_file(tmp_path / "imgblock.fits", header)
    (run,) = read_outcomes(tmp_path)
    assert run.path == block
    assert read_outcomes(str(tmp_path / "*.log"))[0].path.name == "fit.log"
    assert len(read_outcomes([tmp_path, block])) == 1


def test_the_last_run_into_an_output_counts(tmp_path: Path):
    """A run started from a restart file is a later run of the same galaxy."""
    second = LOG.replace("galfit.01", "galfit.02").replace("galfit.feedme", "galfit.01")
    other = LOG.replace("imgblock.fits", "other.fits").replace("galfit.01", "galfit.03")
    text = LOG + second.replace("9470.05020", "9460.0") + other
    first, last = read_outcomes(log_file(tmp_path, text))
    assert (first.restart, first.chi2) == ("galfit.02", 9460.0)
    assert last.output == "other.fits"
    assert len(read_log(tmp_path / "fit.log")) == 3


def test_what_is_broken_in_a_directory_is_told(tmp_path: Path):
    log_file(tmp_path, LOG.replace("23.01      2.48", "23.01 bright"))
    (told,) = read_outcomes(tmp_path)
    assert not told.components
    assert "line 9" in told.notes[0]
    with pytest.raises(GalfitError):
        read_outcomes(tmp_path / "fit.log")
    (tmp_path / "readme.txt").write_text("nothing of GALFIT's")
    assert len(read_outcomes(tmp_path)) == 1
    with pytest.raises(GalfitError, match="is not GALFIT output"):
        read_outcomes(tmp_path / "readme.txt")
    with pytest.raises(FileNotFoundError):
        read_outcomes(tmp_path / "none*")


def test_every_run_of_galfit3_says_the_same_in_each_file(shared_data: Path):
    """Block, restart file, fit.log and galfit3.csv agree to the digits that each of them has."""
    root = shared_data / "real" / "galfit3"
    runs = read_outcomes(root)
    assert len(runs) == 74
    with open(root / "galfit3.csv", newline="") as file:
        table = list(csv.DictReader(file))
    for run in runs:
        folder = run.path.parent
        assert run.path.name == "imgblock.fits.gz"
        assert not run.notes
        rows = [r for r in table if r["id"] == folder.parent.name and r["mode"] == folder.name]
        restart, entry = read_restart(folder / "galfit.01"), read_log(folder / "fit.log")[-1]
        assert len(rows) == len(run.sersics)
        assert restart.region == entry.region == run.region
        assert restart.dof == entry.dof == run.dof == int(rows[0]["ndof"])
        assert restart.chi2 == pytest.approx(run.chi2, abs=6e-4, rel=2e-7)  # a float there
        assert entry.chi2 == pytest.approx(run.chi2, abs=6e-6)
        assert float(rows[0]["chi2"]) == pytest.approx(run.chi2, rel=1e-6)
        assert set(run.flags) == {f for f in rows[0]["flags"].split() if "*" not in f}
        for mine, theirs, logged in zip(
            run.components, restart.components, entry.components, strict=True
        ):
            assert mine.kind == theirs.kind == logged.kind
            for name, value in mine.values.items():
                # four decimals in block and restart, two in the log, an exponent's three digits
                # for a sky; sizes of discs are scaled by 1.68
                near = 6e-5 + 6e-4 * abs(value.value) * name.startswith("sky")
                rough = 9e-3 + 6e-3 * abs(value.value) * name.startswith("sky")
                assert turned(theirs.values[name].value - value.value, name) <= 2 * near
                assert turned(logged.values[name].value - value.value, name) <= rough
                assert logged.values[name].fixed == value.fixed == theirs.values[name].fixed
                assert logged.values[name].suspect == value.suspect
                if not value.fixed and value.error < 1e4:
                    assert logged.values[name].error == pytest.approx(value.error, abs=9e-3)
        for row, part in zip(rows, run.sersics, strict=True):
            check_row(row, part, run)


def turned(difference: float, name: str) -> float:
    return abs((difference + 90) % 180 - 90) if name == "pa" else abs(difference)


def check_row(row: dict[str, str], part: Component, run: Outcome) -> None:
    """A row of galfit3.csv: pixels from 1, six digits, zero point and unit of the reference."""
    assert row["type"] == part.kind
    names = {"x": "x", "y": "y", "mag": "mag", "r_eff": "re_pix", "n": "n", "q": "q"}
    shift = {"x": 1.0, "y": 1.0}
    for name, column in names.items():
        if row[column] and not (name == "n" and part.kind == "expdisk"):
            found = part.values[name].value + shift.get(name, 0.0)
            # the table's scale lengths are times 1.678, ours times 1.67835
            near = 3e-4 if (name, part.kind) == ("r_eff", "expdisk") else 1e-5
            assert found == pytest.approx(float(row[column]), rel=near, abs=1e-4)
            if row[f"{column}_err"] and not part.values[name].fixed:
                error = float(row[f"{column}_err"])
                assert part.values[name].error == pytest.approx(error, rel=1e-3, abs=1e-4)
    assert turned(part.values["pa"].value - float(row["pa_deg"]), "pa") <= 1e-3
    starred = {flag.strip("*") for flag in row["flags"].split() if "*" in flag}
    assert {names.get(n, n) for n, v in part.values.items() if v.suspect} == starred
    assert run.sky is not None
    scale = float(row["image_scale"])
    # the sky in units of the image as given: three digits behind the exponent
    assert run.sky.values["sky"].value / scale == pytest.approx(float(row["sky"]), rel=1e-3)


def test_fixtures_of_results(shared_data: Path):
    fixtures = shared_data / "real" / "fixtures"
    entries = read_log(fixtures / "fitlog_ngc777_diverged_v3.txt")
    assert len(entries) == 8
    lost = entries[1].components[0]
    assert values(lost)["n"] == 0.23
    assert lost.values["x"].suspect
    assert lost.values["q"].suspect
    assert not lost.values["n"].suspect
    assert lost.values["x"].error == 641872728948736.0
    assert entries[2].components[0].values["x"].error > 1e18
    assert entries[1].region == (90, 167, 266, 301)
    old = read_log(fixtures / "fitlog_pymorph_v2.txt")
    assert [e.version for e in old] == ["2"] * len(old)
    assert values(old[0].components[0])["n"] == 1.6529
    assert old[0].components[1].values["sky_dx"].fixed
    assert [c.kind for c in old[2].components] == ["sersic", "sky", "sersic"]
    (bands,) = read_log(fixtures / "galfitm_fitlog_diverged.txt")
    assert bands.bands == ("g", "r", "i")
    assert values(bands.sersics[0])["mag"] == 28.67
    assert bands.sersics[0].values["x"].suspect
    assert bands.chi2nu == 671.93
    many = read_block(fixtures / "header_alma_psf_gauss_many.txt")
    assert len(many.components) == 37
    assert {c.kind for c in many.components} == {"psf", "gaussian", "sersic", "sky"} & {
        c.kind for c in many.components
    }
    assert many.components[4].values["r_eff"].value == 0.5  # FWHM 1
    assert many.components[0].values["x"].fixed
    assert many.zeropoint == 0
    host = read_block(fixtures / "imgblock_frb121102_header.fits")
    assert (host.psf, host.n_free) == ("psffile.fits", 15)
    assert host.sky is not None
    assert host.sky.values["sky"] == Value(-3.808e-3, 2.046e-4)
    tables = read_block(fixtures / "galfitm_block_tables_only.fits")
    assert tables.version == "galfitm-1.4.4"
    assert tables.bands == ("g", "r", "i")
    assert [c.kind for c in tables.components] == ["sky", "sersic"]
    assert values(tables.sersics[0])["n"] == pytest.approx(4.936705)
    assert tables.flags[-3:] == ("2", "2", "2")
    # one run in two files: table and log say the same
    assert tables.restart == bands.restart
    assert tables.chi2 == pytest.approx(bands.chi2, rel=1e-6)


def test_blocks_of_the_cases(shared_data: Path):
    """PyMorph's of GALFIT 2 come back with what the restart file says; each case is read once."""
    cases = shared_data / "real" / "cases"
    found = {o.path.parent.name: o for o in read_outcomes(cases) if "stage1" not in o.path.name}
    assert len(found) == 25
    galaxy = found["sdss_pym18"]
    first, _, neighbour = galaxy.components
    assert values(first)["mag"] == 18.8968
    assert (values(first)["x"], values(neighbour)["x"]) == (61.023, 37.2959)
    one = found["sdss_pym01"].components[0]
    assert one.kind == "sersic"
    assert (one.values["x"].value, one.values["mag"].error) == (107.6404, 0.0138)
    alone = read_block(cases / "sdss_pym01" / "block.fits")
    assert math.isnan(alone.components[0].values["x"].value)
    spiral = found["sdss_reg62577326"].components[2]
    assert spiral.extras == ()
    # phases are from +y: GALFIT's -25.1831 and 27.8313 plus an angle of -112.1895
    assert values(spiral)["f1_phase"] == pytest.approx(-137.3726, abs=1e-4)
    assert values(spiral)["f3_phase"] == pytest.approx(27.8313 - 112.1895 + 120, abs=1e-4)
    assert (values(spiral)["rot_angle"], values(spiral)["rot_power"]) == (-1638.316, -2.3107)
    assert not spiral.is_sersic


def test_a_run_that_was_moved_still_matches_its_log(tmp_path: Path, shared_data: Path):
    """GALFIT writes fit.log where it was started, the block where row B says."""
    source = shared_data / "real" / "galfit3" / "sdss_pym01" / "single"
    (tmp_path / "out").mkdir()
    shutil.copy(source / "imgblock.fits.gz", tmp_path / "out" / "imgblock.fits.gz")
    text = (source / "fit.log").read_text()
    (tmp_path / "fit.log").write_text(text.replace(": imgblock.fits", ": out/imgblock.fits.gz"))
    (run,) = read_outcomes(tmp_path)
    assert run.path.name == "imgblock.fits.gz"
