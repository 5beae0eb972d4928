"""What one process of a run has for itself: the time it spent, its progress bar, its trial."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from hybridfit.pipeline.engine.isolation import Isolation
from hybridfit.pipeline.engine.job import Work
from hybridfit.pipeline.engine.progress import Progress


class Worker:
    """One process that computes batches.

    Args:
        work: what it computes.
        progress: its bar; default none.
    """

    def __init__(self, work: Work, progress: Progress | None = None) -> None:
        self.isolation = Isolation(work.trial)
        self.progress = progress or Progress()
        self.seconds: dict[str, float] = {}
        self.n_fitted = 0

    def spend(self, what: str, seconds: float) -> None:
        """Add to the time that went into ``what``."""
        self.seconds[what] = self.seconds.get(what, 0.0) + seconds

    @contextmanager
    def clock(self, what: str) -> Iterator[None]:
        """Count the time in here as spent on ``what``."""
        start = time.perf_counter()
        self.progress.enter(what)
        try:
            yield
        finally:
            self.spend(what, time.perf_counter() - start)
        self.progress.leave(what)
