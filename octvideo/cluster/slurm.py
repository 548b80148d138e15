"""A run as a SLURM job, through submitit: ranks from SLURM, and a job that is stopped goes on where it was."""

from __future__ import annotations

import contextlib
import io
import os
import shlex
import shutil
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import submitit
import yaml
from submitit.core.utils import FailedJobError

from octvideo.cluster.follow import TURN
from octvideo.config import CfgNode
from octvideo.config.defaults import get_defaults
from octvideo.engine.ranks import variables
from octvideo.errors import UserError
from octvideo.signals import StopOnSignal, Stopped

__all__ = ["Job", "Resources", "submit"]

_GRACE = 60  # seconds that a step and its checkpoint get once SLURM has announced the end
_SIGNAL_DELAY = 120  # seconds before the end at which SLURM announces it
_MAX_TIMEOUTS = 50  # time limits that a run may reach; submitit's own 3 are few for a training of days


class Job:
    """What submitit pickles, and calls once per task.

    SLURM announces the end of the allotted time, and submitit turns that into a new place in the queue. The run first
    finishes its step and writes a checkpoint; where that takes longer than a minute, it will go on from an older one.

    Args:
        cfg_text: the resolved configuration, as ``cfg.dump()`` writes it.
    """

    def __init__(self, cfg_text: str) -> None:
        self.cfg_text = cfg_text

    def __call__(self) -> int:
        """Trains and tests as one rank.

        Raises:
            RuntimeError: a signal stopped the run, and the job is not requeued.
            UserError: as ``run_experiment``.
        """
        environment = submitit.JobEnvironment()
        _forget_earlier_turn(environment.paths.result_pickle)
        os.environ.update(ranks(environment))
        # Torch takes seconds to import, and is not needed to submit.
        from octvideo.engine.experiment import run_experiment

        cfg = get_defaults()
        cfg.merge_from_other_cfg(CfgNode(yaml.safe_load(self.cfg_text)))
        if int(os.environ.get("SLURM_RESTART_COUNT", "0")):
            cfg.TRAIN.RESUME = True  # False is for the first turn: the checkpoints are now the job's own
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
        """What runs when the job gets its next turn: the same, which goes on from the checkpoints in OUTPUT_DIR."""
        return submitit.helpers.DelayedSubmission(self)


class _StopThenRequeue:
    """Between SLURM's announcement and submitit's handler of it, which ends the process: lets the step finish first."""

    def __init__(self, announcement: signal.Signals) -> None:
        self.asked = False
        self._announcement = announcement
        self._handler: Callable[[int, FrameType | None], Any] = signal.getsignal(announcement)  # type: ignore[assignment]
        signal.signal(announcement, self._note)
        signal.signal(signal.SIGALRM, self.now)

    def _note(self, number: int, frame: FrameType | None) -> None:
        stop = signal.getsignal(signal.SIGTERM)
        if not isinstance(getattr(stop, "__self__", None), StopOnSignal):  # before the run: nothing to finish
            self.now(number, frame)
        elif not self.asked:
            self.asked = True
            signal.alarm(_GRACE)
            signal.raise_signal(signal.SIGTERM)

    def now(self, number: int = 0, frame: FrameType | None = None) -> None:
        """Hands over to submitit, which requeues the job in rank 0; no rank returns."""
        signal.alarm(0)
        self._handler(self._announcement, frame)
        # Other ranks than 0 get here. The job ends with its first task, so rank 0 gets time to requeue it; SLURM then
        # ends this one. An exception would make submitit note that the job has failed.
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        time.sleep(_GRACE)
        sys.exit(1)


def _forget_earlier_turn(result: Path) -> None:
    """A task that was stopped has left its result, or, killed while writing it, a file that submitit stumbles over."""
    for path in (result, result.with_name(f"{result.name}.save_tmp")):
        path.unlink(missing_ok=True)


def ranks(environment: Any) -> dict[str, str]:
    """What ``torch.distributed`` reads, from a submitit.JobEnvironment."""
    return variables(
        environment.global_rank,
        environment.num_tasks,
        environment.local_rank,
        ",".join(environment.hostnames),
        int(environment.raw_job_id),
    )


@dataclass(frozen=True)
class Resources:
    """What is asked of SLURM.

    Attributes:
        nodes: number of nodes.
        gpus_per_node: one task for each; 0: one task a node, on the CPU.
        cpus_per_task: None: the loader's processes and one.
        timeout: minutes.
        partition, qos, account, constraint, mem: as sbatch has them; None: the cluster's default.
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
    """Queues runs that get the same resources, several as one array job.

    The resolved configuration of each is ``JOBID_config.yaml`` in the folder.

    Args:
        cfgs: the runs, each with an OUTPUT_DIR of its own.
        resources: what each of them gets.
        folder: of the jobs' files; on a file system that all nodes see.
        cluster: ``"slurm"``, or ``"local"`` for processes on this machine.

    Raises:
        UserError: there is no SLURM, it refuses the job, or a batch does not divide by the tasks.
    """
    tasks = resources.nodes * max(1, resources.gpus_per_node)
    for cfg in cfgs:
        if cfg.TRAIN.ENABLE and cfg.TRAIN.BATCH_SIZE % tasks:
            raise UserError(f"TRAIN.BATCH_SIZE is {cfg.TRAIN.BATCH_SIZE}: it must be divisible by the {tasks} tasks")
    missing = [tool for tool in ("sbatch", "srun") if shutil.which(tool) is None]
    if cluster == "slurm" and missing:
        raise UserError(f"{missing[0]} is not on the PATH: submit from a SLURM login node, or use --cluster local")
    if cluster == "local" and resources.nodes > 1:
        raise UserError(f"--nodes {resources.nodes}: --cluster local has one node; use --nodes 1")
    # The job imports this package wherever it was submitted from; sbatch hands the environment on.
    root = str(Path(__file__).resolve().parents[2])
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    texts = [cfg.dump() for cfg in cfgs]
    try:
        executor = _executor(resources, folder, cluster, loaders=max(cfg.NUM_WORKERS for cfg in cfgs))
        # Submitit repeats what sbatch has said before it raises it.
        with contextlib.redirect_stderr(io.StringIO()), executor.batch():
            jobs = [executor.submit(Job(text)) for text in texts]
        for job, text in zip(jobs, texts):
            (folder / f"{job.job_id}_config.yaml").write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"--folder {folder}: cannot be written ({error.strerror}); choose another one") from None
    except FailedJobError as error:
        lines = [line.removeprefix("sbatch: error: ") for line in str(error).splitlines() if line.strip()]
        raise UserError(f"sbatch refused the job: {'; '.join(lines)}") from None
    return jobs


def _executor(resources: Resources, folder: Path, cluster: str, loaders: int) -> submitit.AutoExecutor:
    # Python is killed by an announcement that comes before submitit handles it. Ignored, it is followed by SIGTERM.
    announcement = submitit.JobEnvironment.USR_SIG
    python = f'sh -c \'trap "" {announcement}; exec "$0" "$@"\' {shlex.quote(sys.executable)}'
    executor = submitit.AutoExecutor(folder, cluster=cluster, slurm_max_num_timeout=_MAX_TIMEOUTS, slurm_python=python)
    executor.update_parameters(
        name="octvideo",
        nodes=resources.nodes,
        tasks_per_node=max(1, resources.gpus_per_node),
        gpus_per_node=resources.gpus_per_node or None,
        cpus_per_task=resources.cpus_per_task or loaders + 1,
        timeout_min=resources.timeout,
        slurm_partition=resources.partition,
        slurm_qos=resources.qos,
        slurm_account=resources.account,
        slurm_constraint=resources.constraint,
        slurm_mem=resources.mem,
        slurm_signal_delay_s=_SIGNAL_DELAY,
        slurm_setup=[f'echo "{TURN} $SLURM_JOB_NODELIST at $(date +%FT%T)" >&2'],
        # SLURM lets the other tasks of a job live when one fails, and they would wait for it.
        slurm_srun_args=["--kill-on-bad-exit=1"],
    )
    return executor
