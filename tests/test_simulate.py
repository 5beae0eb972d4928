"""The simulator of survey-like scenes: its pixels are the fitter's, its statistics as asked."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from astropy.io import fits
from astropy.table import Table
from click.testing import CliRunner, Result
from scipy import stats
from tolerances import SINGLE
from torch import Tensor

import hybridfit as hf
from hybridfit.cli.app import make_app
from hybridfit.model.galaxy_model import GalaxyModel
from hybridfit.model.parameters import ParameterSpace
from hybridfit.model.prior import Prior
from hybridfit.rendering.render import render
from hybridfit.simulation import contaminants
from hybridfit.simulation.galaxies import Drawn, draw_galaxies, unit_images
from hybridfit.simulation.options import CLEAN, FieldOptions, Kind, SimulatedFields
from hybridfit.simulation.psfs import FAMILIES, draw_psfs, fwhm_of, read_psfs
from hybridfit.simulation.random_numbers import Random, turned_images, turned_theta
from hybridfit.simulation.simulate import SimulateOptions, simulate_fields

CPU = torch.device("cpu")


def source(seed: int = 1) -> Random:
    return Random.seeded(seed, CPU)


@pytest.fixture(scope="module")
def mixed() -> SimulatedFields:
    """Scenes with all contaminants."""
    return simulate_fields(2048, 7, FieldOptions(sides=(32, 48, 64)))


@pytest.fixture(scope="module")
def clean() -> SimulatedFields:
    return simulate_fields(256, 5, replace(CLEAN, noise_error_share=0.0))


def residuals(scenes: SimulatedFields) -> Tensor:
    """(image - truth) / sigma, 0 where masked."""
    model = render(scenes.theta, scenes.cutouts)
    return ((scenes.cutouts.image - model) / scenes.cutouts.sigma).masked_fill(
        scenes.cutouts.mask, 0.0
    )


def test_noise_is_all_that_parts_clean_scenes_from_their_truth(clean: SimulatedFields):
    pixels = (~clean.cutouts.mask).sum(dim=(1, 2)).double()
    z = (residuals(clean).double().square().sum(dim=(1, 2)) - pixels) / torch.sqrt(2 * pixels)
    # 256 draws: the mean scatters by .063 and the standard deviation by .044
    assert abs(float(z.mean())) < 0.25
    assert float(z.std()) == pytest.approx(1.0, abs=0.18)
    assert float(z.abs().max()) < 6


def test_bright_scenes_are_the_fitters_model():
    """At S/N 30,000 in every turn, with every size, PSF and aliasing."""
    options = replace(
        CLEAN, snr=(3e4, 3e4), shot=(1e-9, 1e-9), sky=0.0, noise_error_share=0.0, bad_pixels=0.0
    )
    scenes = simulate_fields(192, 5, replace(options, sides=(32, 48)))
    model = render(scenes.theta, scenes.cutouts)
    error = scenes.cutouts.image - model
    error = error.masked_fill(scenes.cutouts.mask, 0.0)
    error = (
        error
        / model.masked_fill(scenes.cutouts.mask, 0.0).square().sum((1, 2)).sqrt()[:, None, None]
    )
    # noise of 48^2 pixels is 48 / 30,000 of the model's norm; kernels that skip aliasing add 2e-4
    assert float(error.square().sum(dim=(1, 2)).sqrt().max()) < 48 / 3e4 * 1.3
    wrong = render(scenes.theta.roll(1, dims=0), scenes.cutouts)
    assert float((wrong - model).norm()) > 0.1 * float(model.norm())


@pytest.mark.parametrize("turn", range(8))
def test_turned_galaxies_are_rendered_as_such(turn: int):
    """Turning image, PSF and parameters equals rendering the turned parameters."""
    psf = draw_psfs(6, source(), 41, (2.5, 5.0), (1.0, 0.0, 0.0, 0.0, 0.0), 0.5)
    theta = torch.tensor([[17.3, 14.2, -1.0, 4.0, 1.5, 0.4, 25.0, 0.0]], dtype=torch.float64)
    theta = theta.expand(6, 8).clone()
    theta[:, 6] = torch.linspace(0, 150, 6)
    which, all_turn = torch.arange(6), torch.full((6,), turn)

    def image(values: Tensor, own: Tensor) -> Tensor:
        coords, flux = ParameterSpace().from_physical(values, torch.zeros(6, dtype=torch.float64))
        drawn = Drawn(coords, torch.ones(6, 1, dtype=torch.float64))
        return unit_images(drawn, GalaxyModel(), 32, own, which) * flux[:, :1, None]

    direct = image(
        turned_theta(theta, torch.full((6,), 32), all_turn), turned_images(psf, all_turn)
    )
    expected = turned_images(image(theta, psf), all_turn)
    # kernels that skip aliasing err by up to 2e-4 of the peak, not the same in every turn
    torch.testing.assert_close(direct, expected, atol=1e-4 * float(expected.max()), rtol=0)


def test_signal_to_noise_is_as_asked(clean: SimulatedFields):
    options = replace(CLEAN, snr=(40.0, 40.0), shot=(1e-9, 1e-9), noise_error_share=0.0)
    asked = simulate_fields(128, 2, options)
    assert float((asked.snr - 40).abs().max()) < 1e-3
    flat = asked.theta.clone()
    flat[:, 7] = 0.0
    model = render(flat, asked.cutouts).masked_fill(asked.cutouts.mask, 0.0)
    measured = (model / asked.cutouts.sigma).square().sum(dim=(1, 2)).sqrt()
    assert float((measured - 40).abs().max()) < 0.04  # the two renderings
    # log-uniform 3 - 1500 where no mask takes much
    place = np.log(clean.snr.numpy() / 3) / np.log(500)
    assert stats.kstest(place, "uniform").pvalue > 1e-3


def test_padding_is_masked_and_says_its_size(mixed: SimulatedFields):
    cutouts = mixed.cutouts
    assert cutouts.image.shape == (2048, 64, 64)
    assert cutouts.image.dtype == torch.float32
    assert set(cutouts.size[:, 0].tolist()) == {32, 48, 64}
    for i in range(0, 2048, 97):
        height, width = cutouts.size[i].tolist()
        assert bool(cutouts.mask[i, height:].all())
        assert bool(cutouts.mask[i, :, width:].all())
        assert float(cutouts.mask[i, :height, :width].float().mean()) < 1
    inside = (mixed.theta[:, :2] > 0) & (mixed.theta[:, :2] < cutouts.size - 1)
    assert bool(inside.all())
    overfull = (mixed.theta[:, 3] > 0.2 * cutouts.size[:, 0]).double().mean()
    assert 0.02 < float(overfull) < 0.2


def test_same_seed_same_pixels():
    first, second = (simulate_fields(40, 3) for _ in range(2))
    other = simulate_fields(40, 4)
    assert torch.equal(first.cutouts.image, second.cutouts.image)
    assert torch.equal(first.theta, second.theta)
    assert not torch.equal(first.cutouts.image, other.cutouts.image)
    assert len(simulate_fields(7, 3)) == 7
    part = first[3:5].to("cpu")
    assert torch.equal(part.theta, first.theta[3:5])
    assert part.cutouts.id == ("sim00003", "sim00004")


def test_galaxies_follow_the_prior():
    space, prior = ParameterSpace(), Prior()
    model = GalaxyModel(prior=prior)
    coords = draw_galaxies(4000, source(), model, (1e-9, 1e9)).coords
    box = torch.tensor([0.0, 0.0, 1.0, 1.0], dtype=torch.float64).expand(4000, 4)
    u = space.to_whitened(coords, space.constants(box))[:, 2:].numpy()
    for column in u.T:
        assert stats.kstest(column, "norm").pvalue > 1e-3
    # 4000 draws: correlations scatter by .016
    assert np.abs(np.corrcoef(u.T) - np.eye(4)).max() < 0.07
    cut = draw_galaxies(2000, source(), model, (2.0, 9.0)).coords
    size = torch.exp(cut[:, 2] + cut[:, -2:].norm(dim=1) / 2)
    assert 2 <= float(size.min()) <= float(size.max()) <= 9
    with pytest.raises(ValueError, match="widen"):
        draw_galaxies(10, source(), model, (1e-9, 1.1e-9))


@pytest.mark.parametrize("family", range(len(FAMILIES)))
def test_psfs_are_what_cutouts_take(family: int):
    weights = tuple(float(i == family) for i in range(len(FAMILIES)))
    psf = draw_psfs(200, source(), 61, (1.5, 8.0), weights, 0.25)
    assert psf.shape == (200, 61, 61)
    assert float((psf.sum(dim=(1, 2)) - 1).abs().max()) < 1e-5
    assert float(psf.min()) >= 0
    # the FWHM is drawn first: the same seed gives it again
    asked = source().log_uniform((1.5, 8.0), 200)
    ratio = fwhm_of(psf) / asked
    # blurring, ellipticity and the sum of two profiles move it, coarse sampling hides it
    assert 0.93 < float(ratio.median()) < 1.07
    assert 0.75 < float(ratio.min()) <= float(ratio.max()) < 1.3
    edge = psf[:, [0, -1]].sum(dim=(1, 2)) + psf[:, :, [0, -1]].sum(dim=(1, 2))
    assert float(edge.median()) < 1e-3
    middle = psf.flatten(1).argmax(dim=1)
    offset = torch.maximum((middle % 61 - 30).abs(), (middle // 61 - 30).abs())
    assert float(offset.max()) <= 1


def test_gaussian_psf_loses_nothing_at_its_edge():
    psf = draw_psfs(50, source(), 61, (8.0, 8.0), (0.0, 1.0, 0.0, 0.0, 0.0), 0.25)
    assert float(psf[:, 3:-3, 3:-3].sum(dim=(1, 2)).min()) > 1 - 1e-5


def test_psfs_from_files(tmp_path: Path):
    y, x = np.mgrid[:32, :40]
    plane = np.exp(-((x - 22) ** 2 + (y - 14) ** 2) / 8.0) * (1 + 0.3 * (x > 22))
    fits.PrimaryHDU(7 * plane.astype(np.float32)).writeto(tmp_path / "a_psf.fits")
    fits.PrimaryHDU(plane).writeto(tmp_path / "a_image.fits")
    real = read_psfs(str(tmp_path), 21, CPU)
    assert len(real) == 1
    assert float(real.sum()) == pytest.approx(1.0, abs=1e-5)
    assert int(real[0].argmax()) == 10 * 21 + 10
    options = replace(CLEAN, psf_files=str(tmp_path), psf_real=1.0, psf_size=21, reuse=1)
    psf = simulate_fields(64, 1, options).cutouts.psf
    ways = torch.stack([turned_images(real, torch.tensor([t]))[0] for t in range(8)])
    nearest = (psf[:, None] - ways).abs().amax(dim=(2, 3)).amin(dim=1)
    assert float(nearest.max()) < 1e-6
    with pytest.raises(ValueError, match="holds no FITS file"):
        read_psfs(str(tmp_path / "none"), 21, CPU)


def test_kinds_have_the_asked_frequencies(mixed: SimulatedFields):
    options = FieldOptions()
    asked = {
        Kind.NEIGHBOUR: options.neighbour,
        Kind.NEIGHBOUR_MASKED: options.neighbour_masked,
        Kind.MASK_THROUGH: options.mask_through,
        Kind.GRADIENT: options.gradient,
        Kind.ARTEFACT: options.artefact,
    }
    for bit, probability in asked.items():
        share = float(((mixed.kind & int(bit)) > 0).double().mean())
        assert share == pytest.approx(probability, abs=5 * (probability / 2048) ** 0.5), bit
    structured = (mixed.kind & int(Kind.STRUCTURE)) > 0
    assert 0.02 < float(structured.double().mean()) < options.structure
    resolved = mixed.theta[:, 3] * mixed.theta[:, 5] > mixed.psf_fwhm
    assert bool(resolved[structured].all())
    assert 0.4 < float((mixed.kind == 0).double().mean()) < 0.6
    assert int(simulate_fields(64, 1, CLEAN).kind.abs().max()) == 0


def chi2(scenes: SimulatedFields) -> Tensor:
    """(B,) chi2 over the pixels that are left, per pixel."""
    left = (~scenes.cutouts.mask).sum(dim=(1, 2))
    return residuals(scenes).square().sum(dim=(1, 2)) / left


@pytest.mark.parametrize(
    "name", ["neighbour", "neighbour_masked", "mask_through", "structure", "gradient", "artefact"]
)
def test_contaminants_do_what_they_say(name: str):
    options = replace(
        CLEAN, sides=(48, 64), snr=(300.0, 300.0), shot=(1e-6, 1e-6), noise_error_share=0.0
    )
    options = replace(options, **{name: 1.0}, r_eff_min=4.0, psf_fwhm=(2.0, 3.0), bad_pixels=0.0)
    scenes = simulate_fields(128, 1, options)
    value = chi2(scenes)
    bit = int(Kind[name.upper()])
    value, rest = value[(scenes.kind & bit) > 0], value[(scenes.kind & bit) == 0]
    assert len(value) > 25
    masked = scenes.cutouts.mask.sum(dim=(1, 2)) - (64**2 - scenes.cutouts.size.prod(dim=1))
    if name == "mask_through":
        assert float(value.median()) == pytest.approx(1.0, abs=0.02)
        assert float((masked > 0).double().mean()) > 0.95
    elif name == "neighbour_masked":
        # what is left of the neighbours is below the noise, but for the overlap with the galaxy
        assert float(value.median()) < 1.15
        assert float((masked > 5).double().mean()) > 0.9
    else:
        assert int(masked.max()) == 0
        # 48^2 pixels: chi2 scatters by .03 for the truth
        assert float((value > 1.1).double().mean()) > {"gradient": 0.2}.get(name, 0.6)
    if len(rest):
        assert float(rest.median()) == pytest.approx(1.0, abs=0.02)


def test_moved_images_are_cut_at_the_stamp():
    source_image = torch.zeros(2, 5, 5)
    source_image[1, 2, 2] = 1.0
    rows = torch.tensor([1, 1, 1, 0])
    moved = contaminants.moved(
        source_image, rows, torch.tensor([3, -1, 8, 3]), torch.tensor([6, 2, 2, 3]), 8
    )
    assert moved.sum(dim=(1, 2)).tolist() == [1, 0, 0, 0]
    assert float(moved[0, 6, 3]) == 1


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"snr": (5.0, 3.0)}, "snr is"),
        ({"neighbour": 0.7, "neighbour_masked": 0.7}, "exclude each other"),
        ({"gradient": 1.5}, "expected a number from 0 to 1"),
        ({"sides": (8,)}, "16 to 4096 pixels"),
        ({"psf_size": 60}, "odd"),
        ({"psf_families": (1.0,)}, "a weight for each"),
        ({"reuse": 0}, "reuse is 0, expected 1 or more"),
    ],
)
def test_wrong_options_are_named(wrong: dict[str, object], text: str):
    with pytest.raises(ValueError, match=text):
        FieldOptions(**wrong)  # type: ignore[arg-type]


def test_scenes_are_written_as_files_with_their_truth(tmp_path: Path):
    config = tmp_path / "train.yaml"
    config.write_text("simulator: {sides: [32, 48], psf_size: 31}\nprior: {n: {median: 2.0}}\n")

    def call(*arguments: object) -> Result:
        return CliRunner().invoke(make_app(), ["simulate", "-o", *map(str, arguments)])

    result = call(tmp_path / "in", "--n", 12, "--config", config)
    assert result.exit_code == 0, result.output
    truth = Table.read(tmp_path / "in" / "truth.fits")
    options = FieldOptions(sides=(32, 48), psf_size=31)
    drawn = simulate_fields(12, 0, options, Prior.from_mapping({"n": {"median": 2.0}}))
    names = [*ParameterSpace().names, "snr", "psf_fwhm", "kind"]
    assert truth.colnames == ["id", *names, "kinds"]
    for name in names:
        np.testing.assert_array_equal(truth[name], drawn.table()[name])
    cutouts = hf.read(tmp_path / "in", mask_neighbours=False)
    assert list(cutouts.id) == list(truth["id"]) == list(drawn.cutouts.id)
    for name in ("image", "sigma", "mask", "size", "zeropoint"):
        np.testing.assert_array_equal(getattr(cutouts, name), getattr(drawn.cutouts, name))
    # read PSFs are normalised once more, in float64
    np.testing.assert_allclose(cutouts.psf, drawn.cutouts.psf, rtol=1e-6, atol=SINGLE)
    assert call(tmp_path / "more", "--n", 2, "--survey").exit_code == 0
    for wrong, text in (("simulator: {sidse: [32]}", "'sides'"), ("fit: {}", "'fit'")):
        config.write_text(wrong)
        result = call(tmp_path / "in", "--config", config)
        assert result.exit_code == 2
        assert text in result.output
    result = call(tmp_path / "in", "--survey", "--size", 64)
    assert result.exit_code == 2
    assert "--config" in result.output


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (
            lambda: FieldOptions(sides=(64, 1_000_000)),
            "sides is .*, expected cutouts of 16 to 4096",
        ),
        (
            lambda: FieldOptions(snr=(10, np.inf)),
            "snr is .*, expected each to be a finite number above 0",
        ),
        (
            lambda: SimulateOptions(shape=(64, 1_000_000)),
            "shape is .*, expected each to be a number from 1 to",
        ),
        (
            lambda: SimulateOptions(snr=(10, np.inf)),
            "snr is .*, expected each to be a finite number",
        ),
    ],
)
def test_galaxies_that_no_memory_holds_are_not_simulated(wrong, said):
    with pytest.raises(ValueError, match=said):
        wrong()
