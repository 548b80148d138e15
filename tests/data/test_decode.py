"""Both decoders on real files: the same frames for the same numbers, upright; broken files are named."""

import csv
import shutil
import subprocess
import sys

import numpy as np
import pytest

from octvideo.data import DecodeError, open_video

# decord and PyAV bring different versions of FFmpeg: these differ by rounding in colour conversion, or in frame count.
_APPROXIMATE = {"torchcodec_h264_10bits.mp4", "torchcodec_h265_video.mp4"}
# decord opens this one, and fails on its 1x1 pixels.
_NOT_BY_DECORD = {"moviepy_bitmap.mp4"}
# Its first five frames are not to be shown: decord counts them.
_COUNTS_DIFFER = {"torchcodec_discard_first_keyframe.mp4"}


def manifest(data):
    with (data / "manifest.csv").open() as file:
        return [row for row in csv.DictReader(file) if row["file"].startswith("clips/")]


def test_decoders_agree_on_real_files(data):
    checked = 0
    for row in manifest(data):
        path = str(data / row["file"])
        if (
            not (row["frames_decord"] and row["frames_pyav"])
            or row["file"].rsplit("/")[-1] in _COUNTS_DIFFER | _NOT_BY_DECORD
        ):
            continue
        with open_video(path, "decord") as fast, open_video(path, "pyav") as exact:
            if len(exact) * np.prod(exact.frames([0]).shape) > 4e8:
                continue
            assert len(fast) == len(exact), path
            numbers = [0, len(exact) // 2, len(exact) // 3, len(exact) - 1]
            a, b = fast.frames(numbers), exact.frames(numbers)
            assert a.shape == b.shape, path
            if row["file"].rsplit("/")[-1] in _APPROXIMATE:
                assert np.abs(a.astype(int) - b).mean() < 4, path
            else:
                assert np.array_equal(a, b), path
            assert fast.fps == pytest.approx(exact.fps, rel=0.02), path
        checked += 1
    assert checked >= 20


@pytest.mark.parametrize("decoder", ["decord", "pyav"])
def test_rotated_files_are_upright(data, decoder):
    for name, shape in {
        "decord_video_0.mov": (320, 568, 3),
        "decord_video_90.mov": (568, 320, 3),
        "decord_video_180.mov": (320, 568, 3),
        "torchcodec_nasa_13013_rotated.mp4": (480, 270, 3),
    }.items():
        with open_video(str(data / "clips" / "formats" / name), decoder) as video:
            assert video.frames([0]).shape[1:] == shape


@pytest.mark.parametrize(
    ("name", "frames"),
    [("torchcodec_av1_video.mkv", 125), ("moviepy_no_duration.webm", 74), ("moviepy_bitmap.mp4", 5)],
)
def test_what_decord_cannot_read_falls_back(data, name, frames):
    path = str(data / "clips" / "formats" / name)
    with open_video(path) as video:
        assert len(video.frames([0, frames - 1])) == 2 and len(video) == frames
    with pytest.raises(DecodeError), open_video(path, "decord") as video:
        video.frames([0])


@pytest.mark.parametrize("name", ["decord_corrupted.mp4", "moviepy_empty_result.webm"])
def test_broken_files_are_named_and_do_not_hang(data, name):
    path = data / "clips" / "formats" / name
    code = f"from octvideo.data import open_video\nwith open_video({str(path)!r}) as v: v.frames([0, len(v) - 1])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 1 and f"DecodeError: {path}" in done.stderr.replace("octvideo.data.decode.", "")


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
            assert video.frames([0]).shape == (1, 256, 340, 3)
    except DecodeError as error:
        assert "cut.mp4" in str(error)


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
