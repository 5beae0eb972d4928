"""The parts of a run, computed batch by batch and kept every half a minute."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hybridfit.data.errors import BadInput
from hybridfit.data.flags import Flag, joined
from hybridfit.io import run_folder as runs
from hybridfit.io.input_keys import Key, input_key, source_values
from hybridfit.io.read import padded_shape, read_or_blank, stack
from hybridfit.io.read_cutout import Cutout
from hybridfit.io.sources import Source
from hybridfit.pipeline.engine.isolation import is_of_the_run
from hybridfit.pipeline.engine.job import Job

BATCH_PIXELS = 1 << 24  # read before a batch is computed: some 150 MB of image, sigma and mask
# a batch on a CPU: some ten seconds of posteriors, so that parts can be kept in between
CPU_PIXELS = 1 << 21
SAVE_EVERY = 30.0  # seconds after which a part is kept as far as it is
NO_DATA = ("no data",)
PSF_STEP = 16  # pixels that sides of PSFs are rounded up to


@dataclass(frozen=True)
class Batch:
    """Galaxies that are computed together.

    Args:
        index: their places in the part.
        stamps: of each.
        keys: of the files that each was read from.
        share: of its part that is of this kind.
    """

    index: list[int]
    stamps: list[Cutout]
    keys: list[Key]
    share: float


def compute_parts(folder: runs.Run, job: Job) -> None:
    """Compute what is not done yet, part by part."""
    for number in range(len(folder)):
        if not folder.part(number).done.all():
            _compute_part(folder, number, job)


def _compute_part(folder: runs.Run, number: int, job: Job) -> None:
    part, kept = folder.part(number), time.monotonic()
    sources = [job.input.sources[i] for i in folder.galaxies(number)]
    # batches are those of a run that was never stopped, so that their rounding is the same
    for batch in _batches(sources, job):
        if part.done[batch.index].all():
            continue
        job.progress.begin(int((~part.done[batch.index]).sum()))
        part.rows[batch.index] = _rows(batch, job)
        part.keys[batch.index] = batch.keys
        part.done[batch.index] = True
        job.n_fitted += len(batch.index)
        job.progress.end()
        if time.monotonic() - kept > SAVE_EVERY and not part.done.all():
            with job.clock("writing"):
                folder.save(number, part)
            kept = time.monotonic()
    with job.clock("writing"):
        folder.save(number, part)


def _rows(batch: Batch, job: Job) -> NDArray[np.void]:
    """Rows of a batch; a galaxy with which it raises gets one that says so."""
    kind = _kind(batch.stamps[0])

    def compute(stamps: list[Cutout]) -> NDArray[np.void]:
        if kind == NO_DATA:
            return job.stage.nothing(stack(stamps), job)
        with job.clock("reading"):
            cutouts = stack(stamps, kind[:2], kind[3:] or None)
        return job.stage.rows(cutouts, job, batch.share)

    def failed(stamps: list[Cutout], text: str) -> NDArray[np.void]:
        stamp = stamps[0]
        flags = stamp.flags | int(Flag.FAILED)
        message = joined(text, stamp.message)
        return job.stage.failed(stamp.id, flags, message, job.schema)

    return job.isolation.rows(batch.stamps, compute, failed)


def _batches(sources: Sequence[Source], job: Job) -> Iterator[Batch]:
    """Yield the galaxies of a part as batches of one padded shape."""
    groups: dict[tuple[Any, ...], list[tuple[int, Cutout, Key]]] = {}
    pixels = 0
    for i, source in enumerate(sources):
        with job.clock("reading"):
            key = key_of(source, job)  # before the pixels: what changes in between is seen later
            stamp = read_or_blank(source, job.stage.read, job.input.read)
            group = groups.setdefault(_group(stamp, job), [])
        group.append((i, stamp, key))
        pixels += stamp.image.size
        if pixels > BATCH_PIXELS:
            for group in groups.values():
                yield from _split(group, len(sources), job)
            groups, pixels = {}, 0
    for group in groups.values():
        yield from _split(group, len(sources), job)


def _split(group: list[tuple[int, Cutout, Key]], n_part: int, job: Job) -> Iterator[Batch]:
    """Yield the galaxies of a kind, on a CPU as many at a time as take some seconds."""
    share, most = len(group) / n_part, len(group)
    if job.stage.run.device == "cpu":
        height, width = padded_shape(*group[0][1].image.shape)
        most = max(1, CPU_PIXELS // (height * width))
    for first in range(0, len(group), most):
        index, stamps, keys = zip(*group[first : first + most], strict=True)
        yield Batch(list(index), list(stamps), list(keys), share)


def key_of(source: Source, job: Job) -> Key:
    """The keys of a galaxy's files."""
    return input_key(source_values(source), files_of(source, job))


def files_of(source: Source, job: Job) -> Sequence[str]:
    """A galaxy's files; of one that names none that can be found only itself."""
    try:
        return job.input.files(source, job.stage.read)
    except Exception as error:
        if is_of_the_run(error) and not isinstance(error, OSError | BadInput):
            raise
        return [source.image]


def _group(stamp: Cutout, job: Job) -> tuple[Any, ...]:
    kind = _kind(stamp)
    return (*kind, () if kind == NO_DATA else job.input.kind(stamp.id))


def _kind(stamp: Cutout) -> tuple[Any, ...]:
    """What the galaxies of a batch share: no data, or a padded shape and the kind of PSF."""
    if stamp.mask.all():
        return NO_DATA
    if stamp.psf is None:
        return (*padded_shape(*stamp.image.shape), None)
    return (*padded_shape(*stamp.image.shape), stamp.psf_oversampling, *_psf_sides(stamp.psf))


def _psf_sides(psf: NDArray) -> tuple[int, ...]:
    """Odd sides that PSFs are padded to: few of them, so that few kernels are compiled."""
    return tuple(PSF_STEP * math.ceil((side - 1) / PSF_STEP) + 1 for side in psf.shape)
