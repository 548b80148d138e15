"""What ``tools/`` and ``demo/`` call, and the installed command ``octvideo``."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable, Sequence

from octvideo.errors import UserError

__all__ = ["run"]

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
    """Runs a command; an error that the user can fix ends in one line on stderr and exit code 2."""
    _keep_memory()
    try:
        return command(argv) or 0
    except UserError as error:
        # From a loader's process it comes with that process's traceback in front.
        line = str(error).strip().splitlines()[-1].removeprefix("octvideo.errors.UserError: ")
        print(f"error: {line}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        return 0
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
