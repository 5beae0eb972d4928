"""Draw docs/_static/fit.png, the picture of README and front page; run it when plots change.

One simulated galaxy is fitted with everything at its default and drawn by the package itself.
"""

from __future__ import annotations

from pathlib import Path

import hybridfit as hf
from hybridfit.simulation.simulate import SimulateOptions

PICTURE = Path(__file__).resolve().parents[1] / "_static" / "fit.png"
GALAXY = SimulateOptions(shape=(64, 64), snr=(150, 150), r_eff=(5, 5), n=(2.5, 2.5), q=(0.5, 0.5))


def main() -> None:
    """Simulate, fit and draw."""
    cutouts, _ = hf.simulate(1, 4, GALAXY)
    table = hf.fit(cutouts)
    model = hf.render(table, cutouts)
    row = table[0]
    title = ", ".join(
        f"{name} = {row[name]:.2f} ± {row[f'{name}_err']:.2f}"
        for name in ("mag", "r_eff", "n", "q")
    )
    figure = hf.plot_residuals(cutouts.image, model, cutouts.sigma, titles=[title])
    figure.savefig(PICTURE, dpi=110)


if __name__ == "__main__":
    main()
