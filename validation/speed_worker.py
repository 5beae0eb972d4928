"""One turn of `version_speed.py`: measure galaxies with the hybridfit on PYTHONPATH.

    python validation/speed_worker.py TASK SOURCE N PASSES

A few galaxies are measured to warm up, then all of them PASSES times; the CPU seconds of the
fastest pass are printed as JSON. Nothing but hybridfit is imported, so that it runs beside any
checkout.
"""

from __future__ import annotations

import json
import runpy
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

WARM_UP = 8  # galaxies


def measure(task: str, source: Path, n: int, passes: int) -> float:
    """Return the CPU seconds of the fastest pass with the hybridfit that Python imports here."""
    import torch

    torch.set_num_threads(1)
    way, where = task.split("-")
    run = _in_memory(way, source, n) if where == "memory" else _of_files(way, source)
    run(True)
    seconds = []
    for _ in range(passes):
        begin = time.process_time()
        run(False)
        seconds.append(time.process_time() - begin)
    return min(seconds)


def _in_memory(way: str, source: Path, n: int) -> Callable[[bool], None]:
    """A function that measures the galaxies, or the first few."""
    import hybridfit as hf

    with np.load(source) as data:
        sims = {key: data[key][: n or None] for key in ("data", "sigma", "psf")}
    psf = sims["psf"] / sims["psf"].sum(axis=(1, 2), keepdims=True)
    cutouts = hf.Cutouts(
        image=sims["data"], sigma=sims["sigma"], psf=psf, zeropoint=np.full(len(psf), 22.5)
    )

    def run(warm: bool) -> None:
        some = cutouts[:WARM_UP] if warm else cutouts
        if way == "predict":
            hf.predict(some)
        else:
            hf.fit(some, uncertainty=way, compile="off")

    return run


def _of_files(way: str, source: Path) -> Callable[[bool], None]:
    """A function that measures files into a temporary folder, by the command line."""
    words = ["predict"] if way == "predict" else ["fit", "--uncertainty", way, "--compile", "off"]

    def run(warm: bool) -> None:
        with tempfile.TemporaryDirectory() as out:
            sys.argv = ["hybridfit", *words, str(source), "-o", out, "--zeropoint", "22.5"]
            sys.argv += ["--quiet", *(["--limit", str(WARM_UP)] if warm else [])]
            try:
                runpy.run_module("hybridfit", run_name="__main__")
            except SystemExit as ended:
                if ended.code:
                    raise RuntimeError(f"{sys.argv} ended with status {ended.code}") from None

    return run


if __name__ == "__main__":
    task, source, n, passes = sys.argv[1:]
    print(json.dumps({"seconds": measure(task, Path(source), int(n), int(passes))}))
