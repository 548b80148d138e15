"""What all tests share: the folder of real clips, and a way to make videos."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import av
import numpy as np
import pytest
from small_network import save_checkpoint, small_cfg

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object:
    """Give the tests of a file to one worker, as ``--dist loadfile``, and each page of the documentation to any."""
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return nodeid if "test_page_runs[" in nodeid else super()._split_scope(nodeid)

    return Scheduling(config, log)


@pytest.fixture(autouse=True)
def _interruptible() -> Iterator[None]:
    """A shell's background job ignores Ctrl-C, and its children inherit that; some tests interrupt theirs."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler, "the test leaves a handler of SIGINT behind"


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Converted networks of tests do not go to the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of real clips; a machine without it skips, CI fails."""
    if not DATA.is_dir():
        if os.environ.get("CI"):
            pytest.fail(f"{DATA} is missing, and CI must have it")
        pytest.skip(f"{DATA} is missing")
    return DATA


def _make_video(path: Path, frames: np.ndarray, fps: int = 25, codec: str = "libx264", gop: int = 12) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=fps)
        stream.width, stream.height, stream.pix_fmt = frames.shape[2], frames.shape[1], "yuv420p"
        stream.codec_context.gop_size = gop
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return path


@pytest.fixture(scope="session")
def make_video() -> Callable[..., Path]:
    """Encodes uint8 ``(T, H, W, 3)`` as a video file: ``make_video(path, frames, fps=25, codec="libx264", gop=12)``."""
    return _make_video


@pytest.fixture(scope="session")
def video_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of four short videos: a bright bar that goes right, or down. ``train/`` and ``val/`` are the same."""
    folder = tmp_path_factory.mktemp("videos")
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for label, axis in (("down", 1), ("right", 2)):
            for number in range(4):
                frames = rng.integers(0, 60, (24, 64, 80, 3), dtype=np.uint8)
                for time in range(24):
                    place = [slice(None)] * 3
                    place[axis] = slice(2 * time, 2 * time + 12)
                    frames[(time, *place[1:])] = 230
                _make_video(folder / split / label / f"video {number}.mp4", frames)
    return folder


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of a small octave network."""
    return save_checkpoint(small_cfg(), tmp_path_factory.mktemp("weights") / "small.pt")


@pytest.fixture
def small_files() -> Iterator[None]:
    """No file can grow beyond 20 kB, as on a full disk."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
