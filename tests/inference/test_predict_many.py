"""Predict many videos into one file: resumed after kills, in parts, with failures, by several processes."""

from __future__ import annotations

import json
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from processes import ROOT, environment, run_script

from octvideo.cli import run
from octvideo.cli.predict import main
from octvideo.parts import Part
from octvideo.workers import WorkerFailed, map_ahead


@pytest.fixture(scope="module")
def videos(video_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight videos, one that is broken and one whose name is not in UTF-8."""
    folder = tmp_path_factory.mktemp("many")
    shutil.copytree(video_folder / "val", folder / "val")
    (folder / "val" / "down" / "broken.mp4").write_bytes(b"no video")
    (folder / "val" / "down" / "video 0.mp4").rename(
        folder / "val" / "down" / b"odd \xe9.mp4".decode(errors="surrogateescape")
    )
    return folder / "val"


@pytest.fixture(scope="module")
def whole(videos: Path, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one process writes."""
    file = tmp_path_factory.mktemp("whole") / "whole.jsonl"
    assert predict(videos, checkpoint, file) == 0
    return file


def words(videos: Path, checkpoint: Path, file: Path, *more: str) -> list[str]:
    options = ["--backend", "torch", "--device", "cpu", "--checkpoint", str(checkpoint), "--views", "2"]
    return [str(videos), *options, "--workers", "1", "--output-jsonl", str(file), *more]


def predict(videos: Path, checkpoint: Path, file: Path, *more: str) -> int:
    return run(main, words(videos, checkpoint, file, *more))


def rows(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def test_each_video_has_its_line(whole: Path, videos: Path) -> None:
    found = rows(whole)
    assert [row["video"] for row in found] == [str(path) for path in sorted(videos.rglob("*.mp4"))]
    [broken] = [row for row in found if "error" in row]
    assert broken["video"].endswith("broken.mp4") and "cannot be decoded" in broken["error"]
    good = [row for row in found if "error" not in row]
    assert len(good) == 8 and all(len(row["predictions"]) == 5 and row["backend"] == "torch" for row in good)
    assert [path.name for path in whole.parent.iterdir()] == [whole.name], "the record is removed"


@pytest.mark.parametrize("tasks", [2, 5])
def test_parts_merge_to_the_same_bytes(whole: Path, videos: Path, checkpoint: Path, tmp_path: Path, tasks: int) -> None:
    file = tmp_path / "parts.jsonl"
    for number in range(tasks, 0, -1):
        assert predict(videos, checkpoint, file, "--part", f"{number}/{tasks}") == 0
    assert not file.exists()
    assert predict(videos, checkpoint, file, "--merge") == 0
    assert file.read_bytes() == whole.read_bytes() and list(tmp_path.iterdir()) == [file]


def test_merge_names_what_is_missing(
    videos: Path, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "parts.jsonl"
    names = [str(path) for path in videos.rglob("*.mp4")]
    parts = [Part(number, total, total) for total in (2, 3, 5, 7) for number in range(1, total + 1)]
    part = next(part for part in parts if 0 < sum(map(part.has, names)) < 9)  # by a hash of the names
    assert predict(videos, checkpoint, file, "--part", f"{part.number}/{part.total}") == 0
    done = len(rows(tmp_path / f"parts.jsonl.{part.suffix}"))
    capsys.readouterr()
    assert predict(videos, checkpoint, file, "--merge") == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and f"{9 - done} of 9 have no result yet" in error


def kill_and_resume(arguments: list[str], file: Path, moments: int, whole: Path) -> None:
    """Kill the command at random moments, then let it end; compare the result with that of an undisturbed run."""
    record = file.with_name(f"{file.name}.part")
    command = [sys.executable, "-m", "octvideo", "predict", *arguments]
    done = 0
    for moment in range(moments):
        process = subprocess.Popen(command, env=environment(), cwd=ROOT, stderr=subprocess.DEVNULL)
        if moment % 2:  # once it has begun to predict, or anywhere
            while process.poll() is None and not (record.exists() and len(record.read_bytes().splitlines()) > done):
                time.sleep(0.001)
        time.sleep(random.Random(moment).uniform(0, 0.1 if moment % 2 else 4))
        process.send_signal(signal.SIGKILL)
        process.wait()
        names = [row["video"] for row in rows(record)[:-1]] if record.exists() else []
        assert len(names) == len(set(names)), "a video was predicted twice"
        done = len(names)
        if file.exists():
            break
    assert subprocess.run(command, env=environment(), cwd=ROOT, stderr=subprocess.DEVNULL).returncode == 0
    assert file.read_bytes() == whole.read_bytes() and list(file.parent.iterdir()) == [file]


def test_kills_lose_nothing(whole: Path, videos: Path, checkpoint: Path, tmp_path: Path) -> None:
    file = tmp_path / "killed.jsonl"
    kill_and_resume(words(videos, checkpoint, file), file, 2, whole)


@pytest.mark.full
def test_twenty_kills_lose_nothing(whole: Path, videos: Path, checkpoint: Path, tmp_path: Path) -> None:
    for number in range(4):
        file = tmp_path / str(number) / "killed.jsonl"
        file.parent.mkdir()
        kill_and_resume(words(videos, checkpoint, file), file, 5, whole)


def test_failed_videos_are_tried_again(videos: Path, checkpoint: Path, tmp_path: Path) -> None:
    folder = tmp_path / "videos"
    shutil.copytree(videos / "down", folder)
    file = tmp_path / "f.jsonl"
    assert predict(folder, checkpoint, file) == 0
    first = rows(file)
    shutil.copy(videos / "right" / "video 1.mp4", folder / "broken.mp4")
    shutil.copy(videos / "right" / "video 1.mp4", folder / "new.mp4")
    assert predict(folder, checkpoint, file) == 0
    again = {Path(row["video"]).name: row for row in rows(file)}
    assert "error" not in again["broken.mp4"] and "new.mp4" in again
    kept = [row for name, row in again.items() if name not in ("broken.mp4", "new.mp4")]
    assert kept == [row for row in first if "error" not in row]


def test_lines_of_another_network_are_refused(
    whole: Path, videos: Path, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "other.jsonl"
    shutil.copy(whole, file)
    assert predict(videos, checkpoint, file, "--top-k", "3") == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "other.jsonl: has predictions of another network or with other options" in error
    assert file.read_bytes() == whole.read_bytes()


def test_list_with_its_root(videos: Path, checkpoint: Path, tmp_path: Path) -> None:
    names = ["right/video 1.mp4", "down/video 2.mp4", "right/video 1.mp4"]
    (tmp_path / "list.csv").write_text("".join(f"{name},0\n" for name in names))
    file = tmp_path / "f.jsonl"
    assert predict(tmp_path / "list.csv", checkpoint, file, "--root", str(videos)) == 0
    assert [row["video"] for row in rows(file)] == [str(videos / name) for name in names[:2]]


def test_parquet_has_the_same_rows(whole: Path, videos: Path, checkpoint: Path, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    file = tmp_path / "f.jsonl"
    shutil.copy(whole, file)
    assert predict(videos, checkpoint, file, "--output-parquet", str(tmp_path / "f.parquet")) == 0
    table = parquet.read_table(tmp_path / "f.parquet").to_pylist()
    expected = rows(file)
    assert [row["predictions"] for row in table] == [row.get("predictions") for row in expected]
    assert [row["error"] for row in table] == [row.get("error") for row in expected]


def test_processes_of_torchrun_share_the_videos(whole: Path, videos: Path, checkpoint: Path, tmp_path: Path) -> None:
    file = tmp_path / "ranks.jsonl"
    done = run_script(ROOT / "demo" / "predict.py", *words(videos, checkpoint, file), processes=2)
    assert done.returncode == 0, done.stderr
    assert file.read_bytes() == whole.read_bytes() and list(tmp_path.iterdir()) == [file]
    assert "part 1 of 2 is done" in done.stderr and "part 2 of 2 is done" in done.stderr


@pytest.mark.parametrize(
    "more", [["--json"], ["--timeline", "a.csv"], ["--part", "3/2"], ["--part", "1/2", "--merge"], ["--every", "4"]]
)
def test_options_that_do_not_go_together(tmp_path: Path, more: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["a.mp4", "--output-jsonl", str(tmp_path / "a.jsonl"), *more])
    assert caught.value.code == 2


def test_crashes_and_hangs_cost_one_item() -> None:
    def work(item: int) -> int:
        if item == 1:
            import os

            os.kill(os.getpid(), signal.SIGSEGV)
        if item == 3:
            time.sleep(600)
        return item * item

    found = list(map_ahead(work, range(6), workers=2, timeout=2))
    assert [value for value in found if not isinstance(value, WorkerFailed)] == [0, 4, 16, 25]
    assert [isinstance(value, WorkerFailed) for value in found] == [False, True, False, True, False, False]
