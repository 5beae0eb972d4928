"""What a run from files is made of: what it computes, on what, and what it came to."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hybridfit.data.cutouts import Cutouts
from hybridfit.io.input_keys import source_files
from hybridfit.io.options import ReadOptions
from hybridfit.io.read_cutout import Cutout, read_cutout
from hybridfit.io.sources import Source
from hybridfit.io.table import Column, failed_row
from hybridfit.pipeline.engine.isolation import Isolation
from hybridfit.pipeline.engine.progress import Progress
from hybridfit.pipeline.options import FileRunOptions


@dataclass(frozen=True)
class Summary:
    """What a run from files came to.

    Args:
        results: the table's file.
        n: galaxies in it.
        flags: how many of them have each flag, and ``any``.
        quality: how many of them are certified, usable, suspect; empty where nothing was fitted.
        n_fitted: galaxies this process worked on; the others were done before.
        seconds: spent by this process on finding, reading, computing, writing.
        notes: what had to be done again, and why.
    """

    results: Path
    n: int
    flags: Mapping[str, int]
    quality: Mapping[str, int]
    n_fitted: int
    seconds: Mapping[str, float]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Stage:
    """What a run computes.

    Args:
        options: name to options dataclass; all of them must be the same to go on with a run.
        columns: of its table, given the bytes of the longest id.
        rows: of a batch of galaxies of one padded shape with its job and the share that it has
            of its part.
        nothing: rows of galaxies without data.
        trial: computes an ordinary galaxy, to tell a galaxy's fault from the call's.
        read: reading options.
        run: how it goes about it.
        identity: what else must be the same.
        failed: row of a galaxy that could not be computed, from its id, flags and the reason.
    """

    options: Mapping[str, Any]
    columns: Callable[[int], Sequence[Column]]
    rows: Callable[[Cutouts, Job, float], NDArray[np.void]]
    nothing: Callable[[Cutouts, Job], NDArray[np.void]]
    trial: Callable[[], object]
    read: ReadOptions
    run: FileRunOptions
    identity: Mapping[str, str] = field(default_factory=dict)
    failed: Callable[[str, int, str, Sequence[Column]], NDArray[np.void]] = failed_row


@dataclass(frozen=True)
class Input:
    """The galaxies of a run and how one is read.

    Args:
        sources: sorted by id.
        read: one of them; raises `BadInput`.
        kind: of a galaxy, by its id: what else a batch must have in common.
        files: of a galaxy, whose change is a change of its row.
    """

    sources: Sequence[Source]
    read: Callable[[Source, ReadOptions], Cutout] = read_cutout
    kind: Callable[[str], tuple[Any, ...]] = lambda id: ()
    files: Callable[[Source, ReadOptions], Sequence[str]] = source_files


@dataclass
class Job:
    """What the parts of a run have in common, and the time they took."""

    input: Input
    stage: Stage
    schema: Sequence[Column]
    models: Path
    ids: Sequence[str]
    n_fitted: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    progress: Progress = field(default_factory=Progress)

    def __post_init__(self) -> None:
        self.isolation = Isolation(self.stage.trial)

    @property
    def n(self) -> int:
        """Galaxies of the run."""
        return len(self.ids)

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
