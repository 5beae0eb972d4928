"""The unit of work: rows of galaxies, by whichever process."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hybridfit.data.cutouts import Cutouts
from hybridfit.data.flags import Flag, joined
from hybridfit.io.read import stack
from hybridfit.io.read_cutout import Cutout
from hybridfit.io.sources import Source
from hybridfit.pipeline.devices import threads
from hybridfit.pipeline.engine.batching import Batch, read_batches
from hybridfit.pipeline.engine.isolation import failed_cutout
from hybridfit.pipeline.engine.job import Job
from hybridfit.pipeline.engine.worker import Worker


def measure(
    batch: Sequence[Source] | Batch | Cutouts, job: Job, worker: Worker | None = None
) -> NDArray[np.void]:
    """Return one row a galaxy, in the order of ``batch``.

    Rows depend on the arguments alone: batch and job can be pickled, sent to another process or
    machine, and measured there. A galaxy that raises is a flagged row with the reason.

    Args:
        batch: galaxies to be read, or that were read.
        job: what is measured and how, and the columns.
        worker: of the process: clock and progress bar; default none.

    Raises:
        UsageError, OSError, Exception: what is not due to a galaxy.
    """
    worker = worker or Worker(job.work)
    with threads(job.work.run.threads):
        if isinstance(batch, Cutouts):
            return _of_cutouts(batch, job, worker)
        if isinstance(batch, Batch):
            return _of_batch(batch, job, worker)
        rows = np.zeros(len(batch), job.row_type)
        for part in read_batches(batch, job, worker.clock):
            rows[part.index] = _of_batch(part, job, worker)
        return rows


def _of_cutouts(cutouts: Cutouts, job: Job, worker: Worker) -> NDArray[np.void]:
    return worker.isolation.rows(
        cutouts,
        lambda some: job.work.rows(some, job, job.n, worker.clock),
        lambda one, text: failed_cutout(one, text, job.columns),
    )


def _of_batch(batch: Batch, job: Job, worker: Worker) -> NDArray[np.void]:
    def compute(cutouts: list[Cutout]) -> NDArray[np.void]:
        if not batch.has_data:
            return job.work.blank_rows(stack(cutouts), job)
        with worker.clock("reading"):
            stacked = stack(cutouts, *batch.shapes)
        return job.work.rows(stacked, job, batch.n_alike, worker.clock)

    def failed(cutouts: list[Cutout], text: str) -> NDArray[np.void]:
        cutout = cutouts[0]
        flags = cutout.flags | int(Flag.FAILED)
        return job.work.failed(cutout.id, flags, joined(text, cutout.message), job)

    return worker.isolation.rows(batch.cutouts, compute, failed)
