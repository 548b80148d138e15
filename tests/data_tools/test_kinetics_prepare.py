"""Prepare videos: every frame, its time, upright, short GOPs; interrupted runs."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image
from processes import ROOT, environment

from data_tools.kinetics.media import output_size, transcode
from data_tools.kinetics.prepare import main
from octvideo.cli import run
from octvideo.data.decoders.decode import open_video

SCRIPT = ROOT / "data_tools" / "kinetics_prepare.py"


def prepare(source: Path, output: Path, *more: str) -> int:
    """Run the command in this process; return the exit code."""
    return run(main, ["--input", str(source), "--output", str(output), "--workers", "1", *more])


def read_report(path: Path) -> dict[str, dict]:
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert len({line["clip"] for line in lines}) == len(lines), "a video has two lines"
    return {line["clip"]: line for line in lines}


def times(path: Path) -> list[float]:
    with av.open(str(path)) as container:
        return [frame.time for frame in container.decode(video=0)]


def write_at(path: Path, seconds: list[float]) -> Path:
    """A video of grey frames, shown at these times."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for number, second in enumerate(seconds):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 10 + 5 * number, np.uint8), format="rgb24")
            frame.pts, frame.time_base = round(second * 1000), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


@pytest.fixture
def tree(make_video: Callable[..., Path], tmp_path: Path) -> Path:
    """Three videos in two folders, and files that are none."""
    rng = np.random.default_rng(0)
    for name in ("a/one.mp4", "a b/two.avi", "a b/deep/three.mp4"):
        make_video(tmp_path / "in" / name, rng.integers(0, 255, (40, 90, 160, 3), dtype=np.uint8), gop=40)
    (tmp_path / "in" / "a" / "notes.txt").write_text("not a video")
    (tmp_path / "in" / "a" / "broken.mp4").write_text("not a video either")
    (tmp_path / "in" / ".hidden").mkdir()
    shutil.copy(tmp_path / "in" / "a" / "one.mp4", tmp_path / "in" / ".hidden")
    return tmp_path / "in"


PREPARED = {"a/one.mp4", "a b/two.mp4", "a b/deep/three.mp4"}


def made(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in folder.rglob("*.mp4")}


def test_parts_prepare_each_video_once(tree: Path, tmp_path: Path) -> None:
    whole, output = tmp_path / "whole", tmp_path / "out"
    assert prepare(tree, whole, "--short-side", "48") == 0
    for number in (1, 2):
        assert prepare(tree, output, "--short-side", "48", "--part", f"{number}/2") == 0
    before = made(output)
    assert prepare(tree, output, "--short-side", "48", "--merge") == 0
    assert made(output) == before and set(before) == PREPARED
    rows = [read_report(folder / "report.jsonl").items() for folder in (whole, output)]
    first, again = ([(clip, line["status"], line.get("frames")) for clip, line in each] for each in rows)
    assert first == again and len(first) == 4, "in the order of the folder"
    assert sorted(path.name for path in output.iterdir()) == ["a", "a b", "report.jsonl"]


def test_only_changed_videos_are_prepared_again(tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "out"
    assert prepare(tree, output, "--short-side", "48") == 0
    assert set(made(output)) == PREPARED
    report = read_report(output / "report.jsonl")
    assert {clip: line["status"] for clip, line in report.items()} == {
        "a/one.mp4": "ok",
        "a b/two.avi": "ok",
        "a b/deep/three.mp4": "ok",
        "a/broken.mp4": "failed",
    }
    assert "not a video" in report["a/broken.mp4"]["reason"]
    assert (report["a/one.mp4"]["frames"], report["a/one.mp4"]["width"], report["a/one.mp4"]["height"]) == (40, 86, 48)
    assert not (output / ".partial").exists()
    assert "3 ok, 1 failed" in capsys.readouterr().out

    before = made(output)
    (output / "a" / "one.mp4").write_bytes((output / "a" / "one.mp4").read_bytes()[:-10])
    os.utime(tree / "a b" / "two.avi", (0, 0))
    assert prepare(tree, output, "--short-side", "48") == 0
    assert "(3 tried now)" in capsys.readouterr().out
    after = made(output)
    assert {name for name in PREPARED if after[name] != before[name]} == {"a/one.mp4", "a b/two.mp4"}
    assert len(times(output / "a" / "one.mp4")) == 40

    assert prepare(tree, output, "--short-side", "64") == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "other settings" in error and str(output) in error
    assert made(output) == after


def test_output_format(tree: Path, tmp_path: Path) -> None:
    assert prepare(tree, tmp_path / "out", "--short-side", "48", "--gop", "8") == 0
    for name in PREPARED:
        path = tmp_path / "out" / name
        data = path.read_bytes()
        assert data.index(b"moov") < data.index(b"mdat"), "the index is not in front"
        with av.open(str(path)) as container:
            assert [stream.type for stream in container.streams] == ["video"]
            stream = container.streams.video[0]
            assert (stream.codec_context.name, stream.pix_fmt, stream.average_rate) == ("h264", "yuv420p", 25)
            keys = [number for number, frame in enumerate(container.decode(stream)) if frame.key_frame]
            assert keys[0] == 0 and max(np.diff([*keys, 40])) <= 8 and len(keys) < 20


@pytest.mark.parametrize(
    "name",
    [
        "decord_video_90.mov",
        "decord_video_180.mov",
        "torchcodec_nasa_13013_rotated.mp4",
        "torchcodec_test_non_zero_start.mp4",
        "torchcodec_h264_10bits.mp4",
        "torchcodec_testsrc2_odd_height_444.mp4",
        "torchcodec_testsrc2_odd_width_vp9.mp4",
        "torchcodec_discard_first_keyframe.mp4",
        "moviepy_bitmap.mp4",
    ],
)
def test_real_files_keep_frames_and_pictures(name: str, data: Path, tmp_path: Path) -> None:
    source, target = data / "clips" / "formats" / name, tmp_path / "o.mp4"
    result = transcode(source, target, short_side=128)
    with open_video(str(source), "pyav") as before, open_video(str(target), "pyav") as after:
        assert len(after) == len(before) == result.frames
        last = len(before) - 1
        old, new = before.frames([0, last]), after.frames([0, last])
    assert new.shape[1:3] == (result.height, result.width)
    for one, other in zip(old, new):
        small = Image.fromarray(one).resize((result.width, result.height), Image.Resampling.BICUBIC)
        assert np.abs(np.asarray(small).astype(int) - other).mean() < 8, "another picture, or not upright"


def test_corrupt_file_keeps_decodable_frames(data: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    shutil.copy(data / "clips" / "formats" / "decord_corrupted.mp4", tmp_path / "in")
    assert prepare(tmp_path / "in", tmp_path / "out", "--short-side", "64") == 0
    line = read_report(tmp_path / "out" / "report.jsonl")["decord_corrupted.mp4"]
    assert (line["status"], line["frames"], line["damaged"]) == ("ok", 49, 1)
    assert "could not be decoded" in line["reason"]
    assert len(times(tmp_path / "out" / "decord_corrupted.mp4")) == 49


def test_uneven_times_stay(tmp_path: Path) -> None:
    seconds = [0, 0.04, 0.2, 0.21, 0.6, 1.0, 1.033, 2.5]
    result = transcode(write_at(tmp_path / "v.mkv", [0.5 + second for second in seconds]), tmp_path / "o.mp4")
    assert times(tmp_path / "o.mp4") == pytest.approx(seconds, abs=1e-3)
    assert result.frames == len(seconds)


def test_times_out_of_order_are_sorted(data: Path, tmp_path: Path) -> None:
    source = data / "clips" / "actions" / "mmaction2_test_ucf_makeup.avi"
    assert times(source) != sorted(times(source)), "the file is not of this kind"
    transcode(source, tmp_path / "o.mp4", short_side=32, preset="ultrafast")
    assert times(tmp_path / "o.mp4") == pytest.approx([number / 25 for number in range(164)], abs=1e-3)


def test_cut_is_at_the_right_times(tmp_path: Path) -> None:
    seconds = [0.1 * number for number in range(40)]
    source = write_at(tmp_path / "v.mp4", seconds)
    result = transcode(source, tmp_path / "o.mp4", start=1.25, end=2.55)
    assert times(tmp_path / "o.mp4") == pytest.approx(seconds[:13], abs=1e-3)
    with av.open(str(tmp_path / "o.mp4")) as container:
        first = next(container.decode(video=0)).to_ndarray(format="rgb24").mean()
    assert (result.frames, round((first - 10) / 5)) == (13, 13)


@pytest.mark.parametrize(
    ("size", "short", "upscale", "expected"),
    [
        ((1280, 720), 340, False, (604, 340)),
        ((720, 1280), 256, False, (256, 456)),
        ((320, 240), 340, False, (320, 240)),
        ((320, 240), 340, True, (454, 340)),
        ((321, 241), 340, False, (322, 242)),
        ((1, 1), 340, False, (2, 2)),
    ],
)
def test_output_sizes(size: tuple[int, int], short: int, upscale: bool, expected: tuple[int, int]) -> None:
    assert output_size(*size, short, upscale) == expected


def test_crash_loses_one_video(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(source: Path, target: Path, **settings: object) -> object:
        if source.name == "two.avi":
            target.touch()
            os.abort()
        return transcode(source, target, **settings)

    monkeypatch.setattr("data_tools.kinetics.prepare.transcode", crash)
    assert prepare(tree, tmp_path / "out") == 0
    report = read_report(tmp_path / "out" / "report.jsonl")
    failed = {clip: line["reason"] for clip, line in report.items() if line["status"] == "failed"}
    assert set(failed) == {"a b/two.avi", "a/broken.mp4"} and "crashed (signal 6)" in failed["a b/two.avi"]
    assert not (tmp_path / "out" / ".partial").exists()


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_killed_run_is_resumed(how: signal.Signals, make_video: Callable[..., Path], tmp_path: Path) -> None:
    source, output = tmp_path / "in", tmp_path / "out"
    frames = np.random.default_rng(0).integers(0, 255, (60, 96, 128, 3), dtype=np.uint8)
    make_video(source / "00.mp4", frames)
    for number in range(1, 200):  # far more than are made before the signal arrives
        os.link(source / "00.mp4", source / f"{number:02d}.mp4")
    command = [sys.executable, str(SCRIPT), "--input", str(source), "--output", str(output), "--workers", "2"]
    # In its own session, so that the kill hits this run alone.
    process = subprocess.Popen(command, env=environment(), stderr=subprocess.PIPE, text=True, start_new_session=True)
    deadline = time.monotonic() + 240
    while len(made(output)) < 2 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    os.killpg(process.pid, how)  # as a terminal does with Ctrl-C
    _, errors = process.communicate(timeout=240)
    assert "Traceback" not in errors
    assert process.returncode == (-9 if how == signal.SIGKILL else 130)
    kept = made(output)
    assert 2 <= len(kept) < 200
    assert all(len(times(output / name)) == 60 for name in kept)
    lines = read_report(output / "report.jsonl")
    assert set(lines) <= set(kept) and len(lines) >= len(kept) - 2
    for path in [path for path in source.iterdir() if path.name not in kept][4:]:
        path.unlink()
    assert prepare(source, output) == 0
    after = made(output)
    assert len(after) == len(kept) + 4 and all(len(times(output / name)) == 60 for name in after)
    assert all(after[name] == kept[name] for name in lines), "what was done was done again"
    assert not (output / ".partial").exists()


def test_full_disk_ends_the_run(tree: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (20000,) * 2)"
    code = f"{limit}; import runpy, sys; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    command = [sys.executable, "-c", code, str(SCRIPT), "--input", str(tree), "--output", str(output), "--crf", "0"]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    errors = [line for line in done.stderr.splitlines() if not line.startswith("preparing ")]
    assert len(errors) == 1 and "cannot be written (File too large)" in errors[0] and str(output) in errors[0]
    assert not made(output)


def test_wrong_options_end_in_one_line(tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def fails(words: str, source: Path, output: Path, *more: str) -> None:
        assert prepare(source, output, *more) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and words in error

    fails("no such folder", tmp_path / "none", tmp_path / "out")
    fails("is below --input", tree, tree / "out")
    fails("must be even", tree, tmp_path / "out", "--short-side", "255")
    fails("--crf", tree, tmp_path / "out", "--crf", "52")
    (tmp_path / "empty").mkdir()
    fails("no videos", tmp_path / "empty", tmp_path / "out")
    shutil.copy(tree / "a" / "one.mp4", tree / "a" / "one.avi")
    fails("a/one.avi and a/one.mp4 would both become a/one.mp4", tree, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_help_names_the_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["--help"])
    assert end.value.code == 0 and "exit code is 0" in capsys.readouterr().out
