from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator
from fractions import Fraction
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import av
import numpy as np
import pytest

from octvideo.errors import UserError
from octvideo.inference.sources import FrameReader, local_copy, open_camera


class _Quiet(SimpleHTTPRequestHandler):
    def do_GET(self) -> None:
        if not self.path.startswith("/cut"):
            return super().do_GET()
        self.send_response(200)
        self.send_header("Content-Length", "9")
        self.end_headers()
        self.wfile.write(b"video")

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def server(data: Path) -> Iterator[str]:
    handler = functools.partial(_Quiet, directory=str(data / "clips" / "actions"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize(
    ("name", "count", "shape"),
    [
        ("clips/actions/mmaction2_part_0.mp4", 32, (256, 455, 3)),
        ("clips/actions/mmaction2_test_ucf_makeup.avi", 164, (240, 320, 3)),
        ("clips/formats/decord_video_90.mov", 3, (568, 320, 3)),
        ("clips/formats/torchcodec_nasa_13013_rotated.mp4", 17, (480, 270, 3)),
        ("clips/formats/torchcodec_testsrc2_odd_height_444.mp4", 25, (241, 320, 3)),
    ],
)
def test_reader_gives_every_frame_upright(data: Path, name: str, count: int, shape: tuple[int, int, int]) -> None:
    with FrameReader(str(data / name)) as reader:
        frames = list(reader)
    assert len(frames) == count
    assert {frame.shape for frame in frames} == {shape}
    assert frames[0].dtype == np.uint8 and frames[0].flags.c_contiguous


def test_rotation_is_undone_in_the_right_direction(data: Path) -> None:
    frames = []
    for angle in (0, 90, 180):
        with FrameReader(str(data / "clips" / "formats" / f"decord_video_{angle}.mov")) as reader:
            frames.append(next(iter(reader)).astype(float))
    # The three are of one keyboard that fills the picture, lit from the same side when upright.
    assert frames[1].shape == (568, 320, 3) and frames[2].shape == frames[0].shape == (320, 568, 3)


@pytest.mark.parametrize("times", [[0, 0.02, 0.1, 1.5, 1.54, 9], [number / 480 for number in range(6)]])
@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_times_are_those_of_the_file(tmp_path: Path, times: list[float], suffix: str) -> None:
    path = tmp_path / f"clip.{suffix}"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=480)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuvj420p"
        stream.codec_context.time_base = Fraction(1, 48000)
        for time in times:
            frame = av.VideoFrame(32, 32, "yuvj420p")
            frame.pts, frame.time_base = round((0.4 + time) * 48000), Fraction(1, 48000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with FrameReader(str(path)) as reader:
        assert [reader.time for _ in reader] == pytest.approx(times, abs=1.1e-3)


def test_rates(data: Path) -> None:
    with FrameReader(str(data / "clips" / "actions" / "mmaction2_demo.mp4")) as reader:
        assert reader.fps == 28
    with FrameReader(str(data / "clips" / "formats" / "moviepy_no_duration.webm")) as reader:
        assert 10 < reader.fps < 31


@pytest.mark.parametrize("content", [b"", b"this is a text", bytes(10_000)])
def test_what_is_no_video_is_a_user_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "no.mp4").write_bytes(content)
    with pytest.raises(UserError, match=r"no\.mp4.*cannot be opened"):
        FrameReader(str(tmp_path / "no.mp4"))


def test_codec_without_a_decoder_is_a_user_error(tmp_path: Path, make_video: Callable[..., Path]) -> None:
    path = make_video(tmp_path / "clip.mkv", np.zeros((5, 32, 32, 3), np.uint8))
    path.write_bytes(path.read_bytes().replace(b"V_MPEG4/ISO/AVC", b"V_MPEG4/ISO/XYZ"))
    with pytest.raises(UserError, match=r"clip\.mkv: cannot be opened as a video \(no decoder for its codec\)"):
        FrameReader(str(path))


def test_truncated_file_gives_what_is_there(data: Path, tmp_path: Path) -> None:
    whole = (data / "clips" / "actions" / "mmaction2_test_ucf_makeup.avi").read_bytes()
    (tmp_path / "cut.avi").write_bytes(whole[: len(whole) // 2])
    with FrameReader(str(tmp_path / "cut.avi")) as reader:
        assert 40 < len(list(reader)) < 164


def test_local_copy_downloads_and_cleans_up(server: str, data: Path) -> None:
    with local_copy(f"{server}/mmaction2_part_0.mp4") as path:
        assert path.read_bytes() == (data / "clips" / "actions" / "mmaction2_part_0.mp4").read_bytes()
    assert not path.exists()


def test_an_address_may_have_blanks_and_any_letters(tmp_path: Path) -> None:
    (tmp_path / "Sprünge 100%.mp4").write_bytes(b"video")
    handler = functools.partial(_Quiet, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        for name in ("Sprünge 100%25.mp4", "Spr%C3%BCnge%20100%25.mp4?a=1&b=%20"):
            with local_copy(f"http://127.0.0.1:{server.server_port}/{name}") as path:
                assert path.read_bytes() == b"video"
        server.shutdown()


def test_local_copy_errors_name_the_address(server: str) -> None:
    for address, reason in [
        (f"{server}/missing.mp4", "HTTP 404"),
        (f"{server}/cut.mp4", "after 5 of 9 bytes"),
        ("http://127.0.0.1:port/a.mp4", "nonnumeric port"),
        ("http://[bad/a.mp4", "cannot be downloaded"),
        ("http://127.0.0.1:1/a.mp4", "refused"),
        ("rtsp://127.0.0.1/a", "--webcam"),
        ("missing.mp4", "no such file"),
    ]:
        with pytest.raises(UserError, match=reason) as caught, local_copy(address):
            pass
        assert address in str(caught.value)


def test_missing_camera_is_a_user_error() -> None:
    with pytest.raises(UserError, match="--webcam 97"):
        open_camera("97")
