from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import av
import pytest
from camera_server import CameraServer, jpegs

from octvideo.cli import run
from octvideo.cli.predict import main

ROOT = Path(__file__).resolve().parents[2]
CLIP = "clips/actions/mmaction2_part_0.mp4"


def _records(capsys: pytest.CaptureFixture[str]) -> list[dict]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def _probe(path: Path) -> tuple[int, float, tuple[int, int]]:
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.pix_fmt) == ("h264", "yuv420p")
        rate = float(stream.average_rate or 0)
        return sum(1 for _ in container.decode(stream)), rate, (stream.width, stream.height)


def test_one_video(checkpoint: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "out.mp4"
    arguments = [str(data / CLIP), "--checkpoint", str(checkpoint), "--top-k", "3", "--output", str(output)]
    assert run(main, [*arguments, "--json"]) == 0
    [record] = _records(capsys)
    assert record["video"] == str(data / CLIP)
    assert [set(entry) for entry in record["predictions"]] == [{"label", "score"}] * 3
    assert _probe(output) == (32, 30.0, (910, 618)), "twice as large, and a band with the strip"
    assert run(main, arguments[:-2]) == 0
    assert record["predictions"][0]["label"] in capsys.readouterr().out


def test_an_answer_is_one_write(checkpoint: Path, data: Path, tmp_path: Path) -> None:
    """Else ``| head -1`` may end the command before it has written its files."""
    reader, writer = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)  # keeps writes apart
    with reader, writer:
        arguments = [data / CLIP, "--checkpoint", checkpoint, "--output", tmp_path / "o.mp4"]
        command = [sys.executable, "-u", ROOT / "demo" / "predict.py", *arguments]
        assert subprocess.run(command, stdout=writer).returncode == 0
        writer.close()
        writes = list(iter(lambda: reader.recv(1 << 16), b""))
    assert len(writes) == 1 and writes[0].count(b"\n") == 6 and (tmp_path / "o.mp4").is_file()


def test_a_read_only_output_ends_in_one_line(checkpoint: Path, data: Path, tmp_path: Path) -> None:
    """A mount needs root. The predictions are printed all the same."""
    videos, place = tmp_path / "videos", tmp_path / "place"
    videos.mkdir()
    place.mkdir()
    for name in ("a.mp4", "b.mp4"):
        (videos / name).symlink_to((data / CLIP).resolve())
    mount = 'mount --bind "$0" "$0" && mount -o remount,bind,ro "$0"'
    if subprocess.run(["unshare", "-m", "sh", "-c", mount, place], stderr=subprocess.DEVNULL).returncode:
        pytest.skip("this user cannot mount")
    predict = [str(ROOT / "demo" / "predict.py"), str(videos), "--checkpoint", str(checkpoint), "--views", "1"]
    words = [sys.executable, *predict, "--output", str(place), "--json"]
    command = ["unshare", "-m", "sh", "-c", f'{mount} && exec "$@"', str(place), *words]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=240)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert [json.loads(line)["video"] for line in done.stdout.splitlines()] == [
        str(videos / "a.mp4"),
        str(videos / "b.mp4"),
    ]
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert errors == [
        f"error: --output {place / name}: cannot be written (Read-only file system)" for name in ("a.mp4", "b.mp4")
    ]


def test_a_name_with_a_colon_is_no_address(
    checkpoint: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("take:1.mp4").symlink_to((data / CLIP).resolve())
    assert run(main, ["take:1.mp4", "--checkpoint", str(checkpoint), "--output", "named:1.mp4"]) == 0
    assert _probe(tmp_path / "named:1.mp4")[0] == 32


def test_folder_goes_on_after_a_broken_video(
    checkpoint: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "videos"
    (folder / "sub").mkdir(parents=True)
    (folder / "a.mp4").symlink_to((data / CLIP).resolve())
    (folder / "broken.mp4").write_bytes(b"no video")
    (folder / "sub" / "b.avi").symlink_to((data / "weizmann/bend/lena_bend.avi").resolve())
    arguments = [str(folder), "--json", "--checkpoint", str(checkpoint), "--output", str(tmp_path / "out")]
    assert run(main, arguments) == 2
    captured = capsys.readouterr()
    names = [Path(json.loads(line)["video"]).name for line in captured.out.splitlines()]
    assert names == ["a.mp4", "b.avi"]
    assert "broken.mp4" in captured.err and "1 of 3" in captured.err
    assert _probe(tmp_path / "out" / "sub" / "b.mp4") == (64, 25.0, (540, 522))
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.mp4", "sub"]


def test_files_globs_and_folders_together(
    checkpoint: Path,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a.mp4", "clips/b.mp4", "clips/deep/c.mp4"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).symlink_to((data / CLIP).resolve())
    Path("broken.mp4").write_bytes(b"no video")
    sources = ["a.mp4", "broken.mp4", "./a.mp4", "clips/*.mp4", "clips", "missing/*.avi", "gone.mp4"]
    assert run(main, [*sources, "--json", "--views", "1", "--checkpoint", str(checkpoint), "--output", "out"]) == 2
    captured = capsys.readouterr()
    names = [json.loads(line)["video"] for line in captured.out.splitlines()]
    assert names == ["a.mp4", "clips/b.mp4", "clips/deep/c.mp4"]
    errors = [line for line in captured.err.splitlines() if line.startswith("error: ")]
    assert [error.split(": ")[1] for error in errors] == ["missing/*.avi", "gone.mp4", "broken.mp4"]
    assert captured.err.endswith("3 of 6 videos could not be predicted\n")
    assert sorted(str(path.relative_to("out")) for path in Path("out").rglob("*.mp4")) == [
        "a.mp4",
        "b.mp4",
        "deep/c.mp4",
    ]


@pytest.mark.parametrize(
    ("sources", "output", "message"),
    [
        (["{clip}", "{clip}.mp4"], "a.mp4", "the output for several videos is a folder"),
        (["{folder}/mmaction2*.mp4"], "a.mp4", "is a folder; give a folder's name"),
        (["{folder}/none*.mp4"], None, "no video file matches this glob"),
    ],
)
def test_output_and_glob_errors(
    data: Path, sources: list[str], output: str | None, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [source.format(clip=data / CLIP, folder=(data / CLIP).parent) for source in sources]
    assert run(main, names + (["--output", output] if output else [])) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]


def test_own_output_is_not_predicted(
    checkpoint: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.mp4").symlink_to((data / CLIP).resolve())
    arguments = [str(tmp_path), "--json", "--checkpoint", str(checkpoint), "--output", str(tmp_path / "out")]
    for _ in range(2):
        assert run(main, arguments) == 0
        assert [Path(record["video"]).name for record in _records(capsys)] == ["a.mp4"]
    (tmp_path / "a.mp4").unlink()
    assert run(main, arguments) == 2 and "no video files" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing.mp4"], "missing.mp4"),
        (["{clip}", "--output", "a.avi"], "ends in .mp4"),
        (["{clip}", "--views", "1000000000"], "between 1 and 10000"),
        (["{clip}", "--output", "{clip}"], "the input video"),
        (["{clip}", "--checkpoint", "missing.pt"], "missing.pt"),
        (["{clip}", "--checkpoint", ""], "the name of the checkpoint is empty"),
        (["--webcam", "97"], "97"),
        (["--webcam", "http://127.0.0.1:1/stream"], "127.0.0.1:1"),
    ],
)
def test_user_errors_are_one_line(
    data: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert run(main, [argument.format(clip=data / CLIP) for argument in arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ") and message in captured.err and captured.err.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        [""],
        ["--webcam", ""],
        ["a.mp4", "--output", ""],
        ["a.mp4", "--webcam", "0"],
        ["a.mp4", "--top-k", "0"],
        ["a.mp4", "--frames", "3"],
        *(["--webcam", "0", "--max-seconds", value] for value in ("-1", "0", "nan", "inf")),
    ],
)
def test_arguments_that_do_not_go_together(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2


def test_script_from_another_folder(checkpoint: Path, data: Path, tmp_path: Path) -> None:
    """In a process of its own: nothing but JSON on standard output."""
    done = subprocess.run(
        [sys.executable, ROOT / "demo" / "predict.py", data / CLIP, "--json", "--checkpoint", checkpoint],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)["predictions"]) == 5


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_leaves_playable_recording(checkpoint: Path, data: Path, tmp_path: Path, number: signal.Signals) -> None:
    source, output = data / "clips/actions/felixchenfy_exercise.avi", tmp_path / "out.mp4"
    arguments = ["--webcam", source, "--every", "1", "--checkpoint", checkpoint, "--output", output]
    with subprocess.Popen(
        [sys.executable, ROOT / "demo" / "predict.py", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(number)
        _, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors
    assert b"stopped" in errors and b"Traceback" not in errors
    assert 14 <= _probe(output)[0] < 393


def test_signal_leaves_no_partial_video(checkpoint: Path, data: Path, tmp_path: Path) -> None:
    video, output = data / "clips/actions/felixchenfy_exercise.avi", tmp_path / "out.mp4"
    command = [sys.executable, ROOT / "demo" / "predict.py", video, "--checkpoint", checkpoint, "--output", output]
    with subprocess.Popen(command, stderr=subprocess.PIPE) as process:
        while not list(tmp_path.glob(".*.mp4")):
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=240)
    assert process.returncode == 130 and errors.endswith(b"\ninterrupted\n") and errors.count(b"\n") == 3
    assert not list(tmp_path.glob("*out*"))


@pytest.fixture(scope="module")
def camera(data: Path) -> Iterator[str]:
    with CameraServer(jpegs(data / "weizmann/bend/lena_bend.avi")) as server:
        yield server.url


def test_stream_to_its_end(camera: str, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "out.mp4"
    arguments = ["--webcam", camera, "--json", "--checkpoint", str(checkpoint), "--output", str(output)]
    assert run(main, arguments) == 0
    records = _records(capsys)
    assert records[0]["frame"] == 15, "the first prediction is made when the window is full"
    assert [record["frame"] for record in records] == sorted({record["frame"] for record in records})
    assert {record["video"] for record in records} == {camera}
    assert _probe(output)[::2] == (64, (540, 496))


def test_stream_limits(camera: str, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "out.mp4"
    arguments = ["--webcam", camera, "--checkpoint", str(checkpoint), "--output", str(output)]
    assert run(main, [*arguments, "--frames", "9"]) == 0
    assert capsys.readouterr().out.count("\n") == 1, "shorter than the window: one prediction of what there is"
    assert _probe(output)[0] == 9
    assert run(main, [*arguments, "--max-seconds", "0.0001"]) == 0
    assert _probe(output)[0] == 1


def test_webcam_reads_a_file_every_so_many_frames(
    data: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--webcam", str(data / CLIP), "--every", "4", "--json", "--checkpoint", str(checkpoint)]
    assert run(main, arguments) == 0
    assert [record["frame"] for record in _records(capsys)] == [15, 19, 23, 27, 31]


def test_stream_url_as_video_is_refused(camera: str, checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(main, [camera, "--checkpoint", str(checkpoint)]) == 2
    assert "--webcam" in capsys.readouterr().err
