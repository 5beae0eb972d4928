"""Follow one cutout from `hybridfit.fit` to its row: which modules meet it, in which order.

A module meets a cutout when one of its functions takes it as an argument. A return is a step back
to a module that the cutout has left before: fewer modules and returns are easier to follow.

    python -m validation.cutout_path
"""

from __future__ import annotations

import inspect
import sys
from pathlib import Path
from types import FrameType

import hybridfit

PACKAGE = Path(hybridfit.__file__).parent


def path_of_a_cutout() -> list[str]:
    """Modules that meet the cutout in `hybridfit.fit`, in order; consecutive calls count once."""
    cutouts, _ = hybridfit.simulate(1, 3)
    hybridfit.fit(cutouts)  # imports and caches are made
    steps: list[str] = []

    def note(frame: FrameType, event: str, _: object) -> None:
        file = Path(frame.f_code.co_filename)
        if event != "call" or PACKAGE not in file.parents or frame.f_code.co_name[0] == "<":
            return
        names = inspect.getargs(frame.f_code).args
        if not any(isinstance(frame.f_locals.get(name), hybridfit.Cutouts) for name in names):
            return
        module = file.relative_to(PACKAGE).with_suffix("").as_posix()
        own = file.stem in ("cutouts", "batch")  # methods of the cutouts themselves
        if not own and (not steps or steps[-1] != module):
            steps.append(module)

    sys.setprofile(note)
    try:
        hybridfit.fit(cutouts)
    finally:
        sys.setprofile(None)
    return steps


def main() -> None:
    """Print the path and its figures."""
    steps = path_of_a_cutout()
    modules, rooms = set(steps), {step.split("/")[0] for step in steps}
    print("\n".join(steps))
    print(
        f"{len(modules)} modules in {len(rooms)} rooms meet the cutout, in {len(steps)} steps, "
        f"{len(steps) - len(modules)} of them returns"
    )


if __name__ == "__main__":
    main()
