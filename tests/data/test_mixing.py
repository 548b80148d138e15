"""Mixup and cutmix: what is in the clips is what the targets say."""

from __future__ import annotations

import pytest
import torch

from octvideo.data.mixing import Mixing

COUNT, CLASSES = 5, 7
LABELS = torch.tensor([6, 0, 3, 3, 5])


def constant_clips() -> torch.Tensor:
    """Clip i is full of the value i."""
    values = torch.arange(float(COUNT)).view(COUNT, 1, 1, 1, 1).expand(COUNT, 3, 4, 16, 20)
    return values.contiguous(memory_format=torch.channels_last_3d)


def shares(targets: torch.Tensor) -> torch.Tensor:
    """Of each clip in itself, by its target; checks that the rest is its neighbour's."""
    assert targets.shape == (COUNT, CLASSES) and torch.allclose(targets.sum(1), torch.ones(COUNT))
    rows = torch.arange(COUNT)
    different = LABELS != LABELS.roll(1)
    own = targets[rows, LABELS]
    assert torch.allclose((own + targets[rows, LABELS.roll(1)])[different], torch.ones(int(different.sum())))
    assert torch.allclose(own[~different], torch.ones(int((~different).sum())))
    assert len(set(own[different].tolist())) == 1, "one share for the whole batch"
    return own[different][0]


def test_mixup_pixels_match_the_targets():
    mix, seen = Mixing(mixup=0.8, cutmix=0, num_classes=CLASSES), set()
    for seed in range(20):
        clips, targets = mix(constant_clips(), LABELS, seed)
        own = shares(targets)
        seen.add(round(float(own), 3))
        expected = own * torch.arange(COUNT) + (1 - own) * torch.arange(COUNT).roll(1)
        torch.testing.assert_close(clips, expected.view(COUNT, 1, 1, 1, 1).expand_as(clips))
        assert type(clips) is torch.Tensor and clips.is_contiguous(memory_format=torch.channels_last_3d)
    assert len(seen) == 20


def test_cutmix_box_area_is_in_the_targets():
    mix, seen = Mixing(mixup=0, cutmix=1.0, num_classes=CLASSES), set()
    for seed in range(20):
        clips, targets = mix(constant_clips(), LABELS, seed)
        assert torch.equal(clips, clips[:, :1, :1].expand_as(clips))
        other = clips[:, 0, 0] != torch.arange(COUNT).view(COUNT, 1, 1)
        assert torch.equal(
            clips[:, 0, 0][other], torch.arange(float(COUNT)).roll(1).repeat_interleave(int(other[0].sum()))
        )
        own = shares(targets)
        assert float(other[0].float().mean()) == pytest.approx(1 - float(own), abs=1e-6)
        if other.any():
            rows, columns = other[0].any(1).nonzero(), other[0].any(0).nonzero()
            assert other[0].sum() == (rows[-1] - rows[0] + 1) * (columns[-1] - columns[0] + 1)
        seen.add(round(float(own), 3))
    assert len(seen) > 10


def test_both_take_turns_and_the_seed_decides():
    mix = Mixing(mixup=0.8, cutmix=1.0, num_classes=CLASSES)
    cut = 0
    for seed in range(40):
        torch.manual_seed(seed)
        state = torch.get_rng_state()
        clips, targets = mix(constant_clips(), LABELS, seed)
        assert torch.equal(torch.get_rng_state(), state)
        again = mix(constant_clips(), LABELS, seed)
        assert torch.equal(clips, again[0]) and torch.equal(targets, again[1])
        cut += torch.equal(clips, clips.round())
    assert 10 < cut < 30
