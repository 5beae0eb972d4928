"""Inputs that have changed since their rows were computed, whose rows are computed again."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hybridfit.io.input_keys import any_gone, content_key, quick_key, source_values
from hybridfit.io.parts import Part
from hybridfit.io.rows_back import rows_back
from hybridfit.pipeline.engine.base import Run
from hybridfit.pipeline.engine.batching import files_of

SHOWN = 5  # ids in a note


def check_inputs(run: Run) -> list[str]:
    """Mark the galaxies whose files have changed as not done, and say which.

    Rows of galaxies whose files are no longer there are kept.
    """
    changed, gone = _of_table(run) if run.folder.is_complete() else _of_parts(run)
    notes = []
    if changed:
        notes.append(f"the files of {_named(changed, run)} have changed: measured again")
    if gone:
        notes.append(f"the files of {_named(gone, run)} are no longer there: their rows are kept")
    return notes


def _of_parts(run: Run) -> tuple[list[int], list[int]]:
    """Check an unfinished run; return numbers of galaxies that changed, and that are gone."""
    folder, changed, gone = run.folder, [], []
    for number in range(len(folder)):
        part, numbers = folder.part(number), folder.galaxies(number)
        done = [i for i in range(len(numbers)) if part.done[i]]
        new, lost, _ = _compared([numbers[i] for i in done], part.keys[done], run)
        if new:
            part.done[[i - numbers.start for i in new]] = False
            folder.save(number, part)  # at once, so that a kill does not make them look done again
        changed += new
        gone += lost
    return changed, gone


def _of_table(run: Run) -> tuple[list[int], list[int]]:
    """Check a complete run; if something changed, reopen it with the rows of its table as parts."""
    folder = run.folder
    keys = folder.keys()
    if keys is None:  # a run of an older version, without keys
        return [], []
    changed, gone, fresh = _compared(range(run.job.n), keys, run)
    if not changed:
        if (fresh != keys).any():
            folder.keep_keys(fresh)
        return changed, gone
    rows = rows_back(folder.results, run.job.columns, run.ids)
    done = np.ones(run.job.n, bool)
    done[changed] = False
    if rows is not None:  # otherwise all are computed again
        for number in range(len(folder)):
            first, last = folder.edges[number : number + 2]
            folder.save(number, Part(rows(first, last), done[first:last], fresh[first:last]))
    folder.reopen()
    return changed, gone


def _compared(
    numbers: Sequence[int], keys: NDArray[np.uint64], run: Run
) -> tuple[list[int], list[int], NDArray[np.uint64]]:
    """Return those of ``numbers`` that changed, those that are gone, and the present keys."""
    changed, gone, fresh = [], [], keys.copy()
    for k, i in enumerate(numbers):
        source = run.sources[i]
        values, files = source_values(source), files_of(source, run.job.work)
        quick = quick_key(values, files)
        if quick == int(keys[k, 0]):
            continue
        if any_gone(files):
            gone.append(i)
        elif content_key(values, files) == int(keys[k, 1]):
            fresh[k, 0] = quick  # copied or touched: need not be read the next time
        else:
            changed.append(i)
    return changed, gone, fresh


def _named(numbers: Sequence[int], run: Run) -> str:
    """Return the number of galaxies and the first of their ids as a text."""
    names = ", ".join(f"'{run.ids[i]}'" for i in numbers[:SHOWN])
    more = f" and {len(numbers) - SHOWN} more" if len(numbers) > SHOWN else ""
    return f"{len(numbers)} galaxies ({names}{more})" if len(numbers) > 1 else f"galaxy {names}"
