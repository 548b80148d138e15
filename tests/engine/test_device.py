"""Apple's GPU: what its rules forbid. None is needed here; the rules are checked on a CPU."""

from __future__ import annotations

import pytest
import torch
from fixed_batches import batches
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from trainers import ALONE, make_trainer

from octvideo.cli import run
from octvideo.cli.run_net import main
from octvideo.data.augment import Augmentation
from octvideo.data.mixing import Mixing
from octvideo.device import resolve_device
from octvideo.engine.distributed import distributed
from octvideo.engine.tester import score_videos
from octvideo.errors import UserError


class _NoFloat64(TorchDispatchMode):
    """Fails where a tensor is float64, as Apple's GPU does."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            assert not (isinstance(leaf, torch.Tensor) and leaf.dtype == torch.float64), func
        return result


def test_steps_and_scores_need_no_float64() -> None:
    net = nn.Sequential(nn.Conv3d(3, 4, 3), nn.BatchNorm3d(4), nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(4, 3))
    preparation = {
        "augment": Augmentation(num_ops=2, magnitude=9, erasing=1.0),
        "mix": Mixing(mixup=0.8, cutmix=1.0, num_classes=3),
    }
    trainer = make_trainer(net, 6, preparation=preparation, clip_grad_norm=1.0, ema=0.9, label_smoothing=0.1)
    source = batches(ALONE)
    with pytest.raises(AssertionError), _NoFloat64():
        torch.zeros(1).double()
    with _NoFloat64():
        trainer.train(source)
        frames = torch.zeros(2, 4, 16, 16, 3, dtype=torch.uint8)
        scores = score_videos(net.eval(), [frames], mean=[0.45] * 3, std=[0.2] * 3, device=ALONE.device, max_views=1)
    assert trainer.step == 6 and scores[0].shape == (3,)


@pytest.mark.skipif(torch.backends.mps.is_available(), reason="there is one")
def test_missing_gpu_of_apple_is_an_error(capsys: pytest.CaptureFixture[str], small_run) -> None:
    assert run(main, small_run("out", "DEVICE", "mps")) == 2
    assert capsys.readouterr().err == (
        "error: device mps: torch finds no GPU of Apple; set DEVICE (or --device) to cpu or auto\n"
    )


def test_auto_takes_gpu_of_apple(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve_device("auto").type == resolve_device("mps").type == "mps"
    for name, value in {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match="2 processes on device mps, which takes one"), distributed("auto"):
        pass
