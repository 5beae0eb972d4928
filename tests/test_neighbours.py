"""Targets measured with their neighbours, in memory and over files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from astropy.table import Table
from neighbour_helpers import scenes, source
from plots_helpers import sky_wcs
from tolerances import SINGLE

import hybridfit as hf
from hybridfit.data.neighbours import MOST
from hybridfit.fitting.options import FitOptions
from hybridfit.fitting.separate import blendedness
from hybridfit.io.blocks import read_block
from hybridfit.io.cutout_files import write_cutouts
from hybridfit.pipeline.fit_files import fit_files
from hybridfit.pipeline.options import RunOptions

FAST = {"uncertainty": "covariance", "compile": "off"}
PAIR = source(0, 0), source(8, 2, mag=20.5)


@pytest.fixture(scope="module")
def cutouts():
    """Three pairs and a lone galaxy, with the truth of the targets."""
    pairs, truth = scenes(*PAIR, snr=150, count=3, seed=1)
    lone, alone = scenes(source(0.2, 0.1), snr=150, count=1, seed=2)
    both = {
        name: torch.cat([getattr(pairs, name), getattr(lone, name)])
        for name in ("image", "sigma", "zeropoint")
    }
    psf = pairs.psf[0] if pairs.psf.ndim == 3 else pairs.psf
    cutouts = hf.Cutouts(**both, psf=psf, id=["a", "b", "c", "d"], wcs=[sky_wcs()] * 4)
    return cutouts, np.concatenate([truth[:, :14], np.tile(alone[:, :7], (1, 2))])


@pytest.fixture(scope="module")
def table(cutouts) -> Table:
    return hf.fit(cutouts[0], neighbours="fit", **FAST)


def test_targets_are_those_of_the_truth(cutouts, table) -> None:
    for name, k, by in (("mag", 2, 0.1), ("r_eff", 3, 0.4), ("x", 0, 0.3)):
        assert np.abs(np.asarray(table[name]) - cutouts[1][:, k]).max() < by
    ignored = hf.fit(cutouts[0], neighbours="ignore", **FAST)
    # the wrong twin: the neighbour's light belongs to nobody else
    assert np.abs(np.asarray(ignored["mag"]) - cutouts[1][:, 2])[:3].min() > 0.2


def test_columns_of_the_neighbours(cutouts, table) -> None:
    assert table["n_neighbours"].tolist() == [1, 1, 1, 0]
    mag = np.ma.filled(table["neighbour_mag"], np.nan)
    assert mag.shape == (4, MOST)
    assert np.abs(mag[:3, 0] - cutouts[1][:3, 9]).max() < 0.15
    assert np.isnan(mag[3]).all()
    assert np.isnan(mag[:, 1:]).all()
    assert (table["blendedness"][:3] > 0.05).all()
    assert table["blendedness"][3] == 0
    names = [str(name) for name in table["flag_names"]]
    assert ["BLENDED" in name for name in names] == [True, True, True, False]
    # neighbours are free: they widen the target's errors
    assert (table["mag_err_neighbours"][:3] > 0).all()
    assert table["mag_err_neighbours"][3] == 0
    assert (table["mag_err_neighbours"] < table["mag_err"]).all()
    assert np.isfinite(table["neighbour_ra"][:3, 0]).all()


def test_a_lone_galaxy_is_measured_as_ever(cutouts, table) -> None:
    lone = hf.fit(cutouts[0][[3]], **FAST)
    for name in ("x", "mag", "r_eff", "n", "mag_err", "chi2"):
        assert float(table[name][3]) == pytest.approx(float(lone[name][0]), rel=1e-6)


def test_posteriors_count_neighbours(cutouts) -> None:
    some = cutouts[0][[0, 3]]
    found = hf.fit(some, neighbours="fit", uncertainty="posterior", compile="off")
    off = (np.asarray(found["mag"]) - cutouts[1][[0, 3], 2]) / np.asarray(found["mag_err"])
    assert np.abs(off).max() < 4
    assert (np.asarray(found["ess"]) > 60).all()


def test_files_and_the_table_of_neighbours(cutouts, table, tmp_path: Path) -> None:
    write_cutouts(cutouts[0], tmp_path / "in")
    fit = FitOptions(neighbours="fit", compile="off")
    run = RunOptions(uncertainty="covariance", save_models=True, part_size=2)
    fit_files(tmp_path / "in", tmp_path / "out", fit=fit, run=run)
    results = Table.read(tmp_path / "out" / "results.fits")
    others = Table.read(tmp_path / "out" / "neighbours.fits")
    assert not [name for name in results.colnames if name.startswith("neighbour_")]
    assert [str(name) for name in others["id"]] == ["a", "b", "c"]
    assert others["neighbour"].tolist() == [1, 1, 1]
    # files hold what memory does, but for masks of pixels: here there are none
    assert np.allclose(others["mag"], table["neighbour_mag"][:3, 0], atol=1e-3)
    assert np.allclose(results["mag"], table["mag"], atol=1e-3)
    block = read_block(tmp_path / "out" / "models", "a")
    assert block is not None
    left = (block.image - block.model)[~block.mask]
    assert np.std(left) == pytest.approx(1.0, abs=0.05)  # the model has the neighbour's light too
    again = fit_files(tmp_path / "in", tmp_path / "out", fit=fit, run=run)
    assert again.n_fitted == 0


def test_sources_apart_are_masked() -> None:
    many = [source(0, 0, mag=19.0)]
    many += [source(x, y, mag=20.5, r_eff=1.5) for x in (-22, 0, 22) for y in (-22, 22)]
    many += [source(x, 0, mag=20.5, r_eff=1.5) for x in (-24, 24)]
    cutouts, truth = scenes(*many, snr=300)
    found = hf.fit(cutouts, neighbours="fit", **FAST)
    assert found["n_neighbours"][0] < MOST  # some do not touch, the eighth is one too many
    assert "MASK_ESTIMATED" in str(found["flag_names"][0])
    assert float(found["mag"][0]) == pytest.approx(truth[0, 2], abs=0.1)


def test_a_bulge_and_disk_with_a_neighbour(cutouts) -> None:
    found = hf.fit(cutouts[0][[0]], model="bulge+disk", neighbours="fit", **FAST)
    assert found["n_neighbours"][0] == 1
    assert float(found["mag"][0]) == pytest.approx(cutouts[1][0, 2], abs=0.15)


def test_blendedness() -> None:
    own = torch.zeros(2, 8, 8)
    own[:, 2:4, 2:4] = 2.0
    others = torch.zeros(2, 8, 8)
    others[0, 6:, 6:] = 5.0  # apart
    others[1, 2:4, 2:4] = 2.0  # half of the light there
    assert torch.allclose(blendedness(own, others), torch.tensor([0.0, 0.5]).double(), atol=SINGLE)


def test_exposures_are_refused(cutouts) -> None:
    cutouts = cutouts[0][[0]]
    exposure = hf.Exposure(image=cutouts.image, sigma=cutouts.sigma, psf=cutouts.psf)
    found = hf.fit(replace(cutouts, exposures=(exposure,)), neighbours="fit", **FAST)
    assert "FAILED" in str(found["flag_names"][0])
    assert "several exposures" in str(found["notes"][0])
