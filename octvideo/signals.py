"""What asks a run to stop: SIGTERM and SIGINT, often sent to the whole process group.

Only the main process decides. The processes that it forks never see these signals::

    timeout, kill -- -PGID, systemd, scancel, Ctrl-C
        |-> main process   StopOnSignal: the step is finished, a checkpoint is written
        |-> loader worker  blocked from before its fork; ends when its parent says so or is gone
        '-> decoder        blocked, then ignored; ends with its parent
"""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import threading
import time
from collections.abc import Iterable, Iterator
from types import FrameType
from typing import TypeVar

__all__ = ["StopOnSignal", "Stopped", "end_with_parent", "undisturbed_children"]

T = TypeVar("T")
_STOPS = (signal.SIGTERM, signal.SIGINT)
_AGAIN = 5.0  # seconds: `timeout` and torchrun send a signal twice, a person waits longer before trying again
_WATCH = 5.0  # seconds between looks at the parent
_CAN_WAIT = hasattr(signal, "sigtimedwait")  # not on macOS, nor on Windows


class Stopped(KeyboardInterrupt):
    """A signal has ended the work here.

    Attributes:
        number: of the signal.
    """

    def __init__(self, number: int = signal.SIGTERM) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.number = number


class StopOnSignal:
    """Within it SIGTERM and SIGINT raise ``Stopped``; after ``hold`` they are noted, and ``asked`` says so.

    The same signal again changes nothing, but Ctrl-C does after some seconds: it raises KeyboardInterrupt.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._when = 0.0
        self._held = self._waits = False

    def __enter__(self) -> StopOnSignal:
        self._before = {number: signal.signal(number, self._note) for number in _STOPS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def hold(self) -> None:
        """From now on the work looks at ``asked`` and ends in order."""
        self._held = True

    def waiting(self, items: Iterable[T], after: int = 0) -> Iterator[T]:
        """The items; where a signal comes while one is waited for, or has come, ``Stopped`` is raised instead.

        Not so for the first ``after`` of them: every run then gets that far.
        """
        source = iter(items)
        for number in itertools.count():
            self._waits = number >= after
            try:
                if self._waits and self.received is not None:
                    raise Stopped(self.received)
                item = next(source)
            except StopIteration:
                return
            finally:
                self._waits = False
            yield item

    def asked(self) -> bool:
        """Whether a signal has come."""
        return self.received is not None

    @property
    def code(self) -> int:
        """The exit code: 128 + signal; SIGTERM's where another process was asked."""
        return 128 + (self.received or signal.SIGTERM)

    def _note(self, number: int, _: FrameType | None) -> None:
        if self.received is None:
            self.received, self._when = number, time.monotonic()
            if self._waits or not self._held:
                raise Stopped(number)
        elif number == signal.SIGINT and time.monotonic() - self._when > _AGAIN:
            raise KeyboardInterrupt


@contextlib.contextmanager
def undisturbed_children() -> Iterator[None]:
    """Processes forked within it never see SIGTERM and SIGINT, from their first instruction on.

    A worker that ends at SIGTERM would take the run with it, before the step is finished.
    """
    if not _CAN_WAIT:
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _STOPS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def end_with_parent() -> None:
    """Makes this process, forked in ``undisturbed_children``, end at its parent's SIGTERM and when the parent is gone.

    ``multiprocessing`` ends workers with SIGTERM and waits for them; who sent one is known to ``sigtimedwait`` alone.
    """
    if _CAN_WAIT:
        threading.Thread(target=_watch, args=(os.getppid(),), daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        sent = signal.sigtimedwait([signal.SIGTERM], _WATCH)
        if sent is not None and sent.si_pid == parent:
            break
    os._exit(0)
