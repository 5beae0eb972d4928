"""One galaxy from its files: noise, masks, cropping, WCS, and every kind of bad input."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS
from hypothesis import given, settings
from hypothesis import strategies as st
from read_helpers import galaxy, gaussian, psf_image, write, write_galaxy, write_mef
from tolerances import SINGLE, TEXT

from hybridfit.data.errors import BadInput
from hybridfit.data.flags import Flag
from hybridfit.detection.noise import to_sigma
from hybridfit.io.options import ReadOptions
from hybridfit.io.read import read
from hybridfit.io.read_cutout import read_cutout
from hybridfit.io.sources import find_sources


def cutout_of(path, **options):
    chosen = ReadOptions(**options)
    return read_cutout(find_sources(path, chosen)[0], chosen)


# ---- noise


def test_sigma_variance_and_ivar_are_the_same_noise(tmp_path):
    noise = np.linspace(0.8, 1.2, 64 * 64).reshape(64, 64)
    write_galaxy(tmp_path, "a", sigma=noise)
    write_galaxy(tmp_path, "b", variance=noise**2)
    write_galaxy(tmp_path, "c", ivar=noise**-2)
    cutouts = read(tmp_path)
    assert cutouts.flags.tolist() == [0, 0, 0]
    for row in cutouts.sigma.numpy():
        np.testing.assert_allclose(row, noise, rtol=1e-6, atol=SINGLE)


@settings(max_examples=30, deadline=None)
@given(st.floats(1e-15, 1e15), st.sampled_from(["sigma", "variance", "ivar"]))
def test_noise_planes_round_trip(sigma, role):
    plane = {"sigma": sigma, "variance": sigma**2, "ivar": sigma**-2}[role]
    assert to_sigma(np.array([[plane]]), role)[0, 0] == pytest.approx(sigma, rel=1e-12)
    assert np.isnan(to_sigma(np.array([[0.0, -1.0, np.nan, np.inf]]), role)).all()


@pytest.mark.parametrize("value", [0.0, -1.0, np.nan, np.inf])
def test_pixels_without_usable_sigma_are_masked(tmp_path, value):
    sigma = np.ones((64, 64))
    sigma[3, 4:7] = value
    stamp = cutout_of(write_galaxy(tmp_path, sigma=sigma))
    assert stamp.flags == Flag.BAD_PIXELS
    assert stamp.mask.sum() == 3
    assert stamp.mask[3, 4:7].all()
    assert "3 pixels" in stamp.message
    assert (stamp.sigma > 0).all()


def test_ivar_of_zero_means_no_data_and_is_no_fault(tmp_path):
    ivar = np.ones((64, 64))
    ivar[:5] = 0
    stamp = cutout_of(write_galaxy(tmp_path, ivar=ivar))
    assert stamp.flags == 0
    assert stamp.mask[:5].all()
    assert stamp.mask.sum() == 5 * 64


def test_two_kinds_of_noise_are_not_chosen_from(tmp_path):
    write_galaxy(tmp_path, variance=np.ones((64, 64)), sigma=np.ones((64, 64)))
    with pytest.raises(BadInput, match="sigma and as variance: expected one"):
        cutout_of(tmp_path)
    write_mef(tmp_path / "m.fits", sci=galaxy(), err=np.ones((64, 64)), ivar=np.ones((64, 64)))
    with pytest.raises(BadInput, match="--hdu-sigma ''"):
        cutout_of(tmp_path / "m.fits", no_psf=True)
    assert cutout_of(tmp_path / "m.fits", no_psf=True, hdu_ivar="").flags == Flag.NO_PSF


def test_missing_sigma_is_made_from_the_sky(tmp_path):
    image = galaxy((128, 128), sigma=3.0, sky=500.0, flux=20_000)
    stamp = cutout_of(write_galaxy(tmp_path, image=image, sigma=None))
    assert stamp.flags == Flag.SIGMA_ESTIMATED
    assert np.ptp(stamp.sigma) == 0
    assert stamp.sigma[0, 0] == pytest.approx(3.0, rel=0.05)  # some 5,000 independent pixels


def test_missing_sigma_with_a_gain_has_poisson_noise(tmp_path):
    image = galaxy((128, 128), sigma=3.0, sky=500.0, flux=20_000)
    stamp = cutout_of(write_galaxy(tmp_path, image=image, sigma=None), gain=2.0)
    expected = np.sqrt(9 + gaussian((128, 128), 63.5, 63.5, 3.0, 20_000) / 2)
    assert np.median(np.abs(stamp.sigma / expected - 1)) < 0.2
    assert stamp.sigma[63, 63] == pytest.approx(expected[63, 63], rel=0.05)


@pytest.mark.parametrize(
    ("factor", "flagged"), [(0.5, True), (1.0, False), (1.4, False), (3, True)]
)
def test_wrong_sigma_is_flagged(tmp_path, factor, flagged):
    stamp = cutout_of(write_galaxy(tmp_path, sigma=np.full((64, 64), factor)))
    assert bool(stamp.flags & Flag.BAD_SIGMA) == flagged


def test_galaxy_that_fills_the_stamp_gives_no_verdict_on_sigma(tmp_path):
    image = galaxy((64, 64), width=25.0, flux=1e6)
    assert not cutout_of(write_galaxy(tmp_path, image=image)).flags & Flag.BAD_SIGMA


def test_image_without_noise_needs_a_sigma(tmp_path):
    image = np.zeros((64, 64), np.float32)
    image[30:34, 30:34] = 5
    stamp = cutout_of(write_galaxy(tmp_path, image=image, sigma=None))
    assert np.isfinite(stamp.sigma).all()
    assert (stamp.sigma > 0).all()


@pytest.mark.parametrize("scale", [1e-15, 1e12])
def test_units_of_flux_do_not_matter(tmp_path, scale):
    image = galaxy(seed=4) + gaussian((64, 64), 12, 50, 2.0, 800)
    write_galaxy(tmp_path, "a", image=image)
    write_galaxy(tmp_path, "b", image=image * scale, sigma=np.full((64, 64), scale))
    write_galaxy(tmp_path, "c", image=image * scale, sigma=None)
    a, b, c = read(tmp_path)[0:1], read(tmp_path)[1:2], read(tmp_path)[2:3]
    assert a.flags.tolist() == b.flags.tolist() == [Flag.MASK_ESTIMATED]
    assert (a.mask == b.mask).all()
    assert float(c.sigma[0, 0, 0]) / scale == pytest.approx(1, rel=0.1)


# ---- masks


def test_neighbours_are_masked_and_the_target_never(tmp_path):
    image = galaxy((96, 96)) + gaussian((96, 96), 20, 70, 2.5, 1500)
    stamp = cutout_of(write_galaxy(tmp_path, image=image))
    assert stamp.flags == Flag.MASK_ESTIMATED
    assert stamp.mask[66:75, 16:25].all()
    assert not stamp.mask[40:56, 40:56].any()
    assert cutout_of(tmp_path, mask_neighbours=False).flags == 0


def test_brighter_neighbour_that_touches_is_split_off(tmp_path):
    image = galaxy((96, 96)) + gaussian((96, 96), 66, 48, 3.0, 20_000)
    stamp = cutout_of(write_galaxy(tmp_path, image=image))
    assert stamp.mask[44:53, 60:72].all()
    assert not stamp.mask[44:52, 43:52].any()
    assert not stamp.flags & Flag.MASKED_CENTRE


def test_target_is_at_the_start_position(tmp_path):
    image = galaxy((96, 96), x=25, y=60) + gaussian((96, 96), 48, 47, 3.0, 4000)
    stamp = cutout_of(write_galaxy(tmp_path, image=image), x=25.5, y=60)
    assert stamp.mask[47, 48]
    assert not stamp.mask[55:66, 20:31].any()
    assert stamp.start[:2].tolist() == [25.5, 60]


def test_isolated_galaxies_are_rarely_flagged(tmp_path):
    for seed in range(40):
        write_galaxy(tmp_path, f"{seed:02d}", image=galaxy((96, 96), seed=seed))
    flags = read(tmp_path).flags
    assert (flags & Flag.MASK_ESTIMATED > 0).sum() <= 4  # expected 1 in some 100
    assert (flags & ~Flag.MASK_ESTIMATED == 0).all()


def test_given_mask_is_used_as_it_is(tmp_path):
    mask = np.zeros((64, 64), np.int16)
    mask[:10, :10] = 1
    mask[50:, 50:] = 4
    stamp = cutout_of(write_galaxy(tmp_path, mask=mask))
    np.testing.assert_array_equal(stamp.mask, mask != 0)
    assert stamp.flags == 0


def test_segmentation_map_masks_all_but_the_target(tmp_path):
    segmap = np.zeros((64, 64), np.int32)
    segmap[25:40, 25:40] = 7
    segmap[:9, :9] = 3
    stamp = cutout_of(write_galaxy(tmp_path, segmap=segmap))
    np.testing.assert_array_equal(stamp.mask, segmap == 3)
    assert stamp.flags == 0


def test_segmentation_map_given_as_mask_is_suspect(tmp_path):
    segmap = np.zeros((64, 64), np.int32)
    segmap[25:40, 25:40] = 7
    segmap[:9, :9] = 3
    stamp = cutout_of(write_galaxy(tmp_path, mask=segmap))
    assert stamp.flags == Flag.SUSPECT_MASK | Flag.MASKED_CENTRE
    assert "give it as segmap" in stamp.message
    stamp = cutout_of(write_galaxy(tmp_path, mask=(segmap > 3).astype(np.uint8)))
    assert stamp.flags == Flag.SUSPECT_MASK | Flag.MASKED_CENTRE


def test_bad_pixel_at_the_centre(tmp_path):
    image = galaxy()
    image[32, 31] = np.nan
    stamp = cutout_of(write_galaxy(tmp_path, image=image))
    assert stamp.flags == Flag.BAD_PIXELS | Flag.MASKED_CENTRE
    image[32, 31] = image[32, 36] = np.inf
    assert cutout_of(write_galaxy(tmp_path, image=image)).mask.sum() == 2


def test_nan_under_the_mask_is_no_fault(tmp_path):
    image, mask = galaxy(), np.zeros((64, 64), bool)
    image[:4] = np.nan
    mask[:4] = True
    assert cutout_of(write_galaxy(tmp_path, image=image, mask=mask.astype(np.uint8))).flags == 0


def test_psf_of_next_to_no_size_is_flagged(tmp_path):
    """An oversampling that is too large leaves a PSF of less than a pixel."""
    write_galaxy(tmp_path)
    stamp = cutout_of(tmp_path, psf_oversampling=15)
    assert stamp.flags & Flag.BAD_PSF
    assert "is psf_oversampling right" in stamp.message
    assert not cutout_of(tmp_path, psf_oversampling=3).flags


@pytest.mark.parametrize("box", [np.s_[:, :9], np.s_[-7:], np.s_[:5, :], np.s_[:, -1:]])
@pytest.mark.parametrize("given", [True, False])
def test_padding_at_an_edge_is_no_sky(tmp_path, box, given):
    """Cutouts that reach beyond their frame are filled up with zeros, whatever the sky is."""
    image = galaxy(sky=100.0)
    image[box] = 0
    write_galaxy(tmp_path, image=image, **({} if given else {"sigma": None}))
    stamp = cutout_of(tmp_path)
    expected = np.zeros(image.shape, bool)
    expected[box] = True
    np.testing.assert_array_equal(stamp.mask, expected)
    assert stamp.flags & Flag.BAD_PIXELS
    assert "edges of one value" in stamp.message


def test_zero_counts_are_sky(tmp_path):
    """In an image of next to no counts a border of zeros is data."""
    image = np.random.default_rng(1).poisson(galaxy(sigma=0) + 0.01)
    image[:3] = 0
    write_galaxy(tmp_path, image=image, sigma=np.full(image.shape, 0.3))
    assert not cutout_of(tmp_path).mask.any()


def test_sigma_of_a_sky_that_is_mostly_zero(tmp_path):
    """Pixels clipped at zero: the galaxy is still told from its sky, and sigma from the galaxy."""
    image = np.maximum(galaxy(shape=(96, 96), flux=4000) - 0.5, 0)
    write_galaxy(tmp_path, image=image, sigma=None)
    assert (image == 0).mean() > 0.6
    assert float(np.median(cutout_of(tmp_path).sigma)) == pytest.approx(np.std(image[:24]), rel=0.4)


# ---- cropping, positions, WCS


def test_large_stamps_are_cropped_around_the_target(tmp_path):
    header = WCS(naxis=2)
    header.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    header.wcs.crval, header.wcs.crpix, header.wcs.cdelt = [150, 2], [200, 150], [-1e-4, 1e-4]
    image = galaxy((300, 400), x=250.3, y=130.6, width=4, flux=5000)
    write_galaxy(tmp_path, image=image)
    write(tmp_path / "a_image.fits", image, header.to_header())
    stamp = cutout_of(tmp_path, x=250, y=131, zeropoint=25)
    x0, y0 = stamp.origin
    h, w = stamp.image.shape
    assert stamp.flags & Flag.CROPPED
    assert f"cropped from 300 x 400 to {h} x {w}" in stamp.message
    assert 97 <= h <= 200
    assert 97 <= w <= 200
    assert stamp.start[:2].tolist() == [250 - x0, 131 - y0]
    keep = ~stamp.mask
    np.testing.assert_array_equal(stamp.image[keep], image[y0 : y0 + h, x0 : x0 + w][keep])
    assert stamp.pixel_scale == pytest.approx(0.36)
    here = stamp.wcs.wcs_pix2world([[250 - x0, 131 - y0]], 0)
    np.testing.assert_allclose(here, header.wcs_pix2world([[250, 131]], 0), atol=1e-9)
    whole = cutout_of(tmp_path, x=250, y=131, crop="none")
    assert whole.image.shape == (300, 400)
    assert not whole.flags & Flag.CROPPED


def test_galaxy_that_needs_its_stamp_keeps_it(tmp_path):
    image = galaxy((300, 300), width=20, flux=1e6)
    assert cutout_of(write_galaxy(tmp_path, image=image)).image.shape == (300, 300)


def test_wcs_of_hundreds_of_cards_and_without_any(tmp_path):
    header = fits.Header()
    header["CTYPE1"], header["CTYPE2"] = "RA---TAN", "DEC--TAN"
    header["CRVAL1"], header["CRVAL2"], header["CRPIX1"], header["CRPIX2"] = 10.0, -5.0, 1.0, 1.0
    header["CD1_1"], header["CD1_2"], header["CD2_1"], header["CD2_2"] = 0, 1e-4, 2e-4, 0
    for i in range(200):
        header[f"KEY{i}"] = (i, "something else")
    header["HISTORY"] = "long ago"
    write_galaxy(tmp_path)
    write(tmp_path / "a_image.fits", galaxy(), header)
    stamp = cutout_of(tmp_path)
    np.testing.assert_allclose(
        stamp.wcs.wcs_pix2world([[5, 7]], 0), WCS(header).wcs_pix2world([[5, 7]], 0), atol=TEXT
    )
    assert stamp.pixel_scale == pytest.approx(3600 * np.sqrt(2) * 1e-4)
    for key in ("CTYPE1", "CTYPE2"):
        header[key] = "LINEAR"
    write(tmp_path / "a_image.fits", galaxy(), header)
    stamp = cutout_of(tmp_path)
    assert stamp.wcs is None
    assert np.isnan(stamp.pixel_scale)


@pytest.mark.parametrize("dtype", ["u1", ">i2", ">i4", ">i8", ">f4", ">f8"])
def test_every_type_of_pixel(tmp_path, dtype):
    image = galaxy(sigma=2.0, sky=40, flux=3000).clip(0, 250).astype(dtype)
    stamp = cutout_of(write_galaxy(tmp_path, image=image, sigma=np.full((64, 64), 2.0)))
    assert stamp.image.dtype == np.float32
    assert stamp.image.dtype.isnative
    np.testing.assert_array_equal(stamp.image[~stamp.mask], image[~stamp.mask])


def test_scaled_integers_blank_and_extra_axes(tmp_path):
    write_galaxy(tmp_path)
    image = galaxy(sky=20)
    hdu = fits.PrimaryHDU(image[None, None].astype(np.float64))
    hdu.scale("int16", bscale=0.01, bzero=100)
    hdu.header["BLANK"] = -32768
    hdu.data[0, 0, 5, 6] = -32768
    hdu.writeto(tmp_path / "a_image.fits", overwrite=True)
    stamp = cutout_of(tmp_path)
    assert stamp.image.shape == (64, 64)
    good = ~stamp.mask
    np.testing.assert_allclose(stamp.image[good], image[good], atol=0.0051)


# ---- bad input


def truncate(path, share=0.5):
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])


@pytest.mark.parametrize("role", ["image", "sigma", "psf"])
@pytest.mark.parametrize("ending", [".fits", ".fits.gz"])
def test_truncated_files(tmp_path, role, ending):
    write_galaxy(tmp_path, psf=psf_image(41, 2.0))
    plane = {"image": galaxy(), "sigma": np.ones((64, 64)), "psf": psf_image(41, 2.0)}[role]
    (tmp_path / f"a_{role}.fits").unlink()
    truncate(write(tmp_path / f"a_{role}{ending}", plane))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(BadInput, match=f"a_{role}{ending}' cannot be read as FITS"):
            cutout_of(tmp_path)


@pytest.mark.parametrize("content", [b"", b"x,y\n1,2\n" * 1000, b"SIMPLE  =", b"\0" * 5760])
def test_text_named_fits(tmp_path, content):
    write_galaxy(tmp_path)
    (tmp_path / "a_image.fits").write_bytes(content)
    with pytest.raises(BadInput, match=r"a_image.fits' (cannot be read as FITS|has no image)"):
        cutout_of(tmp_path)


def test_missing_hdus(tmp_path):
    write_mef(tmp_path / "m.fits", image=galaxy(), sigma=np.ones((64, 64)), psf=psf_image())
    assert cutout_of(tmp_path / "m.fits").flags == 0
    with pytest.raises(BadInput, match=r"expected an image HDU named FLUX.*1 IMAGE"):
        cutout_of(tmp_path / "m.fits", hdu_image="FLUX")
    fits.PrimaryHDU().writeto(tmp_path / "e.fits")
    with pytest.raises(BadInput, match="has no image: expected an HDU with an image"):
        cutout_of(tmp_path / "e.fits", no_psf=True)
    path = tmp_path / "list.csv"
    path.write_text("id,image,psf\na,m.fits[FLUX],m.fits[PSF]\nb,m.fits[1],m.fits[9]\n")
    cutouts = read(path)
    assert "has no HDU 'FLUX': it has 0 PRIMARY (no image), 1 IMAGE" in cutouts.messages[0]
    assert "has no HDU '9'" in cutouts.messages[1]


@pytest.mark.parametrize("role", ["sigma", "variance", "ivar", "mask", "segmap"])
def test_shapes_that_differ(tmp_path, role):
    write_galaxy(tmp_path, **{role: np.ones((60, 64))})
    said = rf"{role} of 'a' has shape \(60, 64\), expected \(64, 64\)"
    with pytest.raises(BadInput, match=said):
        cutout_of(tmp_path)


@pytest.mark.parametrize(
    ("planes", "said", "flag"),
    [
        ({"image": np.full((64, 64), np.nan)}, "no pixel has data", Flag.NO_DATA),
        ({"mask": np.ones((64, 64))}, "every pixel is masked", Flag.NO_DATA),
        ({"image": np.full((64, 64), 3.0)}, r"constant \(3 in every pixel\)", Flag.NO_SIGNAL),
        ({"sigma": np.zeros((64, 64))}, "no pixel has a usable sigma", Flag.UNREADABLE),
        ({"sigma": -np.ones((64, 64))}, "no pixel has a usable sigma", Flag.UNREADABLE),
        ({"ivar": np.zeros((64, 64))}, "no pixel has a usable ivar", Flag.UNREADABLE),
        ({"psf": np.zeros((9, 9))}, "a_psf.fits' cannot be used.*but zeros", Flag.UNREADABLE),
        ({"psf": -psf_image()}, "sums to -1", Flag.UNREADABLE),
        ({"psf": np.ones((3, 9, 9))}, "two axes", Flag.UNREADABLE),
        ({"psf": np.zeros((2051, 3))}, "at most 2049", Flag.UNREADABLE),
        ({"image": galaxy((4, 64))}, "4 x 64 pixels, expected at least 5", Flag.UNREADABLE),
        ({"image": np.ones(64)}, "expected two axes", Flag.UNREADABLE),
        ({"image": np.ones((3, 64, 64))}, r"shape \(3, 64, 64\), expected two", Flag.UNREADABLE),
    ],
)
def test_useless_planes(tmp_path, planes, said, flag):
    write_galaxy(tmp_path, **planes)
    with pytest.raises(BadInput, match=said) as caught:
        cutout_of(tmp_path)
    assert caught.value.flags == flag


@pytest.mark.parametrize("sides", [(30_000, 8), (15_000, 15_000), (2**40, 2**40)])
def test_absurd_sizes_are_refused_from_the_header(tmp_path, sides):
    write_galaxy(tmp_path)
    header = fits.Header()
    header["SIMPLE"], header["BITPIX"], header["NAXIS"] = True, -32, 2
    header["NAXIS1"], header["NAXIS2"] = sides
    (tmp_path / "a_image.fits").write_bytes(header.tostring().encode())
    with pytest.raises(BadInput, match=r"cut it out first|cannot be read"):
        cutout_of(tmp_path)


@pytest.mark.parametrize(
    ("options", "said"),
    [({"x": 70.0}, "x, y = 70, 31.5 lies outside the image of 64 x 64"), ({"y": -3}, "outside")],
)
def test_start_outside_the_image(tmp_path, options, said):
    with pytest.raises(BadInput, match=said):
        cutout_of(write_galaxy(tmp_path), **options)


def test_start_values_of_a_row_are_checked(tmp_path):
    write_galaxy(tmp_path)
    path = tmp_path / "list.csv"
    head = "id,image,psf,q,psf_oversampling\n"
    path.write_text(head + "a,a_image.fits,a_psf.fits,1.2,\nb,a_image.fits,a_psf.fits,,1.5\n")
    cutouts = read(path)
    assert "q is 1.2, expected in (0, 1]" in cutouts.messages[0]
    assert "psf_oversampling is 1.5" in cutouts.messages[1]


def test_directory_instead_of_a_file(tmp_path):
    (tmp_path / "a.fits").mkdir()
    path = tmp_path / "list.csv"
    path.write_text("id,image\na,a.fits\n")
    assert "is a directory" in read(path, no_psf=True).messages[0]


# ---- real galaxies


def test_real_cases(shared_data):
    cases = shared_data / "real" / "cases"
    options = ReadOptions(
        **{
            f"pattern_{role}": f"{{id}}/{role}.fits"
            for role in ("image", "sigma", "psf", "mask", "segmap")
        }
    )
    sources = find_sources(cases, options)
    assert len(sources) == 46
    flags = {}
    for source in sources:
        chosen = options if source.psf else ReadOptions(no_psf=True)
        stamp = read_cutout(source, chosen)
        flags[source.id] = Flag(stamp.flags)
        assert np.isfinite(stamp.image).all()
        assert (stamp.sigma > 0).all()
        truth = json.loads((cases / source.id / "meta.json").read_text())["shapes"]["image"][0]
        assert stamp.image.shape == tuple(truth) or stamp.flags & Flag.CROPPED
    assert flags["sdss_J092800"] & Flag.SUSPECT_MASK
    assert all(flags[name] & Flag.BAD_PSF for name in flags if name.endswith("_kids"))
    for name in (name for name in flags if name.startswith("sim_autolens")):
        assert flags[name] & Flag.MASKED_CENTRE
    clean = Flag.CROPPED | Flag.PSF_NORMALISED | Flag.NO_ZEROPOINT  # SDSS's headers had none
    for name in (name for name in flags if name.startswith("sdss_pym")):
        # the outer third of this one's PSF is negative, with 1.3 % of the flux
        known = Flag.PSF_TRUNCATED if name == "sdss_pym24" else Flag(0)
        assert not flags[name] & ~(clean | known)
