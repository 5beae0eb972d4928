"""Read the cutouts of a finished run again: the pixels that were fitted."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from hybridfit.data.cutouts import Cutouts
from hybridfit.data.errors import UsageError
from hybridfit.data.ids import numbers_by_id
from hybridfit.io.galfit import read_feedme
from hybridfit.io.galfit.read_cutout import read_feedme_cutout
from hybridfit.io.options import ReadOptions
from hybridfit.io.read import padded_shape, stack
from hybridfit.io.read_cutout import Cutout, read_cutout
from hybridfit.io.read_results import Results
from hybridfit.io.sources import Source, find_sources
from hybridfit.options.yaml_options import make

AT_ONCE = 16  # galaxies: bounds memory
CutoutReader = Callable[[int], Cutout | None]


def reader_of_run(results: Results, input: str | Path | None = None) -> CutoutReader:
    """Return a function that reads the cutout of a row of results, None where there is none.

    The cutout is the one that was fitted: read with the run's own options, of its feedme file
    where the run was of such.

    Args:
        results: of a run from files.
        input: what was fitted; default what the run's metadata name, if it is there.

    Raises:
        UsageError: if ``input`` is given and is not usable.
    """
    options = make(ReadOptions, results.settings.get("read", {}), "the table's options")
    if "feedme" in results.table.colnames:
        return _of_feedmes(results, options, input)
    written = results.settings.get("input")
    where = Path(input) if input is not None else Path(written) if written else None
    if where is None or (input is None and not where.exists()):
        return lambda row: None
    try:
        found = find_sources(where, options)
    except (ValueError, OSError) as error:
        if input is None:
            return lambda row: None
        raise UsageError(str(error)) from error
    numbers = numbers_by_id(found.ids)

    def read(row: int) -> Cutout | None:
        number = numbers.get(str(results.table["id"][row]))
        return None if number is None else _read(found[number], options)

    return read


def _of_feedmes(results: Results, options: ReadOptions, root: str | Path | None) -> CutoutReader:
    """Cutouts of a run of GALFIT input files, whose paths are relative to ``root`` if given."""

    def read(row: int) -> Cutout | None:
        path = Path(str(results.table["feedme"][row]))
        path = path if root is None else Path(root) / path
        try:
            cutout = read_feedme_cutout(read_feedme(path), options, str(results.table["id"][row]))
        except Exception:
            return None  # its row has the reason, whatever a broken file raises
        return None if cutout.mask.all() else cutout

    return read


def reader_of_cutouts(cutouts: Cutouts, ids: Sequence[str]) -> CutoutReader:
    """Return a function that gives the cutout of a row, of cutouts in memory.

    Args:
        cutouts: that were fitted.
        ids: (N,) of the rows.
    """
    numbers = {name: i for i, name in enumerate(cutouts.id)}

    def read(row: int) -> Cutout | None:
        i = numbers.get(ids[row])
        if i is None or bool(cutouts.mask[i].all()):
            return None
        height, width = (int(v) for v in cutouts.size[i])
        planes = {
            name: getattr(cutouts, name)[i, :height, :width].cpu().numpy()
            for name in ("image", "sigma", "mask")
        }
        origin = cutouts.origin[i].tolist()
        return Cutout(
            id=cutouts.id[i],
            **planes,
            psf=None if cutouts.psf is None else cutouts.psf[i].cpu().numpy(),
            psf_oversampling=int(cutouts.psf_oversampling[i]),
            psf_includes_pixel=bool(cutouts.psf_includes_pixel[i]),
            zeropoint=float(cutouts.zeropoint[i]),
            zeropoint_from=cutouts.zeropoint_from[i],
            pixel_scale=float(cutouts.pixel_scale[i]),
            origin=(int(origin[0]), int(origin[1])),
            start=cutouts.start[i].cpu().numpy(),
            flags=int(cutouts.flags[i]),
            wcs=cutouts.wcs[i],
            message="",
            parameters={name: float(v[i]) for name, v in cutouts.parameters.items()},
        )

    return read


def _read(source: Source, options: ReadOptions) -> Cutout | None:
    try:
        cutout = read_cutout(source, options)
    except Exception:
        return None  # its row has the reason
    return None if cutout.mask.all() else cutout


def batches(
    read: CutoutReader, rows: Sequence[int], told: Callable[[int], Any] = lambda n: None
) -> Iterator[tuple[list[int], Cutouts]]:
    """Read cutouts and yield those of one padded shape together, with their numbers."""
    waiting: dict[tuple[Any, ...], list[tuple[int, Cutout]]] = {}
    for row in rows:
        cutout = read(row)
        told(1)
        if cutout is None:
            continue
        kind = (*padded_shape(*cutout.image.shape), cutout.psf is None, cutout.psf_oversampling)
        group = waiting.setdefault(kind, [])
        group.append((row, cutout))
        if len(group) == AT_ONCE:
            yield _stacked(waiting.pop(kind))
    for group in waiting.values():
        yield _stacked(group)


def _stacked(group: list[tuple[int, Cutout]]) -> tuple[list[int], Cutouts]:
    return [row for row, _ in group], stack([cutout for _, cutout in group])
