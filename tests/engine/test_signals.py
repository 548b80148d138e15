"""SIGTERM and SIGINT to a whole process group: a checkpoint, an exit code and one line, and nothing left behind."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from processes import ROOT, start
from runs import call, finish, wait_for

PATIENCE = 240  # seconds; guards against a hang alone
LONG = ["NUM_WORKERS", "2", "TRAIN.LOG_EVERY", "1", "TRAIN.CHECKPOINT_EVERY", "100000", "TRAIN.STEPS", "100000"]
EVALUATES = ["TRAIN.EVAL_EVERY", "2", "TRAIN.EVAL_CLIPS", "50", "TRAIN.EVAL_CROPS", "3", "TEST.MAX_VIEWS", "3"]
TESTS = ["TEST.NUM_CLIPS", "50", "TEST.NUM_CROPS", "3", "TEST.MAX_VIEWS", "3"]


class Group:
    """``run_net`` as the leader of a process group, under torchrun for several processes."""

    def __init__(self, arguments: list[str], errors: Path, processes: int = 1) -> None:
        launcher = [sys.executable]
        if processes > 1:
            launcher += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
        self.errors, self.launched = errors, processes > 1
        with errors.open("w") as file:
            self.process = subprocess.Popen(
                [*launcher, str(ROOT / "tools" / "run_net.py"), *arguments],
                env={**os.environ, "OMP_NUM_THREADS": "1"},
                stdout=subprocess.DEVNULL,
                stderr=file,
                start_new_session=True,
            )

    def until(self, *texts: str) -> Group:
        """Wait until the run has printed one of the texts."""
        end = time.monotonic() + PATIENCE
        while not any(text in self.errors.read_text() for text in texts):
            assert self.process.poll() is None and time.monotonic() < end, self.errors.read_text()
            time.sleep(0.02)
        return self

    def members(self) -> list[int]:
        """Return the processes of the run in all groups: torchrun puts each rank into another group."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if str(self.errors) in os.readlink(folder / "fd" / "2"):
                    found.append(int(folder.name))
            except OSError:
                continue
        return found

    def send(self, number: int) -> tuple[int, str]:
        """Send a signal to the group; return exit code and stderr once every process has ended."""
        os.killpg(self.process.pid, number)
        code = self.process.wait(PATIENCE)
        end = time.monotonic() + PATIENCE
        while self.members():
            assert time.monotonic() < end, f"{self.members()} live on"
            time.sleep(0.1)
        return code, self.errors.read_text()


def steps(folder: Path) -> list[int]:
    """Return the steps that have a checkpoint."""
    return sorted(int(path.stem.split("_")[1]) for path in (folder / "checkpoints").glob("step_*.pt"))


def check_stopped_in_training(folder: Path, errors: str) -> int:
    """Return the step that the run stopped at, which must have a complete checkpoint."""
    stopped = re.findall(r"stopped at step (\d+) of", errors)
    assert stopped and "DataLoader worker" not in errors, errors
    newest = folder / "checkpoints" / f"step_{int(stopped[-1]):08d}.pt"
    assert torch.load(newest, weights_only=True)["step"] == int(stopped[-1]) == steps(folder)[-1]
    return int(stopped[-1])


def check_nothing_half_written(folder: Path) -> None:
    assert not [path for path in folder.rglob(".*") if path.is_file()]
    assert not (folder / "run.lock").exists()
    if (folder / "log.jsonl").exists():
        for line in (folder / "log.jsonl").read_text().splitlines():
            json.loads(line)


def test_signal_to_group_loses_no_step(small_run, tmp_path):
    """In training, in an evaluation during training, and in a test."""
    out = tmp_path / "out"
    group = Group(small_run("out", *LONG), tmp_path / "1.txt").until("train 3/")
    code, errors = group.send(signal.SIGTERM)
    assert code == 128 + signal.SIGTERM and "Traceback" not in errors, errors
    first = check_stopped_in_training(out, errors)

    group = Group(small_run("out", *LONG, *EVALUATES), tmp_path / "2.txt").until(f"train {first + 2 - first % 2}/")
    code, errors = group.send(signal.SIGINT)
    assert code == 128 + signal.SIGINT and "Traceback" not in errors, errors
    assert check_stopped_in_training(out, errors) > first
    check_nothing_half_written(out)

    newest = out / "checkpoints" / f"step_{steps(out)[-1]:08d}.pt"
    test = ["TRAIN.ENABLE", "False", "TEST.CHECKPOINT", str(newest), "NUM_WORKERS", "2", *TESTS]
    code, errors = Group(small_run("test", *test), tmp_path / "3.txt").until("test 1/").send(signal.SIGTERM)
    assert code == 128 + signal.SIGTERM and "Traceback" not in errors, errors
    assert errors.rstrip().endswith("stopped in the test; run the same command again to start it anew")
    assert not (tmp_path / "test" / "metrics.json").exists()
    check_nothing_half_written(tmp_path / "test")


@pytest.mark.full
@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_at_any_moment_change_no_weight(small_run, tmp_path, number, processes):
    """A run that is stopped many times at random moments ends with the weights of an undisturbed one."""
    short = ["NUM_WORKERS", "2", "TRAIN.STEPS", "12", "TRAIN.CHECKPOINT_EVERY", "100", "TRAIN.EVAL_EVERY", "3"]
    begun = time.monotonic()
    whole = Group(small_run("whole", *short, *TESTS), tmp_path / "whole.txt", processes).until("training on")
    start = time.monotonic() - begun
    assert whole.process.wait(PATIENCE) == 0, whole.errors.read_text()
    rest = time.monotonic() - begun - start
    random_ = random.Random(f"{number} {processes}")
    stopped = 0
    for turn in range(12):
        group = Group(small_run("out", *short, *TESTS), tmp_path / f"{turn}.txt", processes)
        before = steps(tmp_path / "out")
        longest = start
        if turn % 4:  # else while it starts
            group.until("training on", "nothing is left to train")  # it may have been stopped in the test
            longest = rest / 4
        with contextlib.suppress(subprocess.TimeoutExpired):
            group.process.wait(random_.uniform(0, longest))
        if group.process.poll() is not None:
            assert group.process.returncode == 0, group.errors.read_text()
            break
        code, errors = group.send(number)
        stopped += 1
        if processes == 1:
            # -number: before Python runs the command.
            assert code in (0, 128 + number, -number) and "Traceback" not in errors, errors
        done = [int(step) for step in re.findall(r"train (\d+)/12", errors)]
        if done:
            assert steps(tmp_path / "out")[-1] >= max(done), errors
        assert steps(tmp_path / "out")[-1:] >= before[-1:]
        check_nothing_half_written(tmp_path / "out")
    group = Group(small_run("out", *short, *TESTS), tmp_path / "last.txt", processes)
    assert group.process.wait(PATIENCE) == 0 and stopped, group.errors.read_text()
    ours, theirs = (
        torch.load(tmp_path / name / "checkpoints" / "last.pt", weights_only=True)["model"] for name in ("out", "whole")
    )
    assert all(torch.equal(value, theirs[key]) for key, value in ours.items())


def test_crashed_worker_ends_in_one_line(small_run, tmp_path):
    """It is killed, as by the system when memory runs out."""
    group = Group(small_run("out", *LONG), tmp_path / "1.txt").until("train 1/")
    workers = subprocess.run(["pgrep", "-P", str(group.process.pid)], capture_output=True, text=True).stdout.split()
    assert len(workers) == 2
    os.kill(int(workers[0]), signal.SIGKILL)
    assert group.process.wait(PATIENCE) == 2
    error = group.errors.read_text().splitlines()[-1]
    # PyTorch says "killed by signal" or "exited unexpectedly", by which of two checks sees it first.
    assert error.startswith(f"error: a loader worker crashed (process {workers[0]} ")
    assert "Traceback" not in group.errors.read_text()


def test_suspended_worker_does_not_keep_the_run(small_run, tmp_path):
    group = Group(small_run("out", *LONG), tmp_path / "1.txt").until("train 1/")
    workers = subprocess.run(["pgrep", "-P", str(group.process.pid)], capture_output=True, text=True).stdout.split()
    os.kill(int(workers[0]), signal.SIGSTOP)
    group.process.send_signal(signal.SIGTERM)
    try:
        assert group.process.wait(PATIENCE) == 128 + signal.SIGTERM
        assert not Path(f"/proc/{workers[0]}").exists()
    finally:
        group.process.kill()


def test_sigterm_finishes_step_and_saves(small_run, tmp_path):
    process = start(small_run("out", "TRAIN.STEPS", "5000", "TRAIN.CHECKPOINT_EVERY", "4000"))
    wait_for(tmp_path / "out" / "log.jsonl", process)
    while "train" not in (tmp_path / "out" / "log.jsonl").read_text():
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    code, _, err = finish(process)
    assert code == 128 + signal.SIGTERM and "stopped at step" in err, err
    assert len(list((tmp_path / "out" / "checkpoints").glob("step_*.pt"))) == 1


def test_signal_before_training_ends_at_once(
    small_run: Callable[..., list[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("octvideo.engine.experiment.build_network", lambda *_: signal.raise_signal(signal.SIGINT))
    assert call(small_run("out")) == 128 + signal.SIGINT
    assert capsys.readouterr().err.endswith("stopped by SIGINT; run the same command again\n")
    assert not (tmp_path / "out").exists()


def test_signal_in_last_evaluation_skips_test(
    small_run: Callable[..., list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(scores: torch.Tensor, labels: torch.Tensor, k: int) -> float:
        signal.raise_signal(signal.SIGTERM)
        return 50.0

    more = ["TRAIN.STEPS", "1", "TRAIN.EVAL_EVERY", "1"]
    with monkeypatch.context() as patch:
        patch.setattr("octvideo.engine.train.top_k_accuracy", interrupted)
        assert call(small_run("out", *more)) == 128 + signal.SIGTERM
    assert not (tmp_path / "out" / "metrics.json").exists()
    assert call(small_run("out", *more)) == 0
    assert (tmp_path / "out" / "metrics.json").exists()
