from __future__ import annotations

import fcntl
import os
import sys
import termios
from pathlib import Path

import av
import pytest
from camera_server import CameraServer, number_of, numbered_jpegs

from octvideo.cli import run
from octvideo.cli.predict import main
from octvideo.errors import UserError
from octvideo.inference import sources
from octvideo.inference.sources import open_camera


@pytest.fixture(scope="module")
def jpegs() -> list[bytes]:
    return numbered_jpegs(20)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "_FIRST_WAIT", 0.05)
    monkeypatch.setattr(sources, "_GIVE_UP", 0.5)


def test_a_stream_that_breaks_is_opened_again(
    jpegs: list[bytes], capsys: pytest.CaptureFixture[str], impatient: None
) -> None:
    with CameraServer(jpegs, plan=[(8, "cut"), (0, "cut"), (5, "end")]) as server:
        with open_camera(server.url) as reader:
            assert [number_of(frame) for frame in reader] == [*range(8), *range(5)]
        assert reader.opened == 2
    lines = capsys.readouterr().err.splitlines()
    assert [line.removeprefix("warning: ").removeprefix(f"{server.url}: ") for line in lines] == [
        "lost (Input/output error); opening it again",
        "is back",
        "the stream has ended",
    ]


def test_a_silent_camera_is_opened_again(
    jpegs: list[bytes], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "_TIMEOUT", 3.0)
    with CameraServer(jpegs, plan=[(5, "hang"), (5, "end")]) as server, open_camera(server.url) as reader:
        assert len(list(reader)) == 10
    assert "lost (no data for 3 s); opening it again" in capsys.readouterr().err


@pytest.mark.parametrize("later", [(0, "cut"), (2, "cut")], ids=["refused", "breaks again and again"])
def test_a_lost_camera_is_given_up(jpegs: list[bytes], impatient: None, later: tuple[int, str]) -> None:
    frames = []
    with CameraServer(jpegs, plan=[(5, "cut"), later]) as server, open_camera(server.url) as reader:
        with pytest.raises(UserError, match=r"/stream: lost for 0 s \(.*; check the camera"):
            for frame in reader:
                frames.append(frame)
    assert len(frames) >= 5


@pytest.mark.skipif(sys.platform != "linux", reason="a device of Linux")
def test_a_busy_camera_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A terminal stands for the camera: where it is in exclusive use, it answers as a camera does, but not to root."""
    master, terminal = os.openpty()
    device = os.ttyname(terminal)
    fcntl.ioctl(terminal, termios.TIOCEXCL)
    os.chmod(device, 0o666)
    monkeypatch.setattr(sources, "_device", lambda number: (device, "v4l2"))
    user = os.geteuid()
    try:
        if user == 0:
            os.seteuid(65534)
        with pytest.raises(OSError, match="busy"):
            os.open(device, os.O_RDWR)
        assert run(main, ["--webcam", "0"]) == 2
    finally:
        os.seteuid(user)
        os.close(master)
        os.close(terminal)
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err == (
        f"error: --webcam 0: {device}: cannot be opened as a video (another program uses it); "
        "pass the number of another camera, or the URL of a stream\n"
    )


def test_a_lost_camera_leaves_the_recording(
    jpegs: list[bytes], checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], impatient: None
) -> None:
    output = tmp_path / "out.mp4"
    with CameraServer(jpegs, plan=[(9, "end"), (9, "cut"), (0, "cut")]) as server:
        assert run(main, ["--webcam", server.url, "--checkpoint", str(checkpoint), "--output", str(output)]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith(f"error: {server.url}: lost") and "Traceback" not in error
    with av.open(str(output)) as container:
        assert sum(1 for _ in container.decode(video=0)) == 9


def test_no_window_reaches_over_a_gap(
    jpegs: list[bytes], checkpoint: Path, capsys: pytest.CaptureFixture[str], impatient: None
) -> None:
    """Ten frames and ten more are fewer than the 15 of a window, twice."""
    with CameraServer(jpegs, plan=[(1, "end"), (10, "cut"), (10, "end")]) as server:
        assert run(main, ["--webcam", server.url, "--json", "--checkpoint", str(checkpoint)]) == 0
    assert '"frame": 20' in capsys.readouterr().out
