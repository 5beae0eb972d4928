"""Parts of a run, each computed by the process that has claimed it, and kept as it grows."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

from hybridfit.io.claims import Claim, Member
from hybridfit.io.run_folder import RunFolder
from hybridfit.io.sources import Source
from hybridfit.pipeline.engine.batching import read_batches
from hybridfit.pipeline.engine.job import Job
from hybridfit.pipeline.engine.measure import measure
from hybridfit.pipeline.engine.worker import Worker

SAVE_EVERY = 30.0  # seconds after which a part is kept as far as it is

log = logging.getLogger(__name__)


def compute_part(folder: RunFolder, number: int, sources: Sequence[Source], job: Job) -> int:
    """Compute a part: the task that a scheduler sends to any process that sees the folder.

    Args:
        folder: of the run.
        number: of the part.
        sources: its galaxies.
        job: what is computed.

    Returns:
        How many galaxies were computed; 0 where the part was done, or is another's.
    """
    with Member(folder.path) as member:
        member.begin_work()
        worker = Worker(job.work)
        claim_and_compute(folder, number, sources, job, worker, member)
        return worker.n_fitted


def claim_and_compute(
    folder: RunFolder,
    number: int,
    sources: Sequence[Source],
    job: Job,
    worker: Worker,
    member: Member,
) -> bool:
    """Compute a part unless a living process has claimed it; return whether it is whole now.

    Args:
        folder, number, sources, job: see `compute_part`.
        worker: of this process.
        member: this process among those that share the folder.

    Raises:
        FileNotFoundError: if the run's parts are gone, as when another has completed it.
    """
    with member.claimed(folder.part_claim(number)) as claim:
        if claim is None:
            return False
        if claim.generation:
            log.info("part %d was left by a process that has ended: taken over", number)
        return _compute(folder, number, sources, job, worker, claim)


def _compute(
    folder: RunFolder,
    number: int,
    sources: Sequence[Source],
    job: Job,
    worker: Worker,
    claim: Claim,
) -> bool:
    part, kept = folder.part(number), time.monotonic()
    if part.done.all():
        return True
    # batches are those of a run that was never stopped, so that their rounding is the same
    for batch in read_batches(sources, job, worker.clock):
        if part.done[batch.index].all():
            continue
        worker.progress.begin(int((~part.done[batch.index]).sum()), number)
        part.rows[batch.index] = measure(batch, job, worker)
        part.keys[batch.index] = batch.keys
        part.done[batch.index] = True
        worker.n_fitted += len(batch.index)
        worker.progress.end()
        if not part.done.all() and time.monotonic() - kept > SAVE_EVERY:
            if not claim.is_held():
                break
            with worker.clock("writing"):
                folder.save(number, part)
            kept = time.monotonic()
    if not claim.is_held():  # it slept so long that it passed for dead
        log.warning("part %d was taken over by another process", number)
        return False
    with worker.clock("writing"):
        folder.save(number, part)
    log.debug("part %d is done", number)
    return True
