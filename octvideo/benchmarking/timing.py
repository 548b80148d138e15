"""Time variants in turn, round by round, in one process, and report medians."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import torch

__all__ = ["Report", "hardware", "interleaved", "timed"]


@dataclass
class Report:
    """The result of a benchmark.

    Attributes:
        results: one entry per variant: ``name``, ``seconds`` (the median) and other figures.
        ratio: ``"a / b"``: seconds of a over seconds of b.
        memory: memory of the process in MB, by the work before; empty if not measured.
    """

    results: list[dict[str, Any]] = field(default_factory=list)
    ratio: dict[str, float] = field(default_factory=dict)
    memory: dict[str, float] = field(default_factory=dict)

    def compare(self, slow: str, fast: str, *, by: str = "seconds") -> None:
        """Add the ratio of two results, of their seconds or of the figure ``by``, which its name has then."""
        values = {result["name"]: result[by] for result in self.results}
        self.ratio[f"{slow} / {fast}" + (f" ({by})" if by != "seconds" else "")] = values[slow] / values[fast]


def timed(work: Callable[[], Any]) -> float:
    """Return the seconds of ``work``, until the device has finished too."""
    _synchronise()
    start = time.perf_counter()
    work()
    _synchronise()
    return time.perf_counter() - start


def interleaved(variants: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, float]:
    """Return the median of each variant's seconds.

    A round calls every variant once, and every other round in the opposite order ::

        a b c   c b a   a b c ...

    so a machine that is slow for a while, or warms up, is slow for all variants.

    Args:
        variants: callables that warm up, and return the seconds of what they time.
        rounds: number of rounds.
    """
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    names = list(variants)
    for number in range(rounds):
        for name in names if number % 2 == 0 else reversed(names):
            seconds[name].append(variants[name]())
    return {name: median(values) for name, values in seconds.items()}


def hardware() -> dict[str, Any]:
    """Return the machine that the figures were measured on."""
    return {
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "wait_policy": os.environ.get("OMP_WAIT_POLICY"),  # of threads that wait for each other: docs/performance.md
        "gpu": _gpu(),
        "torch": torch.__version__,
    }


def _gpu() -> str | None:
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return "Apple" if torch.backends.mps.is_available() else None


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _synchronise() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
