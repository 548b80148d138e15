"""Runs in other processes."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HELPERS = ROOT / "tests" / "helpers"


def environment() -> dict[str, str]:
    """Return the environment of a process that uses this clone, whatever is installed, and one thread."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


def until(condition: Callable[[], object], complaint: str, seconds: float = 240) -> None:
    """Wait for the condition."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, complaint
        time.sleep(0.02)


def start(arguments: list[str], processes: int = 1) -> subprocess.Popen[str]:
    """Start ``tools/run_net.py`` in another process, under torchrun for several."""
    launcher = [sys.executable]
    if processes > 1:
        launcher += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    return subprocess.Popen(
        [*launcher, str(ROOT / "tools" / "run_net.py"), *arguments],
        env=environment(),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def run_script(script: Path, *arguments: object, processes: int = 1) -> subprocess.CompletedProcess[str]:
    """Runs a script with its arguments, with torchrun for several processes; returns its exit code and stderr."""
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"] if processes > 1 else []
    process = subprocess.Popen(
        [sys.executable, *launcher, str(script), *map(str, arguments)],
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        _, errors = process.communicate(timeout=240)
    except subprocess.TimeoutExpired:
        process.terminate()  # not kill: torchrun ends its ranks only when it is asked to
        process.communicate(timeout=240)
        raise
    return subprocess.CompletedProcess(process.args, process.returncode, None, errors)
