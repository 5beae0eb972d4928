"""The constant b_n of the Sersic profile, by a table, with its derivative."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch
from scipy import special
from torch import Tensor

# ln n from 0.1 to 20; cubic Hermite between nodes is good to 1e-10 in ln b
_FIRST, _LAST, _NODES = math.log(0.1), math.log(20.0), 1024


@lru_cache(maxsize=16)
def _log_b_table(device: torch.device, dtype: torch.dtype) -> Tensor:
    """Return nodes of ln b_n and d ln b_n / d ln n, (2, nodes)."""
    log_n = np.linspace(_FIRST, _LAST, _NODES)
    step = 1e-4  # five-point derivative: error ~ step^4
    at = [np.log(special.gammaincinv(2 * np.exp(log_n + k * step), 0.5)) for k in range(-2, 3)]
    slope = (at[0] - 8 * at[1] + 8 * at[3] - at[4]) / (12 * step)
    return torch.tensor(np.stack([at[2], slope]), dtype=dtype, device=device)


def log_bn(log_n: Tensor, order: int) -> Tensor:
    """Return ln b_n (order 0) or its derivative by ln n (order 1)."""
    values, slopes = _log_b_table(log_n.device, log_n.dtype)
    step = (_LAST - _FIRST) / (_NODES - 1)
    position = ((log_n - _FIRST) / step).clamp(0, _NODES - 1)
    i = position.long().clamp(0, _NODES - 2)  # NaN has no index, but stays NaN in t
    t = position - i
    f0, f1, d0, d1 = values[i], values[i + 1], slopes[i] * step, slopes[i + 1] * step
    c2, c3 = 3 * (f1 - f0) - 2 * d0 - d1, 2 * (f0 - f1) + d0 + d1
    if order == 0:
        return f0 + t * (d0 + t * (c2 + t * c3))
    return (d0 + t * (2 * c2 + 3 * t * c3)) / step
