"""What is said of galaxies whose numbers cannot be trusted: the right cause, or nothing."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from fit_helpers import observe, population
from read_helpers import gaussian
from scipy import ndimage

import hybridfit as hf
from hybridfit.detection.detect import detect_objects
from hybridfit.fitting.options import FitOptions
from hybridfit.pipeline.measure import measure
from hybridfit.pipeline.uncertainty_options import ErrorOptions
from hybridfit.uncertainty.diagnosis import (
    neighbour_cause,
    noise_cause,
    residual_cause,
    sampling_cause,
    zeropoint_cause,
)

OPTIONS = FitOptions(compile="off")
SHAPE = (64, 64)


def galaxies(count: int, snr=200.0, seed: int = 7, **more):
    theta = population(count, seed, SHAPE[0])
    theta[:, 3] = np.clip(theta[:, 3], 1.5, 5.0)
    return observe(theta, snr, SHAPE, seed, **more)


def said_of(cutouts: hf.Cutouts) -> tuple[list[str], list[str]]:
    """Quality and message of each galaxy, by the quickest way to errors."""
    table = hf.fit(cutouts, fit=OPTIONS, uncertainty="covariance", initial_values="moments")
    return list(table["quality"]), list(table["notes"])


def share(texts: list[str], words: str) -> float:
    return float(np.mean([words in text for text in texts]))


# --- whole fits -----------------------------------------------------------------------------


@pytest.mark.parametrize("snr", [10.0, 60.0, 400.0])
def test_nothing_is_said_of_clean_galaxies(snr):
    cutouts, _ = galaxies(40, snr, 3)
    assert [text for text in said_of(cutouts)[1] if text] == []


@pytest.mark.parametrize("k", [2, 3, 4])
def test_a_psf_of_the_wrong_sampling(k):
    """A PSF k times oversampled, given as if it were not: most rows name k, none another."""
    cutouts, _ = galaxies(16)
    assert cutouts.psf is not None
    psf = cutouts.psf[0].double().numpy()
    half = psf.shape[0] // 2
    y, x = np.mgrid[-half * k : half * k + 1, -half * k : half * k + 1] / k + half
    fine = np.clip(ndimage.map_coordinates(psf, [y, x], order=5), 0, None)
    quality, said = said_of(replace(cutouts, psf=(fine / fine.sum()).astype(np.float32)))
    suspect = [text for grade, text in zip(quality, said, strict=True) if grade == "suspect"]
    assert len(suspect) >= 8
    named = [text for text in suspect if "--psf-oversampling" in text]
    assert len(named) >= 0.7 * len(suspect)
    # the profile makes good for a PSF that is too narrow: a neighbour of k may fit as well
    assert share(named, f"oversampled {k} times; give --psf-oversampling {k}") >= 0.8


def test_a_neighbour_that_was_left_in():
    """As bright as the target, 20 pixels away: its place in the image as given."""
    cutouts, truth = galaxies(12)
    image = cutouts.image.clone()
    for i, row in enumerate(truth):
        flux = float(10 ** (-0.4 * (row[2] - 25.0)))
        image[i] += torch.tensor(gaussian(SHAPE, row[0] + 16, row[1] + 12, 2.0, flux)).float()
    quality, said = said_of(replace(cutouts, image=image, origin=[100.0, 200.0]))
    assert quality.count("suspect") >= 8
    told = [text for g, text in zip(quality, said, strict=True) if g == "suspect"]
    assert share(told, "an unmasked source at") >= 0.75
    for text, row in zip(said, truth, strict=True):
        if "an unmasked source" in text:
            x, y = (float(v) for v in text.split("x, y = ")[1].split(" (")[0].split(", "))
            assert (
                np.hypot(x - row[0] - 116, y - row[1] - 212) < 3
            )  # its own noise and the target's


@pytest.mark.parametrize(("factor", "way"), [(1 / 3, "low"), (5.0, "high")])
def test_a_noise_map_that_is_off(factor, way):
    cutouts, _ = galaxies(8)
    wrong = replace(cutouts, sigma=cutouts.sigma * factor)
    result = measure(wrong, OPTIONS, torch.device("cpu"), False, ErrorOptions("covariance"))
    suspect = result.quality == 0
    if factor < 1:
        assert suspect.all()
    named = [note for note, is_suspect in zip(result.notes, suspect, strict=True) if is_suspect]
    for note in named:
        found = re.match(rf"the noise map is ([0-9.]+) times too {way}", note)
        # the scatter of a stamp's sky is known to some per cent
        assert found, note
        assert float(found[1]) == pytest.approx(max(factor, 1 / factor), rel=0.1)


def test_a_wrong_zero_point():
    cutouts, truth = galaxies(4)
    _, said = said_of(replace(cutouts, zeropoint=1.0))
    assert share(said, "is the zero point of 1 right?") == 1
    start = torch.full((4, 7), torch.nan, dtype=torch.float64)
    start[:, 2] = torch.tensor(truth[:, 2]) + 5.0
    _, said = said_of(replace(cutouts, start=start))
    assert share(said, "is far from the start's") == 1


def test_notes_come_before_messages_and_follow_their_rows():
    cutouts, _ = galaxies(3)
    table = hf.fit(
        replace(cutouts, zeropoint=1.0, messages=["a", "b", "c"]),
        fit=OPTIONS,
        uncertainty="covariance",
        initial_values="moments",
    )
    assert all(text.startswith("mag ") for text in table["notes"])
    assert [text.split("; ")[1] for text in table["notes"]] == ["a", "b", "c"]
    result = measure(
        replace(cutouts, zeropoint=[1.0, 25.0, 1.0]),
        OPTIONS,
        torch.device("cpu"),
        False,
        ErrorOptions("covariance"),
    )
    assert result[torch.tensor([2, 1])].notes == (result.notes[2], "")
    assert result.notes[2]


# --- the sentences --------------------------------------------------------------------------


def test_samplings_are_told_apart_by_chi2():
    assert sampling_cause(1, 9000.0, 1000, {}) == ""
    assert sampling_cause(1, 1050.0, 1000, {2: 1000.0, 3: 1010.0}).startswith("the PSF is too wide")
    assert sampling_cause(1, 1030.0, 1000, {2: 1000.0}) == ""  # chance
    # it falls, but most of the trouble stays
    assert sampling_cause(1, 9000.0, 1000, {4: 7000.0}) == ""
    said = sampling_cause(1, 9000.0, 1000, {2: 3000.0, 3: 1005.0, 4: 1001.0, 5: np.nan})
    assert said.endswith("give --psf-oversampling 3")  # 4 is no better, and farther
    said = sampling_cause(4, 5000.0, 1000, {1: 1000.0, 2: 2000.0})
    assert "too narrow" in said
    assert said.endswith("not to be oversampled; give --psf-oversampling 1")


@pytest.mark.parametrize(
    ("typical", "ratio", "said"),
    [
        (2.0, 1.0, ""),
        (2.0, 1.3, ""),
        (2.0, None, ""),
        (0.04, 5.0, "5 times too low: is it a variance given as sigma?"),
        (25.0, 1 / 125, "1.2e+02 times too high: is it an inverse variance given as sigma?"),
        (0.1, 0.1, "10 times too high: is it sigma given as a variance?"),
        (0.02, 2500.0, "2.5e+03 times too low: is it an inverse variance given as a variance?"),
        (2.0, 3.0, "3 times too low"),
    ],
)
def test_what_a_noise_map_may_be(typical, ratio, said):
    text = noise_cause(typical, ratio)
    assert text.endswith(said) if said else text == ""


@pytest.mark.parametrize(
    ("mag", "start", "zeropoint", "words"),
    [
        (22.0, np.nan, 25.0, ""),
        (22.0, 21.0, 25.0, ""),
        (22.0, 29.0, 25.0, "far from the start's 29.0"),
        (-4.0, np.nan, 0.0, ""),  # no zero point: flagged elsewhere
        (-4.0, np.nan, 1.0, "is unlikely for a galaxy"),
        (41.0, np.nan, 50.0, "is unlikely for a galaxy"),
        (np.nan, 20.0, 1.0, ""),
        (1e30, np.nan, 1e30, "mag 1e+30 is unlikely for a galaxy: is the zero point of 1e+30"),
        (-2e17, 21.0, -2e17, "mag -2e+17 is far from the start's 21.0: is the zero point right?"),
        (999.0, 21.0, 999.0, "mag 999.0 is far"),
    ],
)
def test_magnitudes_that_speak_against_the_zero_point(mag, start, zeropoint, words):
    text = zeropoint_cause(mag, start, zeropoint)
    assert words in text
    assert bool(text) == bool(words)


def test_neighbours_and_what_is_masked_of_them():
    noise = np.random.default_rng(1).normal(0, 1, SHAPE).astype(np.float32)
    image = noise + gaussian(SHAPE, 32, 32, 3.0, 3000.0).astype(np.float32)
    both = image + gaussian(SHAPE, 50, 40, 2.0, 900.0).astype(np.float32)
    open_, shut = np.zeros(SHAPE, bool), np.zeros(SHAPE, bool)
    shut[32:49, 42:59] = True

    def said(picture, mask, position=(31.5, 31.5)):
        return neighbour_cause(
            picture, detect_objects(picture, None, mask, position), mask, (10, 20)
        )

    assert said(image, open_) == ""
    assert said(both, shut) == ""
    assert said(both, open_).startswith("an unmasked source at x, y = 60, 60 (20 pix away, 0.3")
    assert "nothing is detected at the target's position" in said(image, open_, (10.0, 10.0))


def test_the_strongest_residual():
    noise = np.random.default_rng(2).normal(0, 1, SHAPE)
    mask = np.zeros(SHAPE, bool)
    assert residual_cause(noise, mask, (32, 32), (0, 0)) == ""
    bump = noise + gaussian(SHAPE, 40, 26, 1.5, 150.0)
    said = residual_cause(bump, mask, (32, 32), (5, 5))
    assert said == "the strongest residual is at x, y = 45, 31 (10 pix away)"
    mask[20:33, 34:47] = True
    assert residual_cause(bump, mask, (32, 32), (0, 0)) == ""
    assert residual_cause(np.full(SHAPE, np.nan), mask, (32, 32), (0, 0)) == ""
