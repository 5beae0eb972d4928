"""Galaxies found in directories, manifests and multi-extension files, and stacked."""

from __future__ import annotations

import csv
import dataclasses
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from astropy.io import fits
from astropy.table import Table
from read_helpers import galaxy, gaussian, psf_image, write, write_galaxy, write_mef
from tolerances import SINGLE

from hybridfit.data.errors import BadInput
from hybridfit.data.flags import Flag
from hybridfit.io.options import ReadOptions
from hybridfit.io.read import padded_shape, read, stack
from hybridfit.io.read_cutout import read_cutout
from hybridfit.io.sources import find_sources


def read_one(path, **options):
    chosen = ReadOptions(**options)
    sources = find_sources(path, chosen)
    assert len(sources) == 1
    return read_cutout(sources[0], chosen)


def manifest(path, rows):
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def test_directory_is_sorted_and_optional_files_are_seen(tmp_path):
    for name in ("b", "a10", "a2"):
        write_galaxy(tmp_path, name)
    write(tmp_path / "b_mask.fits", np.zeros((64, 64), np.uint8))
    (tmp_path / "notes.txt").write_text("nothing")
    sources = find_sources(tmp_path)
    assert [source.id for source in sources] == ["a10", "a2", "b"]
    assert sources[2].mask.endswith("b_mask.fits")
    assert sources[0].mask == "" == sources[0].variance
    assert [source.id for source in sources[1:]] == ["a2", "b"]
    assert sources[-1].id == "b"
    assert pickle.loads(pickle.dumps(sources))[1] == sources[1]


def test_compressed_files(tmp_path):
    write_galaxy(tmp_path, "gz", sigma=None, psf=None)
    (tmp_path / "gz_image.fits").unlink()
    image = galaxy()
    write(tmp_path / "gz_image.fits.gz", image)
    hdu = fits.CompImageHDU(image, compression_type="GZIP_1", quantize_level=0)
    fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(tmp_path / "fz_image.fits.fz")
    write(tmp_path / "psf.dat.fits", psf_image())
    options = ReadOptions(psf=str(tmp_path / "psf.dat.fits"))
    stamps = [read_cutout(source, options) for source in find_sources(tmp_path, options)]
    assert [stamp.id for stamp in stamps] == ["fz", "gz"]
    for stamp in stamps:
        np.testing.assert_array_equal(stamp.image, image)


def test_patterns_with_a_directory_for_each_galaxy(tmp_path):
    for name in ("m31", "m33"):
        (tmp_path / name).mkdir()
        write(tmp_path / name / "sci.fits", galaxy())
        write(tmp_path / name / "psf.fits", psf_image())
    options = ReadOptions(pattern_image="{id}/sci.fits", pattern_psf="{id}/psf.fits")
    sources = find_sources(tmp_path, options)
    assert [source.id for source in sources] == ["m31", "m33"]
    assert read_cutout(sources[0], options).flags & Flag.SIGMA_ESTIMATED


def test_plain_pattern_does_not_take_side_files_for_galaxies(tmp_path):
    for name in ("a", "b"):
        write_galaxy(tmp_path, name)
        (tmp_path / f"{name}_image.fits").rename(tmp_path / f"{name}.fits")
    for options in (ReadOptions(), ReadOptions(pattern_image="{id}.fits")):
        sources = find_sources(tmp_path, options)
        assert [source.id for source in sources] == ["a", "b"]
        assert sources[0].sigma.endswith("a_sigma.fits")


def test_multi_extension_files(tmp_path):
    image, sigma = galaxy(), np.full((64, 64), 2.0, np.float32)
    write_mef(tmp_path / "x.fits", sigma=sigma, image=image, psf=psf_image())
    write_mef(tmp_path / "y.fits", sci=image, ivar=1 / sigma**2, psf=psf_image())
    cutouts = read(tmp_path)
    assert cutouts.id == ("x", "y")
    np.testing.assert_allclose(
        cutouts.sigma[cutouts.mask.logical_not()], 2.0, rtol=1e-6, atol=SINGLE
    )
    np.testing.assert_array_equal(cutouts.image[0][~cutouts.mask[0]], image[~cutouts.mask[0]])
    assert read_one(tmp_path / "x.fits").id == "x"


def test_shared_psf_among_the_galaxies_is_no_galaxy(tmp_path):
    write_mef(tmp_path / "x.fits", image=galaxy(), sigma=np.ones((64, 64)))
    write(tmp_path / "psf.fits", psf_image())
    stamp = read_one(tmp_path, psf=str(tmp_path / "psf.fits"))
    assert stamp.id == "x"
    assert stamp.psf is not None


@pytest.mark.parametrize("ending", [".csv", ".ecsv", ".fits", ".parquet"])
def test_manifest_formats(tmp_path, ending):
    if ending == ".parquet":
        pytest.importorskip("pyarrow", reason="pyarrow is an extra")
    (tmp_path / "data").mkdir()
    write_mef(tmp_path / "data" / "all.fits", first=galaxy(), var=np.full((64, 64), 4.0))
    write(tmp_path / "psf.fits", psf_image())
    table = Table(
        {
            "id": ["002", "001"],
            "image": ["data/all.fits[first]", "data/all.fits[1]"],
            "variance": ["data/all.fits[VAR]", "data/all.fits[2]"],
            "psf": ["psf.fits", str(tmp_path / "psf.fits")],
            "zeropoint": [25.0, 26.0],
            "psf_includes_pixel": [True, False],
            "x": [30.0, np.nan],
            "redshift": [0.1, 0.2],
        }
    )
    path = tmp_path / f"list{ending}"
    if ending == ".parquet":
        import pyarrow
        import pyarrow.parquet

        columns = {name: table[name].tolist() for name in table.colnames}
        pyarrow.parquet.write_table(pyarrow.table(columns), path)
    else:
        table.write(path, format={".csv": "ascii.csv", ".ecsv": "ascii.ecsv"}.get(ending))
    cutouts = read(path)
    assert cutouts.id == ("001", "002")
    assert cutouts.zeropoint.tolist() == [26.0, 25.0]
    assert cutouts.psf_includes_pixel.tolist() == [False, True]
    assert cutouts.start[1, 0] == 30
    assert torch.isnan(cutouts.start[0, 0])
    torch.testing.assert_close(cutouts.sigma[0][~cutouts.mask[0]].unique(), torch.tensor([2.0]))


def test_row_goes_before_option_goes_before_header(tmp_path):
    header = fits.Header({"MAGZERO": 20.0, "EGAIN": 5.0})
    write(tmp_path / "a.fits", galaxy(), header)
    rows = [
        {"id": "row", "image": "a.fits", "zeropoint": 22, "pixel_scale": 0.3, "mag": 18, "x": ""},
        {"id": "rest", "image": "a.fits", "zeropoint": "", "pixel_scale": "", "mag": "", "x": ""},
    ]
    path = manifest(tmp_path / "m.csv", rows)
    options = ReadOptions(no_psf=True, zeropoint=21, pixel_scale=0.5, mag=19, x=31.5)
    rest, row = (read_cutout(source, options) for source in find_sources(path, options))
    assert (row.zeropoint, row.pixel_scale, row.start[2]) == (22, 0.3, 18)
    assert (rest.zeropoint, rest.pixel_scale, rest.start[2]) == (21, 0.5, 19)
    assert rest.start[0] == 31.5
    plain = ReadOptions(no_psf=True)
    stamp = read_cutout(find_sources(path, plain)[0], plain)
    assert stamp.zeropoint == 20
    assert "gain 5" in stamp.message
    assert "zero point" not in stamp.message


def test_manifest_columns_under_other_names(tmp_path):
    write(tmp_path / "a.fits", galaxy())
    path = manifest(tmp_path / "m.csv", [{"NAME": "007", "FILE": "a.fits", "MAG_AUTO": 21.5}])
    options = ReadOptions(columns="id=NAME, image=FILE,mag=MAG_AUTO", no_psf=True)
    source = find_sources(path, options)[0]
    assert source.id == "007"
    assert source.start[2] == 21.5


@pytest.mark.parametrize(
    ("rows", "options", "said"),
    [
        ([{"id": "a", "img": "a.fits"}], {}, "no column 'image'.*id, img"),
        ([{"image": "a.fits"}], {}, "no column 'id'"),
        ([{"id": "a", "image": "a", "PixelScale": 1}], {}, "unknown column 'PixelScale'.*pixel_sc"),
        ([{"id": "a", "image": "a", "Sigma": "b"}], {}, "did you mean 'sigma'"),
        ([{"id": "a", "image": "a", "MAG": 1}], {"columns": "mag=MAGG"}, "no column 'MAGG'.*'MAG'"),
        (
            [{"id": "a", "image": "a", "mag": "bright"}],
            {},
            "mag is 'bright', expected a number.*no other",
        ),
        ([{"id": "a", "image": "a"}, {"id": "a", "image": "b"}], {}, "same id.*'a'"),
    ],
)
def test_unusable_manifests_raise(tmp_path, rows, options, said):
    path = manifest(tmp_path / "m.csv", rows)
    with pytest.raises(ValueError, match=f"(?s){said}"):
        find_sources(path, ReadOptions(no_psf=True, **options))


@pytest.mark.parametrize(
    ("text", "said"),
    [("id,image\n", "no rows"), ("id,image\na\n", "row 1 has 1 fields"), ("", "no column 'id'")],
)
def test_broken_csv_raises(tmp_path, text, said):
    path = tmp_path / "m.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=said):
        find_sources(path, ReadOptions(no_psf=True))


def test_other_columns_and_their_capitals_are_left_alone(tmp_path):
    row = {"id": "a", "image": "a.fits", "ra": 1, "X": 300, "N": 3, "_sigma": "old"}
    path = manifest(tmp_path / "m.csv", [row])
    assert np.isnan(find_sources(path, ReadOptions(no_psf=True))[0].start).all()


def test_missing_files_and_unsafe_ids_are_rows(tmp_path):
    write_galaxy(tmp_path, "good")
    rows = [
        {"id": name, "image": image, "sigma": "good_sigma.fits", "psf": "good_psf.fits"}
        for name, image in [
            ("good", "good_image.fits"),
            ("gone", "gone_image.fits"),
            ("../../up", "good_image.fits"),
            ("a/b", "good_image.fits"),
            ("..", "good_image.fits"),
            ("none", ""),
        ]
    ]
    path = manifest(tmp_path / "m.csv", rows)
    cutouts = read(path)
    said = dict(zip(cutouts.id, cutouts.messages, strict=True))
    assert len(cutouts) == 6
    assert "gone_image.fits' does not exist" in said["gone"]
    for name in ("../../up", "a/b", ".."):
        assert "expected a name that can be part of a file name" in said[name]
    assert "no image file is given" in said["none"]
    bad = [bool(flags & Flag.UNREADABLE) for flags in cutouts.flags.tolist()]
    assert bad == [name != "good" for name in cutouts.id]
    assert cutouts.mask[[i for i, name in enumerate(cutouts.id) if name != "good"]].all()


def test_bad_numbers_are_rows(tmp_path):
    """One slip of the pen among a thousand rows does not stop the others."""
    write_galaxy(tmp_path, "g")
    files = {"image": "g_image.fits", "sigma": "g_sigma.fits", "psf": "g_psf.fits"}
    rows = [
        {"id": "good", **files, "mag": 20, "zeropoint": "", "psf_oversampling": 1},
        {"id": "text", **files, "mag": "bright", "zeropoint": 22, "psf_oversampling": 1},
        {"id": "endless", **files, "mag": 20, "zeropoint": "inf", "psf_oversampling": 1},
        {"id": "half", **files, "mag": 20, "zeropoint": 22, "psf_oversampling": 1.5},
    ]
    cutouts = read(manifest(tmp_path / "m.csv", rows))
    said = dict(zip(cutouts.id, cutouts.messages, strict=True))
    assert said["text"] == "mag is 'bright', expected a number (row 2 of 'm.csv')"
    assert said["endless"].startswith("zeropoint is 'inf'")
    assert said["half"].startswith("psf_oversampling is 1.5")
    bad = {i for i, f in zip(cutouts.id, cutouts.flags.tolist(), strict=True) if f & 8192}
    assert bad == {"text", "endless", "half"}


def test_unusable_inputs_raise(tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist"):
        find_sources(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"no galaxy found.*\{id\}_image.fits.*found nothing"):
        find_sources(tmp_path)
    text = tmp_path / "table.fits"
    text.write_text("id image\n")
    with pytest.raises(ValueError, match="cannot be read as FITS"):
        find_sources(text)
    other = tmp_path / "notes.doc"
    other.write_text("id image\n")
    with pytest.raises(ValueError, match="unknown type"):
        find_sources(other)
    write_galaxy(tmp_path)
    with pytest.raises(ValueError, match="no galaxy found"):
        find_sources(tmp_path, ReadOptions(pattern_image="{id}_sci.fits"))


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="no such device")
def test_devices_are_not_read(tmp_path):
    """What has no end would fill the memory."""
    with pytest.raises(ValueError, match="neither a directory nor a regular file"):
        find_sources("/dev/zero")


def test_no_psf_anywhere_is_wrong_usage(tmp_path):
    write_galaxy(tmp_path, psf=None)
    with pytest.raises(ValueError, match="pass --psf FILE, or --no-psf"):
        find_sources(tmp_path)
    stamp = read_one(tmp_path, no_psf=True)
    assert stamp.psf is None
    assert stamp.flags == Flag.NO_PSF


def test_one_galaxy_without_psf_is_a_row(tmp_path):
    write_galaxy(tmp_path, "a")
    write_galaxy(tmp_path, "b", psf=None)
    cutouts = read(tmp_path)
    assert "no PSF found for 'b' (looked for b_psf.fits" in cutouts.messages[1]
    assert "--no-psf" in cutouts.messages[1]
    assert cutouts.flags[0] == 0


def test_shared_psf_is_tried_first(tmp_path):
    write_galaxy(tmp_path, psf=None)
    with pytest.raises(FileNotFoundError, match="PSF file"):
        find_sources(tmp_path, ReadOptions(psf=str(tmp_path / "psf.fits")))
    write(tmp_path / "psf.fits", np.zeros((9, 9)))
    with pytest.raises(ValueError, match="nothing but zeros"):
        find_sources(tmp_path, ReadOptions(psf=str(tmp_path / "psf.fits")))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"crop": "yes"}, "auto, none"),
        ({"psf_center": "peak"}, "array, centroid"),
        ({"pattern_image": "image.fits"}, "contain '{id}' once"),
        ({"psf_oversampling": 0}, "whole number"),
        ({"psf_oversampling": 1.5}, "whole number"),
        ({"psf": "a.fits", "no_psf": True}, "leave one of them out"),
        ({"gain": -1.0}, "above 0"),
        ({"zeropoint": np.nan}, "finite"),
        ({"q": 1.5}, r"expected in \(0, 1\]"),
        ({"columns": "magg=MAG"}, "did you mean 'mag'"),
    ],
)
def test_wrong_options_raise(options, said):
    with pytest.raises(ValueError, match=said):
        ReadOptions(**options)


def test_unknown_option_of_read_raises(tmp_path):
    with pytest.raises(ValueError, match="did you mean 'zeropoint'"):
        read(tmp_path, zeropont=25)


def test_100_000_galaxies_stay_small(tmp_path):
    names = [f"galaxy_{i:06d}" for i in range(100_000)]
    path = tmp_path / "m.csv"
    path.write_text("id,image,mag\n" + "".join(f"{n},{n}_image.fits,20\n" for n in names))
    sources = find_sources(path, ReadOptions(no_psf=True))
    assert len(sources) == 100_000
    held = sum(a.nbytes for a in (*sources.files.values(), *sources.values.values()))
    assert held < 5e6
    assert len(pickle.dumps(sources)) < 1e7


def test_stack_pads_with_mask_and_keeps_positions(tmp_path):
    write_galaxy(tmp_path, "a", image=galaxy((40, 50)), psf=psf_image(9, 0.8))
    write_galaxy(tmp_path, "b", image=galaxy((64, 60)), psf=psf_image(15, 1.5))
    cutouts = read(tmp_path)
    assert tuple(cutouts.image.shape) == (2, 64, 64)
    assert cutouts.size.tolist() == [[40, 50], [64, 60]]
    assert cutouts.mask[0, 40:].all()
    assert cutouts.mask[0, :, 50:].all()
    assert not cutouts.mask[0, :40, :50].any()
    h, w = cutouts.psf.shape[1:]
    assert cutouts.psf[:, h // 2, w // 2].tolist() == cutouts.psf.flatten(1).amax(1).tolist()
    assert cutouts.origin.tolist() == [[0, 0], [0, 0]]
    sources = find_sources(tmp_path)
    stamps = [read_cutout(source) for source in sources]
    larger = stack(stamps, shape=(96, 80), psf_shape=(31, 31))
    assert larger.image.shape[1:] == (96, 80)
    assert larger.psf.shape[1:] == (31, 31)
    with pytest.raises(ValueError, match="expected at most"):
        stack(stamps, shape=(32, 32))
    with pytest.raises(ValueError, match="PSF of 'a'"):
        stack(stamps, psf_shape=(3, 3))
    with pytest.raises(ValueError, match="has no PSF"):
        stack([stamps[0], dataclasses.replace(stamps[1], psf=None)])
    with pytest.raises(ValueError, match="no cutouts"):
        stack([])


def test_psf_larger_than_the_stamp(tmp_path):
    wide = gaussian((91, 91), 45, 45, 9.0)
    write_galaxy(tmp_path, image=galaxy((32, 32)), psf=wide)
    assert read(tmp_path).psf.shape[-1] > 32


def test_padded_shapes_are_few():
    assert padded_shape(5, 33) == (32, 48)
    assert padded_shape(128, 129) == (128, 160)
    assert padded_shape(512, 513) == (512, 640)
    assert len({padded_shape(n, n) for n in range(5, 513)}) == 15


def test_bad_input_survives_a_process_pool():
    error = pickle.loads(pickle.dumps(BadInput("text", int(Flag.NO_DATA))))
    assert str(error) == "text"
    assert error.flags == Flag.NO_DATA
