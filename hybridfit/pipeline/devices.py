"""Devices and threads that computations run on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from hybridfit.options.checks import described

if TYPE_CHECKING:
    import torch

MOST_THREADS = 1024


def check_threads(threads: int, least: int = 1) -> None:
    """Raise ValueError for a number of CPU threads that OpenMP would end the process for."""
    if not least <= threads <= MOST_THREADS:
        raise ValueError(f"threads is {threads}, expected a number from {least} to {MOST_THREADS}")


def check_device(name: str) -> None:
    """Raise ValueError for a device that is not there; torch is not asked about the CPU."""
    if name != "cpu":
        usable_device(name)


def usable_device(name: str | torch.device) -> torch.device:
    """The device if it is there, else ValueError."""
    import torch  # here, so that options and their help need not wait for it

    if not isinstance(name, str | int | torch.device) or isinstance(name, bool):
        raise ValueError(f"device is {described(name)}, expected a name such as cpu or cuda:0")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    # of torch: RuntimeError for a name that it does not know and a device that is not there,
    # AssertionError for a kind that it was not built with, ImportError for a kind that is a
    # package of its own
    except (RuntimeError, AssertionError, ImportError) as error:
        first = str(error).strip().splitlines()[0]
        raise ValueError(f"device '{name}' cannot be used: {first}") from error
    return device


def threads_now() -> int:
    """Return the number of CPU threads that this process computes on."""
    import torch  # here, see `usable_device`

    return min(torch.get_num_threads(), MOST_THREADS)


@contextmanager
def threads(n: int) -> Iterator[None]:
    """Compute on ``n`` CPU threads, whose number shapes the rounding of sums."""
    import torch  # here, see `usable_device`

    before = torch.get_num_threads()
    if before == n:
        yield
        return
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)
