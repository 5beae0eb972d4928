"""Training data: numbered shards of simulated galaxies, made ahead by workers, used several times.

Shard k depends on the run's seed and on k alone, and shards are taken in the order of their
numbers, so that a resumed run continues with the data that would have come next, whatever the
number of workers. Simulation is the bottleneck on a CPU, so each galaxy is used several times while
it stays in the replay buffer.
"""

from __future__ import annotations

import multiprocessing
import os
import queue
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hybridfit.batch import Batch
from hybridfit.data.cutouts import Cutouts
from hybridfit.model.galaxy_model import GalaxyModel
from hybridfit.model.prior import Prior
from hybridfit.npe.coordinates import WHITENED, FlowCoordinates
from hybridfit.npe.frame import encode
from hybridfit.npe.inputs import Inputs
from hybridfit.npe.network import Estimator
from hybridfit.npe.refinement import estimator_inputs
from hybridfit.simulation.options import FieldOptions, SimulatedFields
from hybridfit.simulation.simulate import simulate_fields

TRAINING, VALIDATION = 0, 1  # streams of random numbers of one run
MEASURED_AT_ONCE = 128  # galaxies: small windows fill their kernels, and all stays in the cache
AHEAD = 1  # finished shards that wait for each worker


@dataclass(frozen=True)
class Shard(Batch):
    """A numbered batch of galaxies, as the network is trained on them.

    Args:
        views: (N, C, 64, 64) float16, see `hybridfit.npe.inputs.make_inputs`.
        scalars: (N, F) float32.
        targets: (N, T) float32, the flow's coordinates of the truth: t, or w about a `Laplace`.
        snr: (N,) float32 signal to noise.
        kind: (N,) int64 bits of the contaminants `Kind`, 0 = clean.
        log_slope: (N,) float32 ln |d targets / d t|, 0 where the targets are t.
    """

    views: Tensor
    scalars: Tensor
    targets: Tensor
    snr: Tensor
    kind: Tensor
    log_slope: Tensor

    @property
    def n_bytes(self) -> int:
        """Memory that the tensors take."""
        return sum(getattr(self, f.name).nbytes for f in fields(self))


def seed_of(run: int, stream: int, number: int) -> int:
    """Return the simulator's seed of shard ``number``; streams never share galaxies."""
    return int(np.random.SeedSequence([run, stream, number]).generate_state(2, np.uint32)[0])


@dataclass(frozen=True)
class SimulatedSource:
    """Makes shards: ``source(number)``; can be sent to another process.

    Args:
        simulator, prior: what is drawn.
        seed: random seed of the run.
        size: galaxies a shard.
        device: where they are simulated.
        stream: `TRAINING` or `VALIDATION`.
        with_views: False leaves the views empty, for networks that never read the images.
        initial_estimator: of the network, where it refines an initial estimate.
        model: of the galaxies.
    """

    simulator: FieldOptions
    prior: Prior
    seed: int
    size: int
    device: str = "cpu"
    stream: int = TRAINING
    with_views: bool = True
    initial_estimator: Estimator | None = None
    model: GalaxyModel = GalaxyModel()

    def __call__(self, number: int) -> Shard:
        """Simulate shard ``number``."""
        seed = seed_of(self.seed, self.stream, number)
        simulated = self.simulated(seed)
        return shard_of(simulated, self.with_views, self.initial_estimator)

    def simulated(self, seed: int) -> SimulatedFields:
        """Simulate galaxies with a seed of the simulator."""
        return simulate_fields(self.size, seed, self.simulator, self.prior, self.device, self.model)


def shard_of(
    simulated: SimulatedFields, with_views: bool = True, initial_estimator: Estimator | None = None
) -> Shard:
    """Return the inputs of a network with this initial estimator, and the targets."""
    on_cpu = simulated.cutouts.image.device.type == "cpu"
    side = simulated.cutouts.size.amax(dim=1)
    coordinates = FlowCoordinates(replace(simulated.model, prior=WHITENED))
    order = torch.argsort(side, stable=True)  # small cutouts together, without their padding
    pieces = []
    for rows in order.split(MEASURED_AT_ONCE if on_cpu else max(1, len(simulated))):
        cutouts = _unpadded(simulated.cutouts[rows], int(side[rows].amax()))
        inputs = estimator_inputs(cutouts, initial_estimator, with_views)
        targets, log_slope = targets_of(
            encode(simulated.theta[rows], cutouts.zeropoint, inputs.frame, coordinates), inputs
        )
        values = (inputs.views.half(), inputs.scalars.float(), targets.float())
        pieces.append(
            (*values, simulated.snr[rows].float(), simulated.kind[rows], log_slope.float())
        )
    back = torch.argsort(order)
    return Shard(*(torch.cat(column)[back] for column in zip(*pieces, strict=True)))


def targets_of(t: Tensor, inputs: Inputs) -> tuple[Tensor, Tensor]:
    """Return the flow's targets for coordinates t (B, T), and ln |d targets / d t| (B,)."""
    if inputs.laplace is None:
        return t, torch.zeros_like(t[:, 0])
    w = inputs.laplace.whiten(t[:, None])
    return w[:, 0], inputs.laplace.log_slope(w)[:, 0]


def _unpadded(cutouts: Cutouts, side: int) -> Cutouts:
    """The first ``side`` rows and columns, which hold all of each cutout."""
    cut = {k: getattr(cutouts, k)[:, :side, :side] for k in ("image", "sigma", "mask")}
    return replace(cutouts, **cut)


def in_parts(n: int, size: int) -> Iterator[slice]:
    """Yield slices that cover ``n`` rows, ``size`` at a time."""
    for start in range(0, n, size):
        yield slice(start, min(start + size, n))


Source = Callable[[int], Shard]


class Producer:
    """Gives the shards of a source in order from ``first`` on, made ahead by worker processes.

    Worker i makes the numbers first + i, first + i + workers, ... and holds at most `AHEAD`
    finished ones. With no workers a shard is made when it is asked for. Use it as a context
    manager: leaving it ends the processes; they also end when this process dies.
    """

    def __init__(self, source: Source, first: int = 0, workers: int = 0) -> None:
        self.number = first  # of the shard that comes next
        self._source = source
        self._processes: list[Any] = []
        self._queues: list[Any] = []
        # fork would copy locks that torch's threads may hold
        context = multiprocessing.get_context("spawn")
        self._first = first
        for i in range(workers):
            shards = context.Queue(maxsize=AHEAD)
            process = context.Process(
                target=_work, args=(source, first + i, workers, shards), daemon=True
            )
            process.start()
            self._queues.append(shards)
            self._processes.append(process)

    def __enter__(self) -> Producer:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.kill()  # they hold nothing that needs cleaning up
            process.join()

    def get(self, wait: bool = True) -> Shard | None:
        """Return the next shard; None if ``wait`` is False and it is not there yet.

        Raises:
            RuntimeError: if a worker failed or died.
        """
        if not self._processes:
            shard = self._source(self.number)
        else:
            arrays = self._receive(wait)
            if arrays is None:
                return None
            shard = Shard(*(torch.from_numpy(a) for a in arrays))
        self.number += 1
        return shard

    def _receive(self, wait: bool) -> list[np.ndarray] | None:
        worker = (self.number - self._first) % len(self._processes)
        while True:
            try:
                got = self._queues[worker].get(timeout=1.0 if wait else 0.0)
            except queue.Empty:
                code = self._processes[worker].exitcode
                if code is not None:
                    raise RuntimeError(
                        f"a simulation process ended with status {code} while making shard "
                        f"{self.number}: if memory ran out use fewer workers or smaller shards"
                    ) from None
                if not wait:
                    return None
                continue
            if isinstance(got, str):
                raise RuntimeError(f"simulating shard {self.number} failed:\n{got}")
            arrays: list[np.ndarray] = got
            return arrays


def _work(source: Source, first: int, step: int, shards: Any) -> None:
    """Make shards for ever, in a process of its own."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles interrupts
    threading.Thread(target=_follow_parent, daemon=True).start()
    torch.set_num_threads(1)
    number = first
    while True:
        try:
            shard = source(number)
        except Exception:
            import traceback

            shards.put(traceback.format_exc())
            return
        # arrays through the pipe: shared memory is scarce in containers
        shards.put([getattr(shard, f.name).cpu().numpy() for f in fields(shard)])
        number += step


def _follow_parent() -> None:
    """End this process when its parent is gone, even if that was killed."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
