"""On a GPU everything is as on the CPU; without one, at least the rules of devices are kept."""

from __future__ import annotations

import copy
import math
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from budget_helpers import replicas_of
from pretended_device import pretended
from torch import Tensor

import hybridfit as hf
from benchmarks import gpu, gpu_roof
from hybridfit.fitting.fit import fit_cutouts
from hybridfit.fitting.options import FitOptions
from hybridfit.model.parameters import ParameterSpace
from hybridfit.npe.network import Estimator
from hybridfit.npe.posterior import packaged_estimator, predict_cutouts
from hybridfit.pipeline.measure import measure
from hybridfit.pipeline.uncertainty_options import ErrorOptions
from hybridfit.rendering.render import render
from hybridfit.simulation.options import FieldOptions
from hybridfit.simulation.simulate import SimulateOptions, simulate, simulate_fields
from hybridfit.training.data import shard_of
from hybridfit.training.labelled_data import labelled_shard
from hybridfit.uncertainty.options import BootstrapOptions

CPU = torch.device("cpu")
# a kernel call takes this many on any device: the pretended one is the CPU, and in no hurry
OPTIONS = FitOptions(chunk=4)

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
# with a real device in the process the pretended one would be mistaken for it
needs_none = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a real CUDA device")


@pytest.fixture(scope="module")
def cutouts() -> hf.Cutouts:
    few, _ = simulate(4, 3, SimulateOptions(shape=(32, 32), snr=(30, 300), r_eff=(1.5, 3.0)))
    mask = torch.zeros_like(few.mask)
    mask[0, :6, :9] = True  # a masked corner, as another path through the network's inputs
    return replace(few, mask=mask)


def fits(cutouts: hf.Cutouts, device: torch.device) -> Tensor:
    return fit_cutouts(cutouts, OPTIONS, device).theta


def network() -> Estimator:
    """One of its own: moving a network moves it for everybody."""
    return copy.deepcopy(packaged_estimator().cpu())


def posteriors(cutouts: hf.Cutouts, device: torch.device) -> Tensor:
    found = measure(cutouts, OPTIONS, device, False, ErrorOptions("posterior"), network())
    assert found.draws is not None
    return (found.draws.weights[..., None] * found.draws.samples.nan_to_num()).sum(dim=1)


def draws(cutouts: hf.Cutouts, device: torch.device) -> Tensor:
    return predict_cutouts(cutouts, network(), 16, device=device).samples


def replicas(cutouts: hf.Cutouts, device: torch.device) -> Tensor:
    fit = fit_cutouts(cutouts, OPTIONS, CPU)
    options = BootstrapOptions(replicas=4)
    return replicas_of(cutouts, fit, options, OPTIONS, device).samples


def pixels(cutouts: hf.Cutouts, device: torch.device) -> Tensor:
    theta = torch.tensor([[15.2, 15.9, 20.0, 3.0, 2.0, 0.6, 40.0, 0.1]], dtype=torch.float64)
    theta = theta.expand(len(cutouts), -1).to(device)
    return render(theta, cutouts.to(device), ParameterSpace()).cpu()


WAYS = (fits, posteriors, draws, replicas, pixels)


@needs_none
@pytest.mark.parametrize("way", WAYS)
def test_devices_are_not_mixed(way: Callable[..., Tensor], cutouts: hf.Cutouts) -> None:
    expected = way(cutouts, CPU)
    with pretended() as device:
        found = way(cutouts, torch.device("cuda"))
    assert not device.mixed, dict(device.mixed)
    assert device.ops > 100  # it did go through the device
    # the same arithmetic; a device's larger pieces may be summed in another order
    scale = expected.abs().nan_to_num().amax(dim=tuple(range(1, expected.ndim)), keepdim=True)
    torch.testing.assert_close(found / scale, expected / scale, rtol=0, atol=1e-5, equal_nan=True)


@needs_none
def test_devices_are_not_mixed_in_simulations() -> None:
    options = FieldOptions(sides=(32, 48), psf_size=21)
    initial_estimator = network().initial_estimator
    assert initial_estimator is not None
    # the pretended device takes modules only in inference mode
    with torch.inference_mode(), pretended() as device:
        made = simulate_fields(64, 1, options, device="cuda")
        assert made.cutouts.image.is_cuda
        image = made.cutouts.image.cpu()
        targets = shard_of(made, initial_estimator=initial_estimator.to("cuda")).targets.cpu()
    assert not device.mixed, dict(device.mixed)
    assert torch.isfinite(image).all()
    assert torch.isfinite(targets).all()


@needs_none
def test_labelled_galaxies_are_measured_where_the_initial_estimator_is() -> None:
    made = simulate_fields(8, 1, FieldOptions(sides=(32, 48), psf_size=21))
    initial_estimator = network().initial_estimator
    assert initial_estimator is not None
    expected = labelled_shard(made.cutouts, made.theta, initial_estimator=initial_estimator)
    with torch.inference_mode(), pretended() as device:
        found = labelled_shard(
            made.cutouts, made.theta, initial_estimator=initial_estimator.to("cuda")
        )
    assert not device.mixed, dict(device.mixed)
    assert device.ops > 100
    assert not found.scalars.is_cuda
    torch.testing.assert_close(found.scalars, expected.scalars, rtol=1e-3, atol=1e-3)


@needs_none
def test_host_does_not_wait_galaxy_by_galaxy(cutouts: hf.Cutouts) -> None:
    waits = []
    for part in (cutouts[:2], cutouts[[0, 1] * 6]):
        with pretended() as device:
            fits(part, torch.device("cuda"))
        waits.append(sum(device.waits.values()))
    assert waits[0] > 0  # the optimiser has to know who has settled
    assert waits[1] <= waits[0] + 6  # six times the galaxies, which may take a step more


@needs_none
def test_pretended_device_sees_what_a_real_one_refuses() -> None:
    with pretended() as device:
        here, there = torch.ones(3), torch.ones(3, device="cuda")
        assert there.is_cuda
        _ = there * 2 + torch.tensor(1.0)
        _ = there[torch.tensor([0, 1])]
        assert not device.mixed
        _ = here + there
        _ = here[torch.tensor([0], device="cuda")]
        assert sum(device.mixed.values()) == 2
        before = sum(device.waits.values())
        assert float(there.sum()) == 3
        _ = there[there > 0]
        assert sum(device.waits.values()) == before + 2


@needs_cuda
def test_cuda_renders_as_the_cpu(cutouts: hf.Cutouts) -> None:
    expected, found = pixels(cutouts, CPU), pixels(cutouts, torch.device("cuda"))
    # float32 rounding of FFTs in another order
    assert ((found - expected).abs().amax() / expected.abs().amax()) < gpu.PIXELS


@needs_cuda
@pytest.mark.parametrize("compile", [False, True])
def test_cuda_fits_as_the_cpu(compile: bool, cutouts: hf.Cutouts) -> None:
    expected = fit_cutouts(cutouts, FitOptions(), CPU, False)
    found = fit_cutouts(cutouts, FitOptions(), torch.device("cuda"), compile)
    assert ((found.theta - expected.theta) / expected.error).abs().max() < gpu.FITTED


@needs_cuda
def test_cuda_draws_as_the_cpu(cutouts: hf.Cutouts) -> None:
    expected, found = draws(cutouts, CPU), draws(cutouts, torch.device("cuda"))
    spread = expected.std(dim=1, keepdim=True)
    assert ((found - expected).abs() / spread).nanquantile(0.99) < gpu.DRAWN


@needs_cuda
def test_cuda_simulates() -> None:
    options = FieldOptions(sides=(32,), psf_size=21)
    made = simulate_fields(64, 1, options, device="cuda").cutouts
    assert made.image.is_cuda
    assert torch.isfinite(made.image).all()
    assert (~made.mask).flatten(1).any(dim=1).all()


def test_quick_check_of_the_benchmark_passes_on_the_cpu(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--device", "cpu", "--quick", "--tasks", "fit"])
    written: list[Any] = []
    monkeypatch.setattr(gpu, "write_result", lambda *given: written.append(given))
    gpu.main()
    assert "fit 32 16" in capsys.readouterr().out
    assert not written  # only figures of a device are kept


def test_benchmark_stops_where_results_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    fit = gpu.fit

    def shifted(cutouts: hf.Cutouts, device: torch.device, compile: bool = False) -> Any:
        found = fit(cutouts, device, compile)
        shifted.calls += 1
        return found if shifted.calls == 1 else replace(found, theta=found.theta + found.error)

    shifted.calls = 0
    monkeypatch.setattr(gpu, "fit", shifted)
    with pytest.raises(SystemExit, match="fits over their errors"):
        gpu.validate(CPU, 2, 32, False)


def test_counts_of_bytes_and_flops() -> None:
    a, b = torch.rand(8, 16), torch.rand(16, 32)
    product = gpu_roof.counted(lambda: a @ b)
    assert product.flops == 2 * 8 * 16 * 32
    assert product.bytes == 4 * (8 * 16 + 16 * 32 + 8 * 32)
    assert gpu_roof.counted(lambda: a[2:].T.reshape(2, -1)).flops == 0
    assert gpu_roof.counted(lambda: a.T[2:]).ops == 0  # views move nothing
    spectrum = gpu_roof.counted(lambda: torch.fft.rfft2(torch.rand(4, 32, 32)))
    drawn = 4 * 32 * 32  # the random numbers are one an element, too
    assert spectrum.flops == pytest.approx(2.5 * drawn * math.log2(32 * 32) + drawn)
    with torch.inference_mode():  # where ops arrive whole
        assert gpu_roof.counted(lambda: torch.einsum("ij,jk->ik", a, b)).flops == product.flops
