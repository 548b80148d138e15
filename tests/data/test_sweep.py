"""Every reader's every frame is ffmpeg's picture: containers, codecs, orientations, pixels, colours, times and damage.

The quick test varies one thing at a time; the one marked ``full`` tries all combinations.
"""

from __future__ import annotations

import itertools
import re
import shutil
import subprocess
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from data_tools.kinetics.media import transcode
from octvideo.data import open_video
from octvideo.data.decoders.decord import is_installed
from octvideo.data.decoders.mp4 import is_plain_mp4
from octvideo.inference.sources import FrameReader

pytestmark = pytest.mark.skipif(not shutil.which("ffmpeg"), reason="the ffmpeg program is missing")

WIDTH, HEIGHT, COUNT = 96, 64, 12
NEAR = 4.0  # of 255, the mean over a frame: two scalers, and what their FFmpeg rounds
# Upper left parts of display matrices: as it is, the three turns, mirrored, upside down, and both diagonals.
ORIENTATIONS = ((1, 0, 0, 1), (0, 1, -1, 0), (-1, 0, 0, -1), (0, -1, 1, 0))
ORIENTATIONS += ((-1, 0, 0, 1), (1, 0, 0, -1), (0, 1, 1, 0), (0, -1, -1, 0))
# The same as messages in the stream: degrees counterclockwise, after flips.
MESSAGES = (0, False, False), (270, False, False), (180, False, False), (90, False, False)
MESSAGES += (0, True, False), (0, False, True), (90, True, False), (270, True, False)
FORMATS = {  # suffix: codecs
    "mp4": ("libx264", "libx265", "mpeg4", "libaom-av1"),
    "mov": ("libx264", "prores_ks", "mjpeg"),
    "mkv": ("libx264", "libvpx-vp9", "ffv1", "libtheora"),
    "webm": ("libvpx", "libvpx-vp9"),
    "avi": ("mpeg4", "mjpeg", "libx264"),
    "ts": ("libx264", "mpeg2video"),
    "mpg": ("mpeg1video", "mpeg2video"),
    "flv": ("flv", "libx264"),
    "wmv": ("wmv2",),
    "ogv": ("libtheora",),
    "3gp": ("mpeg4",),
}
FAST = {
    "libaom-av1": ["-cpu-used", "8"],
    "libx265": ["-x265-params", "log-level=none"],
    "libvpx-vp9": ["-deadline", "realtime", "-cpu-used", "8"],
    "libvpx": ["-deadline", "realtime", "-cpu-used", "8"],
}
PIXELS = {"prores_ks": "yuv422p10le", "mjpeg": "yuvj420p"}


@dataclass(frozen=True)
class Case:
    """A file. The container states its orientation, or the stream does, or does from the second key frame on."""

    suffix: str = "mp4"
    codec: str = "libx264"
    orientation: int = 0
    aspect: str = "1:1"
    colours: str = "bt709"
    full_range: bool = False
    uneven: bool = False
    damaged: bool = False
    grows: bool = False
    stated: bool = False
    turns: bool = False

    @property
    def raw(self) -> str:
        """The format in which messages are written."""
        return {"libx264": "h264", "libx265": "hevc"}[self.codec]

    def __str__(self) -> str:
        facts = [
            self.codec.removeprefix("lib"),
            f"turn{self.orientation}",
            self.aspect.replace(":", "to"),
            self.colours,
        ]
        flags = ("full_range", "uneven", "damaged", "grows", "stated", "turns")
        return f"{'-'.join([*facts, *(flag for flag in flags if getattr(self, flag))])}.{self.suffix}"


BASE = Case()
FORMAT_CASES = [Case(suffix, codec) for suffix, codecs in FORMATS.items() for codec in codecs]
QUICK = [
    *FORMAT_CASES,
    *(replace(BASE, orientation=number) for number in range(1, 8)),
    *(replace(BASE, codec="libx265", orientation=number) for number in (4, 6)),
    *(Case("mov", "prores_ks", orientation=number) for number in (1, 5)),
    *(replace(BASE, aspect=aspect) for aspect in ("64:27", "1:2")),
    Case("mkv", "libvpx-vp9", aspect="16:11"),
    Case("avi", "mpeg4", aspect="16:11"),
    Case("mpg", "mpeg2video", aspect="32:27"),
    replace(BASE, orientation=3, aspect="3:2"),
    *(replace(BASE, colours=colours) for colours in ("smpte170m", "unknown")),
    replace(BASE, full_range=True),
    Case("webm", "libvpx-vp9", full_range=True),
    *(Case(suffix, uneven=True) for suffix in ("mp4", "mkv", "ts")),
    *(Case(suffix, codec, damaged=True) for suffix, codec in (("mp4", "libx264"), ("ts", "libx264"), ("avi", "mpeg4"))),
    Case("mkv", "libvpx-vp9", damaged=True),
    Case("mp4", "libx265", damaged=True),
    Case("ts", grows=True),
    *(Case("mp4", orientation=number, stated=True) for number in (1, 2, 4)),
    *(Case("mp4", "libx265", orientation=number, stated=True) for number in (3, 5, 6, 7)),
    *(Case(suffix, orientation=1, turns=True) for suffix in ("mp4", "mkv", "ts")),
    *(Case("mp4", codec, orientation=2, turns=True) for codec in ("libx264", "libx265")),
    *(Case(suffix, "libx265", orientation=3, turns=True) for suffix in ("mp4", "mkv")),
]
MESSAGED = [case for case in FORMAT_CASES if case.codec in ("libx264", "libx265") and case.suffix != "avi"]
TURNED = [case for case in FORMAT_CASES if case.suffix in ("mp4", "mov")]
FULL = [
    *(
        replace(case, aspect=aspect, colours=colours, full_range=full_range, uneven=uneven)
        for case, aspect, colours, full_range, uneven in itertools.product(
            FORMAT_CASES, ("1:1", "16:11", "1:2"), ("bt709", "smpte170m"), (False, True), (False, True)
        )
    ),
    *(
        replace(case, orientation=number, aspect=aspect)
        for case, number, aspect in itertools.product(TURNED, range(1, 8), ("1:1", "16:11"))
    ),
    *(replace(case, damaged=True) for case in FORMAT_CASES),
    *(
        replace(case, orientation=number, stated=stated, turns=not stated)
        for case, number, stated in itertools.product(MESSAGED, range(1, 8), (True, False))
    ),
]


def pictures(height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """Four quarters, red, green, blue and grey, that become brighter: uint8 ``(COUNT, height, width, 3)``."""
    frames = np.full((COUNT, height, width, 3), 20, np.uint8)
    for number, frame in enumerate(frames):
        light = 60 + 14 * number
        frame[: height // 2, : width // 2, 0] = frame[: height // 2, width // 2 :, 1] = light
        frame[height // 2 :, : width // 2, 2] = light
        frame[height // 2 :, width // 2 :] = light
    return frames


def make(path: Path, case: Case) -> Path:
    """Encode the pictures with the ffmpeg program; then write a display matrix or messages, or damage a packet."""
    pixels = PIXELS.get(case.codec, "yuvj420p" if case.full_range else "yuv420p")
    scale = f"scale=in_range=full:out_range={'full' if pixels.startswith('yuvj') else 'tv'}"
    matrix = "bt601" if case.colours == "unknown" else case.colours
    filters = (
        f"{scale}:out_color_matrix={matrix}:flags=accurate_rnd,format={pixels},setsar={case.aspect.replace(':', '/')}"
    )
    if case.uneven:
        filters += ",setpts='(N+3*gt(N,4)+7*gt(N,8))/25/TB'"
    ffmpeg(
        *f"-f rawvideo -pix_fmt rgb24 -s {WIDTH}x{HEIGHT} -r 25 -i - -vf {filters} -vsync passthrough".split(),
        *f"-c:v {case.codec} -b:v 4M -g 6 -colorspace {case.colours} -color_primaries {case.colours}".split(),
        *FAST.get(case.codec, ()),
        *(("-bf", "0") if case.stated or case.turns else ()),
        path,
        data=pictures().tobytes(),
    )
    if case.stated or case.turns:
        stream = path.with_suffix(f".{case.raw}")
        ffmpeg("-i", path, "-c", "copy", "-bsf:v", f"{case.raw}_mp4toannexb", "-f", case.raw, stream)
        stream.write_bytes(with_messages(stream.read_bytes(), case))
        ffmpeg("-r", "25", "-i", stream, "-c", "copy", path)
    elif case.orientation:
        content = path.read_bytes()
        a, b, c, d = ORIENTATIONS[case.orientation]
        matrix_ = np.array([a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30], ">i4").tobytes()
        place = content.index(b"tkhd") + 4 + 40
        path.write_bytes(content[:place] + matrix_ + content[place + 36 :])
    if case.damaged:
        with av.open(str(path)) as container:
            packets = [packet for packet in container.demux(video=0) if packet.size]
        bad = packets[8]
        content = bytearray(path.read_bytes())
        # Packets may begin alike, and containers of broadcasts divide them.
        start = content.find(bytes(bad)) if case.suffix != "ts" else bad.pos + 40
        start = content.index(bytes(bad)[:60], bad.pos or 0) if start < 0 else start
        content[start + 8 : start + 60] = b"\xff" * 52
        path.write_bytes(content)
    if case.grows:
        second = path.with_name(f"second.{case.suffix}")
        ffmpeg("-i", path, "-vf", "scale=iw*2:ih*2", "-c:v", case.codec, "-output_ts_offset", "1", second)
        path.write_bytes(path.read_bytes() + second.read_bytes())
    return path


def with_messages(stream: bytes, case: Case) -> bytes:
    """Write a display orientation before each key frame, or before the second one on (ITU-T H.264, H.265, annex D)."""
    hevc = case.raw == "hevc"
    key_frame = b"\0\0\1[\x26\x28\x2a]" if hevc else b"\0\0\1[\x25\x45\x65]"
    degrees, mirrored, upside_down = MESSAGES[case.orientation]
    bits = f"0{mirrored:d}{upside_down:d}{round(degrees / 360 * 65536):016b}{'1' if hevc else '0100'}1"
    content = int(bits.ljust(24, "0"), 2).to_bytes(3, "big").replace(b"\0\0", b"\0\0\3")
    message = b"\0\0\1" + (b"\x4e\x01" if hevc else b"\x06") + b"\x2f\x03" + content + b"\x80"
    places = [found.start() for found in re.finditer(key_frame, stream)]
    assert len(places) == 2
    if case.turns:
        return stream[: places[1]] + message + stream[places[1] :]
    return stream[: places[0]] + message + stream[places[0] : places[1]] + message + stream[places[1] :]


def ffmpeg(*arguments: object, data: bytes = b"") -> bytes:
    done = subprocess.run(["ffmpeg", "-v", "error", "-y", *map(str, arguments)], input=data, capture_output=True)
    assert done.returncode == 0 or not arguments, done.stderr.decode()
    return done.stdout


def expected(path: Path, case: Case) -> list[np.ndarray]:
    """Return ffmpeg's pictures with square pixels."""
    turned = case.orientation in (1, 3, 6, 7) and not case.turns
    size = (WIDTH, HEIGHT, 3) if turned else (HEIGHT, WIDTH, 3)
    raw = ffmpeg("-i", path, "-vsync", "passthrough", "-f", "rawvideo", "-pix_fmt", "rgb24", "-")
    with av.open(str(path)) as container:  # not every container keeps it
        wide = round(WIDTH * Fraction(container.streams.video[0].sample_aspect_ratio or 1))
    shape = (HEIGHT, wide) if turned else (wide, HEIGHT)
    frames = np.frombuffer(raw, np.uint8).reshape(-1, *size)
    return [np.asarray(Image.fromarray(frame).resize(shape, Image.Resampling.BILINEAR)) for frame in frames]


def check(folder: Path, case: Case) -> None:
    path = make(folder / str(case), case)
    if case.aspect != "1:1" and case.suffix in ("mp4", "mov", "mkv"):
        with av.open(str(path)) as container:
            assert Fraction(container.streams.video[0].sample_aspect_ratio) == Fraction(case.aspect.replace(":", "/"))
    frames = expected(path, case)
    found = {"stream": list(FrameReader(str(path)))}
    for decoder in ("auto", "pyav", *(["decord"] if is_installed() and is_plain_mp4(str(path)) else [])):
        with open_video(str(path), decoder) as video:
            video.frames(range(len(video)))  # a damaged file has as many frames as can be read
            found[decoder] = list(video.frames(range(len(video))))
    if case.orientation or case.aspect != "1:1":
        transcode(path, folder / "prepared.mp4")
        with open_video(str(folder / "prepared.mp4")) as video:
            found["prepared"] = list(video.frames(range(len(video))))
    for reader, pictures_ in found.items():
        if case.damaged:  # the versions of FFmpeg differ in what they show then
            # AV1 shows fewer, in ffmpeg too: its hidden frames serve several.
            assert abs(len(pictures_) - len(frames)) <= 1 and len(pictures_) >= min(COUNT - 1, len(frames)), reader
            pictures_ = pictures_[:6]
        else:
            assert len(pictures_) == len(frames) == (2 if case.grows else 1) * COUNT, reader
        for number, (picture, frame) in enumerate(zip(pictures_, frames)):
            if reader == "prepared":  # H.264 in 4:2:0 has even sizes
                height, width = (edge + edge % 2 for edge in frame.shape[:2])
                frame = np.asarray(Image.fromarray(frame).resize((width, height), Image.Resampling.BILINEAR))
            assert picture.shape == frame.shape, reader
            difference = np.abs(picture.astype(int) - frame).mean()
            assert difference < NEAR, f"{reader}, frame {number}: {difference:.1f}"


@pytest.mark.parametrize("case", QUICK, ids=str)
def test_one_thing_at_a_time(case: Case, tmp_path: Path) -> None:
    check(tmp_path, case)


@pytest.mark.full
@pytest.mark.parametrize("case", FORMAT_CASES, ids=str)
def test_all_combinations(case: Case, tmp_path: Path) -> None:
    for variant in FULL:
        if (variant.suffix, variant.codec) == (case.suffix, case.codec):
            check(tmp_path, variant)
