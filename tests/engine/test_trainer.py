"""The training loop by itself: gradients over processes and parts, what is not finite, unlabelled videos."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from fvcore.common.param_scheduler import ConstantParamScheduler
from torch import Tensor, nn

from octvideo.data import Batch, VideoIndex
from octvideo.engine.distributed import World
from octvideo.engine.logging import RunLog
from octvideo.engine.tester import TestResult
from octvideo.engine.trainer import Trainer
from octvideo.engine.training import _top1
from octvideo.errors import UserError


def trained(out: Path, parts: int, processes: int) -> dict:
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"] if processes > 1 else []
    script = str(Path(__file__).with_name("fixed_batches.py"))
    process = subprocess.Popen(
        [sys.executable, *launcher, script, str(out), str(parts)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        _, errors = process.communicate(timeout=240)
    except subprocess.TimeoutExpired:
        process.terminate()  # not kill: torchrun ends its ranks only when it is asked to
        process.communicate(timeout=60)
        raise
    assert process.returncode == 0, errors
    return torch.load(out, weights_only=True)


def test_processes_and_parts_give_the_gradients_of_one_batch(tmp_path):
    whole = trained(tmp_path / "whole.pt", 1, 1)
    for parts, processes in ((2, 1), (2, 2)):
        other = trained(tmp_path / "other.pt", parts, processes)
        assert other["norms"] == pytest.approx(whole["norms"], abs=1e-5)
        for key, value in whole["model"].items():
            torch.testing.assert_close(other["model"][key], value, atol=1e-5, rtol=0)


class _InfiniteSlope(nn.Module):
    """A finite loss whose gradient is not finite: the square root's slope at 0."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(3))

    def forward(self, clips: Tensor) -> Tensor:
        return self.weight.sqrt().expand(len(clips), 3)


def test_a_gradient_that_is_not_finite_never_reaches_the_weights():
    net = _InfiniteSlope()
    trainer = Trainer(
        net,
        torch.optim.SGD(net.parameters(), lr=0.1),
        ConstantParamScheduler(0.1),
        steps=1,
        world=World(0, 1, torch.device("cpu")),
        mean=[0.45] * 3,
        std=[0.225] * 3,
        path_of=lambda index: f"video{index}.mp4",
    )
    numbers = torch.arange(2)
    batch = Batch(torch.zeros(2, 2, 4, 4, 3, dtype=torch.uint8), torch.zeros_like(numbers), numbers, [], numbers)
    with pytest.raises(UserError, match=r"step 1: the gradient norm is (inf|nan) at learning rate 0.1.*video0.mp4"):
        trainer.train(iter([batch]))
    assert torch.equal(net.weight.detach(), torch.zeros(3))


def test_validation_scores_labelled_videos_only():
    index = VideoIndex(["a.mp4", "b.mp4"], [0, -1], ["x", "y"])
    assert _top1(TestResult(torch.eye(2), torch.arange(2), []), index) == 100


def test_the_log_is_json_where_a_number_is_not_finite(tmp_path):
    def refuse(name: str) -> None:
        raise AssertionError(name)

    with RunLog(tmp_path) as log:
        log.write("train", step=1, grad_norm=float("inf"), loss=np.float64("nan"))
    line = json.loads((tmp_path / "log.jsonl").read_text(), parse_constant=refuse)
    assert line["grad_norm"] is None and line["loss"] is None
