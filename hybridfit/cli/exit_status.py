"""Exit statuses of the command line, and one-line errors."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import click

from hybridfit.cli.messages import only_own_warnings

OK, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130
LONGEST = 2_000  # longest error, characters: a name in it may have a million


@contextmanager
def usage() -> Iterator[None]:
    """Turn exceptions raised in the context into usage errors."""
    from hybridfit.data.errors import UsageError

    try:
        yield
    except (ValueError, TypeError, OSError) as error:
        raise UsageError(str(error)) from error


@contextmanager
def errors(debug: bool) -> Iterator[None]:
    """Turn exceptions into one line on stderr and an exit status.

    Warnings of libraries are hidden: the flags and messages of the rows cover them, and users can
    do nothing about them. ``--debug`` and Python's ``-W`` show them.
    """
    from hybridfit.data.errors import UsageError

    try:
        with nullcontext() if debug or sys.warnoptions else only_own_warnings():
            yield
    except KeyboardInterrupt:
        click.echo("\ninterrupted: repeat the command to continue", err=True)
        raise click.exceptions.Exit(INTERRUPTED) from None
    except (click.exceptions.Exit, click.ClickException):
        raise
    except Exception as error:
        if debug:
            raise
        usage = isinstance(error, UsageError)
        click.echo(f"hybridfit: {_line(error, usage)}", err=True)
        raise click.exceptions.Exit(USAGE if usage else FAILED) from None


def _line(error: Exception, is_usage: bool) -> str:
    if isinstance(error, OSError) and error.errno is not None:
        what = os.strerror(error.errno)
        file = f" '{error.filename}'" if error.filename else ""
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        hint = ": free some space and repeat the command to continue" if full else ""
        return f"cannot use{file}: {what}{hint}"
    text = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, OSError) and "space on disk" in text:  # astropy's, without errno
        return "cannot write: no space left: free some space and repeat the command to continue"
    if isinstance(error, MemoryError) or "out of memory" in text:
        return f"out of memory: try a smaller --part-size or --chunk ({text[:200]})"
    if is_usage:  # of any type
        return text if len(text) <= LONGEST else f"{text[: LONGEST - 4]} ..."
    return f"{type(error).__name__}: {text[:500]} (--debug shows where)"
