"""Augmentation of batches on the device, random resized crop, and the configuration's bounds."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from octvideo.config import load_cfg
from octvideo.data import normalize_clips
from octvideo.data.augment import Augmentation
from octvideo.data.seeds import fork_torch_rng, seed_of
from octvideo.data.transforms import random_resized_crop
from octvideo.errors import UserError


def repeated(clips: int = 4, frames: int = 3, size: int = 24) -> torch.Tensor:
    """Clips of one repeated frame each: smooth pictures, all different."""
    ramp = torch.linspace(40, 200, size)
    image = torch.stack(
        [ramp[:, None].expand(size, size), ramp.expand(size, size), ramp.flip(0).expand(size, size)], -1
    )
    images = torch.stack([image * (0.5 + 0.5 * number / clips) for number in range(clips)]).to(torch.uint8)
    return images[:, None].expand(clips, frames, size, size, 3).contiguous()


def seeds(count: int, first: int = 0) -> torch.Tensor:
    return torch.tensor([seed_of(number) for number in range(first, first + count)])


def test_seeds_are_a_function_of_their_key():
    assert seed_of(1, 2, 3) == seed_of(1, 2, 3) and 0 <= seed_of(1, 2, 3) < 2**63
    assert len({seed_of(a, b) for a in range(20) for b in range(20)}) == 400


def test_drawing_leaves_the_random_state_as_it_was():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    with fork_torch_rng(1):
        first = torch.rand(3)
    with fork_torch_rng(1):
        assert torch.equal(torch.rand(3), first)
    assert torch.equal(torch.rand(3), expected)


def test_nothing_switched_on_changes_nothing():
    frames = repeated()
    assert Augmentation().frames(frames, seeds(4)) is frames
    clips = normalize_clips(frames, [0.45] * 3, [0.225] * 3)
    before = clips.clone()
    assert Augmentation().clips(clips, seeds(4)) is clips and torch.equal(clips, before)


def test_randaugment_is_per_clip():
    frames = repeated(1).expand(40, -1, -1, -1, -1)
    augment = Augmentation(num_ops=2, magnitude=9, fill=[0.45] * 3)
    out = augment.frames(frames, seeds(40))
    assert out.shape == frames.shape and out.dtype == torch.uint8 and out.is_contiguous()
    assert torch.equal(out, out[:, :1].expand_as(out)), "one repeated frame stays one"
    changed = sum(not torch.equal(a, b) for a, b in zip(out, frames))
    assert changed >= 32  # both operations are the identity, or without effect, in few
    assert len({clip.numpy().tobytes() for clip in out}) >= 32
    assert normalize_clips(out, [0.45] * 3, [0.225] * 3).is_contiguous(memory_format=torch.channels_last_3d)


def test_augmentation_depends_on_frames_and_seed():
    frames, numbers = repeated(4), seeds(4)
    augment = Augmentation(num_ops=2, magnitude=9, erasing=0.7)

    def whole(frames, numbers):
        return augment.clips(normalize_clips(augment.frames(frames, numbers), [0.45] * 3, [0.225] * 3), numbers)

    torch.manual_seed(1)
    together = whole(frames, numbers)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    for number in (2, 0, 3, 1):
        part = slice(number, number + 1)
        assert torch.equal(whole(frames[part], numbers[part]), together[part])
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(whole(frames, seeds(4, 10)), together)
    with pytest.raises(ValueError, match="shorter"):
        whole(frames, numbers[:3])


def test_a_stronger_magnitude_changes_more():
    frames = repeated(1, size=32).expand(60, -1, -1, -1, -1)
    distance = [
        (Augmentation(num_ops=1, magnitude=level).frames(frames, seeds(60)).float() - frames.float()).abs().mean()
        for level in (1, 25)
    ]
    assert distance[1] > 1.5 * distance[0]


def test_erasing_is_one_box_per_clip():
    count, size = 150, 40
    clips = torch.full((count, 3, 3, size, size), 7.0).contiguous(memory_format=torch.channels_last_3d)
    out = Augmentation(erasing=0.4).clips(clips, seeds(count))
    assert out is clips and out.is_contiguous(memory_format=torch.channels_last_3d)
    assert torch.equal(out, out[:, :, :1].expand_as(out)), "the same noise in all frames"
    masks = (out[:, :, 0] != 7).any(1)
    erased = masks.flatten(1).any(1)
    assert 0.25 * count < erased.sum() < 0.55 * count
    shares = []
    for mask in masks[erased]:
        rows, columns = mask.any(1).nonzero(), mask.any(0).nonzero()
        height, width = rows[-1] - rows[0] + 1, columns[-1] - columns[0] + 1
        assert mask.sum() == height * width, "a box"
        shares.append(float(height * width) / size**2)
    assert 0.01 < min(shares) and max(shares) < 0.35 and max(shares) - min(shares) > 0.15
    noise = out.permute(0, 2, 3, 4, 1)[:, 0][masks]
    assert abs(noise.mean()) < 0.1 and abs(noise.std() - 1) < 0.1


def test_random_resized_crop_has_area_and_aspect():
    size, height, width = 64, 100, 160
    x, y = torch.arange(width), torch.arange(height)
    image = torch.stack([x.expand(height, width), y[:, None].expand(height, width), torch.zeros(height, width)], -1)
    clip = image.to(torch.uint8).expand(3, height, width, 3)
    areas, aspects, flips = [], [], 0
    for seed in range(150):
        crop = random_resized_crop(clip, size, (0.2, 0.6), (0.75, 4 / 3), 0.5, np.random.default_rng(seed))
        assert crop.shape == (3, size, size, 3) and crop.dtype == torch.uint8
        assert torch.equal(crop, crop[:1].expand_as(crop))
        values = crop[0].double()
        across = float(values[10, -1, 0] - values[10, 0, 0]) * size / (size - 1)
        down = float(values[-1, 10, 1] - values[0, 10, 1]) * size / (size - 1)
        flips += across < 0
        areas.append(abs(across) * down / (height * width))
        aspects.append(abs(across) / down)
    assert 0.18 < min(areas) < 0.25 and 0.55 < max(areas) < 0.63
    assert 0.72 < min(aspects) < 0.85 and 1.2 < max(aspects) < 1.4
    assert 50 < flips < 100
    torch.manual_seed(3)
    again = random_resized_crop(clip, size, (0.2, 0.6), (0.75, 4 / 3), 0.5, np.random.default_rng(149))
    assert torch.equal(again, crop)


def test_a_resized_crop_of_everything_is_a_resize():
    clip = repeated(1, size=64)[0]
    crop = random_resized_crop(clip, 32, (1.0, 1.0), (1.0, 1.0), 0.0, np.random.default_rng(0))
    expected = clip.float().view(3, 32, 2, 32, 2, 3).mean((2, 4))
    torch.testing.assert_close(crop[:, 1:-1, 1:-1].float(), expected[:, 1:-1, 1:-1], atol=1.5, rtol=0)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ("DATA.SAMPLING uniform", "DATA.SAMPLING is 'uniform': it must be one of even, pyslowfast, pytorchvideo"),
        ("DATA.RANDOM_RESIZED_CROP [0.5]", "DATA.RANDOM_RESIZED_CROP is .0.5.: it must be .. or four numbers"),
        ("DATA.RANDOM_RESIZED_CROP [0.5,1.2,0.75,1.3]", "DATA.RANDOM_RESIZED_CROP"),
        ("DATA.RANDOM_RESIZED_CROP [0.5,1.0,1.3,0.75]", "DATA.RANDOM_RESIZED_CROP"),
        ("DATA.RANDOM_RESIZED_CROP [a,1.0,1.0,1.0]", "DATA.RANDOM_RESIZED_CROP"),
        ("DATA.RANDAUGMENT [2]", "DATA.RANDAUGMENT is .2.: it must be two whole numbers"),
        ("DATA.RANDAUGMENT [2,31]", r"magnitude \(0 to 30\)"),
        ("DATA.RANDAUGMENT [2,0.5]", "DATA.RANDAUGMENT"),
        ("DATA.RANDOM_ERASING 1.5", "DATA.RANDOM_ERASING is 1.5: it must be between 0 and 1"),
        ("DATA.REPEATS 0", "DATA.REPEATS is 0: it must be at least 1"),
        ("DATA.REPEATS 3", r"TRAIN.BATCH_SIZE is 64: it must be divisible by DATA.REPEATS \(3\)"),
        ("TRAIN.MIXUP -0.1", "TRAIN.MIXUP is -0.1: it must be at least 0"),
        ("TRAIN.CUTMIX .nan", "TRAIN.CUTMIX is nan"),
    ],
)
def test_values_out_of_bounds_name_their_key(overrides, message):
    with pytest.raises(UserError, match=message):
        load_cfg(None, overrides.split())
