"""How much memory a piece of work takes while it runs."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch

__all__ = ["peak_growth_mb"]

T = TypeVar("T")
_RESET = Path("/proc/self/clear_refs")  # "5" sets the peak to what is held now
_STATUS = Path("/proc/self/status")


def peak_growth_mb(work: Callable[[], T]) -> tuple[float | None, T]:
    """The most that ``work`` holds beyond what is held before it, in MB, and its result.

    Of the CUDA device where there is one, else of this process; None where the system does not tell (Linux does).
    """
    if torch.cuda.is_available():
        before: float = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        result = work()
        return (torch.cuda.max_memory_allocated() - before) / 1e6, result
    try:
        ctypes.CDLL(None).malloc_trim(0)  # or what earlier work has left in the heap would be used, and not seen
        _RESET.write_text("5", encoding="utf-8")
    except (AttributeError, OSError, TypeError):
        return None, work()
    before = _held("VmRSS")
    result = work()
    return (_held("VmHWM") - before) / 1e3, result


def _held(what: str) -> float:
    """Kilobytes, of 1024 bytes each as everywhere in /proc; 1000 here."""
    line = next(line for line in _STATUS.read_text(encoding="utf-8").splitlines() if line.startswith(what))
    return int(line.split()[1]) * 1.024
