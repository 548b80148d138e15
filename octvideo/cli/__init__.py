"""What ``tools/`` and ``demo/`` call, and the installed command ``octvideo``."""

from __future__ import annotations

import ctypes
import errno
import io
import json
import os
import re
import select
import sys
from collections.abc import Callable, Sequence
from typing import TextIO

from octvideo.errors import UserError
from octvideo.signals import Stopped

__all__ = ["one_line", "run", "to_json"]

_NO_ROOM = (errno.ENOSPC, errno.EROFS, errno.EDQUOT)
_BROKEN_PIPE = 141  # 128 + SIGPIPE
_WORKER = re.compile(r"DataLoader worker \(pid(?:\(s\))? ([\d, ]+)\) (?:is )?([^.\n]*)")  # torch's
_NO_MEMORY = re.compile("out of memory|allocate memory")  # torch's, of CUDA and of the CPU

# OpenMP threads that wait spin by default, and take the cores from the loader's processes: a step is up to ten times as
# slow then (docs/performance.md). It is read when torch is loaded, so it is set here, before.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def _keep_memory() -> None:
    """Makes glibc keep the memory that tensors free, which it gives back to the system above 32 MB, page by page.

    Getting it again for the next layer took up to a quarter of the time of a network on a CPU (docs/performance.md).
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:  # musl has none
        mallopt(-4, 0)  # M_MMAP_MAX: no mappings of their own
        mallopt(-1, -1)  # M_TRIM_THRESHOLD: never


def run(command: Callable[[Sequence[str] | None], int | None], argv: Sequence[str] | None = None) -> int:
    """Runs a command; an error that the user can fix ends in one line on stderr and exit code 2.

    So does a place that is full or read-only. Where nobody reads the output any more (``| head``) the exit code is 141,
    as where SIGPIPE ends a program.
    """
    _keep_memory()
    _open_streams()
    try:
        try:
            return _answer(command, argv)
        finally:
            sys.stdout.flush()  # what fails can be told here, and not when the interpreter ends
    except OSError as error:
        if not _output_is_lost():
            if error.errno not in _NO_ROOM:
                raise
            place = f"{os.fsdecode(error.filename)}: " if error.filename else ""
            print(f"error: {place}{error.strerror}: free some space, or choose another place", file=sys.stderr)
            return 2
        if isinstance(error, BrokenPipeError):
            return _BROKEN_PIPE
        print(f"error: the output cannot be written ({error.strerror}); send it to another place", file=sys.stderr)
        return 2


def _answer(command: Callable[[Sequence[str] | None], int | None], argv: Sequence[str] | None) -> int:
    try:
        return command(argv) or 0
    except UserError as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
    except Stopped as stopped:
        print(stopped, file=sys.stderr)
        return 128 + stopped.number
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except (MemoryError, RuntimeError) as error:
        if crashed := _WORKER.search(str(error)):
            print(
                f"error: a worker of the loader crashed (process {crashed[1]} {crashed[2]}): where memory or /dev/shm "
                "(docker run --shm-size 8g) is short, set a smaller batch or NUM_WORKERS; 0 shows the error itself",
                file=sys.stderr,
            )
            return 2
        if not isinstance(error, MemoryError) and not _NO_MEMORY.search(str(error)):
            raise
        reason = one_line(error)[-300:] or "no details"
        print(f"error: not enough memory ({reason}): take smaller or fewer clips at a time", file=sys.stderr)
    return 2


def one_line(error: Exception) -> str:
    """The message of an error in one line, also where a path has a line break.

    From a loader's process it comes with that process's traceback in front.
    """
    lines = str(error).rpartition("octvideo.errors.UserError: ")[2].strip().splitlines()
    return "\\n".join(lines)


def to_json(value: object) -> str:
    """JSON for stdout: letters as they are where its encoding is UTF-8, else as JSON's own ``\\uXXXX``."""
    encoding = (sys.stdout.encoding or "").lower().replace("-", "")
    return json.dumps(value, ensure_ascii=encoding != "utf8")


def _open_streams() -> None:
    """Output that was closed (``>&-``) goes nowhere; what a stream's encoding lacks is written as its code."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        elif hasattr(stream := getattr(sys, name), "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # such as a path of another encoding


def _output_is_lost() -> bool:
    """Whether what was printed cannot be written. Then the rest goes nowhere, so that there is an end without noise."""
    lost = [stream for stream in (sys.stdout, sys.stderr) if _is_lost(stream)]
    for stream in lost:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    return bool(lost)


def _is_lost(stream: TextIO) -> bool:
    try:
        stream.flush()  # fails again, as what could not be written is still there
        if not hasattr(select, "poll"):  # Windows has none
            return False
        poll = select.poll()  # for where Python does not buffer, and nothing is there
        poll.register(stream.fileno(), 0)
        return any(event & select.POLLERR for _, event in poll.poll(0))
    except io.UnsupportedOperation:  # no file
        return False
    except OSError:
        return True
