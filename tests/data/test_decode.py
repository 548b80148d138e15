"""Reading videos: broken files are named and do not hang, frames come in any order."""

import io
import shutil
import subprocess
import sys
from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image

from octvideo.data import DecodeError, open_video
from octvideo.errors import UserError
from octvideo.inference.sources import FrameReader
from octvideo.models.checkpoints import read_checkpoint
from octvideo.workers import in_worker


def test_broken_file_is_named_and_does_not_hang(data):
    path = data / "clips" / "formats" / "moviepy_empty_result.webm"
    code = f"from octvideo.data import open_video\nwith open_video({str(path)!r}) as v: v.frames([0, len(v) - 1])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=240)
    assert done.returncode == 1 and f"DecodeError: {path}" in done.stderr.replace("octvideo.data.decoders.decode.", "")


def test_other_errors(tmp_path, data):
    with pytest.raises(DecodeError, match="no such file"):
        open_video(str(tmp_path / "absent.mp4"))
    (tmp_path / "text.mp4").write_text("not a video")
    with pytest.raises(DecodeError, match="text.mp4"):
        open_video(str(tmp_path / "text.mp4"))
    whole = data / "clips" / "actions" / "mmaction2_part_0.mp4"
    shutil.copy(whole, tmp_path / "cut.mp4")
    with (tmp_path / "cut.mp4").open("r+b") as file:
        file.truncate(whole.stat().st_size // 3)
    try:  # a third of a file is either an error or fewer frames, never a hang or a wrong shape
        with open_video(str(tmp_path / "cut.mp4")) as video:
            assert video.frames([0]).shape == (1, 256, 455, 3)
    except DecodeError as error:
        assert "cut.mp4" in str(error)


def test_a_forked_process_reads_after_its_parent(tmp_path, make_video):
    frames = np.full((8, 240, 320, 3), 90, np.uint8)
    path = make_video(tmp_path / "grey.mkv", frames)
    with av.open(str(path)) as container:
        next(container.decode(video=0)).to_ndarray(format="rgb24")  # PyAV 19 keeps its threads, in this process
    call = in_worker(lambda: open_video(str(path)).frames([5]).mean(), 60)
    assert abs(call() - 90) < 4


@pytest.mark.parametrize("read", [open_video, FrameReader])
@pytest.mark.parametrize("version", [(16, 1), (17, 0)])
def test_an_old_pyav_is_refused(monkeypatch, read, version):
    monkeypatch.setattr("octvideo.data.decoders.stream.PYAV", version)
    with pytest.raises(UserError, match=rf"^PyAV {av.__version__} .*pip install 'av>=17.1'$"):
        read("clip.mp4")


@pytest.mark.parametrize("decoder", ["auto", "decord", "pyav"])
def test_frames_in_any_order(tmp_path, make_video, decoder):
    frames = np.zeros((20, 48, 64, 3), np.uint8)
    frames += (10 * np.arange(20, dtype=np.uint8))[:, None, None, None]
    path = make_video(tmp_path / "steps.mp4", frames, fps=10)
    with open_video(str(path), decoder) as video:
        assert len(video) == 20 and video.fps == 10
        got = video.frames([7, 3, 3, 19, 0])
        assert np.abs(got.mean((1, 2, 3)) - [70, 30, 30, 190, 0]).max() < 4
        with pytest.raises(IndexError, match="frame 20 of 20"):
            video.frames([20])


def test_cover_of_a_song_is_no_video(tmp_path):
    path = tmp_path / "song.mp4"
    with av.open(str(path), "w") as container:
        sound = container.add_stream("aac", rate=44100, layout="mono")
        cover = container.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = 32, 32, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        silence.sample_rate = 44100
        container.mux(sound.encode(silence))
        container.mux(cover.encode(av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")))
        container.mux(cover.encode())
        container.mux(sound.encode())
    with pytest.raises(DecodeError, match="song.mp4: no video stream"):
        open_video(str(path))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "the file is empty"),
        ("\ufeff\n<!DOCTYPE html><html>", "a web page; give the address of the file itself"),
        ("#EXTM3U\n#EXT-X-VERSION:3\n", "a playlist; --webcam reads it as a stream"),
        ('<?xml version="1.0"?><MPD>', "a playlist"),
        ("version https://git-lfs.github.com/spec/v1\noid sha256:0", "a pointer of Git LFS; run: git lfs pull"),
    ],
)
def test_what_is_often_taken_for_a_video_is_named(tmp_path, content, reason):
    path = tmp_path / "clip.mp4"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(DecodeError, match=f"clip.mp4: {reason}"):
        open_video(str(path))
    with pytest.raises(UserError, match=f"clip.mp4: not a readable checkpoint .{reason}"):
        read_checkpoint(path)


@pytest.mark.parametrize(("turn", "corner"), [(1, (0, 0)), (3, (-1, -1)), (6, (0, -1)), (8, (-1, 0))])
def test_motion_jpeg_with_exif_is_read_upright(tmp_path, turn, corner):
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = turn, "a camera"
    picture, still = np.zeros((48, 48, 3), np.uint8), io.BytesIO()
    picture[:24, :24] = 255
    Image.fromarray(picture).save(still, "jpeg", exif=exif)
    path = tmp_path / "camera.avi"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=25)
        stream.width, stream.height, stream.pix_fmt = 48, 48, "yuvj420p"
        packet = av.Packet(still.getvalue())
        packet.pts, packet.time_base, packet.stream = 0, Fraction(1, 25), stream
        container.mux(packet)
    with open_video(str(path)) as video:
        (frame,) = video.frames([0])
    corners = {place: int(frame[place].mean() > 128) for place in ((0, 0), (0, -1), (-1, 0), (-1, -1))}
    assert corners == {place: int(place == corner) for place in corners}


@pytest.mark.parametrize("bad", [[19], [7], [0, 1, 2], range(20)], ids=str)
def test_packets_that_cannot_be_decoded_cost_their_frames(tmp_path, make_video, bad):
    frames = np.full((20, 48, 64, 3), 90, np.uint8)
    path = make_video(tmp_path / "clip.avi", frames, codec="mpeg4", gop=1)
    with av.open(str(path)) as container:
        packets = [bytes(packet) for packet in container.demux(video=0) if packet.size]
        places = [packet.pos for packet in av.open(str(path)).demux(video=0) if packet.size]
    content = bytearray(path.read_bytes())
    for number in bad:
        start = content.index(packets[number][:200], places[number])
        content[start : start + len(packets[number])] = bytes(len(packets[number]))
    path.write_bytes(content)
    if len(bad) == 20:
        with pytest.raises(DecodeError), open_video(str(path)) as video:
            video.frames([0])
        return
    with open_video(str(path)) as video:
        found = video.frames(np.arange(20))  # as the header promises
        assert len(video) == 20 - len(bad)
    assert np.abs(found.astype(int) - 90).mean() < 4
