"""GALFIT's Fourier modes, bending, boxiness and spiral arms: read, fitted, written."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from distorted_helpers import light_at, pixels_of, sersic_light
from render_helpers import errors, gaussian_psf, stamps
from test_galfit_profiles import AREA, SAVING, block_text, observed, part_of, space_of
from test_galfit_run import SKY, flags_of, rows_of, write

from hybridfit.data.flags import Flag
from hybridfit.fitting.options import FitOptions
from hybridfit.io.galfit import read_block, read_constraints, read_feedme, write_feedme
from hybridfit.io.galfit.native import parameters_of, profile_of
from hybridfit.model.profiles import find_profile
from hybridfit.pipeline.galfit.scenes import scene_of
from hybridfit.rendering.render import render

SIGMA = 1.4  # of the PSF, pixels
SERSIC = {"3": 17.0, "4": 6.0, "5": 1.5, "9": 0.6, "10": 30.0}
ARMS = "R0) power\nR1) 2. 1\nR2) 9. 1\nR3) {angle} 1\nR4) 0.5 1\nR9) 40 1\nR10) 20. 1\n"
# rows of the truth, and initial values near by
CASES = {
    "sersic": ("F1) 0.15 40 1 1\nF3) .05 10 1 1\n", "F1) 0.1 30 1 1\nF3) .03 15 1 1\n"),
    "expdisk": ("B2) 0.8 1\nC0) 0.3 1\n", "B2) 0.5 1\nC0) 0.1 1\n"),
    "moffat": ("F2) -0.1 70 1 1\n", "F2) -0.07 60 1 1\n"),
    "king": ("F1) 0.2 20 1 0\n", "F1) 0.1 20 1 0\n"),
    "gaussian": (ARMS.format(angle=120), ARMS.format(angle=110)),
}
OWN = {
    "sersic": SERSIC,
    "expdisk": {"3": 17.0, "4": 4.0, "9": 0.6, "10": -50.0},
    "moffat": {"3": 17.5, "4": 6.0, "5": 2.5, "9": 0.7, "10": 30.0},
    "king": {"3": 18.0, "4": 3.0, "5": 16.0, "6": 2.0, "9": 0.8, "10": -50.0},
    "gaussian": {"3": 17.0, "4": 16.0, "9": 0.4, "10": 20.0},
}


def text_of(kind: str, rows: str) -> str:
    return block_text(kind, OWN[kind]).replace(" Z) 0", f"{rows} Z) 0")


@pytest.mark.parametrize(
    "kind", [*list(CASES)[:-1], pytest.param("gaussian", marks=pytest.mark.slow)]
)
def test_distortions_are_fitted_and_written(tmp_path: Path, kind: str) -> None:
    """The truth within 5 errors; block and restart file have the values of the row."""
    true, start = (text_of(kind, rows) for rows in CASES[kind])
    cutouts, theta = observed(part_of(tmp_path, true))
    path = write(tmp_path / "a", cutouts, start + SKY.format(sky=1))
    row = rows_of([path], tmp_path / "out", run=SAVING)["a"]
    assert not flags_of(row) & Flag.NOT_MODELLED, row["notes"]
    names = [*parameters_of(part_of(tmp_path, true), AREA), "sky"]
    for name, value in zip(names, theta, strict=True):
        off = float(row[name]) - value
        turn = 360.0 / int(name[1:-6]) if name.endswith("_phase") else 180.0
        if name == "pa" or name.endswith("_phase"):
            off = (off + turn / 2) % turn - turn / 2
        assert abs(off) <= 5 * row[f"{name}_err"] + 1e-6, (name, row[name], value)
    found = read_block(tmp_path / "out" / "models" / "a_block.fits").components[0]
    assert found.kind == kind
    assert profile_of(found) == profile_of(part_of(tmp_path, true))
    again = parameters_of(found, AREA)
    for name in names[:-1]:
        off = again[name].value - float(row[name])
        off = off - 360.0 * round(off / 360.0) if name.endswith("_phase") else off
        if name.endswith("_phase"):
            turn = 360.0 / int(name[1:-6])
            off = (off + turn / 2) % turn - turn / 2
        assert abs(off) < 0.1 * row[f"{name}_err"] + 3e-4, name
    restart = tmp_path / "out" / "models" / "a.galfit.01"
    second = rows_of([restart], tmp_path / "again")["a.galfit.01"]
    assert second["chi2"] == pytest.approx(row["chi2"], abs=0.2)  # the fit's tolerance


@pytest.mark.parametrize("angle", [30.0, -60.0, 112.0, -112.0, 200.0, 390.0])
@pytest.mark.parametrize("rows", ["F1) 0.2 40 1 1\nF2) .1 10 1 1\n", "B1) 0.5 1\nB2) 0.8 1\n"])
def test_images_are_those_of_galfits_numbers(tmp_path: Path, rows: str, angle: float) -> None:
    """Whatever half turns the position angle has, the image is that of GALFIT's own terms."""
    text = text_of("sersic", rows).replace("10) 30.0", f"10) {angle}")
    part = part_of(tmp_path, text)
    theta = [v.value for v in parameters_of(part, AREA).values()]
    theta[0], theta[1], theta[2] = 31.3, 32.2, 0.0
    profiles = (find_profile(profile_of(part) or ""),)
    empty = stamps((64, 64), gaussian_psf(SIGMA))
    numbers = torch.tensor([[*theta, 0.0]]).double()
    image = render(numbers, empty, space_of(part), profiles, torch.float64)[0].numpy()
    values = {"x": 31.3, "y": 32.2, "r_eff": 6.0, "n": 1.5, "q": 0.6, "pa": angle}
    for name, amplitude, phase in re.findall(r"(\w\d)\) ([\d.]+) (\d+)", rows):
        if name[0] == "F":
            values |= {f"f{name[1]}_amp": float(amplitude)}
            values |= {f"f{name[1]}_phase": float(phase) + angle}  # the helper's are from +y
        else:
            values[name.lower()] = float(amplitude)
    light = light_at(values, lambda rho: sersic_light(rho, 1.5))
    assert max(errors(image, pixels_of(values, light, 64, SIGMA, wide=6))) < 1e-3


def test_bending_has_the_scale_of_the_profile(tmp_path: Path) -> None:
    """GALFIT divides by the scale length of a disk, or by the FWHM of a Gaussian or Moffat."""
    disk = part_of(tmp_path, text_of("expdisk", "B1) 1 1\nB2) 1 1\n"))
    ratio = 1.6783469900166605
    assert disk.values["b1"].value == pytest.approx(ratio)
    assert disk.values["b2"].value == pytest.approx(ratio**2)
    moffat = part_of(tmp_path, text_of("moffat", "B2) 1 1\n"))
    own = parameters_of(moffat, AREA)
    assert own["b2"].value == pytest.approx((own["r_eff"].value / 6.0) ** 2)


@pytest.mark.parametrize("kind", list(CASES))
def test_files_are_written_as_they_were_read(tmp_path: Path, kind: str) -> None:
    text = text_of(kind, CASES[kind][0]).replace("1 1\nF3", "0 1\nF3")
    path = tmp_path / "one.feedme"
    path.write_text("A) a.fits\nB) b.fits\nH) 1 52 1 52\nJ) 25\nK) 0.2 0.2\nP) 0\n" + text)
    feedme = read_feedme(path)
    again = read_feedme(write_feedme(feedme, tmp_path / "again"))
    for name, value in feedme.components[0].values.items():
        other = again.components[0].values[name]
        assert other.value == pytest.approx(value.value, abs=1e-9), name
        assert other.fixed == value.fixed, name
    written = (tmp_path / "again").read_text()
    if kind == "sersic":
        assert "F1) 0.15 40 0 1" in written
    if kind == "gaussian":
        assert "R0) power" in written
        assert "R3) 120 1" in written


@pytest.mark.parametrize(
    ("rows", "message"),
    [("F1) 0.1\n", "expected amplitude, phase"), ("B1) x 1\n", "expected a value and a toggle")],
)
def test_broken_rows_are_errors(tmp_path: Path, rows: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        part_of(tmp_path, text_of("sersic", rows))


def test_missing_numbers_are_galfits(tmp_path: Path) -> None:
    """One toggle is that of both; a free amplitude of 0 is 0.01; R rows have ordinary values."""
    part = part_of(tmp_path, text_of("sersic", "F1) 0.1 30 0\nF2) 0 0 1 1\nR0) log\nR3) 90 1\n"))
    assert part.values["f1_amp"].fixed
    assert part.values["f1_phase"].fixed
    assert part.values["f2_amp"].value == 0.01
    assert part.values["rot_angle"].value == 90
    assert part.values["rot_in"].fixed
    assert profile_of(part) == "sersic~f1~f2~log"


def test_constraints_of_distortions(tmp_path: Path) -> None:
    """Names of GALFIT's constraint files; ranges of phases are relative to the position angle."""
    rows = "F1) 0.15 40 1 1\nB2) 0.5 1\n" + ARMS.format(angle=120)
    limits = "1 f1a 0 to 0.1\n1 f1p 20 to 60\n1 b2 -1 1\n1 r3 100 to 130\n1 r2 5 to 12\n"
    (tmp_path / "limits").write_text(limits)
    names = [c.name("sersic") for c in read_constraints(tmp_path / "limits")]
    assert names == ["f1_amp", "f1_phase", "b2", "rot_angle", "rot_out"]
    path = tmp_path / "one.feedme"
    path.write_text(
        "A) a.fits\nB) b.fits\nG) limits\nH) 1 52 1 52\nJ) 25\nP) 0\n" + text_of("sersic", rows)
    )
    compiled = scene_of(read_feedme(path))
    assert not compiled.unexpressed
    own = compiled.scene.components[0].parameters
    assert (own["f1_amp"].bounds, own["f1_amp"].start) == ((0.0, 0.1), 0.1)
    assert own["f1_phase"].bounds == (50.0, 90.0)  # of a position angle of 30
    assert own["b2"].bounds == (-0.5, 1.5)
    assert own["rot_angle"].bounds == (100.0, 130.0)
    assert own["rot_out"].bounds == (5.0, 12.0)


@pytest.mark.slow
@pytest.mark.parametrize(
    "case",
    ["sdss_reg74691747", "sdss_reg96532233", "sdss_reg62577326", "sdss_reg90200859"],
)
def test_real_files_with_arms_run(tmp_path: Path, shared_data: Path, case: str) -> None:
    """The saved input files, with the names of files that are there; their PSFs are not.

    Three steps are enough to see that they run: parameters of arms need hundreds.
    """
    folder = shared_data / "real" / "cases" / case
    text = (folder / "feedme_final.txt").read_text()
    for row, name in {"A": folder / "image.fits", "D": "none", "F": folder / "mask.fits"}.items():
        text = re.sub(rf"^{row}\).*$", f"{row}) {name}", text, flags=re.MULTILINE)
    path = tmp_path / case / "galfit.feedme"
    path.parent.mkdir()
    path.write_text(text)
    few = FitOptions(compile="off", max_iter=3)
    row = rows_of([path], tmp_path / "out", few)[case]
    assert not flags_of(row) & (Flag.NOT_MODELLED | Flag.UNREADABLE), row["notes"]
    values = [float(row[n]) for n in ("comp3_f1_amp", "comp3_rot_angle", "comp3_mag", "sky")]
    assert np.isfinite(values).all()
    assert math.isfinite(row["chi2"])
