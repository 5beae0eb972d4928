"""What all tests share: one thread a process, and the validation data where there is any."""

from __future__ import annotations

from pathlib import Path

import matplotlib
import pytest
import torch

matplotlib.use("Agg")
torch.set_num_threads(1)  # stamps are small: threads cost more than they give

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of validation data beside the checkout; skips where there is none."""
    if not SHARED_DATA.is_dir():
        pytest.skip("no validation data: ../shared/data is not beside this checkout")
    return SHARED_DATA
