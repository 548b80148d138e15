"""Call functions in worker processes that may hang or crash without harm to the caller.

Decoders are C libraries: a broken file may make them loop forever or kill the process. ::

    caller                                    child, forked at the first call
    send(*args)   --- socket ------------->   function(*args)
    receive()     <-- memory file (arrays) --  its result, or the exception that it raised
                  <-- socket (the rest) -----

A child that exceeds the time limit, or crashes, is killed and reaped. The call raises ``WorkerFailed``; the next call
starts a new child.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import pickle
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, Pipe, wait
from multiprocessing.util import Finalize
from typing import IO, Any, Generic, NoReturn, TypeVar

import numpy as np
import torch

from octvideo.signals import undisturbed_children

__all__ = ["WorkerProcess", "WorkerFailed", "as_completed", "in_worker", "map_in_workers"]

T = TypeVar("T")
_CAN_FORK = hasattr(os, "fork")  # not on Windows
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None  # loaded here, since a forked child had better not
_PR_SET_PDEATHSIG = 1
_LONGEST = 2e6  # seconds; the system waits for at most 2^31 ms


class WorkerFailed(Exception):
    """The call has no result, because its process was too slow or died: the message says which."""


class _Trace(Exception):
    """The child's traceback, as the cause of what it raised: exceptions lose theirs on the way."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}"


class WorkerProcess(Generic[T]):
    """Calls ``function(*args)`` in a child process with a time limit.

    The child is forked at the first call, so it knows the function and all that it refers to as they are then, and
    only the arguments and the result cross over: they must be picklable. Contiguous arrays in the result do so through
    shared memory. One call at a time; every process that uses a guard, also one forked later, has its own child.

    Args:
        function: what to call.
        timeout: seconds that a call may take; more than ``_LONGEST`` are as many.
    """

    def __init__(self, function: Callable[..., T], timeout: float) -> None:
        self.function, self.timeout = function, min(timeout, _LONGEST)
        self._child: _Child | None = None
        self._deadline = 0.0

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_child": None}

    def __call__(self, *args: Any) -> T:
        """The function's result; what it raises is raised.

        Raises:
            WorkerFailed: it took longer than the limit, or its process died.
        """
        self.send(*args)
        return self.receive()

    def send(self, *args: Any) -> None:
        """Begins a call; ``receive`` must follow."""
        if self._child is None or not self._child.waits():
            self.close()
            self._child = _Child(self.function)
        with contextlib.suppress(ConnectionError):  # it has died just now, which `receive` sees and reports
            self._child.connection.send(args)
        self._deadline = time.monotonic() + self.timeout

    def receive(self) -> T:
        """Ends a call: as ``__call__``."""
        child = self._child
        assert child is not None, "receive() without send()"
        try:
            if not child.connection.poll(max(0.0, self._deadline - time.monotonic())):
                raise WorkerFailed(f"took longer than {self.timeout:g} s")
            good, result = child.receive()
        except (EOFError, OSError):
            raise WorkerFailed(_how_it_ended(self.close())) from None
        except BaseException:  # also an interrupt: the next call must not get this one's answer
            self.close()
            raise
        if not good:
            error, trace = result
            raise error from _Trace(trace)
        return result

    def close(self) -> int | None:
        """Ends the child, if there is one, and returns its wait status; another call starts a new one."""
        child, self._child = self._child, None
        return None if child is None else child.end()

    @staticmethod
    def ready(guards: Sequence[WorkerProcess[Any]]) -> list[WorkerProcess[Any]]:
        """Waits until there are guards among these whose ``receive`` returns at once."""
        by_connection = {guard._child.connection: guard for guard in guards if guard._child is not None}
        first = min(guard._deadline for guard in guards)
        answered = {by_connection[c] for c in wait(list(by_connection), max(0.0, first - time.monotonic()))}  # type: ignore[index]
        now = time.monotonic()
        return [guard for guard in guards if guard in answered or guard._deadline <= now]


def in_worker(function: Callable[..., T], timeout: float) -> Callable[..., T]:
    """Wrap a function in a ``WorkerProcess``; return it as it is if ``timeout`` is 0 or the system cannot fork."""
    return WorkerProcess(function, timeout) if timeout and _CAN_FORK else function


def map_in_workers(
    function: Callable[[Any], T], items: Sequence[Any], *, workers: int, timeout: float
) -> Iterator[T | WorkerFailed]:
    """Yield ``function(item)`` for every item, in order, from ``workers`` children; ``WorkerFailed`` without a result.

    It uses no threads, since these and forks do not mix. On systems without fork it calls the function here.
    """
    done: dict[int, T | WorkerFailed] = {}
    given = 0
    for number, result in as_completed(function, items, workers=workers, timeout=timeout):
        done[number] = result
        while given in done:
            yield done.pop(given)
            given += 1


def as_completed(
    function: Callable[[Any], T], items: Sequence[Any], *, workers: int, timeout: float
) -> Iterator[tuple[int, T | WorkerFailed]]:
    """Yield the number of an item and its result as soon as there is one; otherwise as ``map_in_workers``."""
    if not _CAN_FORK:
        yield from enumerate(map(function, items))
        return
    idle: list[WorkerProcess[Any]] = [WorkerProcess(function, timeout) for _ in range(min(workers, len(items)))]
    busy: dict[WorkerProcess[Any], int] = {}
    sent = 0
    try:
        while busy or sent < len(items):
            while idle and sent < len(items):
                guard = idle.pop()
                guard.send(items[sent])
                busy[guard] = sent
                sent += 1
            for guard in WorkerProcess.ready(list(busy)):
                result: T | WorkerFailed
                try:
                    result = guard.receive()
                except WorkerFailed as error:
                    result = error
                number = busy.pop(guard)
                idle.append(guard)
                yield number, result
    finally:
        for guard in (*idle, *busy):
            guard.close()


class _Child:
    """The forked process, seen from its parent."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.connection, theirs = Pipe()
        self._memory = _memory_file()
        self._owner = os.getpid()
        with warnings.catch_warnings(), undisturbed_children():
            # Python warns where there are other threads, as their locks stay locked in the child. The loader has one
            # that pickles; decoding takes none of its locks, and if it did, the time limit would end it.
            warnings.simplefilter("ignore", DeprecationWarning)
            pid = os.fork()
            if pid == 0:
                self.connection.close()
                _serve(function, theirs, self._memory, self._owner)
        theirs.close()
        # Runs once: when asked to, when this object goes, or when this process ends, a loader's worker included.
        self.end: Callable[[], int | None] = Finalize(self, _end, (pid, self.connection, self._memory), exitpriority=10)

    def waits(self) -> bool:
        """Whether it is this process's child, and alive: nothing is to be read from a child that waits."""
        return self._owner == os.getpid() and not self.connection.poll(0)

    def receive(self) -> tuple[bool, Any]:
        good, head, sizes = self.connection.recv()
        buffers, offset = [], 0
        for size in sizes:
            buffers.append(np.empty(size, np.uint8))
            _read(self._memory.fileno(), buffers[-1], offset)
            offset += size
        return good, pickle.loads(head, buffers=buffers)


def _end(pid: int, connection: Connection, memory: IO[bytes]) -> int:
    """Kills and reaps. A child that has died by itself is a zombie until then, and its status stays."""
    connection.close()
    memory.close()
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)  # where it leads a group: also the programs that it started
    os.kill(pid, signal.SIGKILL)
    return os.waitpid(pid, 0)[1]


def _how_it_ended(status: int | None) -> str:
    code = 0 if status is None else os.waitstatus_to_exitcode(status)
    return f"the decoder crashed (signal {-code})" if code < 0 else f"the decoder ended its process (exit code {code})"


def _memory_file() -> IO[bytes]:
    """A file in memory without a name; it grows with what is written, and its pages are used again."""
    if hasattr(os, "memfd_create"):
        return open(os.memfd_create("octvideo"), "r+b", buffering=0)
    return tempfile.TemporaryFile(buffering=0)


def _read(file: int, buffer: np.ndarray, offset: int) -> None:
    view = memoryview(buffer)
    while len(view):  # the kernel moves at most 2 GiB at a time
        count = os.preadv(file, [view], offset)
        view, offset = view[count:], offset + count


def _write(file: int, view: memoryview, offset: int) -> None:
    while len(view):
        count = os.pwrite(file, view, offset)
        view, offset = view[count:], offset + count


def _serve(function: Callable[..., Any], connection: Connection, memory: IO[bytes], parent: int) -> NoReturn:
    """The child's life: it never returns into the code that it was forked from."""
    try:
        _settle(parent)
        while True:
            _answer(function, connection.recv(), connection, memory.fileno())
    except (EOFError, ConnectionError):  # the parent has gone
        pass
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(1)


def _settle(parent: int) -> None:
    gc.freeze()  # what came from the parent is the parent's to finalise
    torch.set_num_threads(1)  # OpenMP's threads do not survive a fork
    # What asks a run to stop, at times the whole process group, is for the parent; this process ends with it.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    # The handlers of the loader and of faulthandler would report the crash of a process that nobody misses.
    for number in (signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGABRT):
        signal.signal(number, signal.SIG_DFL)
    # An idle child reads the end of the socket when its parent has died; one that hangs in C needs the kernel.
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def _answer(function: Callable[..., Any], args: Sequence[Any], connection: Connection, memory: int) -> None:
    buffers: list[pickle.PickleBuffer] = []
    try:
        good, head = True, pickle.dumps(function(*args), protocol=5, buffer_callback=buffers.append)
    except Exception as error:
        good, head = False, _pickled(error, traceback.format_exc())
        buffers.clear()
    sizes, offset = [], 0
    for view in (buffer.raw() for buffer in buffers):
        _write(memory, view, offset)
        sizes.append(len(view))
        offset += len(view)
    connection.send((good, head, sizes))


def _pickled(error: Exception, trace: str) -> bytes:
    with contextlib.suppress(Exception):
        head = pickle.dumps((error, trace))
        pickle.loads(head)  # some exceptions are pickled and do not come back
        return head
    return pickle.dumps((RuntimeError(f"{type(error).__name__}: {error}"), trace))
