"""The log of a training run: a progress bar, ``log.jsonl``, and TensorBoard if installed."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from hybridfit.io.writing import appended, real_folder, write_text

LOG = "log.jsonl"


class TrainingLog:
    """Writes a run's log; lines after the checkpoint of a resumed run are dropped.

    Args:
        folder: of the run.
        step: batches done when it starts.
        tensorboard: whether to write TensorBoard scalars, if the package is installed.
        quiet: whether to show no progress bar.
    """

    def __init__(self, folder: Path, step: int, tensorboard: bool, quiet: bool) -> None:
        self._path = folder / LOG
        if self._path.is_file():
            _forget(self._path, step)
        self._board: Any = None
        if tensorboard and find_spec("tensorboard"):
            from torch.utils.tensorboard import SummaryWriter

            writer: Any = SummaryWriter  # without types of its own
            self._board = writer(str(real_folder(folder / "tensorboard")), purge_step=step)
        self._bar = tqdm(
            total=100.0,
            disable=quiet,
            bar_format="{percentage:5.1f} %|{bar}| {elapsed} {desc}",
        )

    def __enter__(self) -> TrainingLog:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()
        if self._board is not None:
            self._board.close()

    def write(self, kind: str, step: int, values: dict[str, float]) -> None:
        """Append one line of numbers; ``kind`` is train, validation or validation_scalars."""
        line = {"kind": kind, "step": step, **{k: _short(v) for k, v in values.items()}}
        with appended(self._path) as file:
            file.write(json.dumps(line) + "\n")
        if self._board is not None:
            images = int(values.get("images", step))
            for name, value in values.items():
                self._board.add_scalar(f"{kind}/{name}", value, images)

    def show(self, progress: float, text: str) -> None:
        """Move the progress bar."""
        self._bar.set_description_str(text, refresh=False)
        self._bar.update(100 * progress - self._bar.n)

    def say(self, text: str) -> None:
        """Write a line above the progress bar."""
        if not self._bar.disable:
            self._bar.write(text)


def _short(value: float) -> float:
    return float(f"{value:.6g}") if isinstance(value, float) else value


def _forget(path: Path, step: int) -> None:
    """Drop the log's lines after ``step``, and a last line cut short by a kill."""
    kept = []
    for line in path.read_text().splitlines():
        values = _numbers(line)
        if values and values["step"] <= step:
            kept.append(line + "\n")
    write_text(path, "".join(kept))


def _numbers(line: str) -> dict[str, Any]:
    """What `Journal.write` wrote; nothing of a line cut short by a kill."""
    try:
        values = json.loads(line)
    except json.JSONDecodeError:
        return {}
    return values if isinstance(values, dict) and {"kind", "step"} <= set(values) else {}


def last_validation(folder: Path, step: int) -> dict[str, float]:
    """The last validation up to batch ``step`` in a run's log; empty if there is none."""
    path = folder / LOG
    text = path.read_text() if path.is_file() else ""
    lines = [values for line in text.splitlines() if (values := _numbers(line))]
    found = [line for line in lines if line["kind"] == "validation" and line["step"] <= step]
    return {k: v for k, v in found[-1].items() if k != "kind"} if found else {}


def provenance() -> dict[str, Any]:
    """Machine, versions and commit, for the card beside weights."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "torch": torch.__version__,
        "commit": _commit(),
    }


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _commit() -> str | None:
    """The commit of the source this package is imported from; None if it is no checkout."""
    here = Path(__file__).resolve().parent
    command = ["git", "-C", str(here), "rev-parse", "--short=12", "HEAD"]
    try:
        run = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return run.stdout.strip() or None
