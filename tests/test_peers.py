"""The comparison with other fitters: files, judgement, and the adapter that needs none of them."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "validation" / "adapters"))
import fit_scipy

from hybridfit.simulation.simulate import SimulateOptions, simulate
from validation import peers
from validation.adapters import exchange


@pytest.fixture(scope="module")
def task() -> exchange.Task:
    options = SimulateOptions(shape=(48, 48), snr=(200, 400), r_eff=(2.5, 4.0), n=(0.8, 2.0))
    cutouts, _ = simulate(3, 5, options)
    row = peers.Row("scipy", "native")
    return peers.task_of(row, cutouts, peers.starts(cutouts))


def test_files_keep_what_is_said(task: exchange.Task, tmp_path: Path) -> None:
    exchange.save(tmp_path / "task.npz", task)
    read = exchange.load_task(tmp_path / "task.npz")
    assert (read.variant, read.own_start) == ("native", False)
    np.testing.assert_array_equal(read.image, task.image)
    assert next(read.galaxies()).start is not None
    assert next(replace(read, own_start=True).galaxies()).start is None


def test_truth_is_not_in_the_task() -> None:
    fields = set(exchange.Task.__dataclass_fields__)
    assert not [name for name in fields if "truth" in name or name.startswith("t_")]


def test_tasks_are_checked(task: exchange.Task) -> None:
    with pytest.raises(ValueError, match="start has shape"):
        replace(task, start=task.start[:1])
    with pytest.raises(ValueError, match="not finite"):
        replace(task, start=task.start * np.nan)


def test_adapter_as_a_process(task: exchange.Task) -> None:
    answer = peers.run(peers.Row("scipy", "native"), task, sys.executable, None)
    assert not isinstance(answer, str), answer
    assert answer.values.shape == answer.errors.shape == (3, 8)
    assert answer.start_up > 0
    assert (answer.seconds > 0).all()
    assert (answer.converged == exchange.CONVERGED).all()


def test_missing_tool_is_told(task: exchange.Task, tmp_path: Path) -> None:
    # an interpreter without site-packages has no tool at all
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S -I "$@"\n')
    python.chmod(0o755)
    said = peers.run(peers.Row("pyimfit", "LM"), task, str(python), None)
    assert isinstance(said, str)
    assert "No module named" in said


def test_tool_that_raises_loses_its_galaxy_only(task: exchange.Task) -> None:
    class Moody(fit_scipy.Scipy):
        calls = 0

        def fit(self, galaxies: list[exchange.Galaxy], variant: str) -> list[exchange.Fitted]:
            self.calls += 1
            if self.calls == 3:  # the first is the warm-up
                raise FloatingPointError("had enough")
            return super().fit(galaxies, variant)

    answer = exchange.answer(Moody(), task)
    assert np.isfinite(answer.values).all(axis=1).tolist() == [True, False, True]
    assert answer.converged[1] == exchange.FAILED
    assert "had enough" in str(answer.messages[1])


def test_scipy_renders_and_recovers(task: exchange.Task) -> None:
    """Noise-free images of its own model come back as what they were, from the moments' starts."""
    tool = fit_scipy.Scipy()
    theta = np.array([23.3, 24.6, 18.0, 4.0, 1.4, 0.6, 65.0, 0.02])
    shape = (48, 48)
    image = tool.render(theta, task.psf[0], 25.0, shape)
    start = theta + np.array([0.4, -0.3, 0.2, 0.8, 0.3, 0.1, 12.0, 0.0])
    galaxy = exchange.Galaxy(image, np.full(shape, 0.01), task.psf[0], 25.0, start)
    found = tool.fit([galaxy], "native")[0]
    np.testing.assert_allclose(found.values, theta, rtol=1e-4, atol=1e-5)
    assert (found.errors > 0).all()


@pytest.mark.parametrize("variant", [1, fit_scipy.FINE])
def test_scipy_against_our_renderer(variant: int) -> None:
    options = SimulateOptions(shape=(128, 128))
    cutouts, _ = simulate(1, 0, options)
    known, psfs = peers.known_models(cutouts)
    images = [
        fit_scipy.Model(psf, (128, 128), variant)(fit_scipy.to_parameters(theta, 25.0))
        for theta, psf in zip(peers.KNOWN, psfs, strict=True)
    ]
    assert peers.distance(np.array(images), known) < 0.02
    # and the measure sees what a wrong convention does
    assert peers.distance(np.roll(images, 1, axis=2), known) > 0.1
    assert peers.distance(np.array(images)[:, :, ::-1], known) > 0.1


def test_magnitudes_of_amplitudes() -> None:
    theta = np.array([0, 0, 19.0, 3.0, 2.5, 0.5, 0, 0])
    level = exchange.amplitude(theta, 25.0)
    assert exchange.magnitude(level, 3.0, 2.5, 0.5, 25.0) == pytest.approx(19.0)
    assert np.isnan(exchange.magnitude(-level, 3.0, 2.5, 0.5, 25.0))
    # most of the light of an image this wide is in it: 1 % of n = 2.5 lies beyond 10 r_eff
    centred = np.array([100.0, 100.0, 19.0, 3.0, 1.0, 0.5, 0, 0])
    total = exchange.sampled_sersic(centred, 25.0, (201, 201), fine=5).sum() / 25
    assert total == pytest.approx(10 ** (0.4 * 6), rel=1e-3)
    # the gradient is that of the magnitude
    gradient, step = exchange.magnitude_gradient(3.0, 2.5, 0.5), 1e-4
    changed = exchange.magnitude(level, 3.0, 2.5 * (1 + step), 0.5, 25.0)
    assert (changed - 19.0) / step == pytest.approx(gradient[2], rel=1e-2)
    changed = exchange.magnitude(level, 3.0 * (1 + step), 2.5, 0.5, 25.0)
    assert (changed - 19.0) / step == pytest.approx(gradient[1], rel=1e-2)


def test_accuracy_counts_failures_pulls_and_claims() -> None:
    truth = np.tile([10.0, 10.0, 20.0, 5.0, 2.0, 0.5, 179.0], (4, 1))
    errors = np.full_like(truth, 0.1)
    values = truth + 0.05
    values[1, 2] += 0.6  # catastrophic, and said to be good
    values[2, 3] = 11.0  # catastrophic, and said to be bad
    values[3, 6] = 0.02  # across the wrap, 1.02 deg off
    errors[3, 0] = np.nan
    said = np.array([exchange.CONVERGED, exchange.CONVERGED, exchange.FAILED, exchange.CONVERGED])
    report = peers.accuracy(values, errors, truth, said)
    assert (report["catastrophic"], report["of them said to be good"]) == (2, 1)
    assert (report["said to be good"], report["said to be bad"]) == (3, 1)
    assert report["pull mean"]["pa"] == pytest.approx((0.5 + 10.2) / 2)
    assert report["68 % cover"]["y"] == 1.0
    assert report["68 % cover"]["pa"] == 0.75
    assert report["68 % cover"]["mag"] == 0.75
    assert report["share with an error"]["x"] == 0.75
    lost = peers.accuracy(np.full_like(truth, np.nan), errors, truth, said)
    assert lost["catastrophic"] == 4


def test_intervals_go_before_errors() -> None:
    truth = np.tile([10.0, 10.0, 20.0, 5.0, 2.0, 0.5, 1.0], (1, 1))
    values, errors = truth + 5, np.full_like(truth, 0.1)
    interval = np.stack([truth - 1, truth + 2], axis=1)
    interval[:, 0, 6] += 180  # from 180 to 3 degrees, as a table may write it
    interval[:, 1, 6] += 180
    report = peers.accuracy(values, errors, truth, np.array([1]), interval)
    assert report["68 % cover"] == {}  # the galaxy is lost, so there is no pull to stand beside
    near = values.copy()
    near[:, :6] = truth[:, :6] + [0.05, 0.05, 0.05, 0.05, 0.05, 0.05]
    near = np.concatenate([near, near])
    two = [np.concatenate([a, a]) for a in (errors, truth, interval)]
    report = peers.accuracy(near, two[0], two[1], np.array([1, 1]), two[2])
    assert set(report["68 % cover"].values()) == {1.0}


def test_starts_are_near() -> None:
    options = SimulateOptions(shape=(64, 64), snr=(100, 300), r_eff=(2.0, 4.0), n=(1.0, 2.5))
    cutouts, truth = simulate(6, 2, options)
    first = peers.starts(cutouts)
    assert np.isfinite(first).all()
    assert np.abs(first[:, 2] - np.asarray(truth["mag"])).max() < 0.6
    assert np.abs(np.log(first[:, 3] / np.asarray(truth["r_eff"]))).max() < np.log(2)


def test_saved_galfit_answers(shared_data: Path) -> None:
    _, truth, _ = peers.load_sims("main")
    report = peers.saved_galfit("main", truth)
    # as counted when they were made: a wrong angle or origin would lose or inflate these
    assert report["catastrophic"] == 1
    assert report["68 % cover"]["pa"] == pytest.approx(0.67, abs=0.01)
    assert report["68 % cover"]["x"] == pytest.approx(0.71, abs=0.01)


def test_driver_leaves_out_what_is_not_there(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "validation.peers", "--rows", "petrofit"]
    name = tmp_path / "report"
    done = subprocess.run(
        [*command, "--n", "main=1", "--name", str(name), "--python", f"petrofit={sys.executable}"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "left out" in done.stdout
    assert "pip install petrofit" in done.stdout
