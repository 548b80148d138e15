"""Jobs of submitit's local executor, and the script for sbatch; ``tests/slurm`` uses a real SLURM."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import submitit

from octvideo.cli import run
from octvideo.cli.submit import main
from octvideo.cluster.follow import follow
from octvideo.cluster.slurm import Job, task_variables
from octvideo.config import load_cfg
from octvideo.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
SMALL = (
    "MODEL.BLOCKS [1,1,1,1] MODEL.WIDTH 8 MODEL.NUM_CLASSES 2 MODEL.STEM_KERNEL [1,5,5] MODEL.CONV_AS_2D True "
    "DATA.NUM_FRAMES 4 DATA.SAMPLING_RATE 2 DATA.TRAIN_CROP 32 DATA.TRAIN_SHORT_SIDE [32,40] DATA.TEST_CROP 32 "
    "DATA.TEST_SHORT_SIDE 40 TRAIN.BATCH_SIZE 2 TRAIN.STEPS 2 TRAIN.EVAL_EVERY 0 TEST.NUM_CLIPS 1 TEST.NUM_CROPS 1 "
    "OCTAVE.ALPHA 0.25 SOLVER.BASE_LR 0.001 NUM_WORKERS 0 DEVICE cpu"
).split()


def arguments(videos: Path, output: Path, *overrides: str) -> list[str]:
    """Return the arguments of a small run with one CPU task."""
    data = ["DATA.TRAIN", str(videos / "train"), "DATA.VAL", str(videos / "val"), "OUTPUT_DIR", str(output)]
    return ["--cfg", "small.yaml", "--nodes", "1", "--gpus-per-node", "0", *SMALL, *data, *overrides]


def submit(*args: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run ``tools/submit.py`` in another process."""
    command = [sys.executable, str(ROOT / "tools" / "submit.py"), *args]
    variables = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    return subprocess.run(command, cwd="/", env=variables, capture_output=True, text=True)


def test_job_runs_to_the_end(video_folder: Path, tmp_path: Path) -> None:
    done = submit("--cluster", "local", "--wait", *arguments(video_folder, tmp_path / "out"))
    assert done.returncode == 0, done.stdout + done.stderr
    name = done.stdout.split()[1].rstrip(":")
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["num_videos"] == 8
    folder = tmp_path / "out" / "slurm"
    snapshot = load_cfg(folder / f"{name}_config.yaml")
    assert (snapshot.TRAIN.STEPS, snapshot.OUTPUT_DIR) == (2, str(tmp_path / "out"))
    assert "training on 8 videos" in _log(folder, name)


def test_failed_job_names_its_reason(video_folder: Path, tmp_path: Path) -> None:
    broken = arguments(video_folder, tmp_path / "out", "DATA.TRAIN", str(tmp_path / "nowhere"))
    done = submit("--cluster", "local", "--wait", "--folder", str(tmp_path / "job"), *broken)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1 and "nowhere" in done.stderr and str(tmp_path / "job") in done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="finds the job's process in /proc")
def test_preempted_job_finishes_step_and_resumes(video_folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    # More steps than it can do before the signals come.
    every = ["TRAIN.STEPS", "100000", "TRAIN.CHECKPOINT_EVERY", "100000", "TRAIN.LOG_EVERY", "1"]
    # Not through a pipe: the job outlives the command and would keep it open.
    printed = tmp_path / "printed.txt"
    with printed.open("w") as file:
        command = [sys.executable, str(ROOT / "tools" / "submit.py"), "--cluster", "local"]
        subprocess.run([*command, *arguments(video_folder, output, *every)], check=True, stdout=file, stderr=file)
    name = printed.read_text().split()[1].rstrip(":")
    folder = output / "slurm"
    _until(lambda: "train 3/" in _log(folder, name))
    os.kill(_task(name), signal.SIGUSR2)  # as SLURM announces the end
    _until(lambda: "stopped at step" in _log(folder, name))
    stopped = len(_steps(output))
    _until(lambda: len(_steps(output)) > stopped)
    os.kill(_task(name), signal.SIGTERM)  # as when it is cancelled
    result = folder / f"{name}_0_result.pkl"
    _until(result.is_file)
    log = _log(folder, name)
    assert pickle.loads(result.read_bytes())[0] == "error" and "a signal stopped the run" in log, log
    assert log.count("Requeued job") == 1 and f"resuming at step {stopped} " in log, log
    # No step twice: the checkpoint is of the step that the signal came in.
    assert _steps(output) == list(range(1, len(_steps(output)) + 1))


def _task(name: str) -> int:
    """Return the process of a local job's only task: the child of its controller, whose number is the job's."""
    for stat_ in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if stat_.read_text().rsplit(")", 1)[1].split()[1] == name:
                return int(stat_.parent.name)
    raise AssertionError(f"job {name} has no process")


def _log(folder: Path, name: str) -> str:
    return "".join(path.read_text() for path in folder.glob(f"{name}_0_log.*"))


def _steps(output: Path) -> list[int]:
    records = map(json.loads, (output / "log.jsonl").read_text().splitlines())
    return [record["step"] for record in records if record["kind"] == "train"]


def _until(condition: Callable[[], bool], seconds: float = 240) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.1)


def test_silent_slurm_ends_the_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    squeue = tmp_path / "squeue"
    squeue.write_text("#!/bin/sh\nexec sleep 600\n")
    squeue.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr("octvideo.cluster.follow._TIMEOUT", 0.2)
    monkeypatch.setattr("octvideo.cluster.follow._PATIENCE", 2.0)
    job: submitit.SlurmJob[int] = submitit.SlurmJob(tmp_path, "99")
    with pytest.raises(UserError, match="waited 0 minutes in vain for an answer of SLURM; .* squeue --jobs=99$"):
        follow([job], tail=False)


def test_missing_slurm_is_an_error(
    tmp_path: Path, video_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert run(main, arguments(video_folder, tmp_path / "out")) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "sbatch" in error and "--cluster local" in error


def test_batch_must_be_divisible_by_tasks(capsys: pytest.CaptureFixture[str]) -> None:
    task = ["--cfg", "small.yaml", "--nodes", "2", "--gpus-per-node", "4", "--cluster", "local"]
    assert run(main, [*task, "TRAIN.BATCH_SIZE", "12"]) == 2
    assert "12" in (error := capsys.readouterr().err) and "8 tasks" in error
    assert run(main, [*task, "TRAIN.BATCH_SIZE", "16"]) == 2
    assert "--nodes" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("alphas", "message"),
    [
        (["many"], "--alphas many: it must be a number"),
        (["0.5", "0.50"], "must be given once"),
        (["0", "1.5"], "OCTAVE.ALPHA is 1.5"),
        (["0", "OCTAVE.ALPHAS", "0.5"], "unknown key OCTAVE.ALPHAS"),
    ],
)
def test_wrong_alphas_are_errors(
    tmp_path: Path, video_folder: Path, capsys: pytest.CaptureFixture[str], alphas: list[str], message: str
) -> None:
    assert run(main, [*arguments(video_folder, tmp_path / "out"), "--cluster", "local", "--alphas", *alphas]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and message in error


def test_script_for_sbatch(tmp_path: Path, video_folder: Path) -> None:
    """A fake sbatch, as there are no GPUs to request, gets the script that submitit writes."""
    sbatch = tmp_path / "bin" / "sbatch"
    sbatch.parent.mkdir()
    sbatch.write_text(f'#!/bin/sh\ncp "$1" {tmp_path}/script.sh\necho Submitted batch job 4711\n')
    sbatch.chmod(sbatch.stat().st_mode | stat.S_IXUSR)
    sbatch.with_name("srun").symlink_to(sbatch)  # only looked for
    path = f"{sbatch.parent}{os.pathsep}{os.environ['PATH']}"
    asked = ["--nodes", "2", "--gpus-per-node", "4", "--timeout", "90", "--partition", "gpu", "--mem", "64GB"]
    done = submit(*arguments(video_folder, tmp_path / "out", "TRAIN.BATCH_SIZE", "16"), *asked, PATH=path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("job 4711: ")
    script = (tmp_path / "script.sh").read_text()
    for flag in "nodes=2 ntasks-per-node=4 gpus-per-node=4 time=90 partition=gpu mem=64GB cpus-per-task=1".split():
        assert f"#SBATCH --{flag}\n" in script
    assert "#SBATCH --signal=USR2@120\n" in script and " --kill-on-bad-exit=1 " in script
    assert (tmp_path / "out" / "slurm" / "4711_config.yaml").is_file()


def test_ranks_come_from_slurm(monkeypatch: pytest.MonkeyPatch) -> None:
    from submitit.slurm.slurm import SlurmJobEnvironment

    slurm = {"JOB_ID": "4711", "NTASKS": "8", "JOB_NUM_NODES": "2", "NODEID": "1", "PROCID": "6", "LOCALID": "2"}
    for name, value in {**slurm, "JOB_NODELIST": "gpu[07-08]"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    found = task_variables(SlurmJobEnvironment())
    assert found == {
        "RANK": "6",
        "WORLD_SIZE": "8",
        "LOCAL_RANK": "2",
        "MASTER_ADDR": "gpu07",
        "MASTER_PORT": "24711",
    }


def test_requeued_job_is_the_same() -> None:
    job = pickle.loads(pickle.dumps(Job(load_cfg("small.yaml").dump())))
    again = job.checkpoint()
    assert again.function is job and not again.args
