"""Measure what a device can do, and count what a computation demands of it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

# ops that only move numbers, recognised by parts of their names
MOVES = (
    *(
        "copy",
        "clone",
        "cat",
        "stack",
        "index",
        "gather",
        "scatter",
        "fill",
        "zero",
        "full",
        "ones",
    ),
    *("arange", "empty", "eye", "where", "expand", "roll", "flip", "nonzero"),
)
VIEWS = ("_unsafe_view", "_reshape_alias")  # views that torch does not mark as such
FFTS = {"_fft_r2c": 2.5, "_fft_c2r": 2.5, "_fft_c2c": 5.0}


class Count(TorchDispatchMode):
    """Counts, op by op as eager mode dispatches them, what a computation moves and computes.

    ``bytes``: inputs read and outputs written of every op that is not a view, from their shapes:
    the traffic of eager kernels that find nothing in a cache. ``flops``: 2 m n k of matrix
    products and convolutions (torch's own formulas), 5 N log2 N of complex and half of that of
    real FFTs, nothing for what only moves numbers, else one an element, exp and pow included.
    ``ops``: how many there were, which is about the kernels that a GPU is sent.
    """

    def __init__(self) -> None:
        super().__init__()
        self.bytes, self.flops, self.ops = 0, 0.0, 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func not in flop_registry and func._overloadpacket not in flop_registry:
            with self:  # in inference mode composite ops arrive undivided: decompose them
                parts = func.decompose(*args, **kwargs)
                if parts is not NotImplemented:
                    return parts
        found = func(*args, **kwargs)
        if func.is_view or func._overloadpacket.__name__ in VIEWS:
            return found
        read = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        written = [t for t in tree_leaves(found) if isinstance(t, Tensor)]
        self.ops += 1
        self.bytes += sum(t.numel() * t.element_size() for t in (*read, *written))
        self.flops += _flops(func, args, kwargs, read, written, found)
        return found


def _flops(
    func: Any, args: Any, kwargs: Any, read: list[Tensor], written: list[Tensor], found: Any
) -> float:
    packet = func._overloadpacket
    if packet in flop_registry:
        return float(flop_registry[packet](*args, **kwargs, out_val=found))
    name = packet.__name__
    largest = max((t.numel() for t in (*read, *written)), default=0)
    if name in FFTS:
        image = written[0] if name == "_fft_c2r" else read[0]  # the real side, or the only one
        length = math.prod(image.shape[d] for d in args[1])
        return FFTS[name] * image.numel() * math.log2(max(length, 2))
    return 0.0 if any(word in name for word in MOVES) else float(largest)


def counted(work: Callable[[], Any]) -> Count:
    """Count the demands of ``work`` in eager mode."""
    with Count() as count:
        work()
    return count


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds_of(work: Callable[[], Any], device: torch.device, repeats: int = 1) -> float:
    """Wall seconds of one call, the device waited for; the best of ``repeats``."""
    best = math.inf
    for _ in range(repeats):
        synchronise(device)
        begin = time.perf_counter()
        work()
        synchronise(device)
        best = min(best, time.perf_counter() - begin)
    return best


def bandwidths(device: torch.device, size: int) -> dict[str, float]:
    """GB/s of a copy and of a triad a = b + s c on float32 arrays of ``size``."""
    a, b, c = (torch.rand(size, device=device) for _ in range(3))
    copy = seconds_of(lambda: a.copy_(b), device, 10)
    triad = seconds_of(lambda: torch.add(b, c, alpha=3.0, out=a), device, 10)
    return {"copy GB/s": 8e-9 * size / copy, "triad GB/s": 12e-9 * size / triad}


def roofs(device: torch.device, quick: bool = False) -> dict[str, float]:
    """Bandwidths [GB/s] and floating point operations [GFLOP/s] of the device, measured."""
    small = quick or device.type == "cpu"
    # 64 MiB or 1 GiB an array: beyond any cache
    report = bandwidths(device, 1 << (24 if small else 28))
    side = 1024 if small else 8192
    before = torch.backends.cuda.matmul.allow_tf32
    for name, dtype, tf32 in (
        ("float32", torch.float32, False),
        ("tf32", torch.float32, True),
        ("float64", torch.float64, False),
        ("bfloat16", torch.bfloat16, False),
    ):
        if device.type != "cuda" and name in ("tf32", "bfloat16"):
            continue
        torch.backends.cuda.matmul.allow_tf32 = tf32
        x, y = (torch.rand(side, side, device=device).to(dtype) for _ in range(2))
        once = seconds_of(lambda x=x, y=y: x @ y, device, 5)
        report[f"matrix product {name} GFLOP/s"] = 2 * side**3 / once / 1e9
    torch.backends.cuda.matmul.allow_tf32 = before
    # the overhead of an op, which limits many small ones
    tiny = torch.zeros(1, device=device)
    many = 1000
    report["us an op of nothing"] = (
        seconds_of(lambda: [tiny.add_(1.0) for _ in range(many)], device, 3) / many * 1e6
    )
    return {name: round(value, 2) for name, value in report.items()}
