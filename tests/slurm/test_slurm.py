"""Runs submitted with ``tools/submit.py`` to a real SLURM: two nodes on this host, gloo on the CPU.

Where SLURM must act during a run, the run's tasks are paused (SIGSTOP) until it has, so that no test depends on the
speed of the machine.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from processes import until
from slurm_cluster import CPUS, NODES, Cluster, sbatch

pytestmark = pytest.mark.slurm

ROOT = Path(__file__).resolve().parents[2]
STEPS = 60  # a run must not end before it is paused, however slow that is
EVERY = 4  # steps between periodic checkpoints
SMALL = (
    "MODEL.BLOCKS [1,1,1,1] MODEL.WIDTH 8 MODEL.NUM_CLASSES 2 MODEL.STEM_KERNEL [1,5,5] MODEL.CONV_AS_2D True "
    "DATA.NUM_FRAMES 4 DATA.SAMPLING_RATE 2 DATA.TRAIN_CROP 32 DATA.TRAIN_SHORT_SIDE [32,40] DATA.TEST_CROP 32 "
    "DATA.TEST_SHORT_SIDE 40 DATA.COLOR_JITTER 0.2 TRAIN.BATCH_SIZE 4 TRAIN.EVAL_EVERY 0 TRAIN.LOG_EVERY 1 "
    "TEST.NUM_CLIPS 1 TEST.NUM_CROPS 1 OCTAVE.ALPHA 0.25 SOLVER.BASE_LR 0.001 NUM_WORKERS 0 DEVICE cpu "
    f"TRAIN.STEPS {STEPS} TRAIN.CHECKPOINT_EVERY {EVERY}"
).split()


class Run:
    """A run on the whole cluster, one task per node, submitted with more options or ``KEY VALUE`` pairs."""

    def __init__(self, cluster: Cluster, videos: Path, output: Path, *more: str) -> None:
        self.cluster, self.output = cluster, output
        data = ["DATA.TRAIN", str(videos / "train"), "DATA.VAL", str(videos / "val"), "OUTPUT_DIR", str(output)]
        size = ["--nodes", str(len(NODES)), "--gpus-per-node", "0", "--cpus-per-task", str(CPUS)]
        self.process = subprocess.Popen(
            [sys.executable, str(ROOT / "tools" / "submit.py"), "--cfg", "small.yaml", *size, *SMALL, *data, *more],
            cwd="/",
            env={**os.environ, **cluster.environment, "OMP_NUM_THREADS": "1"},
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def finish(self, seconds: float = 300) -> tuple[int, str, str]:
        """Exit code, stdout and stderr of the command."""
        out, err = self.process.communicate(timeout=seconds)
        return self.process.returncode, out, err

    @property
    def job(self) -> str:
        """The job's number; the array's, for a sweep."""
        return next((self.output / "slurm").glob("*_config.yaml")).name.split("_")[0]

    @property
    def log(self) -> str:
        """What rank 0 has printed."""
        return (self.output / "slurm" / f"{self.job}_0_log.err").read_text()

    @property
    def steps(self) -> list[int]:
        """The steps that were logged, over all starts of the job."""
        path = self.output / "log.jsonl"
        records = [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
        return [record["step"] for record in records if record["kind"] == "train"]

    def pause_at(self, step: int) -> list[int]:
        """Pause the tasks once the step is done; return the processes, by rank."""
        until(lambda: step in self.steps, f"step {step} is never done")
        tasks = _tasks(self.job)
        assert len(tasks) == len(NODES)
        for task in tasks:
            os.kill(task, signal.SIGSTOP)
        assert max(self.steps) < STEPS, "the run was over before it was paused"
        return tasks

    def weights(self) -> dict[str, torch.Tensor]:
        """Of the trained network."""
        return torch.load(self.output / "checkpoints" / "last.pt", weights_only=True)["model"]

    def show(self) -> str:
        """Return SLURM's description of the job."""
        return self.cluster.run("scontrol", "show", "job", self.job).stdout

    @property
    def minutes(self) -> int:
        """Whole minutes that the job has run."""
        return int(re.search(r"RunTime=00:(\d\d):", self.show())[1])  # type: ignore[index]

    def await_signal(self, number: int) -> None:
        """Wait until SLURM has signalled the task of every node."""
        sent = re.compile(rf"Sent signal {number} to StepId={self.job}\.0")
        logs = [self.cluster.folder / f"slurmd.{node}.log" for node in NODES]
        until(lambda: all(sent.search(log.read_text()) for log in logs), f"SLURM does not send signal {number}")


def _tasks(job: str) -> list[int]:
    """Return the processes that SLURM has started, by rank, without those that they have forked."""
    found: dict[int, tuple[str, int]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            arguments = (folder / "cmdline").read_bytes().split(b"\0")
            environment = (folder / "environ").read_bytes().decode(errors="replace").split("\0")
            parent = int((folder / "stat").read_text().rsplit(")", 1)[1].split()[1])
        except OSError:
            continue
        if b"python" in arguments[0] and b"submitit.core._submit" in arguments and f"SLURM_JOB_ID={job}" in environment:
            rank = next(value for value in environment if value.startswith("SLURM_PROCID="))
            found[int(folder.name)] = rank, parent
    ranks = {int(rank.split("=")[1]): process for process, (rank, parent) in found.items() if parent not in found}
    return [ranks[rank] for rank in sorted(ranks)]


def continue_tasks(tasks: list[int]) -> None:
    """End the pause of ``pause_at``."""
    for task in tasks:
        os.kill(task, signal.SIGCONT)


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    """Whether two state dicts are equal to the bit."""
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@pytest.fixture(scope="session")
def undisturbed(cluster: Cluster, video_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Run to the end."""
    run = Run(cluster, video_folder, tmp_path_factory.mktemp("undisturbed") / "out", "--tail")
    run.ended = run.finish()  # type: ignore[attr-defined]
    return run


def test_two_nodes_train_to_the_end(undisturbed: Run, cluster: Cluster, tmp_path: Path) -> None:
    code, out, err = undisturbed.ended  # type: ignore[attr-defined]
    assert code == 0, out + err
    job = undisturbed.job
    assert f"job {job}: files in {undisturbed.output / 'slurm'}, results in {undisturbed.output}\n" in out
    assert f"job {job}: RUNNING on 127.0.0.[2-3]" in out and f"job {job}: done" in out
    assert "2 process(es) on cpu" in err and f"train {STEPS}/{STEPS}" in err  # --tail
    assert undisturbed.steps == list(range(1, STEPS + 1))
    metrics = json.loads((undisturbed.output / "metrics.json").read_text())
    assert metrics["num_videos"] == 8 and metrics["num_failed"] == 0 and 0 <= metrics["top1"] <= 100
    results = sorted(path.name for path in (undisturbed.output / "slurm").glob("*_result.pkl"))
    assert results == [f"{job}_0_result.pkl", f"{job}_1_result.pkl"]


def test_resume_after_preemption_is_bit_exact(
    cluster: Cluster, undisturbed: Run, video_folder: Path, tmp_path: Path
) -> None:
    run = Run(cluster, video_folder, tmp_path / "out", "--partition", "low", "--wait", "TEST.ENABLE", "False")
    tasks = run.pause_at(EVERY + 1)
    first = ["sbatch", "--partition=high", f"--nodes={len(NODES)}", f"--cpus-per-task={CPUS}", "--output=/dev/null"]
    assert cluster.run(*first, "--wrap=sleep 1").returncode == 0
    run.await_signal(signal.SIGUSR2)
    continue_tasks(tasks)
    code, out, err = run.finish()
    assert code == 0, out + err
    assert "Restarts=1" in run.show()
    # The step in progress was finished and saved, and no step done twice.
    assert run.steps == list(range(1, STEPS + 1)) and "resuming at step" in run.log
    assert equal(run.weights(), undisturbed.weights())


@pytest.mark.full
def test_job_resumes_after_its_time_limit(
    cluster: Cluster, undisturbed: Run, video_folder: Path, tmp_path: Path
) -> None:
    # Up to ten minutes submitit takes any announcement for that of the time limit.
    run = Run(cluster, video_folder, tmp_path / "out", "--timeout", "10", "--wait", "TEST.ENABLE", "False")
    tasks = run.pause_at(EVERY + 1)
    # SLURM announces the end two minutes before, and looks for what is due every half a minute.
    cluster.run("scontrol", "update", f"JobId={run.job}", f"TimeLimit={run.minutes + 2}")
    run.await_signal(signal.SIGUSR2)
    continue_tasks(tasks)
    until(lambda: "Restarts=1" in run.show(), "the job is not requeued")
    cluster.run("scontrol", "update", f"JobId={run.job}", "TimeLimit=30")
    code, out, err = run.finish()
    assert code == 0, out + err
    assert "Job has timed out" in (run.output / "slurm" / f"{run.job}_0_log.out").read_text()
    assert run.steps == list(range(1, STEPS + 1)) and "resuming at step" in run.log
    assert equal(run.weights(), undisturbed.weights())


@pytest.mark.full
def test_requeue_by_administrator_resumes(
    cluster: Cluster, undisturbed: Run, video_folder: Path, tmp_path: Path
) -> None:
    """With TRAIN.RESUME False too, it resumes from the checkpoints of its first start."""
    run = Run(cluster, video_folder, tmp_path / "out", "--wait", "TEST.ENABLE", "False", "TRAIN.RESUME", "False")
    run.pause_at(EVERY + 1)
    cluster.run("scontrol", "requeue", run.job)  # sends SIGCONT and SIGTERM, and SIGKILL after KillWait
    code, out, err = run.finish()
    assert code == 0, out + err
    assert "Restarts=1" in run.show() and "resuming at step" in run.log
    assert equal(run.weights(), undisturbed.weights())


@pytest.mark.full
def test_job_of_killed_task_can_be_requeued(
    cluster: Cluster, undisturbed: Run, video_folder: Path, tmp_path: Path
) -> None:
    run = Run(cluster, video_folder, tmp_path / "out", "--wait", "TEST.ENABLE", "False")
    tasks = run.pause_at(EVERY + 1)
    os.kill(tasks[1], signal.SIGKILL)  # as when memory runs out; rank 0 stays paused and cannot notice
    code, out, err = run.finish(120)  # seconds: a minute, and another one for a busy machine
    assert code == 1, out + err
    assert err == f"error: job {run.job} failed: Killed (task 1 on {NODES[1]}); see {run.output / 'slurm'}\n"
    assert not _tasks(run.job)
    cluster.run("scontrol", "requeue", run.job)
    until(lambda: "JobState=COMPLETED" in run.show(), "the job does not run again")
    assert f"resuming at step {EVERY} " in run.log  # the last periodic checkpoint
    assert equal(run.weights(), undisturbed.weights())


def test_one_failing_rank_names_the_cause(cluster: Cluster, video_folder: Path, tmp_path: Path) -> None:
    """Only rank 0 writes, so only rank 0 fails; the other rank waits for it."""
    folder = tmp_path / "job"
    more = ["--folder", str(folder), "--wait", "OUTPUT_DIR", "/proc/nowhere"]
    code, out, err = Run(cluster, video_folder, tmp_path / "out", *more).finish()
    assert code == 1, out + err
    assert err.count("\n") == 1 and "(task 0" in err
    assert "UserError: OUTPUT_DIR /proc/nowhere: cannot be written" in err and str(folder) in err


@pytest.mark.full
def test_early_announcement_does_not_kill(
    cluster: Cluster, undisturbed: Run, video_folder: Path, tmp_path: Path
) -> None:
    run = Run(cluster, video_folder, tmp_path / "out", "--wait", "TEST.ENABLE", "False")
    until(lambda: bool(list(tmp_path.rglob("*_config.yaml"))), "the job is not submitted")
    until(lambda: len(_tasks(run.job)) == len(NODES), "the tasks do not start")
    tasks = _tasks(run.job)
    for task in tasks:
        os.kill(task, signal.SIGSTOP)
    cluster.run("scancel", "--signal=USR2", run.job)
    run.await_signal(signal.SIGUSR2)
    continue_tasks(tasks)
    code, out, err = run.finish()
    assert code == 0, out + err
    assert equal(run.weights(), undisturbed.weights())


@pytest.mark.full
def test_cancelled_job_is_not_requeued(cluster: Cluster, video_folder: Path, tmp_path: Path) -> None:
    run = Run(cluster, video_folder, tmp_path / "out", "--wait")
    run.pause_at(1)
    cluster.run("scancel", run.job)
    code, out, err = run.finish(120)
    assert code == 1 and err.count("\n") == 1 and "CANCELLED" in err, out + err
    assert "Restarts=0" in run.show()


def test_sweep_is_one_array_job(cluster: Cluster, video_folder: Path, tmp_path: Path) -> None:
    few = ["--nodes", "1", "--cpus-per-task", "1", "--array", "0", "0.5", "TRAIN.STEPS", "2", "TEST.ENABLE", "False"]
    run = Run(cluster, video_folder, tmp_path / "out", "--tail", *few)
    code, out, err = run.finish()
    assert code == 0, out + err
    job = run.job
    for number, alpha in enumerate(("0", "0.5")):
        output = tmp_path / "out" / f"alpha-{alpha}"
        assert f"job {job}_{number}: files in {tmp_path / 'out' / 'slurm'}, results in {output}\n" in out
        assert f"job {job}_{number}: done" in out and f"{job}_{number}: training on 8 videos" in err
        saved = torch.load(output / "checkpoints" / "last.pt", weights_only=True)["config"]
        assert f"ALPHA: {float(alpha)}\n" in saved
    assert f"ArrayJobId={job}" in run.show()


@pytest.mark.full
def test_compare_is_one_array_job(cluster: Cluster, video_folder: Path, tmp_path: Path) -> None:
    data = ["DATA.TRAIN", str(video_folder / "train"), "DATA.VAL", str(video_folder / "val")]
    keys = [*SMALL, *data, "OUTPUT_DIR", str(tmp_path / "out"), "TRAIN.STEPS", "2"]
    keys = [part for pair in zip(keys[::2], keys[1::2]) if pair[0] != "OCTAVE.ALPHA" for part in pair]
    options = ["--alphas", "0", "0.5", "--submit", "--gpus-per-node", "0", "--cpus-per-task", "1", "--wait"]
    command = [sys.executable, "-m", "octvideo", "compare", "--cfg", "small.yaml", *options, *keys]
    environment = {**os.environ, **cluster.environment, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    jobs = re.findall(r"^job (\d+)_(\d+): files in", done.stdout, re.MULTILINE)
    assert len({array for array, _ in jobs}) == 1 and [number for _, number in jobs] == ["0", "1"]
    found = json.loads((tmp_path / "out" / "compare.json").read_text())
    assert [twin["name"] for twin in found["twins"]] == ["0", "0.5"]


def test_tasks_of_srun_are_one_run(cluster: Cluster, undisturbed: Run, video_folder: Path, tmp_path: Path) -> None:
    """``srun`` alone, without submit or torchrun: the same weights."""
    data = ["DATA.TRAIN", str(video_folder / "train"), "DATA.VAL", str(video_folder / "val")]
    more = ["--cfg", "small.yaml", *SMALL, *data, "OUTPUT_DIR", str(tmp_path / "out"), "TEST.ENABLE", "False"]
    srun = ["srun", f"--nodes={len(NODES)}", f"--ntasks={len(NODES)}", f"--cpus-per-task={CPUS}"]
    done = subprocess.run(
        [*srun, sys.executable, str(ROOT / "tools" / "run_net.py"), *more],
        cwd="/",
        env={**os.environ, **cluster.environment, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("2 process(es) on cpu") == 1
    records = [json.loads(line) for line in (tmp_path / "out" / "log.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records if record["kind"] == "train"] == list(range(1, STEPS + 1))
    saved = torch.load(tmp_path / "out" / "checkpoints" / "last.pt", weights_only=True)["model"]
    assert equal(saved, undisturbed.weights())


def test_allocation_is_a_single_process(cluster: Cluster, tmp_path: Path) -> None:
    """Environments that SLURM makes: of tasks, of a batch script, of salloc's shell and of that of srun --pty."""
    script = tmp_path / "place.sh"
    find = "import os; from octvideo.engine.ranks import find_place; print(find_place(os.environ))"
    script.write_text(f"#!/bin/sh\nPYTHONPATH={ROOT} {sys.executable} -c '{find}' 2>&1\n")
    script.chmod(0o755)
    size = [f"--nodes={len(NODES)}", f"--ntasks={len(NODES)}"]
    printed = sorted(cluster.run("srun", *size, str(script)).stdout.splitlines())
    assert [line.split(", local=0, address='127.0.0.2', port=2")[0] for line in printed] == [
        f"Place(rank={rank}, size={len(NODES)}" for rank in range(len(NODES))
    ]
    alone = "Place(rank=0, size=1, local=0, address='', port=0)\n"
    assert cluster.run("salloc", "--quiet", *size, str(script)).stdout == alone
    cluster.run("sbatch", "--wait", *size, f"--output={tmp_path / 'batch.txt'}", str(script))
    assert (tmp_path / "batch.txt").read_text() == alone
    shell = cluster.run("script", "-qec", f"srun --pty {' '.join(size)} {script}", "/dev/null", check=False)
    assert "this is one process in the shell of srun --pty" in shell.stdout, shell.stdout


@pytest.mark.full
@pytest.mark.parametrize("script", ["train.sbatch", "train_torchrun.sbatch"])
def test_example_trains_on_two_nodes(
    cluster: Cluster, undisturbed: Run, video_folder: Path, tmp_path: Path, script: str
) -> None:
    data = ["DATA.TRAIN", str(video_folder / "train"), "DATA.VAL", str(video_folder / "val"), "TEST.ENABLE", "False"]
    size = [f"--nodes={len(NODES)}", "--ntasks-per-node=1", f"--cpus-per-task={CPUS}", "--time=30"]
    words = ["--cfg", "small.yaml", *SMALL, *data, "OUTPUT_DIR", str(tmp_path / "out")]
    job = sbatch(cluster, script, tmp_path, *size, "--", *words)

    def state() -> str:
        return cluster.run("scontrol", "show", "job", job).stdout

    log, weights = tmp_path / "out" / "log.jsonl", tmp_path / "out" / "checkpoints" / "last.pt"
    if script == "train.sbatch":
        until(lambda: log.is_file() and '"step": 3' in log.read_text(), "the run does not start")
        cluster.run("scancel", "--signal=TERM", job)  # as before the time limit
        until(lambda: "Restarts=1" in state(), "the job is not requeued")
    until(lambda: re.search("JobState=(COMPLETED|FAILED)", state()), "the job does not end", 400)
    [output] = tmp_path.glob("octvideo-*.log")
    assert "JobState=COMPLETED" in state(), output.read_text()
    assert "2 process(es) on cpu" in output.read_text()
    assert equal(torch.load(weights, weights_only=True)["model"], undisturbed.weights())


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--partition", "nowhere", "invalid partition"),
        ("--constraint", "h100", "feature"),
        ("--mem", "many", "mem"),
    ],
)
def test_refusal_ends_in_one_line(
    cluster: Cluster, video_folder: Path, tmp_path: Path, option: str, value: str, message: str
) -> None:
    code, out, err = Run(cluster, video_folder, tmp_path / "out", option, value).finish()
    assert code == 2 and not out, out
    assert err.count("\n") == 1 and err.startswith("error: sbatch refused the job: ") and message in err.lower(), err
