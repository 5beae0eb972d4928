"""The contract of a radial profile, over every one there is and one that a user wrote."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from profiles_of_users import Moffat
from scipy import integrate, special
from tolerances import DOUBLE

import hybridfit as hf
from hybridfit.model.profiles import (
    PROFILES,
    Boxy,
    EdgeOnDisk,
    Profile,
    Sersic,
    check_profile,
    find_profile,
    registry,
)
from hybridfit.model.profiles.bn import log_bn

# shape parameters at which the contract must hold
SHAPES: dict[str, list[tuple[float, ...]]] = {
    "sersic": [(n,) for n in (0.15, 0.3, 0.5, 1.0, 2.5, 4.0, 8.0, 12.0)],
    "exponential": [()],
    "devaucouleurs": [()],
    "gaussian": [()],
    "moffat": [(1.5,), (2.5,), (20.0,)],
    "ferrers": [(0.5, 1.0), (2.0, -2.0), (3.0, 1.8)],
    "king": [(2.0, 10.0), (0.5, 3.0), (4.0, 300.0)],
    "core_sersic": [(4.0, 0.1, 5.0, 0.03), (8.0, 0.8, 20.0, 1e-3), (1.0, 0.01, 2.0, 0.5)],
    "broken_exponential": [(0.5, 2.5, 5.0), (3.0, 1.0, 20.0), (0.2, 6.0, 2.0)],
    "nuker": [(2.0, 1.4, 0.3), (1.0, 2.5, 1.2), (20.0, 0.7, 0.01)],
    "boxy_sersic": [(1.0, -0.8), (4.0, 1.5)],
    "boxy_exponential": [(-0.3,)],
    "users_moffat": [(2.5,), (4.0,)],
}
RADIAL = {name: make for name, make in PROFILES.items() if make().is_radial}
ALL: dict[str, Callable[[], Profile]] = {**RADIAL, "users_moffat": Moffat}
# the radius at which a profile bends or ends, where a quadrature needs an edge
BENDS = {"ferrers": "r_out", "king": "r_t", "core_sersic": "r_b", "broken_exponential": "r_b"}
CASES = [(name, shape) for name in ALL for shape in SHAPES[name]]
IDS = [f"{name}{list(shape)}" for name, shape in CASES]
# beside a unit flux: brightnesses below exp(-80) are not followed
ROUNDED_AWAY = 1e-30
each_case = pytest.mark.parametrize(("name", "shape"), CASES, ids=IDS)
FINITE = [(name, shape) for name, shape in CASES if ALL[name]().has_total_light]
each_finite = pytest.mark.parametrize(("name", "shape"), FINITE)


def at(profile: Profile, rho: np.ndarray, shape: tuple[float, ...]) -> np.ndarray:
    """Brightness by ``evaluate`` in float64."""
    numbers = (torch.tensor(s, dtype=torch.float64) for s in shape)
    return profile.evaluate(torch.as_tensor(rho, dtype=torch.float64), *numbers).numpy()


def bend_of(name: str, shape: tuple[float, ...]) -> float:
    """The radius in `BENDS` over the half-light radius."""
    profile = ALL[name]()
    numbers = dict(
        zip(profile.shape, (torch.tensor(s, dtype=torch.float64) for s in shape), strict=True)
    )
    scales = profile.native_scales({"r_eff": torch.tensor(1.0, dtype=torch.float64), **numbers})
    return float(scales[BENDS[name]]) if name in BENDS else 1.0


def flux_within(name: str, radius: float, shape: tuple[float, ...]) -> float:
    """Integral of 2 pi rho f to ``radius``, in t = ln rho where cusp and wings are smooth.

    Panels of twelve Gauss-Legendre nodes, narrower and narrower towards the profile's bend.
    """
    stop, bend = math.log(radius), math.log(bend_of(name, shape))
    fine = np.geomspace(1e-9, 0.1, 60)
    edges = np.concatenate([np.arange(-60.0, 15.0, 0.1), bend + fine, bend - fine, [bend, stop]])
    edges = np.unique(edges[edges <= stop])
    node, weight = np.polynomial.legendre.leggauss(12)
    half = np.diff(edges)[:, None] / 2
    t = edges[:-1, None] + half * (1 + node)
    light = 2 * math.pi * np.exp(2 * t) * at(ALL[name](), np.exp(t), shape)
    return float((light * half * weight).sum()) * area_ratio(name, shape)


def area_ratio(name: str, shape: tuple[float, ...]) -> float:
    """Area of a generalised ellipse over that of an ellipse of the same axes."""
    if "c0" not in ALL[name]().shape:
        return 1.0
    c = shape[-1] + 2
    return float(4 * special.beta(1 / c, 1 + 1 / c) / (math.pi * c))


def shape_coordinates(profile: Profile, shape: Sequence[float]) -> np.ndarray:
    """Render coordinates of the shape parameters."""
    columns = zip(profile.shape_parameters, shape, strict=True)
    return np.array([float(p.coordinate(torch.tensor(s, dtype=torch.float64))) for p, s in columns])


def coefficients_of(profile: Profile, log_shape: np.ndarray) -> tuple[torch.Tensor, ...]:
    prepared = profile.prepare(torch.as_tensor(log_shape, dtype=torch.float64)[None])
    return prepared.unbind(-1)


def coefficients_at(profile: Profile, shape: Sequence[float]) -> tuple[torch.Tensor, ...]:
    return coefficients_of(profile, shape_coordinates(profile, shape))


def test_every_profile_is_tried() -> None:
    assert set(SHAPES) == set(ALL)
    for name, make in ALL.items():
        assert all(len(shape) == len(make().shape) for shape in SHAPES[name])


@each_finite
def test_unit_flux(name: str, shape: tuple[float, ...]) -> None:
    """1e-8: quadrature, and b_n's table at 1e-10. To rho = 3e6, beyond what n = 12 needs; a
    Moffat of slope 1.5 has 2e-7 beyond it."""
    if (name, shape) == ("moffat", (1.5,)):
        c = 2.0 ** (1 / 0.5) - 1
        assert flux_within(name, 100.0, shape) == pytest.approx(1 - (1 + 1e4 * c) ** -0.5, abs=1e-8)
        return
    assert flux_within(name, math.exp(15.0), shape) == pytest.approx(1.0, abs=1e-8)


@each_finite
def test_size_is_the_half_light_radius(name: str, shape: tuple[float, ...]) -> None:
    assert flux_within(name, 1.0, shape) == pytest.approx(0.5, abs=1e-8)


@each_case
def test_value_and_derivatives_agree_with_evaluate(name: str, shape: tuple[float, ...]) -> None:
    profile = ALL[name]()
    rho = np.logspace(-3, 1.5, 40)
    expected = at(profile, rho, shape)
    log_rho2 = torch.as_tensor(2 * np.log(rho))[None]
    coefficients = tuple(c[:, None] for c in coefficients_at(profile, shape))
    np.testing.assert_allclose(
        profile.value(log_rho2, coefficients)[0], expected, rtol=1e-11, atol=DOUBLE
    )
    value, _, slopes = profile.derivatives(log_rho2, coefficients)
    np.testing.assert_allclose(value[0], expected, rtol=1e-11, atol=DOUBLE)
    assert len(slopes) == len(shape)


@each_case
def test_derivatives_against_finite_differences(name: str, shape: tuple[float, ...]) -> None:
    """By ln(rho^2) and ln of each shape. 3e-7 of the brightness or slope, whichever is more: a
    central difference with step 1e-4 in a logarithm leaves step^2 times the third derivative."""
    profile = ALL[name]()
    rho = np.logspace(-2, 0.8, 30)
    log_rho2 = torch.as_tensor(2 * np.log(rho))[None]
    base, step = shape_coordinates(profile, shape), 1e-4

    def value(move_rho: float, move_shape: np.ndarray) -> np.ndarray:
        coefficients = tuple(c[:, None] for c in coefficients_of(profile, base + move_shape))
        return profile.value(log_rho2 + move_rho, coefficients)[0].numpy()

    still = np.zeros(len(shape))
    coefficients = tuple(c[:, None] for c in coefficients_of(profile, base))
    f, by_rho, by_shape = (
        v if isinstance(v, tuple) else v[0].numpy()
        for v in profile.derivatives(log_rho2, coefficients)
    )
    numeric = (value(step, still) - value(-step, still)) / (2 * step)
    scale = np.maximum(f, np.abs(by_rho))
    # the third derivative of exp(-b rho^(1/n)) in ln rho goes as (b rho^(1/n) / 2n)^3
    steep = 1 + (np.abs(by_rho) / np.maximum(f, 1e-300)) ** 2
    assert (np.abs(numeric - by_rho) <= 1e-7 * scale * steep + ROUNDED_AWAY).all()
    for i, slope in enumerate(by_shape):
        move = step * np.eye(len(shape))[i]
        numeric = (value(0.0, move) - value(0.0, -move)) / (2 * step)
        exact = slope[0].numpy()
        scale = np.maximum(f, np.abs(exact))
        steep = 1 + (np.abs(exact) / np.maximum(f, 1e-300)) ** 2
        assert (np.abs(numeric - exact) <= 3e-7 * scale * steep + ROUNDED_AWAY).all()


def test_far_out_a_profile_is_tiny_and_finite() -> None:
    """Where exp(-w) underflows, by which the pixels would take thirty times as long."""
    profile = Sersic()
    coefficients = tuple(c[:, None].float() for c in coefficients_of(profile, np.log([0.2])))
    log_rho2 = torch.linspace(3.0, 20.0, 50)[None]
    value, by_rho, (by_n,) = profile.derivatives(log_rho2, coefficients)
    tiny = torch.finfo(torch.float32).tiny
    for far in (value, profile.value(log_rho2, coefficients)):
        assert (far > tiny).all()
        assert (far < ROUNDED_AWAY).all()
    assert (by_rho.abs() < ROUNDED_AWAY).all()
    assert (by_n.abs() < ROUNDED_AWAY).all()


@pytest.mark.parametrize("name", list(ALL))
def test_a_batch_equals_a_loop(name: str) -> None:
    profile = ALL[name]()
    shapes = np.array(SHAPES[name])
    rho = torch.linspace(0.01, 5.0, 20, dtype=torch.float64).expand(len(shapes), 20)
    prepared = profile.prepare(
        torch.as_tensor(np.array([shape_coordinates(profile, shape) for shape in shapes]))
    )
    together = profile.value(2 * torch.log(rho), tuple(c[:, None] for c in prepared.unbind(-1)))
    for i in range(len(shapes)):
        one = tuple(c[i : i + 1, None] for c in prepared.unbind(-1))
        assert torch.equal(profile.value(2 * torch.log(rho[i : i + 1]), one)[0], together[i])


@each_case
def test_float32_is_enough(name: str, shape: tuple[float, ...]) -> None:
    """Coefficients made in float64, pixels in float32, as the renderer does it.

    3e-7 of ln f's two terms (up to some tens, where they cancel) is what float32 can give.
    """
    profile = ALL[name]()
    rho = np.logspace(-2, 1, 30)
    exact = at(profile, rho, shape)
    prepared = tuple(c[:, None].float() for c in coefficients_at(profile, shape))
    value = profile.value(torch.as_tensor(2 * np.log(rho))[None].float(), prepared)[0].numpy()
    bright = exact > 1e-12 * exact.max()
    terms = np.abs(np.log(exact[bright])) + 30
    assert (np.abs(value[bright] / exact[bright] - 1) < 3e-7 * terms).all()


# --- b_n ------------------------------------------------------------------------------------


def test_b_n_against_scipy() -> None:
    """1e-9: the cubic table's own error is 1e-10; off its nodes and at both ends."""
    n = np.concatenate([np.geomspace(0.1, 20.0, 4001), [0.5, 1.0, 4.0]])
    exact = special.gammaincinv(2 * n, 0.5)
    log_b = log_bn(torch.as_tensor(np.log(n)), 0)
    np.testing.assert_allclose(np.exp(log_b), exact, rtol=1e-9, atol=DOUBLE)
    # the exponential's constant is that of n = 1
    b = special.gammaincinv(2, 0.5)
    f = at(PROFILES["exponential"](), np.array([1.0]), ())[0]
    assert f == pytest.approx(b * b / (2 * math.pi) * math.exp(-b), rel=1e-12)


def test_slope_of_b_n() -> None:
    """2e-7: a cubic's derivative is one order worse than its value."""
    log_n = np.linspace(math.log(0.11), math.log(19.0), 997)
    step = 1e-4
    high, low = (np.log(special.gammaincinv(2 * np.exp(log_n + s), 0.5)) for s in (step, -step))
    slope = log_bn(torch.as_tensor(log_n), 1)
    np.testing.assert_allclose(slope, (high - low) / (2 * step), atol=2e-7)


def test_sersic_one_is_the_exponential() -> None:
    rho = np.linspace(0.01, 8.0, 50)
    np.testing.assert_allclose(
        at(Sersic(), rho, (1.0,)), at(PROFILES["exponential"](), rho, ()), rtol=1e-8, atol=DOUBLE
    )


def test_sersic_half_is_the_gaussian() -> None:
    rho = np.linspace(0.01, 4.0, 50)
    gauss = math.log(2) / math.pi * np.exp(-math.log(2) * rho**2)
    np.testing.assert_allclose(at(Sersic(), rho, (0.5,)), gauss, rtol=1e-8, atol=DOUBLE)


# --- profiles that are not functions of one radius ------------------------------------------


@pytest.mark.parametrize("axis", ["along", "across"])
def test_half_of_an_edge_on_disk_is_within_its_axes(axis: str) -> None:
    """1e-9: quadrature of scipy; GALFIT's formula with Bessel's function of scipy."""
    disk = EdgeOnDisk()

    def part(u: float) -> float:
        return float(getattr(disk, axis)(torch.tensor(u, dtype=torch.float64))[0])

    within, beyond = (integrate.quad(part, *ends, epsabs=1e-12)[0] for ends in ((0, 1), (1, 60)))
    assert within == pytest.approx(0.25, abs=1e-9)
    assert beyond == pytest.approx(0.25, abs=1e-9)
    one = {"r_eff": torch.tensor(1.0).double(), "q": torch.tensor(1.0).double()}
    scale = float(disk.native_scales(one)["r_s" if axis == "along" else "h_s"])
    for u in (0.1, 0.7, 3.0):
        x = u / scale
        expected = x * special.k1(x) if axis == "along" else np.cosh(x) ** -2
        assert part(u) / part(1e-8) == pytest.approx(expected, rel=1e-9, abs=DOUBLE)


def test_what_has_no_radial_brightness_says_so() -> None:
    one = torch.tensor(1.0)
    with pytest.raises(TypeError, match="no surface brightness"):
        find_profile("point").evaluate(one)
    with pytest.raises(TypeError, match="no elliptical isophotes"):
        find_profile("edge_on").evaluate(one)
    for profile in (find_profile("point"), find_profile("boxy_sersic")):
        with pytest.raises(ValueError, match="cannot be boxy: expected a radial profile"):
            Boxy(profile)
    assert find_profile("point").coordinates == ("x", "y")
    assert Boxy(find_profile("ferrers")).shape == ("alpha", "beta", "c0")


# --- names ----------------------------------------------------------------------------------


def test_profiles_are_found_by_name() -> None:
    assert isinstance(find_profile("sersic"), Sersic)
    assert find_profile("profiles_of_users:Moffat").shape == ("beta",)


def test_a_registered_profile_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "PROFILES", dict(PROFILES))
    hf.register_profile("my_moffat", Moffat)
    hf.register_profile("my_moffat", Moffat)  # the same once more
    found = find_profile("my_moffat")
    assert isinstance(found, Moffat)
    assert found.coordinates == ("x", "y", "size", "beta", "eta1", "eta2")
    assert [p.prior for p in found.shape_parameters] == [None]
    with pytest.raises(ValueError, match="'sersic' exists already"):
        hf.register_profile("sersic", Moffat)
    with pytest.raises(ValueError, match="expected letters"):
        hf.register_profile("my moffat", Moffat)
    with pytest.raises(TypeError, match="expected a subclass of Profile for 'mine'"):
        hf.register_profile("mine", type("Mine", (), {}))


class Spoiled(Profile):
    """A Gaussian with a mistake."""

    shape_parameters = (hf.ShapeParameter("w", prior=hf.LogNormal(1.0, 1.0, 0.1, 10.0)),)
    mistake = "none"

    def evaluate(self, rho: torch.Tensor, *shape: torch.Tensor) -> torch.Tensor:
        """Return the brightness at ``rho``."""
        light = math.log(2) / math.pi * torch.exp(-math.log(2) * rho**2)
        wrong = {
            "none": light,
            "nan": torch.where(rho > 3, torch.nan, light),
            "negative": light - 0.01,
            "shape": light.sum(),
            "flux": 1.2 * light,
        }
        return wrong[self.mistake]


@pytest.mark.parametrize(
    ("mistake", "text"),
    [
        ("nan", r"profile 'mine' at w = 1: evaluate returned nan at rho = 3\.0"),
        ("negative", "returned -0.0"),
        ("shape", r"evaluate returned \(\) for radii of \(4001,\)"),
    ],
)
def test_a_spoiled_profile_is_refused(mistake: str, text: str) -> None:
    profile = Spoiled()
    check_profile("mine", profile)
    profile.mistake = mistake
    with pytest.raises(ValueError, match=text):
        check_profile("mine", profile)


def test_a_wrong_flux_is_warned_of() -> None:
    profile = Spoiled()
    profile.mistake = "flux"
    with pytest.warns(UserWarning, match=r"is 1\.2 to .* will be off by -0\.20"):
        check_profile("mine", profile)


@pytest.mark.filterwarnings("error")
def test_every_profile_passes_the_check() -> None:
    for name, make in PROFILES.items():
        check_profile(name, make())


def test_shape_parameters_with_a_shift_and_a_sign() -> None:
    boxiness = hf.ShapeParameter("c0", shift=-2.0)
    slope = hf.ShapeParameter("beta", shift=2.0, sign=-1.0)
    z = torch.tensor([-0.3, 0.0, 0.4], dtype=torch.float64)
    for parameter, value in ((boxiness, z.exp() - 2), (slope, 2 - z.exp())):
        assert torch.equal(parameter.value(z), value)
        torch.testing.assert_close(parameter.coordinate(value), z, rtol=0, atol=DOUBLE)
    with pytest.raises(ValueError, match="expected 1 or -1"):
        hf.ShapeParameter("n", sign=0.5)


def test_the_guide_has_every_profile() -> None:
    page = (Path(__file__).resolve().parents[1] / "docs/guides/profiles.md").read_text()
    own = {n: p for n, p in PROFILES.items() if p.__module__.startswith("hybridfit.model")}
    own |= {n: p for n, p in PROFILES.items() if n.startswith("boxy_")}
    for name, make in own.items():
        (row,) = [line for line in page.splitlines() if line.startswith(f"| `{name}` | ")][:1]
        for known in (*make().shape, *(scale.name for scale in make().scales)):
            assert f"`{known}`" in row, (name, known)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("serisc", "unknown profile 'serisc': expected sersic, exponential"),
        ("no_such_module:Moffat", "was not imported.*--allow-import no_such_module"),
        ("profiles_of_users:Mofat", "has no 'Mofat'"),
        ("profiles_of_users:math", "is not a subclass"),
        ("collections:OrderedDict", "is not a subclass"),
    ],
)
def test_unknown_profiles(name: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        find_profile(name)
