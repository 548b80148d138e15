"""Recomputing in the backward pass, and compiling."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from runs import call, equal, weights
from torch import nn

from octvideo.config import load_cfg
from octvideo.engine import train
from octvideo.models import Stage, build_model
from octvideo.octave import merge

_STOP = ["TRAIN.STEPS", "6", "TEST.ENABLE", "False"]


@pytest.mark.parametrize("arch", ["i3d", "slowfast"])
def test_recomputing_is_bit_exact(arch):
    """Losses, gradients and statistics to the bit; and the blocks do run twice."""
    keys = ["MODEL.BLOCKS", "[1,2,1,1]", "MODEL.WIDTH", "8", "MODEL.NUM_CLASSES", "3", "OCTAVE.ALPHA", "0.5"]
    keys += ["MODEL.ARCH", arch]
    clips, labels = torch.randn(2, 3, 8, 48, 48), torch.tensor([0, 2])
    found = []

    def note(calls: list[int]) -> Callable[..., None]:
        return lambda *_: calls.append(1)

    for stages in (set(), {3, 4}):
        torch.manual_seed(0)
        model = build_model(load_cfg(None, keys)).train()
        calls: list[int] = []
        for stage in model.modules():
            if isinstance(stage, Stage):
                stage.recompute = stage.number in stages
                if stage.number == 3:
                    stage.res_blocks[1].branch2.conv_b.register_forward_hook(note(calls))
        torch.manual_seed(1)
        loss = nn.functional.cross_entropy(model(clips), labels)
        loss.backward()
        gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
        found.append((len(calls), {"loss": loss.detach()}, gradients, model.state_dict()))
    (once, *plain), (again, *recomputed) = found
    assert again == 2 * once > 0
    assert all(equal(a, b) for a, b in zip(plain, recomputed))


def test_compiled_run_matches_and_resumes(small_run, tmp_path):
    """With aot_eager: inductor compiles for minutes. The names of the weights stay, and a plain run resumes."""
    keys = [*_STOP, "MODEL.CONV_AS_2D", "False"]
    assert call(small_run("plain", *keys)) == 0
    assert call(small_run("compiled", *keys, "TRAIN.COMPILE", "aot_eager")) == 0
    plain, compiled = weights(tmp_path / "plain"), weights(tmp_path / "compiled")
    assert plain.keys() == compiled.keys()
    for key, value in plain.items():
        torch.testing.assert_close(compiled[key], value, atol=2e-3, rtol=1e-2)
    assert call(small_run("compiled", *keys[2:], "TRAIN.STEPS", "7")) == 0


def test_recomputing_is_not_compiled_by_old_pytorch(small_run, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(train, "RECOMPUTING_COMPILES", "99.1")
    assert call(small_run("out", *_STOP, "TRAIN.RECOMPUTE", "[3]", "TRAIN.COMPILE", "aot_eager")) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert (
        error.startswith("error: TRAIN.RECOMPUTE with TRAIN.COMPILE needs PyTorch 99.1") and torch.__version__ in error
    )
    assert not list((tmp_path / "out").rglob("*.pt"))


@pytest.mark.skipif(torch.__version__ < train.RECOMPUTING_COMPILES, reason="this PyTorch does it wrong")
@pytest.mark.parametrize("alpha", [pytest.param("0", marks=pytest.mark.full), "0.5"])
def test_recomputing_can_be_compiled(alpha):
    """Stem and first stage, compiled and recomputed: features, gradients and statistics are those of neither."""
    keys = ["MODEL.BLOCKS", "[2,1,1,1]", "MODEL.WIDTH", "8", "MODEL.NUM_CLASSES", "3", "OCTAVE.ALPHA", alpha]
    clips = torch.randn(2, 3, 4, 32, 32)
    found = []
    for recompute in (False, True):
        torch.manual_seed(0)
        model = build_model(load_cfg(None, keys)).train()
        model.blocks = model.blocks[:2]
        model.blocks[1].recompute = recompute
        if recompute:
            model.compile(backend="aot_eager")
        features = merge(model(clips))
        features.square().sum().backward()
        gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
        found.append(({"features": features.detach()}, gradients, model.state_dict()))
    for plain, compiled in zip(*found):
        for name, value in plain.items():
            torch.testing.assert_close(compiled[name], value, atol=1e-4, rtol=1e-4)
