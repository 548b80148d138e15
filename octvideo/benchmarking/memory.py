"""Measure the memory that a function needs while it runs."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch

__all__ = ["peak_growth_mb"]

T = TypeVar("T")
_RESET = Path("/proc/self/clear_refs")  # "5" resets the peak to the present size
_STATUS = Path("/proc/self/status")


def peak_growth_mb(work: Callable[[], T]) -> tuple[float | None, T]:
    """Return the peak memory of ``work`` above the memory before it, in MB, and its result.

    It is that of the CUDA device, or else of this process; None on systems other than Linux.
    """
    if torch.cuda.is_available():
        before: float = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        result = work()
        return (torch.cuda.max_memory_allocated() - before) / 1e6, result
    try:
        ctypes.CDLL(None).malloc_trim(0)  # else free heap memory of earlier work would be used, and not be counted
        _RESET.write_text("5", encoding="utf-8")
    except (AttributeError, OSError, TypeError):
        return None, work()
    before = _held("VmRSS")
    result = work()
    return (_held("VmHWM") - before) / 1e3, result


def _held(what: str) -> float:
    """Return kilobytes of 1000 bytes; /proc has 1024."""
    line = next(line for line in _STATUS.read_text(encoding="utf-8").splitlines() if line.startswith(what))
    return int(line.split()[1]) * 1.024
