"""``submit -- COMMAND`` as processes of this machine, and what it refuses; ``tests/slurm`` uses a real SLURM."""

from __future__ import annotations

import shutil
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from processes import ROOT, environment, until

from octvideo.cli import run
from octvideo.cli.submit import main

TOOLS = ROOT / "data_tools"


@pytest.fixture(scope="module")
def videos(video_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shared") / "videos"
    shutil.copytree(video_folder / "val", folder)
    (folder / "down" / "broken.mp4").write_bytes(b"no video")
    return folder


def submit(*arguments: object, cluster: str = "local", **variables: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "tools" / "submit.py"), "--cluster", cluster, *map(str, arguments)]
    return subprocess.run(command, cwd="/", env={**environment(), **variables}, capture_output=True, text=True)


def alone(*arguments: object) -> None:
    done = subprocess.run([sys.executable, *map(str, arguments)], cwd=ROOT, env=environment(), capture_output=True)
    assert done.returncode == 0, done.stderr


def test_predict_has_the_bytes_of_one_process(videos: Path, checkpoint: Path, tmp_path: Path) -> None:
    words = ["predict", videos, "--checkpoint", checkpoint, "--views", "2"]
    done = submit("--tasks", "2", "--", *words, "--output-jsonl", tmp_path / "tasks.jsonl")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "task 2 of 2: done" in done.stdout and "9 videos, 1 of them could not be predicted" in done.stderr
    alone("-m", "octvideo", *words, "--output-jsonl", tmp_path / "alone.jsonl")
    assert (tmp_path / "tasks.jsonl").read_bytes() == (tmp_path / "alone.jsonl").read_bytes()
    assert (tmp_path / "tasks.jsonl.tasks" / "task_2.log").is_file()


@pytest.mark.full
def test_shards_have_the_bytes_of_one_process(videos: Path, tmp_path: Path) -> None:
    script = TOOLS / "make_shards.py"
    words = [script, "--list", videos, "--max-count", "2", "--output"]
    done = submit("--tasks", "2", "--", *words, tmp_path / "tasks")
    assert done.returncode == 0, done.stdout + done.stderr
    alone(*words, tmp_path / "alone")
    found = [{path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("tasks", "alone")]
    assert found[0] == found[1] and "000004.tar" in found[0]


def test_checks_are_shared(videos: Path, tmp_path: Path) -> None:
    report = tmp_path / "report.csv"
    done = submit("--tasks", "2", "--", "check-videos", videos, "--workers", "1", "--report", report)
    assert done.returncode == 0 and "9 videos checked" in done.stdout and "8 ok, 1 broken" in done.stdout, done.stderr
    assert len(report.read_text().splitlines()) == 10


@pytest.mark.full
def test_stopped_tasks_resume(videos: Path, checkpoint: Path, tmp_path: Path) -> None:
    """SIGTERM ends the tasks too; the same command does the rest."""
    file = tmp_path / "out.jsonl"
    words = [
        "--tasks",
        "2",
        "--at-once",
        "1",
        "--",
        "predict",
        videos,
        "--checkpoint",
        checkpoint,
        "--backend",
        "torch",
    ]
    command = [*map(str, words), "--views", "1", "--workers", "1", "--output-jsonl", str(file)]
    started = [sys.executable, str(ROOT / "tools" / "submit.py"), "--cluster", "local", *command]
    process = subprocess.Popen(started, cwd="/", env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    until(lambda: list(tmp_path.glob("out.jsonl.part-*")), "no task starts")
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 130 and not file.exists()
    done = submit(*command)
    assert done.returncode == 0, done.stderr
    assert len(file.read_bytes().splitlines()) == 9


def test_killed_command_starts_again(tmp_path: Path) -> None:
    """Three times at most: a video that kills each process must not keep a node forever."""
    from octvideo.cluster.commands import run_here

    script = tmp_path / "command.sh"
    script.write_text('echo "$2" >> "$0.log"; [ "$1" = --merge ] && exit 0\nkill -KILL $$\n')
    assert run_here(["sh", str(script)], tasks=1, at_once=1, cpus=1, folder=tmp_path / "logs") == 0
    assert (tmp_path / "command.sh.log").read_text().split() == ["1/1%1"] * 3


def test_script_for_sbatch(videos: Path, checkpoint: Path, tmp_path: Path) -> None:
    """A fake sbatch, as there are no GPUs to request, gets the scripts that submitit writes."""
    sbatch = tmp_path / "bin" / "sbatch"
    sbatch.parent.mkdir()
    sbatch.write_text(f'#!/bin/sh\ncat "$1" >> {tmp_path}/scripts.sh\necho Submitted batch job 4711\n')
    sbatch.chmod(sbatch.stat().st_mode | stat.S_IXUSR)
    sbatch.with_name("srun").symlink_to(sbatch)  # only looked for
    resources = "--tasks 64 --at-once 16 --cpus-per-task 4 --gpus-per-task 1 --partition gpu --timeout 90".split()
    words = ["predict", videos, "--checkpoint", checkpoint, "--output-jsonl", tmp_path / "out.jsonl"]
    path = f"{sbatch.parent}:{environment()['PATH']}"
    done = submit(*resources, "--", *words, cluster="slurm", PATH=path)
    assert done.returncode == 0, done.stderr
    assert "job 4711: 64 tasks, at most 16 at once" in done.stdout
    script = (tmp_path / "scripts.sh").read_text()
    for flag in "array=0-63%16 gpus-per-node=1 cpus-per-task=4 partition=gpu time=90 requeue".split():
        assert f"#SBATCH --{flag}\n" in script
    assert script.count("#SBATCH --dependency=afterany:4711\n") == 1
    assert script.count("gpus-per-node") == 1, "the merge needs no GPU"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run-net", "--cfg", "small.yaml"], "run-net: cannot be shared by tasks"),
        (["data_tools/make_lists.py"], "make_lists.py: cannot be shared by tasks"),
        (["nowhere/make_shards.py"], "nowhere/make_shards.py: no such file"),
        (["predict", "a.mp4"], "predict: give --output-jsonl FILE, which the tasks share"),
        (["check-videos", "folder"], "check-videos: give --report FILE"),
        (["predict", "nowhere.csv", "--output-jsonl", "o.jsonl"], "predict nowhere.csv: no video to predict"),
        (["predict", "a.mp4", "--output-jsonl", "o.jsonl", "--part", "1/2"], "--part and --merge: submit passes these"),
        ([], "no command follows --"),
    ],
)
def test_refusals_are_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, words: list[str], message: str
) -> None:
    monkeypatch.chdir(ROOT)
    assert run(main, ["--tasks", "2", "--cluster", "local", "--", *words]) == 2
    error = capsys.readouterr().err
    assert message in error.splitlines()[-1] and "Traceback" not in error


def test_help_names_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["--", "--help"])
    out = capsys.readouterr().out
    assert end.value.code == 0 and "--tasks N" in out and "kinetics_download.py" in out
