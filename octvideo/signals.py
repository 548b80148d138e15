"""SIGTERM and SIGINT stop a run in order, also where the whole process group gets them.

Only the main process reacts. The processes that it forks never get these signals::

    timeout, kill -- -PGID, systemd, scancel, Ctrl-C
        |-> main process   StopOnSignal: it finishes the step and writes a checkpoint
        |-> loader worker  blocked from before its fork; ends when its parent ends it, or is dead
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
_REPEAT = 5.0  # seconds: `timeout` and torchrun send a signal twice; a person waits longer before the second Ctrl-C
_CHECK_PARENT = 5.0  # seconds between checks whether the parent is alive
_CAN_WAIT = hasattr(signal, "sigtimedwait")  # not on macOS, nor on Windows


class Stopped(KeyboardInterrupt):
    """A signal has stopped the work.

    Attributes:
        number: of the signal.
    """

    def __init__(self, number: int = signal.SIGTERM) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.number = number


class StopOnSignal:
    """Makes SIGTERM and SIGINT raise ``Stopped``, or only sets ``asked`` after ``hold``; a context manager.

    Further signals change nothing, but Ctrl-C after some seconds raises KeyboardInterrupt.
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

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        """Raise ``Stopped`` at the end of the block: an exception in the middle of an import may be swallowed there."""
        self._held = True
        yield
        self._held = False
        if self.received is not None:
            raise Stopped(self.received)

    def hold(self) -> None:
        """From now on signals only set ``asked``: the work checks it and stops in order."""
        self._held = True

    def waiting(self, items: Iterable[T], after: int = 0) -> Iterator[T]:
        """Yield the items; raise ``Stopped`` where a signal has come, also while it waits for an item.

        The first ``after`` items are yielded in any case, so that every run makes progress.
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
        """The exit code: 128 + signal; that of SIGTERM where only another process got a signal."""
        return 128 + (self.received or signal.SIGTERM)

    def _note(self, number: int, _: FrameType | None) -> None:
        if self.received is None:
            self.received, self._when = number, time.monotonic()
            if self._waits or not self._held:
                raise Stopped(number)
        elif number == signal.SIGINT and time.monotonic() - self._when > _REPEAT:
            raise KeyboardInterrupt


@contextlib.contextmanager
def undisturbed_children() -> Iterator[None]:
    """Block SIGTERM and SIGINT in the processes that are forked within, from their first instruction on.

    A worker that ends at SIGTERM would end the run before its step is finished.
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
    """Make this process, forked in ``undisturbed_children``, end at its parent's SIGTERM and when the parent is dead.

    ``multiprocessing`` ends workers with SIGTERM and waits for them. Only ``sigtimedwait`` tells who has sent it.
    """
    if _CAN_WAIT:
        threading.Thread(target=_end_after, args=(os.getppid(),), daemon=True).start()


def _end_after(parent: int) -> None:
    while os.getppid() == parent:
        sent = signal.sigtimedwait([signal.SIGTERM], _CHECK_PARENT)
        if sent is not None and sent.si_pid == parent:
            break
    os._exit(0)
