"""What is written for GALFIT's users: blocks that their scripts read, files that GALFIT starts."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from astropy.io import fits

import hybridfit as hf
from hybridfit.io.blocks import write_blocks
from hybridfit.io.galfit import (
    Component,
    Feedme,
    Outcome,
    Value,
    model_header,
    read_block,
    read_feedme,
    read_outcomes,
    read_restart,
    with_results,
    write_feedme,
)
from hybridfit.io.galfit.header import sky_text, value_text
from hybridfit.model.parameters import ParameterSpace

TRUTH = {
    "x": (10.123456, 0.02),
    "y": (11.98765, 0.03),
    "mag": (20.123456, 0.000123),
    "r_eff": (3.456789, 0.05),
    "n": (2.3456, 0.4),
    "q": (0.654321, 0.01),
    "pa": (150.98765, 2.5),
}


def made(
    flux: float = 1.0,
    sky: float = 0.0123,
    fixed: tuple[str, ...] = (),
    flags: int = 0,
    parts: int = 1,
) -> tuple[hf.Cutouts, hf.Fit]:
    """One fit of a stamp that begins at pixel 100, 200 of its image."""
    shape = (24, 32)
    space = ParameterSpace.of_shapes((("n",),) * parts)
    rows = [*list(TRUTH.values()) * parts, (sky * flux, 0.00045 * flux)]
    errors = [
        0.0 if name in fixed else error for name, (_, error) in zip(space.names, rows, strict=True)
    ]
    fit = hf.Fit(
        space,
        torch.tensor([[value for value, _ in rows]], dtype=torch.float64),
        torch.diag(torch.tensor(errors, dtype=torch.float64) ** 2)[None],
        torch.tensor([760.123456789], dtype=torch.float64),
        torch.tensor([760]),
        torch.tensor([5]),
        torch.tensor([flags]),
    )
    cutouts = hf.Cutouts(
        image=torch.full((1, *shape), flux),
        sigma=torch.full((1, *shape), flux),
        psf=None,
        id=["galaxy"],
        zeropoint=25.256,
        origin=[[100.0, 200.0]],
    )
    return cutouts, fit


def block(tmp_path: Path, *what, feedmes=None) -> Path:
    cutouts, fit = what
    model = np.zeros(cutouts.image.shape, np.float32)
    return write_blocks(tmp_path, cutouts, fit, model, feedmes)[0]


def plain(header: fits.Header, key: str) -> tuple[float, float]:
    """As scripts of GALFIT's users do it: split at +/-, strip the marks."""
    words = [word.strip("[]*{} ") for word in header[key].split(" +/- ")]
    return float(words[0]), float(words[1]) if len(words) > 1 else math.nan


def digits(text: str) -> int:
    return len(re.search(r"\.(\d+)", text)[1])


KEYS = {"x": "XC", "y": "YC", "mag": "MAG", "r_eff": "RE", "n": "N", "q": "AR", "pa": "PA"}


@pytest.mark.parametrize("flags", [0, int(hf.Flag.NOT_CONVERGED)])
@pytest.mark.parametrize("fixed", [(), ("n", "pa")])
def test_a_written_block_is_read_to_its_last_digit(tmp_path: Path, fixed, flags: int):
    """By our reader and by a plain script of GALFIT's conventions: pixels from 1, pa to 90."""
    path = block(tmp_path, *made(fixed=fixed, flags=flags))
    found = read_block(path)
    header = fits.getheader(path, 2)
    sersic = found.components[0]
    shift = {"x": 101.0, "y": 201.0, "pa": -180.0}
    for name, (value, error) in TRUTH.items():
        text = header[f"1_{KEYS[name]}"]
        decimals = digits(text)
        script, script_error = plain(header, f"1_{KEYS[name]}")
        assert decimals >= 4  # GALFIT's own
        assert script == round(value + shift.get(name, 0.0), decimals)
        ours = sersic.values[name]
        origin = {"x": 100.0, "y": 200.0}.get(name, 0.0)
        assert ours.value == pytest.approx(round(value + origin, decimals), abs=1e-9)
        assert ours.fixed == (name in fixed)
        if name in fixed:
            assert text.startswith("[")
            assert math.isnan(script_error)
        else:
            assert script_error == ours.error == pytest.approx(error, rel=0.05)
            assert ours.suspect == bool(flags)
            assert text.startswith("*") == bool(flags)
    assert found.sky is not None
    assert plain(header, "2_SKY")[0] == found.sky.values["sky"].value == 0.01230
    assert found.sky.values["sky"].error == 0.00045
    assert found.sky.values["sky_dx"].fixed
    assert (header["2_XC"], header["2_YC"]) == ("[116.5000]", "[212.5000]")
    assert header["FITSECT"] == "[101:132,201:224]"
    assert found.region == (100, 132, 200, 224)
    assert (found.chi2, found.dof, found.zeropoint) == (760.123456789, 760, 25.256)
    assert found.n_free == header["NFREE"] == 8 - len(fixed)
    assert header["NFIX"] == 2 + len(fixed)
    assert found.flags == (("1",) if flags else ())
    assert (header["HFFLAGS"] == "NOT_CONVERGED") == bool(flags)
    assert read_outcomes(tmp_path) == [found]


@pytest.mark.parametrize("flux", [1.0, 1e-9, 1e-30, 1e6])
def test_a_faint_sky_keeps_its_digits(tmp_path: Path, flux: float):
    """Maggies or counts: the value stands to a hundredth of its error."""
    path = block(tmp_path, *made(flux=flux))
    header, found = fits.getheader(path, 2), read_block(path).sky
    assert found is not None
    for value, error in ((plain(header, "2_SKY")), (found.values["sky"].value, None)):
        assert value == pytest.approx(0.0123 * flux, abs=0.01 * 0.00045 * flux)
        assert error is None or error == pytest.approx(0.00045 * flux, rel=0.05)


def test_the_keywords_of_a_real_block(tmp_path: Path, shared_data: Path):
    """Every card that GALFIT 3.0.5 writes stands in ours, in its order."""
    real = shared_data / "real" / "galfit3" / "sdss_pym01" / "single" / "imgblock.fits.gz"
    theirs = fits.getheader(real, 2)
    ours = fits.getheader(block(tmp_path, *made()), 2)
    keys = [key for key in ours if key != "HFFLAGS" and key in theirs and key != "COMMENT"]
    assert [key for key in theirs if key and key != "COMMENT"] == keys
    for key in keys:
        assert type(ours[key]) is type(theirs[key]), key
    comments = [str(text).strip() for text in theirs["COMMENT"] if str(text).strip()]
    assert set(comments) <= {str(text).strip() for text in ours["COMMENT"]}


def test_galfits_own_header_comes_back(shared_data: Path):
    """All 74 blocks of GALFIT's, read and written: not a character of a value differs."""
    blocks = sorted((shared_data / "real" / "galfit3").glob("*/*/imgblock.fits.gz"))
    assert len(blocks) == 74
    checked = 0
    for path in blocks:
        theirs = fits.getheader(path, 2)
        ours = model_header(read_block(path))
        assert ours["FITSECT"] == theirs["FITSECT"]
        for key, text in theirs.items():
            match = re.fullmatch(r"\d+_([A-Z]+)", key)
            if not match:
                continue
            value, error = plain(theirs, key)
            if match[1] == "PA":  # turned into (-90, 90]
                turn, same = plain(ours, key)[0] - value, plain(ours, key)[1]
                assert abs((turn + 90) % 180 - 90) < 1e-9
                assert same == error or (math.isnan(same) and math.isnan(error))
                continue
            if error < 1e-3 and "e" not in text:  # of which we keep two digits
                assert plain(ours, key) == (value, error)
                continue
            assert ours[key] == text, (path, key)
            checked += 1
    assert checked > 400


def test_several_profiles_as_they_were_asked_for(tmp_path: Path):
    """Types, order and names of files as in the input file; sizes of a disc as its scale."""
    asked = Feedme(
        path=Path("deep/galfit.feedme"),
        image="im.fits",
        sigma="sig.fits",
        psf="psf.fits",
        kernel="kernel.txt",
        mask="mask.fits",
        constraints="con",
        region=(100, 132, 200, 224),
        convolution_box=(50, 60),
        components=(
            Component("sky", {}),
            Component("sersic", {}),
            Component("expdisk", {}),
        ),
    )
    path = block(tmp_path, *made(parts=2), feedmes=[asked])
    header = fits.getheader(path, 2)
    assert [header[f"COMP_{k}"] for k in (1, 2, 3)] == ["sky", "sersic", "expdisk"]
    assert header["PSF"] == "psf.fits kernel.txt"
    assert (header["CONVBOX"], header["CONSTRNT"]) == ("50, 60", "con")
    assert plain(header, "3_RS")[0] == pytest.approx(3.456789 / 1.67835, abs=1e-4)
    assert "3_N" not in header
    found = read_block(path)
    assert (found.feedme, found.image, found.sigma, found.mask) == (
        "galfit.feedme",
        "im.fits",
        "sig.fits",
        "mask.fits",
    )
    assert found.components[2].values["r_eff"].value == pytest.approx(3.456789, abs=1e-4)


def test_pixels_of_a_block(tmp_path: Path):
    """Empty, image, model, residual; MAGZPT holds for EXPTIME 1."""
    path = block(tmp_path, *made())
    with fits.open(path) as hdus:
        hdus.verify("exception")
        assert [hdu.shape for hdu in hdus] == [(), (24, 32), (24, 32), (24, 32)]
        assert hdus[1].header["EXPTIME"] == 1
        assert [hdu.header.get("OBJECT") for hdu in hdus[1:]] == [
            "galaxy",
            "model",
            "residual map",
        ]
        np.testing.assert_array_equal(hdus[3].data, hdus[1].data - hdus[2].data)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (Value(18.9348, 0.0137), "18.9348 +/- 0.0137"),
        (Value(18.93481234, 0.0000137), "18.934812 +/- 0.000014"),
        (Value(18.9348, math.nan), "18.9348 +/- nan"),
        (Value(18.9348, 1e18), "18.9348 +/- 1000000000000000000.0000"),
        (Value(4.0, fixed=True), "[4.0000]"),
        (Value(4.0, 0.1, coupled=True), "{4.0000} +/- {0.1000}"),
        (Value(4.0, 0.1, suspect=True), "*4.0000* +/- *0.1000*"),
    ],
)
def test_texts_of_values(value: Value, text: str):
    assert value_text(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (Value(2.8774, 0.0005), "2.87740 +/- 0.00050"),
        (Value(-3.808e-3, 2.046e-4), "-3.808e-03 +/- 2.046e-04"),
        (Value(1.23456789e-9, 1e-13), "1.23457e-09 +/- 1.000e-13"),
        (Value(0.0, fixed=True), "[0.000e+00]"),
        (Value(0.0, 1e-5), "0.000e+00 +/- 1.000e-05"),
    ],
)
def test_texts_of_a_sky(value: Value, text: str):
    assert sky_text(value) == text


def test_what_a_block_cannot_hold():
    part = Component("sersic", {n: Value(v, e) for n, (v, e) in TRUTH.items()}, ("F1",))
    outcome = Outcome(Path("b"), region=(0, 9, 0, 9), components=(part,))
    with pytest.raises(ValueError, match="terms F1"):
        model_header(outcome)
    with pytest.raises(ValueError, match="has no region"):
        model_header(replace(outcome, region=None))
    unknown = model_header(replace(outcome, components=(), chi2=math.nan, zeropoint=math.nan))
    assert "CHISQ" in unknown  # a header has no NaN: undefined
    assert unknown["CHISQ"] is None


def test_a_restart_file_with_what_was_found(shared_data: Path, tmp_path: Path):
    """Input file and block make GALFIT's restart file: the same numbers and head."""
    for folder in sorted((shared_data / "real" / "galfit3").glob("*/*/"))[::6]:
        if folder.name == "inputs":
            continue
        asked, found = read_feedme(folder / "galfit.feedme"), read_outcomes(folder)[0]
        path = write_feedme(with_results(asked, found), tmp_path / "galfit.01")
        ours, theirs = read_restart(path), read_restart(folder / "galfit.01")
        assert ours.feedme == "galfit.feedme"
        assert (ours.dof, ours.region) == (theirs.dof, theirs.region)
        assert ours.chi2 == pytest.approx(theirs.chi2, abs=6e-4, rel=2e-7)
        for mine, other in zip(ours.components, theirs.components, strict=True):
            for name, value in mine.values.items():
                assert value.fixed == other.values[name].fixed
                difference = value.value - other.values[name].value
                if name == "pa":
                    difference = (difference + 90) % 180 - 90
                assert abs(difference) <= 2e-4 + 1e-3 * abs(value.value) * name.startswith("sky")
    with pytest.raises(ValueError, match="expected"):
        with_results(asked, replace(found, components=found.components[:1]))
