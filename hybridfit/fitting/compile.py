"""Compiled pixel kernels where that pays, eager ones elsewhere; the numbers are the same."""

from __future__ import annotations

import logging
import os
import shutil
import warnings
from dataclasses import fields
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hybridfit.fitting.pixels import EAGER, Kernels, linear_gram, pixel_gram
from hybridfit.model.profiles import Profile
from hybridfit.rendering.grid import Grid
from hybridfit.rendering.kernels import Geometry, component_images

MAX_SHAPES = 256  # padded shapes and PSF kinds that one process compiles
WORTH_COMPILING = 2000  # galaxies of one shape: compiling costs about 20 s, and saves 10 ms each


def has_compiler() -> bool:
    """Whether torch.compile can build CPU code here."""
    return any(shutil.which(c) for c in (os.environ.get("CXX", "g++"), "g++", "clang++"))


def wants_compile(mode: str, n_galaxies: int, device: torch.device) -> bool:
    """Decide on "auto", "on" or "off" for a run of ``n_galaxies`` of one padded shape."""
    if mode not in ("auto", "on", "off"):
        raise ValueError(f"compile is '{mode}', expected auto, on or off")
    if mode == "off":
        return False
    if device.type == "cpu" and not has_compiler():
        if mode == "on":
            warnings.warn(
                "no C++ compiler found: running eager, with the same result", stacklevel=2
            )
        return False
    return mode == "on" or n_galaxies >= WORTH_COMPILING


def cache_directory() -> Path:
    """Where compiled kernels are kept between runs; TORCHINDUCTOR_CACHE_DIR has precedence."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "hybridfit" / "inductor"


class _Compiled:
    """`component_images` compiled once for each profile and grid."""

    def __init__(self) -> None:
        self._functions: dict[Any, Any] = {}

    def __call__(
        self, shape: Geometry, profile: Profile, grid: Grid, transfer: Tensor, jacobian: bool
    ) -> Tensor:
        if not profile.compiles:
            return component_images(shape, profile, grid, transfer, jacobian)
        key = (profile.key, id(grid), len(transfer), jacobian)
        if key not in self._functions:

            def images(transfer: Tensor, *values: Tensor) -> Tensor:
                return component_images(Geometry(*values), profile, grid, transfer, jacobian)

            self._functions[key] = torch.compile(images, dynamic=False)
        values = [getattr(shape, f.name) for f in fields(shape)]
        result: Tensor = self._functions[key](transfer, *values)
        return result


@lru_cache(maxsize=1)
def compiled_kernels() -> Kernels:
    """Return the compiled kernels; the first call of each shape takes 10 to 20 seconds."""
    # imported here: it costs a second, and most processes never compile
    import torch._dynamo.config as dynamo_config

    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache_directory()))
    # every padded shape is a compilation of its own; torch gives up on the ninth of a function
    limit = "recompile_limit" if hasattr(dynamo_config, "recompile_limit") else "cache_size_limit"
    setattr(dynamo_config, limit, max(MAX_SHAPES, getattr(dynamo_config, limit)))
    # nor does it matter to a CPU's kernels that there is a CUDA toolkit but no device
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    # inductor warns that it leaves complex operators (our FFTs) to the library, as is meant
    warnings.filterwarnings("ignore", message="Torchinductor does not support code generation")
    linear, gram = (torch.compile(f, dynamic=False) for f in (linear_gram, pixel_gram))
    return Kernels(_Compiled(), linear, gram)


def kernels(compiled: bool) -> Kernels:
    """Return compiled or eager kernels."""
    return compiled_kernels() if compiled else EAGER
