"""Show the progress of long work: a bar on a terminal, some lines elsewhere."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Any

from tqdm import tqdm

__all__ = ["Progress"]

_LINES = 50  # of a log, over the whole work


class Progress:
    """A bar on a terminal, at most fifty lines on stderr elsewhere. A context manager.

    Args:
        what: the name of the work, such as ``test``.
        total: the number of steps.
        unit: what a step is, such as ``videos``.
        every: steps between two lines; 0 for at most fifty lines in all.
    """

    def __init__(self, what: str, total: int, unit: str = "", every: int = 0) -> None:
        self.what, self.total, self.unit, self.done = what, total, unit, 0
        self._every = every or max(1, -(-total // _LINES))
        self._shown = 0
        self._bar: tqdm[Any] | None = None
        if sys.stderr.isatty():
            self._bar = tqdm(total=total, desc=what, unit=f" {unit}", file=sys.stderr)

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def update(self, done: int | None = None, text: str = "") -> None:
        """Show that ``done`` steps are finished, one more by default."""
        self.done = min(self.total, self.done + 1 if done is None else done)
        if self._bar is not None:
            self._bar.set_postfix_str(text, refresh=False)
            self._bar.update(self.done - self._bar.n)
        elif self.done - self._shown >= self._every or self.done == self.total > self._shown:
            self._shown = self.done
            print(f"{self.what} {self.done}/{self.total}  {text or self.unit}", file=sys.stderr, flush=True)

    def close(self) -> None:
        """Close the bar."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None
