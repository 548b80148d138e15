"""One run at a time in a folder: ``run.lock`` names its owner.

File systems that nodes share have no dependable flock, so the lock is a file that is made exclusively and touched every
20 seconds. Who finds one takes it over at once where its owner is certainly gone, or when it was not touched for two
minutes. Of several who find the same one, only that process does so which makes the file named after it::

    run.lock              {"token": "a", ...}   of an owner that is gone
    run.lock.a            made exclusively by the one that takes over, and looked at again: still "a"?
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

_BEAT = 20.0  # seconds between touches
_STALE = 120.0  # seconds without one
_UNKNOWN = "unknown"  # the token of a lock that cannot be read


class RunLock:
    """The right to write into ``folder``; a context manager, and nothing is written there before it.

    Args:
        folder: is made, and removed again at the end where it is empty.

    Raises:
        UserError: another run is in the folder.
        OSError: it cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / "run.lock"
        self._token = uuid.uuid4().hex
        self._beat = time.time()
        self._lost = False
        self._ended = threading.Event()

    def __enter__(self) -> RunLock:
        folder = self.path.parent
        self._made = [path for path in (folder, *folder.parents) if not path.exists()]
        try:
            while not self._take():
                time.sleep(0.1)
        except BaseException:
            self._remove_folders()
            raise
        self._beat = time.time()
        threading.Thread(target=self._touch, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        with contextlib.suppress(OSError), self._claim(self._token) as claimed:
            if claimed and _read(self.path).get("token") == self._token:
                self.path.unlink()
        self._remove_folders()

    def check(self) -> None:
        """Looks whether the lock is still this run's, where that is in doubt.

        Another run may have taken it after two minutes without a touch: this process was suspended then.

        Raises:
            UserError: it is not, and nothing more may be written.
        """
        if abs(time.time() - self._beat) > _STALE / 2:
            with contextlib.suppress(OSError):  # writing will fail with its own reason
                self._look()
        if self._lost:
            raise UserError(
                f"{self.path}: another run has taken this folder over while this one was suspended, or the file was "
                "removed; this run ends, and writes nothing more"
            )

    def _take(self) -> bool:
        """Whether the lock is now ours; False: look again."""
        record = json.dumps(_describe(self._token)).encode()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            if _create(self.path, record):
                return True
        except FileNotFoundError:  # the run before has just removed the folder
            return False
        owner = _read(self.path)
        if not owner:
            return False
        age = self._clock() - owner["touched"]
        if owner["token"] == _UNKNOWN and age < _BEAT:  # being written
            return False
        if not (_is_gone(owner) or age > _STALE):
            raise UserError(_refusal(self.path, owner, age))
        with self._claim(owner["token"]) as claimed:
            if claimed and _read(self.path).get("token") == owner["token"]:
                write_bytes(self.path, record)
                return True
        return False

    def _clock(self) -> float:
        """The time by the clock of the file system, as touches are: the nodes' clocks may differ."""
        probe = self.path.with_name(f".{self._token}")
        probe.touch()
        try:
            os.utime(probe)
            return probe.stat().st_mtime
        finally:
            probe.unlink()

    @contextlib.contextmanager
    def _claim(self, token: str) -> Any:
        """Whether this process alone may replace or remove the lock of this token."""
        path = self.path.with_name(f"run.lock.{token}")
        if not _create(path, b""):
            with contextlib.suppress(FileNotFoundError):
                if self._clock() - path.stat().st_mtime > _STALE:  # of a process that was killed just here
                    path.unlink()
            yield False
            return
        try:
            yield True
        finally:
            path.unlink(missing_ok=True)

    def _touch(self) -> None:
        while not self._ended.wait(_BEAT):
            with contextlib.suppress(OSError):  # the disk is away for a moment
                self._look()

    def _look(self) -> None:
        if _read(self.path).get("token") != self._token:
            self._lost = not self._ended.is_set()
            return
        os.utime(self.path)
        self._beat = time.time()

    def _remove_folders(self) -> None:
        for path in self._made:
            with contextlib.suppress(OSError):  # the run has left something there
                path.rmdir()


def _create(path: Path, content: bytes) -> bool:
    """Makes a file; False where there is one."""
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
    """What a lock says, and when it was touched; empty where there is none."""
    try:
        with path.open("rb") as file:
            text, touched = file.read(), os.fstat(file.fileno()).st_mtime
    except FileNotFoundError:
        return {}
    try:
        record = json.loads(text)
        record = record if isinstance(record, dict) and isinstance(record.get("token"), str) else {}
    except ValueError:  # being written, or of a process that was killed then
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


def _is_gone(owner: dict[str, Any]) -> bool:
    """Whether the owner has certainly ended: a turn of this SLURM job before its requeueing, or a dead process here."""
    mine = _describe("")
    if mine["job"] and mine["job"] == owner.get("job") and mine["restarts"] > owner.get("restarts", 0):
        return True
    here = (owner.get("host"), owner.get("machine")) == (mine["host"], mine["machine"])
    return here and owner.get("process") != _process(owner["pid"])


def _machine() -> str:
    """The boot of the system and the space of process numbers: containers may share a host's name."""
    with contextlib.suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    return ""


def _process(pid: int) -> str:
    """What tells a process from a later one of the same number; empty where there is none that runs."""
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
        who = "a run that cannot be told"
    else:
        job = f", SLURM job {owner['job']}" if owner.get("job") else ""
        job += f".{owner['step']}" if owner.get("step") else ""
        who = (
            f"process {owner.get('pid')} on {owner.get('host')}{job}, started {owner.get('started')}: "
            f"{owner.get('command')}"
        )
    return (
        f"OUTPUT_DIR {path.parent}: another run is in it ({who}); wait for its end, or choose another OUTPUT_DIR. Its "
        f"last sign of life was {max(0, age):.0f} s ago; after {_STALE:.0f} s a new run takes the folder over"
    )
