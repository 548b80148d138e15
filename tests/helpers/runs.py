"""Runs in this process or in scripts, and what they leave."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path
from typing import Any

import torch
from processes import HELPERS, run_script

from octvideo.cli import run
from octvideo.cli.run_net import main

# Keys of augmentation, mixing and accumulation, each with a value that switches it on.
EVERYTHING = [
    *("DATA.SAMPLING", "pyslowfast", "DATA.RANDOM_RESIZED_CROP", "[0.3,1.0,0.75,1.3333]", "DATA.REPEATS", "2"),
    *("DATA.RANDAUGMENT", "[2,9]", "DATA.RANDOM_ERASING", "0.5", "TRAIN.MIXUP", "0.8", "TRAIN.CUTMIX", "1.0"),
    *("TRAIN.LABEL_SMOOTHING", "0.1", "TRAIN.ACCUMULATE", "2", "TEST.ENABLE", "False"),
]  # fmt: skip


def call(arguments: list[str]) -> int:
    """Run ``run_net`` in this process with one thread, and return its exit code."""
    torch.set_num_threads(1)
    return run(main, arguments)


def weights(folder: Path, name: str = "last.pt") -> dict[str, torch.Tensor]:
    """Return the weights in a checkpoint of a run."""
    return torch.load(folder / "checkpoints" / name, weights_only=True)["model"]


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    """Whether two state dicts are equal to the bit."""
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def log_lines(folder: Path, kind: str) -> list[dict[str, Any]]:
    """Return the lines of one kind in the log of a run."""
    lines = map(json.loads, (folder / "log.jsonl").read_text().splitlines())
    return [line for line in lines if line["kind"] == kind]


def metrics(folder: Path) -> dict[str, Any]:
    """Return what a test has measured."""
    return json.loads((folder / "metrics.json").read_text(encoding="utf-8"))


def finish(process: subprocess.Popen[str], timeout: float = 240) -> tuple[int, str, str]:
    """Wait for a process, and return its exit code, stdout and stderr."""
    out, err = process.communicate(timeout=timeout)
    return process.returncode, out, err


def wait_for(path: Path, process: subprocess.Popen[str], timeout: float = 240) -> None:
    """Wait until a running process has made a file."""
    end = time.monotonic() + timeout
    while not path.exists():
        assert process.poll() is None and time.monotonic() < end, process.stderr and process.stderr.read()
        time.sleep(0.02)


def script_result(name: str, out: Path, *arguments: str, processes: int = 1) -> dict[str, Any]:
    """Run a helper script that saves a result to ``out``, and return the result."""
    done = run_script(HELPERS / name, out, *arguments, processes=processes)
    assert done.returncode == 0, done.stderr
    return torch.load(out, weights_only=True)
