"""The page, served by the real command, and a real browser."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import av
import pytest
from processes import environment

import octvideo

pytest.importorskip("gradio")
from playwright.sync_api import Page, Playwright, sync_playwright  # noqa: E402

ASSETS = Path(octvideo.__file__).parent / "assets"
PATIENCE = 120_000  # ms; a busy machine with two cores loads networks in the meantime


class App:
    """A running ``octvideo app``.

    Attributes:
        address: of the page.
        log: file of its standard error.
    """

    def __init__(self, folder: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.address, self.log = f"http://127.0.0.1:{self.port}", folder / "stderr.txt"
        command = [sys.executable, "-m", "octvideo", "app", "--port", str(self.port), "--backend", "torch"]
        with self.log.open("w", encoding="utf-8") as log:
            self._process = subprocess.Popen(
                [*command, "--device", "cpu"],
                env={**environment(), "GRADIO_TEMP_DIR": str(folder / "uploads")},
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line.startswith(self.address), self.log.read_text(encoding="utf-8")

    def close(self) -> None:
        self._process.terminate()
        self._process.communicate(timeout=60)


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    """The page with the networks that ship."""
    running = App(tmp_path_factory.mktemp("app"))
    yield running
    running.close()


# Not for the session: its event loop would stay in the main thread, where the tests that follow start processes.
@pytest.fixture(scope="module")
def playwright() -> Iterator[Playwright]:
    with sync_playwright() as driver:
        yield driver


@pytest.fixture(scope="module")
def open_page(playwright: Playwright, app: App) -> Iterator[Callable[..., Page]]:
    """Opens the page in headless Chromium: ``open_page(width=1280, camera=None)``.

    ``camera`` is an .mjpeg that the browser shows as its camera; without it there is none.
    """
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        if os.environ.get("CI"):
            pytest.fail("Chromium is missing, and CI must have it")
        pytest.skip("Chromium is missing")
    browsers = []

    def open_(width: int = 1280, camera: Path | None = None) -> Page:
        fake = ["--use-fake-device-for-media-stream", f"--use-file-for-fake-video-capture={camera}"] if camera else []
        browser = playwright.chromium.launch(
            executable_path=chromium, args=["--use-fake-ui-for-media-stream", *fake], timeout=PATIENCE
        )
        browsers.append(browser)
        page = browser.new_page(viewport={"width": width, "height": 900})
        page.set_default_timeout(PATIENCE)
        page.goto(app.address)
        page.get_by_role("button", name="Predict").wait_for()
        return page

    yield open_
    for browser in browsers:
        browser.close()


@pytest.fixture(scope="module")
def camera_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clip as Chromium takes it for a camera."""
    path = tmp_path_factory.mktemp("camera") / "jack.mjpeg"
    with av.open(str(ASSETS / "example_jack.mp4")) as source, av.open(str(path), "w", format="mjpeg") as target:
        stream = target.add_stream("mjpeg", rate=25)
        stream.width = stream.height = source.streams.video[0].width
        stream.pix_fmt = "yuvj420p"
        for frame in source.decode(video=0):
            target.mux(stream.encode(frame.reformat(format="yuvj420p")))
        target.mux(stream.encode())
    return path
