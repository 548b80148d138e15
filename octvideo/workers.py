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
from collections.abc import Callable, Generator, Iterator, Sequence
from multiprocessing.connection import Connection, Pipe, wait
from multiprocessing.util import Finalize
from typing import IO, Any, Generic, NoReturn, TypeVar

import numpy as np
import torch

from octvideo.signals import undisturbed_children

__all__ = ["WorkerProcess", "WorkerFailed", "as_completed", "in_worker", "map_ahead", "map_in_workers"]

T = TypeVar("T")
_CAN_FORK = hasattr(os, "fork")  # not on Windows
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None  # loaded here, not in a forked child
_PR_SET_PDEATHSIG = 1
_LONGEST = 2e6  # seconds; the system waits at most 2^31 ms


class WorkerFailed(Exception):
    """A call has no result: its process timed out or crashed; the message says which."""


class _ChildTraceback(Exception):
    """The child's traceback, as the cause of its exception: pickling loses it."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}"


class WorkerProcess(Generic[T]):
    """Call ``function(*args)`` in a child process with a time limit.

    The child is forked at the first call and inherits the function with all it refers to. Only the arguments and the
    result are pickled; contiguous arrays in the result come through shared memory. It makes one call at a time. Each
    process that uses a ``WorkerProcess``, also one forked later, has its own child.

    Args:
        function: what to call.
        timeout: seconds that a call may take.
    """

    def __init__(self, function: Callable[..., T], timeout: float) -> None:
        self.function, self.timeout = function, min(timeout, _LONGEST)
        self._child: _Child | None = None
        self._deadline = 0.0

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_child": None}

    def __call__(self, *args: Any) -> T:
        """Return the function's result, or raise its exception.

        Raises:
            WorkerFailed: the call timed out, or its process crashed.
        """
        self.send(*args)
        return self.receive()

    def send(self, *args: Any) -> None:
        """Start a call; ``receive`` must follow."""
        if self._child is None or not self._child.is_idle():
            self.close()
            self._child = _Child(self.function)
        with contextlib.suppress(ConnectionError):  # it has just died; `receive` reports that
            self._child.connection.send(args)
        self._deadline = time.monotonic() + self.timeout

    def receive(self) -> T:
        """Finish a call; see ``__call__``."""
        child = self._child
        assert child is not None, "receive() without send()"
        try:
            if not child.connection.poll(max(0.0, self._deadline - time.monotonic())):
                raise WorkerFailed(f"timed out after {self.timeout:g} s")
            good, result = child.receive()
        except (EOFError, OSError):
            raise WorkerFailed(_describe_exit(self.close())) from None
        except BaseException:  # also for an interrupt: the next call must not get this one's answer
            self.close()
            raise
        if not good:
            error, trace = result
            raise error from _ChildTraceback(trace)
        return result

    def close(self) -> int | None:
        """Kill the child, if any, and return its wait status. The next call starts a new one."""
        child, self._child = self._child, None
        return None if child is None else child.end()

    @staticmethod
    def ready(guards: Sequence[WorkerProcess[Any]]) -> list[WorkerProcess[Any]]:
        """Wait for workers whose ``receive`` returns at once, and return them."""
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


def map_ahead(
    function: Callable[[Any], T], items: Sequence[Any], *, workers: int, timeout: float
) -> Iterator[T | WorkerFailed]:
    """Yield what ``map_in_workers`` does; while the caller uses a result, the children work on the next ``workers``.

    No more results than these are kept, however large they are.
    """
    if not _CAN_FORK:
        yield from map(function, items)
        return
    guards = [WorkerProcess(function, timeout) for _ in range(min(workers, len(items)))]
    try:
        for guard, item in zip(guards, items):
            guard.send(item)
        for number in range(len(items)):
            guard = guards[number % len(guards)]
            result: T | WorkerFailed
            try:
                result = guard.receive()
            except WorkerFailed as error:
                result = error
            if number + len(guards) < len(items):
                guard.send(items[number + len(guards)])
            yield result
    finally:
        for guard in guards:
            guard.close()


def as_completed(
    function: Callable[[Any], T], items: Sequence[Any], *, workers: int, timeout: float
) -> Generator[tuple[int, T | WorkerFailed], None, None]:
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
    """The forked process, as its parent sees it."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.connection, theirs = Pipe()
        self._memory = _memory_file()
        self._owner = os.getpid()
        with warnings.catch_warnings(), undisturbed_children():
            # Python warns if other threads exist, since their locks stay locked in the child. The loader has one that
            # pickles. Decoding takes none of its locks; otherwise the time limit would end it.
            warnings.simplefilter("ignore", DeprecationWarning)
            pid = os.fork()
            if pid == 0:
                self.connection.close()
                _serve_calls(function, theirs, self._memory, self._owner)
        theirs.close()
        # Runs once: when called, when this object is deleted, or when this process ends.
        self.end: Callable[[], int | None] = Finalize(self, _end, (pid, self.connection, self._memory), exitpriority=10)

    def is_idle(self) -> bool:
        """Tell whether the child is this process's, and idle."""
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
    """Kill and reap a child. A crashed one is a zombie until then, and its status stays."""
    connection.close()
    memory.close()
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)  # where it leads a group: also the programs that it started
    os.kill(pid, signal.SIGKILL)
    return os.waitpid(pid, 0)[1]


def _describe_exit(status: int | None) -> str:
    code = 0 if status is None else os.waitstatus_to_exitcode(status)
    return f"the decoder crashed (signal {-code})" if code < 0 else f"the decoder ended its process (exit code {code})"


def _memory_file() -> IO[bytes]:
    """Open an anonymous file in memory, reused for all results."""
    if hasattr(os, "memfd_create"):
        return open(os.memfd_create("octvideo"), "r+b", buffering=0)
    return tempfile.TemporaryFile(buffering=0)


def _read(file: int, buffer: np.ndarray, offset: int) -> None:
    view = memoryview(buffer)
    while len(view):  # the kernel moves at most 2 GiB at once
        count = os.preadv(file, [view], offset)
        view, offset = view[count:], offset + count


def _write(file: int, view: memoryview, offset: int) -> None:
    while len(view):
        count = os.pwrite(file, view, offset)
        view, offset = view[count:], offset + count


def _serve_calls(function: Callable[..., Any], connection: Connection, memory: IO[bytes], parent: int) -> NoReturn:
    """Serve calls in the child. It never returns to the code that was forked."""
    try:
        _isolate(parent)
        while True:
            _reply(function, connection.recv(), connection, memory.fileno())
    except (EOFError, ConnectionError):  # the parent has gone
        pass
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(1)


def _isolate(parent: int) -> None:
    gc.freeze()  # the parent finalises what it owns
    torch.set_num_threads(1)  # OpenMP's threads do not survive a fork
    # Signals that stop a run may go to the whole process group. The parent handles them; this process ends with it.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    # The handlers of the loader and of faulthandler would report a crash that the parent handles.
    for number in (signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGABRT):
        signal.signal(number, signal.SIG_DFL)
    # An idle child notices its parent's death by the closed socket. One that hangs in C needs the kernel.
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def _reply(function: Callable[..., Any], args: Sequence[Any], connection: Connection, memory: int) -> None:
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
        pickle.loads(head)  # some exceptions can be pickled and not unpickled
        return head
    return pickle.dumps((RuntimeError(f"{type(error).__name__}: {error}"), trace))
