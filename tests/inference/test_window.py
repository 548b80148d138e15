"""The window of ``predict --webcam``, on a virtual X server."""

from __future__ import annotations

import importlib.util
import io
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from camera_server import CameraServer, jpegs
from PIL import Image
from processes import ROOT, environment

from octvideo.inference.overlay import annotate
from octvideo.inference.prediction import Prediction
from octvideo.inference.window import open_window

if TYPE_CHECKING:
    from x_display import XDisplay

TITLE = "octvideo"
LABEL = "прыжок Ł"
ENDLESS = 1_000_000
HANGS = 120.0  # seconds after which a test hangs


@pytest.fixture(scope="module")
def display() -> Iterator[XDisplay]:
    missing = [name for name in ("cv2", "Xlib") if importlib.util.find_spec(name) is None]
    missing += [] if shutil.which("Xvfb") else ["Xvfb"]
    if missing and not os.environ.get("CI"):
        pytest.skip(f"{', '.join(missing)} missing")
    from x_display import XDisplay

    with XDisplay() as display:
        yield display


@pytest.fixture(scope="module")
def pictures(data: Path) -> list[bytes]:
    return jpegs(data / "weizmann/bend/lena_bend.avi")


@pytest.fixture(scope="module")
def certain(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of a network that always gives one answer, with letters beyond ASCII."""
    payload = torch.load(checkpoint, weights_only=True)
    [bias] = [value for name, value in payload["model"].items() if name.endswith("proj.bias")]
    bias[1] += 100
    payload["classes"][1] = LABEL
    path = tmp_path_factory.mktemp("weights") / "certain.pt"
    torch.save(payload, path)
    return path


class Command:
    """``octvideo predict --webcam`` with a window. A context manager."""

    def __init__(self, display: str | None, source: object, checkpoint: Path, *options: str) -> None:
        arguments = ["--webcam", str(source), "--checkpoint", str(checkpoint), "--backend", "torch", *options]
        self.process = subprocess.Popen(
            [sys.executable, str(ROOT / "demo" / "predict.py"), *arguments],
            env={**environment(), "DISPLAY": display or "", "PYTHONIOENCODING": "utf-8"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
        )

    def __enter__(self) -> Command:
        return self

    def __exit__(self, *error: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()

    def result(self) -> tuple[int, str, list[str]]:
        """Wait for the end and return the exit code, standard output and the lines of standard error."""
        output, errors = self.process.communicate(timeout=HANGS)
        return self.process.returncode, output, errors.splitlines()


def _until(condition: Callable[[], object], command: Command) -> None:
    end = time.monotonic() + HANGS
    while not condition():
        assert command.process.poll() is None, command.result()
        assert time.monotonic() < end, "timed out"
        time.sleep(0.05)


def _difference(screen: np.ndarray, frames: list[np.ndarray], label: str = LABEL) -> float:
    """Return the mean difference, 0 to 255, between the window and the most similar of the frames with an answer."""
    expected = [annotate(frame, [Prediction(label, 1.0)]).astype(int) for frame in frames]
    height, width = expected[0].shape[:2]
    shown = screen[60:height, :width].astype(int)  # below the line of text
    return min(float(abs(shown - picture[60:]).mean()) for picture in expected)


def test_the_window_shows_the_stream_and_takes_keys(display: XDisplay, pictures: list[bytes], certain: Path) -> None:
    frames = [np.asarray(Image.open(io.BytesIO(picture)))[:, ::-1] for picture in pictures]
    mirrored, frames = frames, [frame[:, ::-1].copy() for frame in frames]
    with (
        CameraServer(pictures, fps=25, plan=[(ENDLESS, "cut")]) as server,
        Command(display.name, server.url, certain, "--top-k", "1") as command,
    ):
        _until(lambda: display.window(TITLE) and _difference(display.screenshot(), frames) < 3, command)
        screen = display.screenshot()
        assert _difference(screen, mirrored) > 6
        assert _difference(screen, frames, "bend") > _difference(screen, frames) + 0.3
        display.press(TITLE, "m")
        _until(lambda: _difference(display.screenshot(), mirrored) < 3, command)
        display.press(TITLE, "space")
        _until(lambda: np.array_equal(*_two_screens(display)), command)
        display.press(TITLE, "space")
        _until(lambda: not np.array_equal(*_two_screens(display)), command)
        assert server.connected == 1
        display.press(TITLE, "q")
        code, output, errors = command.result()
        _until_released(server)
    assert (code, output) == (0, "")
    assert errors[2].startswith("keys in the window: q quits")
    assert not any("Traceback" in line or "QFont" in line for line in errors)


def _two_screens(display: XDisplay) -> tuple[np.ndarray, np.ndarray]:
    """Return what is shown now and 20 frames later, without the line of text."""
    first = display.screenshot()
    time.sleep(0.8)
    return first[60:], display.screenshot()[60:]


def _until_released(server: CameraServer) -> None:
    end = time.monotonic() + HANGS
    while server.connected:
        assert time.monotonic() < end, "the camera is still in use"
        time.sleep(0.05)


def test_closing_the_window_ends_the_command(display: XDisplay, pictures: list[bytes], checkpoint: Path) -> None:
    with (
        CameraServer(pictures, fps=25, plan=[(ENDLESS, "cut")]) as server,
        Command(display.name, server.url, checkpoint) as command,
    ):
        _until(lambda: display.window(TITLE), command)
        display.close_window(TITLE)
        code, _, errors = command.result()
        _until_released(server)
    assert code == 0 and not any("Traceback" in line for line in errors)


def test_the_window_stays_while_a_stream_is_away(display: XDisplay, pictures: list[bytes], checkpoint: Path) -> None:
    plan = [(ENDLESS, "cut"), (40, "cut"), (0, "cut"), (40, "end")]
    with (
        CameraServer(pictures, fps=25, plan=plan) as server,
        Command(display.name, server.url, checkpoint) as command,
    ):
        _until(lambda: len(server.plan) == 1, command)  # the last connection is there
        assert display.window(TITLE)
        code, _, errors = command.result()
    assert code == 0 and not display.window(TITLE)
    assert [line.rpartition(": ")[2] for line in errors[-3:]] == [
        "lost (Input/output error); opening it again",
        "is back",
        "the stream has ended",
    ]


def test_a_file_is_played_to_its_end(display: XDisplay, data: Path, checkpoint: Path) -> None:
    with Command(display.name, data / "weizmann/bend/lena_bend.avi", checkpoint) as command:
        _until(lambda: display.window(TITLE), command)
        assert command.result()[0] == 0


def test_a_missing_camera_is_one_line(display: XDisplay, checkpoint: Path) -> None:
    with Command(display.name, 9, checkpoint) as command:
        code, output, [error] = command.result()
    assert (code, output) == (2, "") and error.startswith("error: --webcam 9: /dev/video9")


def test_without_a_display_there_is_no_window(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("cv2")
    for name in ("", ":9999"):
        monkeypatch.setenv("DISPLAY", name)
        assert open_window() is None
    assert capsys.readouterr() == ("", "")


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("DISPLAY", ":9999")
    monkeypatch.setitem(sys.modules, "cv2", None)  # as if it were not installed
    assert open_window() is None
    error = capsys.readouterr().err
    assert error.startswith("no window (") and error.endswith("): pip install 'octvideo[window]'\n")
