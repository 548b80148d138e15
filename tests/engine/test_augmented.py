"""Training with everything switched on: what the loss is of, parts, and a run that goes on where it stopped."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from torch import nn
from trainers import MEAN, STD, make_trainer

from octvideo.cli import run
from octvideo.cli.run_net import main
from octvideo.data import Batch, normalize_clips
from octvideo.data.augment import Augmentation
from octvideo.data.mixing import Mixing
from octvideo.data.seeds import seed_of
from octvideo.engine.trainer import StepStats

EVERYTHING = [
    *("DATA.SAMPLING", "pyslowfast", "DATA.RANDOM_RESIZED_CROP", "[0.3,1.0,0.75,1.3333]", "DATA.REPEATS", "2"),
    *("DATA.RANDAUGMENT", "[2,9]", "DATA.RANDOM_ERASING", "0.5", "TRAIN.MIXUP", "0.8", "TRAIN.CUTMIX", "1.0"),
    *("TRAIN.LABEL_SMOOTHING", "0.1", "TRAIN.ACCUMULATE", "2", "TEST.ENABLE", "False"),
]  # fmt: skip


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv3d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(4, 3))


def batch() -> Batch:
    generator = torch.Generator().manual_seed(1)
    frames = torch.randint(0, 256, (8, 4, 16, 16, 3), generator=generator, dtype=torch.uint8)
    numbers = torch.arange(8)
    return Batch(frames, torch.randint(0, 3, (8,), generator=generator), numbers, [], numbers + 100)


def last_stats(accumulate: int, steps: int = 1, **preparation: object) -> StepStats:
    """Train on the same batch, and return the figures of the last step."""
    found: list[StepStats] = []
    trainer = make_trainer(
        network(),
        steps,
        accumulate=accumulate,
        label_smoothing=0.1,
        seed=3,
        preparation=preparation,
        hooks=[lambda _, stats: found.append(stats)],
    )
    trainer.train(iter([batch()] * steps))
    return found[-1]


def test_the_loss_is_that_of_the_mixed_clips_and_accuracy_that_of_the_heavier_label():
    augment, mix = Augmentation(num_ops=1, magnitude=9, erasing=0.5), Mixing(mixup=0.8, cutmix=0.0, num_classes=3)
    last = last_stats(1, augment=augment, mix=mix)
    frames, labels, _, _, seeds = batch()
    clips = augment.clips(normalize_clips(augment.frames(frames, seeds), MEAN, STD), seeds)
    clips, targets = mix(clips, labels, seed_of(3, 0, 0))
    logits = network()(clips).detach()
    smooth = 0.9 * targets + 0.1 / 3
    assert last.loss == pytest.approx(float(-(smooth * logits.log_softmax(1)).sum(1).mean()), abs=1e-6)
    assert 0.5 < float(targets.amax(1).min()) < 1, "or the next line says nothing"
    assert last.top1 == pytest.approx(100 * float((logits.argmax(1) == targets.argmax(1)).double().mean()))
    assert last.loss != pytest.approx(last_stats(1).loss, abs=1e-4)


@pytest.mark.parametrize("parts", [3, 8])
def test_parts_do_not_change_what_is_mixed(parts):
    settings = {"augment": Augmentation(num_ops=1, magnitude=9, erasing=0.5)}
    for mix in (None, Mixing(mixup=0.8, cutmix=1.0, num_classes=3)):
        whole, other = (last_stats(number, 3, mix=mix, **settings) for number in (1, parts))
        assert other.grad_norm == pytest.approx(whole.grad_norm, abs=1e-5)
        assert other.loss == pytest.approx(whole.loss, abs=1e-5)
        assert other.top1 == whole.top1


SWITCHES = ["DATA.SAMPLING", "DATA.RANDOM_RESIZED_CROP", "DATA.REPEATS", "DATA.RANDAUGMENT", "DATA.RANDOM_ERASING"]


@pytest.mark.parametrize("key", [*SWITCHES, "TRAIN.MIXUP", "TRAIN.CUTMIX"])
def test_each_switch_reaches_the_loss(small_run, tmp_path, key):
    torch.set_num_threads(1)
    steps = ["TRAIN.STEPS", "1", "TRAIN.LOG_EVERY", "1", "TEST.ENABLE", "False", "DATA.RANDOM_ERASING", "0"]
    value = dict(zip(EVERYTHING[::2], EVERYTHING[1::2]))[key]
    losses = []
    for name, more in (("off", []), ("on", [key, "1" if key == "DATA.RANDOM_ERASING" else value])):
        assert run(main, small_run(name, *steps, *more)) == 0
        lines = (tmp_path / name / "log.jsonl").read_text().splitlines()
        losses.append(next(json.loads(line)["loss"] for line in lines if '"train"' in line))
    assert losses[0] != losses[1]


def test_each_step_mixes_anew():
    mix = Mixing(mixup=0.8, cutmix=0.0, num_classes=3)
    seen: list[torch.Tensor] = []

    def note(clips: torch.Tensor, labels: torch.Tensor, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        mixed, targets = mix(clips, labels, seed)
        seen.append(targets)
        return mixed, targets

    last_stats(1, 3, mix=note)
    assert not torch.equal(seen[0], seen[1]) and not torch.equal(seen[1], seen[2])


def weights(folder):
    return torch.load(folder / "checkpoints" / "last.pt", weights_only=True)["model"]


def test_a_run_with_everything_on_resumes_bit_identically_with_other_workers(small_run, tmp_path):
    torch.set_num_threads(1)
    steps = ["TRAIN.STEPS", "6", "TRAIN.CHECKPOINT_EVERY", "3", "TRAIN.LOG_EVERY", "1"]
    assert run(main, small_run("whole", *EVERYTHING, *steps)) == 0
    shutil.copytree(tmp_path / "whole", tmp_path / "resumed")
    for name in ("last.pt", "step_00000006.pt"):
        (tmp_path / "resumed" / "checkpoints" / name).unlink()
    assert run(main, small_run("resumed", *EVERYTHING, *steps, "NUM_WORKERS", "1")) == 0
    whole, resumed = weights(tmp_path / "whole"), weights(tmp_path / "resumed")
    assert whole.keys() == resumed.keys() and all(torch.equal(whole[key], resumed[key]) for key in whole)
    lines = [json.loads(line) for line in (tmp_path / "resumed" / "log.jsonl").read_text().splitlines()]
    losses = [(line["step"], line["loss"]) for line in lines if line["kind"] == "train"]
    assert losses[3:6] == losses[6:] and [step for step, _ in losses] == [1, 2, 3, 4, 5, 6, 4, 5, 6]
    assert all(0 <= line["top1"] <= 100 for line in lines if line["kind"] == "train")
