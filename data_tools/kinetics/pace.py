"""Politeness: how often and how fast all threads together ask a server, and how long they wait when it says so."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from data_tools.kinetics.jobs import Stopped
from octvideo.errors import UserError

__all__ = ["Gone", "Pacer", "Private", "Transient", "Unavailable"]

LONGEST_WAIT = 3600.0  # seconds; a server that asks for more ends the run
LONGEST_BACKOFF = 60.0

T = TypeVar("T")


class Unavailable(Exception):
    """The video cannot be had, and asking again does not help; ``status`` goes into the report."""

    status = "failed"


class Gone(Unavailable):
    """There is no such video any more."""

    status = "gone"


class Private(Unavailable):
    """The video is there, but not for us."""

    status = "private"


class Transient(Exception):
    """It may work another time; ``wait`` is how many seconds the server asked to wait for."""

    def __init__(self, reason: str, wait: float = 0.0) -> None:
        super().__init__(" ".join(reason.split())[:300])
        self.wait = wait


class Pacer:
    """Shared by all threads of a run.

    Args:
        stop: set when the run ends; all waiting ends then.
        rate: requests a second; 0 = as they come.
        limit: bytes a second; 0 = as fast as they come.
        backoff: seconds before the second attempt; doubled for each further one.
    """

    def __init__(self, stop: threading.Event, rate: float = 0.0, limit: float = 0.0, backoff: float = 1.0) -> None:
        self.stop, self._rate, self._limit, self._backoff = stop, rate, limit, backoff
        self._lock = threading.Lock()
        self._next_request = self._next_bytes = 0.0  # when there may be some again

    def sleep(self, seconds: float) -> None:
        """Waits.

        Raises:
            Stopped: the run ends.
        """
        if self.stop.wait(max(0.0, seconds)):
            raise Stopped

    def begin(self) -> None:
        """Waits for the turn to send a request."""
        while True:
            with self._lock:
                now = time.monotonic()
                wait = self._next_request - now
                if wait <= 0:
                    self._next_request = now + (1 / self._rate if self._rate else 0.0)
                    break
            self.sleep(wait)
        self.sleep(0.0)

    def pause(self, seconds: float) -> None:
        """No thread sends a request for so long."""
        with self._lock:
            self._next_request = max(self._next_request, time.monotonic() + seconds)

    def spend(self, count: int) -> None:
        """Bytes have come; waits where they came too fast."""
        with self._lock:
            now = time.monotonic()
            self._next_bytes = max(self._next_bytes, now) + (count / self._limit if self._limit else 0.0)
            wait = self._next_bytes - now
        self.sleep(wait)

    def attempt(self, fetch: Callable[[], T], retries: int) -> tuple[T, int]:
        """Calls ``fetch`` until it succeeds, at most ``retries`` times more; waits in between, longer every time.

        Returns:
            What it returned, and the number of calls.

        Raises:
            Unavailable: at once if it is gone or private; after the last attempt with the last reason. ``args`` are the
                reason and the number of calls.
            UserError: the server asks to wait for longer than an hour.
        """
        for number in range(1, retries + 2):
            self.begin()
            try:
                return fetch(), number
            except Unavailable as error:
                raise type(error)(error.args[0], number) from None
            except Transient as error:
                if error.wait > LONGEST_WAIT:
                    raise UserError(f"{error}: the server asks to wait {error.wait:.0f} s; run it again then") from None
                self.pause(error.wait)  # for all: the others would only be refused too
                if number > retries:
                    raise Unavailable(str(error), number) from None
                backoff = min(LONGEST_BACKOFF, self._backoff * 2 ** (number - 1))
                self.sleep(backoff * random.uniform(0.5, 1.0))  # threads that failed together do not come back together
        raise AssertionError("unreachable")
