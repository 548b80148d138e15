"""Download clips from a real server on this machine, with the real yt-dlp."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image
from processes import ROOT, environment
from video_server import VideoServer

from data_tools.kinetics.download import main, parse
from data_tools.kinetics.media import MediaError, require_video, transcode
from data_tools.kinetics.sources import fill
from data_tools.kinetics.web import classify
from octvideo.cli import run
from octvideo.data.annotations import Segment

SCRIPT = ROOT / "data_tools" / "kinetics_download.py"
QUICK = ("--backoff", "0.01")
FPS = 10


def levels(count: int) -> np.ndarray:
    """``count`` frames (T, 96, 128, 3); the mean brightness of frame n is 40 + 4 n."""
    noise = np.random.default_rng(0).integers(-40, 41, (count, 96, 128, 1))
    means = 40 + 4 * np.arange(count)[:, None, None, None]
    return np.broadcast_to(means + noise, (count, 96, 128, 3)).astype(np.uint8)


def numbers(path: Path) -> list[int]:
    """The numbers of the frames of a video made of ``levels``."""
    with av.open(str(path)) as container:
        return [round((frame.to_ndarray(format="rgb24").mean() - 40) / 4) for frame in container.decode(video=0)]


@pytest.fixture(scope="module")
def video(make_video: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four seconds, with the index in front: half of the file opens as a video."""
    folder = tmp_path_factory.mktemp("whole")
    transcode(make_video(folder / "large.mp4", levels(40), fps=FPS, gop=8), folder / "v.mp4", crf=10)
    assert (folder / "v.mp4").stat().st_size > 4 * 65536, "half of it must be more than a block"
    return folder / "v.mp4"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[VideoServer]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    server = VideoServer()
    yield server
    server.stop()


def write_csv(path: Path, ids: list[str], label: str | None = "air drumming", start: int = 0, end: int = 2) -> Path:
    """An official file; without a label it is a test file."""
    head, cells = ("", "") if label is None else ("label,", f'"{label}",')
    rows = [f"{cells}{name},{start},{end},{'test' if label is None else 'train'}" for name in ids]
    path.write_text("\n".join([f"{head}youtube_id,time_start,time_end,split", *rows]) + "\n")
    return path


def clip(name: str, start: int = 0, end: int = 2) -> str:
    return f"air drumming/{name}_{start:06d}_{end:06d}.mp4"


def read_report(path: Path) -> dict[str, dict]:
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert len({line["clip"] for line in lines}) == len(lines), "a clip has two lines"
    return {line["clip"]: line for line in lines}


def statuses(output: Path) -> dict[str, str]:
    return {path: line["status"] for path, line in read_report(output / "report.jsonl").items()}


def videos(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*.mp4")}


def download(csv: Path, output: Path, source: str, *more: str) -> int:
    """Run the command in this process; return the exit code."""
    return run(main, ["--annotations", str(csv), "--output", str(output), "--url-template", source, *QUICK, *more])


def start(csv: Path, output: Path, source: str, *more: str, code: str = "") -> subprocess.Popen[str]:
    """Start the command in its own session, after some Python ``code``."""
    arguments = ["--annotations", str(csv), "--output", str(output), "--url-template", source, *QUICK, *more]
    code += "; import runpy, sys; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    return subprocess.Popen(
        [sys.executable, "-c", code.lstrip("; "), str(SCRIPT), *arguments],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def resumed(server: VideoServer, name: str) -> list[bool]:
    """Whether each request for a file asked for the rest of it."""
    return [header is not None and header != "bytes=0-" for header in server.asked(name)]


def test_server_answers_become_statuses(server: VideoServer, video: Path, tmp_path: Path) -> None:
    good = video.read_bytes()
    faults = {
        "good": [],
        "-begins-": [],
        "dropped": ["drop"],
        "otherpart": ["drop", "other part"],
        "server500": ["500", "500"],
        "busy429": ["429 1"],
        "busy503": ["503 1"],
        "gone404": ["404"],
        "gone410": ["410"],
        "login401": ["401"],
        "secret403": ["403"],
        "down": ["500"] * 3,
        "page": ["page"],
        "cutshort": ["endless"],
    }
    server.files = dict.fromkeys(faults, good)
    server.versions = {"dropped": '"v1"', "otherpart": '"v1"'}
    server.faults = {name: list(items) for name, items in faults.items()}
    csv, output = write_csv(tmp_path / "train.csv", list(faults)), tmp_path / "out"
    arguments = (csv, output, server.url + "/{youtube_id}.mp4", "--retries", "2", "--workers", "3")
    assert download(*arguments) == 0
    report = read_report(output / "report.jsonl")
    expected = dict.fromkeys(faults, "ok") | dict.fromkeys(("gone404", "gone410"), "gone")
    expected |= dict.fromkeys(("login401", "secret403"), "private")
    expected |= dict.fromkeys(("down", "page", "cutshort"), "failed")
    assert {name: report[clip(name)]["status"] for name in faults} == expected
    ok = {name for name, status in expected.items() if status == "ok"}
    assert videos(output) == {clip(name) for name in ok}
    assert all((output / clip(name)).read_bytes() == good for name in ok)
    assert {name: report[clip(name)]["attempts"] for name in faults} == {
        name: len(items) + 1 if name in ok else len(items) for name, items in faults.items()
    }
    assert report[clip("good")].items() >= {"bytes": len(good), "reason": "", "label": "air drumming"}.items()
    assert "404" in report[clip("gone404")]["reason"] and "500" in report[clip("down")]["reason"]
    assert "not a video" in report[clip("page")]["reason"]
    assert "middle of a packet" in report[clip("cutshort")]["reason"]
    assert resumed(server, "dropped") == [False, True]
    for name in ("busy429", "busy503"):
        first, second = (when for other, _, when in server.requests if other == name)
        assert second - first >= 1.0, "Retry-After was ignored"

    before = {path: path.stat().st_mtime_ns for path in output.rglob("*.mp4")}
    server.requests.clear()
    assert download(*arguments) == 0
    assert {name for name, *_ in server.requests} == {"down", "page", "cutshort"}
    assert {path: path.stat().st_mtime_ns for path in output.rglob("*.mp4") if path in before} == before
    assert {statuses(output)[clip(name)] for name in ("down", "page", "cutshort")} == {"ok"}

    server.requests.clear()
    assert download(*arguments, "--retry-unavailable") == 0
    assert {name for name, *_ in server.requests} == {"gone404", "gone410", "login401", "secret403"}
    assert set(statuses(output).values()) == {"ok"}
    assert not (output / ".partial").exists()


@pytest.mark.parametrize("retries", ["0", "1"], ids=["next run", "same run"])
def test_versions_are_never_mixed(retries: str, server: VideoServer, video: Path, tmp_path: Path) -> None:
    csv, output, source = write_csv(tmp_path / "a.csv", ["abc"]), tmp_path / "out", server.url + "/{youtube_id}.mp4"
    old = video.read_bytes()
    new = old + b"\0\0\0\x10free12345678"  # an empty box of MP4
    server.files, server.versions, server.faults = {"abc": old}, {"abc": '"old"'}, {"abc": ["drop"]}
    server.replacements = {"abc": (new, '"new"')}
    assert download(csv, output, source, "--retries", retries) == 0
    if retries == "0":
        assert statuses(output) == {clip("abc"): "failed"} and not videos(output)
        assert download(csv, output, source, "--retries", "0") == 0
    assert resumed(server, "abc") == [False, True]
    assert (output / clip("abc")).read_bytes() == new


def test_without_version_it_starts_again(server: VideoServer, video: Path, tmp_path: Path) -> None:
    server.files, server.faults, server.ranges = {"abc": video.read_bytes()}, {"abc": ["drop", "drop"]}, True
    csv, output = write_csv(tmp_path / "a.csv", ["abc"]), tmp_path / "out"
    assert download(csv, output, server.url + "/{youtube_id}.mp4") == 0
    assert resumed(server, "abc") == [False, False, False]
    assert (output / clip("abc")).read_bytes() == video.read_bytes()


def test_part_with_all_bytes_is_replaced(server: VideoServer, video: Path, tmp_path: Path) -> None:
    server.files, server.versions = {"abc": video.read_bytes()}, {"abc": '"v"'}
    csv, output = write_csv(tmp_path / "a.csv", ["abc"]), tmp_path / "out"
    folder = output / ".partial" / f"{clip('abc')}.part"
    folder.mkdir(parents=True)
    (folder / "version").write_text('"v"')
    (folder / "video.mp4.part").write_bytes(bytes(len(video.read_bytes())))
    assert download(csv, output, server.url + "/{youtube_id}.mp4") == 0
    assert (output / clip("abc")).read_bytes() == video.read_bytes()


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_killed_run_is_resumed(how: signal.Signals, server: VideoServer, video: Path, tmp_path: Path) -> None:
    names = ["first", "second", "broken", "last"]
    good = video.read_bytes()
    server.files = dict.fromkeys(names, good)
    server.versions, server.faults = dict.fromkeys(names, '"v"'), {"broken": ["hang"]}
    csv, output, source = write_csv(tmp_path / "a.csv", names), tmp_path / "out", server.url + "/{youtube_id}.mp4"
    process = start(csv, output, source, "--workers", "1")
    assert server.reached.wait(120)
    part = output / ".partial" / f"{clip('broken')}.part" / "video.mp4.part"
    deadline = time.monotonic() + 240
    while not (part.exists() and part.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(how)
    _, errors = process.communicate(timeout=240)  # the server still holds its answer back
    assert "Traceback" not in errors, errors
    assert process.returncode == (-9 if how == signal.SIGKILL else 130)
    assert videos(output) == {clip("first"), clip("second")}
    assert statuses(output) == {clip("first"): "ok", clip("second"): "ok"}
    server.requests.clear()
    assert download(csv, output, source) == 0
    assert {name for name, *_ in server.requests} == {"broken", "last"}
    assert resumed(server, "broken") == [True]
    assert videos(output) == {clip(name) for name in names}
    assert all((output / path).read_bytes() == good for path in videos(output))
    assert set(statuses(output).values()) == {"ok"}
    assert not (output / ".partial").exists()


def test_full_disk_ends_the_run(server: VideoServer, video: Path, tmp_path: Path) -> None:
    data = video.read_bytes()
    server.files = {"small": data, "large": data + b"\0" * 100_000}
    csv, output = write_csv(tmp_path / "a.csv", ["small", "large"]), tmp_path / "out"
    limit = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({len(data) + 5000},) * 2)"
    process = start(csv, output, server.url + "/{youtube_id}.mp4", "--workers", "1", code=limit)
    _, errors = process.communicate(timeout=240)
    assert process.returncode == 2, errors
    lines = [line for line in errors.splitlines() if not line.startswith("downloading ")]
    assert len(lines) == 1 and "cannot be written" in lines[0] and str(output) in lines[0]
    assert statuses(output) == {clip("small"): "ok"} and videos(output) == {clip("small")}


@pytest.mark.parametrize("kind", ["folder", "file", "http"])
def test_trim_cuts_the_right_frames(kind: str, server: VideoServer, video: Path, tmp_path: Path) -> None:
    (tmp_path / "mirror").mkdir()
    shutil.copy(video, tmp_path / "mirror" / "-abc.mp4")
    server.files = {"-abc": video.read_bytes()}
    mirror = tmp_path / "mirror"
    source = {"folder": str(mirror), "file": f"file://{mirror}/{{youtube_id}}.mp4", "http": server.url}[kind]
    csv, output = write_csv(tmp_path / "a.csv", ["-abc"], start=1, end=3), tmp_path / "out"
    assert download(csv, output, source, "--trim") == 0
    assert numbers(output / clip("-abc", 1, 3)) == list(range(10, 30))
    with av.open(str(output / clip("-abc", 1, 3))) as container:
        assert [round(frame.time * FPS, 3) for frame in container.decode(video=0)] == list(range(20))
    assert (mirror / "-abc.mp4").read_bytes() == video.read_bytes()
    late = write_csv(tmp_path / "b.csv", ["-abc"], start=7, end=9)
    assert download(late, output, source, "--trim") == 0
    line = read_report(output / "report.jsonl")[clip("-abc", 7, 9)]
    assert line["status"] == "failed" and "no frame at 7 seconds" in line["reason"]


def test_local_mirror_of_real_clips(data: Path, tmp_path: Path) -> None:
    mirror = tmp_path / "mirror" / "arm wrestling"
    mirror.mkdir(parents=True)
    shutil.copy(data / "clips/actions/mmaction2_demo.mp4", mirror / "abcdefghijk_000000_000002.mp4")
    (mirror / "broken_id_0_000000_000002.mp4").write_bytes(b"nothing")
    csv = write_csv(tmp_path / "a.csv", ["abcdefghijk", "broken_id_0", "not-there_0"], "arm wrestling")
    assert download(csv, tmp_path / "out", str(tmp_path / "mirror")) == 0
    name = "arm wrestling/abcdefghijk_000000_000002.mp4"
    assert videos(tmp_path / "out") == {name}
    assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "mirror" / name).read_bytes()
    found = {path.split("/")[1][:5]: status for path, status in statuses(tmp_path / "out").items()}
    assert found == {"abcde": "ok", "broke": "failed", "not-t": "gone"}


@pytest.mark.parametrize(("label", "flat"), [(None, False), ("air drumming", True)])
def test_clips_without_class_folders(label: str | None, flat: bool, video: Path, tmp_path: Path) -> None:
    (tmp_path / "mirror").mkdir()
    shutil.copy(video, tmp_path / "mirror" / "abc_000000_000002.mp4")
    csv = write_csv(tmp_path / "a.csv", ["abc"], label)
    arguments = ["--flat"] if flat else []
    assert download(csv, tmp_path / "out", f"{tmp_path}/mirror", *arguments, "--report", str(tmp_path / "r.jsonl")) == 0
    assert videos(tmp_path / "out") == {"abc_000000_000002.mp4"}
    assert read_report(tmp_path / "r.jsonl")["abc_000000_000002.mp4"]["label"] == label


def test_existing_files_are_kept_and_reported(server: VideoServer, video: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    (output / "air drumming").mkdir(parents=True)
    shutil.copy(video, output / clip("abc"))
    (output / clip("empty")).touch()
    server.files = {"empty": video.read_bytes()}
    csv = write_csv(tmp_path / "a.csv", ["abc", "empty"])
    assert download(csv, output, server.url + "/{youtube_id}.mp4") == 0
    assert [name for name, *_ in server.requests] == ["empty"]
    assert set(statuses(output).values()) == {"ok"}
    assert (output / clip("empty")).read_bytes() == video.read_bytes()


def test_report_is_repaired_or_refused(
    server: VideoServer, video: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.files = {"abc": video.read_bytes()}
    csv, output = write_csv(tmp_path / "a.csv", ["abc"]), tmp_path / "out"
    report = tmp_path / "report.jsonl"
    whole = json.dumps({"clip": "elsewhere.mp4", "status": "ok"})
    report.write_text(f'{whole}\n{{"clip": "air dru')
    arguments = (csv, output, server.url + "/{youtube_id}.mp4", "--report", str(report))
    assert download(*arguments) == 0
    assert set(read_report(report)) == {"elsewhere.mp4", clip("abc")}
    report.write_text("my notes\n")
    capsys.readouterr()
    assert download(*arguments) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and f"{report}:1" in error
    assert report.read_text() == "my notes\n"


def test_parts_share_clips_and_rates(
    server: VideoServer, video: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [f"id{number}" for number in range(9)]
    server.files = dict.fromkeys(names[1:], video.read_bytes())
    server.faults = {names[0]: ["404"]}
    csv, output, address = write_csv(tmp_path / "a.csv", names), tmp_path / "out", server.url + "/{youtube_id}.mp4"
    for number in (3, 1):
        assert download(csv, output, address, "--part", f"{number}/3") == 0
    assert download(csv, output, address, "--merge") == 2
    assert "have no result yet" in capsys.readouterr().err
    assert download(csv, output, address, "--part", "2/3") == 0 and download(csv, output, address, "--merge") == 0
    assert list(statuses(output).items()) == [(clip(name), "gone" if name == names[0] else "ok") for name in names]
    assert sorted(name for name, *_ in server.requests) == names, "each clip is fetched once"
    assert sorted(path.name for path in output.iterdir()) == ["air drumming", "report.jsonl"]
    limits = ["--annotations", str(csv), "--output", str(output), "--yt-dlp", "--rate", "12", "--limit-rate", "1M"]
    args = parse([*limits, "--part", "2/8%4"])
    assert (args.rate, args.limit_rate) == (3, 1 << 18), "of 8 tasks 4 run at once"


def test_second_run_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "out"
    (output / ".partial").mkdir(parents=True)
    with (output / ".partial" / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert download(write_csv(tmp_path / "a.csv", ["abc"]), output, str(tmp_path)) == 2
    assert "another run" in capsys.readouterr().err
    assert (output / ".partial" / "lock").exists()


def test_dead_server_ends_the_run(server: VideoServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    server.stop()
    csv = write_csv(tmp_path / "a.csv", [f"id{number}" for number in range(30)])
    assert download(csv, tmp_path / "out", server.url, "--retries", "1", "--give-up", "5") == 2
    assert "5 clips failed in a row" in capsys.readouterr().err.splitlines()[-1]
    report = read_report(tmp_path / "out" / "report.jsonl").values()
    assert 5 <= len(report) < 30 and {line["attempts"] for line in report} == {2}


def test_very_long_pause_ends_the_run(server: VideoServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    server.faults = {"abc": ["429 86400"]}
    assert download(write_csv(tmp_path / "a.csv", ["abc"]), tmp_path / "out", server.url + "/{youtube_id}.mp4") == 2
    assert "asks to wait 86400 s" in capsys.readouterr().err


def test_workers_share_the_rates(server: VideoServer, video: Path, tmp_path: Path) -> None:
    names = [f"id{number}" for number in range(12)]
    server.files = dict.fromkeys(names, video.read_bytes())
    source, csv = server.url + "/{youtube_id}.mp4", write_csv(tmp_path / "a.csv", names)
    assert download(csv, tmp_path / "out", source, "--workers", "3", "--rate", "10") == 0
    times = sorted(when for *_, when in server.requests)
    assert times[-1] - times[0] >= 0.6  # the busiest worker makes at least three pauses of 0.3 s
    size = video.stat().st_size
    begin = time.monotonic()
    limits = ("--workers", "2", "--limit-rate", str(2 * size))
    assert download(write_csv(tmp_path / "b.csv", names[:2]), tmp_path / "slow", source, *limits) == 0
    assert time.monotonic() - begin >= 0.5


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "--yt-dlp or --url-template"),
        (["--url-template", "/nonexistent/{name}"], "no such folder /nonexistent"),
        (["--url-template", "http://127.0.0.1/{nmae}"], "{nmae}"),
        (["--url-template", "http://127.0.0.1/{name"], "--url-template"),
        (["--url-template", "ftp://127.0.0.1/{name}"], "http://"),
        (["--url-template", "http://127.0.0.1/{name}", "--workers", "0"], "--workers"),
        (["--url-template", "http://127.0.0.1/{name}", "--cookies", "/nonexistent"], "--cookies"),
        (["--url-template", "http://127.0.0.1/{name}", "--cookies", __file__], "Netscape"),
        (["--yt-dlp", "--yt-dlp-args=--no-such-option"], "no such option"),
        (["--yt-dlp", "--yt-dlp-args", '"'], "No closing quotation"),
        (["--yt-dlp", "--trim"], "--trim"),
        (["--yt-dlp", "--limit-rate", "1M"], "--limit-rate"),
    ],
)
def test_wrong_options_end_in_one_line(
    arguments: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    csv = write_csv(tmp_path / "a.csv", ["abc"])
    assert run(main, ["--annotations", str(csv), "--output", str(tmp_path / "out"), *arguments]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and words in error


def test_label_stays_in_the_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for label in ("../up", "/etc", ".."):
        assert download(write_csv(tmp_path / "a.csv", ["abc"], label), tmp_path / "out", str(tmp_path)) == 2
        assert repr(label) in capsys.readouterr().err


def test_templates_are_filled(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    segment = Segment("a/b c", "-x", 4.0, 14.0, "val")
    quoted = fill("http://h/{split}/{label}/{name}", segment, quoted=True)
    assert quoted == "http://h/val/a%2Fb%20c/-x_000004_000014.mp4"
    assert fill("/{youtube_id}_{start:06d}_{end}", segment, quoted=False) == "/-x_000004_14"
    csv = write_csv(tmp_path / "a.csv", ["abc"], None)
    assert download(csv, tmp_path / "out", f"{tmp_path}/{{label}}/{{name}}") == 2
    assert "{label}" in capsys.readouterr().err


@pytest.mark.parametrize("body", ["picture", "playlist", "text"])
def test_other_files_are_refused(body: str, video: Path, tmp_path: Path) -> None:
    path = tmp_path / "file"
    if body == "picture":
        Image.new("RGB", (64, 48)).save(path, "PNG")
    elif body == "playlist":  # FFmpeg would open the file that it names
        path.write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:4\n#EXTINF:4,\n{video}\n#EXT-X-ENDLIST\n")
    else:
        path.write_text("not found")
    with pytest.raises(MediaError, match="not a video"):
        require_video(path)
    require_video(video, whole=True)


@pytest.mark.parametrize(
    ("message", "status"),
    [
        ("Private video. Sign in if you've been granted access to this video", "private"),
        ("Sign in to confirm your age. This video may be inappropriate for some users.", "private"),
        ("Join this channel to get access to members-only content like this video", "private"),
        ("The uploader has not made this video available in your country", "private"),
        ("Video unavailable. This video has been removed by the uploader", "gone"),
        ("Video unavailable. The YouTube account associated with this video has been terminated.", "gone"),
        ("This video is not available", "gone"),
        ("Unable to download webpage: HTTP Error 404: Not Found", "gone"),
        ("Sign in to confirm you’re not a bot. Use --cookies-from-browser or --cookies", "failed"),
        ("unable to download video data: HTTP Error 403: Forbidden", "failed"),
        ("Unable to download API page: HTTP Error 429: Too Many Requests", "failed"),
        ("Unable to download webpage: <urlopen error timed out>", "failed"),
    ],
)
def test_messages_of_pages_become_statuses(message: str, status: str) -> None:
    assert classify(f"[youtube] abc: {message}", page=True) == status


def test_sections_of_pages(server: VideoServer, video: Path, tmp_path: Path) -> None:
    assert shutil.which("ffmpeg"), "yt-dlp cuts with ffmpeg: apt install ffmpeg"
    server.files, server.versions = {"-abc": video.read_bytes()}, {"-abc": '"v"'}
    csv, output = write_csv(tmp_path / "a.csv", ["-abc", "none"], start=1, end=3), tmp_path / "100% out"
    assert download(csv, output, server.url + "/{youtube_id}.mp4", "--yt-dlp", "--workers", "2", "--retries", "0") == 0
    assert statuses(output) == {clip("-abc", 1, 3): "ok", clip("none", 1, 3): "gone"}
    assert videos(output) == {clip("-abc", 1, 3)}
    assert numbers(output / clip("-abc", 1, 3)) == list(range(10, 30))
    assert not (output / ".partial").exists()


def test_interrupt_also_ends_ffmpeg(server: VideoServer, video: Path, tmp_path: Path) -> None:
    server.files, server.versions = {"abc": video.read_bytes()}, {"abc": '"v"'}
    server.faults = {"abc": ["", "hang"]}  # yt-dlp asks first, then ffmpeg
    csv, output = write_csv(tmp_path / "a.csv", ["abc"]), tmp_path / "out"
    process = start(csv, output, server.url + "/{youtube_id}.mp4", "--yt-dlp")
    assert server.reached.wait(120)
    assert any("ffmpeg" in command for command in commands(output))
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=240)  # the server still holds its answer back
    assert process.returncode == 130 and "Traceback" not in errors
    assert not videos(output) and statuses(output) == {}
    assert not commands(output)


def commands(folder: Path) -> list[str]:
    """The command lines of processes that name a folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:
            pass
    return [command for command in found if os.fspath(folder) in command]


def test_help_names_the_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["--help"])
    text = capsys.readouterr().out
    assert end.value.code == 0 and "exit code is 0" in text and "{youtube_id}" in text
