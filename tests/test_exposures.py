"""One galaxy in several images: their likelihoods add up, whatever their pixels, PSFs and depth."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from exposure_helpers import View, moved, observed, rotated, seen_by_galsim, wcs_of
from fit_helpers import differences, observe, population
from render_helpers import Galaxy, moffat_psf
from tolerances import SINGLE
from torch import Tensor

import hybridfit as hf
from hybridfit.calibration.cramer_rao import cramer_rao
from hybridfit.data.cutouts import Cutouts
from hybridfit.data.exposure import Exposure
from hybridfit.fitting.build_problem import build_problem
from hybridfit.fitting.fit import fit_cutouts
from hybridfit.fitting.frame import Frame
from hybridfit.fitting.linearised import linearise
from hybridfit.fitting.options import FitOptions
from hybridfit.fitting.problem import Problem
from hybridfit.rendering.render import render

EXACT = FitOptions(compile="off", precision="float64")
GALAXY = Galaxy(31.3, 30.6, 5.0, 1.7, 0.55, 35.0)
MIDDLE = (31.3, 30.6)
SHEARED = np.array([[0.9, -0.5], [0.35, 0.8]])
FLIPPED = np.array([[-1.1, 0.2], [0.3, 0.9]])
VIEWS = [
    View(sky=3.0),
    rotated(50.0, 1.4, MIDDLE, (32.2, 29.9), fwhm=2.5, zeropoint=26.3, sigma=1.7, sky=-2.0),
    moved(FLIPPED, MIDDLE, (30.1, 31.7), fwhm=4.0, zeropoint=24.1, sigma=0.6, sky=1.0, side=60),
]


def exposure_of(cutouts: Cutouts, **more) -> Exposure:
    """The first images again, as an exposure."""
    values = {"image": cutouts.image, "sigma": cutouts.sigma, "mask": cutouts.mask}
    return Exposure(**{**values, "psf": cutouts.psf, "zeropoint": cutouts.zeropoint, **more})


def affine(matrix: np.ndarray, shift: tuple[float, float]) -> Tensor:
    return torch.tensor(np.concatenate([matrix, np.array(shift)[:, None]], axis=1))


def metric(eta: Tensor) -> Tensor:
    """exp of the traceless symmetric matrix of eta, by torch's matrix exponential."""
    e1, e2 = eta.unbind(-1)
    return torch.linalg.matrix_exp(torch.stack([e1, e2, e2, -e1], dim=-1).view(-1, 2, 2))


@pytest.mark.parametrize("matrix", [SHEARED, FLIPPED, np.eye(2) * 0.3, np.array([[0, -1], [1, 0]])])
def test_ellipses_follow_the_map_of_pixels(matrix: np.ndarray) -> None:
    # points of the isophote of the first image, moved one by one, lie on that of the other
    rng = np.random.default_rng(1)
    coords = torch.tensor(rng.normal(size=(6, 6)))
    coords[0, 4:] = 0.0  # a round galaxy
    coords[1, 4:] *= 1e-5
    a = torch.tensor(matrix, dtype=torch.float64)
    frame = Frame(
        a.expand(6, 2, 2), torch.tensor([[2.0, -3.0]]).double().expand(6, 2), coords[:, 0]
    )
    own, _ = frame.place(coords, [slice(0, 6)])
    angle = torch.linspace(0, 6, 50, dtype=torch.float64)
    circle = torch.stack([angle.cos(), angle.sin()])
    root = torch.linalg.cholesky(metric(coords[:, 4:]))
    offset = coords[:, 2].exp()[:, None, None] * torch.linalg.solve(root.mT, circle)  # (6, 2, 50)
    there = frame.positions(coords[:, :2])[:, :, None] + a @ offset - own[:, :2, None]
    radius2 = (there * (metric(own[:, 4:]) @ there)).sum(dim=1)
    # float64: rounding alone
    assert torch.allclose(
        radius2, own[:, 2:3].mul(2).exp().expand_as(radius2), rtol=1e-11, atol=SINGLE
    )
    assert torch.equal(own[:, 3], coords[:, 3])


def test_derivatives_of_the_map() -> None:
    coords = torch.tensor(np.random.default_rng(2).normal(size=(5, 8)))
    coords[0, 4:6], coords[1, 4:6] = 0.0, 1e-4
    a = torch.tensor(SHEARED).expand(5, 2, 2)
    frame = Frame(a, torch.zeros(5, 2).double(), coords[:, 0])
    components = [slice(0, 6), slice(6, 8)]  # a profile and a point
    _, slope = frame.place(coords, components)
    step = 1e-6
    for j in range(8):
        change = torch.zeros_like(coords)
        change[:, j] = step
        rise = frame.place(coords + change, components)[0]
        rise = rise - frame.place(coords - change, components)[0]
        # differences over 2e-6 of numbers of order 1 in float64
        assert torch.allclose(rise / (2 * step), slope[:, :, j], atol=1e-8)


def joint_problem(options: FitOptions = EXACT) -> tuple[Cutouts, Problem]:
    """Three galaxies, each with two sheared and flipped exposures of other data."""
    cutouts, _ = observe(population(3, 1), 60.0)
    first = exposure_of(cutouts[[1, 2, 0]], to_pixels=affine(SHEARED, (3.0, -2.0)), zeropoint=25.7)
    second = exposure_of(cutouts[[2, 0, 1]], to_pixels=affine(FLIPPED, (40.0, 1.0)))
    cutouts = replace(cutouts, exposures=(first, second))
    return cutouts, build_problem(cutouts, options)


def test_gradient_and_hessian_of_the_sum() -> None:
    _, problem = joint_problem()
    rows = torch.arange(3)
    point = 0.3 * torch.tensor(np.random.default_rng(3).normal(size=(3, 6)))
    point[0, 4:] = 0.0
    here = problem(point, rows)
    step = 1e-4
    for j in range(6):
        change = torch.zeros_like(point)
        change[:, j] = step
        rise = problem(point + change, rows).cost - problem(point - change, rows).cost
        # the renderer interpolates its table of the core's transform: 1e-4 of a derivative
        scale = here.hessian[:, j, j].sqrt() * (2 * here.cost).sqrt()
        assert ((rise / (2 * step) - here.gradient[:, j]).abs() < 2e-4 * scale).all()
    assert torch.allclose(
        problem.profile(point, rows).cost,
        here.cost - 0.5 * (point**2).sum(dim=1),
        rtol=1e-10,
        atol=SINGLE,
    )


def test_sky_of_an_exposure_is_at_its_best() -> None:
    # the same cost when the exposure's sky is off by any constant: it is solved for
    cutouts, problem = joint_problem()
    first, second = cutouts.exposures
    moved_sky = replace(cutouts, exposures=(replace_image(first, first.image + 7.5), second))
    point, rows = torch.zeros(3, 6).double(), torch.arange(3)
    here, there = (p(point, rows) for p in (problem, build_problem(moved_sky, EXACT)))
    assert torch.allclose(here.cost, there.cost, rtol=1e-6, atol=SINGLE)  # the images are float32
    assert torch.allclose(here.hessian, there.hessian, rtol=1e-6, atol=SINGLE)


def replace_image(exposure: Exposure, image: Tensor) -> Exposure:
    return replace(exposure, image=torch.where(exposure.mask, 0.0, image))


def test_no_exposures_no_change() -> None:
    cutouts, problem = joint_problem()
    alone = build_problem(replace(cutouts, exposures=()), EXACT)
    dark = [replace(e, mask=torch.ones_like(e.mask)) for e in cutouts.exposures]
    masked = build_problem(replace(cutouts, exposures=dark), EXACT)
    point, rows = torch.zeros(3, 6).double(), torch.arange(3)
    one, other = alone(point, rows), masked(point, rows)
    # sums of zeros, whose equations are regularised by 1e-9
    assert torch.allclose(one.cost, other.cost, rtol=1e-12, atol=SINGLE)
    assert torch.allclose(one.hessian, other.hessian, rtol=1e-12, atol=SINGLE)
    assert torch.equal(alone.n_pixels, masked.n_pixels)
    assert torch.equal(alone.n_parameters, masked.n_parameters)
    assert (problem.n_pixels == 3 * alone.n_pixels).all()
    assert (problem.n_parameters == alone.n_parameters + 2).all()


def test_equal_exposures_are_one_that_is_deeper() -> None:
    cutouts, _ = observe(population(4, 5), 80.0)
    several = replace(cutouts, exposures=[exposure_of(cutouts)] * 3)
    deep = replace(cutouts, sigma=cutouts.sigma / 2)
    one, other = fit_cutouts(several, EXACT), fit_cutouts(deep, EXACT)
    error = other.error
    assert ((one.theta - other.theta).abs() < 1e-5 * error).all()
    galaxy = slice(0, 7)  # but the sky, of which each exposure has its own
    assert torch.allclose(
        one.covariance[:, galaxy, galaxy], other.covariance[:, galaxy, galaxy], atol=SINGLE
    )
    assert torch.allclose(one.chi2, other.chi2, rtol=1e-9, atol=SINGLE)
    assert (one.dof == 4 * 48 * 48 - 7 - 4).all()


def test_joint_fit_of_galsim_images() -> None:
    pytest.importorskip("galsim")
    truth = np.array([[GALAXY.x, GALAXY.y, 15.0, GALAXY.r_eff, GALAXY.n, GALAXY.q, GALAXY.pa, 3.0]])
    clean = fit_cutouts(observed(GALAXY, 15.0, VIEWS, seed=None), EXACT)
    # GalSim's and our convolution differ by 1e-5 of the flux: 0.05 errors at a S/N of 1000
    assert (np.abs(differences(clean.theta.numpy(), truth)) < 0.05 * clean.error.numpy()).all()
    for k in range(3):  # each of the images matters, and is fitted by itself too
        alone = fit_cutouts(observed(GALAXY, 15.0, [VIEWS[k]], seed=None), EXACT)
        assert alone.error[0, 3] > 1.1 * clean.error[0, 3]
    noisy = fit_cutouts(observed(GALAXY, 17.0, VIEWS, seed=4), EXACT)
    truth[:, 2] = 17.0
    pull = differences(noisy.theta.numpy(), truth) / noisy.error.numpy()
    assert (np.abs(pull) < 3.5).all()  # 8 standard normals: one beyond in 300
    # chi2 of so many pixels, within 4 of its standard deviations
    dof = int(noisy.dof[0])
    assert dof == 2 * 64**2 + 60**2 - 10
    assert abs(float(noisy.chi2[0]) - dof) < 4 * np.sqrt(2 * dof)


def test_order_of_exposures_does_not_matter() -> None:
    pytest.importorskip("galsim")
    cutouts = observed(GALAXY, 17.0, VIEWS, seed=6)
    one = fit_cutouts(cutouts, EXACT)
    other = fit_cutouts(replace(cutouts, exposures=cutouts.exposures[::-1]), EXACT)
    assert torch.allclose(one.theta, other.theta, rtol=1e-8, atol=SINGLE)
    assert torch.allclose(one.covariance, other.covariance, rtol=1e-6, atol=SINGLE)
    assert torch.equal(one.dof, other.dof)


def test_errors_are_those_of_the_sum_of_informations() -> None:
    pytest.importorskip("galsim")
    mag, names = 17.0, ("x", "y", "mag", "r_eff", "n", "q", "pa")
    steps = {"x": 0.02, "y": 0.02, "mag": 0.01, "r_eff": 0.02, "n": 0.02, "q": 0.005, "pa": 1.0}

    def image(view: View, name: str, step: float) -> np.ndarray:
        if name == "mag":
            return seen_by_galsim(GALAXY, mag + step, view)
        return seen_by_galsim(replace(GALAXY, **{name: getattr(GALAXY, name) + step}), mag, view)

    information = np.zeros((7, 7))
    for view in VIEWS:
        columns = [
            (image(view, k, steps[k]) - image(view, k, -steps[k])) / (2 * steps[k]) for k in names
        ]
        flat = np.stack([c.ravel() for c in columns]) / view.sigma
        flat -= flat.mean(axis=1, keepdims=True)  # without what its own sky takes
        information += flat @ flat.T
    errors = np.sqrt(np.diag(np.linalg.inv(information)))
    cutouts = observed(GALAXY, mag, VIEWS, seed=None)
    found = fit_cutouts(cutouts, replace(EXACT, objective="ml"))
    # finite differences are of the second order in steps of a few per cent
    assert np.allclose(found.error[0, :7].numpy(), errors, rtol=3e-3, atol=SINGLE)
    problem, rows = build_problem(cutouts, replace(EXACT, objective="ml")), torch.arange(1)
    coords, _ = problem.space.from_physical(found.theta, cutouts.zeropoint)
    about = linearise(problem, cutouts, problem.space.to_whitened(coords, problem.constants))
    normal = problem(about.whitened, rows)
    # the same information, of columns in every pixel and of the sums over them
    inside = about.information[:, :6, :6] - about.information[:, :6, 6:] @ torch.linalg.solve(
        about.information[:, 6:, 6:], about.information[:, 6:, :6]
    )
    assert torch.allclose(inside, normal.hessian, rtol=1e-6, atol=1e-6 * float(inside.max()))
    assert sum(float((one.residual**2).sum()) for one in about.images) == pytest.approx(
        2 * float(normal.cost), rel=1e-6
    )


# --- as users give them ---------------------------------------------------------------------


def with_wcs(cutouts: Cutouts, view: View) -> Cutouts:
    return replace(cutouts, wcs=[wcs_of(view)] * len(cutouts))


def test_exposures_are_placed_by_their_wcs() -> None:
    pytest.importorskip("galsim")
    joint = observed(GALAXY, 17.0, VIEWS, seed=3)
    first, *others = (
        with_wcs(one, view) for one, view in zip(joint.single_images(), VIEWS, strict=True)
    )
    placed = hf.with_exposures(first, *others)
    for found, view in zip(placed.exposures, VIEWS[1:], strict=True):
        # the projections of 10 arcsec are the same plane to 1e-9
        assert np.allclose(found.to_pixels[0].numpy(), view.affine, atol=1e-6)
    assert placed.messages == ("",)
    one, other = fit_cutouts(placed, EXACT), fit_cutouts(joint, EXACT)
    assert torch.allclose(one.theta, other.theta, rtol=1e-6, atol=SINGLE)


def test_exposures_are_matched_by_name() -> None:
    cutouts, _ = observe(population(3, 1), 60.0, id=["a", "b", "c"])
    other = replace(cutouts[[2, 0]], origin=torch.tensor([[1.0, 0.0], [0.0, 2.0]]))
    joined = hf.with_exposures(cutouts, other)
    (exposure,) = joined.exposures
    assert exposure.has_data.tolist() == [True, False, True]
    assert torch.equal(exposure.image[0], cutouts.image[0])
    assert exposure.to_pixels[0].tolist() == [[1, 0, 0], [0, 1, -2]]
    assert exposure.to_pixels[2].tolist() == [[1, 0, -1], [0, 1, 0]]
    assert joined.messages == ("", "image 2 left out: it has no galaxy 'b'", "")
    # whoever lacks it is fitted as ever
    alone, both = fit_cutouts(cutouts, EXACT), fit_cutouts(joined, EXACT)
    assert torch.allclose(alone.theta[1], both.theta[1], rtol=1e-9, atol=SINGLE)
    assert int(alone.dof[1]) == int(both.dof[1])
    assert int(both.dof[0]) == int(alone.dof[0]) + 48 * 48 - 1


def test_what_cannot_be_placed_is_left_out_or_said() -> None:
    pytest.importorskip("galsim")
    cutouts, _ = observe(population(2, 1), 60.0)
    small, _ = observe(population(2, 1, side=40), 60.0, shape=(40, 40))
    with pytest.raises(ValueError, match="40 x 40 pixels, the first image 48 x 48, and"):
        hf.with_exposures(cutouts, small)
    with pytest.raises(ValueError, match="the first image has no WCS, unlike the other"):
        hf.with_exposures(cutouts, with_wcs(small, View()))
    bare = Cutouts(image=cutouts.image, sigma=cutouts.sigma, psf=cutouts.psf)
    with pytest.raises(ValueError, match="it has no zero point, unlike the other"):
        hf.with_exposures(cutouts, bare)
    far = with_wcs(cutouts, View())
    far.wcs[1].wcs.crval = [330.0, -2.0]
    one_lost = replace(cutouts, wcs=[wcs_of(View()), far.wcs[1]])
    lost = hf.with_exposures(with_wcs(cutouts, View()), one_lost)
    assert lost.exposures[0].has_data.tolist() == [True, False]
    assert lost.messages[1].startswith("image 2 left out: ")


def test_exposures_are_checked() -> None:
    cutouts, _ = observe(population(2, 1), 60.0)
    good = exposure_of(cutouts)
    with pytest.raises(ValueError, match=r"exposures\[0\] has 1 galaxies, expected 2"):
        replace(cutouts, exposures=[good[:1]])
    with pytest.raises(ValueError, match=r"exposures\[1\] is .* expected a hybridfit.Exposure"):
        replace(cutouts, exposures=[good, cutouts.image])
    with pytest.raises(ValueError, match=r"exposures\[0\] has no PSF, unlike the first image"):
        replace(cutouts, exposures=[exposure_of(cutouts, psf=None)])
    with pytest.raises(ValueError, match=r"to_pixels of galaxy 0 is .* whose A has an inverse"):
        exposure_of(cutouts, to_pixels=torch.zeros(2, 3))
    bare = Cutouts(image=cutouts.image, sigma=cutouts.sigma, psf=cutouts.psf)
    with pytest.raises(ValueError, match="has a zero point, but the first image has none"):
        replace(bare, exposures=[good])
    assert torch.isnan(exposure_of(bare, zeropoint=None).zeropoint).all()
    with pytest.raises(ValueError, match=r"Cutouts.exposures has 0, 1 entries"):
        Cutouts.cat([cutouts, replace(cutouts, exposures=[good])])
    two = replace(cutouts, exposures=[good])
    assert len(Cutouts.cat([two, two[[1]]]).exposures[0]) == 3
    assert "2 images" in repr(two)
    with pytest.raises(ValueError, match="cutouts have exposures, expected one image"):
        cramer_rao(torch.zeros(2, 8), two)


def test_shapes_in_pixels_have_one_image() -> None:
    cutouts, _ = observe(population(2, 1), 60.0)
    two = replace(cutouts, exposures=[exposure_of(cutouts)])
    with pytest.raises(ValueError, match="has the shape parameters f1_phase, in pixels or degrees"):
        fit_cutouts(two, replace(EXACT, model="sersic~f1"))


REFITS = hf.BootstrapOptions(kind="parametric", replicas=60)
STEPS = hf.BootstrapOptions(kind="parametric", replicas=600, refit=False)


@pytest.mark.parametrize(
    ("uncertainty", "bootstrap", "tolerance"),
    [
        ("covariance", STEPS, 0.1),  # the noise is measured, in other images
        ("posterior", STEPS, 0.15),  # of hundreds of draws
        ("bootstrap", STEPS, 0.15),  # 3 % each from so many replicas, 9 % from 60
        ("bootstrap", REFITS, 0.4),
    ],
)
def test_errors_of_equal_exposures(
    uncertainty: str, bootstrap: hf.BootstrapOptions, tolerance: float
) -> None:
    """Four equal dithers have the errors of one that is twice as deep, however they are made."""
    cutouts, _ = observe(population(2, 5), 60.0, psf=narrow_psf())
    rng = np.random.default_rng(8)
    noise = torch.tensor(rng.standard_normal((4, *cutouts.image.shape)))
    images = [render_of(cutouts) + n for n in noise]
    exposures = [exposure_of(replace(cutouts, image=image)) for image in images[1:]]
    several = replace(cutouts, image=images[0], exposures=exposures)
    deep = replace(cutouts, image=sum(images) / 4, sigma=cutouts.sigma / 2)
    given = {"uncertainty": uncertainty, "compile": "off", "initial_values": "moments"}
    given["bootstrap"] = bootstrap
    one, other = hf.fit(several, **given), hf.fit(deep, **given)
    for name in ("x", "y", "mag", "r_eff", "n", "q"):
        # the same likelihood, but for a constant; chi2 is summed in float32
        error = np.asarray(other[f"{name}_err"])
        assert np.abs((one[name] - other[name]) / error).max() < 0.1
        assert np.allclose(one[f"{name}_err"], error, rtol=tolerance, atol=SINGLE), name
    assert (one["dof"] > 4 * other["dof"]).all()
    assert (np.asarray(one["flags"]) == np.asarray(other["flags"])).all()


def narrow_psf() -> np.ndarray:
    return moffat_psf(2.2, 3.0)[10:-10, 10:-10]


def render_of(cutouts: Cutouts) -> Tensor:
    """The models that the cutouts were made of."""
    fit = fit_cutouts(cutouts, EXACT)
    return render(fit.theta, cutouts, dtype=torch.float64)


def test_posterior_without_light_in_the_first_image() -> None:
    """What one image hides another shows: a masked first image leaves the exposure's posterior."""
    cutouts, truth = observe(population(2, 7), 80.0)
    hidden = replace(cutouts, mask=torch.ones_like(cutouts.mask), exposures=[exposure_of(cutouts)])
    given = {"uncertainty": "posterior", "compile": "off", "initial_values": "moments"}
    one, other = hf.fit(hidden, **given), hf.fit(cutouts, **given)
    for name in ("x", "mag", "r_eff", "n", "q"):
        assert np.abs((one[name] - other[name]) / other[f"{name}_err"]).max() < 0.2
        assert np.allclose(one[f"{name}_err"], other[f"{name}_err"], rtol=0.2, atol=SINGLE), name
    assert truth.shape == (2, 8)


@pytest.mark.slow
def test_coverage_of_undersampled_dithers() -> None:
    """Posteriors of 60 galaxies in three dithers, one turned, of a PSF of 1.3 pixels."""
    pytest.importorskip("galsim")
    rng = np.random.default_rng(11)
    names, parts, truths = ("x", "y", "mag", "r_eff", "n", "q"), [], []
    for i in range(60):
        galaxy = Galaxy(
            *(23.5 + rng.uniform(-0.5, 0.5, 2)),
            r_eff=float(np.exp(rng.uniform(np.log(1.2), np.log(4.0)))),
            n=float(np.exp(rng.uniform(np.log(0.7), np.log(3.5)))),
            q=float(rng.uniform(0.3, 0.95)),
            pa=float(rng.uniform(0, 180)),
        )
        mag = float(rng.uniform(17.0, 18.5))
        more = {"fwhm": 1.3, "side": 48, "oversampling": 3}
        views = [
            View(**more),
            View(shift=(1 / 3, 2 / 3), **more),
            rotated(20.0, 1.0, (23.5, 23.5), (23.8, 23.2), **more),
        ]
        parts.append(replace(observed(galaxy, mag, views, seed=100 + i), id=[str(i)]))
        truths.append([galaxy.x, galaxy.y, mag, galaxy.r_eff, galaxy.n, galaxy.q])
    cutouts, truth = Cutouts.cat(parts), np.array(truths)
    table = hf.fit(cutouts, compile="off", initial_values="moments")
    pull = np.stack([(table[k] - truth[:, i]) / table[f"{k}_err"] for i, k in enumerate(names)], 1)
    inside = np.stack(
        [
            (table[f"{k}_p16"] < truth[:, i]) & (truth[:, i] < table[f"{k}_p84"])
            for i, k in enumerate(names)
        ],
        axis=1,
    )
    # 60 trials each: .68 +- .06, of which three; of all together, which are correlated, half
    assert (np.abs(inside.mean(axis=0) - 0.68) < 0.18).all(), inside.mean(axis=0)
    assert abs(inside.mean() - 0.68) < 0.09, inside.mean()
    assert 0.9 < (np.abs(pull) < 2).mean() < 0.99
    # the wrong twin: what the exposures add is not the first image's own
    alone = hf.fit(cutouts.single_images()[0], compile="off", initial_values="moments")
    gain = np.median(alone["r_eff_err"] / table["r_eff_err"])
    assert 1.5 < gain < 2.5
