"""One run at a time in a folder: ``run.lock`` names its owner.

Shared file systems have no dependable flock. So the lock is a file that is created exclusively and touched every 20
seconds. A process that finds a lock takes it over at once if its owner is certainly dead, else after two minutes
without a touch. If several processes find the same lock, only one of them takes it: the one that creates the claim
file, which is named after the lock's token::

    run.lock              {"token": "a", ...}   of a dead owner
    run.lock.a            created exclusively by the one that takes over; then run.lock is read again: still "a"?
    run.lock              {"token": "b", ...}   replaced as a whole; run.lock.a is removed
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import socket
import sys
import threading
import time
import uuid
from pathlib import Path
from typing import Any

from octvideo.errors import UserError
from octvideo.files import write_bytes

__all__ = ["RunLock"]

TOUCH_INTERVAL = 20.0  # seconds
_STALE = 120.0  # seconds without a touch
_PATIENCE = 2 * _STALE  # seconds to get a lock that is free: another process that takes it over may have been killed
_UNKNOWN = "unknown"  # the token of a lock that cannot be read


class RunLock:
    """The right to write into ``folder``; a context manager, within which alone anything is written there.

    Args:
        folder: is made, and removed at the end if it is empty.

    Raises:
        UserError: another run is in the folder, or the lock cannot be taken.
        OSError: it cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / "run.lock"
        self._token = uuid.uuid4().hex
        self._touched = time.time()
        self._lost = False
        self._ended = threading.Event()

    def __enter__(self) -> RunLock:
        folder = self.path.parent
        self._made = [path for path in (folder, *folder.parents) if not path.exists()]
        try:
            end = time.monotonic() + _PATIENCE
            while not self._take():
                if time.monotonic() > end:
                    raise UserError(
                        f"{self.path}: waited {_PATIENCE:.0f} s in vain to take this lock over; if no run is in the "
                        "folder, remove the files run.lock*"
                    )
                time.sleep(0.1)
        except BaseException:
            self._remove_folders()
            raise
        self._touched = time.time()
        threading.Thread(target=self._keep_touching, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        with contextlib.suppress(OSError), self._claim(self._token) as claimed:
            if claimed and _read(self.path).get("token") == self._token:
                self.path.unlink()
        self._remove_folders()

    def check(self) -> None:
        """Check that the lock is still this run's; it reads the file only after a minute without a touch.

        Another run may have taken it after two minutes without a touch, while this process was suspended.

        Raises:
            UserError: the lock is lost, and nothing more may be written.
        """
        if abs(time.time() - self._touched) > _STALE / 2:
            with contextlib.suppress(OSError):  # writing will fail with its own reason
                self._touch()
        if self._lost:
            raise UserError(
                f"{self.path}: another run has taken this folder over while this one was suspended, or the file was "
                "removed; this run stops and writes nothing more"
            )

    def _take(self) -> bool:
        """Try once to get the lock; return False where it is worth another try."""
        record = json.dumps(_describe(self._token)).encode()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            if _create(self.path, record):
                return True
        except FileNotFoundError:  # the earlier run has just removed the folder
            return False
        owner = _read(self.path)
        if not owner:
            return False
        age = self._clock() - owner["touched"]
        if owner["token"] == _UNKNOWN and age < TOUCH_INTERVAL:  # being written
            return False
        if not (_is_dead(owner) or age > _STALE):
            raise UserError(_refusal(self.path, owner, age))
        with self._claim(owner["token"]) as claimed:
            if claimed and _read(self.path).get("token") == owner["token"]:
                write_bytes(self.path, record)
                return True
        return False

    def _clock(self) -> float:
        """Return the time by the clock of the file system, which touches have: the nodes' clocks may differ."""
        probe = self.path.with_name(f".{self._token}")
        probe.touch()
        try:
            os.utime(probe)
            return probe.stat().st_mtime
        finally:
            probe.unlink()

    @contextlib.contextmanager
    def _claim(self, token: str) -> Any:
        """Yield whether this process alone may replace or remove the lock with this token."""
        path = self.path.with_name(f"run.lock.{token}")
        if not _create(path, b""):
            with contextlib.suppress(FileNotFoundError):
                if self._clock() - path.stat().st_mtime > _STALE:  # of a process that was killed at this point
                    path.unlink()
            yield False
            return
        try:
            yield True
        finally:
            path.unlink(missing_ok=True)

    def _keep_touching(self) -> None:
        while not self._ended.wait(TOUCH_INTERVAL):
            with contextlib.suppress(OSError):  # the disk may be unreachable for a moment
                self._touch()

    def _touch(self) -> None:
        """Touch the lock, or note that it is lost."""
        if _read(self.path).get("token") != self._token:
            self._lost = not self._ended.is_set()
            return
        os.utime(self.path)
        self._touched = time.time()

    def _remove_folders(self) -> None:
        for path in self._made:
            with contextlib.suppress(OSError):  # it has files of the run
                path.rmdir()


def _create(path: Path, content: bytes) -> bool:
    """Create a file; return False where it exists."""
    try:
        file = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
    except FileExistsError:
        return False
    try:
        os.write(file, content)
    except OSError:  # the disk is full
        path.unlink()
        raise
    finally:
        os.close(file)
    return True


def _read(path: Path) -> dict[str, Any]:
    """Return the content of a lock and when it was touched; empty where there is none."""
    try:
        with path.open("rb") as file:
            text, touched = file.read(), os.fstat(file.fileno()).st_mtime
    except FileNotFoundError:
        return {}
    try:
        record = json.loads(text)
        record = record if isinstance(record, dict) and isinstance(record.get("token"), str) else {}
    except ValueError:  # being written, or of a process that was killed while writing
        record = {}
    return {"token": _UNKNOWN, **record, "touched": touched}


def _describe(token: str) -> dict[str, Any]:
    job = os.environ.get("SLURM_JOB_ID", "")
    return {
        "token": token,
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "process": _process(os.getpid()),
        "machine": _machine(),
        "job": job,
        "step": os.environ.get("SLURM_STEP_ID", "") if job else "",
        "restarts": int(os.environ.get("SLURM_RESTART_COUNT") or 0) if job else 0,
        "started": time.strftime("%Y-%m-%d %H:%M:%S %z"),
        "command": shlex.join(sys.argv),
    }


def _is_dead(owner: dict[str, Any]) -> bool:
    """Whether the owner has certainly ended: this SLURM job before it was requeued, or a dead process of this host."""
    mine = _describe("")
    if mine["job"] and mine["job"] == owner.get("job") and mine["restarts"] > owner.get("restarts", 0):
        return True
    here = (owner.get("host"), owner.get("machine")) == (mine["host"], mine["machine"])
    return here and owner.get("process") != _process(owner["pid"])


def _machine() -> str:
    """Identify the boot of the system and the PID namespace: containers may share a host's name."""
    with contextlib.suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    return ""


def _process(pid: int) -> str:
    """Identify a running process by number and start time, as numbers are reused; empty where there is none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        return "" if fields[0] in "ZX" else f"{pid} since {fields[19]}"
    except OSError:
        pass
    if Path("/proc/self/stat").exists():
        return ""
    try:
        os.kill(pid, 0)
    except OSError:
        return ""
    return str(pid)


def _refusal(path: Path, owner: dict[str, Any], age: float) -> str:
    if owner["token"] == _UNKNOWN:
        who = "its run.lock cannot be read"
    else:
        job = f", SLURM job {owner['job']}" if owner.get("job") else ""
        job += f".{owner['step']}" if owner.get("step") else ""
        who = (
            f"process {owner.get('pid')} on {owner.get('host')}{job}, started {owner.get('started')}: "
            f"{owner.get('command')}"
        )
    return (
        f"OUTPUT_DIR {path.parent}: another run is in it ({who}); wait for its end, or choose another OUTPUT_DIR. It "
        f"touched the lock {max(0, age):.0f} s ago; after {_STALE:.0f} s a new run takes the folder over"
    )
