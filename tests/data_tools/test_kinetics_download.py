"""Downloading Kinetics from a real server on this machine: what is had, what is not, and what a broken run leaves."""

from __future__ import annotations

import fcntl
import json
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import av
import numpy as np
import pytest
from video_server import VideoServer

from data_tools.kinetics.download import main
from data_tools.kinetics.jobs import Stopped
from data_tools.kinetics.media import MediaError, check_video
from data_tools.kinetics.pace import Gone, Pacer, Private, Transient
from data_tools.kinetics.transfers import fill
from data_tools.kinetics.youtube import PAGE, classify
from octvideo.cli import run
from octvideo.data.annotations import Segment

ROOT = Path(__file__).resolve().parents[2]

SCRIPT = ROOT / "data_tools" / "kinetics_download.py"
QUICK = ("--backoff", "0.01")
FPS = 10


def levels(count: int) -> np.ndarray:
    """``count`` frames (T, 96, 128, 3) whose mean brightness tells their number: 10 + 5 * number."""
    noise = np.random.default_rng(0).integers(-9, 10, (count, 96, 128, 1))
    means = 10 + 5 * np.arange(count)[:, None, None, None]
    return np.broadcast_to(means + noise, (count, 96, 128, 3)).astype(np.uint8)


def numbers(path: Path) -> list[int]:
    """The numbers of the frames of a video made of ``levels``."""
    with av.open(str(path)) as container:
        return [round((frame.to_ndarray(format="rgb24").mean() - 10) / 5) for frame in container.decode(video=0)]


@pytest.fixture(scope="module")
def video(make_video: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four seconds; bytes enough to break off in the middle of a frame."""
    return make_video(tmp_path_factory.mktemp("whole") / "v.mp4", levels(40), fps=FPS, gop=8)


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def server() -> Iterator[VideoServer]:
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


def videos(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*.mp4")}


def download(csv: Path, output: Path, source: str, *more: str) -> int:
    """Runs the command in this process; the exit code."""
    return run(main, ["--annotations", str(csv), "--output", str(output), "--url-template", source, *QUICK, *more])


def started(csv: Path, output: Path, source: str, *more: str) -> subprocess.Popen[str]:
    """Runs the command in a process and a session of its own, so that what is killed is this and nothing else."""
    command = [
        sys.executable,
        str(SCRIPT),
        "--annotations",
        str(csv),
        "--output",
        str(output),
        "--url-template",
        source,
    ]
    return subprocess.Popen(
        [*command, *QUICK, *more], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def test_every_answer_of_a_server_ends_as_it_should(server: VideoServer, video: Path, tmp_path: Path) -> None:
    good = video.read_bytes()
    faults = {
        "good": [],
        "-begins-": [],
        "dropped": ["drop"],
        "server500": ["500", "500"],
        "busy429": ["429 1"],
        "busy503": ["503 1"],
        "cutshort": ["endless"],
        "onepage": ["page"],
        "gone404": ["404"],
        "gone410": ["410"],
        "login401": ["401"],
        "secret403": ["403"],
        "down": ["500"] * 3,
        "nevervideo": ["page"] * 3,
    }
    server.files = dict.fromkeys(faults, good)
    server.versions = {"dropped": '"v1"'}
    server.faults = {name: list(items) for name, items in faults.items()}
    csv, output = write_csv(tmp_path / "train.csv", list(faults)), tmp_path / "out"
    arguments = (csv, output, server.url + "/{youtube_id}.mp4", "--retries", "2", "--workers", "3")
    assert download(*arguments) == 0
    report = read_report(output / "report.jsonl")
    expected = dict.fromkeys(faults, "ok") | dict.fromkeys(("gone404", "gone410"), "gone")
    expected |= dict.fromkeys(("login401", "secret403"), "private") | dict.fromkeys(("down", "nevervideo"), "failed")
    assert {name: report[clip(name)]["status"] for name in faults} == expected
    ok = {name for name, status in expected.items() if status == "ok"}
    assert videos(output) == {clip(name) for name in ok}
    assert all((output / clip(name)).read_bytes() == good for name in ok)
    attempts = {name: report[clip(name)]["attempts"] for name in faults}
    assert attempts == {name: min(3, len(items) + (expected[name] == "ok")) or 1 for name, items in faults.items()}
    assert attempts["good"] == 1 and attempts["server500"] == 3 and attempts["gone404"] == 1
    assert report[clip("good")].items() >= {"bytes": len(good), "reason": "", "label": "air drumming"}.items()
    assert "404" in report[clip("gone404")]["reason"] and "500" in report[clip("down")]["reason"]
    assert "not a video" in report[clip("nevervideo")]["reason"]
    assert server.asked("dropped") == [None, f"bytes={len(good) // 2}-"], "not resumed"
    for name in ("busy429", "busy503"):
        first, second = (when for other, _, when in server.requests if other == name)
        assert second - first >= 1.0, "Retry-After was not honoured"

    before = {path: path.stat().st_mtime_ns for path in output.rglob("*.mp4")}
    server.requests.clear()
    assert download(*arguments) == 0
    assert {name for name, *_ in server.requests} == {"down", "nevervideo"}
    assert {path: path.stat().st_mtime_ns for path in output.rglob("*.mp4") if path in before} == before
    assert read_report(output / "report.jsonl")[clip("down")]["status"] == "ok"

    server.requests.clear()
    assert download(*arguments, "--retry-unavailable") == 0
    assert {name for name, *_ in server.requests} == {"gone404", "gone410", "login401", "secret403"}
    assert all(line["status"] == "ok" for line in read_report(output / "report.jsonl").values())
    assert not (output / ".partial").exists()


def test_a_part_is_not_put_before_another_version(server: VideoServer, video: Path, tmp_path: Path) -> None:
    csv, output, source = write_csv(tmp_path / "a.csv", ["abc"]), tmp_path / "out", server.url + "/{youtube_id}.mp4"
    old = video.read_bytes()
    server.files, server.versions, server.faults = {"abc": old}, {"abc": '"old"'}, {"abc": ["drop"]}
    assert download(csv, output, source, "--retries", "0") == 0
    assert not videos(output) and read_report(output / "report.jsonl")[clip("abc")]["status"] == "failed"
    new = old + b"\0\0\0\x10free12345678"  # an empty box of MP4
    server.files, server.versions = {"abc": new}, {"abc": '"new"'}
    assert download(csv, output, source, "--retries", "0") == 0
    assert server.asked("abc") == [None, f"bytes={len(old) // 2}-"]
    assert (output / clip("abc")).read_bytes() == new


def test_without_a_version_it_begins_again(server: VideoServer, video: Path, tmp_path: Path) -> None:
    server.files, server.faults = {"abc": video.read_bytes()}, {"abc": ["drop", "drop"]}
    csv, output = write_csv(tmp_path / "a.csv", ["abc"]), tmp_path / "out"
    assert download(csv, output, server.url + "/{youtube_id}.mp4") == 0
    assert server.asked("abc") == [None, None, None]
    assert (output / clip("abc")).read_bytes() == video.read_bytes()


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_an_ended_run_leaves_nothing_half_and_is_completed(
    how: signal.Signals, server: VideoServer, video: Path, tmp_path: Path
) -> None:
    names = ["first", "second", "broken", "last"]
    good = video.read_bytes()
    server.files = dict.fromkeys(names, good)
    server.versions, server.faults = dict.fromkeys(names, '"v"'), {"broken": ["hang"]}
    csv, output, source = write_csv(tmp_path / "a.csv", names), tmp_path / "out", server.url + "/{youtube_id}.mp4"
    process = started(csv, output, source, "--workers", "1")
    assert server.reached.wait(120)
    deadline = time.monotonic() + 240
    part = output / ".partial" / f"{clip('broken')}.part"
    while not (part.exists() and part.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(how)
    if how != signal.SIGKILL:
        server.release.set()
    out, err = process.communicate(timeout=240)
    assert "Traceback" not in err, err
    assert process.returncode == (-9 if how == signal.SIGKILL else 130)
    assert videos(output) == {clip("first"), clip("second")}
    assert all((output / path).read_bytes() == good for path in videos(output))
    report = read_report(output / "report.jsonl")
    assert {path: line["status"] for path, line in report.items()} == {clip("first"): "ok", clip("second"): "ok"}
    server.requests.clear()
    assert download(csv, output, source) == 0
    assert {name for name, *_ in server.requests} == {"broken", "last"}
    assert server.asked("broken")[0] is not None, "what had come was thrown away"
    assert videos(output) == {clip(name) for name in names}
    assert all((output / path).read_bytes() == good for path in videos(output))
    assert all(line["status"] == "ok" for line in read_report(output / "report.jsonl").values())
    assert not (output / ".partial").exists()


def test_a_full_disk_ends_the_run_in_one_line(server: VideoServer, video: Path, tmp_path: Path) -> None:
    data = video.read_bytes()
    assert len(data) > 6000
    server.files = {"small": data, "large": data + b"\0" * 100_000}
    csv, output = write_csv(tmp_path / "a.csv", ["small", "large"]), tmp_path / "out"
    limit = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({len(data) + 5000},) * 2)"
    code = f"{limit}; import runpy, sys; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    arguments = ["--annotations", csv, "--output", output, "--url-template", server.url + "/{youtube_id}.mp4"]
    command = [sys.executable, "-c", code, SCRIPT, *arguments, "--workers", "1"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    errors = [line for line in done.stderr.splitlines() if not line.startswith("downloading ")]
    assert len(errors) == 1 and "cannot be written" in errors[0] and str(output) in errors[0]
    assert list(read_report(output / "report.jsonl")) == [clip("small")]
    assert videos(output) == {clip("small")}


@pytest.mark.parametrize("kind", ["folder", "file", "http"])
def test_trim_cuts_whole_videos_at_the_right_frames(
    kind: str, server: VideoServer, video: Path, tmp_path: Path
) -> None:
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


def test_a_local_mirror_of_real_clips(data: Path, tmp_path: Path) -> None:
    mirror = tmp_path / "mirror" / "arm wrestling"
    mirror.mkdir(parents=True)
    shutil.copy(data / "clips/actions/mmaction2_demo.mp4", mirror / "abcdefghijk_000000_000002.mp4")
    (mirror / "broken_id_0_000000_000002.mp4").write_bytes(b"nothing")
    csv = write_csv(tmp_path / "a.csv", ["abcdefghijk", "broken_id_0", "not-there_0"], "arm wrestling")
    assert download(csv, tmp_path / "out", str(tmp_path / "mirror")) == 0
    name = "arm wrestling/abcdefghijk_000000_000002.mp4"
    assert videos(tmp_path / "out") == {name}
    assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "mirror" / name).read_bytes()
    statuses = {
        path.split("/")[1][:5]: line["status"] for path, line in read_report(tmp_path / "out/report.jsonl").items()
    }
    assert statuses == {"abcde": "ok", "broke": "failed", "not-t": "gone"}


@pytest.mark.parametrize(("label", "flat"), [(None, False), ("air drumming", True)])
def test_without_folders_of_classes(label: str | None, flat: bool, video: Path, tmp_path: Path) -> None:
    (tmp_path / "mirror").mkdir()
    shutil.copy(video, tmp_path / "mirror" / "abc_000000_000002.mp4")
    csv = write_csv(tmp_path / "a.csv", ["abc"], label)
    arguments = ["--flat"] if flat else []
    assert download(csv, tmp_path / "out", f"{tmp_path}/mirror", *arguments, "--report", str(tmp_path / "r.jsonl")) == 0
    assert videos(tmp_path / "out") == {"abc_000000_000002.mp4"}
    assert read_report(tmp_path / "r.jsonl")["abc_000000_000002.mp4"]["label"] == label


def test_files_that_were_there_are_kept_and_reported(server: VideoServer, video: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    (output / "air drumming").mkdir(parents=True)
    shutil.copy(video, output / clip("abc"))
    (output / clip("empty")).touch()
    server.files = {"empty": video.read_bytes()}
    csv = write_csv(tmp_path / "a.csv", ["abc", "empty"])
    assert download(csv, output, server.url + "/{youtube_id}.mp4") == 0
    assert [name for name, *_ in server.requests] == ["empty"]
    assert {line["status"] for line in read_report(output / "report.jsonl").values()} == {"ok"}
    assert (output / clip("empty")).read_bytes() == video.read_bytes()


def test_a_line_that_was_cut_off_is_repaired_and_another_file_is_refused(
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


def test_one_run_at_a_time(video: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "out"
    (output / ".partial").mkdir(parents=True)
    with (output / ".partial" / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert download(write_csv(tmp_path / "a.csv", ["abc"]), output, str(tmp_path)) == 2
    assert "another run" in capsys.readouterr().err
    assert (output / ".partial" / "lock").exists()


def test_a_dead_server_ends_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    server = VideoServer()
    server.stop()
    csv = write_csv(tmp_path / "a.csv", [f"id{number}" for number in range(30)])
    assert download(csv, tmp_path / "out", server.url, "--retries", "1", "--give-up", "5") == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "5 clips failed in a row" in error
    assert 5 <= len(read_report(tmp_path / "out" / "report.jsonl")) < 30


def test_a_server_that_asks_for_a_day_ends_the_run(
    server: VideoServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.faults = {"abc": ["429 86400"]}
    assert download(write_csv(tmp_path / "a.csv", ["abc"]), tmp_path / "out", server.url + "/{youtube_id}.mp4") == 2
    assert "asks to wait 86400 s" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "--yt-dlp or --url-template"),
        (["--url-template", "/nonexistent/{name}"], "no folder /nonexistent"),
        (["--url-template", "http://127.0.0.1/{nmae}"], "{nmae}"),
        (["--url-template", "http://127.0.0.1/{name"], "--url-template"),
        (["--url-template", "ftp://127.0.0.1/{name}"], "http://"),
        (["--url-template", "http://127.0.0.1/{name}", "--workers", "0"], "--workers"),
        (["--url-template", "http://127.0.0.1/{name}", "--cookies", "/nonexistent"], "--cookies"),
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


def test_a_label_cannot_leave_the_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for label in ("../up", "/etc", ".."):
        assert download(write_csv(tmp_path / "a.csv", ["abc"], label), tmp_path / "out", str(tmp_path)) == 2
        assert repr(label) in capsys.readouterr().err


def test_a_template_with_a_label_needs_labels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    csv = write_csv(tmp_path / "a.csv", ["abc"], None)
    assert download(csv, tmp_path / "out", f"{tmp_path}/{{label}}/{{name}}") == 2
    assert "{label}" in capsys.readouterr().err


def test_templates() -> None:
    segment = Segment("a/b c", "-x", 4.0, 14.0, "val")
    assert (
        fill("http://h/{split}/{label}/{name}", segment, quoted=True) == "http://h/val/a%2Fb%20c/-x_000004_000014.mp4"
    )
    assert fill("/{youtube_id}_{start:06d}_{end}", segment, quoted=False) == "/-x_000004_14"
    assert fill(PAGE, segment, quoted=True) == "https://www.youtube.com/watch?v=-x"


@pytest.mark.parametrize("body", ["picture", "playlist", "text"])
def test_what_is_not_a_video_is_refused(body: str, video: Path, tmp_path: Path) -> None:
    from PIL import Image

    path = tmp_path / "file"
    if body == "picture":
        Image.new("RGB", (64, 48)).save(path, "PNG")
    elif body == "playlist":  # it would have FFmpeg open another file
        path.write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:4\n#EXTINF:4,\n{video}\n#EXT-X-ENDLIST\n")
    else:
        path.write_text("not found")
    with pytest.raises(MediaError, match="not a video"):
        check_video(path)
    check_video(video, whole=True)


def test_the_pace_is_kept_by_all_threads_together() -> None:
    pacer = Pacer(threading.Event(), rate=50, limit=1_000_000)
    begin = time.monotonic()
    threads = [threading.Thread(target=lambda: [pacer.begin() for _ in range(4)]) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert time.monotonic() - begin >= 11 / 50
    begin = time.monotonic()
    for _ in range(3):
        pacer.spend(50_000)
    assert time.monotonic() - begin >= 0.15
    pacer.stop.set()
    with pytest.raises(Stopped):
        pacer.begin()


SAYS = "ERROR: [youtube] abc: "


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        ("Private video. Sign in if you've been granted access to this video", Private),
        ("Sign in to confirm your age. This video may be inappropriate for some users.", Private),
        ("Join this channel to get access to members-only content like this video", Private),
        ("The uploader has not made this video available in your country", Private),
        ("Video unavailable. This video has been removed by the uploader", Gone),
        ("Video unavailable. The YouTube account associated with this video has been terminated.", Gone),
        ("This video is not available", Gone),
        ("Unable to download webpage: HTTP Error 404: Not Found", Gone),
        ("Sign in to confirm you’re not a bot. Use --cookies-from-browser or --cookies", Transient),
        ("unable to download video data: HTTP Error 403: Forbidden", Transient),
        ("Unable to download API page: HTTP Error 429: Too Many Requests", Transient),
        ("Unable to download webpage: <urlopen error timed out>", Transient),
    ],
)
def test_what_yt_dlp_says(message: str, kind: type[Exception]) -> None:
    error = classify(f"WARNING: something\n{SAYS}{message}\n")
    assert type(error) is kind
    assert message[:40] in str(error)


def test_yt_dlp_itself(server: VideoServer, video: Path, tmp_path: Path) -> None:
    assert shutil.which("ffmpeg"), "yt-dlp cuts with ffmpeg: apt install ffmpeg"
    server.files = {"-abc": video.read_bytes()}
    server.versions = {"-abc": '"v"'}
    csv, output = write_csv(tmp_path / "a.csv", ["-abc", "none"], start=1, end=3), tmp_path / "100% out"
    assert download(csv, output, server.url + "/{youtube_id}.mp4", "--yt-dlp", "--workers", "2", "--retries", "0") == 0
    report = read_report(output / "report.jsonl")
    assert {path: line["status"] for path, line in report.items()} == {
        clip("-abc", 1, 3): "ok",
        clip("none", 1, 3): "gone",
    }, report
    assert videos(output) == {clip("-abc", 1, 3)}
    assert numbers(output / clip("-abc", 1, 3)) == list(range(10, 30))
    assert not (output / ".partial").exists()


def test_ctrl_c_ends_yt_dlp_too(server: VideoServer, video: Path, tmp_path: Path) -> None:
    server.files, server.faults = {"abc": video.read_bytes()}, {"abc": ["hang"]}
    csv, output = write_csv(tmp_path / "a.csv", ["abc"]), tmp_path / "out"
    process = started(csv, output, server.url + "/{youtube_id}.mp4", "--yt-dlp")
    assert server.reached.wait(120)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=240)  # the server still holds the answer back
    assert process.returncode == 130 and "Traceback" not in errors
    assert not videos(output) and read_report(output / "report.jsonl") == {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            assert str(output).encode() not in (folder / "cmdline").read_bytes(), "yt-dlp goes on"
        except (FileNotFoundError, ProcessLookupError):
            pass


def test_help_says_the_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["--help"])
    text = capsys.readouterr().out
    assert end.value.code == 0 and "exit\ncode is 0" in text and "{youtube_id}" in text
