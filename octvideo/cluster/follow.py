"""Follow a job: its state, what rank 0 prints, and why it failed."""

from __future__ import annotations

import pickle
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import submitit

from octvideo.errors import UserError

__all__ = ["START_MARK", "failure_reason", "follow"]

START_MARK = "octvideo: job starts on"  # printed by the batch script each time that the job starts

# In all other states the job is not over: one that is requeued is COMPLETING, then PENDING.
_ENDED = frozenset(
    "BOOT_FAIL CANCELLED COMPLETED DEADLINE ENDED FAILED NODE_FAIL OUT_OF_MEMORY PREEMPTED REVOKED TIMEOUT".split()
)
_FORGOTTEN = "unknown to SLURM"  # the controller drops a job some minutes after its end
_TASK = re.compile(r"^srun: error: (?P<node>\S+): tasks? (?P<tasks>[\d,-]+): (?P<how>.+)$", re.MULTILINE)
_PAUSE = 1.0  # seconds between reads of the output; SLURM is queried less and less often
_MAX_PAUSE = 15.0
_TIMEOUT = 60.0  # seconds that squeue may take
_PATIENCE = 3600.0  # seconds without an answer of SLURM


@dataclass(frozen=True)
class _State:
    """State of a job: SLURM's name for it, and a detail (a reason, or the nodes)."""

    name: str
    detail: str = ""

    @property
    def ended(self) -> bool:
        return self.name in _ENDED or self.name == _FORGOTTEN


def follow(jobs: Sequence[submitit.Job[int]], tail: bool) -> dict[str, str]:
    """Wait until all jobs have ended; print when one waits, runs or ends.

    It queries SLURM with ``squeue``, which needs no accounting database, unlike submitit's query. The result file of a
    task does not mean that the job is over: a job that SLURM stops and requeues leaves one too.

    Args:
        jobs: of one cluster.
        tail: whether to print what rank 0 of each job prints.

    Returns:
        The last state of each job: ``"COMPLETED"``, ``"FAILED"``, ...

    Raises:
        UserError: SLURM has not answered for an hour.
    """
    tails = [_Tail(job, prefix=f"{job.job_id}: " if len(jobs) > 1 else "") for job in jobs] if tail else []
    known: dict[str, _State] = {}
    pause, queried, answered = _PAUSE, float("-inf"), time.monotonic()
    while True:
        if time.monotonic() - queried >= pause:
            pause, queried = min(1.2 * pause, _MAX_PAUSE), time.monotonic()
            states = _states([job for job in jobs if not _ended(known, job)])
            if states:
                answered = time.monotonic()
            elif time.monotonic() - answered > _PATIENCE:
                raise UserError(
                    f"waited {_PATIENCE / 60:.0f} minutes in vain for an answer of SLURM; the jobs may still run: "
                    f"squeue --jobs={','.join(job.job_id for job in jobs)}"
                )
            for job_id, state in states.items():
                if state != known.get(job_id):
                    print(f"job {job_id}: {state.name} {state.detail}".rstrip(), flush=True)
                known[job_id] = state
        ended = all(_ended(known, job) for job in jobs)
        for each in tails:
            each.show()
        if ended:
            return {job_id: state.name for job_id, state in known.items()}
        time.sleep(_PAUSE)


def _ended(known: dict[str, _State], job: submitit.Job[int]) -> bool:
    return job.job_id in known and known[job.job_id].ended


def _states(jobs: Sequence[submitit.Job[int]]) -> dict[str, _State]:
    """Return the states of the jobs; nothing where SLURM does not answer."""
    job_ids = [job.job_id for job in jobs]
    if not isinstance(jobs[0], submitit.SlurmJob):
        return {job.job_id: _State("ENDED" if job.done() else "RUNNING") for job in jobs}
    command = ["squeue", "--noheader", "--array", "--states=all", "--format=%i|%T|%r|%N", f"--jobs={','.join(job_ids)}"]
    try:
        done = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace", timeout=_TIMEOUT)
    except subprocess.TimeoutExpired:
        return {}
    if done.returncode and "Invalid job id" not in done.stderr:
        return {}
    found = {}
    for line in done.stdout.splitlines():
        job_id, name, reason, nodes = line.split("|")
        found[job_id] = _State(name, f"on {nodes}" if nodes else f"({reason})")
    return {job_id: found.get(job_id, _State(_FORGOTTEN)) for job_id in job_ids}


class _Tail:
    """Prints what rank 0 of a job has printed since the last call of ``show``."""

    def __init__(self, job: submitit.Job[int], prefix: str) -> None:
        self.prefix = prefix
        paths = job.task(0).paths
        self._files: list[tuple[Path, TextIO]] = [(paths.stdout, sys.stdout), (paths.stderr, sys.stderr)]
        self._read_bytes = {path: 0 for path, _ in self._files}

    def show(self) -> None:
        """Print the new lines; an incomplete line follows next time."""
        for path, stream in self._files:
            if not path.is_file():
                continue
            with path.open("rb") as file:
                file.seek(self._read_bytes[path])
                new = file.read()
            new = new[: new.rfind(b"\n") + 1]
            self._read_bytes[path] += len(new)
            for line in new.decode(errors="replace").splitlines():
                print(f"{self.prefix}{line}", file=stream, flush=True)


def failure_reason(job: submitit.Job[int], state: str) -> str | None:
    """Return None for a job that has done its work, else the cause in one line.

    When one task fails, the others fail too: their connections break, or SLURM ends them. ``srun`` names the first.
    """
    results = {task: result for task in range(job.num_tasks) if (result := _result(job.task(task)))}
    if len(results) == job.num_tasks and all(outcome == "success" for outcome, _ in results.values()):
        return None
    errors = {task: str(trace) for task, (outcome, trace) in results.items() if outcome == "error"}
    printed = _since_last_start(job.task(0).paths.stderr)
    first = _TASK.search(printed)
    if first is not None:
        task = int(re.split("[,-]", first["tasks"])[0])
        if first["how"].startswith("Exited") and task in errors:
            # The first to exit may be one whose connection broke because another task failed.
            cause = next((number for number in sorted(errors) if "UserError" in _last_line(errors[number])), task)
            where = f" on {first['node']}" if cause == task else ""
            return f"{_last_line(errors[cause])} (task {cause}{where})"
        return f"{first['how']} (task {task} on {first['node']})"
    if state in ("CANCELLED", "TIMEOUT", "DEADLINE", "PREEMPTED", "NODE_FAIL", "BOOT_FAIL", "OUT_OF_MEMORY"):
        return f"SLURM ended it: {state}"
    if errors:
        # Without srun the earliest result tells which failed first.
        return _last_line(errors[min(errors, key=lambda task: job.task(task).paths.result_pickle.stat().st_mtime)])
    return _last_line(printed) or state


def _result(task: submitit.Job[int]) -> tuple[str, Any] | None:
    """Return the result file of a task: ``("success", 0)`` or ``("error", traceback)``; None where it was killed."""
    try:
        return pickle.loads(task.paths.result_pickle.read_bytes())
    except (OSError, EOFError, pickle.UnpicklingError):
        return None


def _since_last_start(path: Path) -> str:
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    return text[text.rfind(START_MARK) :] if START_MARK in text else text


def _last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1].strip() if lines else ""
