"""The peers' frame numbers: by hand, and from the installed PyTorchVideo itself."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from pytorchvideo.data.clip_sampling import ConstantClipsPerVideoSampler
from pytorchvideo.data.encoded_video_pyav import EncodedVideoPyAV

from octvideo.data import open_video
from octvideo.data.sampling import random_clip, uniform_clips


def clips(sampling, frames, fps, num_frames=8, rate=8, num_clips=10):
    return uniform_clips(frames, num_frames, rate, num_clips, sampling=sampling, fps=fps).tolist()


def test_pyslowfast_by_hand():
    # 300 frames at 30 a second: S = 8 * 8 = 64, D = 236, starts 0, 23.6, ..., 212.4; frames (64 - 1) / 7 = 9 apart
    found = clips("pyslowfast", 300, 30.0)
    assert found[0] == [0, 9, 18, 27, 36, 45, 54, 63]
    assert found[1] == [23, 32, 41, 50, 59, 68, 77, 86]  # 23.6, 32.6, ...
    assert found[9] == [212, 221, 230, 239, 248, 257, 266, 275]  # 212.4, ...; 24 frames before the end
    # 250 at 25: S = 64 * 25 / 30 = 53.33, D = 196.67, start 2 = 39.33; 52.33 / 7 = 7.476 apart
    found = clips("pyslowfast", 250, 25.0)
    assert found[0] == [0, 7, 14, 22, 29, 37, 44, 52]  # 0, 7.48, 14.95, 22.43, 29.90, 37.38, 44.86, 52.33
    assert found[2] == [39, 46, 54, 61, 69, 76, 84, 91]  # 39.33, 46.81, 54.29, 61.76, 69.24, 76.71, 84.19, 91.67
    # 600 at 60: S = 128, D = 472, start 5 = 236; 127 / 7 = 18.14 apart
    assert clips("pyslowfast", 600, 60.0)[5] == [236, 254, 272, 290, 308, 326, 344, 363]
    # 20 at 30, 4 frames at rate 8: S = 32, D = 0; 0, 10.33, 20.67, 31, those beyond the end become frame 19
    assert clips("pyslowfast", 20, 30.0, 4, 8, 3) == [[0, 10, 19, 19]] * 3
    assert clips("pyslowfast", 1, 30.0, 4, 8, 2) == [[0] * 4] * 2


def test_pytorchvideo_by_hand():
    # 250 frames at 25 a second are 10 s; a clip is 64 / 30 = 2.1333 s, the last start 7.8667 s, starts 0.78667 s apart
    found = clips("pytorchvideo", 250, 25.0)
    # [0, 2.1333) s: 0 to 53.33, frames 0 to 53; 53 / 7 = 7.571 apart
    assert found[0] == [0, 7, 15, 22, 30, 37, 45, 53]  # 0, 7.57, 15.14, 22.71, 30.29, 37.86, 45.43, 53
    # [1.5733, 3.7067) s: 39.33 to 92.67, frames 40 to 92; 52 / 7 = 7.429 apart
    assert found[2] == [40, 47, 54, 62, 69, 77, 84, 92]  # 0, 7.43, 14.86, 22.29, 29.71, 37.14, 44.57, 52 from 40
    # 20 at 30 are 0.667 s, less than the clip's 32 / 30 s: all 20 frames, 19 / 3 = 6.33 apart
    assert clips("pytorchvideo", 20, 30.0, 4, 8, 3) == [[0, 6, 12, 19]] * 3
    assert clips("pytorchvideo", 1, 30.0, 4, 8, 2) == [[0] * 4] * 2


def test_even_sampling_ignores_the_frame_rate():
    # 300 frames: 300 - (7 * 8 + 1) = 243 is the last start; 243 * i // 9
    found = clips("even", 300, 30.0)
    assert [clip[0] for clip in found] == [0, 27, 54, 81, 108, 135, 162, 189, 216, 243]
    assert found[9] == [243, 251, 259, 267, 275, 283, 291, 299]
    assert found == clips("even", 300, 60.0)


def test_single_clip_is_middle_or_first():
    assert clips("even", 300, 30.0, num_clips=1)[0][0] == 121
    assert clips("pyslowfast", 300, 30.0, num_clips=1)[0][0] == 0
    assert clips("pytorchvideo", 300, 30.0, num_clips=1)[0][0] == 0


def _theirs(frames: int, fps: float, num_frames: int, rate: int, num_clips: int) -> list[list[int]]:
    """PyTorchVideo's clip sampler, the window that its decord decoder reads, and UniformTemporalSubsample's numbers."""
    sampler = ConstantClipsPerVideoSampler(num_frames * rate / 30, num_clips)
    found = []
    for _ in range(num_clips):
        info = sampler(0.0, frames / fps, {})
        window = range(math.ceil(fps * info.clip_start_sec), min(math.ceil(fps * info.clip_end_sec), frames))
        places = torch.linspace(0, len(window) - 1, num_frames).clamp(0, len(window) - 1).long()
        found.append([window[place] for place in places.tolist()])
    return found


@pytest.mark.parametrize("fps", [10.0, 24000 / 1001, 25.0, 29.97, 30.0, 50.0, 60.0])
def test_pytorchvideo_is_the_installed_one(fps):
    for frames in (7, 30, 65, 64, 123, 240, 250, 300, 301, 1000):
        for num_frames, rate, num_clips in ((8, 8, 10), (4, 16, 10), (32, 2, 3), (16, 4, 7)):
            expected = _theirs(frames, fps, num_frames, rate, num_clips)
            assert clips("pytorchvideo", frames, fps, num_frames, rate, num_clips) == expected


def test_pytorchvideo_reads_the_same_frames_of_a_file(make_video, tmp_path):
    rng = np.random.default_rng(0)
    path = make_video(tmp_path / "v.mp4", rng.integers(0, 256, (50, 32, 48, 3), dtype=np.uint8))
    sampler = ConstantClipsPerVideoSampler(16 / 30, 3)
    with path.open("rb") as file, open_video(str(path), "pyav") as video:
        theirs = EncodedVideoPyAV(file, path.name, decode_audio=False)
        ours = clips("pytorchvideo", len(video), video.fps, 4, 4, 3)
        for numbers in ours:
            info = sampler(0.0, float(theirs.duration), {})
            clip = theirs.get_clip(info.clip_start_sec, info.clip_end_sec)["video"]
            chosen = clip[:, torch.linspace(0, clip.shape[1] - 1, 4).long()]
            assert torch.equal(chosen.permute(1, 2, 3, 0).to(torch.uint8), torch.from_numpy(video.frames(numbers)))
    assert ours[0] != ours[1] != ours[2]


@pytest.mark.parametrize("fps", [24.0, 30.0, 60.0])
@pytest.mark.parametrize("length", [1, 2, 15, 31, 32, 33, 40, 90])
@pytest.mark.parametrize("sampling", ["pyslowfast", "pytorchvideo"])
def test_random_clips_stay_inside_and_reach_both_ends(sampling, length, fps):
    rng = np.random.default_rng(0)
    drawn = np.stack([random_clip(length, 4, 4, rng, sampling=sampling, fps=fps) for _ in range(400)])
    assert drawn.shape == (400, 4) and drawn.dtype == np.int64
    # PySlowFast rounds down, so the last frame is hardly ever drawn; PyTorchVideo up, so the first is not.
    if sampling == "pyslowfast":
        assert drawn.min() == 0 and length - 2 <= drawn.max() < length
    else:
        assert 0 <= drawn.min() <= 1 and drawn.max() == length - 1
    assert (np.diff(drawn, axis=1) >= 0).all()
    room = length - 16 * fps / 30
    if room >= 1:
        assert len(set(drawn[:, 0])) >= 0.9 * room - 1
    else:
        assert len(set(drawn[:, 0])) <= 2


def test_a_random_clip_by_hand():
    # S = 4 * 4 = 16 of 46 frames: D = 30
    start = np.random.default_rng(7).uniform(0, 30)
    found = random_clip(46, 4, 4, np.random.default_rng(7), sampling="pyslowfast", fps=30.0)
    assert found.tolist() == [math.floor(start + 5 * number) for number in range(4)]
    # 46 / 30 s, a clip of 16 / 30 s: starts up to 1 s, the same draw in seconds; 16 frames from the next whole one on
    found = random_clip(46, 4, 4, np.random.default_rng(7), sampling="pytorchvideo", fps=30.0)
    assert found.tolist() == [math.ceil(start) + 5 * number for number in range(4)]
