"""`hybridfit fit --galfit`: input files as their users have them, run in batches."""

from __future__ import annotations

import csv
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from astropy.io import fits
from astropy.table import Table
from click.testing import CliRunner
from fit_helpers import observe

import hybridfit as hf
from hybridfit.cli.app import make_app
from hybridfit.data.cutouts import Cutouts
from hybridfit.data.errors import UsageError
from hybridfit.data.flags import Flag
from hybridfit.fitting.options import FitOptions
from hybridfit.io.galfit import read_block
from hybridfit.model.parameters import ParameterSpace
from hybridfit.model.profiles import Sersic
from hybridfit.pipeline.config import galfit_config
from hybridfit.pipeline.galfit.run import fit_feedmes
from hybridfit.pipeline.galfit.tasks import find_tasks, read_task
from hybridfit.pipeline.options import RunOptions
from hybridfit.pipeline.plot import plot_run

EAGER = FitOptions(compile="off")
QUICK = RunOptions(uncertainty="covariance", initial_values="moments")
CONTROL = """
A) {image}      # Input data image
B) imgblock.fits
C) sigma.fits
D) psf.fits  #  # Input PSF image and (optional) diffusion kernel
E) 1
F) {mask}
G) {constraints}
H) {region}
I) 100 100
J) 25.0
K) 0.2 0.2
O) regular
P) {mode}
"""
ONE = [24.3, 22.8, 20.0, 4.0, 2.2, 0.6, 40.0]
TWO = [33.5, 30.1, 20.5, 3.0, 1.0, 0.7, 110.0]
SKY = "\n 0) sky\n 1) 0.1 {sky}\n 2) 0.0 0\n 3) 0.0 0\n Z) 0\n"


def sersic(values, toggles="1111111", kind="sersic", extra=""):
    """A component in GALFIT's words: pixels from 1, scale length of a disc."""
    x, y, mag, r_eff, n, q, pa = values
    t = toggles
    size = r_eff / 1.6783469900166605 if kind == "expdisk" else r_eff
    index = f" 5) {n} {t[4]}\n" if kind == "sersic" else ""
    return (
        f"\n 0) {kind}\n 1) {x + 1} {y + 1} {t[0]} {t[1]}\n 3) {mag} {t[2]}\n 4) {size} {t[3]}\n"
        f"{index} 9) {q} {t[5]}\n10) {pa} {t[6]}\n{extra} Z) 0\n"
    )


def write(
    folder: Path,
    cutouts: Cutouts,
    model: str,
    name: str = "galfit.feedme",
    constraints: str = "",
    **more,
) -> Path:
    """A folder as GALFIT's users have them; returns its input file."""
    folder.mkdir(parents=True, exist_ok=True)
    header = fits.Header({"EXPTIME": more.pop("exptime", 1.0)})
    height, width = cutouts.image.shape[1:]
    for what, plane in (("image", cutouts.image[0]), ("sigma", cutouts.sigma[0])):
        fits.writeto(folder / f"{what}.fits", plane.numpy(), header, overwrite=True)
    fits.writeto(folder / "psf.fits", cutouts.psf[0].numpy(), overwrite=True)
    fields = {
        "image": "image.fits",
        "mask": "none",
        "constraints": "none",
        "region": f"1 {width} 1 {height}",
        "mode": "0",
    }
    if constraints:
        (folder / "limits").write_text(constraints)
        fields["constraints"] = "limits"
    path = folder / name
    path.write_text(CONTROL.format(**(fields | more)) + model)
    return path


def galaxy(*components, snr=120.0, seed=0, shape=(52, 56)):
    """Cutouts of one scene with a level sky, and its truth."""
    space = ParameterSpace.of_shapes((("n",),) * len(components), "constant")
    theta = np.array([[v for part in components for v in part] + [0.15]])
    return observe(theta, snr, shape, seed, space=space, profiles=(Sersic(),) * len(components))


def rows_of(paths, out, options=EAGER, run=QUICK):
    fit_feedmes([str(path) for path in paths], out, fit=options, run=run)
    table = Table.read(out / "results.fits")
    return {str(row["id"]): row for row in table}


def flags_of(row) -> Flag:
    return Flag(int(row["flags"]))


def test_one_galaxy_is_fitted_as_any_other(tmp_path):
    """The same pixels and start through a feedme and through arrays: the same numbers."""
    cutouts, truth = galaxy(ONE)
    start = [ONE[0] + 0.5, ONE[1] - 0.4, 20.5, 5.0, 1.5, 0.8, 60.0]
    path = write(tmp_path / "gal7", cutouts, sersic(start) + SKY.format(sky=1))
    row = rows_of([path], tmp_path / "out")["gal7"]
    own = Cutouts(
        image=cutouts.image,
        sigma=cutouts.sigma,
        psf=cutouts.psf,
        zeropoint=25.0,
        start=torch.tensor([start]),
    )
    plain = hf.fit(own, fit=EAGER, uncertainty="covariance", initial_values="moments")[0]
    for name in ("x", "y", "mag", "r_eff", "n", "q", "pa", "sky", "chi2"):
        # padded to another shape, whose sums round in another order
        assert float(row[name]) == pytest.approx(float(plain[name]), abs=2e-3), name
    pull = [
        (row[n] - t) / row[f"{n}_err"]
        for n, t in zip(ParameterSpace().names, truth[0], strict=True)
    ]
    assert np.abs(pull).max() < 4
    assert row["dof"] == 52 * 56 - 8
    assert str(row["fixed"]) == "sky_dx,sky_dy"
    assert str(row["feedme"]).endswith("gal7/galfit.feedme")


def test_region_mask_and_exposure(tmp_path):
    """A part of the image, pixels left out, and flux = EXPTIME 10^(-.4 (mag - zp))."""
    cutouts, truth = galaxy(ONE)
    image = cutouts.image.clone()
    image[0, 40:44, 10:20] += 500.0
    (tmp_path / "a").mkdir()
    listed = [f"{x + 1} {y + 1}" for x in range(10, 20) for y in range(40, 44)]
    (tmp_path / "a" / "bad.txt").write_text("\n".join(listed))
    spoiled = Cutouts(image=image, sigma=cutouts.sigma, psf=cutouts.psf)
    path = write(
        tmp_path / "a",
        spoiled,
        sersic(ONE) + SKY.format(sky=1),
        mask="bad.txt",
        region="6 50 4 49",
        exptime=100.0,
    )
    row = rows_of([path], tmp_path / "out")["a"]
    expected = truth[0].copy()
    expected[2] += 5.0  # 100 s: 2.5 lg 100
    pull = [
        (row[n] - t) / row[f"{n}_err"]
        for n, t in zip(ParameterSpace().names, expected, strict=True)
    ]
    assert np.abs(pull).max() < 4
    assert row["dof"] == 45 * 46 - 40 - 8


def test_several_components_and_held_values(tmp_path):
    """A disc beside a galaxy, in one run with a lone galaxy: names of components, errors of 0."""
    cutouts, truth = galaxy(ONE, TWO, snr=200.0)
    alone, _ = galaxy(ONE)
    two = sersic(ONE, "0111110") + sersic(TWO, kind="expdisk") + SKY.format(sky=0)
    paths = [
        write(tmp_path / "in", cutouts, two, "pair.feedme"),
        write(tmp_path / "other", alone, sersic(ONE) + SKY.format(sky=1), "alone.feedme"),
    ]
    options = RunOptions(uncertainty="covariance", initial_values="moments", save_models=True)
    rows = rows_of([tmp_path / "in", paths[1]], tmp_path / "out", run=options)
    pair, lone = rows["pair"], rows["alone"]
    names = [f"comp{k}_{name}" for k in (1, 2) for name in ParameterSpace().names[:7]] + ["sky"]
    fixed = {"comp1_x", "comp1_pa", "comp2_n", "sky", "sky_dx", "sky_dy"}
    assert set(str(pair["fixed"]).split(",")) == fixed
    for name, value in zip(names, truth[0], strict=True):
        if name in fixed:
            assert pair[f"{name}_err"] == 0.0
        else:  # the sky is fixed .05 off
            assert abs(pair[name] - value) < 6 * pair[f"{name}_err"], name
    assert (pair["comp1_x"], pair["comp1_pa"], pair["comp2_n"], pair["sky"]) == (
        ONE[0],
        40.0,
        1.0,
        0.1,
    )
    assert pair["dof"] == 52 * 56 - 11
    assert lone["comp1_x"] == pytest.approx(ONE[0], abs=0.2)
    assert math.isnan(lone["comp2_x"])
    assert math.isnan(lone["comp2_r_eff_arcsec_err"])
    assert (lone["sky_dx"], lone["sky_dx_err"]) == (0.0, 0.0)
    assert pair["comp2_r_eff_arcsec"] == pytest.approx(0.2 * pair["comp2_r_eff"])
    block = tmp_path / "out" / "models" / "pair_block.fits"
    with fits.open(block) as hdus:
        residual = hdus[3].data
    assert float((residual**2).sum()) == pytest.approx(float(pair["chi2"]), rel=1e-3)
    found = read_block(block)
    assert [part.kind for part in found.components] == ["sersic", "expdisk", "sky"]
    assert found.feedme == "pair.feedme"
    # the restart file ends where it starts
    restart = tmp_path / "out" / "models" / "pair.galfit.01"
    again = rows_of([restart], tmp_path / "again")["pair.galfit.01"]
    for name in names:
        # blocks have four decimals, or two digits of an error
        assert again[name] == pytest.approx(pair[name], abs=0.1 * pair[f"{name}_err"] + 6e-5), name


@pytest.mark.parametrize(
    ("lines", "check"),
    [
        ("1 n 0.5 to 1.5", lambda row: 1.4 < row["n"] <= 1.5),
        ("1 n 0.5 to 8", lambda row: row["n_err"] > 0 and not flags_of(row) & Flag.AT_LIMIT),
        ("1 x -0.2 0.2", lambda row: 0.8 <= row["x"] - ONE[0] < 0.83),
        ("1 re 1 to 3\n1 mag 0 to 40", lambda row: 2.9 < row["r_eff"] <= 3.0),
    ],
)
def test_ranges_are_kept(tmp_path, lines, check):
    cutouts, _ = galaxy(ONE)
    start = [ONE[0] + 1.0, *ONE[1:]]
    model = sersic(start) + SKY.format(sky=1)
    path = write(tmp_path / "a", cutouts, model, constraints=lines)
    row = rows_of([path], tmp_path / "out")["a"]
    assert check(row)
    assert bool(flags_of(row) & Flag.AT_LIMIT) == (lines != "1 n 0.5 to 8")


def test_positions_move_together(tmp_path):
    """`1_2 x offset`: one coordinate less, equal errors, the distance kept."""
    cutouts, _ = galaxy(ONE, TWO, snr=200.0)
    two = [TWO[0] + 0.3, *TWO[1:]]
    model = sersic(ONE) + sersic(two) + SKY.format(sky=1)
    free = write(tmp_path / "free", cutouts, model)
    tied = write(tmp_path / "tied", cutouts, model, constraints="1_2 x offset\n1_2 y offset\n")
    kept = write(tmp_path / "kept", cutouts, model, constraints="1-2 mag -3 3\n")
    lost = write(tmp_path / "lost", cutouts, model, constraints="1_2 re ratio\n1/2 re 3 9")
    # the second would draw the first away, whose place is fixed, or bounded
    both = "1_2 x offset\n1 x -0.01 0.01\n"
    bound = write(tmp_path / "bound", cutouts, model, constraints=both)
    pinned = sersic(ONE, "0111111") + sersic(two) + SKY.format(sky=1)
    stuck = write(tmp_path / "stuck", cutouts, pinned, constraints="1_2 x offset\n")
    rows = rows_of([free, tied, kept, lost, bound, stuck], tmp_path / "out")
    for name, first in (("bound", ONE[0] - 0.01), ("stuck", ONE[0])):
        row = rows[name]
        assert row["comp1_x"] == pytest.approx(first, abs=0.004)
        assert row["comp2_x"] - row["comp1_x"] == pytest.approx(two[0] - ONE[0], abs=1e-6)
        assert row["comp1_x_err"] == pytest.approx(row["comp2_x_err"], abs=1e-9)
        assert row["dof"] == rows["free"]["dof"] + (1 if name == "bound" else 2)
    row = rows["tied"]
    assert row["comp2_x"] - row["comp1_x"] == pytest.approx(two[0] - ONE[0], abs=1e-9)
    assert row["comp2_y"] - row["comp1_y"] == pytest.approx(two[1] - ONE[1], abs=1e-9)
    assert row["comp1_x_err"] == pytest.approx(row["comp2_x_err"])
    assert 0 < row["comp1_x_err"] < rows["free"]["comp1_x_err"]
    assert row["dof"] == rows["free"]["dof"] + 2
    assert row["chi2"] > rows["free"]["chi2"] + 1
    assert not flags_of(rows["kept"]) & Flag.NOT_MODELLED
    row = rows["lost"]  # the ratio is kept, and so another one is not
    assert row["comp2_r_eff"] / row["comp1_r_eff"] == pytest.approx(TWO[3] / ONE[3], abs=1e-9)
    assert flags_of(row) & Flag.NOT_MODELLED
    assert row["quality"] == "suspect"
    assert "1/2 r_eff 3 9 (is" in str(row["notes"])


def test_what_cannot_be_fitted_is_a_flagged_row(tmp_path):
    cutouts, _ = galaxy(ONE)
    sky = SKY.format(sky=1)
    edge = "\n 0) edgedisk\n 1) 20 20 1 1\n 3) 20 1\n 4) 2 1\n 5) 5 1\n10) 0 1\nF1) .1 3 1 1\n"
    place = f" 1) {ONE[0] + 1} {ONE[1] + 1} 1 1\n 3) 20 1\n"
    other = f"\n 0) cusp\n{place} 4) 4 1\n 5) 1 1\n 6) 1 1\n 7) 1 1\n 9) 1 1\n10) 0 1\n"
    files = {
        "good": (sersic(ONE) + sky, {}, Flag(0), ""),
        "other": (sersic(ONE) + other + sky, {}, Flag.NOT_MODELLED, "component 2 is 'cusp'"),
        "spiral": (sersic(ONE, extra="R0) sqrt\n") + sky, {}, Flag.NOT_MODELLED, "neither power"),
        "modes": (edge + sky, {}, Flag.NOT_MODELLED, "distorted isophotes"),
        "empty": (sky, {}, Flag.NOT_MODELLED, "nothing to fit"),
        "mode": (sersic(ONE) + sky, {"mode": "1"}, Flag.UNREADABLE, "row P) is 1"),
        "gone": (sersic(ONE) + sky, {"image": "no.fits"}, Flag.UNREADABLE, "no.fits"),
        "bands": (sersic(ONE) + sky, {"image": "a.fits,b.fits"}, Flag.NOT_MODELLED, "2 bands"),
        "typo": (sersic(ONE).replace(" 4)", " 4) x") + sky, {}, Flag.UNREADABLE, "line"),
        "limit": (sersic(ONE) + sky, {"constraints": "1 n up"}, Flag.UNREADABLE, "line 1"),
    }
    paths = [
        write(tmp_path / name, cutouts, model, **more)
        for name, (model, more, _, _) in files.items()
    ]
    rows = rows_of(paths, tmp_path / "out")
    for name, (_, _, flag, text) in files.items():
        row = rows[name]
        assert not flag or flags_of(row) & flag, name
        assert text in str(row["notes"]), (name, str(row["notes"]))
        assert math.isfinite(row["mag"]) == (name == "good"), name
        assert (row["quality"] == "suspect") == (name != "good"), name
        assert str(row["feedme"]).endswith(f"{name}/galfit.feedme")


def test_posterior_where_it_can_be(tmp_path):
    """A file with a fixed value has the posterior's errors as a plain one has."""
    cutouts, _ = galaxy(ONE, snr=60.0)
    plain = write(tmp_path / "plain", cutouts, sersic(ONE) + SKY.format(sky=1))
    fixed = write(tmp_path / "fixed", cutouts, sersic(ONE, "1111011") + SKY.format(sky=1))
    rows = rows_of([plain, fixed], tmp_path / "out", run=RunOptions())
    assert rows["plain"]["n_p16"] < rows["plain"]["n_p84"]
    assert rows["plain"]["ess"] > 20
    row = rows["fixed"]
    assert row["mag_p16"] < row["mag_p50"] < row["mag_p84"]
    assert row["ess"] > 20
    assert row["n_err"] == pytest.approx(0.0, abs=1e-9)
    assert row["mag_err"] < rows["plain"]["mag_err"]


def test_pictures_are_of_the_pixels_that_were_fitted(tmp_path):
    """`hybridfit plot` reads the feedmes again; a file with fewer components has its model too."""
    pair, _ = galaxy(ONE, TWO, snr=200.0)
    alone, _ = galaxy(ONE)
    model = sersic(ONE) + sersic(TWO) + SKY.format(sky=1)
    paths = [
        write(tmp_path / "pair", pair, model),
        write(tmp_path / "alone", alone, sersic(ONE) + SKY.format(sky=1)),
        write(tmp_path / "none", alone, SKY.format(sky=1)),
    ]
    rows_of(paths, tmp_path / "out")
    files = plot_run(tmp_path / "out")
    expected = ["alone_fit.png", "none_fit.png", "pair_fit.png"]  # one of them without a model
    assert sorted(file.name for file in files) == expected


def test_names(tmp_path):
    cutouts, _ = galaxy(ONE)
    model = sersic(ONE) + SKY.format(sky=1)
    paths = [
        write(tmp_path / "field" / "ngc1", cutouts, model),
        write(tmp_path / "field" / "ngc2", cutouts, model, "galfit.input"),
        write(tmp_path / "field" / "ngc3", cutouts, model, "second try.feedme"),
    ]
    assert list(find_tasks([tmp_path])) == ["ngc1", "ngc2", "second_try"]
    again = write(tmp_path / "deep" / "ngc1", cutouts, model)
    names = list(find_tasks([tmp_path]))
    assert names == ["deep_ngc1", "field_ngc1", "field_ngc2", "ngc3_second_try"]
    assert find_tasks([again, again]).keys() == {"ngc1"}
    assert read_task("x", paths[0]).is_plain
    with pytest.raises(ValueError, match="no GALFIT input file"):
        find_tasks([tmp_path / "field" / "ngc1" / "psf.fits"][:0] or [_empty(tmp_path)])
    with pytest.raises(FileNotFoundError):
        find_tasks([tmp_path / "nowhere"])


def _empty(tmp_path: Path) -> Path:
    (tmp_path / "empty").mkdir()
    return tmp_path / "empty"


def test_usage(tmp_path):
    with pytest.raises(UsageError, match="leave them out"):
        fit_feedmes([tmp_path], tmp_path / "out", fit=FitOptions(sky="plane"))
    with pytest.raises(UsageError, match="does not exist"):
        fit_feedmes([tmp_path / "nowhere"], tmp_path / "out")


def test_command_line_and_resume(tmp_path):
    cutouts, _ = galaxy(ONE)
    paths = [
        str(write(tmp_path / f"g{i}", cutouts, sersic(ONE) + SKY.format(sky=1))) for i in range(3)
    ]
    run = CliRunner().invoke
    app = make_app()
    options = [
        "--compile",
        "off",
        "--uncertainty",
        "covariance",
        "--initial-values",
        "moments",
        "--quiet",
    ]
    command = ["fit", "--galfit", *paths, "-o", str(tmp_path / "out"), *options]
    assert run(app, command).exit_code == 0
    first = (tmp_path / "out" / "results.fits").read_bytes()
    assert len(Table.read(tmp_path / "out" / "results.fits")) == 3
    assert run(app, command).exit_code == 0  # done already
    assert (tmp_path / "out" / "results.fits").read_bytes() == first
    other = ["fit", "--galfit", *paths[:2], "-o", str(tmp_path / "out"), *options]
    assert run(app, other).exit_code == 2  # other galaxies
    several = ["fit", *paths, "-o", str(tmp_path / "out2"), *options]
    assert run(app, several).exit_code == 2


@pytest.mark.slow
def test_galfit3_runs(shared_data, tmp_path):
    """Every saved run of GALFIT 3.0.5 runs from its feedme as it is, and where there is one
    component and a sigma map chi2 is no more than .1 % above GALFIT's, convolved as it does; of 27
    bulges with disks that holds for 25 at least.

    Two of 41 miss that by a hair (.1006 and .148 %): poor fits (chi2 of 3.8 and 1.9 a pixel) with
    residuals of up to 30 sigma, where a thousandth of the model's core counts.
    """
    folder = shared_data / "real" / "galfit3"
    options = replace(galfit_config().fit, compile="off")
    rows = rows_of([folder], tmp_path / "out", options)
    with (folder / "galfit3.csv").open(newline="") as file:
        saved = list(csv.DictReader(file))
    runs = {f"{row['id']}_{row['mode']}" for row in saved}
    assert runs == set(rows)
    assert len(rows) == 74
    above, two = {}, {}
    for row in saved:
        name = f"{row['id']}_{row['mode']}"
        assert rows[name]["dof"] == int(row["ndof"]), name
        if row["mode"].startswith("single"):
            above[name] = rows[name]["chi2"] / float(row["chi2"]) - 1
        if row["mode"].startswith("bulgedisk"):
            two[name] = rows[name]["chi2"] / float(row["chi2"]) - 1
    assert len(two) == 27
    assert sum(value <= 1e-3 for value in two.values()) >= 25
    assert len(above) == 41
    assert sum(value <= 1e-3 for value in above.values()) >= 39
    assert max(above.values()) < 2e-3


def test_a_file_of_too_many_components_is_a_row(tmp_path):
    part = "\n 0) sersic\n 1) 24 24 1 1\n 3) 20 1\n 4) 3 1\n 5) 2 1\n 9) 0.7 1\n10) 40 1\n"
    head = "A) gal.fits\nB) block.fits\nH) 1 48 1 48\nJ) 25\nK) 0.2 0.2\nP) 0\n"
    paths = []
    for name, count in (("many", 300), ("missing", 1)):
        (tmp_path / name).mkdir()
        paths.append(tmp_path / name / "galfit.feedme")
        paths[-1].write_text(head + part * count)
    table = rows_of(paths, tmp_path / "out")
    assert len(table) == 2
    assert "there are 300 components, expected 40 at most" in table["many"]["notes"]
