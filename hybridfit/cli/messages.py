"""Messages of the command line on stderr: logging, warnings and summaries."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from hybridfit.deprecations import old_name_text

LOGGER = "hybridfit"


class _AboveTheBar(logging.Handler):
    """A logging handler that does not disrupt a progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        from tqdm import tqdm

        with tqdm.external_write_mode(nolock=True):
            click.echo(self.format(record), err=True)


@contextmanager
def log_to_stderr(verbose: bool, quiet: bool) -> Iterator[None]:
    """Write the package's log to stderr within the context.

    Args:
        verbose: include progress, not only warnings.
        quiet: errors only.
    """
    logger, handler = logging.getLogger(LOGGER), _AboveTheBar()
    handler.setFormatter(logging.Formatter("%(asctime)s %(name)s: %(message)s", "%H:%M:%S"))
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.ERROR if quiet else logging.INFO if verbose else logging.WARNING)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)


def warn_of_old_flag(old: str, new: str) -> None:
    """Warn that a flag has been renamed."""
    click.echo(f"hybridfit: {old_name_text(old, new)}", err=True)


def show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    """Show a warning as one line, in place of `warnings.showwarning`."""
    click.echo(f"hybridfit: {message}", err=True)


@contextmanager
def only_own_warnings() -> Iterator[None]:
    """Hide warnings of libraries: flags and notes of the rows cover them, and users cannot act."""
    from hybridfit.deprecations import RenamedWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.filterwarnings("default", "no C\\+\\+ compiler")
        warnings.simplefilter("always", RenamedWarning)
        warnings.showwarning = show_warning
        yield


def format_summary(summary: Any, what: str) -> str:
    """Return a summary of a run in two or three lines.

    Args:
        summary: see `hybridfit.pipeline.engine.job.Summary`.
        what: what was done to the galaxies, such as "fitted".
    """
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
        shares = ", ".join(f"{step} {s:.1f} s" for step, s in summary.seconds.items() if s >= 0.05)
        rate = summary.n_fitted / max(total, 1e-9)
        lines.append(f"{summary.n_fitted} {what} now, {rate:.3g} a second ({shares})")
    else:
        lines.append("the run was already complete: nothing to do")
    return "\n".join(lines)
