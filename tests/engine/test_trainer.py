"""The training loop: gradients over processes and parts, mixing, clipping, numbers that are not finite."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from fixed_batches import PAUSE
from runs import call, log_lines, script_result, weights
from torch import Tensor, nn
from trainers import MEAN, STD, make_trainer

from octvideo.data import Batch, Failure, normalize_clips
from octvideo.data.augment import Augmentation
from octvideo.data.dataset import UNREADABLE
from octvideo.data.mixing import Mixing
from octvideo.data.seeds import seed_of
from octvideo.engine.trainer import StepStats
from octvideo.errors import UserError


def test_gradients_do_not_depend_on_division(tmp_path):
    """Nor do the figures. There is one exchange per step; one rank asks to stop after the fifth."""
    whole = script_result("fixed_batches.py", tmp_path / "whole.pt", "1")
    assert len(whole["figures"]) == 5 and whole["exchanges"] == []
    for parts, processes in (("2", 1), ("2", 2)):
        other = script_result("fixed_batches.py", tmp_path / "other.pt", parts, processes=processes)
        assert [figures[2] for figures in other["figures"]] == [8] * 5
        torch.testing.assert_close(torch.tensor(other["figures"]), torch.tensor(whole["figures"]), atol=1e-5, rtol=1e-5)
        for key, value in whole["model"].items():
            torch.testing.assert_close(other["model"][key], value, atol=1e-5, rtol=0)
    assert other["exchanges"] == ["all_gather"] * 5
    # Rank 1's batches take half a second each: it waits for its data, and rank 0 for it.
    (data_0, wait_0, step_0), (data_1, wait_1, _) = other["times"]
    assert data_1 >= 5 * PAUSE and wait_0 > PAUSE and step_0 >= data_0 + wait_0
    assert wait_1 < wait_0 and whole["times"][0][1] == 0


class _InfiniteSlope(nn.Module):
    """A finite loss with an infinite gradient: the slope of the square root at 0."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(3))

    def forward(self, clips: Tensor) -> Tensor:
        return self.weight.sqrt().expand(len(clips), 3)


def test_infinite_gradient_never_reaches_weights():
    net = _InfiniteSlope()
    trainer = make_trainer(net, 1)
    with pytest.raises(UserError, match=r"step 1: the gradient norm is (inf|nan) at learning rate 0.1.*video0.mp4"):
        trainer.train(iter([black()]))
    assert torch.equal(net.weight.detach(), torch.zeros(3))


class _NotANumber(nn.Module):
    """A loss that is NaN in the third step."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.calls = nn.Parameter(torch.ones(3)), 0

    def forward(self, clips: Tensor) -> Tensor:
        self.calls += 1
        return self.weight.expand(len(clips), 3) * (float("nan") if self.calls == 3 else 1.0)


def black(label: int = 0, failed: Sequence[Failure] = ()) -> Batch:
    numbers = torch.arange(2)
    return Batch(
        torch.zeros(2, 2, 4, 4, 3, dtype=torch.uint8), torch.tensor([0, label]), numbers, list(failed), numbers
    )


def test_nan_loss_names_step_rate_and_files():
    trainer = make_trainer(_NotANumber(), 9)
    with pytest.raises(UserError, match=r"step 3: the loss is nan at learning rate 0.1: .*: video0.mp4, video1.mp4"):
        trainer.train(iter([black()] * 9))
    assert trainer.step == 2 and trainer.model.weight.isfinite().all()


def test_clip_without_video_is_not_trained_on():
    net = nn.Sequential(nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(3, 3))
    weight = net[2].weight.detach().clone()
    batch = black(UNREADABLE, [Failure(f"/gone{number}.mp4", "no such file") for number in range(20)])
    trainer = make_trainer(net, 9)
    with pytest.raises(UserError, match=r"/gone19.mp4: no such file; 20 videos in a row cannot be read"):
        trainer.train(iter([batch]))
    assert torch.equal(net[2].weight.detach(), weight)


def test_run_resumes_with_fp16_switched_on():
    before = make_trainer(nn.Linear(1, 1), 1)
    after = make_trainer(nn.Linear(1, 1), 1, precision="fp16")
    after.load_state({**before.state(), "step": 5})
    assert after.step == 5 and after.scaler.get_scale() == 65536


class _Draws(nn.Module):
    """Records a random number in each forward pass, as dropout would draw one."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.drawn = nn.Parameter(torch.ones(3)), list[float]()

    def forward(self, clips: Tensor) -> Tensor:
        self.drawn.append(torch.rand(()).item())
        return self.weight.expand(len(clips), 3)


def test_each_step_has_its_random_numbers():
    whole, rest = _Draws(), _Draws()
    make_trainer(whole, 3).train(iter([black()] * 3))
    assert len(set(whole.drawn)) == 3
    later = make_trainer(rest, 3)
    later.step = 2
    later.train(iter([black()]))
    assert rest.drawn == whole.drawn[2:]


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


def test_loss_and_accuracy_of_mixed_clips():
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
def test_parts_do_not_change_mixing(parts):
    settings = {"augment": Augmentation(num_ops=1, magnitude=9, erasing=0.5)}
    for mix in (None, Mixing(mixup=0.8, cutmix=1.0, num_classes=3)):
        whole, other = (last_stats(number, 3, mix=mix, **settings) for number in (1, parts))
        assert other.grad_norm == pytest.approx(whole.grad_norm, abs=1e-5)
        assert other.loss == pytest.approx(whole.loss, abs=1e-5)
        assert other.top1 == whole.top1


def test_each_step_mixes_differently():
    mix = Mixing(mixup=0.8, cutmix=0.0, num_classes=3)
    seen: list[torch.Tensor] = []

    def note(clips: torch.Tensor, labels: torch.Tensor, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        mixed, targets = mix(clips, labels, seed)
        seen.append(targets)
        return mixed, targets

    last_stats(1, 3, mix=note)
    assert not torch.equal(seen[0], seen[1]) and not torch.equal(seen[1], seen[2])


def test_clipping_shortens_the_step(small_run: Callable[..., list[str]], tmp_path: Path) -> None:
    """With plain gradient descent, a bound below the gradient norm only shortens the step."""
    plain = ["SOLVER.OPTIMIZER", "sgd", "SOLVER.MOMENTUM", "0", "SOLVER.NESTEROV", "False", "SOLVER.WEIGHT_DECAY", "0"]
    steps = ["TRAIN.STEPS", "1", "SOLVER.WARMUP_STEPS", "0", "TEST.ENABLE", "False", "TRAIN.LOG_EVERY", "1"]
    found, norms = [], []
    for name, bound, rate in (("start", "0", "0"), ("whole", "0", "1"), ("clipped", "0.01", "1")):
        more = [*plain, *steps, "TRAIN.CLIP_GRAD_NORM", bound, "SOLVER.BASE_LR", "1e-30" if rate == "0" else rate]
        assert call(small_run(name, *more)) == 0
        model = torch.load(tmp_path / name / "checkpoints" / "last.pt", weights_only=True)["model"]
        learnt = [value for key, value in model.items() if key.endswith(("weight", "bias"))]
        found.append(torch.cat([value.double().flatten() for value in learnt]))
        norms.append(log_lines(tmp_path / name, "train")[0]["grad_norm"])
    start, whole, clipped = found
    assert norms[2] == pytest.approx(norms[1], rel=1e-5) and norms[1] > 0.01
    assert (whole - start).norm().item() == pytest.approx(norms[1], rel=1e-3)
    assert (clipped - start).norm().item() == pytest.approx(0.01, rel=1e-2)
    torch.testing.assert_close(clipped - start, (whole - start) * 0.01 / norms[1], atol=1e-6, rtol=0)


def test_accumulation_matches_whole_batch(small_run, tmp_path):
    """The losses are only close: batch norm has the statistics of each part."""
    keys = "TRAIN.STEPS 1 TEST.ENABLE False DATA.FLIP 0 DATA.COLOR_JITTER 0 MODEL.DROPOUT 0 TRAIN.LOG_EVERY 1".split()
    losses = []
    for parts in ("1", "2"):
        assert call(small_run(f"a{parts}", *keys, "TRAIN.ACCUMULATE", parts)) == 0
        losses.append(log_lines(tmp_path / f"a{parts}", "train")[0]["loss"])
    assert losses[0] == pytest.approx(losses[1], rel=0.05)


def test_bf16_keeps_fp32_weights(small_run, tmp_path, capsys):
    more = ["TRAIN.PRECISION", "bf16", "TRAIN.CLIP_GRAD_NORM", "0.1", "SOLVER.OPTIMIZER", "sgd", "TRAIN.STEPS", "3"]
    assert call(small_run("out", *more)) == 0
    assert all(value.dtype != torch.bfloat16 for value in weights(tmp_path / "out").values())
    with torch.profiler.profile() as seen:
        torch.nn.Conv2d(8, 8, 3).bfloat16()(torch.zeros(1, 8, 9, 9, dtype=torch.bfloat16))
    fallback = any("slow_conv" in event.key for event in seen.key_averages())
    assert ("this CPU has no bf16" in capsys.readouterr().err) == fallback


def test_one_value_per_channel_is_refused(small_run, capsys):
    arguments = "MODEL.ARCH c2d DATA.NUM_FRAMES 2 TRAIN.BATCH_SIZE 1 DATA.TRAIN_SHORT_SIDE [100000,100000]".split()
    assert call(small_run("out", *arguments)) == 2  # the crop of one pixel is no fault
    assert "batch norm has one value per channel in clips (1, 3, 2, 32, 32): set a larger" in capsys.readouterr().err
