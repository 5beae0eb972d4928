"""The bar of a run: it moves with the stages of a batch, not only with whole batches."""

from __future__ import annotations

from types import TracebackType

from tqdm import tqdm

# share of a batch's work that is done once a stage is: a posterior takes most of it
DONE_AFTER = {"predicting": 0.05, "fitting": 0.3}
FORMAT = "{percentage:3.0f}%|{bar}| {n:.0f}/{total_fmt} galaxies [{elapsed}<{remaining}{postfix}]"


class Progress:
    """A progress bar in galaxies.

    Args:
        total: galaxies of the run.
        done: of them, before.
        quiet: without a bar; nor is there one where stderr is no terminal.
    """

    def __init__(self, total: int = 0, done: int = 0, quiet: bool = True) -> None:
        self._bar = tqdm(
            total=total, initial=done, disable=True if quiet else None, bar_format=FORMAT
        )
        self._batch, self._moved = 0, 0.0

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        self._bar.close()

    def begin(self, n: int) -> None:
        """A batch with ``n`` new galaxies is being computed."""
        self._batch, self._moved = n, 0.0

    def enter(self, stage: str) -> None:
        """A stage of the batch begins."""
        if self._batch and stage != "writing":
            self._bar.set_postfix_str(f"{stage} {self._batch}")

    def leave(self, stage: str) -> None:
        """A stage of the batch is over."""
        self._move(DONE_AFTER.get(stage, 0.0) * self._batch)

    def end(self) -> None:
        """The batch is done."""
        self._move(self._batch)
        self._batch = 0

    def say(self, text: str) -> None:
        """Write a line above the bar."""
        if not self._bar.disable:
            self._bar.write(text)

    def _move(self, to: float) -> None:
        if to > self._moved:
            self._bar.update(to - self._moved)
            self._moved = to
