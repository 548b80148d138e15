"""Frame numbers by hand, and what becomes of the frames."""

from fractions import Fraction

import av
import numpy as np
import pytest
import torch

from octvideo.data.decoders.decode import open_video
from octvideo.data.sampling import clip_indices, random_clip, uniform_clips
from octvideo.data.transforms import color_jitter, normalize_clips, random_crop, resize_short_side, spatial_crops


def test_clips_by_hand():
    assert clip_indices(5, 100, 4, 8).tolist() == [5, 13, 21, 29]
    assert clip_indices(0, 10, 4, 4).tolist() == [0, 4, 8, 9]
    assert uniform_clips(30, 4, 4, 3)[:, 0].tolist() == [0, 8, 17]
    assert uniform_clips(30, 4, 4, 3)[2].tolist() == [17, 21, 25, 29]
    assert uniform_clips(30, 4, 4, 1).tolist() == [[8, 12, 16, 20]]
    assert uniform_clips(1, 4, 4, 2).tolist() == [[0] * 4] * 2


@pytest.mark.parametrize("length", [1, 12, 13, 14, 40])
def test_random_clips_reach_every_start_and_no_further(length):
    rng = np.random.default_rng(0)
    clips = np.stack([random_clip(length, 4, 4, rng) for _ in range(600)])
    assert clips.max() == length - 1 and clips.min() == 0
    assert set(clips[:, 0]) == set(range(max(1, length - 12)))


def test_even_frames_follow_the_times():
    times = np.array([0.0, 4, 8, 9, 10, 11, 12])  # at a constant rate 2 s apart
    assert uniform_clips(7, 3, 2, 2, times=times).tolist() == [[0, 1, 2], [1, 2, 6]]
    assert uniform_clips(7, 3, 2, 1, times=times).tolist() == [[1, 2, 4]]
    rounded = np.array([0.0, 33, 67, 100, 133, 167, 200]) / 1000
    for regular in (rounded, None, rounded + 5):
        assert uniform_clips(7, 3, 2, 2, times=regular).tolist() == [[0, 2, 4], [2, 4, 6]]
    seen = {tuple(random_clip(7, 3, 2, np.random.default_rng(seed), times=times)) for seed in range(50)}
    assert seen == {(0, 1, 2), (1, 2, 4), (1, 2, 6)}


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_clips_of_a_varying_rate_are_even_in_time(tmp_path, name):
    seconds = [*(0.2 * number for number in range(10)), *(2 + 0.04 * number for number in range(50))]
    with av.open(str(tmp_path / name), "w") as container:
        stream = container.add_stream("libx264", rate=1000)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for time in seconds:
            frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), int(50 * time), np.uint8), format="rgb24")
            frame.pts, frame.time_base = round(1000 * time), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    for decoder in ("auto", "pyav"):
        with open_video(str(tmp_path / name), decoder) as video:
            assert np.allclose(video.times - video.times[0], seconds, atol=2e-3)
            clip = video.times[uniform_clips(len(video), 6, 10, 1, times=video.times)[0]]
        assert len(seconds) == 60 and np.allclose(np.diff(clip), 10 * seconds[-1] / 59, atol=0.2)


def test_normalize():
    frames = torch.randint(0, 256, (2, 4, 6, 8, 3), dtype=torch.uint8)
    clips = normalize_clips(frames, [0.4, 0.5, 0.6], [0.2, 0.25, 0.3])
    assert clips.shape == (2, 3, 4, 6, 8) and clips.is_contiguous(memory_format=torch.channels_last_3d)
    expected = (frames[0, 1, 2, 3].double() / 255 - torch.tensor([0.4, 0.5, 0.6])) / torch.tensor([0.2, 0.25, 0.3])
    torch.testing.assert_close(clips[0, :, 1, 2, 3].double(), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("size", [(48, 64), (64, 48), (97, 131)])
def test_random_crop_is_the_same_for_all_frames(size):
    image = torch.randint(0, 256, (1, *size, 3), dtype=torch.uint8)
    clip = image.expand(5, *size, 3)
    flipped = set()
    for seed in range(8):
        rng = np.random.default_rng(seed)
        crop = random_crop(clip, 32, (32, 48), 0.5, rng)
        assert crop.shape == (5, 32, 32, 3) and crop.dtype == torch.uint8
        assert all(torch.equal(frame, crop[0]) for frame in crop)
        again = random_crop(clip, 32, (32, 48), 0.5, np.random.default_rng(seed))
        assert torch.equal(again, crop)
        unflipped = random_crop(clip, 32, (32, 48), 0.0, np.random.default_rng(seed))
        flipped.add(torch.equal(crop, unflipped.flip(2)))
        assert torch.equal(crop, unflipped) or torch.equal(crop, unflipped.flip(2))
    assert flipped == {True, False}


def test_crop_of_the_whole_is_a_resize():
    ramp = torch.arange(64, dtype=torch.uint8).view(1, 1, 64, 1).expand(1, 64, 64, 3)
    crop = random_crop(ramp, 32, (32, 32), 0.0, np.random.default_rng(0))
    torch.testing.assert_close(
        crop[0, 5, 1:-1, 0].float(), torch.arange(64.0).view(32, 2).mean(1)[1:-1], atol=1, rtol=0
    )


def test_color_jitter():
    clip = torch.randint(60, 180, (3, 8, 8, 3), dtype=torch.uint8)
    clip[1] = clip[0]
    assert color_jitter(clip, 0.0, np.random.default_rng(0)) is clip
    out = color_jitter(clip, 0.5, np.random.default_rng(1))
    assert out.shape == clip.shape and out.dtype == torch.uint8 and not torch.equal(out, clip)
    assert torch.equal(out[0], out[1]), "the same change in every frame"
    assert torch.equal(out, color_jitter(clip, 0.5, np.random.default_rng(1)))


@pytest.mark.parametrize(("size", "resized"), [((48, 64), (32, 43)), ((64, 48), (43, 32)), ((32, 32), (32, 32))])
def test_short_side_and_crops(size, resized):
    frames = torch.randint(0, 256, (2, *size, 3), dtype=torch.uint8)
    small = resize_short_side(frames, 32)
    assert small.shape == (2, *resized, 3)
    left, centre, right = spatial_crops(small, 32, 3)
    assert torch.equal(left, small[:, :32, :32]) and torch.equal(right, small[:, -32:, -32:])
    assert torch.equal(spatial_crops(small, 32, 1)[0], centre)


def test_random_crops_reach_all_places():
    # The pixel values are the coordinates, and crops have their own size: no resizing blurs them.
    frames = torch.stack(torch.meshgrid(torch.arange(40), torch.arange(60), indexing="ij"), 2)
    frames = torch.cat([frames, frames[..., :1]], 2).to(torch.uint8)[None]
    rng = np.random.default_rng(0)
    corners = {tuple(random_crop(frames, 30, (40, 40), 0.0, rng)[0, 0, 0, :2].tolist()) for _ in range(1000)}
    assert {top for top, _ in corners} == set(range(11)) and {left for _, left in corners} == set(range(31))
