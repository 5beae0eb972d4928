"""HDUs, sections and planes by CFITSIO's and IRAF's names, in manifests and in GALFIT files."""

from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS

import hybridfit as hf
from hybridfit.data.errors import BadInput
from hybridfit.io.address import Address, parse_address
from hybridfit.io.galfit import read_feedme
from hybridfit.io.galfit.read_cutout import read_feedme_cutout
from hybridfit.io.options import ReadOptions
from hybridfit.io.planes import read_plane
from hybridfit.io.read_cutout import read_cutout
from hybridfit.io.sources import find_sources

PLAIN = ReadOptions(no_psf=True, crop="none", mask_neighbours=False)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a.fits", Address("a.fits")),
        ("a.fits[0]", Address("a.fits", "0", tail="[0]")),
        ("a.fits.gz[ 2 ]", Address("a.fits.gz", "2", tail="[ 2 ]")),
        ("a.fits[sci]", Address("a.fits", "sci", tail="[sci]")),
        ("a.fits[sci,2]", Address("a.fits", "sci", 2, tail="[sci,2]")),
        ("a.fits[SCI, 2, i]", Address("a.fits", "SCI", 2, tail="[SCI, 2, i]")),
        ("a.fits[extname=SCI,extver=2]", Address("a.fits", "SCI", 2, (), "[extname=SCI,extver=2]")),
        ("a.fits+3", Address("a.fits", "3", tail="[3]")),
        ("a.fits.gz+3", Address("a.fits.gz", "3", tail="[3]")),
        ("a+3.fits", Address("a+3.fits")),
        ("a.fits[10:50,20:60]", Address("a.fits", "", 0, ((10, 50), (20, 60)), "[10:50,20:60]")),
        ("a.fits[SCI][*,2:9]", Address("a.fits", "SCI", 0, (None, (2, 9)), "[SCI][*,2:9]")),
        ("a.fits+1[*,*,3]", Address("a.fits", "1", 0, (None, None, (3, 3)), "[1][*,*,3]")),
        ("d[1]/a.fits", Address("d[1]/a.fits")),
    ],
)
def test_names_are_taken_apart(text: str, expected: Address):
    assert parse_address(text) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a.fits[]", "names no HDU"),
        ("a.fits[sci,x]", "expected like file.fits"),
        ("a.fits[1][2][3]", "expected like|axes"),
        ("a.fits[1:9:2,*]", "steps and mirrored axes are not read"),
        ("a.fits[-*,*]", "steps and mirrored axes are not read"),
        ("a.fits[9:1,*]", "1 <= first <= last"),
        ("a.fits[0:4,*]", "1 <= first <= last"),
        ("a.fits[*,*][*,*]", "expected like file.fits"),
    ],
)
def test_names_that_say_nothing(text: str, message: str):
    with pytest.raises(BadInput, match=message):
        parse_address(text)


def test_a_file_that_is_called_so_goes_first(tmp_path: Path):
    for name in ("a.fits[1]", "a.fits+1"):
        (tmp_path / name).write_text("")
        assert parse_address(str(tmp_path / name)) == Address(str(tmp_path / name))


@pytest.fixture
def chips(tmp_path: Path) -> Path:
    """As HST has them: SCI and ERR twice, with EXTVER, a WCS, and a cube (band, y, x)."""
    rng = np.random.default_rng(1)
    wcs = WCS(naxis=2)
    wcs.wcs.ctype, wcs.wcs.cunit = ["RA---TAN", "DEC--TAN"], ["deg", "deg"]
    wcs.wcs.crpix, wcs.wcs.crval = [40.5, 30.5], [150.0, 2.0]
    wcs.wcs.cdelt = [-1e-5, 1e-5]
    hdus = [fits.PrimaryHDU()]
    for version in (1, 2):
        for name, level in (("SCI", 0.0), ("ERR", 10.0)):
            plane = rng.normal(level, 1, (60, 80)).astype(np.float32) ** (2 if name == "ERR" else 1)
            hdus.append(fits.ImageHDU(plane, wcs.to_header(), name=name, ver=version))
    hdus.append(fits.ImageHDU(rng.normal(size=(5, 60, 80)).astype(np.float32), name="CUBE"))
    path = tmp_path / "chips.fits"
    fits.HDUList(hdus).writeto(path)
    return path


def plane(path: Path, name: str, version: int = 1) -> np.ndarray:
    with fits.open(path) as hdus:
        return np.array(hdus[name, version].data)


@pytest.mark.parametrize(
    ("tail", "name", "version"),
    [
        ("[3]", "SCI", 2),
        ("+3", "SCI", 2),
        ("[sci]", "SCI", 1),
        ("[SCI,2]", "SCI", 2),
        ("[err,1]", "ERR", 1),
        ("[err,2,i]", "ERR", 2),
    ],
)
def test_an_hdu_by_number_name_and_version(chips: Path, tail: str, name: str, version: int):
    assert np.array_equal(read_plane(f"{chips}{tail}")[0], plane(chips, name, version))


def test_a_section_counts_from_one_with_both_ends_in(chips: Path):
    whole = plane(chips, "SCI")
    assert np.array_equal(read_plane(f"{chips}[sci][10:50,20:60]")[0], whole[19:60, 9:50])
    assert np.array_equal(read_plane(f"{chips}[sci,1][*,20:60]")[0], whole[19:60])
    with pytest.raises(BadInput, match="asks for pixels 10 to 99 of axis 1, which has 80"):
        read_plane(f"{chips}[sci][10:99,*]")
    with pytest.raises(BadInput, match="has 3 axes in its section, but the image has 2"):
        read_plane(f"{chips}[sci][*,*,1]")


def test_a_plane_of_a_cube(chips: Path):
    cube = plane(chips, "CUBE")
    assert np.array_equal(read_plane(f"{chips}[cube][*,*,3]")[0], cube[2])
    assert np.array_equal(read_plane(f"{chips}+5[11:30,*,4:4]")[0], cube[3][:, 10:30])
    for text in (f"{chips}[cube]", f"{chips}[cube][*,1:9,*]"):
        with pytest.raises(BadInput, match=r"choose a plane of it, e\.g\. '.*\[cube\]\[\*,\*,1\]'"):
            read_plane(text)
    with pytest.raises(BadInput) as told:
        read_plane(f"{chips}[cube]")
    advice = str(told.value).split("e.g. '")[1].split("'")[0]
    assert np.array_equal(read_plane(advice)[0], cube[0])  # what it says does it
    fits.writeto(chips.parent / "cube.fits", cube)
    with pytest.raises(BadInput, match=r"cube\.fits\[0\]\[\*,\*,1\]' for the first"):
        read_plane(str(chips.parent / "cube.fits"))


def manifest(chips: Path, image: str, **more: str) -> Path:
    path = chips.parent / "list.csv"
    names = ["id", "image", *more]
    path.write_text(f"{','.join(names)}\na," + ",".join(f'"{v}"' for v in (image, *more.values())))
    return path


@pytest.mark.parametrize("version", [1, 2])
def test_companions_are_those_of_the_chip(chips: Path, version: int):
    source = find_sources(manifest(chips, f"chips.fits[sci,{version}]"), PLAIN)[0]
    stamp = read_cutout(source, PLAIN)
    assert np.array_equal(stamp.image, plane(chips, "SCI", version))
    assert np.array_equal(stamp.sigma, plane(chips, "ERR", version))


@pytest.mark.parametrize(
    "more", [{}, {"sigma": "chips.fits[err,1]"}, {"sigma": "chips.fits[err,1][10:50,20:60]"}]
)
def test_positions_of_a_section_are_those_of_the_image(chips: Path, more: dict[str, str]):
    """Pixels, start, origin and sky: as of the whole image; noise is cut as the image is."""
    path = manifest(chips, "chips.fits[sci,1][10:50,20:60]", x="30", y="40", **more)
    stamp = read_cutout(find_sources(path, PLAIN)[0], PLAIN)
    assert np.array_equal(stamp.image, plane(chips, "SCI")[19:60, 9:50])
    assert np.array_equal(stamp.sigma, plane(chips, "ERR")[19:60, 9:50])
    assert stamp.origin == (9, 19)
    assert stamp.start[:2].tolist() == [21, 21]
    whole = WCS(fits.getheader(chips, 1))
    # the same pixel on the sky, to rounding of degrees in float64
    ours, theirs = stamp.wcs.all_pix2world([(21, 21)], 0), whole.all_pix2world([(30, 40)], 0)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-12)


def test_a_file_may_be_the_whole_input(chips: Path):
    cutouts = hf.read(f"{chips}[sci,2]", no_psf=True, crop="none", mask_neighbours=False)
    assert list(cutouts.id) == ["chips"]
    assert np.array_equal(cutouts.image[0, :60, :80].numpy(), plane(chips, "SCI", 2))


FEEDME = """A) {image}
B) out.fits
C) {sigma}
H) {region}
J) 25.0
K) 0.05 0.05
P) 0
 0) sersic
 1) 30 30 1 1
 3) 20 1
 4) 5 1
 5) 2 1
 9) .8 1
10) 10 1
"""


@pytest.mark.parametrize("tail", ["[sci,2]", "[SCI, 2]", "+3", "[3]"])
def test_galfits_files_name_hdus(chips: Path, tail: str):
    path = chips.parent / "galfit.feedme"
    name = f"'chips.fits{tail}'" if " " in tail else f"chips.fits{tail}"
    path.write_text(FEEDME.format(image=name, sigma="chips.fits[err,2]", region="11 50 21 55"))
    feedme = read_feedme(path)
    assert feedme.bands == ()
    stamp = read_feedme_cutout(feedme)
    assert np.array_equal(stamp.image, plane(chips, "SCI", 2)[20:55, 10:50])
    assert np.array_equal(stamp.sigma, plane(chips, "ERR", 2)[20:55, 10:50])


def test_galfit_counts_pixels_from_the_section(chips: Path):
    """To GALFIT a section is the image: rows H) and 1) count from its first pixel."""
    path = chips.parent / "galfit.feedme"
    path.write_text(
        FEEDME.format(image="chips.fits[sci,1][10:50,20:60]", sigma="none", region="3 30 5 40")
    )
    stamp = read_feedme_cutout(read_feedme(path))
    assert np.array_equal(stamp.image, plane(chips, "SCI")[19:60, 9:50][4:40, 2:30])
    assert stamp.origin == (2, 4)
    whole = WCS(fits.getheader(chips, 1))
    ours, theirs = stamp.wcs.all_pix2world([(0, 0)], 0), whole.all_pix2world([(11, 23)], 0)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-12)  # degrees


def test_galfitm_bands_are_still_told(chips: Path):
    path = chips.parent / "galfit.feedme"
    image = "chips.fits[sci,1],chips.fits[sci,2]"
    path.write_text(FEEDME.format(image=image, sigma="none", region="1 80 1 60"))
    feedme = read_feedme(path)
    assert len(feedme.bands) == 2
    assert feedme.image == "chips.fits[sci,1]"
