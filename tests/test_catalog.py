"""From an image to its catalogue: every source once, with its neighbours, whatever the tiles."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from fit_helpers import ZEROPOINT, observe
from plots_helpers import sky_wcs
from tolerances import SINGLE

from hybridfit.data.errors import UsageError
from hybridfit.fitting.build_problem import profiles_of
from hybridfit.fitting.options import FitOptions
from hybridfit.io.survey.read import read_survey_image
from hybridfit.mosaic.config import CatalogConfig
from hybridfit.mosaic.detections import detected
from hybridfit.mosaic.options import CatalogOptions
from hybridfit.mosaic.run import catalog
from hybridfit.pipeline.options import RunOptions

SIDE = 320
RUN = RunOptions(uncertainty="covariance")
PLACES = [(40, 50), (47, 55), (150, 40), (270, 60), (60, 160), (160, 160), (250, 170), (256, 163),
          (50, 270), (160, 280), (270, 262)]  # fmt: skip


@pytest.fixture(scope="module")
def field(tmp_path_factory) -> tuple[Path, np.ndarray]:
    """An image of eleven galaxies, two pairs among them, with noise, PSF and mask beside it."""
    rng = np.random.default_rng(1)
    rows = [
        [x, y, 20 + rng.uniform(-0.7, 0.7), rng.uniform(2, 4), rng.uniform(0.8, 3), 0.6, 30.0 * k]
        for k, (x, y) in enumerate(PLACES)
    ]
    space = FitOptions("+".join(["sersic"] * len(rows))).space
    theta = np.array([[*np.concatenate(rows), 0.0]])
    cutouts, truth = observe(
        theta, 600, (SIDE, SIDE), seed=3, space=space, profiles=profiles_of(space)
    )
    folder = tmp_path_factory.mktemp("field")
    image = cutouts.image[0].numpy().copy()
    image[300:310, 100:110] = np.nan
    header = sky_wcs().to_header()
    header["MAGZERO"] = ZEROPOINT
    header["BUNIT"] = "adu"
    fits.writeto(folder / "image.fits", image, header)
    fits.writeto(folder / "sigma.fits", np.ones_like(image))
    psf = cutouts.psf.numpy()
    fits.writeto(folder / "psf.fits", psf[0] if psf.ndim == 3 else psf)
    return folder, truth[0, :-1].reshape(-1, 7)


def config(folder: Path, **options) -> CatalogConfig:
    survey = {"sigma": str(folder / "sigma.fits")}
    return CatalogConfig.of(None).updated(
        {"survey": survey, "catalog": options, "run": {"uncertainty": "covariance"}}
    )


@pytest.fixture(scope="module")
def found(field, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("catalog")
    catalog(field[0] / "image.fits", out, config(field[0]), psf=field[0] / "psf.fits")
    return out


def test_every_source_is_a_row(field, found) -> None:
    table, truth = Table.read(found / "results.fits"), field[1]
    assert len(table) == len(truth)
    away = np.hypot(table["x"][:, None] - truth[:, 0], table["y"][:, None] - truth[:, 1])
    own = away.argmin(axis=1)
    assert sorted(own.tolist()) == list(range(len(truth)))
    assert away.min(axis=1).max() < 0.5
    # members of pairs as well as the others: their neighbours are fitted with them
    assert np.abs(table["mag"] - truth[own, 2]).max() < 0.15
    assert np.abs(np.log(table["r_eff"] / truth[own, 3])).max() < 0.3
    assert np.isfinite(table["ra"]).all()
    assert set(table["zeropoint"]) == {ZEROPOINT}


def test_pairs_are_each_others_neighbours(found) -> None:
    table, others = Table.read(found / "results.fits"), Table.read(found / "neighbours.fits")
    near = np.asarray(table["n_neighbours"]) > 0
    assert near.sum() == 4
    for one in others:
        row = table[[str(id) for id in table["id"]].index(str(one["id"]))]
        assert 5 < np.hypot(one["x"] - row["x"], one["y"] - row["y"]) < 13


def test_regions(found) -> None:
    lines = (found / "sources.reg").read_text().splitlines()
    assert lines[0].startswith("# Region file format: DS9")
    ellipses = [line for line in lines if line.startswith("ellipse(")]
    table = Table.read(found / "results.fits")
    assert len(ellipses) == len(table)
    x = float(ellipses[0].split("(")[1].split(",")[0])
    assert x == pytest.approx(float(table["x"][0]) + 1, abs=1e-3)  # DS9 counts from 1


@pytest.mark.parametrize("tile", [128, 160, 1024])
def test_tiles_do_not_matter(field, tile: int) -> None:
    image = read_survey_image(field[0] / "image.fits", config(field[0]).survey)
    whole = detected(image, CatalogOptions())
    parts = detected(image, CatalogOptions(tile=tile, margin=64))
    assert len(parts) == len(whole) == len(PLACES)
    # the sky of a tile is its own, which a faint region's flux follows
    assert np.allclose(parts.x, whole.x, atol=SINGLE)
    assert np.allclose(parts.y, whole.y, atol=SINGLE)


def test_given_positions(field, tmp_path: Path) -> None:
    Table({"id": ["one", "two"], "x": [150.0, 270.0], "y": [40.0, 60.0]}).write(
        tmp_path / "at.ecsv"
    )
    options = config(field[0], detections=str(tmp_path / "at.ecsv"))
    catalog(field[0] / "image.fits", tmp_path / "out", options, psf=field[0] / "psf.fits")
    table = Table.read(tmp_path / "out" / "results.fits")
    assert [str(id) for id in table["id"]] == ["one", "two"]
    assert np.abs(table["x"] - [150.0, 270.0]).max() < 0.5


def test_a_run_continues(field, found) -> None:
    again = catalog(field[0] / "image.fits", found, config(field[0]), psf=field[0] / "psf.fits")
    assert again.n_fitted == 0


def test_the_command(field, tmp_path: Path) -> None:
    files = [str(field[0] / name) for name in ("image.fits", "sigma.fits", "psf.fits")]
    command = [sys.executable, "-m", "hybridfit", "catalog", files[0], "-o", str(tmp_path / "out")]
    command += ["--sigma", files[1], "--psf", files[2], "--uncertainty", "covariance"]
    done = subprocess.run([*command, "--limit", "3"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(Table.read(tmp_path / "out" / "results.fits")) == 3


@pytest.mark.parametrize(
    ("name", "text"),
    [("none.fits", "none.fits"), ("blank.fits", "no source was found")],
)
def test_what_cannot_be_measured_is_told(field, tmp_path: Path, name: str, text: str) -> None:
    rng = np.random.default_rng(0)
    fits.writeto(tmp_path / "blank.fits", rng.standard_normal((64, 64)).astype(np.float32))
    with pytest.raises(UsageError, match=text):
        catalog(tmp_path / name, tmp_path / "out", run=RUN)


def test_positions_outside_are_told(field, tmp_path: Path) -> None:
    Table({"x": [-50.0], "y": [10.0]}).write(tmp_path / "at.ecsv")
    options = config(field[0], detections=str(tmp_path / "at.ecsv"))
    with pytest.raises(UsageError, match="inside of the image"):
        catalog(field[0] / "image.fits", tmp_path / "out", options, psf=field[0] / "psf.fits")
