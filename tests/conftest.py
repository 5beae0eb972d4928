"""What all tests share: the threads of a process, and the validation data where there is any."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

os.environ.setdefault("MPLBACKEND", "Agg")  # in the environment, so that subprocesses have it too
os.environ.setdefault("OMP_NUM_THREADS", "1")
# one, unless more are asked for: stamps are small, threads cost more than they give
torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of validation data beside the checkout; skips where there is none."""
    if not SHARED_DATA.is_dir():
        pytest.skip("no validation data: ../shared/data is not beside this checkout")
    return SHARED_DATA
