"""Distorted isophotes against sums over fine points, GALFIT's saved images, and differences."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from distorted_helpers import (
    Array,
    distorted_rho,
    light_at,
    pixels_of,
    sersic_light,
    truncation,
)
from render_helpers import errors, gaussian_psf, stamps
from scipy.signal import fftconvolve
from test_render_profiles import coords_of, images_of

from hybridfit.io.planes import opened
from hybridfit.model.profiles import Distorted, find_profile
from hybridfit.model.profiles.distortions import Distortions, distortions_of

SIGMA = 1.4  # of the PSF, pixels
GOOD = 1e-3  # of the peak and of the flux, as for other profiles
PLACE = {"x": 31.3, "y": 32.2, "q": 0.6, "pa": 30.0, "r_eff": 5.0}
ARMS = {"rot_in": 2.0, "rot_out": 9.0, "rot_angle": 150.0, "rot_incl": 40.0, "rot_pa": 20.0}
CASES: dict[str, dict[str, float]] = {
    "sersic~f1": {"n": 1.0, "f1_amp": 0.2, "f1_phase": 40.0},
    "sersic~f3~f4": {
        "n": 2.5,
        "f3_amp": 0.1,
        "f3_phase": -20.0,
        "f4_amp": 0.05,
        "f4_phase": 10.0,
    },
    "sersic~f6": {"n": 1.0, "f6_amp": 0.05, "f6_phase": 10.0},
    "sersic~c0~f1": {"n": 4.0, "c0": 0.4, "f1_amp": 0.3, "f1_phase": 100.0},
    "sersic~b1~b2": {"n": 1.5, "b1": 0.5, "b2": 1.0},
    "sersic~power": {"n": 0.8, "q": 0.4, "r_eff": 10.0, "rot_power": 0.5, **ARMS},
    "sersic~log": {"n": 1.0, "q": 0.5, "r_eff": 8.0, "rot_scale": 5.0, **ARMS},
    "sersic~f1~b2~power": {
        "n": 1.2,
        "f1_amp": -0.1,
        "f1_phase": 60.0,
        "b2": 0.7,
        "rot_power": 0.3,
        **ARMS,
    },
}
CUT = {"outer_break": 6.0, "outer_soft": 4.0}
# points within pixels show neither sharper edges nor, as well, their derivatives by the centre
WIDE = {"outer_break": 8.0, "outer_soft": 10.0}
TRUNCATED: dict[str, dict[str, float]] = {
    "sersic~outer": {"n": 1.5, **CUT},
    "sersic~inner": {"n": 1.5, "inner_break": 6.0, "inner_soft": 3.0},
    "sersic~inner_r": {"n": 1.0, "inner_break": 3.0, "inner_soft": 4.0},
    "sersic~outer_r": {"n": 1.0, "outer_break": 12.0, "outer_soft": 6.0},
    "sersic~f2~inner~outer": {
        "n": 1.0,
        "f2_amp": 0.1,
        "f2_phase": 30.0,
        "inner_break": 4.0,
        "inner_soft": 3.0,
        **WIDE,
    },
    "sersic~power~outer": {"n": 0.8, "q": 0.4, "r_eff": 10.0, "rot_power": 0.5, **ARMS, **WIDE},
}
CASES_OF_ALL = {**CASES, **TRUNCATED}
DIFFERENCE = 1e-5


def values_of(name: str) -> dict[str, float]:
    return {**PLACE, **CASES_OF_ALL[name]}


def coords(name: str) -> torch.Tensor:
    return torch.tensor([coords_of(find_profile(name), values_of(name))], dtype=torch.float64)


def truth(values: dict[str, float]) -> Array:
    light = light_at(values, lambda rho: sersic_light(rho, values["n"]))
    # the wings of an index of 4 hold a thousandth of the light beyond 6 sides
    return pixels_of(values, light, 64, SIGMA, wide=20 if values["n"] > 2 else 6)


@pytest.mark.parametrize("name", CASES)
def test_images_are_those_of_the_formulas(name: str) -> None:
    images = images_of(find_profile(name), coords(name), stamps((64, 64), gaussian_psf(SIGMA)))
    assert max(errors(images[0, 0].numpy(), truth(values_of(name)))) < GOOD


@pytest.mark.parametrize("name", CASES)
def test_a_mirrored_truth_is_told_apart(name: str) -> None:
    """The tolerance notices the wrong sign of any distortion."""
    values = values_of(name)
    own = [n for n in values if re.fullmatch(r"f\d+_amp|b\d+|rot_angle|rot_incl", n)]
    image = images_of(find_profile(name), coords(name), stamps((64, 64), gaussian_psf(SIGMA)))
    for key in own:
        wrong = {**values, key: 0.0 if key == "rot_incl" else -values[key]}
        assert max(errors(image[0, 0].numpy(), truth(wrong))) > 5 * GOOD, key


@pytest.mark.parametrize("name", TRUNCATED)
def test_truncated_images_are_those_of_the_formulas(name: str) -> None:
    """The flux is that of the profile without truncation."""
    values = values_of(name)
    kinds = find_profile(name).distortions.truncations
    plain = light_at(values, lambda rho: sersic_light(rho, values["n"]))

    def light(dx: Array, dy: Array) -> Array:
        shares = [truncation(dx, dy, values, kind) for kind in kinds]
        return plain(dx, dy) * np.prod(shares, axis=0)

    image = images_of(find_profile(name), coords(name), stamps((64, 64), gaussian_psf(SIGMA)))
    whole = pixels_of(values, plain, 64, SIGMA, wide=6)
    part = pixels_of(values, light, 64, SIGMA, wide=6)  # of unit flux
    y, x = np.mgrid[-200:201, -200:201] + 0.01
    fine = np.arange(-60, 60, 0.1)
    fx, fy = np.meshgrid(fine - 0.013, fine + 0.007)
    outside = np.maximum(abs(x), abs(y)) > 60
    total = plain(fx, fy).sum() * 0.01 + plain(x, y)[outside].sum()
    share = light(fx, fy).sum() * 0.01 / total
    # the share is a sum over points a tenth of a pixel apart, without care for the cusp
    assert max(errors(image[0, 0].numpy(), share * part)) < 2 * GOOD
    assert max(errors(image[0, 0].numpy(), whole)) > 20 * GOOD


@pytest.mark.parametrize("name", CASES_OF_ALL)
def test_derivatives_are_differences(name: str) -> None:
    profile, at = find_profile(name), coords(name)
    cutouts = stamps((64, 64), gaussian_psf(SIGMA))
    jacobian = images_of(profile, at, cutouts, jacobian=True)[0, 1:]
    for k, slope in enumerate(jacobian):
        step = torch.zeros_like(at)
        step[0, k] = DIFFERENCE
        ahead, behind = (images_of(profile, at + s, cutouts)[0, 0] for s in (step, -step))
        expected = (ahead - behind) / (2 * DIFFERENCE)
        # windows and sampled points move with the parameters in differences, not in derivatives
        error = (slope - expected).abs().max() / expected.abs().max()
        assert float(error) < 1e-3, profile.coordinates[k]


@pytest.mark.parametrize("name", ["sersic~c0~f1", "sersic~f1~b2~power"])
def test_batches_are_loops_in_single_precision_too(name: str) -> None:
    profile, one = find_profile(name), coords(name)
    other = one.clone()
    other[0, :2] += 0.4
    other[0, 3] += 0.2
    cutouts = stamps((64, 64), gaussian_psf(SIGMA), batch=2)
    both = images_of(profile, torch.cat([one, other]), cutouts, jacobian=True)
    for k, single in enumerate((one, other)):
        alone = images_of(profile, single, stamps((64, 64), gaussian_psf(SIGMA)), jacobian=True)
        # the number of the core's nodes is that of the largest of a batch
        assert torch.allclose(both[k], alone[0], atol=2e-4 * float(alone[0].abs().max()))
    low = images_of(profile, torch.cat([one, other]), cutouts, dtype=torch.float32)
    assert torch.allclose(low[:, 0].double(), both[:, 0], atol=1e-5 * float(both[:, 0].max()))


def test_without_amplitudes_it_is_the_profile_itself() -> None:
    values = {**PLACE, "n": 2.0, "f2_amp": 0.0, "f2_phase": 10.0, "b3": 0.0, "c0": 0.0}
    profile = find_profile("sersic~c0~f2~b3")
    at = torch.tensor([coords_of(profile, values)], dtype=torch.float64)
    plain = torch.tensor([coords_of(find_profile("sersic"), values)], dtype=torch.float64)
    cutouts = stamps((64, 64), gaussian_psf(SIGMA))
    image = images_of(profile, at, cutouts)
    expected = images_of(find_profile("sersic"), plain, cutouts)
    assert torch.allclose(image, expected, atol=1e-4 * float(expected.max()))


@pytest.mark.parametrize("base", ["moffat", "king", "ferrers", "core_sersic", "exponential"])
def test_every_radial_profile_can_be_distorted(base: str) -> None:
    """The flux stays 1, whatever the profile: pixels of a wide image sum to it."""
    profile = find_profile(f"{base}~f1~f2")
    shape = {"beta": 3.0, "alpha": 1.5, "concentration": 4.0, "n": 1.0, "gamma": 0.1}
    shape |= {"core_ratio": 0.2, "f1_amp": 0.2, "f1_phase": 30.0, "f2_amp": -0.1, "f2_phase": 5.0}
    shape |= {"beta": 0.3} if base == "ferrers" else {}
    values = {**PLACE, "r_eff": 3.0, **shape}
    at = torch.tensor([coords_of(profile, values)], dtype=torch.float64)
    image = images_of(profile, at, stamps((128, 128), gaussian_psf(SIGMA)))[0, 0]
    assert float(image.sum()) == pytest.approx(1.0, abs=6e-3 if base == "moffat" else 1e-3)


def test_names_list_distortions() -> None:
    profile = find_profile("moffat~f1~c0~b2~f3~log")
    assert isinstance(profile, Distorted)
    assert profile.distortions == Distortions(True, (1, 3), (2,), "log")
    assert profile.distortions.suffix == "~c0~f1~f3~b2~log"
    assert profile.shape[:4] == ("beta", "c0", "f1_amp", "f1_phase")
    assert profile.key != find_profile("moffat~f1").key


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("sersic~g1", "has the distortion 'g1': expected c0, f1"),
        ("sersic~f1~f1", "'f1' after another one"),
        ("sersic~power~log", "'log' after another one"),
        ("point~f1", "PointSource cannot be distorted"),
        ("edge_on~f1", "EdgeOnDisk cannot be distorted"),
        ("nosuch~f1", "unknown profile 'nosuch'"),
    ],
)
def test_wrong_names_are_errors(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        find_profile(name)
    with pytest.raises(ValueError, match="has the distortion 'f0'"):
        distortions_of("sersic~f0", ["f0"])


# --- GALFIT's own images --------------------------------------------------------------------

KEYS = {"XC": "x", "YC": "y", "RE": "r_eff", "N": "n", "AR": "q", "PA": "pa"}
KEYS |= {"RIN": "rot_in", "ROUT": "rot_out", "RANG": "rot_angle", "ALPHA": "rot_power"}
KEYS |= {"INCL": "rot_incl", "SPA": "rot_pa", "F1": "f1_amp", "F1PA": "f1_phase"}
KEYS |= {"F3": "f3_amp", "F3PA": "f3_phase", "MAG": "mag"}


def galfit_arms(folder: Path) -> tuple[Array, dict[str, float], Array]:
    """GALFIT's model of the third component, its parameters, and radii of pixels from its centre.

    The other components are Sersic profiles: their pixels are averages over fine points.
    """
    with opened(str(folder / "block.fits")) as hdus:
        header, model = hdus[2].header.copy(), hdus[2].data.astype(float)

    def number(key: str) -> float:
        return float(re.sub(r"[\[\]*]", "", str(header[key])).split("+/-")[0])

    x0, _, y0, _ = (int(v) for v in re.findall(r"\d+", header["FITSECT"]))
    first = {"x": x0, "y": y0}
    parts = []
    for k in (1, 2, 3):
        part = {ours: number(f"{k}_{key}") for key, ours in KEYS.items() if f"{k}_{key}" in header}
        parts.append({key: v - first.get(key, 0.0) for key, v in part.items()})
    y, x = np.mgrid[: model.shape[0], : model.shape[1]].astype(float)
    sky = number("4_SKY") + number("4_DSDX") * (x + x0 - number("4_XC"))
    model = model - sky - number("4_DSDY") * (y + y0 - number("4_YC"))
    step = (np.arange(11) + 0.5) / 11 - 0.5
    for part in parts[:2]:
        fine = np.zeros_like(model)
        for sx in step:
            for sy in step:
                rho = distorted_rho(x + sx - part["x"], y + sy - part["y"], part)
                fine += sersic_light(rho, part["n"]) / 121
        flux = 10 ** (-0.4 * (part["mag"] - header["MAGZPT"]))
        model -= flux * fine / (part["r_eff"] ** 2 * part["q"])
    own = parts[2]
    flux = 10 ** (-0.4 * (own["mag"] - header["MAGZPT"]))
    return model / flux, own, np.hypot(x - own["x"], y - own["y"])


@pytest.mark.parametrize(
    ("case", "from_radius", "tolerance"),
    # GALFIT samples pixels at their centres but for the innermost ones, where arms narrower than a
    # pixel make its image noisy; beyond, what differs is the curvature within a pixel. Both images
    # are convolved, as edges without a PSF are beyond what pixels can show
    [("sdss_reg74691747", 0.0, 0.01), ("sdss_reg96532233", 12.0, 0.01)],
)
def test_arms_are_galfits(
    shared_data: Path, case: str, from_radius: float, tolerance: float
) -> None:
    image, values, radius = galfit_arms(shared_data / "real" / "cases" / case)
    profile = find_profile("sersic~f1~f3~power")
    for m in (1, 3):  # ours are from +y
        values[f"f{m}_phase"] += values["pa"]
    at = torch.tensor([coords_of(profile, values)], dtype=torch.float64)
    psf = gaussian_psf(SIGMA)
    ours = images_of(profile, at, stamps(image.shape, psf))[0, 0].numpy()
    image = fftconvolve(image, psf, mode="same")
    chosen = radius >= from_radius
    assert np.abs(ours - image)[chosen].max() < tolerance * image.max()
    assert ours[chosen].sum() == pytest.approx(image[chosen].sum(), rel=3e-3)
    assert math.isclose(image.sum(), 1.0, abs_tol=5e-3)  # mag is the total one, of all arms
