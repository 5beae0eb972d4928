"""The engine of one process: part after part. Several such processes may share a run."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass

from hybridfit.io.claims import POLL, Member
from hybridfit.pipeline.engine.base import Run
from hybridfit.pipeline.engine.parts import claim_and_compute
from hybridfit.pipeline.engine.worker import Worker

LONGEST_POLL = 5.0  # seconds

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SerialEngine:
    """Computes the parts that no other process has claimed, and waits for the others."""

    exclusive: bool = False

    def compute(self, run: Run, worker: Worker, member: Member) -> None:
        """Return once all parts are whole, see `Engine`."""
        pending, wait = list(range(len(run.folder))), POLL
        while pending:
            before, n_before = len(pending), worker.n_fitted
            try:
                pending = [k for k in pending if not self._is_whole(run, k, worker, member)]
            except FileNotFoundError:
                if run.folder.is_complete():  # another process has joined the parts
                    return
                raise
            if len(pending) < before or worker.n_fitted > n_before:
                wait = POLL
            elif pending:
                log.debug("%d parts are being computed by other processes", len(pending))
                time.sleep(wait)
                wait = min(2 * wait, LONGEST_POLL)

    def _is_whole(self, run: Run, number: int, worker: Worker, member: Member) -> bool:
        """Compute a part unless it is done or another's; return whether it is whole now."""
        part, n = run.folder.part(number), len(run.folder.galaxies(number))
        if not part.done.all():
            return claim_and_compute(
                run.folder, number, run.sources_of(number), run.job, worker, member
            )
        worker.progress.reach(number, n)
        return True
