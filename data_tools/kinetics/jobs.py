"""Many jobs at once: threads, helper processes that may die, progress, and a clean end."""

from __future__ import annotations

import multiprocessing
import signal
import sys
import threading
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from data_tools.kinetics.reports import Outcome

__all__ = ["Crashed", "Helper", "Stopped", "interrupt_on_terminate", "run_jobs", "show_progress"]

Job = TypeVar("Job")


class Stopped(Exception):
    """The run ends before this job is done; nothing is reported of it."""


class Crashed(Exception):
    """A helper process died."""


def run_jobs(
    jobs: Iterable[Job], work: Callable[[Job], Outcome], *, workers: int, stop: threading.Event
) -> Generator[Outcome, None, None]:
    """Calls ``work`` in ``workers`` threads, and yields what it returns as it comes.

    However this ends (an exception of ``work``, Ctrl-C, the generator closed), ``stop`` is set then, jobs not begun are
    dropped, and those begun are waited for: ``work`` looks at ``stop``, and raises Stopped.
    """
    with ThreadPoolExecutor(workers) as pool:
        pending: set[Future[Outcome]] = set()
        try:
            for job in jobs:
                if len(pending) >= 2 * workers:
                    done, pending = wait(pending, return_when=FIRST_COMPLETED)
                    yield from (future.result() for future in done)
                pending.add(pool.submit(work, job))
            while pending:
                done, pending = wait(pending, return_when=FIRST_COMPLETED)
                yield from (future.result() for future in done)
        finally:
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)


@contextmanager
def interrupt_on_terminate() -> Iterator[None]:
    """SIGTERM ends a run as Ctrl-C does: a batch system sends it when time is up."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class Helper:
    """A process that calls functions, one at a time; when it dies, only the call in hand is lost."""

    def __init__(self, stop: threading.Event) -> None:
        self._stop = stop
        self._process: BaseProcess | None = None
        self._pipe: Any = None

    def call(self, function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        """What the function returns or raises.

        Raises:
            Crashed: the process ended, as a decoder may do on a damaged file.
            Stopped: the run ends; the process is killed.
        """
        if self._process is None:
            # Not forked: a fork of a process with threads can hang.
            context = multiprocessing.get_context("spawn")
            self._pipe, end = context.Pipe()
            self._process = context.Process(target=_serve, args=(end,), daemon=True)
            self._process.start()
            end.close()
        try:
            self._pipe.send((function, arguments, options))
            while not self._pipe.poll(0.1):
                if self._stop.is_set():
                    self.close()
                    raise Stopped
            ok, value = self._pipe.recv()
        except (EOFError, ConnectionError):
            self._process.join()
            code = self._process.exitcode or 0
            self._process = None
            how = f"by signal {signal.Signals(-code).name}" if code < 0 else f"with code {code}"
            raise Crashed(f"the process that read it ended {how}") from None
        if not ok:
            raise value
        return value

    def close(self) -> None:
        """Kills the process; a later call starts another one."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._pipe.close()
            self._process = None


def _serve(pipe: Any) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to all processes of a terminal; the parent decides
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    while True:
        try:
            function, arguments, options = pipe.recv()
        except EOFError:  # the parent is gone
            return
        try:
            answer = (True, function(*arguments, **options))
        except Exception as error:  # goes to the caller as it is
            answer = (False, error)
        try:
            pipe.send(answer)
        except ConnectionError:
            return


@contextmanager
def show_progress(what: str, total: int) -> Iterator[Callable[[Outcome], None]]:
    """A function to call with every outcome: it moves a bar on a terminal, or writes some fifty lines."""
    counts: Counter[str] = Counter()
    console = Console(stderr=True)
    text = TextColumn("{task.fields[text]}")
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), text, TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=total, text="")

        def advance(outcome: Outcome) -> None:
            counts.update([outcome.status])
            text, done = ", ".join(f"{count} {status}" for status, count in sorted(counts.items())), counts.total()
            bar.update(task, advance=1, text=text)
            if bar.disable and (done % max(1, total // 50) == 0 or done == total):
                print(f"{what} {done}/{total}: {text}", file=sys.stderr, flush=True)

        yield advance
