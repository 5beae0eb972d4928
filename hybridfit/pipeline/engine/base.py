"""What an engine is: it sees to it that all parts of a run are computed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from hybridfit.io.claims import Member
from hybridfit.io.run_folder import RunFolder
from hybridfit.io.sources import Source
from hybridfit.pipeline.engine.job import Job
from hybridfit.pipeline.engine.worker import Worker


@dataclass(frozen=True)
class Run:
    """A run from files: its folder, its galaxies, and what is computed of them.

    Args:
        folder: where its parts are kept.
        sources: its galaxies, in the order of the table.
        ids: their names.
        job: what is computed.
    """

    folder: RunFolder
    sources: Sequence[Source]
    ids: Sequence[str]
    job: Job

    def sources_of(self, number: int) -> list[Source]:
        """Return the galaxies of a part."""
        return [self.sources[i] for i in self.folder.galaxies(number)]


class Engine(Protocol):
    """Computes the parts of a run, here or elsewhere, with `hybridfit.pipeline.engine.parts`."""

    @property
    def exclusive(self) -> bool:
        """Whether it refuses to share a run's folder with other processes' engines."""

    def compute(self, run: Run, worker: Worker, member: Member) -> None:
        """Return once all parts of the run are whole, or another process has completed it.

        Whether it returns or raises, nothing that it started works on the run any more.

        Args:
            run: what is computed.
            worker: of this process: what it computes itself is counted there.
            member: this process among those that share the run's folder.

        Raises:
            UsageError, OSError, Exception: what is not due to a galaxy.
        """
