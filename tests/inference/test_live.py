from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest
from camera_server import CameraServer, number_of, numbered_jpegs

from octvideo.errors import UserError
from octvideo.inference import Predictor, sources
from octvideo.inference.live import LiveStream, Picture
from octvideo.inference.prediction import Prediction

T = TypeVar("T")
ENOUGH = 60.0  # seconds after which a test hangs


@pytest.fixture(scope="module")
def jpegs() -> list[bytes]:
    return numbered_jpegs(20)


def test_only_the_newest_picture_is_kept(jpegs: list[bytes], checkpoint: Path) -> None:
    with CameraServer(jpegs) as server, _stream(server, Predictor(checkpoint)) as stream:
        while not stream.ended:
            threading.Event().wait(0.02)
        pictures = _until_it_ends(stream)
    assert [number_of(picture.frame) for picture in pictures] == [19]
    assert not _threads()


class _Slow(Predictor):
    """Predicts as often as it may."""

    started, may_go = threading.Event(), threading.Semaphore(0)

    def predict_window(self, *arguments: object, **options: object) -> list[Prediction]:
        self.started.set()
        assert self.may_go.acquire(timeout=ENOUGH)
        return super().predict_window(*arguments, **options)  # type: ignore[arg-type]


def test_a_slow_network_stops_no_picture(jpegs: list[bytes], checkpoint: Path) -> None:
    predictor = _Slow(checkpoint)
    with CameraServer(jpegs, fps=50, plan=[(10_000, "cut")]) as server, _stream(server, predictor) as stream:
        assert predictor.started.wait(ENOUGH)
        during = [picture for _ in range(40) if (picture := stream.next_picture(ENOUGH))]
        assert len(during) == 40 and stream.answer is None
        predictor.may_go.release()
        first = _wait(lambda: stream.answer)
        predictor.may_go.release(10_000)
        second = _wait(lambda: stream.answer if stream.answer is not first else None)
    assert first.arrived <= during[0].arrived < during[-1].arrived <= second.arrived, "no clip of the time between"


def test_a_camera_that_hangs_does_not_stop_the_end(jpegs: list[bytes], checkpoint: Path) -> None:
    with CameraServer(jpegs, plan=[(5, "hang")]) as server:
        with _stream(server, Predictor(checkpoint)) as stream:
            while number_of(_wait(lambda: stream.next_picture(1)).frame) != 4:
                pass
        [capture] = _threads()  # it waits for the camera
        server.released.set()
        capture.join(ENOUGH)
        assert not capture.is_alive()


def test_a_stream_that_cannot_be_opened_is_a_user_error(jpegs: list[bytes], checkpoint: Path) -> None:
    with CameraServer(jpegs, plan=[(0, "cut")]) as server, _stream(server, Predictor(checkpoint)) as stream:
        with pytest.raises(UserError, match="cannot be opened as a video"):
            _until_it_ends(stream)


def test_no_clip_reaches_over_a_gap(jpegs: list[bytes], checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten frames and ten more are fewer than the 15 of a clip, twice."""
    monkeypatch.setattr(sources, "_FIRST_WAIT", 0.05)
    plan = [(10, "cut"), (10, "end")]
    with CameraServer(jpegs, plan=plan) as server, _stream(server, Predictor(checkpoint)) as stream:
        _until_it_ends(stream)
        assert stream.answer is None


def _stream(server: CameraServer, predictor: Predictor) -> LiveStream:
    return LiveStream(server.url, predictor, top_k=1)


def _until_it_ends(stream: LiveStream) -> list[Picture]:
    pictures = []
    while True:
        ended, picture = stream.ended, stream.next_picture(0.1)
        if picture is not None:
            pictures.append(picture)
        elif ended:
            return pictures


def _threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("octvideo ")]


def _wait(found: Callable[[], T | None]) -> T:
    for _ in range(int(ENOUGH / 0.02)):
        if (result := found()) is not None:
            return result
        threading.Event().wait(0.02)
    raise AssertionError("timed out")
