"""The training loop by itself: gradients over processes and parts, what is not finite, unlabelled videos."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from fixed_batches import PAUSE
from processes import HELPERS, run_script
from torch import Tensor, nn
from trainers import make_trainer

from octvideo.data import Batch, Failure, VideoIndex
from octvideo.engine.hooks import Logging
from octvideo.engine.logging import RunLog
from octvideo.engine.results import accuracy
from octvideo.engine.sync_bn import synchronise_batch_norm
from octvideo.engine.tester import TestResult
from octvideo.engine.trainer import StepStats
from octvideo.errors import UserError
from octvideo.octave import OctBatchNorm3d


@pytest.fixture(scope="session")
def trained():
    """What a script has saved: ``trained(name, out, *arguments, processes=1)``."""

    def run(name: str, out: Path, *arguments: str, processes: int = 1) -> dict:
        done = run_script(HELPERS / name, out, *arguments, processes=processes)
        assert done.returncode == 0, done.stderr
        return torch.load(out, weights_only=True)

    return run


def test_processes_and_parts_give_the_gradients_of_one_batch(tmp_path, trained):
    """And its figures, with one exchange a step, until one rank asks to stop after the fifth."""
    whole = trained("fixed_batches.py", tmp_path / "whole.pt", "1")
    assert len(whole["figures"]) == 5 and whole["exchanges"] == []
    for parts, processes in (("2", 1), ("2", 2)):
        other = trained("fixed_batches.py", tmp_path / "other.pt", parts, processes=processes)
        assert [figures[2] for figures in other["figures"]] == [8] * 5
        torch.testing.assert_close(torch.tensor(other["figures"]), torch.tensor(whole["figures"]), atol=1e-5, rtol=1e-5)
        for key, value in whole["model"].items():
            torch.testing.assert_close(other["model"][key], value, atol=1e-5, rtol=0)
    assert other["exchanges"] == ["all_gather"] * 5
    # Rank 1's batches take half a second each: it waits for its data, and rank 0 for it.
    (data_0, wait_0, step_0), (data_1, wait_1, _) = other["times"]
    assert data_1 >= 5 * PAUSE and wait_0 > PAUSE and step_0 >= data_0 + wait_0
    assert wait_1 < wait_0 and whole["times"][0][1] == 0


@pytest.mark.parametrize("kind", ["3d fp32", "2d fp32", "3d bf16"])
def test_synchronised_batch_norm_is_that_of_one_batch(tmp_path, synchronised, kind):
    """The norms of both groups: outputs, losses, gradients, running statistics."""
    one, two = (found[kind] for found in synchronised)
    tolerance = dict(atol=1e-5, rtol=1e-4) if "fp32" in kind else dict(atol=3e-2, rtol=3e-2)
    assert {"norm.weight", "norm.running_var", "first.running_mean"} <= one["model"].keys()
    assert {"norm.low.weight", "norm.high.bias"} <= one["gradients"][0].keys()
    assert one["model"]["norm.num_batches_tracked"] == 3 and len(one["outputs"]) == 3
    for name in ("outputs", "losses", "gradients"):
        torch.testing.assert_close(two[name], one[name], **tolerance)
    torch.testing.assert_close(dict(two["model"]), dict(one["model"]), **tolerance)
    alone = one["outputs"][0][:4]  # each rank by itself would have other statistics
    assert (alone.float().mean((0, *range(2, alone.dim()))).abs() > 1e-3).any()


@pytest.fixture(scope="module")
def synchronised(tmp_path_factory: pytest.TempPathFactory, trained) -> list[dict]:
    """What one process finds with the whole batch, and two with half of it each."""
    folder = tmp_path_factory.mktemp("synchronised")
    return [trained("synchronised_batches.py", folder / f"{n}.pt", processes=n) for n in (1, 2)]


def test_on_cuda_both_groups_get_pytorchs_own_synchronised_norm():
    net = nn.Sequential(OctBatchNorm3d(8, alpha=0.25), nn.BatchNorm3d(8))
    state = {key: value.clone() for key, value in net.state_dict().items()}
    found = synchronise_batch_norm(net, torch.device("cuda"))
    assert [type(module) for module in found.modules()].count(nn.SyncBatchNorm) == 3
    assert list(found.state_dict()) == list(state)
    assert all(torch.equal(value, state[key]) for key, value in found.state_dict().items())


class _InfiniteSlope(nn.Module):
    """A finite loss whose gradient is not finite: the square root's slope at 0."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(3))

    def forward(self, clips: Tensor) -> Tensor:
        return self.weight.sqrt().expand(len(clips), 3)


def test_a_gradient_that_is_not_finite_never_reaches_the_weights():
    net = _InfiniteSlope()
    trainer = make_trainer(net, 1)
    with pytest.raises(UserError, match=r"step 1: the gradient norm is (inf|nan) at learning rate 0.1.*video0.mp4"):
        trainer.train(iter([black()]))
    assert torch.equal(net.weight.detach(), torch.zeros(3))


class _NotANumber(nn.Module):
    """A loss that is not a number in the third step."""

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


def test_a_loss_that_is_not_a_number_names_step_rate_and_files():
    trainer = make_trainer(_NotANumber(), 9)
    with pytest.raises(UserError, match=r"step 3: the loss is nan at learning rate 0.1: .*: video0.mp4, video1.mp4"):
        trainer.train(iter([black()] * 9))
    assert trainer.step == 2 and trainer.model.weight.isfinite().all()


def test_a_clip_for_which_no_video_could_be_read_is_not_trained_on():
    net = nn.Sequential(nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(3, 3))
    weight = net[2].weight.detach().clone()
    batch = black(-1, [Failure(f"/gone{number}.mp4", "no such file") for number in range(20)])
    trainer = make_trainer(net, 9)
    with pytest.raises(UserError, match=r"/gone19.mp4: no such file; 20 videos in a row cannot be read"):
        trainer.train(iter([batch]))
    assert torch.equal(net[2].weight.detach(), weight)


def test_validation_scores_labelled_videos_only():
    index = VideoIndex(["a.mp4", "b.mp4"], [0, -1], ["x", "y"])
    assert accuracy(TestResult(torch.eye(2), torch.arange(2), []), index)["top1"] == 100


def test_the_log_is_json_where_a_number_is_not_finite(tmp_path):
    def refuse(name: str) -> None:
        raise AssertionError(name)

    with RunLog(tmp_path) as log:
        log.start()
        log.write("train", step=1, grad_norm=float("inf"), loss=np.float64("nan"))
    line = json.loads((tmp_path / "log.jsonl").read_text(), parse_constant=refuse)
    assert line["grad_norm"] is None and line["loss"] is None


def test_a_line_that_was_cut_does_not_spoil_the_next_one(tmp_path):
    file = tmp_path / "log.jsonl"
    whole = '{"kind": "info", "message": "before"}\n'
    for before, lines in (("", 1), (whole, 2), (whole + '{"kind": "tr', 3)):
        file.write_text(before)
        with RunLog(tmp_path) as log:
            log.start()
            log.write("info", message="after")
        found = file.read_text().splitlines()
        assert len(found) == lines and json.loads(found[-1])["message"] == "after"


def test_the_time_that_is_left_may_be_days(tmp_path, capsys):
    net = nn.Linear(1, 1)
    trainer = make_trainer(net, 101)
    trainer.step = 1
    stats = StepStats(0.0, 0.0, 0.0, 0.0, 2, [], data_time=0.0, wait_time=0.0, step_time=3600.0)
    with RunLog(tmp_path) as log:
        Logging(log, 1)(trainer, stats)
    assert "ETA 100:00:00" in capsys.readouterr().err


def test_a_run_without_fp16_goes_on_with_it():
    before = make_trainer(nn.Linear(1, 1), 1)
    after = make_trainer(nn.Linear(1, 1), 1, precision="fp16")
    after.load_state({**before.state(), "step": 5})
    assert after.step == 5 and after.scaler.get_scale() == 65536


class _Draws(nn.Module):
    """Notes a random number in each forward, as dropout would draw one."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.drawn = nn.Parameter(torch.ones(3)), list[float]()

    def forward(self, clips: Tensor) -> Tensor:
        self.drawn.append(torch.rand(()).item())
        return self.weight.expand(len(clips), 3)


def test_each_step_draws_its_own_numbers_also_after_going_on():
    whole, rest = _Draws(), _Draws()
    make_trainer(whole, 3).train(iter([black()] * 3))
    assert len(set(whole.drawn)) == 3
    later = make_trainer(rest, 3)
    later.step = 2
    later.train(iter([black()]))
    assert rest.drawn == whole.drawn[2:]
