"""Run a command of ``tools/``, ``demo/`` or the installed ``octvideo``: exit codes, error messages and output."""

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

from octvideo.errors import UserError, one_line
from octvideo.signals import Stopped

__all__ = ["run", "to_json"]

Command = Callable[[Sequence[str] | None], int | None]

_NO_SPACE = (errno.ENOSPC, errno.EROFS, errno.EDQUOT)
_BROKEN_PIPE = 141  # 128 + SIGPIPE
# Messages of torch: a loader worker that crashed; CUDA or the CPU out of memory.
_WORKER_CRASHED = re.compile(r"DataLoader worker \(pid(?:\(s\))? ([\d, ]+)\) (?:is )?([^.\n]*)")
_OUT_OF_MEMORY = re.compile("out of memory|allocate memory")

# By default OpenMP threads spin while they wait, and take the cores from the loader workers: a step is up to ten times
# slower then (docs/performance.md). Torch reads this when it is imported, so it must be set before.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# What Apple's GPU cannot compute runs on the CPU, and torch warns of it once. Torch reads this when it is imported.
os.environ.setdefault("PYTORCH_ENABLE_MPS_FALLBACK", "1")


def run(command: Command, argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code.

    An error that the user can fix, such as a full disk, is one line on stderr and exit code 2. If the reader of the
    output is gone (``| head``) the exit code is 141, as for a program that SIGPIPE ends.
    """
    _keep_freed_memory()
    _open_streams()
    try:
        try:
            return _run(command, argv)
        finally:
            sys.stdout.flush()  # an error here can be reported, later not
    except OSError as error:
        if _output_is_lost():
            if isinstance(error, BrokenPipeError):
                return _BROKEN_PIPE
            problem = f"the output cannot be written ({error.strerror}); send it to another place"
        elif error.errno in _NO_SPACE:
            place = f"{os.fsdecode(error.filename)}: " if error.filename else ""
            problem = f"{place}{error.strerror}: free some space, or choose another place"
        else:
            raise
    print(f"error: {problem}", file=sys.stderr)
    return 2


def _run(command: Command, argv: Sequence[str] | None) -> int:
    try:
        return command(argv) or 0
    except Stopped as stopped:
        print(stopped, file=sys.stderr)
        return 128 + stopped.number
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except UserError as error:
        problem = one_line(error)
    except (MemoryError, RuntimeError) as error:
        if crashed := _WORKER_CRASHED.search(str(error)):
            problem = (
                f"a loader worker crashed (process {crashed[1]} {crashed[2]}): if memory or /dev/shm (docker run "
                "--shm-size 8g) is short, set a smaller batch or NUM_WORKERS; NUM_WORKERS 0 shows the error itself"
            )
        elif isinstance(error, MemoryError) or _OUT_OF_MEMORY.search(str(error)):
            problem = f"not enough memory ({one_line(error)[-300:]}): use smaller clips, or fewer at a time"
        else:
            raise
    print(f"error: {problem}", file=sys.stderr)
    return 2


def to_json(value: object) -> str:
    """Return JSON for stdout: letters unchanged if its encoding is UTF-8, else as ``\\uXXXX``."""
    encoding = (sys.stdout.encoding or "").lower().replace("-", "")
    return json.dumps(value, ensure_ascii=encoding != "utf8")


def _keep_freed_memory() -> None:
    """Make glibc keep freed memory. By default it returns blocks above 32 MB to the system.

    To get them again for the next layer took up to a quarter of a network's time on a CPU (docs/performance.md).
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:  # musl has none
        mallopt(-4, 0)  # M_MMAP_MAX: no mapping per block
        mallopt(-1, -1)  # M_TRIM_THRESHOLD: never


def _open_streams() -> None:
    """Discard output to a closed stream (``>&-``); escape letters that the encoding of a stream lacks.

    Each line on stderr is one write, so that the lines of two ranks do not mix: torchrun starts ranks with
    ``python -u``, which would write the newline apart.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    if hasattr(sys.stderr, "reconfigure"):
        sys.stderr.reconfigure(line_buffering=True, write_through=False)


def _output_is_lost() -> bool:
    """Return whether stdout or stderr cannot be written. If so, discard what is left, so that Python ends silently."""
    lost = [stream for stream in (sys.stdout, sys.stderr) if not _is_writable(stream)]
    for stream in lost:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    return bool(lost)


def _is_writable(stream: TextIO) -> bool:
    try:
        stream.flush()  # fails again if the buffer still has what could not be written
        if not hasattr(select, "poll"):  # Windows
            return True
        poll = select.poll()  # without a buffer only this shows it
        poll.register(stream.fileno(), 0)
        return not any(event & select.POLLERR for _, event in poll.poll(0))
    except io.UnsupportedOperation:  # not a file
        return True
    except OSError:
        return False
