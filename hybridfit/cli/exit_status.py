"""What the command line says of a run: its summary, or its error in a line and a status."""

from __future__ import annotations

import errno
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import typer

OK, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130
LONGEST = 2_000  # letters of an error: a name in it may have a million


def told(summary: Any, what: str) -> str:
    """What a run came to, in two or three lines."""
    flags = dict(summary.flags)
    flagged = flags.pop("any", 0)
    lines = [f"{summary.n} galaxies, {flagged} with flags: {summary.results}"]
    if summary.quality:
        lines.append(
            ", ".join(f"{count} {name}" for name, count in sorted(summary.quality.items()))
        )
    if flags:
        common = sorted(flags.items(), key=lambda item: -item[1])
        lines.append("flags: " + ", ".join(f"{name} {count}" for name, count in common))
    lines += getattr(summary, "notes", ())
    if summary.n_fitted:
        total = sum(summary.seconds.values())
        shares = ", ".join(f"{what} {s:.1f} s" for what, s in summary.seconds.items() if s >= 0.05)
        rate = summary.n_fitted / max(total, 1e-9)
        lines.append(f"{summary.n_fitted} {what} now, {rate:.3g} a second ({shares})")
    else:
        lines.append("the run was complete already: nothing to do")
    return "\n".join(lines)


@contextmanager
def usage() -> Iterator[None]:
    """What is raised in here is wrong usage."""
    from hybridfit.data.errors import UsageError

    try:
        yield
    except (ValueError, TypeError, OSError) as error:
        raise UsageError(str(error)) from error


@contextmanager
def errors(debug: bool) -> Iterator[None]:
    """Turn exceptions into one line on stderr and an exit status.

    What libraries warn of is in the rows' flags and messages, and no user can do anything about
    it; ``--debug`` and Python's own ``-W`` show it.
    """
    from hybridfit.data.errors import UsageError

    try:
        with warnings.catch_warnings():
            if not (debug or sys.warnoptions):
                warnings.simplefilter("ignore")
                warnings.filterwarnings("default", "no C\\+\\+ compiler")  # our own
            yield
    except KeyboardInterrupt:
        typer.echo("\nstopped: the same command goes on where it stopped", err=True)
        raise typer.Exit(INTERRUPTED) from None
    except Exception as error:
        if debug:
            raise
        usage = isinstance(error, UsageError)
        typer.echo(f"hybridfit: {_line(error, usage)}", err=True)
        raise typer.Exit(USAGE if usage else FAILED) from None


def _line(error: Exception, is_usage: bool) -> str:
    if isinstance(error, OSError) and error.errno is not None:
        what = os.strerror(error.errno)
        file = f" '{error.filename}'" if error.filename else ""
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        hint = ": make room and give the same command to go on" if full else ""
        return f"cannot use{file}: {what}{hint}"
    text = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, OSError) and "space on disk" in text:  # astropy's words, without a number
        return "cannot write: no space left: make room and give the same command to go on"
    if isinstance(error, MemoryError) or "out of memory" in text:
        return f"out of memory: try a smaller --part-size or --chunk ({text[:200]})"
    if is_usage:  # by whatever name of its kind
        return text if len(text) <= LONGEST else f"{text[: LONGEST - 4]} ..."
    return f"{type(error).__name__}: {text[:500]} (--debug shows where)"
