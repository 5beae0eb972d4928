"""Batches: galaxies of one padded shape that are computed together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from hybridfit.data.errors import BadInput
from hybridfit.io.input_keys import Key, input_key, source_values
from hybridfit.io.read import padded_psf, padded_shape, read_or_blank
from hybridfit.io.read_cutout import Cutout
from hybridfit.io.sources import Source
from hybridfit.pipeline.engine.isolation import is_of_the_run
from hybridfit.pipeline.engine.job import Job, Work
from hybridfit.pipeline.measure import Clock, no_clock

BATCH_PIXELS = 1 << 24  # read before a batch is computed: some 150 MB of image, sigma and mask
# a batch on a CPU: some ten seconds of posteriors, so that parts can be kept in between
CPU_PIXELS = 1 << 21
NO_DATA = ("no data",)


@dataclass(frozen=True)
class Batch:
    """Galaxies that are computed together: read, of one kind.

    Args:
        index: their places among the sources that were read together.
        cutouts: of each.
        keys: of the files that each was read from.
        n_alike: how many galaxies of the whole run are of this kind, by these sources.
    """

    index: list[int]
    cutouts: list[Cutout]
    keys: list[Key]
    n_alike: int

    @property
    def has_data(self) -> bool:
        """Whether there is a pixel to fit."""
        return kind_of(self.cutouts[0]) != NO_DATA

    @property
    def shapes(self) -> tuple[tuple[int, int], tuple[int, int] | None]:
        """Padded sides of the images and of the PSFs, None without one."""
        height, width, _, *psf = kind_of(self.cutouts[0])
        return (height, width), (psf[0], psf[1]) if psf else None


def read_batches(sources: Sequence[Source], job: Job, clock: Clock = no_clock) -> Iterator[Batch]:
    """Read galaxies and yield them as batches, the same ones whoever does it.

    Args:
        sources: of a part.
        job: how they are read, and on what they are computed.
        clock: context manager that is told what is being done.
    """
    groups: dict[tuple[Any, ...], list[tuple[int, Cutout, Key]]] = {}
    pixels = 0
    for i, source in enumerate(sources):
        with clock("reading"):
            key = key_of(source, job.work)  # before the pixels: a later change is seen later
            cutout = read_or_blank(source, job.work.read_cutout)
            group = groups.setdefault(_group(cutout, job.work), [])
        group.append((i, cutout, key))
        pixels += cutout.image.size
        if pixels > BATCH_PIXELS:
            for group in groups.values():
                yield from _split(group, len(sources), job)
            groups, pixels = {}, 0
    for group in groups.values():
        yield from _split(group, len(sources), job)


def key_of(source: Source, work: Work) -> Key:
    """Return the keys of a galaxy's files."""
    return input_key(source_values(source), files_of(source, work))


def files_of(source: Source, work: Work) -> Sequence[str]:
    """Return a galaxy's files; of one that names none that can be found only itself."""
    try:
        return work.files(source)
    except Exception as error:
        if is_of_the_run(error) and not isinstance(error, OSError | BadInput):
            raise
        return [source.image]


def kind_of(cutout: Cutout) -> tuple[Any, ...]:
    """Return what the galaxies of a batch share: no data, or a padded shape and a kind of PSF."""
    if cutout.mask.all():
        return NO_DATA
    if cutout.psf is None:
        return (*padded_shape(*cutout.image.shape), None)
    return (*padded_shape(*cutout.image.shape), cutout.psf_oversampling, *padded_psf(cutout.psf))


def _split(group: list[tuple[int, Cutout, Key]], n_part: int, job: Job) -> Iterator[Batch]:
    """Yield the galaxies of a kind, on a CPU as many at a time as take some seconds."""
    # by this part and the whole run alone: the same for a run that was stopped
    n_alike, most = round(len(group) / n_part * job.n), len(group)
    if job.work.run.device == "cpu":
        images = (group[0][1], *group[0][1].exposures)
        shapes = [padded_shape(*one.image.shape) for one in images if one is not None]
        most = max(1, CPU_PIXELS // sum(height * width for height, width in shapes))
    for first in range(0, len(group), most):
        index, cutouts, keys = zip(*group[first : first + most], strict=True)
        yield Batch(list(index), list(cutouts), list(keys), n_alike)


def _group(cutout: Cutout, work: Work) -> tuple[Any, ...]:
    kind = kind_of(cutout)
    others = tuple(NO_DATA if other is None else kind_of(other) for other in cutout.exposures)
    return (*kind, others, () if kind == NO_DATA else work.kind(cutout.id))
