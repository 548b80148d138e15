"""One of two ranks fails: the whole job ends and names the cause, in two minutes at most."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from processes import HELPERS, environment

SOON = 120  # seconds; it takes a few
SCRIPT = str(HELPERS / "failing_rank.py")


@pytest.mark.parametrize(
    ("how", "cause"),
    [
        ("raises", "error: the cause of it all"),
        ("SIGKILL", "Signal 9 (SIGKILL)"),
        ("nan", "step 3: the loss is nan at learning rate 0.1"),
    ],
)
def test_torchrun_names_the_cause(tmp_path, how, cause):
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    job = start([*launcher, SCRIPT, str(tmp_path), how])
    errors = ends_soon_after_the_failure(tmp_path, [job])[0]
    assert cause in errors
    if how == "nan":  # of rank 1's half of 8 videos
        assert "video4.mp4, video5.mp4, video6.mp4, video7.mp4\n" in errors


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("SIGKILL", "error: another process of the run has ended: see its message; "),
        ("SIGSTOP", "error: waited 10 s in vain for another process of the run, which hangs or is suspended: "),
    ],
)
def test_remaining_rank_ends_without_launcher(tmp_path, how, message):
    """As on SLURM where nobody ends the other tasks: the remaining rank notices the failure."""
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(20000 + os.getpid() % 20000), "WORLD_SIZE": "2"}
    command = [sys.executable, SCRIPT, str(tmp_path), how]
    jobs = [start(command, **address, RANK=str(rank), LOCAL_RANK=str(rank)) for rank in range(2)]
    try:
        error = ends_soon_after_the_failure(tmp_path, jobs[:1])[0]
    finally:
        jobs[1].kill()
        jobs[1].communicate(timeout=240)
    assert jobs[0].returncode == 2 and error.splitlines()[-1].startswith(message)
    assert "Traceback" not in error


def start(command: list[str], **variables: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command,
        env={**environment(), **variables},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def ends_soon_after_the_failure(folder: Path, jobs: list[subprocess.Popen[str]]) -> list[str]:
    """Return what each job printed on stderr; all must fail."""
    try:
        end = time.monotonic() + 240
        while not (folder / "failed").exists() and time.monotonic() < end:
            assert jobs[0].poll() is None, jobs[0].stderr and jobs[0].stderr.read()
            time.sleep(0.1)
        errors = [job.communicate(timeout=SOON)[1] for job in jobs]
    finally:
        for job in jobs:
            if job.poll() is None:
                job.terminate()  # not kill: torchrun ends its ranks only when it is asked to
                job.communicate(timeout=240)
    assert all(job.returncode not in (0, None) for job in jobs)
    return errors
