"""Draw docs/_static/fit.png, the picture of README and front page; run it when plots change.

One simulated galaxy is fitted with everything at its default and drawn by `hybridfit plot`.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from click.testing import CliRunner
from PIL import Image

from hybridfit.cli.app import make_app

PICTURE = Path(__file__).resolve().parents[1] / "_static" / "fit.png"
GALAXY = "sim0006"
COMMANDS = """
simulate -o {folder}/cutouts --n 12 --seed 5 --size 96 --snr-min 150 --snr-max 400
fit {folder}/cutouts -o {folder}/out --quiet --pixel-scale 0.2
plot {folder}/out --input {folder}/cutouts --id {galaxy} --quiet
"""


def main() -> None:
    """Simulate, fit and draw."""
    with tempfile.TemporaryDirectory() as folder:
        for line in COMMANDS.format(folder=folder, galaxy=GALAXY).strip().splitlines():
            arguments = line.split()
            result = CliRunner().invoke(make_app(), arguments)
            if result.exit_code != 0:
                raise RuntimeError(f"hybridfit {line}: {result.output}")
        drawn = Image.open(Path(folder) / "out" / "plots" / f"{GALAXY}_fit.png")
        drawn.convert("RGB").save(PICTURE, optimize=True)


if __name__ == "__main__":
    main()
