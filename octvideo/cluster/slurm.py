"""A run as a SLURM job, through submitit: ranks from SLURM; a job that is stopped is requeued and resumes."""

from __future__ import annotations

import contextlib
import io
import os
import shlex
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import submitit
import yaml
from submitit.core.utils import FailedJobError

from octvideo.cluster.follow import START_MARK
from octvideo.config import CfgNode
from octvideo.config.defaults import get_defaults
from octvideo.engine.ranks import torchrun_variables
from octvideo.errors import UserError
from octvideo.signals import StopOnSignal, Stopped

__all__ = ["Job", "Resources", "make_executor", "refusals", "remove_earlier_result", "submit"]

_GRACE = 60  # seconds for a step and its checkpoint once SLURM has announced the end
_SIGNAL_DELAY = 120  # seconds before the end at which SLURM announces it
_MAX_TIMEOUTS = 50  # time limits that a run may reach; submitit's default of 3 is too low for a training of days


class Job:
    """What submitit pickles, and calls once per task.

    SLURM announces the end of the allotted time, and submitit requeues the job then. The run first finishes its step
    and writes a checkpoint; if that takes longer than a minute, it resumes from an older one.

    Args:
        cfg_text: the resolved configuration, as ``cfg.dump()`` writes it.
    """

    def __init__(self, cfg_text: str) -> None:
        self.cfg_text = cfg_text

    def __call__(self) -> int:
        """Train and test as one rank.

        Raises:
            RuntimeError: a signal stopped the run, and the job is not requeued.
            UserError: as ``run_experiment``.
        """
        environment = submitit.JobEnvironment()
        remove_earlier_result(environment.paths.result_pickle)
        os.environ.update(task_variables(environment))
        # Torch takes seconds to import, and is not needed to submit.
        from octvideo.engine.experiment import run_experiment

        cfg = get_defaults()
        cfg.merge_from_other_cfg(CfgNode(yaml.safe_load(self.cfg_text)))
        if int(os.environ.get("SLURM_RESTART_COUNT", "0")):
            cfg.TRAIN.RESUME = True  # False is for the first start: the checkpoints are now those of this job
        cfg.freeze()
        requeue = _StopThenRequeue(environment._usr_sig())
        try:
            with StopOnSignal() as signals:
                is_done = run_experiment(cfg, signals)
        except Stopped:
            is_done = False
        if not is_done:
            # All ranks stop with the first one that gets the announcement; this one may be about to get it.
            time.sleep(2)
            if requeue.asked:
                requeue.now()
            raise RuntimeError(f"a signal stopped the run; its messages are above, and in {cfg.OUTPUT_DIR}")
        return 0

    def checkpoint(self) -> submitit.helpers.DelayedSubmission:
        """Return what runs when the job starts again: the same, which resumes from the checkpoints in OUTPUT_DIR."""
        return submitit.helpers.DelayedSubmission(self)


class _StopThenRequeue:
    """Handles SLURM's announcement of the end: lets the step finish before submitit's handler ends the process."""

    def __init__(self, announcement: signal.Signals) -> None:
        self.asked = False
        self._announcement = announcement
        self._handler: Callable[[int, FrameType | None], Any] = signal.getsignal(announcement)  # type: ignore[assignment]
        signal.signal(announcement, self._stop_run)
        signal.signal(signal.SIGALRM, self.now)

    def _stop_run(self, number: int, frame: FrameType | None) -> None:
        stop = signal.getsignal(signal.SIGTERM)
        if not isinstance(getattr(stop, "__self__", None), StopOnSignal):  # before the run: nothing to finish
            self.now(number, frame)
        elif not self.asked:
            self.asked = True
            signal.alarm(_GRACE)
            signal.raise_signal(signal.SIGTERM)

    def now(self, number: int = 0, frame: FrameType | None = None) -> None:
        """Call submitit's handler, which requeues the job in rank 0; it never returns."""
        signal.alarm(0)
        self._handler(self._announcement, frame)
        # Ranks other than 0 get here. The job ends with its first task, so they wait until rank 0 has requeued it and
        # SLURM ends them. An exception would make submitit record that the job has failed.
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        time.sleep(_GRACE)
        sys.exit(1)


def remove_earlier_result(result: Path) -> None:
    """Remove the result that this task left when it was stopped. Submitit fails on one that is partly written."""
    for path in (result, result.with_name(f"{result.name}.save_tmp")):
        path.unlink(missing_ok=True)


def task_variables(environment: Any) -> dict[str, str]:
    """Return the variables that torchrun would set, from a submitit.JobEnvironment."""
    return torchrun_variables(
        environment.global_rank,
        environment.num_tasks,
        environment.local_rank,
        ",".join(environment.hostnames),
        int(environment.raw_job_id),
    )


@dataclass(frozen=True)
class Resources:
    """The resources that a job requests from SLURM.

    Attributes:
        nodes: number of nodes.
        gpus_per_node: each gets a task; 0 for one task per node, on the CPU.
        cpus_per_task: None for one more than the loader's processes.
        timeout: minutes.
        partition, qos, account, constraint, mem: as in sbatch; None for the cluster's default.
    """

    nodes: int = 1
    gpus_per_node: int = 0
    cpus_per_task: int | None = None
    timeout: int = 60
    partition: str | None = None
    qos: str | None = None
    account: str | None = None
    constraint: str | None = None
    mem: str | None = None


def submit(
    cfgs: Sequence[CfgNode], resources: Resources, folder: Path, cluster: str = "slurm"
) -> list[submitit.Job[int]]:
    """Submit runs with the same resources, several as one array job.

    The resolved configuration of each is ``JOBID_config.yaml`` in the folder.

    Args:
        cfgs: the runs, each with a different OUTPUT_DIR.
        resources: of each run.
        folder: of the jobs' files, on a file system that all nodes share.
        cluster: ``"slurm"``, or ``"local"`` for processes on this machine.

    Raises:
        UserError: there is no SLURM, it refuses the job, or a batch is not divisible by the number of tasks.
    """
    tasks = resources.nodes * max(1, resources.gpus_per_node)
    for cfg in cfgs:
        if cfg.TRAIN.ENABLE and cfg.TRAIN.BATCH_SIZE % tasks:
            raise UserError(f"TRAIN.BATCH_SIZE is {cfg.TRAIN.BATCH_SIZE}: it must be divisible by the {tasks} tasks")
    if cluster == "local" and resources.nodes > 1:
        raise UserError(f"--nodes {resources.nodes}: --cluster local has one node; use --nodes 1")
    texts = [cfg.dump() for cfg in cfgs]
    with refusals(folder, cluster):
        loaders = max(cfg.NUM_WORKERS for cfg in cfgs)
        executor = make_executor(resources, folder, cluster, cpus=loaders + 1)
        with executor.batch():
            jobs = [executor.submit(Job(text)) for text in texts]
        for job, text in zip(jobs, texts):
            (folder / f"{job.job_id}_config.yaml").write_text(text, encoding="utf-8")
    return jobs


@contextlib.contextmanager
def refusals(folder: Path, cluster: str) -> Iterator[None]:
    """Turn what prevents a submission into a UserError, and make jobs import this package.

    Raises:
        UserError: there is no SLURM, it refuses the job, or the folder cannot be written.
    """
    missing = [tool for tool in ("sbatch", "srun") if shutil.which(tool) is None]
    if cluster == "slurm" and missing:
        raise UserError(f"{missing[0]} is not on the PATH: submit from a SLURM login node, or use --cluster local")
    # The job must import this package wherever it was submitted from; sbatch passes the environment on.
    root = str(Path(__file__).resolve().parents[2])
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    try:
        # Submitit prints what sbatch has printed, and raises it too.
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    except OSError as error:
        raise UserError(f"--folder {folder}: cannot be written ({error.strerror}); choose another one") from None
    except FailedJobError as error:
        lines = [line.removeprefix("sbatch: error: ") for line in str(error).splitlines() if line.strip()]
        raise UserError(f"sbatch refused the job: {'; '.join(lines)}") from None


def make_executor(resources: Resources, folder: Path, cluster: str, *, cpus: int, **more: Any) -> submitit.AutoExecutor:
    """Return what submits jobs.

    Args:
        resources: of each job.
        folder: of the jobs' files.
        cluster: ``"slurm"`` or ``"local"``.
        cpus: of a task, where ``resources`` does not say it.
        more: further parameters of submitit.
    """
    # An announcement that comes before submitit handles it would kill Python. If it is ignored, SIGTERM follows.
    announcement = submitit.JobEnvironment.USR_SIG
    python = f'sh -c \'trap "" {announcement}; exec "$0" "$@"\' {shlex.quote(sys.executable)}'
    executor = submitit.AutoExecutor(folder, cluster=cluster, slurm_max_num_timeout=_MAX_TIMEOUTS, slurm_python=python)
    executor.update_parameters(
        name="octvideo",
        nodes=resources.nodes,
        tasks_per_node=max(1, resources.gpus_per_node),
        gpus_per_node=resources.gpus_per_node or None,
        cpus_per_task=resources.cpus_per_task or cpus,
        timeout_min=resources.timeout,
        slurm_partition=resources.partition,
        slurm_qos=resources.qos,
        slurm_account=resources.account,
        slurm_constraint=resources.constraint,
        slurm_mem=resources.mem,
        slurm_signal_delay_s=_SIGNAL_DELAY,
        slurm_setup=[f'echo "{START_MARK} $SLURM_JOB_NODELIST at $(date +%FT%T)" >&2'],
        # By default the other tasks continue when one fails, and they would wait for it.
        slurm_srun_args=["--kill-on-bad-exit=1"],
        **more,
    )
    return executor
