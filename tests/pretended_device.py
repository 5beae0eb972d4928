"""A device that is pretended: tensors that say they are on "cuda" and compute on the CPU.

It holds code to the rules of a real one without having one: an op that mixes the two devices is
an error (but for single numbers, and indices on the CPU into tensors on the device), and every
time that the host has to wait for a number is counted with the line that asked. The results are
those of the CPU to the last bit, so any difference is a branch that was taken for the device.
What it cannot show: speed, other rounding, and kernels that a device lacks.
"""

from __future__ import annotations

import contextlib
import traceback
from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

DEVICE = torch.device("cuda", 0)
INDEXING = ("index", "index_put", "_unsafe_index", "_index_put_impl")
# ops whose results' shapes or values the host needs before it can go on
WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "equal", "_unique2", "is_nonzero",
         "bincount", "repeat_interleave")  # fmt: skip


class Far(Tensor):
    """A tensor that says it is on the device; ``near`` is what it is."""

    near: Tensor

    @staticmethod
    def __new__(cls, near: Tensor) -> Far:
        made = Tensor._make_wrapper_subclass(
            cls,
            near.size(),
            strides=near.stride(),
            storage_offset=near.storage_offset(),
            dtype=near.dtype,
            device=DEVICE,
        )
        made.near = near
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise RuntimeError(f"{func} reached a tensor of the pretended device after it was left")

    # these come before any dispatch in torch, and would ask the real device
    def tolist(self) -> Any:
        return self.cpu().tolist()

    def new_tensor(self, data: Any, **options: Any) -> Tensor:
        dtype = options.get("dtype", self.dtype)
        return torch.tensor(data, dtype=dtype).to(options.get("device", self.device))

    def __getitem__(self, item: Any) -> Tensor:
        if isinstance(item, list):
            item = torch.tensor(item)
        if isinstance(item, tuple):
            item = tuple(torch.tensor(i) if isinstance(i, list) else i for i in item)
        return Tensor.__getitem__(self, item)


class Pretended(TorchDispatchMode):
    """While it is entered, "cuda" is pretended.

    ``mixed`` counts ops that a real device refuses, ``waits`` those that make the host wait, by
    op and line of hybridfit.
    """

    def __init__(self) -> None:
        super().__init__()
        self.mixed: Counter[str] = Counter()
        self.waits: Counter[str] = Counter()
        self.ops = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        name = func._overloadpacket.__name__.rstrip("_")
        if name == "_has_compatible_shallow_copy_type":
            return False  # a module that is moved gets new parameters
        leaves = tree_leaves((args, kwargs))
        far = [t for t in leaves if isinstance(t, Far)]
        near = [t for t in leaves if isinstance(t, Tensor) and not isinstance(t, Far)]
        device = next((d for d in leaves if isinstance(d, torch.device)), None)
        there = device.type == DEVICE.type if device is not None else bool(far)
        if name == "copy":
            there = isinstance(args[0], Far)
        elif name in INDEXING:
            there = isinstance(args[0], Far)
            values = [t for t in args[2:] if isinstance(t, Tensor) and t.ndim]
            if any(isinstance(t, Far) != there for t in values) or (far and not there):
                self.mixed[_where(name)] += 1
        elif far and device is None and any(t.ndim for t in near):
            self.mixed[_where(name)] += 1
        picks = name in INDEXING and any(t.dtype == torch.bool for t in far[1:])
        if far and (name in WAITS or picks or not there):
            self.waits[_where(name)] += 1
        self.ops += there
        return self._computed(func, args, kwargs, far, there)

    @staticmethod
    def _computed(func: Any, args: Any, kwargs: Any, far: list[Far], there: bool) -> Any:
        def bare(leaf: Any) -> Any:
            if isinstance(leaf, torch.device):
                return torch.device("cpu")
            return leaf.near if isinstance(leaf, Far) else leaf

        known = {id(t.near): t for t in far}  # what was changed in place is still itself

        def moved(leaf: Any) -> Any:
            if not there or not isinstance(leaf, Tensor) or isinstance(leaf, Far):
                return leaf
            return known[id(leaf)] if id(leaf) in known else Far(leaf)

        args, kwargs = tree_map(bare, (args, kwargs))
        return tree_map(moved, func(*args, **kwargs))


def _where(name: str) -> str:
    for frame in reversed(traceback.extract_stack()):
        if "/hybridfit/" in frame.filename and "site-packages" not in frame.filename:
            return f"{name} at {frame.filename.rpartition('/hybridfit/')[2]}:{frame.lineno}"
    return name


@contextlib.contextmanager
def pretended() -> Iterator[Pretended]:
    """Pretend that there is a CUDA device."""
    saved = torch.tensor, torch.as_tensor, torch.Generator, torch.cuda._lazy_init
    make, convert, generate, _ = saved

    def tensor(data: Any, *, device: Any = None, **options: Any) -> Tensor:
        made = make(data, **options)
        return made if device is None else made.to(device)

    def as_tensor(data: Any, dtype: Any = None, device: Any = None) -> Tensor:
        made = convert(data, dtype=dtype)
        return made if device is None else made.to(device)

    class Generator:  # a class, as annotations of modules imported meanwhile name it
        def __new__(cls, device: Any = None) -> Any:
            return generate()

    torch._C._ensureCUDADeviceGuardSet()
    torch.tensor, torch.as_tensor, torch.Generator = tensor, as_tensor, Generator
    torch.cuda._lazy_init = lambda: None
    try:
        with Pretended() as mode:
            yield mode
    finally:
        torch.tensor, torch.as_tensor, torch.Generator, torch.cuda._lazy_init = saved
