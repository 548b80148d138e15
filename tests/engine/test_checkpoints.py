"""Checkpoint files: kept, broken, and not written."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from runs import call, equal, weights

from octvideo.engine.checkpoints import CHECKPOINT_KEYS, newest_checkpoint, prune, save_checkpoint, step_path
from octvideo.errors import UserError

_SHORT = ["TRAIN.STEPS", "2", "TRAIN.CHECKPOINT_EVERY", "1", "TEST.ENABLE", "False"]


def test_newest_readable_checkpoint_is_found(tmp_path):
    messages: list[str] = []
    assert newest_checkpoint(tmp_path, messages.append) is None
    for step in (9, 10, 100):
        save_checkpoint({**dict.fromkeys(CHECKPOINT_KEYS), "step": step}, step_path(tmp_path, step))
    prune(tmp_path, 100, 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step_00000010.pt", "step_00000100.pt"]
    assert newest_checkpoint(tmp_path, messages.append)["step"] == 100 and not messages
    step_path(tmp_path, 100).write_bytes(b"")
    assert newest_checkpoint(tmp_path, messages.append)["step"] == 10
    (warning,) = messages
    assert "step_00000100.pt: not a readable" in warning and "using the previous one" in warning


def test_broken_checkpoints_replace_no_good_one(tmp_path):
    for step in (10, 20):
        step_path(tmp_path, step).write_bytes(b"good")
    for step in (30, 40):
        step_path(tmp_path, step).write_bytes(b"broken")
    prune(tmp_path, 20, 1)
    assert [path.name for path in sorted(tmp_path.iterdir())] == [step_path(tmp_path, n).name for n in (20, 30, 40)]


def test_failed_write_leaves_old_file(tmp_path):
    path = tmp_path / "last.pt"
    save_checkpoint({"step": 1}, path)

    class Unpicklable:
        def __reduce__(self):
            raise OSError("No space left on device")

    with pytest.raises(UserError, match="cannot be written.*No space left"):
        save_checkpoint({"step": Unpicklable()}, path)
    assert torch.load(path, weights_only=True)["step"] == 1
    assert [entry.name for entry in tmp_path.iterdir()] == ["last.pt"]


def test_full_disk_leaves_last_good_checkpoint(small_run, tmp_path):
    """The kernel refuses to let a file grow past a limit, as it does where the disk is full."""
    assert call(small_run("out", "TRAIN.STEPS", "3", "TEST.ENABLE", "False")) == 0
    checkpoints = tmp_path / "out" / "checkpoints"
    good = checkpoints / "step_00000003.pt"
    before, limit = good.read_bytes(), good.stat().st_size // 2
    code = (
        "import resource, sys; from octvideo.cli import run; from octvideo.cli.run_net import main\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))\n"
        "sys.exit(run(main, sys.argv[1:]))"
    )
    arguments = small_run("out", "TRAIN.STEPS", "9", "TEST.ENABLE", "False")
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=240)
    assert done.returncode == 2, done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert "step_00000006.pt: cannot be written" in last and "free some space" in last
    assert good.read_bytes() == before and not list(checkpoints.glob(".*"))
    assert call(arguments) == 0  # it resumes from the good one


def test_broken_checkpoint_is_skipped(small_run, tmp_path, capsys):
    assert call(small_run("out", "TEST.ENABLE", "False")) == 0
    checkpoints = tmp_path / "out" / "checkpoints"
    (checkpoints / "last.pt").unlink()
    newest = checkpoints / "step_00000012.pt"
    newest.write_bytes(newest.read_bytes()[:1000])
    (checkpoints / ".4711.step_00000012.pt").write_bytes(b"of a killed process")
    assert call(small_run("out", "TEST.ENABLE", "False")) == 0
    warning = re.compile(r"step_00000012\.pt: not a readable checkpoint.*using the previous one")
    assert warning.search(capsys.readouterr().err) and warning.search((tmp_path / "out" / "log.jsonl").read_text())
    assert not list(checkpoints.glob(".*"))
    whole = small_run("whole", "TEST.ENABLE", "False")
    assert call(whole) == 0
    assert equal(weights(tmp_path / "out"), weights(tmp_path / "whole"))


def flip_largest_record(path: Path) -> None:
    """64 bytes in its middle."""
    with zipfile.ZipFile(path) as archive:
        record = max(archive.infolist(), key=lambda record: record.file_size)
    content = bytearray(path.read_bytes())
    header = record.header_offset
    lengths = [int.from_bytes(content[header + at : header + at + 2], "little") for at in (26, 28)]
    middle = header + 30 + sum(lengths) + record.file_size // 2
    content[middle : middle + 64] = bytes(byte ^ 0xFF for byte in content[middle : middle + 64])
    path.write_bytes(content)


def test_damaged_and_foreign_checkpoints_are_skipped(
    small_run: Callable[..., list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(small_run("out", *_SHORT)) == 0
    folder = tmp_path / "out" / "checkpoints"
    before = torch.load(folder / "last.pt", weights_only=True)["model"]
    flip_largest_record(folder / "step_00000002.pt")
    torch.save({"model": {}}, folder / "step_00000003.pt")
    torch.save(3, folder / "step_00000004.pt")
    (folder / "best.pt").write_bytes(b"broken")
    capsys.readouterr()
    assert call(small_run("out", *_SHORT, "TRAIN.EVAL_EVERY", "2")) == 0
    err = capsys.readouterr().err
    assert "step_00000004.pt: not a checkpoint of a training (it is no mapping); using the previous one" in err
    assert "step_00000003.pt: not a checkpoint of a training (it has no config); using the previous one" in err
    assert "is damaged); using the previous one" in err and "resuming at step 1 " in err
    assert "best.pt: not a readable checkpoint" in err and "the next evaluation replaces it" in err
    assert torch.load(folder / "best.pt", weights_only=True)["top1"] >= 0
    after = torch.load(folder / "last.pt", weights_only=True)["model"]
    assert all(torch.equal(after[key], value) for key, value in before.items())
