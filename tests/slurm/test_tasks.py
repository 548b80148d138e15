"""Long commands as array jobs on a real SLURM: ``submit --tasks N -- COMMAND``."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from processes import ROOT, environment, until
from slurm_cluster import NODES, Cluster, sbatch

pytestmark = pytest.mark.slurm

VIDEOS = 64


@pytest.fixture(scope="module")
def archive(video_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copies of eight videos, and a broken one."""
    folder = tmp_path_factory.mktemp("archive")
    found = sorted((video_folder / "val").rglob("*.mp4"))
    for number in range(VIDEOS - 1):
        shutil.copy(found[number % len(found)], folder / f"video {number:03d}.mp4")
    (folder / "broken.mp4").write_bytes(b"no video")
    return folder


def words(archive: Path, checkpoint: Path, file: Path) -> list[str]:
    options = ["--backend", "torch", "--checkpoint", str(checkpoint), "--views", "2", "--workers", "1"]
    return ["predict", str(archive), *options, "--output-jsonl", str(file)]


@pytest.fixture(scope="module")
def whole(archive: Path, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """What one process writes."""
    file = tmp_path_factory.mktemp("whole") / "whole.jsonl"
    command = [sys.executable, "-m", "octvideo", *words(archive, checkpoint, file)]
    subprocess.run(command, env=environment(), cwd="/", check=True, capture_output=True)
    assert len(file.read_bytes().splitlines()) == VIDEOS
    return file.read_bytes()


def submit(cluster: Cluster, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(ROOT / "tools" / "submit.py"), "--wait", *arguments],
        cwd="/",
        env={**environment(), **cluster.environment},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def commands(file: Path) -> dict[int, int]:
    """Return the processes that predict into ``file``, by part: those that do not read ahead for another one."""
    found: dict[int, tuple[int, int]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            arguments = (folder / "cmdline").read_bytes().decode(errors="replace").split("\0")
            parent = int((folder / "stat").read_text().rsplit(")", 1)[1].split()[1])
        except OSError:
            continue
        if "python" in arguments[0] and str(file) in arguments and "--part" in arguments:
            found[int(folder.name)] = int(arguments[arguments.index("--part") + 1].split("/")[0]), parent
    return {part: process for process, (part, parent) in found.items() if parent not in found}


def test_array_merges_in_order(cluster: Cluster, archive: Path, checkpoint: Path, whole: bytes, tmp_path: Path) -> None:
    file = tmp_path / "out.jsonl"
    process = submit(cluster, "--tasks", "3", "--at-once", "2", "--", *words(archive, checkpoint, file))
    out, err = process.communicate(timeout=400)
    assert process.returncode == 0, out + err
    assert file.read_bytes() == whole
    array, merge = re.findall(r"^job (\d+): ", out, re.MULTILINE)[:2]
    folder = tmp_path / "out.jsonl.tasks"
    script = next(folder.glob(f"{array}*_submission.sh")).read_text()
    assert "#SBATCH --array=0-2%2\n" in script and "#SBATCH --requeue\n" in script
    assert f"#SBATCH --dependency=afterany:{array}\n" in (folder / f"{merge}_submission.sh").read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.jsonl", "out.jsonl.tasks"]
    assert "part 2 of 3 is done" in (folder / f"{array}_1_0_log.err").read_text()


@pytest.mark.full
def test_nothing_is_lost_or_twice(
    cluster: Cluster, archive: Path, checkpoint: Path, whole: bytes, tmp_path: Path
) -> None:
    """Two nodes, eight tasks: one is killed, one preempted, and a node goes down with two of them and comes back."""
    file = tmp_path / "out.jsonl"
    arguments = ["--tasks", "8", "--partition", "low", "--", *words(archive, checkpoint, file)]
    process = submit(cluster, *arguments)

    def record(part: int) -> list[str]:
        path = tmp_path / f"out.jsonl.part-{part}-of-8"
        return path.read_text().splitlines() if path.exists() else []

    def restarts(task: str) -> int:
        return int(re.search(r"Restarts=(\d+)", cluster.run("scontrol", "show", "job", task).stdout)[1])  # type: ignore[index]

    def tasks(*more: str) -> dict[str, str]:
        rows = cluster.run("squeue", "--noheader", "--states=R", "--format=%i %N", *more).stdout.splitlines()
        return dict(row.split() for row in rows if "_" in row.split()[0])

    until(lambda: len(commands(file)) == 4 and all(map(record, commands(file))), "no four tasks begin to predict")
    running = commands(file)
    for each in running.values():
        os.kill(each, signal.SIGSTOP)
    assert all(record(part) for part in running)
    where = tasks()
    assert len(where) == 4 and set(where.values()) == set(NODES), where

    first = next(iter(running))
    os.kill(running[first], signal.SIGKILL)
    until(
        lambda: commands(file).get(first, running[first]) != running[first], "the killed command is not started again"
    )

    high = ["sbatch", "--partition=high", "--nodes=1", "--cpus-per-task=1", "--output=/dev/null", "--wrap=sleep 1"]
    assert cluster.run(*high).returncode == 0
    until(lambda: any(restarts(task) for task in where), "no task is preempted")

    node = NODES[1]
    lost = [task for task in tasks("--nodelist", node) if task in where]
    before = {task: restarts(task) for task in lost}
    cluster.run("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=test")
    until(lambda: all(restarts(task) > before[task] for task in lost), "the tasks of the lost node are not requeued")
    for each in commands(file).values():
        os.kill(each, signal.SIGCONT)
    cluster.run("scontrol", "update", f"NodeName={node}", "State=RESUME", check=False)  # it may be back already

    out, err = process.communicate(timeout=500)
    assert process.returncode == 0, out + err
    assert file.read_bytes() == whole
    assert lost and sum(restarts(task) for task in where) > len(lost), "one was preempted, and those of a node requeued"
    names = [json.loads(line)["video"] for line in file.read_text().splitlines()]
    assert len(names) == len(set(names)) == VIDEOS


@pytest.mark.full
def test_lost_task_is_named_and_done_again(
    cluster: Cluster, archive: Path, checkpoint: Path, whole: bytes, tmp_path: Path
) -> None:
    """The task itself is killed, not only its command: SLURM does not requeue it, and nothing is merged."""
    file = tmp_path / "out.jsonl"
    process = submit(cluster, "--tasks", "3", "--", *words(archive, checkpoint, file))
    until(lambda: len(commands(file)) == 3, "the tasks do not start")
    command = commands(file)[2]
    os.kill(command, signal.SIGSTOP)
    os.kill(int(Path(f"/proc/{command}/stat").read_text().rsplit(")", 1)[1].split()[1]), signal.SIGKILL)
    os.kill(command, signal.SIGKILL)
    out, err = process.communicate(timeout=400)
    assert process.returncode == 1 and not file.exists(), out + err
    assert "_1 failed: Killed" in err and f"{file}: " in err and "have no result yet" in err
    folder = tmp_path / "out.jsonl.tasks"
    again = submit(cluster, "--tasks", "2", "--", *words(archive, checkpoint, file))
    out, err = again.communicate(timeout=400)
    assert again.returncode == 0, out + err
    assert file.read_bytes() == whole and sorted(tmp_path.iterdir()) == [file, folder]


@pytest.mark.full
def test_example_predicts_without_submit(
    cluster: Cluster, archive: Path, checkpoint: Path, whole: bytes, tmp_path: Path
) -> None:
    file = tmp_path / "out.jsonl"
    _, *arguments = words(archive, checkpoint, file)
    job = sbatch(cluster, "predict.sbatch", tmp_path, "--array=1-3%2", "--cpus-per-task=1", "--", *arguments)
    parts = [tmp_path / f"out.jsonl.part-{number}-of-3" for number in (1, 2, 3)]
    until(lambda: parts[0].exists(), "the first task does not start")
    cluster.run("scancel", "--signal=USR2", "--batch", f"{job}_1")  # as before the time limit
    until(lambda: "Restarts=1" in cluster.run("scontrol", "show", "job", f"{job}_1").stdout, "it is not requeued")
    until(
        lambda: cluster.run("squeue", "--noheader", f"--jobs={job}", check=False).stdout == "", "the tasks do not end"
    )
    merge = [sys.executable, "-m", "octvideo", "predict", *arguments, "--merge"]
    done = subprocess.run(merge, env=environment(), cwd="/", capture_output=True, text=True)
    assert done.returncode == 0, done.stderr + "".join(path.read_text() for path in tmp_path.glob("*.log"))
    assert file.read_bytes() == whole
