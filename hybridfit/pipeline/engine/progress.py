"""The progress bar of a run, which moves with the stages of a batch."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType

from tqdm import tqdm

# share of a batch's work that is done after a stage; a posterior takes most of it
DONE_AFTER = {"predicting": 0.05, "fitting": 0.3}
FORMAT = "{percentage:3.0f}%|{bar}| {n:.0f}/{total_fmt} galaxies [{elapsed}<{remaining}{postfix}]"


class Progress:
    """A progress bar in galaxies.

    Args:
        total: galaxies of the run.
        done: how many of each part were done before.
        quiet: without a bar; there is none either where stderr is no terminal.
    """

    def __init__(self, total: int = 0, done: Sequence[int] = (), quiet: bool = True) -> None:
        self._bar = tqdm(
            total=total, initial=sum(done), disable=True if quiet else None, bar_format=FORMAT
        )
        self._counted = dict(enumerate(done))
        self._part, self._batch, self._moved = 0, 0, 0.0

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        self._bar.close()

    def begin(self, n: int, part: int = 0) -> None:
        """Begin a batch with ``n`` new galaxies of a part."""
        self._part, self._batch, self._moved = part, n, 0.0

    def enter(self, stage: str) -> None:
        """Begin a stage of the batch."""
        if self._batch and stage != "writing":
            self._bar.set_postfix_str(f"{stage} {self._batch}")

    def leave(self, stage: str) -> None:
        """End a stage of the batch."""
        self._move(DONE_AFTER.get(stage, 0.0) * self._batch)

    def end(self) -> None:
        """End the batch."""
        self._move(self._batch)
        self._counted[self._part] = self._counted.get(self._part, 0) + self._batch
        self._batch = 0

    def reach(self, part: int, n: int) -> None:
        """Count ``n`` galaxies of a part as done: another process may have computed them."""
        more = n - self._counted.get(part, 0)
        if more > 0:
            self._bar.update(more)
            self._counted[part] = n

    def _move(self, to: float) -> None:
        if to > self._moved:
            self._bar.update(to - self._moved)
            self._moved = to
