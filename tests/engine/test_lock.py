"""One run in a folder: who gets the lock, and what the others print."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from processes import ROOT

from octvideo.engine.lock import RunLock
from octvideo.errors import UserError

PATIENCE = 240  # seconds; guards against a hang alone
_OWNER = """
import sys, time
from pathlib import Path
from octvideo.engine.lock import RunLock
from octvideo.errors import UserError
while len(sys.argv) > 2 and not Path(sys.argv[2]).exists():
    time.sleep(0.001)
try:
    with RunLock(Path(sys.argv[1])):
        print("mine", flush=True)
        sys.stdin.read()
except UserError as error:
    print(error, flush=True)
"""


class Owner:
    """A process that has the lock of a folder until ``end``; ``answer`` is its first line."""

    def __init__(self, folder: Path, *begin: Path, **environment: str) -> None:
        plain = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
        self.process = subprocess.Popen(
            [sys.executable, "-c", _OWNER, str(folder), *map(str, begin)],
            env={**plain, "PYTHONPATH": str(ROOT), **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    @property
    def answer(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def end(self) -> None:
        self.process.communicate(timeout=PATIENCE)

    def kill(self) -> None:
        self.process.kill()
        self.end()


@pytest.fixture(autouse=True)
def _no_slurm(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("SLURM_"):
            monkeypatch.delenv(name)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "runs" / "out"


@pytest.fixture
def owner(folder: Path) -> Iterator[Owner]:
    """A process that holds the lock."""
    owner = Owner(folder)
    assert owner.answer == "mine"
    yield owner
    owner.process.send_signal(signal.SIGCONT)
    owner.kill()


def change(folder: Path, **values: object) -> None:
    """Change what the lock records of its owner."""
    path = folder / "run.lock"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def age(folder: Path, seconds: float) -> None:
    """Make the last touch ``seconds`` old."""
    then = time.time() - seconds
    os.utime(folder / "run.lock", (then, then))


def taken(folder: Path) -> bool:
    """Whether this process gets the lock, which it then releases."""
    try:
        with RunLock(folder):
            return True
    except UserError:
        return False


def test_lock_and_empty_folders_are_removed(tmp_path, folder):
    with pytest.raises(ZeroDivisionError), RunLock(folder):
        assert [path.name for path in folder.iterdir()] == ["run.lock"]
        raise ZeroDivisionError
    assert not list(tmp_path.iterdir())
    with RunLock(folder):
        (folder / "config.yaml").touch()
    assert [path.name for path in folder.iterdir()] == ["config.yaml"]


def test_second_run_is_refused(folder, owner):
    before = (folder / "run.lock").read_bytes()
    with (
        pytest.raises(UserError, match=f"another run is in it .process {owner.process.pid} on ") as error,
        RunLock(folder),
    ):
        pass
    assert socket.gethostname() in str(error.value) and f"-c {folder}" in str(error.value)
    assert "\n" not in str(error.value)
    assert [path.name for path in folder.iterdir()] == ["run.lock"] and (folder / "run.lock").read_bytes() == before
    owner.end()
    assert not folder.exists() and taken(folder)


def test_lock_of_dead_process_is_free(folder, owner):
    owner.process.kill()  # not reaped: a zombie
    while Path(f"/proc/{owner.process.pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
        time.sleep(0.01)
    assert taken(folder)


def test_reused_process_number_is_free(folder, owner):
    change(folder, process=f"{owner.process.pid} since 1")
    assert taken(folder)


@pytest.mark.parametrize("other", [{"host": "elsewhere"}, {"machine": "a container"}])
def test_lock_of_other_host_needs_two_minutes(folder, owner, other):
    owner.kill()
    change(folder, **other)
    assert not taken(folder)
    age(folder, 100)
    assert not taken(folder)
    age(folder, 130)
    assert taken(folder)


def test_suspended_owner_loses_the_lock(folder, monkeypatch):
    with RunLock(folder) as lock:
        (folder / "log.jsonl").touch()
        lock.check()
        age(folder, 130)
        other = Owner(folder)
        assert other.answer == "mine"
        monkeypatch.setattr(lock, "_touched", time.time() - 130)
        with pytest.raises(UserError, match="run.lock: another run has taken this folder over"):
            lock.check()
    assert (folder / "run.lock").exists(), "it is the other's"
    other.end()
    assert [path.name for path in folder.iterdir()] == ["log.jsonl"]


def test_lock_that_cannot_be_taken_is_an_error(folder, monkeypatch):
    monkeypatch.setattr("octvideo.engine.lock._PATIENCE", 1.0)
    folder.mkdir(parents=True)
    (folder / "run.lock").symlink_to(folder / "nowhere")  # exists, and cannot be read
    with (
        pytest.raises(UserError, match="run.lock: waited 1 s in vain to take this lock over; if no run"),
        RunLock(folder),
    ):
        pass


def test_owner_touches_its_lock(folder, monkeypatch):
    monkeypatch.setattr("octvideo.engine.lock.TOUCH_INTERVAL", 0.05)
    with RunLock(folder):
        age(folder, 1000)
        end = time.monotonic() + PATIENCE
        while time.time() - (folder / "run.lock").stat().st_mtime > 500:
            assert time.monotonic() < end
            time.sleep(0.05)


def test_requeued_job_takes_over_at_once(folder, monkeypatch):
    job = {"SLURM_JOB_ID": "99", "SLURM_STEP_ID": "0"}
    owner = Owner(folder, **job)
    assert owner.answer == "mine"
    owner.kill()
    change(folder, host="elsewhere")
    for name, value in {**job, "SLURM_RESTART_COUNT": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("SLURM_JOB_ID", "98")
    assert not taken(folder)
    monkeypatch.setenv("SLURM_JOB_ID", "99")
    assert taken(folder)


def test_two_live_steps_of_a_job_are_two_runs(folder):
    first, second = Owner(folder, SLURM_JOB_ID="99", SLURM_STEP_ID="0"), None
    assert first.answer == "mine"
    second = Owner(folder, SLURM_JOB_ID="99", SLURM_STEP_ID="1")
    assert "SLURM job 99.0, started" in second.answer
    second.end()
    first.end()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"token": 3}'])
def test_unreadable_lock_is_free_when_stale(folder, content):
    folder.mkdir(parents=True)
    (folder / "run.lock").write_text(content)
    age(folder, 60)
    assert not taken(folder)
    age(folder, 130)
    assert taken(folder)


@pytest.mark.parametrize("left", [True, False])
def test_one_of_many_gets_the_lock(tmp_path, folder, left):
    """A new lock, and one that a dead process has left."""
    if left:
        owner = Owner(folder)
        assert owner.answer == "mine"
        owner.kill()
    begin = tmp_path / "begin"
    racers = [Owner(folder, begin) for _ in range(8)]
    begin.touch()
    answers = [racer.answer for racer in racers]
    assert answers.count("mine") == 1 and sum("another run is in it" in line for line in answers) == 7, answers
    for racer in racers:
        racer.end()
    assert not list(folder.parent.rglob("*.*"))
