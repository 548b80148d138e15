"""A long command as tasks that share its work: an array job of SLURM with a task that merges, or processes here.

Each task runs the command with ``--part I/N``, the last one with ``--merge``. What a task has done is in the records of
the command (``octvideo.records``), so a task that was stopped anywhere resumes when it starts again.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import IO

import submitit

from octvideo.cluster.slurm import Resources, make_executor, refusals, remove_earlier_result
from octvideo.errors import UserError
from octvideo.parts import Part

__all__ = ["Task", "run_here", "submit_command"]

_ATTEMPTS = 3  # starts of a command that is killed, as where memory runs out for a moment
_GRACE = 10.0  # seconds in which a command ends after SIGTERM; its record does not need them
_KILLS = ("SIGKILL", "SIGSEGV", "SIGBUS", "SIGABRT", "SIGILL", "SIGFPE")  # which no scheduler sends to one process


def with_part(words: Sequence[str], number: int, tasks: int, at_once: int) -> list[str]:
    """Return the command of task ``number``, from 0; that of number ``tasks`` merges."""
    return [*words, "--merge"] if number == tasks else [*words, "--part", str(Part(number + 1, tasks, at_once))]


class Task:
    """What submitit pickles, and calls in the job.

    Args:
        words: the command.
    """

    def __init__(self, words: Sequence[str]) -> None:
        self.words = list(words)

    def __call__(self) -> int:
        """Run the command.

        Raises:
            UserError: it failed.
        """
        environment = submitit.JobEnvironment()
        remove_earlier_result(environment.paths.result_pickle)
        code = _run(self.words, int(os.environ.get("SLURM_CPUS_PER_TASK") or 1))
        if code:
            time.sleep(2)  # a signal that has ended the command may be about to requeue this job
            reason = _last_error(environment.paths.stderr) if code == 2 else f"exit code {code}"
            raise UserError(f"{reason} ({shlex.join(self.words)})")
        return 0

    def checkpoint(self) -> submitit.helpers.DelayedSubmission:
        """Return what runs when the job is requeued: the same."""
        return submitit.helpers.DelayedSubmission(self)


def _last_error(log: Path) -> str:
    """Return the last error that a command has printed."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.is_file() else []
    return next((line.removeprefix("error: ") for line in reversed(lines) if line.startswith("error: ")), str(log))


def _run(words: Sequence[str], cpus: int, output: IO[bytes] | None = None, stop: _Stop | None = None) -> int:
    """Run a command with a number of CPUs; start it again where it was killed. Return its exit code."""
    # The announcement that a job will be stopped goes to all its processes; the one above handles it.
    ignoring = ["sh", "-c", f'trap "" {submitit.JobEnvironment.USR_SIG}; exec "$0" "$@"', *words]
    environment = {"OMP_NUM_THREADS": str(cpus), **os.environ, "SLURM_CPUS_PER_TASK": str(cpus)}
    for attempt in range(1, _ATTEMPTS + 1):
        process = subprocess.Popen(ignoring, env=environment, stdout=output, stderr=output)
        if stop is not None:
            stop.add(process)
        try:
            code = process.wait()
        except BaseException:  # such as that of a requeued job
            _end(process)
            raise
        if code >= 0 or signal.Signals(-code).name not in _KILLS or (stop is not None and stop.asked):
            break
        again = "; it starts again" if attempt < _ATTEMPTS else ""
        print(f"{signal.Signals(-code).name} has ended {shlex.join(words)}{again}", file=sys.stderr, flush=True)
    return code


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(_GRACE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


class _Stop:
    """Ends the processes of ``run_here``, and those that start later."""

    def __init__(self) -> None:
        self.asked = False
        self._processes: list[subprocess.Popen[bytes]] = []
        self._lock = threading.Lock()

    def add(self, process: subprocess.Popen[bytes]) -> None:
        with self._lock:
            self._processes.append(process)
            if self.asked:
                process.terminate()

    def __call__(self) -> None:
        with self._lock:
            self.asked = True
            for process in self._processes:
                process.terminate()


def submit_command(
    words: Sequence[str], tasks: int, at_once: int, resources: Resources, folder: Path
) -> list[submitit.Job[int]]:
    """Submit a command to SLURM: an array job, and a job that merges the results when all of its tasks have ended.

    Args:
        words: the command, which understands ``--part`` and ``--merge``.
        tasks: number of tasks.
        at_once: number of tasks that run at the same time.
        resources: of each task.
        folder: of the jobs' files, on a file system that all nodes share.

    Returns:
        The tasks, and the job that merges.

    Raises:
        UserError: as ``refusals``.
    """
    # On some clusters only jobs that say so are requeued when their node fails.
    more = {"slurm_additional_parameters": {"requeue": True}}
    with refusals(folder, "slurm"):
        executor = make_executor(resources, folder, "slurm", cpus=1, slurm_array_parallelism=at_once, **more)
        with executor.batch():
            jobs = [executor.submit(Task(with_part(words, number, tasks, at_once))) for number in range(tasks)]
        array = jobs[0].job_id.split("_")[0]
        on_cpu = replace(resources, gpus_per_node=0)
        executor = make_executor(on_cpu, folder, "slurm", cpus=1, slurm_dependency=f"afterany:{array}", **more)
        return [*jobs, executor.submit(Task(with_part(words, tasks, tasks, at_once)))]


def run_here(words: Sequence[str], tasks: int, at_once: int, cpus: int, folder: Path) -> int:
    """Run the tasks of a command as processes of this machine, then merge.

    What task I prints is in ``folder/task_I.log``.

    Args:
        words, tasks, at_once: see ``submit_command``.
        cpus: of each task.
        folder: of the logs.

    Returns:
        The exit code of the merge.

    Raises:
        UserError: the folder cannot be written.
    """
    stop = _Stop()

    def run(number: int) -> None:
        log = folder / f"task_{number + 1}.log"
        if stop.asked:
            return
        with log.open("ab") as output:
            code = _run(with_part(words, number, tasks, at_once), cpus, output, stop)
        print(f"task {number + 1} of {tasks}: {f'exit code {code}, see {log}' if code else 'done'}", flush=True)

    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with ThreadPoolExecutor(at_once) as pool:
            try:
                list(pool.map(run, range(tasks)))
            except BaseException:
                stop()
                raise
        return _run(with_part(words, tasks, tasks, at_once), cpus, None, stop)
    except OSError as error:
        raise UserError(f"--folder {folder}: cannot be written ({error.strerror}); choose another one") from None
    finally:
        signal.signal(signal.SIGTERM, before)
