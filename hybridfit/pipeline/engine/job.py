"""What a run computes and what it came to: `Work`, `Job`, `Summary`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
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
from hybridfit.io.table import Column, failed_row, id_width, record_type
from hybridfit.model.value_columns import NONE, ValueColumns
from hybridfit.pipeline.measure import Clock
from hybridfit.pipeline.options import FileRunOptions


@dataclass(frozen=True)
class Summary:
    """What a run from files came to.

    Args:
        results: the table's file.
        n: galaxies in it.
        flags: how many of them have each flag, and ``any``.
        quality: how many of them are certified, usable, suspect; empty where nothing was fitted.
        n_fitted: galaxies this process worked on; the others were done before, or elsewhere.
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


class Work(ABC):
    """What is computed of each galaxy: a frozen dataclass of options that can be pickled.

    Whatever is loaded for it, a network say, is loaded by the process that needs it. A subclass
    has the fields ``read`` and ``run``; one whose galaxies are not in files of their own says
    how they are read.
    """

    read: ReadOptions
    run: FileRunOptions

    @property
    @abstractmethod
    def options(self) -> Mapping[str, Any]:
        """Dataclasses of options by section; all must be the same to continue a run."""

    @property
    def identity(self) -> Mapping[str, str]:
        """What else must be the same."""
        return {}

    @property
    def value_columns(self) -> ValueColumns:
        """The columns of a manifest that hold values of the model's parameters."""
        return NONE

    @abstractmethod
    def columns(self, id_width: int) -> tuple[Column, ...]:
        """Return the columns of the table, given the bytes of the longest id."""

    @abstractmethod
    def rows(self, cutouts: Cutouts, job: Job, n_alike: int, clock: Clock) -> NDArray[np.void]:
        """Return the rows of galaxies of one padded shape; may raise anything.

        Args:
            cutouts: B galaxies.
            job: columns, and where image blocks go.
            n_alike: how many galaxies of the run have this shape, about; whether compiling pays.
            clock: context manager that is told what is being done.
        """

    @abstractmethod
    def blank_rows(self, cutouts: Cutouts, job: Job) -> NDArray[np.void]:
        """Return the rows of galaxies without data."""

    @abstractmethod
    def trial(self) -> object:
        """Compute an ordinary galaxy, to tell a galaxy's fault from the call's."""

    def failed(self, id: str, flags: int, text: str, job: Job) -> NDArray[np.void]:
        """Return the row (1,) of a galaxy that could not be computed."""
        return failed_row(id, flags, text, job.columns)

    def read_cutout(self, source: Source) -> Cutout:
        """Read one galaxy; raises `BadInput`."""
        return read_cutout(source, self.read)

    def kind(self, id: str) -> tuple[Any, ...]:
        """Return what else than their shape the galaxies of a batch must have in common."""
        return ()

    def files(self, source: Source) -> Sequence[str]:
        """Return the files whose change is a change of the galaxy's row."""
        return source_files(source, self.read)


@dataclass(frozen=True)
class Job:
    """What is the same for every batch of a run: it can be pickled and sent anywhere.

    Args:
        work: what is computed.
        columns: of the table.
        n: galaxies of the run.
        models: folder for image blocks, if any are written.
    """

    work: Work
    columns: tuple[Column, ...]
    n: int
    models: Path = Path()
    row_type: np.dtype = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "row_type", record_type(self.columns))

    @classmethod
    def of(cls, work: Work, ids: Sequence[str], models: Path = Path()) -> Job:
        """Return the job of galaxies with these names."""
        return cls(work, work.columns(id_width(ids)), len(ids), models)
