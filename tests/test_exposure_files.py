"""Several images of a galaxy in files: columns image_2, psf_2... of a manifest."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from astropy.io import fits
from astropy.table import Table
from exposure_helpers import View, moved, rotated, seen_by_galsim, wcs_of
from render_helpers import Galaxy
from tolerances import SINGLE

import hybridfit as hf

pytest.importorskip("galsim", reason="GalSim renders the galaxies")
MIDDLE = (31.3, 30.6)
GALAXIES = {"a": Galaxy(*MIDDLE, 4.0, 1.2, 0.6, 20.0), "b": Galaxy(*MIDDLE, 6.0, 2.5, 0.8, 120.0)}
MAG = 17.5
VIEWS = [
    View(),
    rotated(30.0, 1.2, MIDDLE, (33.0, 29.0), fwhm=2.6, zeropoint=26.0, sigma=1.3),
    moved(np.array([[-1.0, 0.1], [0.1, 0.9]]), MIDDLE, (30.0, 31.5), fwhm=3.6, sigma=0.8),
]


def write_images(folder: Path, views: list[View] = VIEWS, wcs: bool = True) -> None:
    """``a_1.fits``, ``a_2.fits``... with their sigma as a number, and ``psf_1.fits``..."""
    rng = np.random.default_rng(3)
    for k, view in enumerate(views, start=1):
        fits.PrimaryHDU(view.psf).writeto(folder / f"psf_{k}.fits")
        for name, galaxy in GALAXIES.items():
            clean = seen_by_galsim(galaxy, MAG, view)
            image = clean + view.sigma * rng.standard_normal(clean.shape)
            header = wcs_of(view).to_header() if wcs else fits.Header()
            header["MAGZERO"] = view.zeropoint
            image = image.astype(np.float32)
            fits.PrimaryHDU(image, header).writeto(folder / f"{name}_{k}.fits")
            sigma = np.full_like(image, view.sigma)
            fits.PrimaryHDU(sigma).writeto(folder / f"{name}_{k}_sigma.fits")


def write_manifest(folder: Path, count: int = 3, **changes: list[str]) -> Path:
    columns: dict[str, list[object]] = {"id": list(GALAXIES)}
    for k in range(1, count + 1):
        end = "" if k == 1 else f"_{k}"
        columns[f"image{end}"] = [f"{name}_{k}.fits" for name in GALAXIES]
        columns[f"sigma{end}"] = [f"{name}_{k}_sigma.fits" for name in GALAXIES]
        columns[f"psf{end}"] = [f"psf_{k}.fits"] * len(GALAXIES)
    columns["x"], columns["y"] = [31.0] * 2, [31.0] * 2
    path = folder / "galaxies.csv"
    Table({**columns, **changes}).write(path, overwrite=True)
    return path


def test_manifest_with_exposures(tmp_path: Path) -> None:
    write_images(tmp_path)
    cutouts = hf.read(write_manifest(tmp_path), mask_neighbours=False)
    assert len(cutouts.exposures) == 2
    for found, view in zip(cutouts.exposures, VIEWS[1:], strict=True):
        assert found.zeropoint.tolist() == [view.zeropoint] * 2
        assert np.allclose(found.to_pixels.numpy(), view.affine, atol=1e-6)
        assert found.has_data.all()
        psf = found.psf
        assert psf is not None
        assert psf.shape[1:] == (33, 33)  # 31 pixels, rounded up
    table = hf.fit(cutouts, initial_values="moments", uncertainty="covariance", compile="off")
    alone = hf.fit(
        cutouts.single_images()[0],
        initial_values="moments",
        uncertainty="covariance",
        compile="off",
    )
    for row, galaxy in zip(table, GALAXIES.values(), strict=True):
        truth = {"x": galaxy.x, "y": galaxy.y, "mag": MAG, "r_eff": galaxy.r_eff, "q": galaxy.q}
        for name, value in truth.items():
            assert abs(row[name] - value) < 4 * row[f"{name}_err"], name
    # three images of about the same depth: errors fall by 1.7, most of all with the last one's
    assert (np.asarray(table["r_eff_err"]) < 0.75 * np.asarray(alone["r_eff_err"])).all()


def test_a_run_from_files_is_the_fit_in_memory(tmp_path: Path) -> None:
    write_images(tmp_path)
    manifest = write_manifest(tmp_path)
    given = {"initial_values": "moments", "uncertainty": "covariance", "compile": "off"}
    fit = hf.FitOptions(compile="off")
    run = hf.RunOptions(initial_values="moments", uncertainty="covariance")
    hf.fit_files(manifest, tmp_path / "out", fit=fit, run=run, quiet=True)
    table = Table.read(tmp_path / "out" / "results.fits")
    other = hf.fit(str(manifest), **given)
    for name in ("x", "mag", "r_eff", "n", "r_eff_err", "chi2", "dof"):
        assert np.allclose(table[name], other[name], rtol=1e-6, atol=SINGLE), name
    assert int(table["dof"][0]) > 2.5 * 64**2
    # a change of an exposure is a change of the galaxy
    changed = fits.getdata(tmp_path / "a_2.fits") + 0.5 * np.eye(64)
    header = fits.getheader(tmp_path / "a_2.fits")
    fits.PrimaryHDU(changed.astype(np.float32), header).writeto(
        tmp_path / "a_2.fits", overwrite=True
    )
    hf.fit_files(manifest, tmp_path / "out", fit=fit, run=run, quiet=True)
    again = Table.read(tmp_path / "out" / "results.fits")
    assert again["chi2"][0] != table["chi2"][0]
    assert again["chi2"][1] == table["chi2"][1]


def test_exposures_that_lack(tmp_path: Path) -> None:
    write_images(tmp_path)
    manifest = write_manifest(tmp_path, image_2=["", "b_2.fits"], image_3=["a_3.fits", "no.fits"])
    cutouts = hf.read(manifest, mask_neighbours=False)
    second, third = cutouts.exposures
    assert second.has_data.tolist() == [False, True]
    assert third.has_data.tolist() == [True, False]
    assert "image 2" not in cutouts.messages[0]
    assert "image 3: left out: " in cutouts.messages[1]
    assert "no.fits" in cutouts.messages[1]
    (tmp_path / "a_3.fits").write_bytes(b"SIMPLE  =                    T" + b"\0" * 5000)
    damaged = hf.read(write_manifest(tmp_path), mask_neighbours=False)
    assert damaged.exposures[1].has_data.tolist() == [False, True]
    assert damaged.messages[0].startswith("image 3: left out: ")
    none = write_manifest(tmp_path, image_2=["", ""], image_3=["", ""])
    empty = hf.read(none, mask_neighbours=False)
    assert not any(bool(e.has_data.any()) for e in empty.exposures)
    given = {"initial_values": "moments", "uncertainty": "covariance", "compile": "off"}
    one, other = hf.fit(empty, **given), hf.fit(empty.single_images()[0], **given)
    assert np.allclose(one["r_eff"], other["r_eff"], rtol=1e-6, atol=SINGLE)
    assert (np.asarray(one["dof"]) == np.asarray(other["dof"])).all()


def test_images_without_wcs_share_pixels(tmp_path: Path) -> None:
    same = [View(), View(fwhm=2.5, sigma=0.7)]
    write_images(tmp_path, same, wcs=False)
    cutouts = hf.read(write_manifest(tmp_path, 2), mask_neighbours=False)
    assert torch.equal(cutouts.exposures[0].to_pixels[0], torch.eye(2, 3).double())
    smaller = tmp_path / "smaller"
    smaller.mkdir()
    write_images(smaller, [View(), View(side=60)], wcs=False)
    cutouts = hf.read(write_manifest(smaller, 2), mask_neighbours=False)
    assert not cutouts.exposures[0].has_data.any()
    assert "60 x 60 pixels, the first image 64 x 64" in cutouts.messages[0]


def test_large_images_are_cropped_about_the_same_target(tmp_path: Path) -> None:
    target = (180.3, 210.6)
    turned = rotated(40.0, 1.0, MIDDLE, (150.0, 230.0), fwhm=2.6, side=400)
    plain = rotated(0.0, 1.0, MIDDLE, target, side=400)
    # the catalogue's position is in pixels of the first file
    write_images(tmp_path, [plain, turned])
    manifest = write_manifest(tmp_path, 2, x=[180.3] * 2, y=[210.6] * 2)
    cutouts = hf.read(manifest)
    (exposure,) = cutouts.exposures
    assert max(cutouts.image.shape[1:]) < 300
    assert max(exposure.image.shape[1:]) < 300
    there = exposure.positions(cutouts.start[:, :2])
    peak = exposure.image.flatten(1).argmax(dim=1)
    found = torch.stack([peak % exposure.image.shape[2], peak // exposure.image.shape[2]], dim=1)
    assert (there - found).abs().max() < 2  # the peak of a noisy image, in pixels


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"sigma_4": ["", ""]}, "has a column 'sigma_4' but no 'image_4'"),
        ({"zeropoint_2": ["x", "y"]}, "zeropoint_2 is 'x', expected a number"),
    ],
)
def test_wrong_columns(tmp_path: Path, changes: dict[str, list[str]], said: str) -> None:
    write_images(tmp_path)
    with pytest.raises(ValueError, match=said):
        hf.read(write_manifest(tmp_path, **changes))
