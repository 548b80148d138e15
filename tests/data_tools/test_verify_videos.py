"""Check whole videos: broken files, reports, clean lists, interrupted checks."""

from __future__ import annotations

import codecs
import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from processes import ROOT, environment

from octvideo.cli import run
from octvideo.cli.check_videos import main
from octvideo.data import read_index
from octvideo.data.checking import report as check_files
from octvideo.data.checking.video import Checked, check_video
from octvideo.errors import UserError


@pytest.fixture
def folder(video_folder: Path, tmp_path: Path) -> Path:
    """Two classes of four videos; three videos are broken, each in another way."""
    copy = tmp_path / "videos"
    shutil.copytree(video_folder / "train", copy)
    (copy / "down" / "video 1.mp4").write_bytes(b"")
    (copy / "right" / "video 0.mp4").write_text("not a video")
    cut = copy / "right" / "video 2.mp4"
    cut.write_bytes(cut.read_bytes()[:1500])
    return copy


BROKEN = ["down/video 1.mp4", "right/video 0.mp4", "right/video 2.mp4"]
INTACT = ["down/video 0.mp4", "down/video 2.mp4", "down/video 3.mp4", "right/video 1.mp4", "right/video 3.mp4"]


def rows_of(report: Path) -> list[dict[str, str]]:
    with report.open(newline="") as file:
        return list(csv.DictReader(file))


def test_real_files(data, tmp_path):
    """AV1, no duration, one pixel, edit lists, 10 bits, turned: odd but intact."""
    script = ROOT / "data_tools" / "verify_videos.py"
    report, formats = tmp_path / "report.csv", data / "clips" / "formats"
    done = subprocess.run(
        [sys.executable, str(script), str(formats), "--report", str(report), "--workers", "2"],
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    rows = {Path(row["path"]).name: row for row in rows_of(report)}
    assert sorted(rows) == list(rows) == sorted(path.name for path in formats.iterdir())
    broken = {name: row["error"] for name, row in rows.items() if row["status"] != "ok"}
    assert sorted(broken) == ["decord_corrupted.mp4", "moviepy_empty_result.webm"]
    assert broken["decord_corrupted.mp4"].startswith("error after frame 2")
    assert broken["moviepy_empty_result.webm"] == "the file is empty"
    assert all(f"{name}: {error}" in done.stdout for name, error in broken.items())
    assert done.stdout.splitlines()[-1].startswith("18 videos checked in ") and "16 ok, 2 broken" in done.stdout
    with (data / "manifest.csv").open() as file:
        known = {Path(row["file"]).name: row for row in csv.DictReader(file)}
    for name in set(rows) - set(broken) - {"torchcodec_nasa_13013.mp4"}:  # of two streams, the manifest has the other
        row, size = rows[name], (known[name]["width"], known[name]["height"])
        turned = int(known[name]["rotation"]) % 180 != 0
        assert (row["width"], row["height"]) == (size[::-1] if turned else size), name
        assert (row["frames"], row["codec"]) == (known[name]["frames_pyav"], known[name]["codec"]), name
        assert float(row["fps"]) == pytest.approx(float(known[name]["fps"]), abs=0.01), name


def test_real_clips_are_intact(data):
    clips = [path for name in ("actions", "asl_gestures") for path in sorted((data / "clips" / name).iterdir())]
    small = [path for path in clips if path.stat().st_size < 1_000_000]
    assert len(small) >= 8
    assert [checked for checked in map(check_video, map(str, small)) if checked.status != "ok"] == []


@pytest.mark.parametrize("name", ["mmaction2_part_0.mp4", "decord_flipping_a_pancake.mkv", "paddlevideo_archery.avi"])
def test_damaged_real_clips_are_found(data, tmp_path, name):
    content = (data / "clips" / "actions" / name).read_bytes()
    for share in (0.3, 0.6, 0.9):
        (tmp_path / name).write_bytes(content[: int(share * len(content))])
        checked = check_video(str(tmp_path / name))
        assert checked.status == "broken" and checked.error, share
    middle = len(content) // 2
    (tmp_path / name).write_bytes(content[:middle] + bytes(400) + content[middle + 400 :])
    assert "error after frame" in check_video(str(tmp_path / name)).error


def test_class_folders_give_a_clean_list(folder, tmp_path, capsys):
    clean = tmp_path / "clean.txt"
    assert main([str(folder), "--clean-list", str(clean), "--workers", "3"]) == 0
    out = capsys.readouterr().out
    assert [line.split(": ")[0] for line in out.splitlines()[:-1]] == [str(folder / name) for name in BROKEN]
    assert "8 videos checked" in out and "5 ok, 3 broken, 0" in out
    index, whole = read_index(clean), read_index(folder)
    labels = {whole.path(number): whole.label(number) for number in range(8)}
    assert [index.path(number) for number in range(5)] == [str(folder / name) for name in INTACT]
    assert all(index.label(number) == labels[index.path(number)] for number in range(5))


def test_clean_list_keeps_lines(folder, tmp_path):
    lines = [
        "# ours",
        "down/video 0.mp4 0",
        "",
        '"right/video 0.mp4",1',
        "right/video 1.mp4\t1",
        "absent.mp4 0",
        f"{folder / 'down' / 'video 2.mp4'} 0",
        "down/video 0.mp4 0",
    ]
    source, clean = folder / "list.txt", folder / "clean.txt"
    source.write_text("\n".join(lines) + "\n")
    assert main([str(source), "--clean-list", str(clean), "--report", str(tmp_path / "r.jsonl")]) == 0
    assert clean.read_text().splitlines() == [lines[number] for number in (0, 1, 2, 4, 6, 7)]
    rows = [json.loads(line) for line in (tmp_path / "r.jsonl").read_text().splitlines()]
    assert [row["error"] for row in rows if row["path"].endswith("absent.mp4")] == ["no such file"]
    assert len(rows) == 5, "a video listed twice must be checked once"
    code = main([str(source), "--clean-list", str(tmp_path / "elsewhere.txt"), "--root", str(folder)])
    assert code == 0 and (tmp_path / "elsewhere.txt").read_text() == clean.read_text()


def test_line_ends_are_the_loaders(folder, tmp_path):
    """Names may contain U+2028 and a form feed, and a list may come from Windows."""
    for name in ("a\u2028b.mp4", "c\fd.mp4"):
        shutil.copy(folder / INTACT[0], folder / name)
    lines = ["a\u2028b.mp4 0", f"{BROKEN[0]} 0", "c\fd.mp4 1"]
    (folder / "list.txt").write_bytes(codecs.BOM_UTF8 + "\r\n".join(lines).encode())
    assert main([str(folder / "list.txt"), "--clean-list", str(folder / "clean.txt")]) == 0
    index = read_index(folder / "clean.txt")
    assert [(index.path(n), index.label(n)) for n in range(len(index))] == [
        (str(folder / "a\u2028b.mp4"), 0), (str(folder / "c\fd.mp4"), 1),
    ]  # fmt: skip


def test_names_of_another_encoding(folder, tmp_path, capsys):
    odd = os.fsdecode(os.fsencode(folder) + b"/down/\xff.mp4")
    shutil.copy(folder / INTACT[0], odd)
    report = tmp_path / "r.csv"
    for known in (0, 9):
        assert main([str(folder), "--report", str(report)]) == 0
        assert f"{known} taken from the report" in capsys.readouterr().out
    assert os.fsencode(odd) in report.read_bytes()
    report.write_bytes(report.read_bytes().replace(b",24,", b",1 000,"))  # as a spreadsheet may leave it
    assert main([str(folder), "--report", str(report)]) == 0
    assert run(main, [str(folder), "--clean-list", str(tmp_path / "clean.txt")]) == 2
    assert "rename" in capsys.readouterr().err and not (tmp_path / "clean.txt").exists()


def test_folder_without_classes_as_json(folder, tmp_path, capsys):
    (folder / "top.mp4").write_bytes((folder / INTACT[0]).read_bytes())
    assert main([str(folder), "--json", "--clean-list", str(tmp_path / "clean.txt")]) == 0
    captured = capsys.readouterr()
    rows = [json.loads(line) for line in captured.out.splitlines()]
    assert [row["path"] for row in rows] == [str(folder / name) for name in sorted([*BROKEN, *INTACT, "top.mp4"])]
    assert rows[0] | {"mtime": 0, "size": 0, "path": ""} == {
        **{"path": "", "status": "ok", "codec": "h264", "width": 80, "height": 64, "fps": 25.0, "frames_header": 24},
        **{"frames": 24, "duration": 0.96, "size": 0, "mtime": 0, "error": ""},
    }
    assert "6 ok, 3 broken" in captured.err
    clean = read_index(tmp_path / "clean.txt")
    assert len(clean) == 6 and clean.label(0) == -1


def test_odd_names_in_a_folder(folder, tmp_path, capsys):
    for name in ("a, b #1.mp4", ' "quoted".mp4'):
        (folder / "down" / name).write_bytes((folder / INTACT[0]).read_bytes())
    clean = tmp_path / "clean.txt"
    assert main([str(folder), "--clean-list", str(clean)]) == 0
    index = read_index(clean)
    expected = {str(folder / name) for name in (*INTACT, "down/a, b #1.mp4", 'down/ "quoted".mp4')}
    assert {index.path(number) for number in range(len(index))} == expected
    (folder / "down" / "line\nbreak.mp4").write_bytes((folder / INTACT[0]).read_bytes())
    assert main([str(folder)]) == 0  # it can be checked, not listed
    capsys.readouterr()
    with pytest.raises(UserError, match="rename"):
        main([str(folder), "--clean-list", str(clean)])


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_reported_videos_are_not_decoded_again(folder, tmp_path, capsys, monkeypatch, suffix):
    report = tmp_path / f"report{suffix}"
    assert main([str(folder), "--report", str(report)]) == 0
    first = report.read_text()
    shutil.copy(folder / INTACT[0], folder / BROKEN[1])
    os.utime(folder / INTACT[2], (1, 1))
    decoded = tmp_path / "decoded"

    def noting(path: str) -> Checked:
        with decoded.open("a") as file:
            file.write(f"{Path(path).relative_to(folder)}\n")
        return check_video(path)

    monkeypatch.setattr(check_files, "check_video", noting)
    capsys.readouterr()
    assert main([str(folder), "--report", str(report)]) == 0
    assert sorted(decoded.read_text().splitlines()) == sorted([BROKEN[1], INTACT[2]])
    assert "6 ok, 2 broken" in capsys.readouterr().out
    again = report.read_text()
    assert again != first and len(again.splitlines()) == len(first.splitlines())
    assert not list(tmp_path.glob("*.part"))


def test_unfinished_checks_are_tried_again(folder, tmp_path, capsys, monkeypatch):
    def faulty(path: str) -> Checked:
        if path.endswith(INTACT[0]):
            time.sleep(600)
        if path.endswith(INTACT[3]):
            os.kill(os.getpid(), signal.SIGSEGV)
        return check_video(path)

    report = ["--report", str(tmp_path / "report.csv")]
    with monkeypatch.context() as patch:
        patch.setattr(check_files, "check_video", faulty)
        assert main([str(folder), *report, "--timeout", "10", "--workers", "2"]) == 0
    rows = {str(Path(row["path"]).relative_to(folder)): row for row in rows_of(tmp_path / "report.csv")}
    unfinished = {name: row["error"] for name, row in rows.items() if row["status"] == "unfinished"}
    assert unfinished == {INTACT[0]: "timed out after 10 s", INTACT[3]: "the decoder crashed (signal 11)"}
    assert "3 ok, 3 broken, 2 not finished by a decoder" in capsys.readouterr().out
    assert main([str(folder), *report]) == 0
    assert "5 ok, 3 broken, 0 not finished by a decoder; 6 taken from" in capsys.readouterr().out


def test_interrupted_check_is_resumed(folder, tmp_path, capsys):
    report = tmp_path / "report.csv"
    rows = list(check_files.CheckReport(None).check([str(folder / name) for name in (INTACT[0], BROKEN[0])], 1, 60))
    with check_files.CheckReport(report) as unfinished:
        next(unfinished.check([str(folder / INTACT[0])], 1, 60))
        # as a kill leaves it
        part = (tmp_path / "report.csv.part").read_text()
        assert part.strip() == check_files._json_line(rows[0]).strip()
    report.unlink()
    half = check_files._json_line(rows[1])[:70]
    (tmp_path / "report.csv.part").write_text(part + half)
    assert main([str(folder), "--report", str(report)]) == 0
    assert "8 videos checked" in (out := capsys.readouterr().out) and "1 taken from the report" in out
    assert len(rows_of(report)) == 8 and not list(tmp_path.glob("*.part"))


def test_parts_merge_to_the_same_report(folder, tmp_path):
    names = ["--report", str(tmp_path / "all.csv"), "--clean-list", str(tmp_path / "all.txt")]
    assert main([str(folder), *names]) == 0
    names = ["--report", str(tmp_path / "parts.csv"), "--clean-list", str(tmp_path / "parts.txt")]
    assert run(main, [str(folder), *names, "--merge"]) == 2
    for part in ("3/3", "1/3", "2/3"):
        assert main([str(folder), *names, "--part", part]) == 0
    assert run(main, [str(folder), *names, "--merge"]) == 0
    assert (tmp_path / "parts.csv").read_text() == (tmp_path / "all.csv").read_text()
    assert (tmp_path / "parts.txt").read_text() == (tmp_path / "all.txt").read_text()
    assert len(list(tmp_path.iterdir())) == 4 + len([folder])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["absent"], "absent: no such list file or folder"),
        (["empty"], "empty: no videos in this folder"),
        (["videos", "--report", "r.txt"], "r.txt: give a name that ends in .csv or .jsonl"),
        (["videos", "--report", "other.csv"], "other.csv: this file exists"),
        (["videos", "--report", "other.jsonl"], "other.jsonl: this file exists"),
        (["videos", "--report", "folder.csv"], "folder.csv: cannot be written (it is a folder)"),
        (["videos", "--report", "r.csv", "--clean-list", "r.csv"], "r.csv: this is the --report"),
        (["videos", "--report", "no/where/r.csv"], "no/where/r.csv: cannot be written"),
        (["videos", "--clean-list", "no/where/c.txt"], "no/where/c.txt: cannot be written"),
        (["videos", "--clean-list", "bad.txt/c.txt"], "bad.txt/c.txt: cannot be written"),
        (["nul.txt"], "nul.txt:1: it has a null character"),
        (["videos", "--clean-list", "empty"], "empty: cannot be written"),
        (["videos/down/video 0.mp4"], "video 0.mp4: this is a video; pass its folder"),
        (["videos/list.txt", "--clean-list", "videos/list.txt"], "this is the list itself"),
        (["videos/list.txt", "--clean-list", "c.txt"], "relative to its own folder"),
        (["bad.txt"], "bad.txt:1: "),
    ],
)
def test_user_errors_end_in_one_line(folder, tmp_path, capsys, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    (tmp_path / "other.jsonl").write_text('{"a": 1}\n')
    (tmp_path / "nul.txt").write_text("a\0.mp4 0\n")
    (tmp_path / "bad.txt").write_text("frames 30 1\n")
    (folder / "list.txt").write_text("down/video 0.mp4 0\n")
    assert run(main, arguments) == 2
    captured = capsys.readouterr()
    errors = captured.err.splitlines()  # no line of progress: found before any video is decoded
    assert len(errors) == 1 and errors[0].startswith("error: ") and message in errors[0]
    assert (tmp_path / "other.csv").read_text() == "a,b\n1,2\n"
    assert (folder / "list.txt").read_text() == "down/video 0.mp4 0\n"
