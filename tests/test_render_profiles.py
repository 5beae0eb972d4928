"""Rendered profiles against GalSim and imfit, and the contract of rendering over all of them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from imfit_helpers import FINE, by_imfit
from pretended_device import pretended
from render_helpers import Array, errors, gaussian_psf, moffat_psf, stamps
from scipy import special
from tolerances import DOUBLE

from hybridfit.data.cutouts import Cutouts
from hybridfit.model.profiles import PROFILES, Profile
from hybridfit.rendering.convolution import GalfitConvolution
from hybridfit.rendering.grid import grid_of
from hybridfit.rendering.kernels import component_images, geometry
from hybridfit.rendering.transfer import transfer_of

SIGMA = 1.4  # of the PSF, pixels
PLACE = {"x": 31.3, "y": 32.2, "q": 0.6, "pa": 30.0}
# what the project promises, of the peak and of the flux
GOOD = 1e-3
# an ordinary shape of each profile
SHAPES: dict[str, dict[str, float]] = {
    "sersic": {"n": 2.5},
    "exponential": {},
    "devaucouleurs": {},
    "gaussian": {},
    "moffat": {"beta": 2.5},
    "ferrers": {"alpha": 1.5, "beta": 0.3},
    "king": {"alpha": 2.0, "concentration": 8.0},
    "core_sersic": {"n": 3.0, "gamma": 0.2, "alpha": 3.0, "core_ratio": 0.2},
    "broken_exponential": {"scale_ratio": 0.5, "break_ratio": 2.0, "sharpness": 4.0},
    "nuker": {"alpha": 2.0, "beta": 2.5, "gamma": 0.4},
    "point": {},
    "edge_on": {},
    "boxy_sersic": {"n": 2.5, "c0": 0.6},
    "boxy_exponential": {"c0": -0.4},
}


def double(value: float) -> torch.Tensor:
    return torch.tensor(value, dtype=torch.float64)


def coords_of(profile: Profile, values: dict[str, float]) -> list[float]:
    """Render coordinates of x, y, r_eff, q, pa and the shape parameters."""
    if profile.coordinates == ("x", "y"):
        return [values["x"], values["y"]]
    g, angle = -math.log(values["q"]), math.radians(2 * values["pa"])
    shape = [float(p.coordinate(double(values[p.name]))) for p in profile.shape_parameters]
    size = math.log(values["r_eff"]) - g / 2
    return [values["x"], values["y"], size, *shape, g * math.cos(angle), g * math.sin(angle)]


def images_of(
    profile: Profile,
    coords: torch.Tensor,
    cutouts: Cutouts,
    jacobian: bool = False,
    dtype: torch.dtype = torch.float64,
    **grid_options: Any,
) -> torch.Tensor:
    """Unit-flux images (B, 1 or 1 + P, H, W) of render coordinates (B, P), on a fit's grid."""
    grid = grid_of(cutouts, dtype, **grid_options)
    shape = geometry(coords, profile, dtype)
    return component_images(shape, profile, grid, transfer_of(cutouts, grid), jacobian)


def rendered(name: str, values: dict[str, float], psf: Array, side: int = 64) -> Array:
    profile = PROFILES[name]()
    coords = torch.tensor([coords_of(profile, values)], dtype=torch.float64)
    # with the modes beyond the Nyquist frequency, as images are rendered for users
    images = images_of(profile, coords, stamps((side, side), psf), well_sampled=0.0)
    return images[0, 0].numpy()


def ordinary(name: str, r_eff: float = 4.0) -> dict[str, float]:
    return {**PLACE, "r_eff": r_eff, **SHAPES[name]}


# --- independent renderings -----------------------------------------------------------------


@pytest.mark.parametrize("r_eff", [0.8, 3.0, 8.0])
@pytest.mark.parametrize("name", ["gaussian", "moffat", "exponential", "devaucouleurs", "sersic"])
def test_against_galsim(name: str, r_eff: float) -> None:
    galsim = pytest.importorskip("galsim")
    values = ordinary(name, r_eff)
    tight = galsim.GSParams(maximum_fft_size=32768, folding_threshold=1e-4, kvalue_accuracy=1e-6)
    size = {"half_light_radius": r_eff * math.sqrt(values["q"]), "gsparams": tight}
    light = {
        "gaussian": lambda: galsim.Gaussian(**size),
        "moffat": lambda: galsim.Moffat(values["beta"], **size),
        "exponential": lambda: galsim.Exponential(**size),
        "devaucouleurs": lambda: galsim.DeVaucouleurs(**size),
        "sersic": lambda: galsim.Sersic(values["n"], **size),
    }[name]()
    light = light.shear(q=values["q"], beta=(values["pa"] + 90) * galsim.degrees)
    point = galsim.Gaussian(sigma=SIGMA, gsparams=tight)
    moved = galsim.Convolve(light, point, gsparams=tight).shift(
        values["x"] - 31.5, values["y"] - 31.5
    )
    truth = moved.drawImage(nx=64, ny=64, scale=1.0).array.astype(float)
    assert max(errors(rendered(name, values, gaussian_psf(SIGMA)), truth)) < GOOD


IMFIT = {
    "moffat": ("moffat", "Moffat", {"fwhm": 6.0}, {"beta": 2.5}),
    "king": ("king", "ModifiedKing", {"r_c": 3.0, "r_t": 18.0}, {"alpha": 2.0}),
    "king of .7": ("king", "ModifiedKing", {"r_c": 2.0, "r_t": 40.0}, {"alpha": 0.7}),
    "king with an edge": ("king", "ModifiedKing", {"r_c": 7.0, "r_t": 15.0}, {"alpha": 0.5}),
    "ferrers of .5": ("ferrers", "FerrersBar2D", {"r_out": 14.0}, {"alpha": 0.5}),
    "ferrers of 2": ("ferrers", "FerrersBar2D", {"r_out": 14.0}, {"alpha": 2.0}),
    "truncation": (
        "broken_exponential",
        "BrokenExponential",
        {"h_1": 6.0, "h_2": 2.5, "r_b": 10.0},
        {"a": 1.2},
    ),
    "antitruncation": (
        "broken_exponential",
        "BrokenExponential",
        {"h_1": 3.0, "h_2": 7.0, "r_b": 10.0},
        {"a": 10.0},
    ),
    "large core": (
        "core_sersic",
        "Core-Sersic",
        {"r_b": 3.0, "r_e": 10.0},
        {"n": 3.0, "gamma": 0.2, "alpha": 3.0},
    ),
    "small core": (
        "core_sersic",
        "Core-Sersic",
        {"r_b": 1.0, "r_e": 8.0},
        {"n": 2.0, "gamma": 0.1, "alpha": 20.0},
    ),
}
# imfit's names, where they are not ours
RENAMED = {"r_out": "a_bar", "h_1": "h1", "h_2": "h2"}


@pytest.mark.parametrize("case", list(IMFIT))
def test_against_imfit(case: str) -> None:
    """GALFIT-like parameters to ours and the image, of unit flux by our own normalisation.

    Measured: 6e-5 to 2e-4, which is mostly imfit's pixels of 1 / 7, and 8e-4 at the edge of a
    Ferrers bar of alpha = .5.
    """
    name, function, lengths, numbers = IMFIT[case]
    profile = PROFILES[name]()
    native = {k: double(v) for k, v in {"beta": 0.0, **lengths, **numbers}.items()}
    values = {**profile.from_native(native), "q": double(PLACE["q"])}
    shape = [values[n] for n in profile.shape]
    if name == "core_sersic":  # whose brightness is that at the break
        rho = native["r_b"] / values["r_eff"]
        level = profile.evaluate(rho, *shape) / (values["r_eff"] ** 2 * values["q"])
    else:
        level = profile.central_brightness(values)
    theirs = {RENAMED.get(n, n): v for n, v in lengths.items()}
    others = {"ell": 1 - PLACE["q"], "PA": PLACE["pa"], "I_0": float(level), **numbers}
    if name == "ferrers":
        others |= {"n": others.pop("alpha"), "c0": 0.0}
    elif name == "broken_exponential":
        theirs["r_break"] = theirs.pop("r_b")
        others["alpha"] = others.pop("a") / FINE  # 1 / pix
    elif name == "core_sersic":
        others["I_b"] = others.pop("I_0")
    truth = by_imfit(function, theirs, others, (PLACE["x"], PLACE["y"]), SIGMA)
    ours = {**PLACE, **{n: float(v) for n, v in values.items()}}
    assert max(errors(rendered(name, ours, gaussian_psf(SIGMA)), truth)) < GOOD


@pytest.mark.parametrize(
    ("r_s", "h_s"), [(0.5, 0.3), (2.0, 0.6), (4.0, 4.0), (5.0, 0.3), (10.0, 1.0), (20.0, 2.0)]
)
def test_edge_on_disks_against_imfit(r_s: float, h_s: float) -> None:
    """Measured: 2e-5 to 2e-4 of the peak, and 4e-4 of the flux; the last leave the stamp."""
    profile = PROFILES["edge_on"]()
    found = profile.from_native({"r_s": double(r_s), "h_s": double(h_s)})
    values = {**PLACE, **{n: float(v) for n, v in found.items()}}
    numbers = {n: double(v) for n, v in values.items()}
    # imfit has sech^2(z / 2 z_0), and the centre is 2 h L_0 bright
    lengths = {"h": r_s, "z_0": h_s / 2}
    level = float(profile.central_brightness(numbers)) / (2 * r_s * FINE)
    others = {"L_0": level, "n": 1.0, "PA": PLACE["pa"]}
    truth = by_imfit("EdgeOnDisk", lengths, others, (PLACE["x"], PLACE["y"]), SIGMA)
    assert max(errors(rendered("edge_on", values, gaussian_psf(SIGMA)), truth)) < GOOD


@pytest.mark.parametrize("n", [0.5, 1.0, 4.0])
@pytest.mark.parametrize("c0", [-0.8, -0.4, 0.5, 1.5])
@pytest.mark.parametrize(("q", "r_eff"), [(0.6, 5.0), (0.9, 1.5), (0.6, 20.0)])
def test_boxy_galaxies_against_imfit(n: float, c0: float, q: float, r_eff: float) -> None:
    """Measured: 1e-4 to 8e-4, which is imfit's pixels at the cusp: where q = .25 it is 3e-3, half
    of that with pixels of 1 / 15, and we agree with our Sersic where c0 = 0 (next test)."""
    values = {**PLACE, "q": q, "r_eff": r_eff, "n": n, "c0": c0}
    one = double(1.0)
    level = float(PROFILES["boxy_sersic"]().evaluate(one, double(n), double(c0)))
    numbers = {"I_e": level / (r_eff**2 * q), "n": n, "c0": c0, "ell": 1 - q, "PA": PLACE["pa"]}
    centre = PLACE["x"], PLACE["y"]
    truth = by_imfit("Sersic_GenEllipse", {"r_e": r_eff}, numbers, centre, SIGMA)
    assert max(errors(rendered("boxy_sersic", values, gaussian_psf(SIGMA)), truth)) < GOOD


@pytest.mark.parametrize(("n", "q", "r_eff"), [(4.0, 0.1, 6.0), (1.0, 0.25, 3.0), (2.5, 0.9, 1.5)])
def test_without_boxiness_it_is_the_profile(n: float, q: float, r_eff: float) -> None:
    """1e-6 of the peak (measured: 1e-8): the sum over rays against the Hankel transform."""
    values = {**PLACE, "q": q, "r_eff": r_eff, "n": n, "c0": 0.0}
    psf = gaussian_psf(SIGMA)
    boxy, plain = rendered("boxy_sersic", values, psf), rendered("sersic", values, psf)
    np.testing.assert_allclose(boxy, plain, rtol=0, atol=1e-6 * plain.max())


def test_a_point_is_the_psf() -> None:
    """3e-5 of the peak: the sampled Gaussian has 6e-5 of its response at the Nyquist frequency."""
    image = rendered("point", PLACE, gaussian_psf(SIGMA))
    edges = np.arange(65) - 0.5
    along_x, along_y = (
        np.diff(special.ndtr((edges - c) / SIGMA)) for c in (PLACE["x"], PLACE["y"])
    )
    truth = along_y[:, None] * along_x
    np.testing.assert_allclose(image, truth, rtol=0, atol=3e-5 * truth.max())


def test_a_point_as_galfit_has_it() -> None:
    """The PSF image itself, not integrated over a pixel once more; at a whole pixel unshifted."""
    psf, coords = moffat_psf(2.0, 3.0, 0.08, 0.03), torch.tensor([[31.0, 33.0]]).double()
    cutouts = stamps((64, 64), psf)
    image = images_of(PROFILES["point"](), coords, cutouts, convolution=GalfitConvolution())
    expected = np.zeros((64, 64))
    expected[13:54, 11:52] = psf
    # 1e-7: PSFs are kept in single precision
    np.testing.assert_allclose(image[0, 0], expected, rtol=0, atol=1e-7)


# --- the contract ---------------------------------------------------------------------------

each = pytest.mark.parametrize("name", list(PROFILES))


def test_every_profile_is_tried() -> None:
    assert set(SHAPES) == set(PROFILES) - {"plummer"}  # which the guide registers
    for name, shape in SHAPES.items():
        assert tuple(shape) == PROFILES[name]().shape


@each
def test_native_scales_there_and_back(name: str) -> None:
    """1e-9: Newton's method to the last digits, both ways."""
    profile = PROFILES[name]()
    values = {n: double(v) for n, v in ordinary(name).items()}
    scales = profile.native_scales(values)
    assert tuple(scales) == tuple(s.name for s in profile.scales)
    for n, back in profile.from_native({**values, **scales}).items():
        assert float(back) == pytest.approx(float(values[n]), rel=1e-9, abs=1e-9)


@each
def test_native_scales_can_be_differentiated(name: str) -> None:
    """1e-6 of the largest derivative: a central difference with a step of 1e-5."""
    profile = PROFILES[name]()
    values = {n: v for n, v in ordinary(name).items() if n not in ("x", "y", "pa")}
    if not profile.scales:
        return

    def scales(point: torch.Tensor) -> torch.Tensor:
        found = profile.native_scales(dict(zip(values, point, strict=True)))
        return torch.stack(list(found.values()))

    at = torch.tensor(list(values.values()), dtype=torch.float64)
    exact = torch.func.jacfwd(scales)(at)
    for j, step in enumerate(1e-5 * torch.eye(len(at), dtype=torch.float64)):
        numeric = (scales(at + step) - scales(at - step)) / 2e-5
        torch.testing.assert_close(
            exact[:, j], numeric, rtol=0, atol=1e-6 * float(exact.abs().max())
        )


@each
def test_total_flux(name: str) -> None:
    """The light within the stamp by a quadrature of the profile, round and in the middle."""
    values = {**ordinary(name, 3.0), "q": 1.0, "x": 100.0, "y": 100.0}
    image = rendered(name, values, gaussian_psf(SIGMA), 201)
    y, x = np.mgrid[:201, :201] - 100.0
    inside = np.hypot(x, y) < 90
    if not PROFILES[name]().is_radial or "c0" in SHAPES[name]:
        # the stamp is large enough for all but 2e-4 of the light
        assert image[inside].sum() == pytest.approx(1.0, abs=2e-4)
        return
    rho = torch.logspace(-12, math.log10(30.0), 200001, dtype=torch.float64)
    shape = (double(v) for v in SHAPES[name].values())
    light = 2 * math.pi * rho**2 * PROFILES[name]().evaluate(rho, *shape)
    expected = float(torch.trapezoid(light, torch.log(rho)))
    # 3e-5: PSF and pixels blur the circle where the profile's wings have 1e-3 of the light; those
    # of a Nuker profile have more, and its light is no unit
    error = 3e-5 if PROFILES[name]().has_total_light else 1e-4 * expected
    assert image[inside].sum() == pytest.approx(expected, abs=error)


@each
@pytest.mark.parametrize("psf", ["well sampled", "undersampled"])
def test_derivatives_against_finite_differences(name: str, psf: str) -> None:
    """By every render coordinate, float64, with the tolerances of a Sersic, see test_render."""
    profile = PROFILES[name]()
    cutouts = stamps((64, 64), moffat_psf(3.0 if psf == "well sampled" else 1.8))
    highest = 1e-2 if psf == "well sampled" else 5e-2
    coords = torch.tensor([coords_of(profile, ordinary(name))], dtype=torch.float64)
    with torch.inference_mode():  # as in a fit
        analytic = images_of(profile, coords, cutouts, True)[0].numpy()
    plain = images_of(profile, coords, cutouts)[0, 0].numpy()
    # 1e-9 of the peak: the same sums in another order
    np.testing.assert_allclose(analytic[0], plain, rtol=0, atol=1e-9 * plain.max())
    for j, coordinate in enumerate(profile.coordinates):
        step = torch.zeros_like(coords)
        step[0, j] = 1e-5
        up, down = (images_of(profile, coords + s, cutouts)[0, 0].numpy() for s in (step, -step))
        numeric = (up - down) / 2e-5
        scale = np.abs(numeric).max()
        assert np.abs(analytic[1 + j] - numeric).max() < highest * scale, coordinate


@each
def test_a_batch_equals_a_loop(name: str) -> None:
    profile = PROFILES[name]()
    rows = [coords_of(profile, ordinary(name, r_eff)) for r_eff in (0.7, 2.0, 6.0)]
    coords = torch.tensor(rows, dtype=torch.float64)
    coords[:, 0] += torch.tensor([0.0, 0.3, -1.7])
    psf = moffat_psf(3.0)
    together = images_of(profile, coords, stamps((48, 48), psf, 3), True)
    for k in range(3):
        alone = images_of(profile, coords[k : k + 1], stamps((48, 48), psf), True)[0]
        scale = float(alone.abs().max())
        torch.testing.assert_close(together[k], alone, rtol=0, atol=1e-10 * scale)


@each
@pytest.mark.parametrize("way", ["no psf", "oversampled", "galfit"])
def test_other_convolutions(name: str, way: str) -> None:
    """Close to the plain one for a wide PSF: 3e-2 of the peak, GALFIT's pixel in the PSF.

    Without a PSF there is nothing to compare with, but the light is all there.
    """
    profile = PROFILES[name]()
    coords = torch.tensor([coords_of(profile, ordinary(name))], dtype=torch.float64)
    psf = {"no psf": None, "oversampled": gaussian_psf(2.0, 40, 2), "galfit": gaussian_psf(2.0)}
    options = {"convolution": GalfitConvolution()} if way == "galfit" else {}
    cutouts = stamps((64, 64), psf[way], 1, 2 if way == "oversampled" else 1)
    images = images_of(profile, coords, cutouts, True, **options)[0]
    assert images.shape[0] == 1 + len(profile.coordinates)
    assert torch.isfinite(images).all()
    plain = rendered(name, ordinary(name), gaussian_psf(2.0))
    error = 5e-3 * max(1.0, plain.sum())  # a Nuker profile's light is no unit
    assert float(images[0].sum()) == pytest.approx(plain.sum(), abs=error)
    if way != "no psf":
        assert np.abs(images[0].numpy() - plain).max() < 3e-2 * plain.max()


@each
def test_flips(name: str) -> None:
    values, psf = ordinary(name), moffat_psf(2.8, 3.0, 0.08, 0.03)
    image = rendered(name, values, psf)
    # as for a Sersic: the mode at the Nyquist frequency itself has no opposite
    tolerance = {"rtol": 0, "atol": 3e-6 * image.max()}
    flipped = {**values, "x": 63 - values["x"], "pa": 180 - values["pa"]}
    np.testing.assert_allclose(rendered(name, flipped, psf[:, ::-1]), image[:, ::-1], **tolerance)
    flipped = {**values, "y": 63 - values["y"], "pa": 180 - values["pa"]}
    np.testing.assert_allclose(rendered(name, flipped, psf[::-1]), image[::-1], **tolerance)


@each
def test_nan_stays_in_its_row(name: str) -> None:
    profile = PROFILES[name]()
    coords = torch.tensor([coords_of(profile, ordinary(name))] * 3, dtype=torch.float64)
    for j in range(coords.shape[1]):
        spoiled = coords.clone()
        spoiled[1, j] = torch.nan
        images = images_of(profile, spoiled, stamps((48, 48), moffat_psf(3.0), 3))
        assert torch.isnan(images[1]).all(), profile.coordinates[j]
        assert torch.isfinite(images[[0, 2]]).all()


@each
def test_single_precision(name: str) -> None:
    """Image and derivatives, 1e-4 of their extremes: a tenth of what is promised."""
    profile = PROFILES[name]()
    coords = torch.tensor([coords_of(profile, ordinary(name))], dtype=torch.float64)
    cutouts = stamps((64, 64), moffat_psf(3.0))
    exact = images_of(profile, coords, cutouts, True)[0]
    quick = images_of(profile, coords, cutouts, True, torch.float32)[0]
    scale = exact.abs().amax(dim=(1, 2))
    assert ((quick - exact).abs().amax(dim=(1, 2)) < 1e-4 * scale).all()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a real CUDA device")
@each
def test_devices_are_not_mixed(name: str) -> None:
    profile = PROFILES[name]()
    coords = torch.tensor([coords_of(profile, ordinary(name))], dtype=torch.float64)
    cutouts = stamps((48, 48), moffat_psf(3.0))
    expected = images_of(profile, coords, cutouts, True)
    with pretended() as device:
        there = torch.device("cuda")
        found = images_of(profile, coords.to(there), cutouts.to(there), True).cpu()
    assert not device.mixed, dict(device.mixed)
    assert device.ops > 100  # it did go through the device
    torch.testing.assert_close(found, expected, rtol=0, atol=DOUBLE)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
@each
def test_the_same_on_a_gpu(name: str) -> None:
    profile = PROFILES[name]()
    coords = torch.tensor([coords_of(profile, ordinary(name))], dtype=torch.float64)
    cutouts = stamps((64, 64), moffat_psf(3.0))
    here = images_of(profile, coords, cutouts, True)
    there = images_of(profile, coords.cuda(), cutouts.to(torch.device("cuda")), True).cpu()
    # 1e-9 of each image's extreme: sums in another order
    scale = here.abs().amax(dim=(2, 3), keepdim=True)
    assert ((here - there).abs() < 1e-9 * scale).all()
